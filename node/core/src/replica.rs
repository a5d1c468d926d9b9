//! One node's copy of a plan: the machine that keeps it in step with the log and brings edits into the log.
//!
//! Three things come together here, and nowhere else:
//!
//! - **Sequencing.** Entries arrive from anywhere (the channel, our own commits, a read of the log) and are applied in
//!   the order of the log, each once. One that was seen is ignored; one from behind a hole waits.
//! - **Repair.** A hole, an interruption of the channel or a head that moved without us is mended by one read of the log
//!   after our head; if the log no longer reaches back or is another history, by opening the plan anew.
//! - **Commit.** Operations are judged on our copy and offered to the log together with our head. If the log has moved,
//!   we catch up, judge again and offer again. One batch is under way at a time; what arrives meanwhile is the next.
//!
//! Inputs go in by [`Replica::handle`], effects come out; the caller performs them and reports what came of it. Every
//! `Commit`, `Fetch` and `Reload` must be answered by exactly one input.

mod commit;
mod repair;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mille_shared::Revision;
use mille_shared::log::{CommitOutcome, Head, LogEntry, LogPage, OperationKey, Proposal};
use mille_shared::operation::Operation;

use crate::applied::Applied;
use crate::plan::{ApplyError, Plan, PlanBounds};
use crate::refusal::Refusal;
use crate::ring::Ring;
use commit::{Flight, Pending};
use repair::Repair;

/// One node's copy of a plan.
#[derive(Debug)]
pub struct Replica {
    bounds: PlanBounds,
    snapshot_every: u64,
    plan: Arc<Plan>,
    ring: Ring,
    /// Entries that came during a read and do not follow yet. A read tells everything that was heard before it began, so
    /// each begins with none. Bounded by [`repair::HELD_ENTRIES_MAX`]; what does not fit is read from the log.
    held: BTreeMap<Revision, LogEntry>,
    repair: Option<Repair>,
    /// The head that the last check saw and we had not.
    missed: Option<Revision>,
    /// Our head when the last check saw the log behind it.
    ahead: Option<Revision>,
    /// Bounded by [`mille_shared::limits::PENDING_OPERATIONS_MAX`]; beyond it, operations are refused as overload.
    pending: VecDeque<Pending>,
    flight: Option<Flight>,
}

/// Names an operation between the caller and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What a replica is told.
#[derive(Debug)]
pub enum Input {
    /// A user wants something.
    Submit {
        /// The caller's name for it.
        ticket: Ticket,
        /// What they want.
        operation: Operation,
        /// Whether the operation's id is the client's own, so that it may be a repeat. Ids we made never are.
        repeatable: bool,
    },
    /// Entries came in on the plan's channel.
    Heard(Vec<LogEntry>),
    /// Messages on the channel may have been lost. The subscription is in force again.
    Interrupted(Cause),
    /// The log's head, as the regular check saw it. `None`: there is no log.
    HeadSeen(Option<Head>),
    /// A client knows a revision that we do not: look now rather than at the next check.
    Behind,
    /// Answer to [`Effect::Fetch`].
    Fetched(LogPage),
    /// Answer to [`Effect::Fetch`] or [`Effect::Reload`]: the store did not answer. Tried again at the next head seen.
    RepairFailed,
    /// Answer to [`Effect::Reload`].
    Reloaded(Box<Plan>),
    /// Answer to [`Effect::Commit`].
    Committed(CommitOutcome),
    /// Answer to [`Effect::Commit`]: the store did not answer. The batch may be in the log all the same.
    CommitFailed,
}

/// What a replica wants done.
#[derive(Debug)]
pub enum Effect {
    /// Offer a batch to the log. An empty batch only asks whether `expected` is the log's head: `Committed` or `Moved`.
    Commit {
        /// The head the batch was judged on.
        expected: Head,
        /// The changes, chained from there.
        batch: Vec<Proposal>,
        /// How often the eldest operation in it was tried before. Offer it at once all the same: while it waits, the head
        /// it was judged on grows older, and it would lose again.
        attempt: u32,
    },
    /// Read the log after a revision.
    Fetch {
        /// Our head.
        after: Revision,
    },
    /// Open the plan anew from the newest snapshot and the log.
    Reload,
    /// Tell every listener: a change happened. Called once per change, in order, without a hole.
    Deliver(Arc<Applied>),
    /// Tell every listener: the history they know is not the log's; what is begins with [`Replica::plan`] as it is after
    /// this input. Whatever follows in later inputs follows that.
    Reset(Cause),
    /// Answer an operation.
    Answer {
        /// The caller's name for it.
        ticket: Ticket,
        /// What became of it.
        verdict: Verdict,
    },
    /// Keep a snapshot; the log has grown enough.
    StoreSnapshot(Arc<Plan>),
    /// A repair began; for logs and metrics.
    RepairStarted(Cause),
}

/// Why a copy and its log had to be brought together again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// An entry came whose predecessor did not.
    Hole,
    /// The channel's connection was made anew.
    Reconnect,
    /// Messages were dropped because we took them too slowly.
    Lagged,
    /// The channel's connection was open and delivered nothing.
    Probe,
    /// The log's head moved and we did not hear of it.
    HeadCheck,
    /// A commit found the log elsewhere.
    Moved,
    /// A client knows a revision that we do not.
    Behind,
    /// A commit got no answer: it may have happened.
    Unanswered,
    /// The log no longer reaches back to where we are.
    Trimmed,
    /// The log is another history than ours: it lost its end, or began anew.
    Fork,
}

impl Cause {
    /// The name in metrics, logs and a SNAPSHOT's `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Reconnect => "reconnect",
            Self::Lagged => "lagged",
            Self::Probe => "delivery_probe",
            Self::HeadCheck => "head_check",
            Self::Moved => "moved",
            Self::Behind => "behind",
            Self::Unanswered => "unanswered",
            Self::Trimmed => "trimmed",
            Self::Fork => "fork",
        }
    }
}

/// What became of an operation.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is in the log.
    Accepted {
        /// Its change.
        applied: Arc<Applied>,
        /// The plan with it (and perhaps with what came right after).
        plan: Arc<Plan>,
    },
    /// It is fine and changes nothing. With a key, the log must be asked first whether it is a repeat.
    Unchanged {
        /// The plan it found.
        plan: Arc<Plan>,
        /// Its key, if it may be a repeat.
        repeat: Option<OperationKey>,
    },
    /// It is a repeat; its change stands here.
    Repeated {
        /// Where.
        revision: Revision,
    },
    /// It breaks a rule. With a key, the log must be asked first whether it is a repeat.
    Refused {
        /// Which rule.
        refusal: Box<Refusal>,
        /// Its key, if it may be a repeat.
        repeat: Option<OperationKey>,
    },
    /// Too many operations wait, or the log moved too often. Nothing happened.
    Overloaded,
    /// The store did not answer. It may have happened: repeat it with the same id.
    Unavailable,
}

/// How a listener that knows a revision catches up.
#[derive(Debug, Clone)]
pub enum CatchUp {
    /// These changes are all it lacks.
    Changes(Vec<Arc<Applied>>),
    /// The changes up to our head must be read from the log.
    FromLog,
    /// Its revision is ahead of ours: look at the log first ([`Input::Behind`]).
    Ahead,
    /// Its revision belongs to another epoch.
    OtherEpoch,
}

impl Replica {
    /// A copy that was just opened from snapshot and log.
    #[must_use]
    pub fn new(plan: Plan, bounds: PlanBounds, snapshot_every: u64) -> Self {
        Self {
            bounds,
            snapshot_every: snapshot_every.max(1),
            plan: Arc::new(plan),
            ring: Ring::default(),
            held: BTreeMap::new(),
            repair: None,
            missed: None,
            ahead: None,
            pending: VecDeque::new(),
            flight: None,
        }
    }

    /// The plan as this node knows it.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The change with this revision, if it is recent.
    #[must_use]
    pub fn recent(&self, revision: Revision) -> Option<&Arc<Applied>> {
        self.ring.at(revision)
    }

    /// How a listener that has everything up to `after` catches up with [`Self::plan`].
    #[must_use]
    pub fn catch_up(&self, after: Revision) -> CatchUp {
        let head = self.plan.revision();
        if after.epoch != head.epoch {
            return CatchUp::OtherEpoch;
        }
        if after > head {
            return CatchUp::Ahead;
        }
        if after == head {
            return CatchUp::Changes(Vec::new());
        }
        self.ring.since(after).map_or(CatchUp::FromLog, CatchUp::Changes)
    }

    /// Whether an operation waits or a commit is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.flight.is_some() || !self.pending.is_empty()
    }

    /// Whether the copy is known to be behind its log.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    /// Whether a read of the log is under way: its answer may bring us further. False while the store does not answer.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        matches!(self.repair, Some(Repair::Reading { .. }))
    }

    /// How many operations wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Takes an input and says what must be done.
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Submit { ticket, operation, repeatable } => self.submit(ticket, operation, repeatable, &mut effects),
            Input::Heard(entries) => self.sequence(entries, &mut effects),
            Input::Interrupted(cause) => self.repair(cause, &mut effects),
            Input::Behind => self.repair(Cause::Behind, &mut effects),
            Input::HeadSeen(head) => self.compare(head, &mut effects),
            Input::Fetched(page) => self.fetched(page, &mut effects),
            Input::RepairFailed => self.repair_failed(),
            Input::Reloaded(plan) => self.reloaded(*plan, &mut effects),
            Input::Committed(outcome) => self.committed(outcome, &mut effects),
            Input::CommitFailed => self.commit_failed(&mut effects),
        }
        self.commit_next(&mut effects);
        effects
    }

    /// Applies entries in the order of the log, each once.
    fn sequence(&mut self, entries: impl IntoIterator<Item = LogEntry>, effects: &mut Vec<Effect>) {
        for entry in entries {
            self.take(entry, effects);
        }
        // While the plan is opened anew, everything is held.
        while !self.wants_reload()
            && let Some(held) = self.held.first_entry()
            && *held.key() <= self.plan.revision().next()
        {
            let entry = held.remove();
            self.take(entry, effects);
        }
    }

    fn take(&mut self, entry: LogEntry, effects: &mut Vec<Effect>) {
        if self.wants_reload() {
            return self.hold(entry);
        }
        let head = self.plan.head();
        if entry.revision.epoch < head.revision.epoch {
            return;
        }
        if entry.revision.epoch > head.revision.epoch {
            return self.reload(Cause::Fork, effects);
        }
        if entry.revision <= head.revision {
            let known = if entry.revision == head.revision {
                Some(head.hash)
            } else {
                self.ring.at(entry.revision).map(|applied| applied.head.hash)
            };
            if known.is_some_and(|hash| hash != entry.hash) {
                self.reload(Cause::Fork, effects);
            }
            return;
        }
        if !head.revision.precedes(entry.revision) {
            return match self.repair {
                None => self.repair(Cause::Hole, effects),
                Some(_) => self.hold(entry),
            };
        }
        match Arc::make_mut(&mut self.plan).apply(&entry) {
            Ok(applied) => self.applied(Arc::new(applied), effects),
            // A corrupt entry can't be passed either; what the store has to say then is the last word.
            Err(ApplyError::Fork { .. } | ApplyError::OutOfOrder { .. } | ApplyError::Corrupt { .. }) => {
                self.reload(Cause::Fork, effects);
            }
        }
    }

    /// A change is part of the plan now: remember and tell it.
    fn applied(&mut self, applied: Arc<Applied>, effects: &mut Vec<Effect>) {
        self.ring.push(Arc::clone(&applied));
        effects.push(Effect::Deliver(applied));
    }

    /// Whether a snapshot is due: every so many changes, by the node that committed the one that filled the number.
    fn snapshot_due(&self, committed: &Applied) -> bool {
        committed.revision().seq.is_multiple_of(self.snapshot_every)
    }
}
