//! One node's copy of a plan: the machine that keeps it in step with the log and brings edits into the log.
//!
//! Four things come together here, and nowhere else:
//!
//! - **Sequencing.** Entries arrive from anywhere (the channel, our own commits, a read of the log) and are applied in
//!   the order of the log, each once. One that was seen is ignored; one from behind a hole waits.
//! - **Repair** (`repair`). A hole, an interruption of the channel or a head that moved without us is mended by one read
//!   of the log from our head on, which also proves that our head is still there.
//! - **Restoration** (`restore`). A log that lost its end is given it back, entry by entry, with the same numbers and
//!   hashes. If others have built on what was left, we take their history, and the lost changes are judged again.
//! - **Commit** (`commit`). Operations are judged on our copy and offered to the log together with our head. If the log
//!   has moved, we catch up, judge again and offer again. One batch is under way at a time; what arrives meanwhile is
//!   the next, and where others write too it waits for more (`gathering`). What we may vouch for while offering is kept
//!   in `standing`.
//!
//! Inputs go in by [`Replica::handle`], effects come out; the caller performs them and reports what came of it. Every
//! `Commit`, `Gather`, `Fetch`, `Locate`, `Restore`, `Revive` and `Reload` must be answered by exactly one input.

mod commit;
mod gathering;
mod remembering;
mod repair;
mod restore;
mod standing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mille_shared::Revision;
use mille_shared::log::{CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, Terms};
use mille_shared::operation::Operation;

use crate::applied::Applied;
use crate::opened::Opened;
use crate::plan::{Plan, PlanBounds};
use crate::refusal::Refusal;
pub use crate::ring::Allowance;
use crate::ring::Ring;
use commit::{Flight, Pending};
use gathering::Gathering;
use remembering::Sightings;
use repair::Repair;
use standing::Standing;

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
    /// Messages may have been lost: the next difference between heads counts at once.
    suspicion: Option<Cause>,
    /// The head that the last check saw and we had not.
    missed: Option<Revision>,
    /// Our head when the last check saw the log behind it.
    ahead: Option<Revision>,
    /// Whether the log ended where we did, when the last check could tell.
    is_confirmed: bool,
    sightings: Sightings,
    /// Listeners know a history that is not the log's any more. They are told once, with the epoch that begins for it:
    /// until then nothing else is told, since nothing would follow what they know.
    owed_reset: Option<Cause>,
    standing: Standing,
    /// Bounded by [`mille_shared::limits::PENDING_OPERATIONS_MAX`]; beyond it, operations are refused as overload. Lost
    /// changes that are judged again come on top, at most as many as the ring holds.
    pending: VecDeque<Pending>,
    flight: Option<Flight>,
    gathering: Gathering,
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
    /// Messages on the channel may have been lost. The subscription is in force again, and heads are compared now.
    Interrupted(Cause),
    /// The log's head, as the regular check saw it.
    HeadSeen(HeadSeen),
    /// A message came that can't be read, or a client knows a revision that we do not: look now rather than at the
    /// next check.
    Look(Cause),
    /// Answer to [`Effect::Fetch`].
    Fetched(LogPage),
    /// Answer to [`Effect::Locate`] and [`Effect::Revive`].
    Located(LogState),
    /// Answer to [`Effect::Restore`].
    Restored(CommitOutcome),
    /// Answer to [`Effect::Reload`].
    Reloaded(Box<Opened>),
    /// Answer to any of them: the store did not answer. Tried again at the next head seen.
    RepairFailed,
    /// Answer to [`Effect::Commit`].
    Committed(CommitOutcome),
    /// Answer to [`Effect::Commit`]: the store did not answer. The batch may be in the log all the same.
    CommitFailed,
    /// Answer to [`Effect::Gather`]: the moment has passed.
    Gathered,
    /// Answer to [`Effect::Wait`]: the time has passed.
    Waited,
}

/// A log's head, as the regular check saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSeen {
    /// Where the log ends.
    pub state: LogState,
    /// Whether this life of the store is known for so long that every node that lives had the time to bring back what
    /// was lost when it began.
    pub is_settled: bool,
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
        /// On which terms.
        terms: Terms,
        /// How often the eldest operation in it was tried before. Offer it at once all the same: while it waits, the head
        /// it was judged on grows older, and it would lose again.
        attempt: u32,
    },
    /// Others write to the plan too: let a moment pass, so that the next batch is of more than one operation. A copy that has
    /// just heard of a change is as fresh as it gets, which is a good moment to offer.
    Gather,
    /// A commit was sent back to wait until the store's new life is settled, which a check of the head will tell. Let as much
    /// time pass as that may take. If nothing was told by then, the commit is offered again: a store that has gone meanwhile
    /// tells nothing, and nobody is to wait for it.
    Wait,
    /// Read a page of the log.
    Fetch {
        /// After this place; from its beginning, if there is none.
        after: Option<Revision>,
    },
    /// Ask where the log ends.
    Locate,
    /// Offer entries to the log that it had and lost, on [`Terms::Restore`].
    Restore {
        /// The head of what is left of the log.
        expected: Head,
        /// The lost entries, chained from there.
        batch: Vec<Proposal>,
        /// Their epoch.
        epoch: u64,
    },
    /// The whole log is gone. If the plan still exists, put it back: as it is now, with its recent changes. If not, the
    /// plan was deleted and the replica has no purpose any more.
    Revive {
        /// The plan.
        plan: Arc<Plan>,
        /// The changes that led to it, the newest last.
        changes: Vec<Arc<Applied>>,
        /// The life of the store in which the log was last known to be whole.
        known_in: Option<StoreLife>,
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
    /// The log had lost its end; for logs and metrics.
    Rollback(Rollback),
}

/// What became of changes that the log lost.
#[derive(Debug, Clone, PartialEq)]
pub enum Rollback {
    /// They are back where they were.
    Restored {
        /// How many were put back from here. Others may have put back some too.
        changes: u64,
        /// The log's head with them.
        head: Revision,
    },
    /// Others had built on what was left. Their history counts; what was lost is judged again as new changes.
    Parted {
        /// The last place that both histories have.
        after: Revision,
        /// How many changes are judged again.
        lost: u64,
        /// Whether more may be lost than this node remembers.
        is_partial: bool,
    },
    /// A lost change was judged again.
    Judged {
        /// The change as it was.
        lost: Arc<Applied>,
        /// What became of it.
        outcome: Readmission,
    },
}

/// What became of a lost change that was judged again.
#[derive(Debug, Clone, PartialEq)]
pub enum Readmission {
    /// It has a new place in the log.
    Accepted {
        /// Where.
        revision: Revision,
    },
    /// The log has it already: another node was first.
    Known {
        /// Where.
        revision: Revision,
    },
    /// What it wanted is so already.
    Unchanged,
    /// The plan it meets now does not take it.
    Refused(Box<Refusal>),
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
    /// The log is another history than ours: it lost its end, and others went on from there.
    Fork,
    /// The log goes on in another epoch, so numbers that are lost fit nothing that is in it.
    Epoch,
    /// There was no log any more.
    Vanished,
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
            Self::Epoch => "epoch",
            Self::Vanished => "vanished",
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
    /// It was withdrawn ([`Replica::withdraw`]) before it was taken. Nothing happened.
    Withdrawn,
}

/// How a listener that knows a revision catches up.
#[derive(Debug, Clone)]
pub enum CatchUp {
    /// These changes are all it lacks.
    Changes(Vec<Arc<Applied>>),
    /// The changes up to our head must be read from the log.
    FromLog,
    /// Its revision is ahead of ours: look at the log first ([`Input::Look`]).
    Ahead,
    /// Its revision belongs to another epoch.
    OtherEpoch,
}

impl Replica {
    /// A copy that was just opened from snapshot and log.
    #[must_use]
    pub fn new(opened: Opened, bounds: PlanBounds, snapshot_every: u64) -> Self {
        let Opened { plan, ring } = opened;
        Self {
            bounds,
            snapshot_every: snapshot_every.max(1),
            ring,
            plan: Arc::new(plan),
            held: BTreeMap::new(),
            repair: None,
            suspicion: None,
            missed: None,
            ahead: None,
            is_confirmed: false,
            sightings: Sightings::default(),
            owed_reset: None,
            standing: Standing::default(),
            pending: VecDeque::new(),
            flight: None,
            gathering: Gathering::default(),
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
        // Until the new epoch begins, numbers of the lost history may fit the one that took its place.
        if after.epoch != head.epoch || self.must_leave_epoch() {
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

    /// Whether the log must go on in another epoch, since this one has lost changes: every listener is told when it does.
    #[must_use]
    pub fn must_leave_epoch(&self) -> bool {
        self.standing.must_leave(self.plan.revision().epoch)
    }

    /// Whether a history is part of ours: to hear of it again would change nothing.
    #[must_use]
    pub fn knows(&self, head: Head) -> bool {
        !self.is_rebuilding() && self.ring.hash_at(head.revision) == Some(head.hash)
    }

    /// Whether an operation waits or a commit is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.flight.is_some() || !self.pending.is_empty()
    }

    /// Whether the log held all that this copy held, when the last check could tell. If not, the copy may be the only one
    /// that remembers.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed && self.repair.is_none()
    }

    /// What a check must see for it to change nothing but that it was seen ([`Self::found_as_expected`]). `None` while any
    /// check could.
    #[must_use]
    pub fn expected(&self) -> Option<HeadSeen> {
        let is_in_doubt = self.suspicion.is_some() || self.missed.is_some() || self.ahead.is_some();
        if !self.is_confirmed() || is_in_doubt || self.is_busy() || self.standing.is_waiting() {
            return None;
        }
        let life = self.standing.last_followed()?.clone();
        let is_settled = self.standing.is_settled(&life);
        Some(HeadSeen { state: LogState { head: Some(self.plan.head()), life }, is_settled })
    }

    /// Whether the copy is known to be behind its log.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    /// Whether a question to the store is under way: its answer may bring us further. False while it does not answer.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        matches!(self.repair, Some(Repair::Asking { .. }))
    }

    /// Takes an input and says what must be done.
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Submit { ticket, operation, repeatable } => self.submit(ticket, operation, repeatable, &mut effects),
            Input::Heard(entries) if self.adopt(&entries, &mut effects) => {}
            Input::Heard(entries) => self.sequence(entries, From::Channel, &mut effects),
            Input::Interrupted(cause) => self.suspicion = Some(cause),
            Input::Look(cause) => self.repair(cause, &mut effects),
            Input::HeadSeen(seen) => self.compare(seen, &mut effects),
            Input::Fetched(page) => self.fetched(page, &mut effects),
            Input::Located(state) => self.located(state, &mut effects),
            Input::Restored(outcome) => self.restored(outcome, &mut effects),
            Input::RepairFailed => self.repair_failed(),
            Input::Reloaded(plan) => self.reloaded(*plan, &mut effects),
            Input::Committed(outcome) => self.committed(outcome, &mut effects),
            Input::CommitFailed => self.commit_failed(&mut effects),
            Input::Gathered => self.gathering.passed(),
            Input::Waited => self.standing.wait_no_longer(),
        }
        self.commit_next(&mut effects);
        begin_anew_once(&mut effects);
        effects
    }

    /// Applies entries in the order of the log, each once.
    fn sequence(&mut self, entries: impl IntoIterator<Item = LogEntry>, from: From, effects: &mut Vec<Effect>) {
        for entry in entries {
            self.take(entry, from, effects);
        }
        // While the plan is opened anew, everything is held.
        while !self.is_rebuilding()
            && let Some(held) = self.held.first_entry()
            && (*held.key() <= self.plan.revision() || self.plan.revision().precedes(*held.key()))
        {
            let entry = held.remove();
            self.take(entry, From::Channel, effects);
        }
    }

    fn take(&mut self, entry: LogEntry, from: From, effects: &mut Vec<Effect>) {
        if self.is_rebuilding() {
            return self.hold(entry);
        }
        let ours = self.plan.revision();
        if entry.revision.epoch < ours.epoch {
            return; // of a history that was lost, or long known
        }
        if entry.revision.seq <= ours.seq {
            let is_other = match self.ring.hash_at(entry.revision) {
                Some(hash) => hash != entry.hash,
                // What has a number we know in an epoch we do not is another history; what is older than memory is not.
                None => entry.revision.epoch > ours.epoch,
            };
            if is_other {
                self.repair(Cause::Fork, effects);
            }
            return;
        }
        if !ours.precedes(entry.revision) {
            return match self.repair {
                None => self.repair(Cause::Hole, effects),
                Some(_) => self.hold(entry),
            };
        }
        match (Arc::make_mut(&mut self.plan).apply(&entry), from) {
            (Ok(applied), _) => self.applied(Arc::new(applied), effects),
            (Err(_), From::Channel) => self.repair(Cause::Fork, effects),
            // It follows in the log and can't be passed: what the store has to say of the whole is the last word.
            (Err(_), From::Log) => self.reload(Cause::Fork, effects),
        }
    }

    /// A change is part of the plan now: remember and tell it.
    fn applied(&mut self, applied: Arc<Applied>, effects: &mut Vec<Effect>) {
        let is_new_epoch = applied.previous.epoch != applied.revision().epoch;
        self.ring.push(Arc::clone(&applied));
        if is_new_epoch {
            effects.push(Effect::Reset(self.owed_reset.take().unwrap_or(Cause::Epoch)));
        } else if self.owed_reset.is_none() {
            effects.push(Effect::Deliver(applied));
        }
    }

    /// Whether a snapshot is due: every so many changes, by the node that committed the one that filled the number.
    fn snapshot_due(&self, committed: Revision) -> bool {
        committed.seq.is_multiple_of(self.snapshot_every)
    }
}

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// It was told: it may be of a history that was lost since.
    Channel,
    /// It was read right behind our head: it is the log's.
    Log,
}

/// Listeners that begin anew do so once, with the plan as it is after the input; what led to it is part of that.
fn begin_anew_once(effects: &mut Vec<Effect>) {
    let Some(first) = effects.iter().position(|effect| matches!(effect, Effect::Reset(_))) else { return };
    let mut place = 0;
    effects.retain(|effect| {
        let is_kept = place <= first || !matches!(effect, Effect::Reset(_) | Effect::Deliver(_));
        place += 1;
        is_kept
    });
}
