//! The past told again equals the past as it was told.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use std::sync::Arc;

use kit::{Desk, Dice, edit_of};
use mille_core::Applied;
use mille_core::replay::Replay;
use mille_shared::Revision;
use mille_shared::log::StoredSnapshot;
use proptest::collection::vec;
use proptest::prelude::*;

/// A desk with its past, and a snapshot of every place.
fn past(dice: &[Dice]) -> (Desk, Vec<Arc<Applied>>, Vec<StoredSnapshot>) {
    let mut desk = Desk::new();
    let (mut told, mut snapshots) = (Vec::new(), vec![desk.plan.to_snapshot()]);
    for dice in dice {
        if let Ok(Some(applied)) = desk.edit(vec![edit_of(*dice)]) {
            told.push(Arc::new(applied));
            snapshots.push(desk.plan.to_snapshot());
        }
    }
    (desk, told, snapshots)
}

/// Reads the log page by page, as a listener's task does.
fn replay(
    desk: &Desk,
    base: Option<&StoredSnapshot>,
    after: Revision,
    until: Revision,
    page: usize,
) -> Vec<Arc<Applied>> {
    let mut replay = Replay::new(base, after, until).unwrap();
    let mut told = Vec::new();
    while !replay.is_done() {
        let entries: Vec<_> =
            desk.log.iter().filter(|entry| Some(entry.revision) > replay.position()).take(page).cloned().collect();
        assert!(!entries.is_empty(), "the log reaches as far as it is asked for");
        told.extend(replay.feed(&entries).unwrap());
    }
    assert_eq!(replay.into_plan().unwrap().revision(), until);
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// From wherever, to wherever, with whichever snapshot, in pages of whatever size.
    #[test]
    fn a_replay_tells_what_was_told_live(dice in vec(any::<Dice>(), 1..40), page in 1usize..7, base in any::<prop::sample::Index>()) {
        let (desk, told, snapshots) = past(&dice);
        for after in 0..=told.len() {
            for until in after..=told.len() {
                let place = |seq: usize| Revision { seq: seq as u64, ..desk.plan.revision() };
                let snapshot = &snapshots[base.index(after + 1)];
                for base in [None, Some(snapshot)] {
                    let again = replay(&desk, base, place(after), place(until), page);
                    prop_assert_eq!(&again[..], &told[after..until]);
                }
            }
        }
    }
}

fn some_past() -> (Desk, Vec<Arc<Applied>>, Vec<StoredSnapshot>) {
    past(&(0..6).map(|n| (0, n, 0, 1)).collect::<Vec<_>>())
}

#[test]
fn a_log_that_was_trimmed_meanwhile_is_noticed() {
    let (desk, _, snapshots) = some_past();
    let (after, until) = (snapshots[2].head.revision, desk.plan.revision());
    let mut replay = Replay::new(Some(&snapshots[1]), after, until).unwrap();
    assert!(replay.feed(&desk.log[3..]).is_err(), "entry 2 is missing");
    let mut replay = Replay::new(None, after, until).unwrap();
    assert!(replay.feed(&desk.log[1..]).is_err(), "the beginning is missing");
}

#[test]
fn a_snapshot_from_behind_the_place_asked_for_is_no_base() {
    let (desk, _, snapshots) = some_past();
    let after = snapshots[2].head.revision;
    assert!(Replay::new(Some(&snapshots[3]), after, desk.plan.revision()).is_err());
    let other_epoch = Revision { epoch: after.epoch + 1, ..after };
    assert!(Replay::new(Some(&snapshots[2]), other_epoch, desk.plan.revision()).is_err());
}

#[test]
fn a_log_that_began_anew_is_noticed_instead_of_waited_for() {
    let (desk, _, snapshots) = some_past();
    let mut replay = Replay::new(None, snapshots[2].head.revision, desk.plan.revision()).unwrap();
    assert!(replay.feed(&[kit::creation(kit::EPOCH + 1)]).is_err());
}
