//! The past told again equals the past as it was told.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use std::sync::Arc;

use kit::{Desk, Dice, edit_of, entry_at};
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

/// The same, with changes that begin an epoch each.
fn past_of_epochs(steps: &[(Dice, bool)]) -> (Desk, Vec<Arc<Applied>>, Vec<StoredSnapshot>) {
    let mut desk = Desk::new();
    let (mut told, mut snapshots) = (Vec::new(), vec![desk.plan.to_snapshot()]);
    for (dice, begins_epoch) in steps {
        let Ok(Some(change)) = desk.judge(vec![edit_of(*dice)]) else { continue };
        desk.now_ms += 1;
        let next = desk.plan.revision().next();
        let place = Revision { epoch: next.epoch + u64::from(*begins_epoch), ..next };
        let entry = entry_at(place, desk.plan.head(), &change);
        told.push(Arc::new(desk.plan.apply(&entry).unwrap()));
        desk.log.push(entry);
        snapshots.push(desk.plan.to_snapshot());
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// An epoch goes on with the numbers, so its places begin in the middle of them. Whoever names an earlier one would not
    /// be told of the change that the epoch began with.
    #[test]
    fn what_follows_a_place_that_never_was_is_told_by_nobody(
        steps in vec((any::<Dice>(), prop::bool::weighted(0.2)), 1..30),
        base in any::<prop::sample::Index>(),
    ) {
        let (desk, told, snapshots) = past_of_epochs(&steps);
        let places: Vec<_> = desk.log.iter().map(|entry| entry.revision).collect();
        let end = *places.last().unwrap();
        for epoch in kit::EPOCH..=end.epoch {
            let until = *places.iter().rfind(|place| place.epoch == epoch).unwrap();
            for after in (0..=until.seq).map(|seq| Revision { epoch, seq }) {
                let before = snapshots.iter().filter(|snapshot| snapshot.head.revision <= after).count();
                for base in [None, Some(&snapshots[base.index(before)])] {
                    let mut replay = Replay::new(base, after, until).unwrap();
                    let entries: Vec<_> =
                        desk.log.iter().filter(|entry| Some(entry.revision) > replay.position()).cloned().collect();
                    let again = if replay.is_done() { Ok(Vec::new()) } else { replay.feed(&entries) };
                    let behind = told.iter().filter(|applied| (after..=until).contains(&applied.previous));
                    let expected: Vec<_> = behind.filter(|applied| applied.revision() <= until).cloned().collect();
                    prop_assert_eq!(again.ok(), places.contains(&after).then_some(expected), "{} to {}", after, until);
                }
            }
        }
    }

    /// Also one that begins an epoch: the place before it is of another.
    #[test]
    fn a_change_is_told_alone_from_whatever_lies_before_it(
        steps in vec((any::<Dice>(), prop::bool::weighted(0.2)), 1..30),
        base in any::<prop::sample::Index>(),
    ) {
        let (desk, told, snapshots) = past_of_epochs(&steps);
        for (index, applied) in told.iter().enumerate() {
            for base in [None, Some(&snapshots[base.index(index + 1)])] {
                let mut replay = Replay::new(base, applied.revision(), applied.revision()).unwrap();
                let entries: Vec<_> =
                    desk.log.iter().filter(|entry| Some(entry.revision) > replay.position()).cloned().collect();
                prop_assert_eq!(replay.feed(&entries), Ok(Vec::new()), "nothing is behind it");
                prop_assert_eq!(replay.into_last(), Some(Arc::clone(applied)));
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
