//! What goes wrong in a scenario, and what a run has met.

use std::collections::HashMap;

use mille_core::replica::Cause;

/// What may go wrong, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
    pub(crate) unanswered: u64,
    pub(crate) nemesis: bool,
    pub(crate) rollback: bool,
}

impl Faults {
    pub(crate) const NONE: Self = Self { lost: 0, doubled: 0, late: 0, unanswered: 0, nemesis: false, rollback: false };
    pub(crate) const ROUGH: Self =
        Self { lost: 15, doubled: 10, late: 15, unanswered: 10, nemesis: true, rollback: false };
    pub(crate) const ROLLBACK: Self =
        Self { lost: 10, doubled: 10, late: 10, unanswered: 5, nemesis: true, rollback: true };
}

/// What happened in a run: a scenario that never meets its subject proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) unchanged: u64,
    pub(crate) repeated: u64,
    pub(crate) unavailable: u64,
    pub(crate) resets: u64,
    pub(crate) replays: u64,
    pub(crate) restarts: u64,
    pub(crate) rollbacks: u64,
    pub(crate) repairs: HashMap<Cause, u64>,
}

impl Seen {
    pub(crate) fn add(&mut self, run: Self) {
        self.accepted += run.accepted;
        self.refused += run.refused;
        self.unchanged += run.unchanged;
        self.repeated += run.repeated;
        self.unavailable += run.unavailable;
        self.resets += run.resets;
        self.replays += run.replays;
        self.restarts += run.restarts;
        self.rollbacks += run.rollbacks;
        for (cause, count) in run.repairs {
            *self.repairs.entry(cause).or_default() += count;
        }
    }

    /// Whether every answer and every cause of a repair was met (a fork is the rollback's).
    pub(crate) fn is_thorough(&self) -> bool {
        let causes = [Cause::Hole, Cause::Reconnect, Cause::HeadCheck, Cause::Moved, Cause::Behind, Cause::Unanswered];
        causes.iter().chain([&Cause::Trimmed]).all(|cause| self.repairs.contains_key(cause))
            && [self.accepted, self.refused, self.unchanged, self.repeated, self.unavailable].iter().all(|n| *n > 20)
            && [self.resets, self.replays, self.restarts].iter().all(|n| *n > 5)
    }
}
