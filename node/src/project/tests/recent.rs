//! What the plans of a node remember together, and what is read where they do not.

use futures_util::FutureExt as _;

use super::*;

/// Changes of a plan here.
const CHANGES: usize = 3 * limits::RING_CHANGES_MIN;

/// How often the log was read for somebody who comes back after so many changes, and is told the next.
async fn pages_read_after(node: &TestNode, project: &ProjectHandle, plan: PlanId, seq: u64) -> usize {
    let before = node.log.pages_read.load(Ordering::Relaxed);
    let epoch = project.read(plan).await.expect("a plan").head().revision.epoch;
    let after = Start::After(Revision { epoch, seq });
    let mut events = project.follow(plan, &ada(), after, false).await.expect("follow");
    match events.next().await.expect("an event") {
        PlanEvent::Changed(applied) => assert_eq!(applied.revision().seq, seq + 1),
        other => panic!("a change, not {other:?}"),
    }
    node.log.pages_read.load(Ordering::Relaxed) - before
}

/// A plan with changes on a node whose plans may remember so much, and somebody who keeps it open.
async fn plan_on(node: &TestNode) -> (ProjectHandle, PlanId, Following) {
    let project = node.projects.create_project("p", None, &ada()).await.expect("a project").project;
    let plan = project.plan_id(None).await.expect("a plan");
    let follower = project.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&project, plan, "n", CHANGES).await;
    (project, plan, follower)
}

/// Longer than a node keeps what was read of a past, and than it takes to forget.
const LATER: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn beyond_their_bound_plans_forget_their_oldest_changes_which_are_read_from_the_log() {
    let node = TestNode::remembering(&Embedded::new(), "one", 0).await;
    let (project, plan, _follower) = plan_on(&node).await;
    eventually("they are forgotten", async || pages_read_after(&node, &project, plan, 1).await > 0).await;
    sleep(LATER).await;
    let kept = (CHANGES - limits::RING_CHANGES_MIN) as u64;
    assert_eq!(pages_read_after(&node, &project, plan, kept).await, 0, "a few stay");
    assert!(pages_read_after(&node, &project, plan, kept - 1).await > 0);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_plan_remembers_has_a_quiet_one_forget_some() {
    let of_one = {
        let node = TestNode::start(&Embedded::new(), "one").await;
        let (project, plan, _follower) = plan_on(&node).await;
        let edit = project.submit(plan, rename("weighed", "weighed"), true).await.expect("an edit");
        CHANGES * edit.applied.expect("a change").weight_bytes()
    };
    // For one of them, and half of the other.
    let node = TestNode::remembering(&Embedded::new(), "one", of_one + of_one / 2).await;
    let (project, plan, _follower) = plan_on(&node).await;
    sleep(LATER).await;
    assert_eq!(pages_read_after(&node, &project, plan, 1).await, 0, "one has room");
    let _other = plan_on(&node).await;
    eventually("some are forgotten", async || pages_read_after(&node, &project, plan, 1).await > 0).await;
    sleep(LATER).await;
    let kept = (CHANGES - limits::RING_CHANGES_MIN - 8) as u64;
    assert_eq!(pages_read_after(&node, &project, plan, kept).await, 0, "and not more than need be");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_whose_first_result_can_not_be_read_now_is_told_to_come_again() {
    let (one, two, here, there, plan) = pair().await;
    let first = here.submit(plan, rename("first", "a"), true).await.expect("an edit");
    rename_often(&here, plan, "n", limits::RING_CHANGES_MAX + 150).await;
    one.log.is_unreadable.store(true, Ordering::Relaxed);
    let again = here.submit(plan, rename("first", "a"), true).await;
    assert!(matches!(again, Err(Rejection::Unavailable)), "neither another edit nor one without a result: {again:?}");
    assert!(matches!(here.read_at(plan, first.revision).await, Err(Rejection::Unavailable)));

    one.log.is_unreadable.store(false, Ordering::Relaxed);
    let others: Vec<_> = std::iter::from_fn(|| one.projects.past_room().plan().now_or_never()).collect();
    assert!(
        matches!(here.read_at(plan, first.revision).await, Err(Rejection::Unavailable)),
        "others hold plans of the past"
    );
    let of_other_node =
        there.read_at(plan, first.revision).await.expect("nobody does there").expect("it is in the log");
    drop(others);
    let then = here.read_at(plan, first.revision).await.expect("nobody does now").expect("it is in the log");
    for then in [then, of_other_node] {
        assert_eq!((then.revision(), then.metadata().name.as_deref()), (first.revision, Some("a")));
    }
    let again = here.submit(plan, rename("first", "a"), true).await.expect("a repeat");
    assert_eq!((again.revision, again.applied), (first.revision, first.applied));
    one.stop().await;
    two.stop().await;
}
