//! How a copy that may have missed something, or is another history, is brought together with its log again.
//!
//! One read at a time: what turns out to be needed meanwhile follows it, since a read that is under way may not see what
//! happened since it began. So an answer never meets a question it was not given to. A store that does not answer is
//! asked again at the next head check, not sooner: it has trouble enough.

use std::sync::Arc;

use mille_shared::limits;
use mille_shared::log::{Head, LogEntry, LogPage};

use super::{Cause, Effect, Replica};
use crate::plan::Plan;

/// Entries kept while the log is read.
pub(super) const HELD_ENTRIES_MAX: usize = 4_096;

const _: () = assert!(HELD_ENTRIES_MAX >= limits::COMMIT_BATCH_MAX, "one batch behind a hole must fit");

/// Where a repair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// A read is under way; `then` must follow it.
    Reading { what: Read, then: Option<Read> },
    /// The store did not answer; the next head seen asks again.
    Failed { wanted: Read },
}

/// How a copy is mended; the later one mends more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// What follows our head.
    Fetch,
    /// Everything: our history is not (or may not be) the log's, or the log no longer reaches back to us.
    Reload(Cause),
}

impl Read {
    fn or_more(self, other: Option<Self>) -> Self {
        match other {
            Some(reload @ Self::Reload(_)) if self == Self::Fetch => reload,
            _ => self,
        }
    }
}

impl Replica {
    /// Whether our history is known not to be the log's, so that nothing may be added to it.
    pub(super) fn wants_reload(&self) -> bool {
        match self.repair {
            None => false,
            Some(Repair::Reading { what, then }) => matches!(what.or_more(then), Read::Reload(_)),
            Some(Repair::Failed { wanted }) => matches!(wanted, Read::Reload(_)),
        }
    }

    /// Reads what we lack.
    pub(super) fn repair(&mut self, cause: Cause, effects: &mut Vec<Effect>) {
        self.want(Read::Fetch, cause, effects);
    }

    /// Opens the plan anew.
    pub(super) fn reload(&mut self, cause: Cause, effects: &mut Vec<Effect>) {
        self.want(Read::Reload(cause), cause, effects);
    }

    /// Reads now, or once more after the read under way: that one may not see what happened since it began.
    fn want(&mut self, read: Read, cause: Cause, effects: &mut Vec<Effect>) {
        let is_known =
            self.wants_reload() || (read == Read::Fetch && matches!(self.repair, Some(Repair::Reading { .. })));
        if !is_known {
            effects.push(Effect::RepairStarted(cause));
        }
        match &mut self.repair {
            Some(Repair::Reading { then, .. }) => *then = Some(read.or_more(*then)),
            Some(Repair::Failed { wanted }) => {
                let read = read.or_more(Some(*wanted));
                self.read(read, effects);
            }
            None => self.read(read, effects),
        }
    }

    fn read(&mut self, what: Read, effects: &mut Vec<Effect>) {
        self.held.clear();
        self.repair = Some(Repair::Reading { what, then: None });
        effects.push(match what {
            Read::Fetch => Effect::Fetch { after: self.plan.revision() },
            Read::Reload(_) => Effect::Reload,
        });
    }

    pub(super) fn fetched(&mut self, page: LogPage, effects: &mut Vec<Effect>) {
        let Some(Repair::Reading { what: Read::Fetch, .. }) = self.repair else { return };
        let next = self.plan.revision().next();
        let trimmed =
            page.entries.first().is_some_and(|first| first.revision.epoch == next.epoch && first.revision > next);
        if trimmed {
            self.reload(Cause::Trimmed, effects);
        } else {
            // May find that a reload must follow: what was read is another history.
            self.sequence(page.entries, effects);
        }
        let Some(Repair::Reading { then, .. }) = self.repair else { return };
        // Entries that still wait came after the log was read; what is between is there by now.
        let incomplete = page.has_more || !self.held.is_empty();
        match then.or(incomplete.then_some(Read::Fetch)) {
            Some(read) => self.read(read, effects),
            None => self.repair = None,
        }
    }

    /// Who waits for a commit is answered by [`Self::commit_next`], which follows every input.
    pub(super) fn repair_failed(&mut self) {
        if let Some(Repair::Reading { what, then }) = self.repair {
            self.repair = Some(Repair::Failed { wanted: what.or_more(then) });
            self.held.clear();
        }
    }

    pub(super) fn reloaded(&mut self, plan: Plan, effects: &mut Vec<Effect>) {
        let Some(Repair::Reading { what: Read::Reload(cause), then }) = self.repair else { return };
        self.repair = None;
        (self.missed, self.ahead) = (None, None);
        let same = plan.head() == self.plan.head();
        self.plan = Arc::new(plan);
        if !same {
            self.ring.clear();
        }
        // What came meanwhile and is part of this history follows now. What is not is dropped: if it was the log's after
        // all, the next head check tells.
        let epoch = self.plan.revision().epoch;
        let held = std::mem::take(&mut self.held);
        let mut following = Vec::new();
        self.sequence(held.into_values().filter(|entry| entry.revision.epoch == epoch), &mut following);
        if !same {
            // Listeners begin anew with the plan as it is now, what followed included.
            following.retain(|effect| !matches!(effect, Effect::Deliver(_)));
            effects.push(Effect::Reset(cause));
        }
        effects.append(&mut following);
        if let Some(read) = then {
            self.want(read, cause, effects);
        }
    }

    /// Compares our head with the log's.
    ///
    /// Question and answer cross the messages on their way, so a difference counts only if it outlives the next check:
    /// a log that is ahead of us may be about to be heard of, one that is behind us may have been asked before our last
    /// commit.
    pub(super) fn compare(&mut self, head: Option<Head>, effects: &mut Vec<Effect>) {
        if matches!(self.repair, Some(Repair::Failed { .. })) {
            return self.repair(Cause::HeadCheck, effects);
        }
        if self.repair.is_some() {
            return;
        }
        let ours = self.plan.head();
        let (missed, ahead) = (self.missed.take(), self.ahead.take());
        let Some(head) = head else { return self.reload(Cause::Fork, effects) };
        if head.revision.epoch != ours.revision.epoch || (head.revision == ours.revision && head.hash != ours.hash) {
            self.reload(Cause::Fork, effects);
        } else if head.revision > ours.revision {
            self.missed = Some(head.revision);
            if missed.is_some_and(|missed| missed > ours.revision) {
                self.repair(Cause::HeadCheck, effects);
            }
        } else if head.revision < ours.revision {
            self.ahead = Some(ours.revision);
            if ahead.is_some_and(|ahead| head.revision < ahead) {
                self.reload(Cause::Fork, effects);
            }
        }
    }

    /// Keeps an entry until the read under way is answered.
    pub(super) fn hold(&mut self, entry: LogEntry) {
        if self.held.len() < HELD_ENTRIES_MAX {
            self.held.insert(entry.revision, entry);
        } else if let Some(Repair::Reading { then, .. }) = &mut self.repair {
            *then = Some(Read::Fetch.or_more(*then));
        }
    }
}
