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
async fn where_nobody_tells_many_nobody_waits_for_longer_than_commits_take() {
    let (one, two, here, there, plan) = pair().await;
    // The embedded store takes no time, but to open a plan.
    for project in [&here, &there] {
        project.read(plan).await.expect("a plan");
    }
    for round in 0..5 {
        let edits = async {
            rename_often(&here, plan, &format!("here{round}-"), 3).await;
            rename_often(&there, plan, &format!("there{round}-"), 3).await;
        };
        assert_eq!(time_for(edits).await, Duration::ZERO);
    }
    one.stop().await;
    two.stop().await;
}
