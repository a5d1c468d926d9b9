//! What an edit is answered that was sent before.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_repeat_is_answered_with_its_first_change_also_when_only_the_log_knows_it() {
    let (one, two, here, there, plan) = pair().await;
    let first = here.submit(plan, rename("first", "a"), true).await.expect("an edit");
    rename_often(&here, plan, "n", limits::RING_CHANGES_MAX + 150).await;
    for node in [&here, &there] {
        let again = node.submit(plan, rename("first", "a"), true).await.expect("a repeat");
        assert_eq!(again.revision, first.revision);
        assert_eq!(again.applied, first.applied);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_what_an_epoch_began_with_is_answered_with_its_change() {
    let (one, two, here, there, plan) = pair().await;
    let _follower = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&here, plan, "old", 1).await;
    let lost = lose_all_but_the_beginning(&one, plan).await;
    rename_often(&there, plan, "new", 1).await;
    let epoch = lost.revision.epoch;
    let is_back = async || here.read(plan).await.is_ok_and(|plan| plan.revision().epoch > epoch);
    eventually("what was lost begins an epoch", is_back).await;
    let first = here.submit(plan, rename("old1", "old1"), true).await.expect("a repeat").revision;
    assert_eq!((first.seq, first.epoch > epoch), (2, true));
    rename_often(&here, plan, "n", limits::RING_CHANGES_MAX + 150).await;
    for node in [&here, &there] {
        let again = node.submit(plan, rename("old1", "old1"), true).await.expect("a repeat");
        assert_eq!(again.revision, first);
        assert_eq!(again.applied.map(|applied| applied.revision()), Some(first));
    }
    one.stop().await;
    two.stop().await;
}

/// Its answer is lost, others change what it found, and its client sends it again.
#[tokio::test(start_paused = true)]
async fn a_repeat_of_what_changed_nothing_undoes_nothing_and_says_so() {
    let (one, two, here, there, plan) = pair().await;
    here.submit(plan, rename("name", "ours"), true).await.expect("an edit");
    let first = here.submit(plan, rename("again", "ours"), true).await.expect("an edit");
    assert!(first.applied.is_none() && !first.is_repeat);
    there.submit(plan, rename("other", "theirs"), true).await.expect("an edit");

    let expecting = Operation { expected_revision: Some(first.revision), ..rename("again", "ours") };
    for (project, operation) in
        [(&here, rename("again", "ours")), (&there, rename("again", "ours")), (&here, expecting)]
    {
        let again = project.submit(plan, operation, true).await.expect("a repeat");
        assert!(again.applied.is_none() && again.is_repeat);
        assert_eq!(again.revision, first.revision);
    }
    assert_eq!(name_at(&there, plan).await, "theirs");

    // Also when memory has forgotten what it found; the plan it found is told as long as the log reaches back.
    rename_often(&there, plan, "n", limits::RING_CHANGES_MAX + 10).await;
    let again = there.submit(plan, rename("again", "ours"), true).await.expect("a repeat");
    assert_eq!((again.revision, again.applied.is_none()), (first.revision, true));
    let found = there.read_at(plan, first.revision).await.expect("a plan").expect("the log reaches back");
    assert_eq!(found.document().metadata.name.as_deref(), Some("ours"));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_edits_that_change_nothing_sent_twice_at_once_one_is_the_first() {
    let (one, two, here, there, plan) = pair().await;
    here.submit(plan, rename("name", "ours"), true).await.expect("an edit");
    there.read(plan).await.expect("the same plan");
    let twice = [&here, &there, &here].map(|project| project.submit(plan, rename("again", "ours"), true));
    let answers = futures_util::future::join_all(twice).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.is_repeat).count(), 1);
    assert!(answers.iter().all(|answer| answer.revision == answers[0].revision && answer.applied.is_none()));
    one.stop().await;
    two.stop().await;
}

async fn name_at(project: &ProjectHandle, plan: PlanId) -> String {
    let plan = project.read(plan).await.expect("a plan");
    plan.document().metadata.name.clone().expect("a name")
}
