//! The log as the contract has it, and the plan it stands for at every place.
//!
//! Every entry is checked as it comes in: it follows, its operation is new, and the document after it keeps every rule.

use std::collections::{HashMap, HashSet};

use mille_core::replay::Replay;
use mille_core::{Applied, Opened, Plan};
use mille_shared::log::{
    CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, StoredSnapshot, Terms,
};
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
    /// The store's life, and the one in which the log was written last.
    life: u64,
    written_in: Option<StoreLife>,
    /// Every place that was lost at some time, with its operation.
    pub(crate) lost: HashMap<Head, OperationKey>,
    /// When the change at each place was added first.
    added_at: HashMap<Head, u64>,
    /// Every place there ever was: the plan there, the place before, and the operation that led from there.
    ever: HashMap<Head, Place>,
    /// Operations of a log that was put back by a node that did not remember them: a repeat is not recognised.
    forgotten: HashSet<OperationKey>,
    /// Epochs that were offered.
    grants: u64,
    /// New epochs that began.
    pub(crate) epochs: u64,
    /// Every epoch there was: none begins twice.
    epochs_seen: HashSet<u64>,
}

struct Place {
    plan: Plan,
    before: Head,
    operation: OperationKey,
}

impl Log {
    pub(crate) fn new() -> Self {
        let first = creation(EPOCH);
        let states = vec![Plan::begin(&first).unwrap()];
        Self {
            added_at: HashMap::new(),
            ever: HashMap::new(),
            entries: vec![first],
            operations: HashMap::new(),
            snapshots: Vec::new(),
            states,
            life: 0,
            written_in: Some(StoreLife::new("0")),
            lost: HashMap::new(),
            forgotten: HashSet::new(),
            grants: 0,
            epochs: 0,
            epochs_seen: HashSet::from([EPOCH]),
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        self.states.last().unwrap()
    }

    pub(crate) fn head(&self) -> Head {
        self.plan().head()
    }

    pub(crate) fn life(&self) -> StoreLife {
        StoreLife::new(self.life.to_string())
    }

    /// `None` as the head: the log has vanished.
    pub(crate) fn state(&self) -> LogState {
        LogState { head: (!self.is_gone()).then(|| self.head()), life: self.life() }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries that were added, to be published.
    pub(crate) fn commit(
        &mut self,
        now: u64,
        expected: Head,
        batch: &[Proposal],
        terms: &Terms,
    ) -> (CommitOutcome, Vec<LogEntry>) {
        let repeats: Vec<_> = (batch.iter().enumerate())
            .filter_map(|(index, proposal)| Some((index, self.find(&proposal.key)?)))
            .collect();
        if !repeats.is_empty() && matches!(terms, Terms::Add { .. }) {
            return (CommitOutcome::Repeated { repeats }, Vec::new());
        }
        if self.is_gone() {
            return (CommitOutcome::Moved { head: None }, Vec::new());
        }
        if self.head() != expected {
            return (CommitOutcome::Moved { head: Some(self.head()) }, Vec::new());
        }
        let mut place = expected.revision.next();
        match terms {
            Terms::Restore { epoch } => place.epoch = *epoch,
            Terms::Add { followed, settled, lost_epoch, begins_epoch } if !batch.is_empty() => {
                let is_new_life = self.written_in != Some(self.life());
                if is_new_life && settled.as_ref() != Some(&self.life()) {
                    return (CommitOutcome::Reborn { life: self.life() }, Vec::new());
                }
                let is_vouched_for = self.written_in.as_ref().is_some_and(|life| followed.contains(life));
                let after = place.epoch.max(lost_epoch.unwrap_or(0));
                let begins_epoch = begins_epoch.filter(|epoch| *epoch > after);
                let must_begin = lost_epoch.is_some() || (is_new_life && !is_vouched_for);
                if must_begin && begins_epoch.is_none() {
                    self.grants += 1;
                    let epoch = (EPOCH + now * 100 + self.grants % 100).max(after + 1);
                    return (CommitOutcome::NewEpoch { epoch }, Vec::new());
                }
                if let Some(epoch) = begins_epoch {
                    assert!(self.epochs_seen.insert(epoch), "an epoch begins once");
                    self.epochs += 1;
                    place.epoch = epoch;
                }
                self.written_in = Some(self.life());
            }
            Terms::Add { .. } => {}
        }
        let at = |index: usize| Revision { seq: place.seq + index as u64, ..place };
        let added: Vec<_> =
            batch.iter().enumerate().map(|(index, proposal)| self.append(now, at(index), proposal)).collect();
        (CommitOutcome::Committed { life: self.life() }, added)
    }

    fn append(&mut self, now: u64, revision: Revision, proposal: &Proposal) -> LogEntry {
        let entry = LogEntry { revision, hash: proposal.hash, payload: proposal.payload.clone() };
        let before = self.head();
        let mut plan = self.plan().clone();
        let applied = plan.apply(&entry).expect("an entry follows the one before");
        let document = plan.document();
        assert_valid(&document);
        let key = applied.operation_key();
        assert_eq!(key, proposal.key, "an operation is remembered under its own name");
        assert!(self.operations.insert(key.clone(), revision).is_none(), "an operation is in the log twice");
        self.added_at.entry(plan.head()).or_insert(now);
        self.ever.insert(plan.head(), Place { plan: plan.clone(), before, operation: key });
        self.states.push(plan);
        self.entries.push(entry.clone());
        entry
    }

    pub(crate) fn find(&self, key: &OperationKey) -> Option<Revision> {
        self.operations.get(key).copied()
    }

    /// Every operation that is part of the plan: also where the log no longer tells.
    pub(crate) fn history(&self) -> HashSet<OperationKey> {
        let mut history = HashSet::new();
        let mut head = self.head();
        while let Some(place) = self.ever.get(&head) {
            let is_new = history.insert(place.operation.clone());
            assert!(is_new || self.forgotten.contains(&place.operation), "an operation was applied twice");
            head = place.before;
        }
        history
    }

    /// The places of changes that were first added at `since` or later.
    pub(crate) fn added_since(&self, since: u64) -> impl Iterator<Item = Head> {
        self.added_at.iter().filter(move |(_, at)| **at >= since).map(|(place, _)| *place)
    }

    /// Whether a history has a place in it.
    pub(crate) fn led_to(&self, place: Head, mut head: Head) -> bool {
        while head != place {
            match self.ever.get(&head) {
                Some(before) => head = before.before,
                None => return false,
            }
        }
        true
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

    /// A plan opened the way nodes do. `None`: there is no log.
    pub(crate) fn open(&self) -> Option<Opened> {
        let mut opened = self.snapshot(None).map(|stored| Opened::from_snapshot(stored).unwrap());
        loop {
            let page = self.range(opened.as_ref().map(Opened::revision));
            for entry in &page.entries {
                match &mut opened {
                    None => opened = Some(Opened::begin(entry).unwrap()),
                    Some(opened) => opened.apply(entry).unwrap(),
                }
            }
            if !page.has_more {
                return opened;
            }
        }
    }

    /// The changes between two places, the way listeners read them. `None`: the log does not reach back.
    pub(crate) fn replay(&self, after: Revision, until: Revision) -> Option<Vec<std::sync::Arc<mille_core::Applied>>> {
        let mut replay = Replay::new(self.snapshot(Some(after)), after, until).ok()?;
        let mut told = Vec::new();
        while !replay.is_done() {
            let page = self.range(replay.position());
            if page.entries.is_empty() {
                return None;
            }
            told.extend(replay.feed(&page.entries).ok()?);
        }
        Some(told)
    }

    /// Keeps a snapshot if it is newer and of this history, then trims.
    pub(crate) fn store(&mut self, stored: StoredSnapshot) {
        if self.is_gone() {
            return;
        }
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

    /// A new life of the store.
    pub(crate) fn be_reborn(&mut self) {
        self.life += 1;
    }

    /// A failover to a copy that lacks the last entries. Never those that a snapshot covers: it would be lost as well. Nor those
    /// that were added before `since`.
    pub(crate) fn lose_end(&mut self, count: usize, since: u64) -> Vec<Head> {
        let has_beginning = self.entries.first().is_some_and(|first| first.revision.seq == 0);
        let base = self.snapshots.first().filter(|_| !has_beginning).map(|stored| stored.head.revision);
        let open = self.entries.iter().filter(|entry| Some(entry.revision) > base).count();
        let count = count.min(open).min(self.entries.len().saturating_sub(1));
        let mut lost = Vec::new();
        while lost.len() < count && self.added_at.get(&self.head()).is_some_and(|at| *at >= since) {
            lost.push(self.lose_last());
        }
        lost
    }

    /// All of it is gone.
    pub(crate) fn vanish(&mut self) -> Vec<Head> {
        let lost = (1..self.entries.len()).map(|_| self.lose_last()).collect();
        // The places before what is left were trimmed; whoever gives the plan back has them all the same.
        self.entries.clear();
        self.operations.clear();
        self.snapshots.clear();
        lost
    }

    /// Takes back a plan that vanished.
    pub(crate) fn revive(
        &mut self,
        plan: &Plan,
        changes: &[std::sync::Arc<Applied>],
        known_in: Option<StoreLife>,
    ) -> LogState {
        if self.is_gone() {
            let seq = plan.revision().seq;
            let first = usize::try_from(seq + 1 - changes.len() as u64).unwrap();
            // States only count from here on; those before keep the numbers right.
            self.states.resize(first, plan.clone());
            for applied in changes {
                self.states.push(self.ever[&applied.head].plan.clone());
                self.entries.push(applied.entry());
                self.operations.insert(applied.operation_key(), applied.revision());
            }
            if changes.is_empty() {
                self.states.resize(first, plan.clone());
                let Head { revision, hash } = plan.head();
                self.entries.push(LogEntry { revision, hash, payload: "".into() });
            }
            assert_eq!(self.plan(), plan, "the changes lead to the plan");
            let forgotten = self.history().into_iter().filter(|key| !self.operations.contains_key(key));
            self.forgotten.extend(forgotten.collect::<Vec<_>>());
            self.snapshots = vec![plan.to_snapshot()];
            self.written_in = known_in;
        }
        self.state()
    }

    fn lose_last(&mut self) -> Head {
        let gone = self.entries.pop().unwrap().revision;
        let head = self.states.pop().unwrap().head();
        let key = self.operations.iter().find(|(_, place)| **place == gone).map(|(key, _)| key.clone()).unwrap();
        self.operations.remove(&key);
        self.lost.insert(head, key);
        let left = self.head().revision;
        self.snapshots.retain(|stored| stored.head.revision <= left);
        head
    }
}
