//! How a copy that may have missed something is brought together with its log again.
//!
//! One question at a time, so an answer never meets a question it was not given to; what turns out to be needed
//! meanwhile follows it, since an answer under way may not tell what happened since it was asked for. A store that does
//! not answer is asked again at the next head check, not sooner: it has trouble enough.
//!
//! Whatever the doubt, the first question is the same: what does the log hold from our head on? If our head is there,
//! what follows it is what we lack. If it is not, `restore` finds out why.

use std::sync::Arc;

use mille_shared::Revision;
use mille_shared::limits;
use mille_shared::log::{Head, LogEntry, LogPage};

use super::{Cause, Effect, From, HeadSeen, Replica};
use crate::opened::Opened;

/// Entries kept while the log is read.
pub(super) const HELD_ENTRIES_MAX: usize = 4_096;

const _: () = assert!(HELD_ENTRIES_MAX >= limits::COMMIT_BATCH_MAX, "one batch behind a hole must fit");

/// Where a repair is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Repair {
    /// A question is under way. `again`: another look must follow its answer.
    Asking { ask: Ask, again: bool },
    /// The store did not answer; the next head seen asks again: for the whole plan, if that was the question.
    Failed { reload: Option<Cause> },
}

/// What the store is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    /// What it holds from this place on, our head when it was asked.
    Fetch { head: Head },
    /// Where the log ends.
    Locate,
    /// To take back what it lost, up to this place: so many changes, after `changes` that it took before.
    Restore { until: Head, offered: u64, changes: u64 },
    /// Where its history and ours part: they are one up to here.
    Compare { equal: Revision },
    /// To take the whole plan back.
    Revive,
    /// The whole plan.
    Reload(Cause),
}

impl Replica {
    /// Whether our history is known not to be the log's, so that nothing may be added to it.
    pub(super) fn is_rebuilding(&self) -> bool {
        match self.repair {
            Some(Repair::Asking { ask, .. }) => matches!(ask, Ask::Compare { .. } | Ask::Reload(_)),
            Some(Repair::Failed { reload }) => reload.is_some(),
            None => false,
        }
    }

    /// Looks what the log holds from our head on: now, or once more after the question under way.
    pub(super) fn repair(&mut self, cause: Cause, effects: &mut Vec<Effect>) {
        match &mut self.repair {
            Some(Repair::Asking { again, .. }) => *again = true,
            None => {
                effects.push(Effect::RepairStarted(cause));
                self.fetch(effects);
            }
            Some(Repair::Failed { .. }) => {
                effects.push(Effect::RepairStarted(cause));
                self.try_again(effects);
            }
        }
    }

    /// Opens the plan anew: our history is not the log's, or the log no longer reaches back to us.
    pub(super) fn reload(&mut self, cause: Cause, effects: &mut Vec<Effect>) {
        self.ask(Ask::Reload(cause), effects);
        effects.push(Effect::Reload);
    }

    fn fetch(&mut self, effects: &mut Vec<Effect>) {
        let head = self.plan.head();
        self.ask(Ask::Fetch { head }, effects);
        // What the answer tells need not be looked for once more.
        (self.suspicion, self.missed) = (None, None);
        // From our head on, not after it: that it is still there is half of the answer.
        effects.push(Effect::Fetch { after: head.revision.previous() });
    }

    /// Notes the next question; the caller asks it.
    pub(super) fn ask(&mut self, ask: Ask, effects: &mut Vec<Effect>) {
        let reads = matches!(ask, Ask::Fetch { .. } | Ask::Reload(_));
        let again = match self.repair {
            // The answer tells everything that was heard before the question.
            _ if reads => false,
            Some(Repair::Asking { again, .. }) => again || !self.held.is_empty(),
            _ => false,
        };
        if let (Ask::Reload(cause), Some(Repair::Asking { .. })) = (ask, self.repair) {
            effects.push(Effect::RepairStarted(cause));
        }
        if !matches!(ask, Ask::Fetch { .. }) {
            self.sightings.clear();
        }
        self.held.clear();
        self.is_confirmed = false;
        self.repair = Some(Repair::Asking { ask, again });
    }

    /// The question under way is answered, and we and the log are one.
    pub(super) fn asked(&mut self, is_incomplete: bool, effects: &mut Vec<Effect>) {
        let Some(Repair::Asking { again, .. }) = self.repair else { return };
        // Entries that still wait came after the log was read; what is between is there by now.
        if again || is_incomplete || !self.held.is_empty() {
            self.fetch(effects);
        } else {
            self.repair = None;
        }
    }

    /// Who waits for a commit is answered by [`Self::commit_next`], which follows every input.
    pub(super) fn repair_failed(&mut self) {
        if let Some(Repair::Asking { ask, .. }) = self.repair {
            let reload = if let Ask::Reload(cause) = ask { Some(cause) } else { None };
            self.repair = Some(Repair::Failed { reload });
            self.held.clear();
        }
    }

    fn try_again(&mut self, effects: &mut Vec<Effect>) {
        match self.repair {
            Some(Repair::Failed { reload: Some(cause) }) => self.reload(cause, effects),
            Some(Repair::Failed { reload: None }) => self.fetch(effects),
            Some(Repair::Asking { .. }) | None => {}
        }
    }

    pub(super) fn fetched(&mut self, page: LogPage, effects: &mut Vec<Effect>) {
        match self.repair {
            Some(Repair::Asking { ask: Ask::Fetch { head }, .. }) => self.fetched_from(head, page, effects),
            Some(Repair::Asking { ask: Ask::Compare { equal }, .. }) => self.compared(equal, &page, effects),
            _ => {}
        }
    }

    fn fetched_from(&mut self, asked: Head, page: LogPage, effects: &mut Vec<Effect>) {
        let mut entries = page.entries.into_iter();
        match entries.next() {
            Some(first) if first.revision == asked.revision && first.hash == asked.hash => {
                self.sequence(entries, From::Log, effects);
                if !self.is_rebuilding() {
                    self.asked(page.has_more, effects);
                }
            }
            Some(first) if first.revision.seq > asked.revision.seq && first.revision.epoch == asked.revision.epoch => {
                self.reload(Cause::Trimmed, effects);
            }
            Some(_) => self.find_parting(effects),
            None => self.locate(effects),
        }
    }

    pub(super) fn reloaded(&mut self, opened: Opened, effects: &mut Vec<Effect>) {
        let Some(Repair::Asking { ask: Ask::Reload(cause), again }) = self.repair else { return };
        self.repair = None;
        (self.missed, self.ahead) = (None, None);
        let same = opened.plan.head() == self.plan.head();
        if !same {
            (self.plan, self.ring) = (Arc::new(opened.plan), opened.ring);
            self.standing.break_off();
            if self.standing.must_leave(self.plan.revision().epoch) {
                self.owed_reset = Some(cause);
            } else {
                self.owed_reset = None;
                effects.push(Effect::Reset(cause));
            }
        }
        // What came meanwhile and is part of this history follows now.
        let held = std::mem::take(&mut self.held);
        self.sequence(held.into_values(), From::Channel, effects);
        if again {
            self.repair(cause, effects);
        }
    }

    /// Compares our head with the log's.
    ///
    /// Question and answer cross the messages on their way, so a difference counts only if it outlives the next check:
    /// a log that is ahead of us may be about to be heard of, one that is behind us may have been asked before our last
    /// commit. After an interruption, and in a new life of the store, it counts at once.
    pub(super) fn compare(&mut self, seen: HeadSeen, effects: &mut Vec<Effect>) {
        let HeadSeen { state, is_settled } = seen;
        if is_settled {
            self.standing.settle(&state.life);
        }
        match self.repair {
            Some(Repair::Failed { .. }) => return self.repair(Cause::HeadCheck, effects),
            Some(Repair::Asking { .. }) => return,
            None => {}
        }
        let is_followed = self.meets_again(&state.life);
        let suspicion = self.suspicion.take();
        let (missed, ahead) = (self.missed.take(), self.ahead.take());
        let ours = self.plan.head();
        let Some(head) = state.head else { return self.meet(None, Cause::Vanished, effects) };
        if head == ours {
            self.is_confirmed = true;
            self.sightings.saw(head);
            return self.standing.follow(&state.life);
        }
        let cause = suspicion.unwrap_or(Cause::HeadCheck);
        let counts_now = suspicion.is_some() || !is_followed;
        if head.revision.seq > ours.revision.seq {
            let outlived = missed.is_some_and(|missed| missed.seq > ours.revision.seq);
            if counts_now || outlived { self.repair(cause, effects) } else { self.missed = Some(head.revision) }
        } else {
            let is_older = self.ring.hash_at(head.revision) == Some(head.hash);
            let outlived = ahead.is_some_and(|ahead| head.revision.seq < ahead.seq);
            if counts_now || outlived || !is_older {
                self.repair(cause, effects);
            } else {
                self.sightings.saw(head);
                self.ahead = Some(ours.revision);
            }
        }
    }

    /// Keeps an entry until the question under way is answered.
    pub(super) fn hold(&mut self, entry: LogEntry) {
        if self.held.len() < HELD_ENTRIES_MAX {
            self.held.insert(entry.revision, entry);
        } else if let Some(Repair::Asking { again, .. }) = &mut self.repair {
            *again = true;
        }
    }
}
