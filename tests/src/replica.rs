//! A document kept up to date by deltas alone, as a browser does it with any JSON Patch library.
//!
//! The rule it keeps: every promise of a delta stream is checked at every event: the chain of revisions, the
//! density of `seq`, a patch that fits, a SNAPSHOT that says what it is.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use json_patch::Patch;
use serde_json::{Value, json};

/// A place in a plan's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The life of the log.
    pub epoch: u64,
    /// The number of changes in it up to here.
    pub seq: u64,
}

/// A document and the revisions that made it.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    document: Value,
    revision: Option<Revision>,
    version: i64,
    seen: Vec<Revision>,
    snapshots: usize,
}

impl Revision {
    /// Reads `"<epoch>-<seq>"` out of JSON.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn of(value: &Value) -> Result<Self> {
        let text = value.as_str().with_context(|| format!("a revision is a string, not {value}"))?;
        let (epoch, seq) = text.split_once('-').with_context(|| format!("no revision: {text}"))?;
        let number = |part: &str| part.parse::<u64>().with_context(|| format!("no revision: {text}"));
        Ok(Self { epoch: number(epoch)?, seq: number(seq)? })
    }

    /// The creation of the same log.
    #[must_use]
    pub fn start(self) -> Self {
        Self { seq: 0, ..self }
    }

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self { seq: self.seq + 1, ..self }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl Replica {
    /// An empty one; its first event must be a SNAPSHOT.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that starts from what `getPlanDag` brought.
    ///
    /// # Errors
    /// When the plan has no revision.
    pub fn of_plan(plan: &Value) -> Result<Self> {
        let revision = Revision::of(&plan["revision"])?;
        Ok(Self { document: Self::document_of(plan), revision: Some(revision), ..Self::default() })
    }

    /// The *document* of a plan: what `getPlanDag` brings without the fields that travel in the envelope.
    #[must_use]
    pub fn document_of(plan: &Value) -> Value {
        let strip = |list: &Value| -> Value {
            let elements = list.as_array().cloned().unwrap_or_default();
            let without = elements.into_iter().map(|mut element| {
                if let Some(fields) = element.as_object_mut() {
                    fields.remove("revision");
                }
                element
            });
            without.collect()
        };
        let metadata = &plan["metadata"];
        json!({
            "nodes": strip(&plan["nodes"]),
            "edges": strip(&plan["edges"]),
            "metadata": {
                "name": metadata["name"],
                "description": metadata["description"],
                "author": metadata["author"],
                "created": metadata["created"],
            },
        })
    }

    /// Applies one `PlanDagDeltaEvent` and checks everything the contract promises about it.
    ///
    /// # Errors
    /// Names the promise that was broken.
    pub fn apply(&mut self, event: &Value) -> Result<()> {
        let revision = Revision::of(&event["revision"])?;
        let operations = event["operations"].as_array().context("an event without operations")?;
        match event["kind"].as_str() {
            Some("SNAPSHOT") => self.accept_snapshot(event, operations)?,
            Some("DELTA") => self.accept_delta(event, revision, operations)?,
            _ => bail!("an event of no kind: {event}"),
        }
        self.version = event["version"].as_i64().context("an event without a version")?;
        self.revision = Some(revision);
        self.seen.push(revision);
        Ok(())
    }

    /// The document as it is now.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The revision of the document.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The revisions of all events, in the order they came.
    #[must_use]
    pub fn seen(&self) -> &[Revision] {
        &self.seen
    }

    /// How many of the events were snapshots.
    #[must_use]
    pub fn snapshots(&self) -> usize {
        self.snapshots
    }

    fn accept_snapshot(&mut self, event: &Value, operations: &[Value]) -> Result<()> {
        ensure!(event["previousRevision"].is_null(), "a SNAPSHOT has no previousRevision: {event}");
        let [only] = operations else { bail!("a SNAPSHOT has one operation: {event}") };
        ensure!(only["op"] == "REPLACE" && only["path"] == "", "a SNAPSHOT replaces the whole document: {event}");
        ensure!(only["value"].is_object(), "a SNAPSHOT brings a document: {event}");
        self.document = only["value"].clone();
        self.snapshots += 1;
        Ok(())
    }

    fn accept_delta(&mut self, event: &Value, revision: Revision, operations: &[Value]) -> Result<()> {
        let here = self.revision.context("the first event of a fresh replica must be a SNAPSHOT")?;
        let previous = Revision::of(&event["previousRevision"])?;
        ensure!(previous == here, "a hole: at {here}, and {revision} follows {previous}");
        ensure!(revision == here.next(), "not dense: {revision} after {here}");
        let version = event["version"].as_i64().context("an event without a version")?;
        ensure!(self.seen.is_empty() || version > self.version, "version {version} after {}", self.version);
        let patch = patch_of(operations)?;
        json_patch::patch(&mut self.document, &patch)
            .with_context(|| format!("the patch of {revision} does not fit: {}", json!(operations)))?;
        Ok(())
    }
}

/// An RFC 6902 patch out of `[PatchOperation!]!`.
fn patch_of(operations: &[Value]) -> Result<Patch> {
    let mut standard = Vec::with_capacity(operations.len());
    for operation in operations {
        let op = operation["op"].as_str().context("an operation without op")?.to_ascii_lowercase();
        let mut plain = json!({"op": op, "path": operation["path"]});
        match op.as_str() {
            "add" | "replace" | "test" => plain["value"] = operation["value"].clone(),
            "move" | "copy" => plain["from"] = operation["from"].clone(),
            "remove" => {}
            _ => bail!("no operation of RFC 6902: {operation}"),
        }
        standard.push(plain);
    }
    serde_json::from_value(Value::Array(standard)).context("no JSON Patch")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Value {
        json!({"kind": "SNAPSHOT", "version": 4, "revision": "7-4", "previousRevision": null,
            "operations": [{"op": "REPLACE", "path": "", "value": {"nodes": [], "edges": []}, "from": null}]})
    }

    fn delta(seq: u64, previous: u64) -> Value {
        json!({"kind": "DELTA", "version": seq, "revision": format!("7-{seq}"), "previousRevision": format!("7-{previous}"),
            "operations": [{"op": "ADD", "path": "/nodes/-", "value": seq, "from": null}]})
    }

    #[test]
    fn deltas_that_follow_each_other_make_the_document() -> Result<()> {
        let mut replica = Replica::new();
        replica.apply(&snapshot())?;
        replica.apply(&delta(5, 4))?;
        replica.apply(&delta(6, 5))?;
        assert_eq!(replica.document()["nodes"], json!([5, 6]));
        assert_eq!(replica.revision(), Some(Revision { epoch: 7, seq: 6 }));
        Ok(())
    }

    #[test]
    fn a_hole_a_repeat_and_a_misfit_are_noticed() -> Result<()> {
        let mut replica = Replica::new();
        assert!(replica.apply(&delta(5, 4)).is_err(), "a delta on nothing");
        replica.apply(&snapshot())?;
        assert!(replica.apply(&delta(6, 5)).is_err(), "a hole");
        assert!(replica.apply(&delta(6, 4)).is_err(), "not dense");
        replica.apply(&delta(5, 4))?;
        assert!(replica.apply(&delta(5, 4)).is_err(), "a repeat");
        let mut misfit = delta(6, 5);
        misfit["operations"][0] = json!({"op": "REMOVE", "path": "/nodes/9", "value": null, "from": null});
        assert!(replica.apply(&misfit).is_err(), "a patch that does not fit");
        Ok(())
    }
}
