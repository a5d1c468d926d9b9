//! How a log that lost its end gets it back, or why not.
//!
//! After a restart or a failover the store may know less than we do. As long as what it has is the beginning of what we
//! have, we offer it the rest: same numbers, same hashes, and nobody notices. Several nodes may do so at once; the log
//! takes each entry from whoever is first. If others have built on what was left, there are two histories and theirs is
//! the log's: we find the place where they part, keep the changes that only we have to judge them again as new ones, and
//! open the plan anew. From then on the log must leave its epoch ([`super::standing`]).

use mille_shared::log::{CommitOutcome, Head, LogPage, LogState, Proposal};
use mille_shared::{Revision, limits};

use super::commit::Pending;
use super::repair::{Ask, Repair};
use super::{Cause, Effect, Replica, Rollback};

impl Replica {
    pub(super) fn located(&mut self, state: LogState, effects: &mut Vec<Effect>) {
        if matches!(self.repair, Some(Repair::Asking { ask: Ask::Locate | Ask::Revive, .. })) {
            self.meet(state.head, Cause::Fork, effects);
        }
    }

    /// Decides what to do about a log that ends here.
    pub(super) fn meet(&mut self, log: Option<Head>, cause: Cause, effects: &mut Vec<Effect>) {
        if self.repair.is_none() {
            effects.push(Effect::RepairStarted(cause));
        }
        let ours = self.plan.head();
        match log {
            None => {
                self.ask(Ask::Revive, effects);
                let changes = self.ring.from(0).cloned().collect();
                let known_in = self.standing.last_followed().cloned();
                effects.push(Effect::Revive { plan: self.plan.clone(), changes, known_in });
            }
            Some(log) if log == ours => {
                self.repair.get_or_insert(Repair::Asking { ask: Ask::Locate, again: false });
                self.asked(false, effects);
            }
            // In an older epoch it went on from before ours began.
            Some(log) if log.revision.seq > ours.revision.seq && log.revision.epoch >= ours.revision.epoch => {
                self.repair.get_or_insert(Repair::Asking { ask: Ask::Locate, again: false });
                self.asked(true, effects);
            }
            Some(log) if self.ring.hash_at(log.revision) == Some(log.hash) => self.restore(log, 0, effects),
            Some(_) => self.find_parting(effects),
        }
    }

    /// Offers what follows `left`, the head of what is left of the log, as far as one commit takes it.
    fn restore(&mut self, left: Head, changes: u64, effects: &mut Vec<Effect>) {
        let lost = self.ring.from(left.revision.seq + 1);
        let mut batch: Vec<Proposal> = Vec::new();
        let (mut until, mut bytes) = (left, 0);
        for applied in lost {
            let begins_epoch = !batch.is_empty() && applied.revision().epoch != until.revision.epoch;
            let is_full = batch.len() >= limits::COMMIT_BATCH_MAX || bytes >= limits::COMMIT_BATCH_BYTES_MAX;
            if begins_epoch || is_full {
                break;
            }
            bytes += applied.payload.len();
            let (hash, payload) = (applied.head.hash, applied.payload.clone());
            batch.push(Proposal { key: applied.operation_key(), hash, payload, trace: None });
            until = applied.head;
        }
        self.ask(Ask::Restore { until, offered: batch.len() as u64, changes }, effects);
        effects.push(Effect::Restore { expected: left, batch, epoch: until.revision.epoch });
    }

    pub(super) fn restored(&mut self, outcome: CommitOutcome, effects: &mut Vec<Effect>) {
        let Some(Repair::Asking { ask: Ask::Restore { until, offered, changes }, .. }) = self.repair else { return };
        match outcome {
            CommitOutcome::Committed { life } => {
                let changes = changes + offered;
                if self.ring.hash_at(until.revision) != Some(until.hash) {
                    // It was forgotten meanwhile, with what follows it perhaps.
                    return self.locate(effects);
                }
                if until.revision.seq < self.plan.revision().seq {
                    return self.restore(until, changes, effects);
                }
                self.standing.follow(&life);
                effects.push(Effect::Rollback(Rollback::Restored { changes, head: until.revision }));
                self.asked(false, effects);
            }
            CommitOutcome::Moved { head } => self.meet(head, Cause::Fork, effects),
            // No answer to a restoration: where does the log end?
            CommitOutcome::Repeated { .. } | CommitOutcome::Reborn { .. } | CommitOutcome::NewEpoch { .. } => {
                self.locate(effects);
            }
        }
    }

    pub(super) fn locate(&mut self, effects: &mut Vec<Effect>) {
        self.ask(Ask::Locate, effects);
        effects.push(Effect::Locate);
    }

    /// Looks for the place where the log's history and ours part, from the oldest change we remember on.
    pub(super) fn find_parting(&mut self, effects: &mut Vec<Effect>) {
        if self.ring.base() == self.plan.head() {
            // We remember no change to compare with.
            let head = self.plan.revision();
            return self.part(head, head.seq + 1, effects);
        }
        self.compare_after(self.ring.base().revision, effects);
    }

    fn compare_after(&mut self, equal: Revision, effects: &mut Vec<Effect>) {
        self.ask(Ask::Compare { equal }, effects);
        effects.push(Effect::Fetch { after: Some(equal) });
    }

    pub(super) fn compared(&mut self, mut equal: Revision, page: &LogPage, effects: &mut Vec<Effect>) {
        for entry in &page.entries {
            if equal == self.plan.revision() {
                break;
            }
            if self.ring.hash_at(entry.revision) != Some(entry.hash) {
                // What lies between was trimmed, and may well be part of the log's history: only from here on they differ.
                return self.part(equal, entry.revision.seq, effects);
            }
            equal = entry.revision;
        }
        if equal == self.plan.revision() {
            // It has all that we have: it was restored meanwhile.
            return self.asked(true, effects);
        }
        if page.has_more {
            return self.compare_after(equal, effects);
        }
        match self.ring.hash_at(equal) {
            // It has nothing that we have not: it was restored meanwhile, as far as that.
            Some(hash) if equal != self.ring.base().revision => {
                self.meet(Some(Head { revision: equal, hash }), Cause::Fork, effects);
            }
            _ => self.part(equal, equal.seq + 1, effects),
        }
    }

    /// Takes the log's history, which is ours up to `equal`. Our changes from number `from` on will be judged again.
    fn part(&mut self, equal: Revision, from: u64, effects: &mut Vec<Effect>) {
        let lost: Vec<_> = self.ring.from(from).cloned().collect();
        let is_partial = equal == self.ring.base().revision || from > equal.seq + 1;
        effects.push(Effect::Rollback(Rollback::Parted { after: equal, lost: lost.len() as u64, is_partial }));
        self.standing.lose(self.plan.revision().epoch);
        for applied in lost.into_iter().rev() {
            self.pending.push_front(Pending::lost(applied));
        }
        self.reload(Cause::Fork, effects);
    }
}
