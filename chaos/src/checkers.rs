//! The judges: pure functions from a history to what is wrong with it.
//!
//! Each holds one promise of the contract against what clients were told. They know operation ids and
//! revisions, and nothing of how a cluster works.

use std::collections::HashMap;

use mille_tests::same_value;
use serde::Serialize;

use crate::history::{Event, History};

/// What one checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The promise.
    pub promise: &'static str,
    /// How it was broken; empty when it was kept.
    pub broken: Vec<String>,
}

type Checker = fn(&History) -> Vec<String>;

/// Every checker, with the promise it holds a history against.
const CHECKERS: [(&str, Checker); 7] = [
    ("every acknowledged edit is in the log exactly once", acknowledged_edits_are_in_the_log_once),
    ("no edit is applied twice", no_edit_is_applied_twice),
    ("what was refused is not in the log", refused_edits_are_not_in_the_log),
    ("the log has no hole", the_log_is_dense),
    ("each watcher saw every change in order, or was told by a SNAPSHOT", watchers_saw_no_hole),
    ("all documents are equal at the end", documents_are_equal),
    ("every edit was answered in the end", every_edit_was_answered),
];

/// Runs every checker.
#[must_use]
pub fn judge(history: &History) -> Vec<Verdict> {
    CHECKERS.iter().map(|(promise, check)| Verdict { promise, broken: check(history) }).collect()
}

/// Every acknowledged edit is in the log exactly once.
#[must_use]
pub fn acknowledged_edits_are_in_the_log_once(history: &History) -> Vec<String> {
    let times = times_in_log(history);
    let mut broken = Vec::new();
    for event in history.events() {
        if let Event::Acknowledged { operation, .. } = event {
            let found = times.get(operation.as_str()).copied().unwrap_or(0);
            if found != 1 {
                broken.push(format!("{operation} was acknowledged and is in the log {found} times"));
            }
        }
    }
    broken
}

/// No operation id is in the log twice, whatever became of its edit.
#[must_use]
pub fn no_edit_is_applied_twice(history: &History) -> Vec<String> {
    let times = times_in_log(history);
    let mut broken: Vec<String> = times
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(operation, count)| format!("{operation} is in the log {count} times"))
        .collect();
    broken.sort();
    broken
}

/// An edit that was sent once and refused left nothing behind.
#[must_use]
pub fn refused_edits_are_not_in_the_log(history: &History) -> Vec<String> {
    let times = times_in_log(history);
    let mut broken = Vec::new();
    for event in history.events() {
        if let Event::Refused { operation, code, attempts: 1 } = event {
            if times.contains_key(operation.as_str()) {
                broken.push(format!("{operation} was refused ({code}) and is in the log"));
            }
            if code.is_empty() || code == "INTERNAL_ERROR" {
                broken.push(format!("{operation} was refused with the code {code:?}"));
            }
        }
    }
    broken
}

/// Revisions of the log follow each other by one, from its start to the plan's revision.
#[must_use]
pub fn the_log_is_dense(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let mut before: Option<(u64, u64)> = None;
    for logged in &history.log {
        let Some(here) = numbers(&logged.revision) else {
            broken.push(format!("{:?} is no revision", logged.revision));
            continue;
        };
        let due = before.map_or((here.0, 1), |(epoch, seq)| (epoch, seq + 1));
        if here != due {
            broken.push(format!("the log goes on with {} where {}-{} was due", logged.revision, due.0, due.1));
        }
        before = Some(here);
    }
    let last = history.log.last().map(|logged| logged.revision.as_str());
    if last.is_some_and(|last| last != history.end) || (last.is_none() && !history.end.ends_with("-0")) {
        broken.push(format!("the log ends at {last:?}, the plan at {}", history.end));
    }
    broken
}

/// Each watcher's changes follow each other, across all its reconnects, to the end; they are the log's; a jump
/// is a SNAPSHOT with a reason.
#[must_use]
pub fn watchers_saw_no_hole(history: &History) -> Vec<String> {
    let of_log: HashMap<&str, Option<&str>> =
        history.log.iter().map(|logged| (logged.revision.as_str(), logged.operation.as_deref())).collect();
    let mut broken = Vec::new();
    let mut places: HashMap<usize, &str> = HashMap::new();
    for event in history.events() {
        match event {
            Event::Saw { watcher, revision, previous, operation } => {
                let here = places.insert(*watcher, revision);
                if here != previous.as_deref() {
                    broken.push(format!("watcher {watcher} was at {here:?}; {revision} follows {previous:?}"));
                }
                let is_next = match (previous.as_deref().and_then(numbers), numbers(revision)) {
                    (Some((epoch, seq)), Some(found)) => found == (epoch, seq + 1),
                    _ => false,
                };
                if !is_next {
                    broken.push(format!("watcher {watcher} saw {revision} after {previous:?}"));
                }
                match of_log.get(revision.as_str()) {
                    None => broken.push(format!("watcher {watcher} saw {revision}, which the log does not have")),
                    Some(logged) if *logged != operation.as_deref() => {
                        broken
                            .push(format!("watcher {watcher} saw {operation:?} as {revision}; the log has {logged:?}"));
                    }
                    Some(_) => {}
                }
            }
            Event::SawSnapshot { watcher, revision, reason } => {
                let is_first = places.insert(*watcher, revision).is_none();
                if !is_first && reason.is_empty() {
                    broken.push(format!("watcher {watcher} got a SNAPSHOT at {revision} without a reason"));
                }
            }
            Event::SawNonsense { watcher, reason } => broken.push(format!("watcher {watcher}: {reason}")),
            _ => {}
        }
    }
    for watcher in 0..history.watchers {
        let last = places.get(&watcher).copied();
        if last != Some(history.end.as_str()) {
            broken.push(format!("watcher {watcher} ended at {last:?}, the plan at {}", history.end));
        }
    }
    broken
}

/// Nodes and watchers hold one document.
#[must_use]
pub fn documents_are_equal(history: &History) -> Vec<String> {
    let Some(((first, document), rest)) = history.documents.split_first() else {
        return vec!["nobody holds a document".to_owned()];
    };
    rest.iter()
        .filter(|(_, other)| !same_value(document, other))
        .map(|(who, other)| format!("{who} holds {other}\n{first} holds {document}"))
        .collect()
}

/// An edit is repeated until someone answers; that must come to an end, and must have happened at all.
#[must_use]
pub fn every_edit_was_answered(history: &History) -> Vec<String> {
    let mut open: HashMap<&str, &str> = HashMap::new();
    let mut acknowledged = 0;
    for event in history.events() {
        match event {
            Event::Invoked { operation, .. } => {
                open.insert(operation, "nothing was heard of it");
            }
            Event::Acknowledged { operation, .. } => {
                acknowledged += 1;
                open.remove(operation.as_str());
            }
            Event::Refused { operation, .. } => {
                open.remove(operation.as_str());
            }
            Event::Unknown { operation, reason } => {
                open.insert(operation, reason);
            }
            _ => {}
        }
    }
    let mut broken: Vec<String> = open.iter().map(|(operation, reason)| format!("{operation}: {reason}")).collect();
    broken.sort();
    if acknowledged == 0 {
        broken.push("not one edit was acknowledged: this run shows nothing".to_owned());
    }
    broken
}

fn times_in_log(history: &History) -> HashMap<&str, usize> {
    let mut times = HashMap::new();
    for operation in history.log.iter().filter_map(|logged| logged.operation.as_deref()) {
        *times.entry(operation).or_insert(0) += 1;
    }
    times
}

/// Epoch and seq of `"<epoch>-<seq>"`.
fn numbers(revision: &str) -> Option<(u64, u64)> {
    let (epoch, seq) = revision.split_once('-')?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::{Entry, Logged};

    fn acknowledged(operation: &str) -> Event {
        Event::Acknowledged { operation: operation.to_owned(), attempts: 1 }
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
        let events =
            [start, invoked("a"), acknowledged("a"), saw(0, 1, "a"), invoked("b"), acknowledged("b"), saw(0, 2, "b")];
        History {
            entries: events.into_iter().map(|event| Entry { at_ms: 0, event }).collect(),
            watchers: 1,
            log: vec![logged(1, "a"), logged(2, "b")],
            end: "7-2".to_owned(),
            documents: vec![("node 0".to_owned(), json!({"x": 1})), ("watcher 0".to_owned(), json!({"x": 1.0}))],
        }
    }

    /// The promises that a history breaks.
    fn broken(history: &History) -> Vec<&'static str> {
        judge(history).into_iter().filter(|verdict| !verdict.broken.is_empty()).map(|verdict| verdict.promise).collect()
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
        let history = with(|history| push(history, acknowledged("c")));
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
        let promise = "each watcher saw every change in order, or was told by a SNAPSHOT";
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
            assert_eq!(broken(&history), [promise], "{history:?}");
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
}
