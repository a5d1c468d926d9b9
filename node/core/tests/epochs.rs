//! What a plan knows of its epochs: which revisions of an earlier one are of an end that was lost.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::{Desk, entry_at, labelled, moved, named, node};
use mille_core::{Plan, Refusal};
use mille_shared::Revision;
use mille_shared::log::StoredSnapshot;
use mille_shared::operation::Edit;
use mille_shared::plan::PlanNodeType::GraphNode;

/// The next change of a desk, as the first of an epoch.
fn begin_epoch(desk: &mut Desk, edit: Edit) -> Revision {
    let change = desk.judge(vec![edit]).unwrap().unwrap();
    let next = desk.plan.revision().next();
    let place = Revision { epoch: next.epoch + 1, ..next };
    desk.plan.apply(&entry_at(place, desk.plan.head(), &change)).unwrap();
    place
}

/// A plan whose log lost its end behind 4 and went on with 5 in another epoch; of the plan nodes `a` was touched last at 2.
fn went_on() -> (Desk, Revision) {
    let mut desk = Desk::with(vec![node("a", GraphNode), node("b", GraphNode)]);
    for edit in [labelled("a", "2"), labelled("b", "3"), labelled("b", "4")] {
        desk.must(edit);
    }
    let kept = desk.plan.revision();
    begin_epoch(&mut desk, labelled("b", "5"));
    (desk, kept)
}

fn expects(plan: &Plan, desk: &Desk, expected: Revision) -> Result<(), Refusal> {
    let desk = Desk { plan: plan.clone(), ..desk.clone() };
    desk.judge_expecting(Some(expected), vec![moved("a", 9.0, 9.0)]).map(drop)
}

fn reopened(StoredSnapshot { head, payload }: &StoredSnapshot) -> Plan {
    Plan::from_snapshot(*head, payload).unwrap()
}

#[test]
fn an_expected_revision_of_an_end_that_was_lost_is_a_conflict() {
    let (mut desk, kept) = went_on();
    let lost = |seq| Revision { seq, ..kept };
    for further in 0..3 {
        for plan in [desk.plan.clone(), reopened(&desk.plan.to_snapshot())] {
            for seq in 2..=kept.seq {
                assert_eq!(
                    expects(&plan, &desk, lost(seq)),
                    Ok(()),
                    "{seq} is in the log, and later than the plan node"
                );
            }
            assert!(matches!(expects(&plan, &desk, lost(1)), Err(Refusal::Conflict { .. })));
            for seq in kept.seq + 1..kept.seq + 9 {
                let refused = expects(&plan, &desk, lost(seq)).unwrap_err();
                assert!(matches!(&refused, Refusal::Conflict { expected, .. } if *expected == lost(seq)), "{refused}");
            }
            assert_eq!(expects(&plan, &desk, plan.revision()), Ok(()));
        }
        desk.must(named(&further.to_string()));
    }
}

/// Nodes of two versions share a store.
#[test]
fn a_snapshot_without_the_beginning_of_its_epoch_is_read_and_believed() {
    let (desk, kept) = went_on();
    let mut stored = desk.plan.to_snapshot();
    let mut state: serde_json::Value = serde_json::from_str(&stored.payload).unwrap();
    assert_eq!(state["epoch_began"], kept.seq + 1);
    state.as_object_mut().unwrap().remove("epoch_began");
    state["of_a_later_version"] = true.into();
    stored.payload = state.to_string().into();
    let plan = reopened(&stored);
    assert_eq!(plan.document(), desk.plan.document());
    let lost = kept.next();
    assert_eq!(expects(&plan, &desk, lost), Ok(()), "nobody knows");

    let mut desk = Desk { plan, ..desk };
    let began = begin_epoch(&mut desk, named("new"));
    let before = Revision { seq: began.seq, epoch: began.epoch - 1 };
    assert!(expects(&desk.plan, &desk, before).is_err(), "of the next one it is known");
    assert_eq!(reopened(&desk.plan.to_snapshot()), desk.plan);
}
