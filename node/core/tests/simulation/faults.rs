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
    /// Nodes are cut off and restarted, listeners go elsewhere.
    pub(crate) nemesis: bool,
    /// The store is restarted, and loses nothing.
    pub(crate) restarts: bool,
    /// The store is restarted or replaced, and logs lose their end.
    pub(crate) rollbacks: bool,
    /// In so many of a hundred cases by someone who plays an old copy back: no new life tells of it.
    pub(crate) silent: u64,
    /// A log vanishes whole.
    pub(crate) vanishes: bool,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lost: 0,
        doubled: 0,
        late: 0,
        unanswered: 0,
        nemesis: false,
        restarts: false,
        rollbacks: false,
        silent: 0,
        vanishes: false,
    };
    pub(crate) const ROUGH: Self =
        Self { lost: 15, doubled: 10, late: 15, unanswered: 10, nemesis: true, ..Self::NONE };
    pub(crate) const RESTARTS: Self = Self { restarts: true, ..Self::ROUGH };
    pub(crate) const FAILOVERS: Self = Self { rollbacks: true, ..Self::RESTARTS };
    pub(crate) const EVERYTHING: Self = Self { silent: 50, vanishes: true, ..Self::FAILOVERS };
}

/// What happened in a run: a scenario that never meets its subject proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) unchanged: u64,
    pub(crate) repeated: u64,
    pub(crate) unavailable: u64,
    /// Moments that passed for more to come.
    pub(crate) gathered: u64,
    /// Moments that ended while the copy was known to be behind.
    pub(crate) gathered_in_repair: u64,
    pub(crate) resets: u64,
    pub(crate) replays: u64,
    pub(crate) restarts: u64,
    /// Times the store began a new life.
    pub(crate) rebirths: u64,
    /// Times a log lost its end, or all of it.
    pub(crate) rollbacks: u64,
    /// Changes that were put back where they were.
    pub(crate) restored: u64,
    /// Histories that parted.
    pub(crate) parted: u64,
    /// Lost changes that got a new place.
    pub(crate) readmitted: u64,
    /// New epochs.
    pub(crate) epochs: u64,
    /// Acknowledged operations that nobody who lived remembered.
    pub(crate) forgotten: u64,
    /// Times a node forgot something.
    pub(crate) forgetting: u64,
    pub(crate) repairs: HashMap<Cause, u64>,
}

impl Seen {
    pub(crate) fn add(&mut self, run: Self) {
        self.accepted += run.accepted;
        self.refused += run.refused;
        self.unchanged += run.unchanged;
        self.repeated += run.repeated;
        self.unavailable += run.unavailable;
        self.gathered += run.gathered;
        self.gathered_in_repair += run.gathered_in_repair;
        self.resets += run.resets;
        self.replays += run.replays;
        self.restarts += run.restarts;
        self.rebirths += run.rebirths;
        self.rollbacks += run.rollbacks;
        self.restored += run.restored;
        self.parted += run.parted;
        self.readmitted += run.readmitted;
        self.epochs += run.epochs;
        self.forgotten += run.forgotten;
        self.forgetting += run.forgetting;
        for (cause, count) in run.repairs {
            *self.repairs.entry(cause).or_default() += count;
        }
    }

    /// Whether every answer and every cause of a repair was met (a fork is the rollback's).
    pub(crate) fn is_thorough(&self) -> bool {
        let causes = [
            Cause::Hole,
            Cause::Reconnect,
            Cause::Lagged,
            Cause::HeadCheck,
            Cause::Moved,
            Cause::Behind,
            Cause::Unanswered,
        ];
        causes.iter().chain([&Cause::Trimmed]).all(|cause| self.repairs.contains_key(cause))
            && [self.accepted, self.refused, self.unchanged, self.repeated, self.unavailable].iter().all(|n| *n > 20)
            && [self.gathered, self.gathered_in_repair, self.forgetting].iter().all(|n| *n > 20)
            && [self.resets, self.replays, self.restarts].iter().all(|n| *n > 5)
    }
}
