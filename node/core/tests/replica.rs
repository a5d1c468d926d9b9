//! The replica's rarest moments, one by one. What many of them make together is the simulation's.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::{Desk, delete, entry_after, moved, named, node, operation};
use mille_core::replica::{Effect, Input, Replica, Ticket, Verdict};
use mille_core::{Plan, PlanBounds};
use mille_shared::log::{ChainHash, CommitOutcome, Head, LogEntry, LogPage, Proposal};
use mille_shared::operation::Edit;
use mille_shared::plan::PlanNodeType;
use mille_shared::{Revision, limits};

fn replica_of(desk: &Desk) -> Replica {
    Replica::new(desk.plan.clone(), PlanBounds::default(), 1_000)
}

fn submit(ticket: u64, edit: Edit) -> Input {
    let operation = operation(&format!("op{ticket}"), 5_000, None, vec![edit]);
    Input::Submit { ticket: Ticket(ticket), operation, repeatable: true }
}

/// The effects by name, without the ones that only count.
fn names(effects: &[Effect]) -> Vec<&'static str> {
    let name = |effect: &Effect| match effect {
        Effect::Commit { .. } => Some("commit"),
        Effect::Fetch { .. } => Some("fetch"),
        Effect::Reload => Some("reload"),
        Effect::Deliver(_) => Some("deliver"),
        Effect::Reset(_) => Some("reset"),
        Effect::Answer { .. } => Some("answer"),
        Effect::StoreSnapshot(_) => Some("snapshot"),
        Effect::RepairStarted(_) => None,
    };
    effects.iter().filter_map(name).collect()
}

fn verdicts(effects: Vec<Effect>) -> Vec<Verdict> {
    let verdict = |effect| if let Effect::Answer { verdict, .. } = effect { Some(verdict) } else { None };
    effects.into_iter().filter_map(verdict).collect()
}

fn batch(effects: &[Effect]) -> (Head, Vec<Proposal>) {
    let commit = |effect: &Effect| match effect {
        Effect::Commit { expected, batch, .. } => Some((*expected, batch.clone())),
        _ => None,
    };
    effects.iter().find_map(commit).expect("a commit")
}

fn page(entries: &[LogEntry]) -> Input {
    Input::Fetched(LogPage { entries: entries.to_vec(), has_more: false })
}

/// A desk after these names, the last of which may differ between two histories.
fn history(names: &[&str]) -> Desk {
    let mut desk = Desk::new();
    names.iter().for_each(|name| drop(desk.must(named(name))));
    desk
}

#[test]
fn the_same_number_with_another_hash_is_another_history() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs"]));
    assert_eq!(names(&replica_of(&ours).handle(Input::HeadSeen(Some(theirs.plan.head())))), ["reload"]);
    assert_eq!(names(&replica_of(&ours).handle(Input::Heard(vec![theirs.log[2].clone()]))), ["reload"]);
    let mut replica = replica_of(&history(&["a"]));
    replica.handle(Input::Heard(vec![ours.log[2].clone()]));
    let longer = history(&["a", "ours", "more"]);
    replica.handle(Input::Heard(vec![longer.log[3].clone()]));
    assert_eq!(names(&replica.handle(Input::Heard(vec![theirs.log[2].clone()]))), ["reload"], "also if it is older");
}

#[test]
fn a_reset_comes_before_what_follows_it_and_includes_what_came_meanwhile() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs", "more"]));
    let mut replica = replica_of(&ours);
    replica.handle(Input::Heard(vec![theirs.log[2].clone()]));
    assert_eq!(names(&replica.handle(Input::Heard(vec![theirs.log[3].clone()]))), [""; 0], "it is kept");
    let reloaded = Box::new(history(&["a", "theirs"]).plan);
    assert_eq!(names(&replica.handle(Input::Reloaded(reloaded))), ["reset"]);
    assert_eq!(**replica.plan(), theirs.plan);
    assert!(!replica.is_repairing());
}

#[test]
fn opening_anew_what_we_have_tells_nobody_anything() {
    let desk = history(&["a", "ours"]);
    let mut replica = replica_of(&desk);
    replica.handle(Input::Heard(vec![history(&["a", "lost"]).log[2].clone()]));
    let next = history(&["a", "ours", "next"]);
    replica.handle(Input::Heard(vec![next.log[3].clone()]));
    assert_eq!(names(&replica.handle(Input::Reloaded(Box::new(desk.plan)))), ["deliver"]);
}

#[test]
fn there_is_one_read_at_a_time_and_the_stronger_one_follows() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs"]));
    let mut replica = replica_of(&ours);
    assert_eq!(names(&replica.handle(Input::Behind)), ["fetch"]);
    assert_eq!(names(&replica.handle(Input::Heard(vec![theirs.log[2].clone()]))), [""; 0]);
    assert_eq!(names(&replica.handle(page(&[]))), ["reload"]);
    assert_eq!(names(&replica.handle(Input::Behind)), [""; 0]);
    assert_eq!(names(&replica.handle(Input::Reloaded(Box::new(theirs.plan)))), ["reset", "fetch"]);
    assert_eq!(names(&replica.handle(page(&[]))), [""; 0]);
    assert!(!replica.is_repairing());
}

#[test]
fn an_interruption_during_a_read_is_a_read_more() {
    let desk = history(&["a", "b"]);
    let mut replica = replica_of(&history(&["a"]));
    replica.handle(Input::Behind);
    replica.handle(Input::Behind);
    assert_eq!(names(&replica.handle(page(&[]))), ["fetch"]);
    assert_eq!(names(&replica.handle(page(&desk.log[2..]))), ["deliver"]);
    assert!(!replica.is_repairing());
}

#[test]
fn a_hole_in_a_history_that_was_lost_is_not_read_for_ever() {
    let long = history(&["a", "b", "c", "d"]);
    let mut replica = replica_of(&history(&["a"]));
    assert_eq!(names(&replica.handle(Input::Heard(vec![long.log[3].clone()]))), ["fetch"]);
    assert_eq!(names(&replica.handle(Input::Heard(vec![long.log[4].clone()]))), [""; 0]);
    // The log lost b, c and d before it was read; once more, and that was it.
    assert_eq!(names(&replica.handle(page(&[]))), ["fetch"]);
    assert_eq!(names(&replica.handle(page(&[]))), [""; 0]);
    assert!(!replica.is_repairing());
}

#[test]
fn a_commit_that_finds_a_shorter_log_opens_the_plan_anew_at_once() {
    let mut replica = replica_of(&history(&["a", "lost"]));
    replica.handle(submit(1, named("mine")));
    let shorter = history(&["a"]);
    let moved = CommitOutcome::Moved { head: Some(shorter.plan.head()) };
    assert_eq!(names(&replica.handle(Input::Committed(moved))), ["reload"]);
    let effects = replica.handle(Input::Reloaded(Box::new(shorter.plan.clone())));
    assert_eq!(names(&effects), ["reset", "commit"]);
    assert_eq!(batch(&effects).0, shorter.plan.head());
}

#[test]
fn a_batch_that_lands_while_the_plan_is_opened_anew_is_acknowledged_and_told_once() {
    let mut replica = replica_of(&history(&["a"]));
    let (expected, offered) = batch(&replica.handle(submit(1, named("mine"))));
    // A message of a history that was lost makes us look.
    let other = LogEntry { hash: ChainHash([9; 8]), revision: expected.revision, payload: "".into() };
    assert_eq!(names(&replica.handle(Input::Heard(vec![other]))), ["reload"]);
    let effects = replica.handle(Input::Committed(CommitOutcome::Committed));
    assert_eq!(names(&effects), ["answer"]);
    let [Verdict::Accepted { applied, plan }] = &verdicts(effects)[..] else { panic!("accepted") };
    assert_eq!((applied.head.hash, plan.head()), (offered[0].hash, applied.head));
    // The plan was read before the batch was in the log.
    assert_eq!(names(&replica.handle(Input::Reloaded(Box::new(history(&["a"]).plan)))), ["deliver"]);
    assert_eq!(replica.plan().metadata().name.as_deref(), Some("mine"));
}

#[test]
fn an_operation_is_refused_only_after_the_log_was_asked() {
    let mut replica = replica_of(&Desk::new());
    let effects = replica.handle(submit(1, moved("new", 1.0, 1.0)));
    assert_eq!(names(&effects), ["commit"]);
    assert!(batch(&effects).1.is_empty(), "nothing to add: only the head is compared");
    // Another node added it, and its client was quicker than the channel.
    let desk = Desk::with(vec![node("new", PlanNodeType::GraphNode)]);
    let moved = CommitOutcome::Moved { head: Some(desk.plan.head()) };
    assert_eq!(names(&replica.handle(Input::Committed(moved))), ["fetch"]);
    let effects = replica.handle(page(&desk.log[1..]));
    assert_eq!(names(&effects), ["deliver", "commit"]);
    assert_eq!(batch(&effects).1.len(), 1);
    assert!(matches!(
        verdicts(replica.handle(Input::Committed(CommitOutcome::Committed)))[..],
        [Verdict::Accepted { .. }]
    ));
}

#[test]
fn edits_that_come_during_a_commit_go_together_in_the_next() {
    let mut replica = replica_of(&Desk::with(vec![node("n", PlanNodeType::GraphNode)]));
    assert_eq!(names(&replica.handle(submit(0, named("first")))), ["commit"]);
    for ticket in 1..=5 {
        assert_eq!(names(&replica.handle(submit(ticket, named(&ticket.to_string())))), [""; 0]);
    }
    replica.handle(submit(6, delete("n")));
    replica.handle(submit(7, moved("n", 1.0, 1.0)));
    let effects = replica.handle(Input::Committed(CommitOutcome::Committed));
    assert_eq!(names(&effects), ["deliver", "answer", "commit"]);
    assert_eq!(batch(&effects).1.len(), 6, "the last one finds its plan node deleted by the one before");
    let verdicts = verdicts(replica.handle(Input::Committed(CommitOutcome::Committed)));
    assert_eq!(verdicts.len(), 7);
    assert!(matches!(verdicts[6], Verdict::Refused { .. }));
}

#[test]
fn a_store_that_does_not_answer_is_told_to_those_who_wait_and_asked_again_at_the_next_head() {
    let desk = history(&["a", "b"]);
    let mut replica = replica_of(&history(&["a"]));
    replica.handle(Input::Behind);
    replica.handle(submit(1, named("mine")));
    assert!(matches!(verdicts(replica.handle(Input::RepairFailed))[..], [Verdict::Unavailable]));
    assert!(matches!(verdicts(replica.handle(submit(2, named("mine"))))[..], [Verdict::Unavailable]));
    assert_eq!(names(&replica.handle(Input::HeadSeen(Some(desk.plan.head())))), ["fetch"]);
    assert_eq!(names(&replica.handle(page(&desk.log[2..]))), ["deliver"]);
    assert_eq!(names(&replica.handle(submit(3, named("mine")))), ["commit"]);
}

#[test]
fn one_head_check_proves_nothing_and_two_do() {
    let (short, long) = (history(&["a"]), history(&["a", "b"]));
    let mut behind = replica_of(&short);
    assert_eq!(names(&behind.handle(Input::HeadSeen(Some(long.plan.head())))), [""; 0], "about to be heard of");
    assert_eq!(names(&behind.handle(Input::HeadSeen(Some(long.plan.head())))), ["fetch"]);
    let mut ahead = replica_of(&long);
    assert_eq!(names(&ahead.handle(Input::HeadSeen(Some(short.plan.head())))), [""; 0], "asked before our commit");
    assert_eq!(names(&ahead.handle(Input::HeadSeen(Some(short.plan.head())))), ["reload"]);
}

#[test]
fn a_log_that_keeps_moving_is_given_up_in_the_end() {
    let mut desk = Desk::new();
    let mut replica = replica_of(&desk);
    replica.handle(submit(1, named("mine")));
    for round in 1..=limits::COMMIT_ATTEMPTS_MAX {
        desk.must(named(&format!("theirs {round}")));
        let moved = CommitOutcome::Moved { head: Some(desk.plan.head()) };
        let effects = replica.handle(Input::Committed(moved));
        if round == limits::COMMIT_ATTEMPTS_MAX {
            assert!(matches!(verdicts(effects)[..], [Verdict::Overloaded]));
        } else {
            assert_eq!(names(&effects), ["fetch"]);
            let newest = desk.log.last().unwrap().clone();
            assert_eq!(names(&replica.handle(page(&[newest]))), ["deliver", "commit"]);
        }
    }
}

#[test]
fn the_queue_has_an_end() {
    let mut replica = replica_of(&Desk::new());
    replica.handle(Input::Behind);
    for ticket in 0..limits::PENDING_OPERATIONS_MAX as u64 {
        assert_eq!(names(&replica.handle(submit(ticket, named("x")))), [""; 0]);
    }
    assert!(matches!(verdicts(replica.handle(submit(9_999, named("x"))))[..], [Verdict::Overloaded]));
}

#[test]
fn another_epoch_is_another_life_of_the_log() {
    let mut replica = replica_of(&history(&["a"]));
    let first = kit::creation(kit::EPOCH + 1);
    assert_eq!(names(&replica.handle(Input::Heard(vec![first.clone()]))), ["reload"]);
    let reborn = Plan::begin(&first).unwrap();
    assert_eq!(names(&replica.handle(Input::Reloaded(Box::new(reborn.clone())))), ["reset"]);
    let change = Desk { plan: reborn.clone(), ..Desk::new() }.judge(vec![named("b")]).unwrap().unwrap();
    assert_eq!(names(&replica.handle(Input::Heard(vec![entry_after(reborn.head(), &change)]))), ["deliver"]);
    let late = history(&["a", "b"]).log[2].clone();
    assert_eq!(names(&replica.handle(Input::Heard(vec![late]))), [""; 0], "a message from the life before");
    assert_eq!(replica.plan().revision(), Revision { epoch: kit::EPOCH + 1, seq: 1 });
}
