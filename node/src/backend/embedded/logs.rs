//! Logs and snapshots in memory.
//!
//! A log is dense, so a place is an index. What the retention lets go is decided by [`Retention`]'s rule as
//! [`trim`](PlanLog::trim) tells it; the Redis library tells the same rule in Lua, and the contract suite holds both
//! to it.

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use mille_shared::limits::{LOG_PAGE_ENTRIES, UNCHANGED_OPERATIONS_MAX};
use mille_shared::log::{
    CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, StoredSnapshot, Terms,
};
use mille_shared::{PlanId, Revision};
use tokio::time::Instant;

use super::{Store, lock};
use crate::backend::{Channel, EventLog, LOG_PAGE_BYTES, Lane, Noted, Result, Retention, SnapshotStore, envelope};
use crate::clock;

/// All plans' logs.
#[derive(Default)]
pub(super) struct Logs {
    plans: HashMap<PlanId, PlanLog>,
}

/// One plan's log; it has at least one entry.
#[derive(Default)]
struct PlanLog {
    entries: VecDeque<Kept>,
    operations: HashMap<OperationKey, Revision>,
    /// Operations that changed nothing, the oldest first, and what they found. At most [`UNCHANGED_OPERATIONS_MAX`].
    unchanged: VecDeque<(Revision, OperationKey)>,
    /// Oldest first.
    snapshots: Vec<KeptSnapshot>,
}

struct Kept {
    entry: LogEntry,
    key: OperationKey,
}

struct KeptSnapshot {
    snapshot: StoredSnapshot,
    since: Instant,
}

#[async_trait]
impl EventLog for Store {
    async fn create(&self, plan: PlanId, epoch: u64, first: Proposal) -> Result<Head> {
        let mut logs = lock(&self.logs);
        let log = logs.plans.entry(plan).or_insert_with(|| {
            let mut log = PlanLog::default();
            log.append(Revision { epoch, seq: 0 }, &first);
            log
        });
        Ok(log.head())
    }

    async fn commit(&self, plan: PlanId, expected: Head, batch: &[Proposal], terms: &Terms) -> Result<CommitOutcome> {
        debug_assert!(!batch.is_empty(), "a commit adds something");
        let now = self.clock.unix_ms();
        let mut logs = lock(&self.logs);
        let Some(log) = logs.plans.get_mut(&plan) else { return Ok(CommitOutcome::Moved { head: None }) };
        let repeats: Vec<_> = (batch.iter().enumerate())
            .filter_map(|(index, proposal)| Some((index, *log.operations.get(&proposal.key)?)))
            .collect();
        // What is restored is known by head and hash.
        if !repeats.is_empty() && matches!(terms, Terms::Add { .. }) {
            return Ok(CommitOutcome::Repeated { repeats });
        }
        if log.head() != expected {
            return Ok(CommitOutcome::Moved { head: Some(log.head()) });
        }
        // One process has one life, in which nothing is lost: only what the writer lost elsewhere can be in the way.
        let epoch = match terms {
            Terms::Restore { epoch } => *epoch,
            Terms::Add { lost_epoch: None, begins_epoch, .. } => begins_epoch.unwrap_or(expected.revision.epoch),
            Terms::Add { lost_epoch: Some(lost), begins_epoch, .. } => {
                let least = expected.revision.epoch.max(*lost) + 1;
                match begins_epoch {
                    Some(epoch) if *epoch >= least => *epoch,
                    _ => return Ok(CommitOutcome::NewEpoch { epoch: now.max(least) }),
                }
            }
        };
        let mut place = Revision { epoch, ..expected.revision };
        let mut published = Vec::with_capacity(batch.len());
        for proposal in batch {
            place = place.next();
            published.push(log.append(place, proposal));
        }
        // Still under the logs' lock: the order of publishing is the order of the log.
        let beside = envelope::beside(batch.iter().map(|proposal| proposal.trace));
        let message = envelope::encode(&published, clock::since_epoch(), &beside);
        lock(&self.hub).publish(Channel::Plan(plan), &message);
        Ok(CommitOutcome::Committed { life: life() })
    }

    async fn range(&self, plan: PlanId, after: Option<Revision>, limit: usize, _: Lane) -> Result<LogPage> {
        let limit = limit.clamp(1, LOG_PAGE_ENTRIES);
        let logs = lock(&self.logs);
        let Some(log) = logs.plans.get(&plan) else { return Ok(LogPage::default()) };
        let from = log.entries.partition_point(|kept| Some(kept.entry.revision) <= after);
        let (mut entries, mut bytes): (Vec<LogEntry>, usize) = (Vec::new(), 0);
        for kept in log.entries.range(from..) {
            if entries.len() == limit || bytes >= LOG_PAGE_BYTES {
                break;
            }
            bytes += if entries.is_empty() { 0 } else { kept.entry.payload.len() };
            entries.push(kept.entry.clone());
        }
        Ok(LogPage { has_more: entries.len() == limit || bytes >= LOG_PAGE_BYTES, entries })
    }

    fn lives(&self) -> BoxStream<'static, StoreLife> {
        stream::iter([life()]).boxed()
    }

    async fn heads(&self, plans: &[PlanId]) -> Result<Vec<Option<LogState>>> {
        let logs = lock(&self.logs);
        let state = |plan| Some(LogState { head: logs.plans.get(plan).map(PlanLog::head), life: life() });
        Ok(plans.iter().map(state).collect())
    }

    async fn revive(
        &self,
        plan: PlanId,
        snapshot: StoredSnapshot,
        changes: &[(LogEntry, OperationKey)],
        _: Option<&StoreLife>,
    ) -> Result<LogState> {
        let mut logs = lock(&self.logs);
        let log = logs.plans.entry(plan).or_insert_with(|| {
            let mut log = PlanLog::default();
            for (entry, key) in changes {
                log.keep(entry.clone(), key.clone());
            }
            if changes.is_empty() {
                // The head has no text any more. Nobody reads it: the snapshot stands for it.
                let Head { revision, hash } = snapshot.head;
                let entry = LogEntry { revision, hash, payload: "".into() };
                log.entries.push_back(Kept { entry, key: OperationKey::from_text("") });
            }
            log.snapshots.push(KeptSnapshot { snapshot, since: Instant::now() });
            log
        });
        Ok(LogState { head: Some(log.head()), life: life() })
    }

    async fn find(&self, plan: PlanId, key: &OperationKey) -> Result<Option<Revision>> {
        Ok(lock(&self.logs).plans.get(&plan).and_then(|log| log.operations.get(key).copied()))
    }

    async fn note_unchanged(&self, plan: PlanId, key: &OperationKey, found: Head) -> Result<Noted> {
        let mut logs = lock(&self.logs);
        let Some(log) = logs.plans.get_mut(&plan) else { return Ok(Noted::Elsewhere) };
        if let Some(known) = log.operations.get(key) {
            return Ok(Noted::Known(*known));
        }
        if log.at(found.revision).is_none_or(|entry| entry.hash != found.hash) {
            return Ok(Noted::Elsewhere);
        }
        log.operations.insert(key.clone(), found.revision);
        log.unchanged.push_back((found.revision, key.clone()));
        log.forget_unchanged(UNCHANGED_OPERATIONS_MAX, None);
        Ok(Noted::New)
    }

    async fn delete(&self, plan: PlanId) -> Result<()> {
        lock(&self.logs).plans.remove(&plan);
        Ok(())
    }
}

#[async_trait]
impl SnapshotStore for Store {
    async fn load(&self, plan: PlanId, at_or_before: Option<Revision>, _: Lane) -> Result<Option<StoredSnapshot>> {
        let logs = lock(&self.logs);
        let Some(log) = logs.plans.get(&plan) else { return Ok(None) };
        let fits = |kept: &&KeptSnapshot| at_or_before.is_none_or(|place| kept.snapshot.head.revision <= place);
        Ok(log.snapshots.iter().rev().find(fits).map(|kept| kept.snapshot.clone()))
    }

    async fn store(&self, plan: PlanId, snapshot: StoredSnapshot, retention: Retention) -> Result<bool> {
        let mut logs = lock(&self.logs);
        let Some(log) = logs.plans.get_mut(&plan) else { return Ok(false) };
        let place = snapshot.head.revision;
        let newer = log.snapshots.last().is_none_or(|newest| newest.snapshot.head.revision < place);
        let matches = log.at(place).is_some_and(|entry| entry.hash == snapshot.head.hash);
        if !(newer && matches) {
            return Ok(false);
        }
        log.snapshots.push(KeptSnapshot { snapshot, since: Instant::now() });
        log.trim(retention);
        Ok(true)
    }
}

/// The life of a store in memory: there is one.
fn life() -> StoreLife {
    StoreLife::new("embedded")
}

impl PlanLog {
    fn head(&self) -> Head {
        let entry = &self.entries.back().expect("a log has at least one entry").entry;
        Head { revision: entry.revision, hash: entry.hash }
    }

    fn at(&self, place: Revision) -> Option<&LogEntry> {
        let index = self.entries.binary_search_by_key(&place, |kept| kept.entry.revision).ok()?;
        Some(&self.entries[index].entry)
    }

    fn append(&mut self, place: Revision, proposal: &Proposal) -> LogEntry {
        let entry = LogEntry { revision: place, hash: proposal.hash, payload: proposal.payload.clone() };
        self.keep(entry.clone(), proposal.key.clone());
        entry
    }

    fn keep(&mut self, entry: LogEntry, key: OperationKey) {
        self.operations.insert(key.clone(), entry.revision);
        self.entries.push_back(Kept { entry, key });
    }

    /// Lets the log begin behind a later snapshot, one after the other, as long as `changes` entries stay behind it
    /// and the ones before it are either old (nothing in a snapshot is younger than the snapshot) or too many.
    fn trim(&mut self, retention: Retention) {
        let head = self.head().revision;
        let mut reach = self.entries.len() as u64;
        let mut base = None;
        for (index, kept) in self.snapshots.iter().enumerate() {
            let behind = head.seq - kept.snapshot.head.revision.seq;
            let dispensable = kept.since.elapsed() >= retention.age || reach > retention.changes_max;
            if behind < retention.changes || !dispensable {
                break;
            }
            (base, reach) = (Some(index), behind);
        }
        let Some(base) = base else { return };
        self.snapshots.drain(..base);
        let begins_after = self.snapshots[0].snapshot.head.revision;
        // The last entry stays even if the snapshot covers it: it is the head.
        while self.entries.len() > 1 && self.entries[0].entry.revision <= begins_after {
            if let Some(gone) = self.entries.pop_front() {
                self.operations.remove(&gone.key);
            }
        }
        let begins = self.entries.front().map(|kept| kept.entry.revision);
        self.forget_unchanged(usize::MAX, begins);
    }

    /// Forgets operations that changed nothing, the oldest first, until there are so many at most and the oldest has found
    /// nothing before a place, if there is one.
    fn forget_unchanged(&mut self, most: usize, first: Option<Revision>) {
        while let Some((found, _)) = self.unchanged.front()
            && (self.unchanged.len() > most || Some(*found) < first)
            && let Some((found, key)) = self.unchanged.pop_front()
        {
            // It may stand for a change since: one that was lost and is restored.
            if self.operations.get(&key) == Some(&found) {
                self.operations.remove(&key);
            }
        }
    }
}
