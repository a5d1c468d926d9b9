//! Who comes to an open plan, to read it or to listen: is brought as far as the log was when they came, and told what they
//! lack from memory, from a past that is read once for all who ask at the time, or each from the log.

use std::sync::Arc;

use mille_core::replica::{CatchUp, Cause, Input};
use mille_core::{Applied, Plan, chain};
use mille_shared::log::{ChainHash, Head, LogState};
use mille_shared::{Revision, limits};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Done, Listener, OpenPlan, reset_reason};
use crate::backend;
use crate::metrics::Resume;
use crate::project::command::{AttachRequest, Attached, Audience, Backlog, PlanEvent, Rejection};
use crate::project::follow::Start;
use crate::project::past::{NotShared, Past};
use crate::project::plans::Jobs;
use crate::project::replay::ReplayError;
use crate::project::store;

/// Listeners that are not worth a look whether they are over.
const LISTENERS_MIN: usize = 8;

/// How a listener is answered.
pub(super) type AttachReply = oneshot::Sender<Result<Attached, Rejection>>;

/// The part of the past that is older than memory and was asked for.
#[derive(Default)]
pub(super) struct SharedPast {
    /// What was read last, and when.
    pub(super) kept: Option<(Arc<Past>, Instant)>,
    /// The place after which it is being read.
    reading_after: Option<Revision>,
    /// Who waits for it. Bounded by the mailbox' callers, each of whom waits for one answer.
    pub(super) waiting: Vec<(AttachRequest, AttachReply)>,
}

/// What is done once we are as new as the log was when it was asked.
pub(super) enum AfterSync {
    Read(oneshot::Sender<Result<Arc<Plan>, Rejection>>),
    Attach(AttachRequest, AttachReply),
}

impl OpenPlan {
    /// Whether a listener that fell behind knows nothing newer than we do: then nobody need be asked.
    pub(super) fn was_told_by_us(&self, request: &AttachRequest) -> bool {
        let Start::After(after) = request.start else { return false };
        let head = self.replica.recent(after).map_or(self.replica.plan().head(), |applied| applied.head);
        request.known == Some(head.hash) && head.revision == after
    }

    /// Asks for the log's head, once for all who wait for the question to be sent.
    pub(super) fn sync(&mut self, then: AfterSync, jobs: &mut Jobs) {
        if self.is_asking {
            return self.asking_next.push(then);
        }
        self.asking.push(then);
        self.ask_head(jobs);
    }

    fn ask_head(&mut self, jobs: &mut Jobs) {
        self.is_asking = true;
        let (plan, backend) = (self.id, self.context.backend.clone());
        self.spawn(jobs, async move { Done::Head(store::state(&backend, plan).await) });
    }

    pub(super) fn synced(&mut self, state: backend::Result<LogState>, jobs: &mut Jobs) {
        self.is_asking = false;
        let ours = self.replica.plan().revision();
        let target = match state {
            Ok(LogState { head: Some(head), .. }) if head.revision > ours => Some(head.revision),
            // Without an answer, or with one that the regular check must judge, what we know is what we tell.
            _ => None,
        };
        let waiting = std::mem::take(&mut self.asking);
        match target {
            Some(target) => {
                self.behind.extend(waiting.into_iter().map(|then| (target, then)));
                self.input(Input::Look(Cause::Behind), jobs);
            }
            None => waiting.into_iter().for_each(|then| self.serve(then, jobs)),
        }
        if !self.asking_next.is_empty() {
            self.asking = std::mem::take(&mut self.asking_next);
            self.ask_head(jobs);
        }
    }

    /// Serves those whose revision we have, or can't get.
    pub(super) fn answer_behind(&mut self, jobs: &mut Jobs) {
        let ours = self.replica.plan().revision();
        let stuck = !self.replica.is_reading();
        let served: Vec<_> = self.behind.extract_if(.., |(target, _)| *target <= ours || stuck).collect();
        for (_, then) in served {
            self.serve(then, jobs);
        }
    }

    pub(super) fn serve(&mut self, then: AfterSync, jobs: &mut Jobs) {
        match then {
            AfterSync::Read(reply) => drop(reply.send(Ok(Arc::clone(self.replica.plan())))),
            AfterSync::Attach(request, reply) => match self.backlog(&request) {
                Backlog::FromLog { .. } => {
                    self.past.waiting.push((request, reply));
                    self.read_past(jobs);
                }
                backlog => self.attach(request, reply, backlog),
            },
        }
    }

    fn attach(&mut self, request: AttachRequest, reply: AttachReply, backlog: Backlog) {
        // Asked again here, where the listener is registered: the right may have ended while it waited.
        let members = self.context.members.load();
        if !request.audience.may_listen(|user| members.role_of(user)) {
            return drop(reply.send(Err(Rejection::Forbidden)));
        }
        if matches!(request.audience, Audience::User(_)) {
            self.count(&request, &backlog);
        }
        let (events, live) = mpsc::channel(limits::SUBSCRIPTION_QUEUE_EVENTS_MAX);
        let leaves_epoch = self.replica.must_leave_epoch();
        let attached = Attached { head: self.replica.plan().head(), backlog, leaves_epoch, live };
        let AttachRequest { audience, wants_progress, .. } = request;
        if self.listeners.len() >= self.prune_listeners_at {
            // Each that is over still has its queue. Most live for a moment only: they catch up and join others.
            self.listeners.retain(|listener| !listener.events.is_closed());
            self.prune_listeners_at = 2 * self.listeners.len() + LISTENERS_MIN;
        }
        if reply.send(Ok(attached)).is_ok() {
            self.listeners.push(Listener { audience, wants_progress, events });
        }
    }

    /// Counts how a listener begins.
    fn count(&self, request: &AttachRequest, backlog: &Backlog) {
        let metrics = &self.context.metrics.plans;
        let is_fresh = request.is_first && request.start.place().is_none();
        let (outcome, replayed) = match backlog {
            Backlog::Events(_) if is_fresh => (Resume::Fresh, 0),
            Backlog::Events(events) if matches!(events.first(), Some(PlanEvent::Snapshot { .. })) => {
                (Resume::Snapshot, 0)
            }
            Backlog::Events(events) => (Resume::Replay, events.len()),
            Backlog::Past { past, from, events } => (Resume::Replay, past.len_from(*from) + events.len()),
            // Counted as they are read.
            Backlog::FromLog { .. } => (Resume::Replay, 0),
        };
        metrics.resumes(outcome).increment(1);
        metrics.replayed_events.increment(replayed as u64);
    }

    /// Reads the past from the oldest place that is waited for, unless that is being done.
    fn read_past(&mut self, jobs: &mut Jobs) {
        let places = self.past.waiting.iter().filter_map(|(request, _)| request.start.place());
        let Some(after) = places.min().filter(|_| self.past.reading_after.is_none()) else { return };
        self.past.reading_after = Some(after);
        let (plan, room, backend) = (self.id, self.context.past_room.clone(), self.context.backend.clone());
        let until = self.replica.plan().revision();
        self.spawn(jobs, async move { Done::Past(Past::read(room, backend, plan, after, until).await) });
    }

    /// Serves those who waited: from what was read, or each by itself where that does not serve.
    pub(super) fn past_read(&mut self, read: Result<Past, NotShared>, jobs: &mut Jobs) {
        let after = self.past.reading_after.take();
        let is_served: fn(Option<Revision>, Option<Revision>) -> bool = match read {
            // Who came later with an older place waits for the next one.
            Ok(past) => {
                self.past.kept = Some((Arc::new(past), Instant::now()));
                |place, after| place >= after
            }
            // The log does not reach back so far, or it is too much to be shared. That is told of this place alone.
            Err(NotShared::Replay(ReplayError::Unreachable(_))) => |place, after| place <= after,
            Err(why) => {
                tracing::debug!(plan.id = %self.id, %why, "the past can't be shared; each reads its own");
                |_, _| true
            }
        };
        for (request, reply) in std::mem::take(&mut self.past.waiting) {
            if is_served(request.start.place(), after) {
                let backlog = self.backlog(&request);
                self.attach(request, reply, backlog);
            } else {
                self.past.waiting.push((request, reply));
            }
        }
        self.read_past(jobs);
    }

    /// The changes after a place, from a past that was read for others as well.
    fn shared_past(&self, after: Revision, known: Option<ChainHash>) -> Option<Backlog> {
        let (past, _) = self.past.kept.as_ref()?;
        let (from, end) = (past.index_after(after)?, past.end()?);
        let first = past.get(from)?;
        let follows = known.is_none_or(|known| chain::link(known, first.revision(), &first.payload) == first.head.hash);
        // It must lead to what we remember, in the same history.
        let is_ours = self.replica.recent(end.revision).is_some_and(|applied| applied.head == end)
            || self.replica.plan().head() == end;
        let CatchUp::Changes(rest) = self.replica.catch_up(end.revision) else { return None };
        let events = rest.into_iter().map(PlanEvent::Changed).collect();
        (follows && is_ours).then(|| Backlog::Past { past: Arc::clone(past), from, events })
    }

    fn backlog(&self, request: &AttachRequest) -> Backlog {
        let plan = self.replica.plan();
        let snapshot = |reason| Backlog::Events(vec![PlanEvent::Snapshot { plan: Arc::clone(plan), reason }]);
        let after = match request.start {
            Start::Next => return Backlog::Events(Vec::new()),
            Start::Snapshot { reason } => return snapshot(reason),
            // Whose history is ours lacks nothing, also while its numbers are not to be trusted.
            Start::After(revision) if request.known.map(|hash| Head { revision, hash }) == Some(plan.head()) => {
                return Backlog::Events(Vec::new());
            }
            Start::After(after) => after,
        };
        match self.replica.catch_up(after) {
            CatchUp::Changes(changes) if !continues(request.known, &changes, plan.head()) => {
                snapshot(reset_reason(Cause::Fork))
            }
            CatchUp::Changes(changes) => Backlog::Events(changes.into_iter().map(PlanEvent::Changed).collect()),
            CatchUp::FromLog => {
                let shared = self.shared_past(after, request.known);
                shared.unwrap_or(Backlog::FromLog { until: plan.revision() })
            }
            CatchUp::Ahead => snapshot("the revision asked for is ahead of the log"),
            CatchUp::OtherEpoch => snapshot("the revision asked for belongs to another epoch"),
        }
    }
}

/// Whether changes up to `head` continue the history that a listener knows. One that gives no hash is believed.
fn continues(known: Option<ChainHash>, changes: &[Arc<Applied>], head: Head) -> bool {
    known.is_none_or(|known| match changes.first() {
        Some(first) => chain::link(known, first.revision(), &first.payload) == first.head.hash,
        None => known == head.hash,
    })
}
