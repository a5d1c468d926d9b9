//! The replica's rarest moments, one by one. What many of them make together is the simulation's.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::{Desk, delete, entry_after, moved, named, node, operation};
use mille_core::replica::{CatchUp, Cause, Effect, HeadSeen, Input, Readmission, Replica, Rollback, Ticket, Verdict};
use mille_core::{Opened, Plan, PlanBounds};
use mille_shared::log::{ChainHash, CommitOutcome, Head, LogEntry, LogPage, LogState, Proposal, StoreLife, Terms};
use mille_shared::operation::Edit;
use mille_shared::plan::PlanNodeType;
use mille_shared::{Revision, limits};

/// A copy of the desk's plan that remembers all of its changes.
fn replica_of(desk: &Desk) -> Replica {
    let mut opened = Opened::begin(&desk.log[0]).unwrap();
    desk.log[1..].iter().for_each(|entry| opened.apply(entry).unwrap());
    Replica::new(opened, PlanBounds::default(), 1_000)
}

fn reloaded(plan: &Plan) -> Input {
    Input::Reloaded(Box::new(plan.clone().into()))
}

fn life(name: &str) -> StoreLife {
    StoreLife::new(name)
}

fn committed() -> Input {
    Input::Committed(CommitOutcome::Committed { life: life("a") })
}

fn moved_to(desk: &Desk) -> Input {
    Input::Committed(CommitOutcome::Moved { head: Some(desk.plan.head()) })
}

/// The regular check, in a life of the store that began long ago.
fn seen(desk: &Desk) -> Input {
    seen_in("a", desk, true)
}

fn seen_in(name: &str, desk: &Desk, is_settled: bool) -> Input {
    let state = LogState { head: Some(desk.plan.head()), life: life(name) };
    Input::HeadSeen(HeadSeen { state, is_settled })
}

fn located(desk: &Desk) -> Input {
    Input::Located(LogState { head: Some(desk.plan.head()), life: life("a") })
}

/// What the log has from our head on.
fn from_head(entries: &[LogEntry]) -> Input {
    Input::Fetched(LogPage { entries: entries.to_vec(), has_more: false })
}

fn submit(ticket: u64, edit: Edit) -> Input {
    let operation = operation(&format!("op{ticket}"), 5_000, None, vec![edit]);
    Input::Submit { ticket: Ticket(ticket), operation, repeatable: true }
}

/// The effects by name, without the ones that only count.
fn names(effects: &[Effect]) -> Vec<&'static str> {
    let name = |effect: &Effect| match effect {
        Effect::Commit { .. } => Some("commit"),
        Effect::Gather => Some("gather"),
        Effect::Wait => Some("wait"),
        Effect::Fetch { .. } => Some("fetch"),
        Effect::Locate => Some("locate"),
        Effect::Restore { .. } => Some("restore"),
        Effect::Revive { .. } => Some("revive"),
        Effect::Reload => Some("reload"),
        Effect::Deliver(_) => Some("deliver"),
        Effect::Reset(_) => Some("reset"),
        Effect::Answer { .. } => Some("answer"),
        Effect::StoreSnapshot(_) => Some("snapshot"),
        Effect::RepairStarted(_) | Effect::Rollback(_) => None,
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

/// A desk after these names, the last of which may differ between two histories.
fn history(names: &[&str]) -> Desk {
    let mut desk = Desk::new();
    names.iter().for_each(|name| drop(desk.must(named(name))));
    desk
}

#[test]
fn the_same_number_with_another_hash_is_another_history() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs"]));
    assert_eq!(names(&replica_of(&ours).handle(seen(&theirs))), ["fetch"]);
    let mut replica = replica_of(&ours);
    assert_eq!(names(&replica.handle(Input::Heard(vec![theirs.log[2].clone()]))), ["fetch"]);
    assert_eq!(names(&replica.handle(from_head(&theirs.log[2..]))), ["fetch"], "where do they part?");
    let effects = replica.handle(from_head(&theirs.log[1..]));
    assert_eq!(names(&effects), ["reload"]);
    let parted = Rollback::Parted { after: theirs.log[1].revision, lost: 1, is_partial: false };
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Rollback(told) if *told == parted)), "{effects:?}");
    let longer = history(&["a", "ours", "more"]);
    let heard = replica_of(&longer).handle(Input::Heard(vec![theirs.log[2].clone()]));
    assert_eq!(names(&heard), ["fetch"], "also if it is older");
}

#[test]
fn lost_changes_are_judged_again_in_the_other_history_and_begin_a_new_epoch() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs"]));
    let mut replica = replica_of(&ours);
    replica.handle(Input::Look(Cause::Behind));
    replica.handle(from_head(&theirs.log[2..]));
    replica.handle(from_head(&theirs.log[1..]));
    let effects = replica.handle(reloaded(&theirs.plan));
    assert_eq!(names(&effects), ["commit"], "listeners are told once, when the new epoch is there");
    assert!(matches!(replica.catch_up(theirs.plan.revision()), CatchUp::OtherEpoch), "numbers are not to be trusted");
    let terms = |effects: &[Effect]| {
        effects.iter().find_map(|e| if let Effect::Commit { terms, .. } = e { Some(terms.clone()) } else { None })
    };
    assert!(matches!(terms(&effects), Some(Terms::Add { lost_epoch: Some(kit::EPOCH), begins_epoch: None, .. })));
    let epoch = kit::EPOCH + 7;
    let effects = replica.handle(Input::Committed(CommitOutcome::NewEpoch { epoch }));
    assert!(matches!(terms(&effects), Some(Terms::Add { begins_epoch: Some(begins), .. }) if begins == epoch));
    let effects = replica.handle(committed());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Reset(Cause::Fork))), "{effects:?}");
    assert_eq!(names(&effects), ["reset"]);
    let revision = Revision { epoch, seq: 3 };
    let again = Readmission::Accepted { revision };
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Rollback(Rollback::Judged { outcome, .. }) if *outcome == again))
    );
    assert_eq!((replica.plan().revision(), replica.plan().metadata().name.as_deref()), (revision, Some("ours")));
    assert!(matches!(replica.catch_up(theirs.plan.revision()), CatchUp::OtherEpoch));
    assert!(matches!(replica.catch_up(revision), CatchUp::Changes(changes) if changes.is_empty()));
}

#[test]
fn an_epoch_must_begin_also_if_no_lost_change_is_taken_again() {
    let (mut replica, theirs, effects) = parted_over_a_deletion();
    assert_eq!(batch(&effects).1.len(), 1, "an empty change, for the epoch to begin with");
    let epoch = kit::EPOCH + 7;
    replica.handle(Input::Committed(CommitOutcome::NewEpoch { epoch }));
    let effects = replica.handle(committed());
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Rollback(Rollback::Judged { outcome: Readmission::Refused(_), .. })))
    );
    assert_eq!(replica.plan().revision(), Revision { epoch, seq: 3 });
    assert_eq!(replica.plan().document(), theirs.plan.document());
    assert!(!replica.is_busy());
}

#[test]
fn a_log_that_lost_its_end_is_given_it_back_and_nobody_is_told() {
    let (whole, left) = (history(&["a", "b", "c"]), history(&["a"]));
    let mut replica = replica_of(&whole);
    assert_eq!(names(&replica.handle(seen(&whole))), [""; 0]);
    assert!(replica.is_confirmed());
    assert_eq!(names(&replica.handle(seen_in("b", &left, false))), ["fetch"], "a new life counts at once");
    assert_eq!(names(&replica.handle(from_head(&[]))), ["locate"]);
    let effects = replica.handle(located(&left));
    let [Effect::Restore { expected, batch, epoch }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((*expected, *epoch), (left.plan.head(), kit::EPOCH));
    let offered: Vec<_> = batch.iter().map(|proposal| (proposal.hash, proposal.payload.clone())).collect();
    let lost: Vec<_> = whole.log[2..].iter().map(|entry| (entry.hash, entry.payload.clone())).collect();
    assert_eq!(offered, lost, "what it had, letter for letter");
    let effects = replica.handle(Input::Restored(CommitOutcome::Committed { life: life("b") }));
    assert_eq!(names(&effects), [""; 0]);
    let restored = Rollback::Restored { changes: 2, head: whole.plan.revision() };
    assert!(matches!(&effects[..], [Effect::Rollback(told)] if *told == restored), "{effects:?}");
    assert!(!replica.is_repairing());
}

#[test]
fn several_who_restore_at_once_are_content_with_what_another_did() {
    let (whole, left, more) = (history(&["a", "b", "c"]), history(&["a"]), history(&["a", "b"]));
    let mut replica = replica_of(&whole);
    replica.handle(Input::Look(Cause::Reconnect));
    replica.handle(from_head(&[]));
    replica.handle(located(&left));
    let repeats = vec![(0, more.plan.revision())];
    assert_eq!(names(&replica.handle(Input::Restored(CommitOutcome::Repeated { repeats }))), ["locate"]);
    let effects = replica.handle(located(&more));
    assert!(matches!(&effects[..], [Effect::Restore { batch, .. }] if batch.len() == 1), "{effects:?}");
    let moved = CommitOutcome::Moved { head: Some(whole.plan.head()) };
    assert_eq!(names(&replica.handle(Input::Restored(moved))), [""; 0]);
    assert!(!replica.is_repairing());
}

/// Drives a repair against a log that answers truthfully and at once, until nothing is asked any more.
fn repair_against(replica: &mut Replica, log: &Desk, mut effects: Vec<Effect>) -> Vec<Effect> {
    for _ in 0..20 {
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Fetch { after } => Some(from_head(
                &log.log.iter().filter(|entry| Some(entry.revision) > *after).cloned().collect::<Vec<_>>(),
            )),
            Effect::Locate => Some(located(log)),
            Effect::Reload => Some(reloaded(&log.plan)),
            _ => None,
        });
        match answer {
            Some(answer) => effects = replica.handle(answer),
            None => return effects,
        }
    }
    panic!("it never ends: {effects:?}")
}

/// A copy that moved what the log has deleted; it has found that out, and what it wants then.
fn parted_over_a_deletion() -> (Replica, Desk, Vec<Effect>) {
    let desk = Desk::with(vec![node("n", PlanNodeType::GraphNode)]);
    let (mut ours, mut theirs) = (desk.clone(), desk);
    ours.must(moved("n", 5.0, 5.0));
    theirs.must(delete("n"));
    let mut replica = replica_of(&ours);
    let effects = replica.handle(seen(&theirs));
    let effects = repair_against(&mut replica, &theirs, effects);
    (replica, theirs, effects)
}

#[test]
fn a_copy_that_remembers_no_change_takes_the_log_as_it_is() {
    for log in [history(&["a"]), history(&["a", "other", "more"])] {
        // Opened right at a snapshot: there was nothing behind it to be read.
        let ours = history(&["a", "ours"]).plan;
        let mut replica = Replica::new(ours.into(), PlanBounds::default(), 1_000);
        let effects = replica.handle(seen(&log));
        let effects = repair_against(&mut replica, &log, effects);
        assert_eq!(names(&effects), ["commit"], "the new epoch is begun");
        assert_eq!(replica.plan().head(), log.plan.head());
    }
}

#[test]
fn a_store_that_takes_nothing_is_not_offered_the_same_without_a_pause() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs"]));
    let mut replica = replica_of(&ours);
    let effects = replica.handle(seen(&theirs));
    assert_eq!(names(&repair_against(&mut replica, &theirs, effects)), ["commit"]);
    assert_eq!(names(&replica.handle(Input::CommitFailed)), [""; 0], "it waits for the next head check");
    assert_eq!(names(&replica.handle(seen(&theirs))), ["fetch"]);
    assert_eq!(names(&replica.handle(from_head(&theirs.log[2..]))), ["commit"], "nothing is forgotten");
}

#[test]
fn what_the_old_log_took_while_we_were_leaving_it_is_offered_to_the_new_one() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs"]));
    let mut replica = replica_of(&ours);
    replica.handle(submit(1, named("acknowledged")));
    replica.handle(Input::Heard(vec![theirs.log[2].clone()]));
    assert_eq!(names(&replica.handle(from_head(&theirs.log[2..]))), ["fetch"], "where do they part?");
    assert_eq!(names(&replica.handle(committed())), ["answer"]);
    assert_eq!(names(&replica.handle(from_head(&theirs.log[1..]))), ["reload"]);
    let effects = replica.handle(reloaded(&theirs.plan));
    let keys: Vec<_> = batch(&effects).1.into_iter().map(|proposal| proposal.key).collect();
    assert_eq!(keys.len(), 2, "what was lost, and what was acknowledged since: {keys:?}");
}

#[test]
fn who_finds_that_another_began_the_epoch_looks_instead_of_asking_again() {
    let (mut replica, _, effects) = parted_over_a_deletion();
    assert_eq!(names(&effects), ["commit"]);
    let revision = Revision { epoch: kit::EPOCH + 9, seq: 3 };
    let repeated = CommitOutcome::Repeated { repeats: vec![(0, revision)] };
    assert_eq!(names(&replica.handle(Input::Committed(repeated))), ["fetch"]);
}

/// Whether a replica expects something of the next check; if so, it is held to that: it only notes where the log was seen.
fn rests(replica: &mut Replica) -> bool {
    let Some(expected) = replica.expected() else { return false };
    assert_eq!(expected.state.head, Some(replica.plan().head()));
    replica.found_as_expected();
    let before = format!("{replica:?}");
    assert!(replica.handle(Input::HeadSeen(expected)).is_empty());
    assert_eq!(format!("{replica:?}"), before);
    true
}

#[test]
fn a_check_that_sees_what_is_expected_changes_nothing() {
    let mut desk = history(&["a"]);
    let mut replica = replica_of(&desk);
    assert!(!rests(&mut replica), "nobody has looked yet");
    replica.handle(seen(&desk));
    assert!(rests(&mut replica));

    let old = desk.clone();
    desk.must(named("b"));
    replica.handle(Input::Heard(vec![desk.log[2].clone()]));
    assert!(rests(&mut replica), "it knows where the log ends now, too");
    replica.handle(seen(&old));
    assert!(!rests(&mut replica), "that the log is behind must be forgotten if it is not so the next time");
    replica.handle(seen(&desk));
    assert!(rests(&mut replica));

    desk.must(named("c"));
    replica.handle(seen(&desk));
    assert!(!rests(&mut replica), "that the log is ahead, too");
    replica.handle(Input::Heard(vec![desk.log[3].clone()]));
    replica.handle(seen(&desk));
    assert!(rests(&mut replica));

    replica.handle(submit(1, named("mine")));
    assert!(!rests(&mut replica), "a commit is under way");
    replica.handle(committed());
    assert!(rests(&mut replica));
    replica.handle(Input::Interrupted(Cause::Reconnect));
    assert!(!rests(&mut replica), "messages may have been lost");
}

#[test]
fn a_check_is_expected_in_the_life_of_the_last_one_as_settled_as_that_was() {
    let desk = history(&["a"]);
    let mut replica = replica_of(&desk);
    for (life, is_settled) in [("a", false), ("a", true), ("b", false), ("b", true)] {
        replica.handle(seen_in(life, &desk, is_settled));
        let expected = replica.expected().map(|seen| (seen.state.life, seen.is_settled));
        assert_eq!(expected, Some((StoreLife::new(life), is_settled)));
        assert!(rests(&mut replica));
    }
}

#[test]
fn a_log_that_vanished_is_given_back_whole() {
    let desk = history(&["a", "b"]);
    let mut replica = replica_of(&desk);
    let gone = LogState { head: None, life: life("b") };
    let effects = replica.handle(Input::HeadSeen(HeadSeen { state: gone, is_settled: false }));
    let revive = effects
        .iter()
        .find_map(|e| if let Effect::Revive { plan, changes, .. } = e { Some((plan, changes)) } else { None });
    let (plan, changes) = revive.expect("it is offered");
    assert_eq!((&**plan, changes.len()), (&desk.plan, 2));
    assert_eq!(names(&replica.handle(located(&desk))), [""; 0]);
    assert!(!replica.is_repairing());
}

#[test]
fn the_first_change_in_a_new_life_waits_for_those_who_may_bring_something_back() {
    let desk = history(&["a"]);
    let mut replica = replica_of(&desk);
    replica.handle(seen(&desk));
    replica.handle(submit(1, named("mine")));
    let reborn = CommitOutcome::Reborn { life: life("b") };
    assert_eq!(names(&replica.handle(Input::Committed(reborn))), ["wait"]);
    assert_eq!(names(&replica.handle(seen_in("b", &desk, false))), [""; 0]);
    let effects = replica.handle(seen_in("b", &desk, true));
    let terms = effects.iter().find_map(|e| if let Effect::Commit { terms, .. } = e { Some(terms) } else { None });
    let expected = Terms::Add {
        followed: vec![life("a"), life("b")],
        settled: Some(life("b")),
        lost_epoch: None,
        begins_epoch: None,
    };
    assert_eq!(terms, Some(&expected));
}

#[test]
fn what_is_heard_while_the_plan_is_opened_anew_is_part_of_the_reset() {
    let (ours, theirs) = (history(&["a", "ours"]), history(&["a", "theirs", "more"]));
    let mut replica = replica_of(&ours);
    replica.handle(Input::Look(Cause::Behind));
    replica.handle(from_head(&theirs.log[2..3]));
    replica.handle(from_head(&theirs.log[1..3]));
    assert_eq!(names(&replica.handle(Input::Heard(vec![theirs.log[3].clone()]))), [""; 0], "it is kept");
    assert_eq!(names(&replica.handle(reloaded(&history(&["a", "theirs"]).plan))), ["commit"]);
    assert_eq!(**replica.plan(), theirs.plan);
    assert!(!replica.is_repairing());
    replica.handle(Input::Committed(CommitOutcome::NewEpoch { epoch: kit::EPOCH + 7 }));
    assert_eq!(names(&replica.handle(committed())), ["reset"]);
}

#[test]
fn opening_anew_what_we_have_tells_nobody_anything() {
    let mut desk = history(&["a", "ours"]);
    let mut replica = replica_of(&desk);
    replica.handle(Input::Look(Cause::Behind));
    let far = Revision { seq: 9, ..desk.plan.revision() };
    let entry = LogEntry { revision: far, ..desk.log[2].clone() };
    assert_eq!(names(&replica.handle(from_head(&[entry]))), ["reload"], "the log begins behind us");
    let plan = desk.plan.clone();
    desk.must(named("next"));
    replica.handle(Input::Heard(vec![desk.log[3].clone()]));
    assert_eq!(names(&replica.handle(reloaded(&plan))), ["deliver"]);
}

#[test]
fn there_is_one_question_at_a_time_and_another_look_follows_it() {
    let desk = history(&["a", "b"]);
    let mut replica = replica_of(&history(&["a"]));
    replica.handle(Input::Look(Cause::Behind));
    assert_eq!(names(&replica.handle(Input::Look(Cause::Hole))), [""; 0]);
    assert_eq!(names(&replica.handle(from_head(&desk.log[1..2]))), ["fetch"]);
    assert_eq!(names(&replica.handle(from_head(&desk.log[1..]))), ["deliver"]);
    assert!(!replica.is_repairing());
}

#[test]
fn an_interruption_makes_the_next_difference_count_at_once() {
    let (short, long) = (history(&["a"]), history(&["a", "b"]));
    let mut replica = replica_of(&short);
    replica.handle(seen(&short));
    assert_eq!(names(&replica.handle(Input::Interrupted(Cause::Reconnect))), [""; 0], "heads are compared first");
    let effects = replica.handle(seen(&long));
    assert!(matches!(effects[0], Effect::RepairStarted(Cause::Reconnect)), "{effects:?}");
    assert_eq!(names(&effects), ["fetch"]);
    let longer = history(&["a", "b", "c", "d"]);
    replica.handle(from_head(&long.log[1..]));
    replica.handle(Input::Interrupted(Cause::Reconnect));
    assert_eq!(names(&replica.handle(Input::Heard(vec![longer.log[4].clone()]))), ["fetch"], "a hole is quicker");
    replica.handle(from_head(&longer.log[2..4]));
    assert_eq!(names(&replica.handle(seen(&longer))), [""; 0], "and what was read need not be read again");
}

#[test]
fn a_hole_in_a_history_that_was_lost_is_not_read_for_ever() {
    let (short, long) = (history(&["a"]), history(&["a", "b", "c", "d"]));
    let mut replica = replica_of(&short);
    assert_eq!(names(&replica.handle(Input::Heard(vec![long.log[3].clone()]))), ["fetch"]);
    assert_eq!(names(&replica.handle(Input::Heard(vec![long.log[4].clone()]))), [""; 0]);
    // The log lost b, c and d before it was read; once more, and that was it.
    assert_eq!(names(&replica.handle(from_head(&short.log[1..]))), ["fetch"]);
    assert_eq!(names(&replica.handle(from_head(&short.log[1..]))), [""; 0]);
    assert!(!replica.is_repairing());
}

#[test]
fn a_commit_that_finds_a_shorter_log_brings_back_what_it_lost_and_then_goes_on() {
    let (ours, left) = (history(&["a", "lost"]), history(&["a"]));
    let mut replica = replica_of(&ours);
    replica.handle(submit(1, named("mine")));
    assert_eq!(names(&replica.handle(moved_to(&left))), ["fetch"]);
    assert_eq!(names(&replica.handle(from_head(&[]))), ["locate"]);
    assert_eq!(names(&replica.handle(located(&left))), ["restore"]);
    let effects = replica.handle(Input::Restored(CommitOutcome::Committed { life: life("b") }));
    assert_eq!(names(&effects), ["commit"]);
    assert_eq!(batch(&effects).0, ours.plan.head());
}

#[test]
fn a_batch_that_lands_while_the_plan_is_opened_anew_is_acknowledged_and_told_once() {
    let mut replica = replica_of(&history(&["a"]));
    let (expected, offered) = batch(&replica.handle(submit(1, named("mine"))));
    // A message of a history that was lost makes us look, and the log was trimmed.
    let other = LogEntry { hash: ChainHash([9; 8]), revision: expected.revision, payload: "".into() };
    assert_eq!(names(&replica.handle(Input::Heard(vec![other.clone()]))), ["fetch"]);
    let far = LogEntry { revision: Revision { seq: 9, ..expected.revision }, ..other };
    assert_eq!(names(&replica.handle(from_head(&[far]))), ["reload"]);
    let effects = replica.handle(committed());
    assert_eq!(names(&effects), ["answer"]);
    let [Verdict::Accepted { applied, plan }] = &verdicts(effects)[..] else { panic!("accepted") };
    assert_eq!((applied.head.hash, plan.head()), (offered[0].hash, applied.head));
    // The plan was read before the batch was in the log.
    assert_eq!(names(&replica.handle(reloaded(&history(&["a"]).plan))), ["deliver"]);
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
    assert_eq!(names(&replica.handle(moved_to(&desk))), ["fetch"]);
    let effects = replica.handle(from_head(&desk.log));
    assert_eq!(names(&effects), ["deliver", "commit"]);
    assert_eq!(batch(&effects).1.len(), 1);
    assert!(matches!(verdicts(replica.handle(committed()))[..], [Verdict::Accepted { .. }]));
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
    let effects = replica.handle(committed());
    assert_eq!(names(&effects), ["deliver", "answer", "commit"]);
    assert_eq!(batch(&effects).1.len(), 6, "the last one finds its plan node deleted by the one before");
    let verdicts = verdicts(replica.handle(committed()));
    assert_eq!(verdicts.len(), 7);
    assert!(matches!(verdicts[6], Verdict::Refused { .. }));
}

#[test]
fn a_batch_that_is_heard_before_its_answer_is_told_once_and_is_the_very_change_that_is_answered() {
    let mut desk = Desk::with(vec![node("a", PlanNodeType::MergeNode)]);
    let mut replica = replica_of(&desk);
    let (_, offered) = batch(&replica.handle(submit(1, moved("a", 31.0, 17.0))));
    let [Proposal { hash, payload, .. }] = offered.as_slice() else { panic!("one change") };
    let entry = LogEntry { revision: desk.plan.revision().next(), hash: *hash, payload: payload.clone() };
    // Another history in the same place is not ours, whatever its number says.
    let stranger = LogEntry { hash: ChainHash([7; 8]), ..entry.clone() };
    assert_eq!(names(&replica.handle(Input::Heard(vec![stranger]))), ["fetch"]);
    replica.handle(from_head(&[desk.log[1].clone()]));

    let heard = replica.handle(Input::Heard(vec![entry.clone()]));
    let [Effect::Deliver(told)] = heard.as_slice() else { panic!("it is told: {heard:?}") };
    desk.plan.apply(&entry).unwrap();
    assert_eq!(**replica.plan(), desk.plan);
    assert!(replica.knows(desk.plan.head()));
    let answers = replica.handle(committed());
    let [Effect::Answer { verdict: Verdict::Accepted { applied, plan }, .. }] = answers.as_slice() else {
        panic!("it is answered and not told again: {answers:?}")
    };
    assert!(std::sync::Arc::ptr_eq(applied, told), "it was not applied a second time");
    assert_eq!(**plan, desk.plan);
}

#[test]
fn a_store_that_does_not_answer_is_told_to_those_who_wait_and_asked_again_at_the_next_head() {
    let desk = history(&["a", "b"]);
    let mut replica = replica_of(&history(&["a"]));
    replica.handle(Input::Look(Cause::Behind));
    replica.handle(submit(1, named("mine")));
    assert!(matches!(verdicts(replica.handle(Input::RepairFailed))[..], [Verdict::Unavailable]));
    assert!(matches!(verdicts(replica.handle(submit(2, named("mine"))))[..], [Verdict::Unavailable]));
    assert_eq!(names(&replica.handle(seen(&desk))), ["fetch"]);
    assert_eq!(names(&replica.handle(from_head(&desk.log[1..]))), ["deliver"]);
    assert_eq!(names(&replica.handle(submit(3, named("mine")))), ["commit"]);
}

#[test]
fn one_head_check_proves_nothing_and_two_do() {
    let (short, long) = (history(&["a"]), history(&["a", "b"]));
    let mut behind = replica_of(&short);
    behind.handle(seen(&short));
    assert_eq!(names(&behind.handle(seen(&long))), [""; 0], "about to be heard of");
    assert_eq!(names(&behind.handle(seen(&long))), ["fetch"]);
    let mut ahead = replica_of(&long);
    ahead.handle(seen(&long));
    assert_eq!(names(&ahead.handle(seen(&short))), [""; 0], "asked before our commit");
    assert!(ahead.is_confirmed());
    assert_eq!(names(&ahead.handle(seen(&short))), ["fetch"]);
}

#[test]
fn a_log_that_keeps_moving_is_given_up_in_the_end() {
    let mut desk = Desk::new();
    let mut replica = replica_of(&desk);
    replica.handle(submit(1, named("mine")));
    for round in 1..=limits::COMMIT_ATTEMPTS_MAX {
        let before = desk.log.last().unwrap().clone();
        desk.must(named(&format!("theirs {round}")));
        let effects = replica.handle(moved_to(&desk));
        if round == limits::COMMIT_ATTEMPTS_MAX {
            assert!(matches!(verdicts(effects)[..], [Verdict::Overloaded]));
        } else {
            assert_eq!(names(&effects), ["fetch"]);
            let newest = desk.log.last().unwrap().clone();
            assert_eq!(names(&replica.handle(from_head(&[before, newest]))), ["deliver", "commit"]);
        }
    }
}

#[test]
fn the_queue_has_an_end() {
    let mut replica = replica_of(&Desk::new());
    replica.handle(Input::Look(Cause::Behind));
    for ticket in 0..limits::PENDING_OPERATIONS_MAX as u64 {
        assert_eq!(names(&replica.handle(submit(ticket, named("x")))), [""; 0]);
    }
    assert!(matches!(verdicts(replica.handle(submit(9_999, named("x"))))[..], [Verdict::Overloaded]));
}

#[test]
fn a_new_epoch_that_follows_is_told_by_a_snapshot() {
    let desk = history(&["a"]);
    let mut replica = replica_of(&desk);
    let change = desk.judge(vec![named("b")]).unwrap().unwrap();
    let first = Revision { epoch: kit::EPOCH + 1, seq: 2 };
    let entry = kit::entry_at(first, desk.plan.head(), &change);
    let mut after = desk.plan.clone();
    after.apply(&entry).unwrap();
    let next =
        entry_after(after.head(), &Desk { plan: after.clone(), ..desk }.judge(vec![named("c")]).unwrap().unwrap());
    assert_eq!(names(&replica.handle(Input::Heard(vec![entry, next]))), ["reset"], "what follows is part of it");
    assert_eq!(replica.plan().revision(), Revision { seq: 3, ..first });
    let late = history(&["a", "b"]).log[2].clone();
    assert_eq!(names(&replica.handle(Input::Heard(vec![late]))), [""; 0], "a message from the epoch before");
}
