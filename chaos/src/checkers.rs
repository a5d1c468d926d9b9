//! The judges: pure functions from a history to what is wrong with it.
//!
//! Each holds one promise of the contract against what clients were told. They know operation ids and
//! revisions, and nothing of how a cluster works. Most promises hold whatever breaks ([`CHECKERS`]); some only
//! where a scenario says so, since a killed node does cost its clients their sockets.
//!
//! A history may have *forked*: a Redis that took over without the last changes was built upon. Then the log
//! goes on in a new epoch, what was lost stands there again, and whoever saw the other branch is told by a
//! SNAPSHOT. What someone saw before such a SNAPSHOT need not be in the log; everything after it must be.

use std::collections::HashMap;

use mille_tests::same_value;
use serde::Serialize;

use crate::history::{Event, History, place};

/// What one checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The promise.
    pub promise: &'static str,
    /// How it was broken; empty when it was kept.
    pub broken: Vec<String>,
}

/// Finds what is wrong with a history.
pub type Checker = fn(&History) -> Vec<String>;
/// A promise, and who holds a history against it.
pub type Promise = (&'static str, Checker);

/// What holds whatever breaks.
pub const CHECKERS: [Promise; 10] = [
    ("every acknowledged edit is in the log exactly once", acknowledged_edits_are_in_the_log_once),
    ("an acknowledged revision holds, or a SNAPSHOT told of its change", acknowledged_revisions_hold),
    ("no edit is applied twice", no_edit_is_applied_twice),
    ("what was refused is not in the log", refused_edits_are_not_in_the_log),
    ("nothing is refused but what can't be", refusals_have_a_reason),
    ("the log has no hole", the_log_is_dense),
    ("each watcher saw every change in order, or was told by a SNAPSHOT", watchers_saw_no_hole),
    ("all documents are equal at the end", documents_are_equal),
    ("every edit was answered in the end", every_edit_was_answered),
    BOUNDS,
];
/// What a scenario measured, and says how much of it there may be.
pub const BOUNDS: Promise = ("every measured number is within its bound", numbers_are_within_their_bounds);
/// Where nodes live on: their sockets do too.
pub const STREAMS_HELD: Promise = ("no watcher had to reconnect", no_stream_was_lost);
/// Where the log can tell everything: nobody is fobbed off with a document.
pub const NO_SNAPSHOT: Promise = ("nobody needed a SNAPSHOT", |history| snapshots_beside(history, 0));
/// Where the history forked.
pub const ONE_SNAPSHOT: Promise =
    ("everyone was told of the fork by one SNAPSHOT", |history| snapshots_beside(history, 1));
/// Where nothing was lost for good.
pub const ONE_EPOCH: Promise = ("the log has one epoch", the_log_has_one_epoch);
/// Where no Redis loses anything: an edit that landed is known when it comes again.
pub const REPEATS_KNOWN: Promise = ("no edit that landed was refused when it came again", landed_edits_are_known);
/// Where nodes live on: they say what they can't do.
pub const ATTEMPTS_ANSWERED: Promise = ("every attempt was answered", every_attempt_was_answered);

/// Codes of refusals that what people do can earn.
const REASONS: [&str; 2] = ["VALIDATION_FAILED", "NOT_FOUND"];

/// Holds a history against what always holds and `further` promises.
#[must_use]
pub fn judge(history: &History, further: &[Promise]) -> Vec<Verdict> {
    let all = CHECKERS.iter().chain(further);
    all.map(|(promise, check)| Verdict { promise, broken: check(history) }).collect()
}

/// Every acknowledged edit is in the log exactly once, as far as the log reaches back.
#[must_use]
pub fn acknowledged_edits_are_in_the_log_once(history: &History) -> Vec<String> {
    let times = times_in_log(history);
    let mut broken = Vec::new();
    for event in history.events() {
        if let Event::Acknowledged { operation, revision, .. } = event {
            if is_beyond_the_log(history, revision) {
                continue;
            }
            let found = times.get(operation.as_str()).copied().unwrap_or(0);
            if found != 1 {
                broken.push(format!("{operation} was acknowledged and is in the log {found} times"));
            }
        }
    }
    broken
}

/// What was acknowledged as a revision stands there; or a fork moved it into a later epoch, and whoever saw it at its
/// old place was told.
#[must_use]
pub fn acknowledged_revisions_hold(history: &History) -> Vec<String> {
    let in_log: HashMap<&str, &str> = history
        .log
        .iter()
        .filter_map(|logged| Some((logged.operation.as_deref()?, logged.revision.as_str())))
        .collect();
    let mut untold: HashMap<(&str, &str), usize> = HashMap::new();
    for (event, is_told) in history.events().zip(told_of_a_fork_later(history)) {
        if let Event::Saw { watcher, revision, operation: Some(operation), .. } = event
            && !is_told
        {
            untold.insert((operation, revision), *watcher);
        }
    }
    let mut broken = Vec::new();
    for event in history.events() {
        let Event::Acknowledged { operation, revision, .. } = event else { continue };
        let Some(acknowledged) = place(revision) else {
            broken.push(format!("{operation} was acknowledged as {revision:?}, which is no revision"));
            continue;
        };
        // What is not in the log at all is another promise's matter.
        let Some(here) = in_log.get(operation.as_str()).filter(|here| **here != revision) else { continue };
        if place(here).is_none_or(|here| here.0 <= acknowledged.0) {
            broken.push(format!("{operation} was acknowledged as {revision} and stands as {here}, in no later epoch"));
        }
        if let Some(watcher) = untold.get(&(operation.as_str(), revision.as_str())) {
            broken.push(format!("watcher {watcher} saw {operation} as {revision}; nobody told it that it is {here}"));
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
        if let Event::Refused { operation, code, attempts: 1 } = event
            && times.contains_key(operation.as_str())
        {
            broken.push(format!("{operation} was refused ({code}) and is in the log"));
        }
    }
    broken
}

/// People have the right to edit, and stay within every bound. So what is refused for good can only be what the plan does
/// not allow, or what is about something that is gone.
#[must_use]
pub fn refusals_have_a_reason(history: &History) -> Vec<String> {
    let unreasonable = history.events().filter_map(|event| match event {
        Event::Refused { operation, code, attempts } if !REASONS.contains(&code.as_str()) => {
            Some(format!("{operation} was refused with the code {code:?} at attempt {attempts}"))
        }
        _ => None,
    });
    unreasonable.collect()
}

/// Whose first attempt landed unanswered gets its result at the next one, and no refusal.
#[must_use]
pub fn landed_edits_are_known(history: &History) -> Vec<String> {
    let times = times_in_log(history);
    let unknown = history.events().filter_map(|event| match event {
        Event::Refused { operation, code, attempts: 2.. } if times.contains_key(operation.as_str()) => {
            Some(format!("{operation} is in the log and was refused ({code}) when it came again"))
        }
        _ => None,
    });
    unknown.collect()
}

/// Revisions of the log follow each other by one, from its start to the plan's revision; a later epoch counts on.
#[must_use]
pub fn the_log_is_dense(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let mut before: Option<(u64, u64)> = None;
    for logged in &history.log {
        let Some(here) = place(&logged.revision) else {
            broken.push(format!("{:?} is no revision", logged.revision));
            continue;
        };
        let due = match before {
            Some((epoch, seq)) => (here.0.max(epoch), seq + 1),
            None if history.is_trimmed => here,
            None => (here.0, 1),
        };
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

/// Each watcher's changes follow each other, across all its reconnects, to the end; they are the log's, unless a fork
/// took them and a SNAPSHOT told so later; a jump is a SNAPSHOT with a reason.
#[must_use]
pub fn watchers_saw_no_hole(history: &History) -> Vec<String> {
    let of_log: HashMap<&str, Option<&str>> =
        history.log.iter().map(|logged| (logged.revision.as_str(), logged.operation.as_deref())).collect();
    let mut broken = Vec::new();
    let mut places: HashMap<usize, &str> = HashMap::new();
    for (event, is_told) in history.events().zip(told_of_a_fork_later(history)) {
        match event {
            Event::Saw { watcher, revision, previous, operation } => {
                let here = places.insert(*watcher, revision);
                if here != previous.as_deref() {
                    broken.push(format!("watcher {watcher} was at {here:?}; {revision} follows {previous:?}"));
                }
                let is_next = match (previous.as_deref().and_then(place), place(revision)) {
                    (Some((epoch, seq)), Some(found)) => found == (epoch, seq + 1),
                    _ => false,
                };
                if !is_next {
                    broken.push(format!("watcher {watcher} saw {revision} after {previous:?}"));
                }
                if is_told || is_beyond_the_log(history, revision) {
                    continue;
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

/// No stream ended before its watcher had seen everything.
#[must_use]
pub fn no_stream_was_lost(history: &History) -> Vec<String> {
    let lost = history.entries.iter().filter_map(|entry| match &entry.event {
        Event::Lost { watcher, reason } => {
            Some(format!("watcher {watcher} lost its stream at {} ms: {reason}", entry.at_ms))
        }
        _ => None,
    });
    lost.collect()
}

/// All entries of the log are of one epoch.
#[must_use]
pub fn the_log_has_one_epoch(history: &History) -> Vec<String> {
    let changes = history.log.windows(2).filter_map(|pair| {
        let (one, next) = (place(&pair[0].revision)?, place(&pair[1].revision)?);
        (one.0 != next.0).then(|| format!("{} follows {}", pair[1].revision, pair[0].revision))
    });
    changes.collect()
}

/// No attempt to edit was left without an answer.
#[must_use]
pub fn every_attempt_was_answered(history: &History) -> Vec<String> {
    let silent = history.events().filter_map(|event| match event {
        Event::Repeated { operation, code, reason, after_ms } if code.is_empty() => {
            Some(format!("{operation} after {after_ms} ms: {reason}"))
        }
        _ => None,
    });
    silent.collect()
}

/// What was measured is within the bound that the scenario names.
#[must_use]
pub fn numbers_are_within_their_bounds(history: &History) -> Vec<String> {
    let beyond = history.events().filter_map(|event| match event {
        Event::Measured { what, value, at_most: Some(at_most) } if value > at_most => {
            Some(format!("{what}: {value}, not {at_most}"))
        }
        _ => None,
    });
    beyond.collect()
}

/// Whether each watcher got `due` SNAPSHOTs beside the one it began with.
fn snapshots_beside(history: &History, due: usize) -> Vec<String> {
    let mut found: HashMap<usize, Vec<String>> = HashMap::new();
    for event in history.events() {
        if let Event::SawSnapshot { watcher, revision, reason } = event {
            found.entry(*watcher).or_default().push(format!("{revision} ({reason})"));
        }
    }
    let mut broken = Vec::new();
    for watcher in 0..history.watchers {
        let further = found.get(&watcher).and_then(|all| all.get(1..)).unwrap_or_default();
        if further.len() != due {
            broken.push(format!("watcher {watcher} got {} further SNAPSHOTs, not {due}: {further:?}", further.len()));
        }
    }
    broken
}

/// For each event, whether it is something a watcher saw and was later told not to rely upon: by a SNAPSHOT with a
/// reason, of a later epoch.
fn told_of_a_fork_later(history: &History) -> Vec<bool> {
    let mut told: HashMap<usize, u64> = HashMap::new();
    let mut answers: Vec<bool> = history
        .entries
        .iter()
        .rev()
        .map(|entry| match &entry.event {
            Event::Saw { watcher, revision, .. } => place(revision)
                .is_some_and(|(epoch, _)| told.get(watcher).is_some_and(|told_epoch| *told_epoch > epoch)),
            Event::SawSnapshot { watcher, revision, reason } => {
                if let Some((epoch, _)) = place(revision).filter(|_| !reason.is_empty()) {
                    let latest = told.entry(*watcher).or_insert(epoch);
                    *latest = epoch.max(*latest);
                }
                false
            }
            _ => false,
        })
        .collect();
    answers.reverse();
    answers
}

/// Whether a revision is older than what a trimmed log still has.
fn is_beyond_the_log(history: &History, revision: &str) -> bool {
    let first = history.log.first().and_then(|logged| place(&logged.revision));
    history.is_trimmed && first.zip(place(revision)).is_some_and(|(first, here)| here < first)
}

fn times_in_log(history: &History) -> HashMap<&str, usize> {
    let mut times = HashMap::new();
    for operation in history.log.iter().filter_map(|logged| logged.operation.as_deref()) {
        *times.entry(operation).or_insert(0) += 1;
    }
    times
}

#[cfg(test)]
mod tests;
