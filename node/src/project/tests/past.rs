//! What is answered to who asks for a part of a plan's past.

use futures_util::FutureExt as _;

use super::*;

/// A change with as large a text as a plan's description may be.
fn describe(number: usize) -> Operation {
    let text = format!("{number} {}", "x".repeat(limits::METADATA_BYTES_MAX - 100));
    let edits = vec![Edit::UpdateMetadata { name: None, description: Some(Some(text)) }];
    Operation { edits, ..rename(&format!("d{number}"), "") }
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_large_changes_ends_early_and_says_that_there_are_more() {
    const CHANGES: usize = 200;
    const BYTES_MAX: usize = 9_000_000;
    let (one, two, here, _, plan) = pair().await;
    let begin = here.read(plan).await.expect("a plan").revision();
    for number in 1..=CHANGES {
        here.submit(plan, describe(number), true).await.expect("an edit");
    }
    let page = here.deltas(plan, begin, 1_000).await.expect("an answer");
    let bytes: usize = page.changes.iter().map(|applied| applied.payload.len()).sum();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes in one answer");
    assert!(page.has_more);
    let rest = here.deltas(plan, page.end_revision, 1_000).await.expect("an answer");
    assert!(!rest.has_more);
    let told: Vec<_> = page.changes.iter().chain(&rest.changes).map(|applied| applied.revision().seq).collect();
    assert_eq!(told, (1..=CHANGES as u64).collect::<Vec<_>>());
    one.stop().await;
    two.stop().await;
}

/// What somebody is told first who comes back with this number.
async fn first_told(project: &ProjectHandle, plan: PlanId, seq: u64) -> Result<u64, &'static str> {
    let epoch = project.read(plan).await.expect("a plan").revision().epoch;
    let start = Start::After(Revision { epoch, seq });
    let mut back = project.follow(plan, &ada(), start, false).await.expect("follow");
    match back.next().await.expect("an event") {
        PlanEvent::Changed(applied) => Ok(applied.revision().seq),
        PlanEvent::Snapshot { reason, .. } => Err(reason),
        other => panic!("a change or a plan, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_holds_of_the_past_has_a_bound() {
    let (one, two, here, _, plan) = pair().await;
    rename_often(&here, plan, "n", limits::RING_CHANGES_MAX + 200).await;
    let room = one.projects.past_room();
    let shared = || std::iter::from_fn(|| room.share(1_000_000)).collect::<Vec<_>>();
    let all = shared().len();

    // One past that somebody reads slowly, and one that another reads alone since there is no room to share it.
    let epoch = here.read(plan).await.expect("a plan").revision().epoch;
    let start = Start::After(Revision { epoch, seq: 9 });
    let slow = here.follow(plan, &ada(), start, false).await.expect("follow");
    assert!(slow.has_at_hand() && shared().len() < all, "it takes room");
    let others = shared();
    assert_eq!(first_told(&here, plan, 5).await, Ok(6));

    let turns: Vec<_> = std::iter::from_fn(|| room.listener().now_or_never().flatten()).collect();
    let refused = first_told(&here, plan, 4).await.expect_err("there is neither room nor a turn");
    assert_eq!(refused, "too many read the past of plans at the time");
    drop(turns);
    assert_eq!(first_told(&here, plan, 4).await, Ok(5));

    drop((others, slow));
    eventually("nobody reads it any more", async || shared().len() == all).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_and_loses_the_right_is_told_so_soon() {
    let (one, two, here, _, plan) = pair().await;
    rename_often(&here, plan, "n", limits::RING_CHANGES_MAX + 200).await;
    let (owner, bob) = (one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access"), UserId::new("bob"));
    one.projects.set_member(&owner, &bob, Role::Viewer).await.expect("a member");
    let room = one.projects.past_room();
    let _shared: Vec<_> = std::iter::from_fn(|| room.share(1_000_000)).collect();
    let _turns: Vec<_> = std::iter::from_fn(|| room.listener().now_or_never().flatten()).collect();
    let epoch = here.read(plan).await.expect("a plan").revision().epoch;
    let mut waits = here.follow(plan, &bob, Start::After(Revision { epoch, seq: 4 }), false).await.expect("follow");
    let (told, removed) =
        tokio::join!(timeout(Duration::from_secs(1), waits.next()), one.projects.remove_member(&owner, &bob));
    removed.expect("a member");
    assert!(matches!(told, Ok(Err(Ended::Forbidden))), "{told:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_past_and_takes_no_answer_holds_up_nobody() {
    let (one, two, here, _, plan) = pair().await;
    let revision = here.submit(plan, rename("first", "a"), true).await.expect("an edit").revision;
    let mut left: Vec<_> = (0..50).map(|_| here.read_at(plan, revision).boxed()).collect();
    for reader in &mut left {
        assert!(futures_util::poll!(reader).is_pending(), "it is not there at once");
    }
    assert!(here.read_at(plan, revision).await.is_ok_and(|read| read.is_some_and(|plan| plan.revision() == revision)));
    drop(left);
    one.stop().await;
    two.stop().await;
}
