//! What a copy remembers of its past, and what it may forget.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::{Desk, configured, delete, moved, named, node, operation};
use mille_core::replica::{Allowance, CatchUp, Cause, Effect, HeadSeen, Input, Replica, Ticket};
use mille_core::{Opened, PlanBounds};
use mille_shared::limits;
use mille_shared::log::{CommitOutcome, LogEntry, LogState, Proposal, StoreLife};
use mille_shared::plan::PlanNodeType;

/// Changes in a row here.
const MANY: usize = 2 * limits::RING_CHANGES_MIN;

/// As little as may be remembered.
const LITTLE: Option<Allowance> = Some(Allowance { bytes_max: 0, changes_min: limits::RING_CHANGES_MIN });

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

/// So many rounds in each of which a check finds the log as the desk has it.
fn rounds(replica: &mut Replica, desk: &Desk, count: usize) {
    for _ in 0..count {
        assert!(replica.handle(seen(desk)).is_empty());
        replica.end_round(None);
    }
}

/// A round that ends with as little as may be remembered.
fn forget(replica: &mut Replica, desk: &Desk) {
    assert!(replica.handle(seen(desk)).is_empty());
    replica.end_round(LITTLE);
}

/// Rounds before the one in which something may be forgotten.
const BEFORE: usize = 3;

#[test]
fn it_forgets_no_more_than_it_is_asked_to_and_never_its_last_few() {
    let (desk, mut replica) = desk_and_copy();
    rounds(&mut replica, &desk, BEFORE + 5);
    replica.handle(seen(&desk));
    let allowed = Allowance { bytes_max: replica.remembered_bytes(), changes_min: 0 };
    replica.end_round(Some(allowed));
    assert_eq!(remembered_after(&replica, &desk, 0), Some(MANY), "there are no more than there may be");
    forget(&mut replica, &desk);
    let kept = limits::RING_CHANGES_MIN;
    assert_eq!(remembered_after(&replica, &desk, MANY - kept), Some(kept));
    assert_eq!(remembered_after(&replica, &desk, MANY - kept - 1), None);
}

#[test]
fn it_forgets_nothing_that_was_not_in_the_log_round_after_round() {
    let (desk, mut replica) = desk_and_copy();
    let is_whole = |replica: &Replica| remembered_after(replica, &desk, 0) == Some(MANY);
    for _ in 0..=BEFORE {
        assert!(is_whole(&replica));
        forget(&mut replica, &desk);
    }
    assert!(!is_whole(&replica));

    let (_, mut replica) = desk_and_copy();
    rounds(&mut replica, &desk, BEFORE);
    replica.end_round(LITTLE);
    assert!(is_whole(&replica), "the store is silent");
    rounds(&mut replica, &desk, BEFORE);
    replica.handle(Input::Interrupted(Cause::Reconnect));
    replica.end_round(LITTLE);
    assert!(is_whole(&replica), "is the log what it was?");
    rounds(&mut replica, &desk, BEFORE);
    let state = LogState { head: Some(desk.plan.head()), life: StoreLife::new("b") };
    replica.handle(Input::HeadSeen(HeadSeen { state, is_settled: true }));
    replica.end_round(LITTLE);
    assert!(is_whole(&replica), "the store was born anew");
}

#[test]
fn what_came_since_stays_and_so_does_what_an_older_check_did_not_see() {
    let (mut desk, mut replica) = desk_and_copy();
    let before = desk.clone();
    rounds(&mut replica, &desk, 1);
    rename_often(&mut desk);
    replica.handle(Input::Heard(desk.log[MANY + 1..].to_vec()));
    rounds(&mut replica, &desk, BEFORE - 1);
    forget(&mut replica, &desk);
    assert_eq!(remembered_after(&replica, &desk, MANY), Some(MANY), "it was not there in the first of the rounds");
    assert_eq!(remembered_after(&replica, &desk, MANY - 1), None);
    // Asked before the last changes were made, or the log lost its end.
    forget(&mut replica, &before);
    assert_eq!(remembered_after(&replica, &desk, MANY), Some(MANY));
}

#[test]
fn a_check_that_was_told_to_nobody_counts_like_one_that_was() {
    let (desk, mut replica) = desk_and_copy();
    rounds(&mut replica, &desk, 1);
    for _ in 0..BEFORE {
        replica.found_as_expected();
        replica.end_round(LITTLE);
    }
    assert_eq!(remembered_after(&replica, &desk, 0), None);
}

#[test]
fn a_new_life_that_a_commit_meets_first_begins_it_all_anew() {
    let (mut desk, mut replica) = desk_and_copy();
    rounds(&mut replica, &desk, BEFORE);
    let late = operation("late", 1, None, vec![named("late")]);
    let effects = replica.handle(Input::Submit { ticket: Ticket(1), operation: late, repeatable: false });
    let Some(Effect::Commit { expected, batch, .. }) = effects.first() else { panic!("{effects:?}") };
    let Proposal { hash, payload, .. } = batch[0].clone();
    let entry = LogEntry { revision: expected.revision.next(), hash, payload };
    desk.plan.apply(&entry).unwrap();
    desk.log.push(entry);
    let life = StoreLife::new("b");
    replica.handle(Input::Committed(CommitOutcome::Committed { life: life.clone() }));
    let state = LogState { head: Some(desk.plan.head()), life };
    replica.handle(Input::HeadSeen(HeadSeen { state, is_settled: true }));
    replica.end_round(LITTLE);
    assert_eq!(remembered_after(&replica, &desk, 0), Some(MANY + 1));
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
