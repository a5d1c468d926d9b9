//! The log as the contract has it, and the plan it stands for at every place.
//!
//! Every entry is checked as it comes in: it follows, its operation is new, and the document after it keeps every rule.

use std::collections::HashMap;

use mille_core::Plan;
use mille_core::replay::Replay;
use mille_shared::log::{CommitOutcome, Head, LogEntry, LogPage, OperationKey, Proposal, StoredSnapshot};
use mille_shared::{OperationId, Revision};

use crate::kit::{EPOCH, assert_valid, creation};

/// Entries behind the oldest snapshot that is kept.
const RETENTION: u64 = 3;
const PAGE: usize = 4;

pub(crate) struct Log {
    /// The first one's place is `begin`; what was before is trimmed.
    entries: Vec<LogEntry>,
    operations: HashMap<OperationKey, Revision>,
    snapshots: Vec<StoredSnapshot>,
    /// The plan at each `seq`, trimmed or not.
    pub(crate) states: Vec<Plan>,
    /// Operations whose entries were lost with the log's end.
    pub(crate) lost: Vec<OperationKey>,
}

impl Log {
    pub(crate) fn new() -> Self {
        let first = creation(EPOCH);
        let states = vec![Plan::begin(&first).unwrap()];
        Self { entries: vec![first], operations: HashMap::new(), snapshots: Vec::new(), states, lost: Vec::new() }
    }

    pub(crate) fn plan(&self) -> &Plan {
        self.states.last().unwrap()
    }

    pub(crate) fn head(&self) -> Head {
        self.plan().head()
    }

    /// The entries that were added, to be published.
    pub(crate) fn commit(&mut self, expected: Head, batch: &[Proposal]) -> (CommitOutcome, Vec<LogEntry>) {
        let repeats: Vec<_> = (batch.iter().enumerate())
            .filter_map(|(index, proposal)| Some((index, self.find(&proposal.key)?)))
            .collect();
        if !repeats.is_empty() {
            return (CommitOutcome::Repeated { repeats }, Vec::new());
        }
        if self.head() != expected {
            return (CommitOutcome::Moved { head: Some(self.head()) }, Vec::new());
        }
        let added: Vec<_> = batch.iter().map(|proposal| self.append(proposal)).collect();
        (CommitOutcome::Committed, added)
    }

    fn append(&mut self, proposal: &Proposal) -> LogEntry {
        let revision = self.head().revision.next();
        let entry = LogEntry { revision, hash: proposal.hash, payload: proposal.payload.clone() };
        let mut plan = self.plan().clone();
        let applied = plan.apply(&entry).expect("an entry follows the one before");
        let document = plan.document();
        assert_valid(&document);
        let change = &applied.change;
        let key = OperationKey::of(&change.user_id, &change.client_id, &change.operation_id);
        assert_eq!(key, proposal.key, "an operation is remembered under its own name");
        assert!(self.operations.insert(key, revision).is_none(), "an operation is in the log twice");
        self.states.push(plan);
        self.entries.push(entry.clone());
        entry
    }

    pub(crate) fn find(&self, key: &OperationKey) -> Option<Revision> {
        self.operations.get(key).copied()
    }

    /// The operation at a place, if the log was not trimmed beyond it.
    pub(crate) fn operation_at(&self, revision: Revision) -> Option<OperationId> {
        let entry = self.entries.iter().find(|entry| entry.revision == revision)?;
        let change: mille_shared::change::Change = serde_json::from_str(&entry.payload).unwrap();
        Some(change.operation_id)
    }

    pub(crate) fn range(&self, after: Option<Revision>) -> LogPage {
        let rest: Vec<_> = self.entries.iter().filter(|entry| Some(entry.revision) > after).cloned().collect();
        LogPage { has_more: rest.len() > PAGE, entries: rest.into_iter().take(PAGE).collect() }
    }

    pub(crate) fn snapshot(&self, at_or_before: Option<Revision>) -> Option<&StoredSnapshot> {
        let fits = |stored: &&StoredSnapshot| at_or_before.is_none_or(|place| stored.head.revision <= place);
        self.snapshots.iter().rev().find(fits)
    }

    /// A plan opened the way nodes do.
    pub(crate) fn open(&self) -> Plan {
        let stored = self.snapshot(None);
        let mut plan = stored.map(|stored| Plan::from_snapshot(stored.head, &stored.payload).unwrap());
        loop {
            let page = self.range(plan.as_ref().map(Plan::revision));
            for entry in &page.entries {
                match &mut plan {
                    None => plan = Some(Plan::begin(entry).unwrap()),
                    Some(plan) => drop(plan.apply(entry).unwrap()),
                }
            }
            if !page.has_more {
                return plan.unwrap();
            }
        }
    }

    /// The changes between two places, the way listeners read them. `None`: the log does not reach back.
    pub(crate) fn replay(&self, after: Revision, until: Revision) -> Option<Vec<std::sync::Arc<mille_core::Applied>>> {
        let mut replay = Replay::new(self.snapshot(Some(after)), after, until).ok()?;
        let mut told = Vec::new();
        while !replay.is_done() {
            let page = self.range(replay.position());
            assert!(!page.entries.is_empty(), "a place we know is in the log");
            told.extend(replay.feed(&page.entries).ok()?);
        }
        Some(told)
    }

    /// Keeps a snapshot if it is newer and of this history, then trims.
    pub(crate) fn store(&mut self, stored: StoredSnapshot) {
        let newer = self.snapshots.last().is_none_or(|newest| newest.head.revision < stored.head.revision);
        let matches = self.states.iter().any(|plan| plan.head() == stored.head);
        if newer && matches {
            self.snapshots.push(stored);
        }
        let head = self.head().revision.seq;
        let base = self.snapshots.iter().rposition(|stored| head - stored.head.revision.seq >= RETENTION);
        if let Some(base) = base {
            self.snapshots.drain(..base);
            let begins_after = self.snapshots[0].head.revision;
            self.entries.retain(|entry| entry.revision > begins_after);
        }
    }

    /// A failover to a copy that lacks the last entries. Never those that a snapshot covers: it would be lost as well.
    pub(crate) fn lose_end(&mut self, count: usize) -> usize {
        let count = count.min(self.entries.len() - 1);
        for _ in 0..count {
            let gone = self.entries.pop().unwrap().revision;
            self.states.pop();
            let key = self.operations.iter().find(|(_, place)| **place == gone).map(|(key, _)| key.clone()).unwrap();
            self.operations.remove(&key);
            self.lost.push(key);
        }
        let head = self.head().revision;
        self.snapshots.retain(|stored| stored.head.revision <= head);
        count
    }
}
