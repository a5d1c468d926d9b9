//! Edits of a plan that another node edits too gather for a moment.

use futures_util::future::join;
use tokio::time::Instant;

use super::*;

/// Of those who tell many here.
const PACE: Duration = Duration::from_millis(4);

async fn time_for(edit: impl Future) -> Duration {
    let began = Instant::now();
    edit.await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn where_another_node_edits_too_edits_wait_as_long_as_those_who_tell_many_do() {
    let (one, two, here, there, plan) = pair().await;
    let pace = Arc::new(Pace::default());
    pace.set(PACE);
    let head = here.read(plan).await.expect("a plan").head();
    let mut many = Following::for_many(here.clone(), plan, head.into(), pace);
    assert!(matches!(many.tell().await, Ok(Telling { event: PlanEvent::MembersChanged, .. })));
    let edit = async |node: &ProjectHandle, name: &str| {
        node.submit(plan, rename(name, name), true).await.expect("an edit").revision.seq
    };

    assert_eq!(time_for(edit(&here, "first")).await, Duration::ZERO);
    assert_eq!(time_for(edit(&here, "alone")).await, Duration::ZERO);
    edit(&there, "theirs").await;
    edit(&here, "in company").await;
    let both = join(edit(&here, "two"), edit(&here, "go together"));
    assert_eq!(time_for(async { assert_eq!(both.await, (5, 6)) }).await, PACE);

    edit(&there, "theirs again").await;
    edit(&here, "in company again").await;
    sleep(PACE).await;
    assert_eq!(time_for(edit(&here, "long after")).await, Duration::ZERO);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_nobody_tells_many_edits_wait_three_times_as_long_as_a_commit_takes_or_half_of_it_and_for_news() {
    const MS: Duration = Duration::from_millis(1);
    let (one, two, here, there, plan) = pair().await;
    for (node, project) in [(&one, &here), (&two, &there)] {
        // Opened before time counts.
        project.read(plan).await.expect("a plan");
        node.log.commit_takes_ms.store(1, Ordering::Relaxed);
    }
    let edit =
        async |node: &ProjectHandle, name: &str| drop(node.submit(plan, rename(name, name), true).await.unwrap());

    // Leaves the first with a commit of its own just behind it, and another's before that.
    let in_company = async |name: &str| {
        edit(&there, &format!("their {name}")).await;
        sleep(limits::COMMIT_MOMENT).await;
        assert_eq!(time_for(edit(&here, name)).await, MS);
    };

    edit(&here, "first").await;
    in_company("second").await;
    assert_eq!(time_for(edit(&here, "waits")).await, 3 * MS + MS);

    in_company("third").await;
    let theirs = async {
        sleep(MS).await;
        edit(&there, "news").await;
    };
    let (ours, ()) = join(time_for(edit(&here, "waits for news")), theirs).await;
    assert_eq!(ours, 2 * MS + MS, "half of the moment, and until the news came");
    one.stop().await;
    two.stop().await;
}
