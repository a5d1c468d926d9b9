//! What a copy remembers of its past, and what it may forget.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::{Desk, configured, delete, moved, named, node};
use mille_core::replica::{CatchUp, Cause, HeadSeen, Input, Replica};
use mille_core::{Opened, PlanBounds};
use mille_shared::limits;
use mille_shared::log::{LogState, StoreLife};
use mille_shared::plan::PlanNodeType;

/// Changes in a row here.
const MANY: usize = 2 * limits::RING_CHANGES_MIN;

/// Many changes more.
fn rename_often(desk: &mut Desk) {
    (0..MANY).for_each(|number| drop(desk.must(named(&format!("{number} of {}", desk.log.len())))));
}

/// A check that finds the log as the desk has it.
fn seen(desk: &Desk) -> Input {
    let state = LogState { head: Some(desk.plan.head()), life: StoreLife::new("a") };
    Input::HeadSeen(HeadSeen { state, is_settled: true })
}

/// A desk, and a copy of its plan that remembers all of its changes.
fn desk_and_copy() -> (Desk, Replica) {
    let mut desk = Desk::new();
    rename_often(&mut desk);
    let mut opened = Opened::begin(&desk.log[0]).unwrap();
    desk.log[1..].iter().for_each(|entry| opened.apply(entry).unwrap());
    let replica = Replica::new(opened, PlanBounds::default(), 1_000);
    (desk, replica)
}

/// How many changes the copy has to tell after that entry of the log, if it remembers them.
fn remembered_after(replica: &Replica, desk: &Desk, place: usize) -> Option<usize> {
    match replica.catch_up(desk.log[place].revision) {
        CatchUp::Changes(changes) => Some(changes.len()),
        _ => None,
    }
}

#[test]
fn it_forgets_no_more_than_it_is_asked_to_and_never_its_last_few() {
    let (desk, mut replica) = desk_and_copy();
    assert_eq!(replica.seen_in_log(), None);
    replica.handle(seen(&desk));
    let head = replica.seen_in_log().unwrap();
    assert_eq!(head, desk.plan.head());
    replica.forget_beyond(replica.remembered_bytes(), head);
    assert_eq!(remembered_after(&replica, &desk, 0), Some(MANY), "there are no more than there may be");
    replica.forget_beyond(0, head);
    let kept = limits::RING_CHANGES_MIN;
    assert_eq!(remembered_after(&replica, &desk, MANY - kept), Some(kept));
    assert_eq!(remembered_after(&replica, &desk, MANY - kept - 1), None);
}

#[test]
fn it_forgets_nothing_that_the_log_was_not_seen_to_have_and_nothing_while_that_is_in_doubt() {
    let (mut desk, mut replica) = desk_and_copy();
    replica.handle(seen(&desk));
    let long_ago = replica.seen_in_log().unwrap();
    rename_often(&mut desk);
    replica.handle(Input::Heard(desk.log[MANY + 1..].to_vec()));
    assert_eq!(replica.plan().head(), desk.plan.head());

    replica.handle(Input::Interrupted(Cause::Reconnect));
    replica.forget_beyond(0, long_ago);
    assert_eq!(remembered_after(&replica, &desk, 0), Some(2 * MANY), "is the log what it was?");
    replica.handle(seen(&desk));
    replica.forget_beyond(0, long_ago);
    assert_eq!(remembered_after(&replica, &desk, 0), None);
    assert_eq!(remembered_after(&replica, &desk, MANY), Some(MANY), "none of those behind");
}

#[test]
fn a_check_counts_as_far_as_it_saw_also_if_an_earlier_one_saw_more() {
    let (mut desk, mut replica) = desk_and_copy();
    let before = desk.clone();
    rename_often(&mut desk);
    replica.handle(Input::Heard(desk.log[MANY + 1..].to_vec()));
    replica.handle(seen(&desk));
    // Asked before the last changes were made, or the log lost its end.
    replica.handle(seen(&before));
    assert_eq!(replica.seen_in_log(), Some(before.plan.head()));
    replica.forget_beyond(0, desk.plan.head());
    assert_eq!(remembered_after(&replica, &desk, MANY), Some(MANY));
    assert_eq!(remembered_after(&replica, &desk, MANY - 1), None);
}

#[test]
fn a_change_weighs_what_is_copied_for_it_and_what_only_the_past_has_left() {
    let mut desk = Desk::new();
    let light = desk.must(node("n", PlanNodeType::GraphNode)).weight_bytes();
    let large = "x".repeat(50_000);
    let set = desk.must(configured("n", &large)).weight_bytes();
    assert!(set > light + large.len());
    let moved = desk.must(moved("n", 3.0, 4.0)).weight_bytes();
    assert!(moved < 4_000, "the config is shared, not copied: {moved}");
    let removed = desk.must(delete("n")).weight_bytes();
    assert!(removed > large.len(), "nobody else has it any more: {removed}");
}
