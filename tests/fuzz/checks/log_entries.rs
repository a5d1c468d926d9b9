//! What is read from a log and from snapshots: an entry is applied whole or not at all, and its delta makes of the
//! document before it the one after it.

use mille_core::{Plan, chain};
use mille_shared::Revision;
use mille_shared::change::Change;
use mille_shared::log::{ChainHash, Head, LogEntry};
use serde_json::Value;

use super::again;

const BEGINNING: &str = r#"{"op":"1","user":"u","client":"","at":"2026-01-01T00:00:00Z","facts":[{"is":"created","metadata":{"name":"p","description":null,"author":"u","created":"2026-01-01T00:00:00Z"}}]}"#;
/// Two plan nodes and an edge between them.
const GROUND: &str = include_str!("../corpus/log_entries/ground.json");

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    begins(text);
    follows(text);
    is_a_snapshot(text);
}

fn begins(text: &str) {
    let entry = entry_after(None, text);
    if let Ok(plan) = Plan::begin(&entry) {
        assert_eq!(plan.revision(), entry.revision);
        assert_eq!(plan.nodes().len() + plan.edges().len(), 0);
    }
}

fn follows(text: &str) {
    let mut plan = ground();
    apply_and_compare(&mut plan, text);
}

/// Applies an entry that bears the right number and hash.
fn apply_and_compare(plan: &mut Plan, payload: &str) {
    let before = plan.clone();
    let entry = entry_after(Some(plan.head()), payload);
    match plan.apply(&entry) {
        Ok(applied) => {
            assert_eq!((plan.revision(), applied.previous), (entry.revision, before.revision()));
            assert_eq!(again::<Change>(&applied.change), applied.change);
            let mut document = json(&before);
            let patch: json_patch::Patch =
                serde_json::from_value(json_of(&applied.patch)).expect("a delta is a JSON Patch");
            json_patch::patch(&mut document, &patch).expect("a delta fits the document before it");
            assert_eq!(document, json(plan), "a delta makes the document after it");
        }
        Err(_) => assert_eq!(*plan, before, "an entry that does not fit changes nothing"),
    }
}

fn is_a_snapshot(text: &str) {
    let head = ground().head();
    let Ok(mut plan) = Plan::from_snapshot(head, text) else { return };
    let stored = plan.to_snapshot();
    assert_eq!(Plan::from_snapshot(stored.head, &stored.payload).expect("what was written can be read"), plan);
    // Life goes on with it.
    apply_and_compare(&mut plan, GROUND);
}

fn ground() -> Plan {
    let mut plan = Plan::begin(&entry_after(None, BEGINNING)).expect("a beginning");
    plan.apply(&entry_after(Some(plan.head()), GROUND)).expect("a change");
    plan
}

/// The entry right behind `head` with this payload, as a log would have it.
fn entry_after(head: Option<Head>, payload: &str) -> LogEntry {
    let (before, revision) = match head {
        Some(head) => (head.hash, head.revision.next()),
        None => (ChainHash::ROOT, Revision { epoch: 7, seq: 0 }),
    };
    LogEntry { revision, hash: chain::link(before, revision, payload), payload: payload.into() }
}

fn json(plan: &Plan) -> Value {
    json_of(&plan.document())
}

fn json_of(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("it is JSON")
}
