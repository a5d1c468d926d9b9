//! Every checker can fail: a good history, and what each kind of damage to it brings to light.

use serde_json::json;

use super::*;
use crate::history::{Entry, Logged};

const SAW: &str = "each watcher saw every change in order, or was told by a SNAPSHOT";
const HOLDS: &str = "an acknowledged revision holds, or a SNAPSHOT told of its change";

fn acknowledged(operation: &str, revision: &str) -> Event {
    let (operation, revision) = (operation.to_owned(), revision.to_owned());
    Event::Acknowledged { operation, attempts: 1, revision, after_ms: 3 }
}

fn invoked(operation: &str) -> Event {
    Event::Invoked { operation: operation.to_owned(), field: "addPlanDagNode".to_owned() }
}

fn saw(watcher: usize, seq: u64, operation: &str) -> Event {
    let previous = Some(format!("7-{}", seq - 1));
    Event::Saw { watcher, revision: format!("7-{seq}"), previous, operation: Some(operation.to_owned()) }
}

fn logged(seq: u64, operation: &str) -> Logged {
    Logged { revision: format!("7-{seq}"), operation: Some(operation.to_owned()) }
}

/// Two edits, one watcher, nothing wrong.
fn good() -> History {
    let start = Event::SawSnapshot { watcher: 0, revision: "7-0".to_owned(), reason: String::new() };
    let events = [
        start,
        invoked("a"),
        acknowledged("a", "7-1"),
        saw(0, 1, "a"),
        invoked("b"),
        acknowledged("b", "7-2"),
        saw(0, 2, "b"),
    ];
    History {
        entries: events.into_iter().map(|event| Entry { at_ms: 0, event }).collect(),
        watchers: 1,
        log: vec![logged(1, "a"), logged(2, "b")],
        is_trimmed: false,
        end: "7-2".to_owned(),
        documents: vec![("node 0".to_owned(), json!({"x": 1})), ("watcher 0".to_owned(), json!({"x": 1.0}))],
    }
}

fn snapshot(watcher: usize, revision: &str, reason: &str) -> Event {
    Event::SawSnapshot { watcher, revision: revision.to_owned(), reason: reason.to_owned() }
}

/// The promises that a history breaks.
fn broken(history: &History) -> Vec<&'static str> {
    broken_with(history, &[])
}

/// The same with further promises.
fn broken_with(history: &History, further: &[Promise]) -> Vec<&'static str> {
    judge(history, further)
        .into_iter()
        .filter(|verdict| !verdict.broken.is_empty())
        .map(|verdict| verdict.promise)
        .collect()
}

/// [`good`], changed.
fn with(change: impl FnOnce(&mut History)) -> History {
    let mut history = good();
    change(&mut history);
    history
}

fn push(history: &mut History, event: Event) {
    history.entries.push(Entry { at_ms: 1, event });
}

#[test]
fn a_good_history_passes() {
    assert_eq!(broken(&good()), Vec::<&str>::new());
}

#[test]
fn a_lost_edit_is_noticed() {
    let history = with(|history| push(history, acknowledged("c", "7-3")));
    assert_eq!(broken(&history), ["every acknowledged edit is in the log exactly once"]);
}

#[test]
fn an_edit_applied_twice_is_noticed_also_when_nobody_answered_it() {
    let history = with(|history| {
        history.log.extend([logged(3, "c"), logged(4, "c")]);
        push(history, saw(0, 3, "c"));
        push(history, saw(0, 4, "c"));
        history.end = "7-4".to_owned();
    });
    assert_eq!(broken(&history), ["no edit is applied twice"]);
}

#[test]
fn a_refused_edit_in_the_log_is_noticed_and_one_with_an_unanswered_attempt_is_not() {
    let refused = |attempts| Event::Refused { operation: "b".to_owned(), code: "NOT_FOUND".to_owned(), attempts };
    assert_eq!(broken(&with(|history| push(history, refused(1)))), ["what was refused is not in the log"]);
    assert_eq!(broken(&with(|history| push(history, refused(2)))), Vec::<&str>::new());
}

#[test]
fn a_refusal_without_a_reason_is_noticed_at_every_attempt() {
    for code in ["", "INTERNAL_ERROR", "FORBIDDEN", "UNAUTHENTICATED", "LIMIT_EXCEEDED"] {
        for attempts in [1, 2] {
            let refused = Event::Refused { operation: "z".to_owned(), code: code.to_owned(), attempts };
            let found = broken(&with(|history| push(history, refused.clone())));
            assert_eq!(found, ["nothing is refused but what can't be"], "{code} at attempt {attempts}");
        }
    }
}

#[test]
fn a_repeat_that_is_refused_although_it_landed_is_noticed() {
    let refused = |operation: &str, attempts| Event::Refused {
        operation: operation.to_owned(),
        code: "NOT_FOUND".to_owned(),
        attempts,
    };
    let found =
        |operation, attempts| landed_edits_are_known(&with(|history| push(history, refused(operation, attempts))));
    assert_eq!(found("b", 2), ["b is in the log and was refused (NOT_FOUND) when it came again"]);
    assert!(found("b", 1).is_empty(), "that is another promise's matter");
    assert!(found("z", 2).is_empty(), "it never landed");
}

#[test]
fn a_hole_in_the_log_is_noticed() {
    let history = with(|history| history.log[1].revision = "7-3".to_owned());
    assert!(broken(&history).contains(&"the log has no hole"));
    let history = with(|history| {
        history.log.pop();
    });
    assert!(broken(&history).contains(&"the log has no hole"));
}

#[test]
fn a_watcher_that_missed_repeated_or_invented_something_is_noticed() {
    let missed = with(|history| {
        history.entries.remove(3);
    });
    let repeated = with(|history| push(history, saw(0, 2, "b")));
    let invented = with(|history| push(history, saw(0, 3, "z")));
    let other = with(|history| history.entries[3].event = saw(0, 1, "z"));
    let late = with(|history| {
        history.entries.pop();
    });
    let absent = with(|history| history.watchers = 2);
    let nonsense = with(|history| {
        push(history, Event::SawNonsense { watcher: 0, reason: "a patch that does not fit".to_owned() })
    });
    for history in [missed, repeated, invented, other, late, absent, nonsense] {
        assert_eq!(broken(&history), [SAW], "{history:?}");
    }
}

#[test]
fn a_jump_needs_a_snapshot_with_a_reason() {
    let jump = |reason: &str| {
        let event = Event::SawSnapshot { watcher: 0, revision: "7-2".to_owned(), reason: reason.to_owned() };
        with(|history| {
            history.entries.remove(3);
            let last = history.entries.len() - 1;
            history.entries[last].event = event;
        })
    };
    assert_eq!(broken(&jump("the log was trimmed")), Vec::<&str>::new());
    assert_eq!(broken(&jump("")).len(), 1);
}

#[test]
fn two_documents_and_no_document_are_noticed() {
    let differ = with(|history| history.documents[1].1 = json!({"x": 2}));
    assert_eq!(broken(&differ), ["all documents are equal at the end"]);
    let none = with(|history| history.documents.clear());
    assert_eq!(broken(&none), ["all documents are equal at the end"]);
}

#[test]
fn an_edit_nobody_answered_and_a_run_without_edits_are_noticed() {
    let open = with(|history| push(history, invoked("c")));
    assert_eq!(broken(&open), ["every edit was answered in the end"]);
    let idle = History { end: "7-0".to_owned(), documents: good().documents, ..History::default() };
    assert_eq!(broken(&idle), ["every edit was answered in the end"]);
}

/// [`good`], but what was acknowledged as 7-2 was lost, others built on 7-1, and it stands in the log as 8-3.
fn forked() -> History {
    with(|history| {
        history.log[1] = logged(2, "x");
        history.log.push(Logged { revision: "8-3".to_owned(), operation: Some("b".to_owned()) });
        push(history, snapshot(0, "8-3", "the history forked"));
        history.end = "8-3".to_owned();
    })
}

#[test]
fn a_fork_that_everyone_was_told_of_breaks_nothing() {
    assert_eq!(broken_with(&forked(), &[STREAMS_HELD, ONE_SNAPSHOT]), Vec::<&str>::new());
    assert_eq!(
        broken_with(&forked(), &[ONE_EPOCH, NO_SNAPSHOT]),
        ["the log has one epoch", "nobody needed a SNAPSHOT"]
    );
}

#[test]
fn a_fork_that_someone_was_not_told_of_is_noticed() {
    let tell = |event: Event| {
        let mut history = forked();
        let last = history.entries.len() - 1;
        history.entries[last].event = event;
        history
    };
    let by_a_delta = tell(Event::Saw {
        watcher: 0,
        revision: "8-3".to_owned(),
        previous: Some("7-2".to_owned()),
        operation: Some("b".to_owned()),
    });
    assert_eq!(broken(&by_a_delta), [HOLDS, SAW]);
    assert_eq!(broken(&tell(snapshot(0, "8-3", ""))), [HOLDS, SAW], "a SNAPSHOT without a reason");
    let mut before_it_was_seen = forked();
    let last = before_it_was_seen.entries.len() - 1;
    before_it_was_seen.entries.swap(last, last - 1);
    assert!(broken(&before_it_was_seen).contains(&HOLDS));
}

#[test]
fn a_lost_edit_is_noticed_also_in_a_fork() {
    let mut history = forked();
    history.log[2].operation = Some("y".to_owned());
    assert_eq!(broken(&history), ["every acknowledged edit is in the log exactly once"]);
}

#[test]
fn what_was_seen_after_a_fork_must_be_in_the_log() {
    let mut history = forked();
    let previous = Some("8-3".to_owned());
    push(&mut history, Event::Saw { watcher: 0, revision: "8-4".to_owned(), previous, operation: None });
    history.end = "8-4".to_owned();
    history.log.push(Logged { revision: "8-4".to_owned(), operation: Some("c".to_owned()) });
    assert_eq!(broken(&history), [SAW]);
}

#[test]
fn an_edit_that_moved_within_its_epoch_is_noticed() {
    let history = with(|history| {
        history.entries[2].event = acknowledged("a", "7-2");
        history.entries[5].event = acknowledged("b", "7-x");
    });
    assert_eq!(broken(&history), [HOLDS]);
}

#[test]
fn a_new_epoch_counts_on() {
    let follows = |revision: &str| {
        let mut history = forked();
        let last = history.entries.len() - 1;
        history.entries[last].event = snapshot(0, revision, "the history forked");
        history.log[2].revision = revision.to_owned();
        history.end = revision.to_owned();
        broken(&history)
    };
    assert_eq!(follows("9-3"), Vec::<&str>::new());
    assert_eq!(follows("8-1"), ["the log has no hole"]);
    assert!(follows("6-3").contains(&"the log has no hole"), "back to an old epoch");
}

#[test]
fn a_trimmed_log_is_judged_from_where_it_begins() {
    let trim = |is_trimmed| {
        with(|history| {
            history.is_trimmed = is_trimmed;
            history.log.remove(0);
        })
    };
    assert_eq!(broken(&trim(true)), Vec::<&str>::new());
    assert!(broken(&trim(false)).contains(&"the log has no hole"));
    let mut lost = trim(true);
    push(&mut lost, acknowledged("c", "7-3"));
    assert_eq!(broken(&lost), ["every acknowledged edit is in the log exactly once"]);
}

#[test]
fn what_a_scenario_promises_beside_is_held_against_it() {
    let lost = with(|history| push(history, Event::Lost { watcher: 0, reason: "1006".to_owned() }));
    assert_eq!(broken(&lost), Vec::<&str>::new(), "a killed node costs sockets");
    assert_eq!(broken_with(&lost, &[STREAMS_HELD]), [STREAMS_HELD.0]);

    let repeated = |code: &str| {
        let (operation, code) = ("a".to_owned(), code.to_owned());
        let event = Event::Repeated { operation, code, reason: String::new(), after_ms: 9 };
        with(|history| push(history, event))
    };
    assert_eq!(broken_with(&repeated("UNAVAILABLE"), &[ATTEMPTS_ANSWERED]), Vec::<&str>::new());
    assert_eq!(broken_with(&repeated(""), &[ATTEMPTS_ANSWERED]), [ATTEMPTS_ANSWERED.0]);

    assert_eq!(broken_with(&good(), &[NO_SNAPSHOT, ONE_EPOCH]), Vec::<&str>::new());
    assert_eq!(broken_with(&good(), &[ONE_SNAPSHOT]), [ONE_SNAPSHOT.0]);

    let measured = |value| with(|history| history.measure("range reads", value, 1));
    assert_eq!(broken(&measured(1)), Vec::<&str>::new());
    assert_eq!(broken(&measured(2)), ["every measured number is within its bound"]);
}
