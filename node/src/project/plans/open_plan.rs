//! One open plan: its replica, its listeners, and who waits for what.
//!
//! What comes in goes to the replica, and what it answers is performed here. What must be awaited is a job, and returns as a
//! [`Done`]. Of the parts, `newcomers` serves who reads or attaches, `acknowledged` says when an edit is answered, `gathering`
//! when a batch waits for more, `progress` what goes past the log, `recent` what is remembered, `repeats` what an edit came to that
//! was sent before, `rights` who may go on, `traced` whose spans are open.

mod acknowledged;
mod gathering;
mod newcomers;
mod progress;
mod recent;
mod repeats;
mod rights;
mod traced;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mille_core::replica::{Cause, Effect, HeadSeen, Input, Readmission, Replica, Rollback, Ticket, Verdict};
use mille_core::{Applied, Opened, Refusal};
use mille_shared::change::Change;
use mille_shared::log::{CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Terms};
use mille_shared::operation::Operation;
use mille_shared::{PlanId, PlanNodeId, Revision, TraceParent, limits};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Active, Jobs, OpeningId, PlanContext};
use crate::backend::{self, Lane, Noted};
use crate::clock;
use crate::metrics::EditResult;
use crate::project::command::{Accepted, Audience, PlanCommand, PlanEvent, Progress, Queued, Rejection, SubmitReply};
use crate::project::past::{self, NotShared, Past};
use crate::project::store::{self, OpenFailure};
use crate::traces::Traced;
use gathering::Moment;
use newcomers::{AfterSync, SharedPast};
use progress::Reports;
pub(in crate::project) use recent::RecentBytes;
use recent::RecentPart;
use traced::TracedChanges;

/// How recently the log must have been seen to hold what we hold, for the plan to be closed. A few head checks.
const CONFIRMED_FOR: Duration = limits::HEAD_CHECK_INTERVAL.saturating_mul(5);

/// An open plan.
pub(super) struct OpenPlan {
    opening: OpeningId,
    id: PlanId,
    context: PlanContext,
    active: Active,
    replica: Replica,
    listeners: Vec<Listener>,
    /// With so many listeners, those that are over are let go before another comes.
    prune_listeners_at: usize,
    /// Bounded with the replica's queue; where edits wait for replicas too, by [`limits::PENDING_OPERATIONS_MAX`].
    tickets: HashMap<Ticket, Waiting>,
    next_ticket: u64,
    /// Who waits until we know the log's head. Bounded by the mailbox' callers, each of whom waits for one answer.
    asking: Vec<AfterSync>,
    /// Those among them whose question was not yet sent when the present one was.
    asking_next: Vec<AfterSync>,
    is_asking: bool,
    /// Who waits until we have caught up with a revision.
    behind: Vec<(Revision, AfterSync)>,
    past: SharedPast,
    reports: Reports,
    /// When what is told now was learnt.
    learnt: Instant,
    traced: TracedChanges,
    used: Instant,
    /// When the log was last seen to hold what we hold; at rest, the bridge knows better.
    confirmed: Instant,
    is_at_rest: bool,
    moment: Moment,
    recent: RecentPart,
}

/// An operation that waits for its answer.
struct Waiting {
    since: Instant,
    key: OperationKey,
    reply: SubmitReply,
}

struct Listener {
    audience: Audience,
    wants_progress: bool,
    events: mpsc::Sender<Queued>,
}

/// What a job came to.
pub(in crate::project) enum Done {
    /// The plan was opened.
    Opened(Result<store::Opening, OpenFailure>),
    /// A batch was offered.
    Committed(backend::Result<CommitOutcome>),
    /// A moment for edits to gather has passed.
    Gathered { until: Instant },
    /// A new life of the store had its time to settle.
    Waited,
    /// A report of this plan node's progress has waited long enough.
    ProgressDue(PlanNodeId),
    /// The log was read.
    Fetched(backend::Result<LogPage>),
    /// The log's end was asked for, or the log was put back.
    Located(Result<LogState, OpenFailure>),
    /// Lost entries were offered.
    Restored(backend::Result<CommitOutcome>),
    /// The plan was opened anew.
    Reloaded(Result<Box<Opened>, OpenFailure>),
    /// The head was asked for.
    Head(backend::Result<LogState>),
    /// An operation that would be refused was looked up.
    Found { ticket: Ticket, found: backend::Result<Option<Revision>>, otherwise: Rejection },
    /// One that changes nothing was noted.
    Noted { ticket: Ticket, accepted: Box<Accepted>, noted: backend::Result<Noted> },
    /// A lost change that is not taken again was looked up: it may be there all the same.
    Missed { lost: Arc<Applied>, outcome: Readmission, found: backend::Result<Option<Revision>> },
    /// The past was read, for all who asked for it.
    Past(Result<Past, NotShared>),
    /// The change of a repeated operation was read.
    Told { ticket: Ticket, revision: Revision, applied: backend::Result<Option<Arc<Applied>>> },
    /// It was asked whether replicas have an operation.
    Confirmed { ticket: Ticket, result: EditResult, accepted: Box<Accepted>, confirmed: backend::Result<bool> },
    /// Nothing to do any more: a snapshot was kept, a message sent, a channel closed.
    Closed,
}

impl Drop for OpenPlan {
    fn drop(&mut self) {
        self.end_rest();
    }
}

impl OpenPlan {
    pub(super) fn new(opening: OpeningId, plan: Opened, context: PlanContext, active: Active) -> Self {
        let replica = Replica::new(plan, context.settings.bounds, context.settings.snapshot_every);
        let moment = Moment::new(context.settings.commit_moment_max, Instant::now());
        let recent = context.recent.part();
        Self {
            opening,
            id: opening.plan,
            context,
            active,
            replica,
            listeners: Vec::new(),
            prune_listeners_at: 0,
            tickets: HashMap::new(),
            next_ticket: 0,
            asking: Vec::new(),
            asking_next: Vec::new(),
            is_asking: false,
            behind: Vec::new(),
            past: SharedPast::default(),
            reports: Reports::default(),
            learnt: Instant::now(),
            traced: TracedChanges::default(),
            used: Instant::now(),
            confirmed: Instant::now(),
            is_at_rest: false,
            moment,
            recent,
        }
    }

    pub(super) fn id(&self) -> OpeningId {
        self.opening
    }

    pub(super) fn command(&mut self, command: PlanCommand, jobs: &mut Jobs) {
        self.used = Instant::now();
        match command {
            PlanCommand::Submit { operation, repeatable, trace, reply } => {
                self.submit(*operation, repeatable, trace, reply, jobs);
            }
            PlanCommand::Read { reply } => self.sync(AfterSync::Read(reply), jobs),
            PlanCommand::Attach { request, reply } if self.was_told_by_us(&request) => {
                self.serve(AfterSync::Attach(request, reply), jobs);
            }
            PlanCommand::Attach { request, reply } => self.sync(AfterSync::Attach(request, reply), jobs),
            PlanCommand::Progress(progress) => self.report(progress, jobs),
        }
    }

    pub(super) fn input(&mut self, input: Input, jobs: &mut Jobs) {
        self.learn(input, Instant::now(), jobs);
    }

    /// As [`Self::input`], of what this node learnt a moment before.
    pub(super) fn learn(&mut self, input: Input, learnt: Instant, jobs: &mut Jobs) {
        self.learnt = learnt;
        self.end_rest();
        let is_check = matches!(input, Input::HeadSeen(_));
        for effect in self.replica.handle(input) {
            self.perform(effect, jobs);
        }
        if is_check && self.replica.is_confirmed() {
            self.confirmed = Instant::now();
        }
        self.recent.note(self.replica.remembered_bytes());
        self.begin_rest();
        self.traced.applied();
        self.answer_behind(jobs);
    }

    /// Has the bridge tell nothing of a check that would change nothing.
    fn begin_rest(&mut self) {
        let Some(HeadSeen { state, is_settled }) = self.replica.expected() else { return };
        self.context.feed.rests().begin(self.id, state, is_settled, self.confirmed);
        self.is_at_rest = true;
    }

    fn end_rest(&mut self) {
        if std::mem::take(&mut self.is_at_rest)
            && let Some(seen) = self.context.feed.rests().end(self.id).filter(|seen| *seen > self.confirmed)
        {
            self.confirmed = seen;
            self.replica.found_as_expected();
        }
    }

    /// Whether a history is part of what this copy holds.
    pub(super) fn knows(&self, head: Head) -> bool {
        self.replica.knows(head)
    }

    /// Notes the traces of entries that come in next.
    pub(super) fn expect(&mut self, entries: &[LogEntry], traces: &[Option<TraceParent>]) {
        let ours = self.replica.plan().revision();
        for (LogEntry { revision, .. }, trace) in entries.iter().zip(traces) {
            if let Some(place) = trace.filter(|_| *revision > ours) {
                self.traced.expect(place, self.id, *revision);
            }
        }
    }

    /// Takes what a job came to. `false`: the plan is gone and must be closed.
    pub(super) fn take(&mut self, done: Done, jobs: &mut Jobs) -> bool {
        match done {
            Done::Committed(Ok(outcome)) => {
                self.moment.answered(Instant::now());
                if matches!(outcome, CommitOutcome::Moved { .. }) {
                    self.context.metrics.plans.commit_conflicts.increment(1);
                }
                self.input(Input::Committed(outcome), jobs);
            }
            Done::Committed(Err(error)) => {
                tracing::warn!(plan.id = %self.id, %error, "a commit got no answer");
                self.input(Input::CommitFailed, jobs);
            }
            Done::Gathered { until } => self.gathered_until(until, jobs),
            Done::Waited => self.input(Input::Waited, jobs),
            Done::ProgressDue(of) => self.progress_due(&of, jobs),
            Done::Fetched(Ok(page)) => self.input(Input::Fetched(page), jobs),
            Done::Located(Ok(state)) => self.input(Input::Located(state), jobs),
            Done::Restored(Ok(outcome)) => self.input(Input::Restored(outcome), jobs),
            Done::Reloaded(Ok(plan)) => self.input(Input::Reloaded(plan), jobs),
            Done::Reloaded(Err(OpenFailure::NoLog)) | Done::Located(Err(OpenFailure::NoLog)) => return false,
            Done::Fetched(Err(error)) | Done::Restored(Err(error)) => {
                tracing::debug!(plan.id = %self.id, %error, "the log can't be repaired for now");
                self.input(Input::RepairFailed, jobs);
            }
            Done::Located(Err(error)) => {
                tracing::debug!(plan.id = %self.id, %error, "the log's end can't be found for now");
                self.input(Input::RepairFailed, jobs);
            }
            Done::Reloaded(Err(error)) => {
                tracing::warn!(plan.id = %self.id, %error, "the plan can't be opened anew for now");
                self.input(Input::RepairFailed, jobs);
            }
            Done::Head(state) => self.synced(state, jobs),
            Done::Found { ticket, found, otherwise } => self.found(ticket, found, otherwise, jobs),
            Done::Noted { ticket, accepted, noted } => self.noted(ticket, *accepted, noted, jobs),
            Done::Told { ticket, revision, applied } => self.told(ticket, revision, applied, jobs),
            Done::Confirmed { ticket, result, accepted, confirmed } => {
                self.confirmed(ticket, result, *accepted, confirmed);
            }
            Done::Past(read) => self.past_read(read, jobs),
            Done::Missed { lost, outcome, found } => {
                let outcome = match found {
                    Ok(Some(revision)) => Readmission::Known { revision },
                    Ok(None) | Err(_) => outcome,
                };
                self.note_readmission(&lost, &outcome);
            }
            Done::Opened(_) | Done::Closed => {}
        }
        true
    }

    /// Answers everyone who waits. What they asked for may have happened all the same.
    pub(super) fn refuse_all(&mut self, rejection: &Rejection) {
        for ticket in self.tickets.keys().copied().collect::<Vec<_>>() {
            self.answer(ticket, Err(rejection.clone()));
        }
        let behind = self.behind.drain(..).map(|(_, then)| then);
        for then in self.asking.drain(..).chain(self.asking_next.drain(..)).chain(behind) {
            match then {
                AfterSync::Read(reply) => drop(reply.send(Err(rejection.clone()))),
                AfterSync::Attach(_, reply) => drop(reply.send(Err(rejection.clone()))),
            }
        }
        for (_, reply) in self.past.waiting.drain(..) {
            let _ = reply.send(Err(rejection.clone()));
        }
    }

    pub(super) fn tell_progress(&mut self, progress: Progress) {
        self.reports.heard(&progress);
        let event = PlanEvent::Progress(Arc::new(progress));
        // Full: the listener does without. What matters is numbered and comes by the log.
        for listener in self.listeners.iter().filter(|listener| listener.wants_progress) {
            let queued = Queued::new(event.clone(), Instant::now(), None, &self.context.metrics.pressure);
            let _ = listener.events.try_send(queued);
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.replica.is_busy() || !self.tickets.is_empty() || self.reports.holds_any()
    }

    /// Lets go of what nobody uses any more, and notes whether anybody uses the plan.
    pub(super) fn prune(&mut self, now: Instant) {
        self.listeners.retain(|listener| !listener.events.is_closed());
        self.past.kept.take_if(|(_, read)| now.duration_since(*read) >= past::KEPT_FOR);
        if self.is_awaited() || !self.listeners.is_empty() {
            self.used = now;
        }
    }

    /// Whether it may be closed, as far as [`Self::prune`] saw.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.is_safe(now) && now.duration_since(self.used) >= limits::PLAN_LINGER
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_busy() || self.is_asking || !self.behind.is_empty() || !self.past.waiting.is_empty()
    }

    /// Whether the log was seen to hold what we hold. While it was not, we may be the only ones who remember it.
    pub(super) fn is_safe(&self, now: Instant) -> bool {
        let at_rest = self.is_at_rest.then(|| self.context.feed.rests().seen(self.id)).flatten();
        now.duration_since(at_rest.unwrap_or(self.confirmed)) < CONFIRMED_FOR
    }

    fn submit(
        &mut self,
        operation: Operation,
        repeatable: bool,
        trace: Option<Traced>,
        reply: SubmitReply,
        jobs: &mut Jobs,
    ) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Some(trace) = trace {
            self.traced.begin(ticket, &operation, trace);
        }
        let must_confirm = self.context.backend.log.must_confirm();
        let key = OperationKey::of(&operation.user_id, &operation.client_id, &operation.id);
        self.tickets.insert(ticket, Waiting { since: Instant::now(), key, reply });
        if must_confirm && self.tickets.len() > limits::PENDING_OPERATIONS_MAX {
            return self.answer(ticket, Err(Rejection::Overloaded));
        }
        self.input(Input::Submit { ticket, operation, repeatable }, jobs);
    }

    /// Has something awaited elsewhere. What it comes to returns to [`Self::take`].
    fn spawn(&self, jobs: &mut Jobs, job: impl Future<Output = Done> + Send + 'static) {
        let opening = self.opening;
        jobs.spawn(async move { (opening, job.await) });
    }

    fn perform(&mut self, effect: Effect, jobs: &mut Jobs) {
        let (plan, owner) = (self.id, store::Owner { project: self.context.project, plan: self.id });
        let backend = || self.context.backend.clone();
        match effect {
            Effect::Commit { expected, mut batch, terms, attempt } => {
                self.traced.mark(&mut batch);
                self.moment.offered(Instant::now());
                if attempt > 0 {
                    self.context.metrics.plans.commit_retries.increment(1);
                }
                let backend = backend();
                self.spawn(
                    jobs,
                    async move { Done::Committed(store::commit(backend, plan, expected, batch, terms).await) },
                );
            }
            Effect::Gather => self.gather(jobs),
            Effect::Wait => self.spawn(jobs, async {
                tokio::time::sleep(limits::STORE_SETTLING_AWAITED_MAX).await;
                Done::Waited
            }),
            Effect::Fetch { after } => {
                let (log, bytes) = (backend().log, self.replica.newest_payload_bytes());
                self.spawn(jobs, async move {
                    Done::Fetched(log.range_of(plan, after, limits::LOG_PAGE_ENTRIES, Lane::Repair, bytes).await)
                });
            }
            Effect::Locate => {
                let backend = backend();
                self.spawn(jobs, async move {
                    Done::Located(store::state(&backend, plan).await.map_err(OpenFailure::from))
                });
            }
            Effect::Restore { expected, batch, epoch } => {
                let (log, terms) = (backend().log, Terms::Restore { epoch });
                self.spawn(jobs, async move { Done::Restored(log.commit(plan, expected, &batch, &terms).await) });
            }
            Effect::Revive { plan: state, changes, known_in } => {
                tracing::warn!(plan.id = %plan, revision = %state.revision(), "the log is gone; putting it back");
                let backend = backend();
                self.spawn(jobs, async move {
                    Done::Located(store::revive(backend, owner, state, changes, known_in).await)
                });
            }
            Effect::Reload => {
                let backend = backend();
                self.spawn(jobs, async move { Done::Reloaded(store::reload(backend, owner).await) });
            }
            Effect::Rollback(rollback) => self.note_rollback(rollback, jobs),
            Effect::Deliver(applied) => {
                self.note_active(&applied.change);
                let listeners = || self.listeners.iter().filter(|listener| !listener.events.is_closed()).count();
                let fan_out = self.traced.fan_out(plan, &applied, listeners);
                self.deliver(&PlanEvent::Changed(applied), fan_out);
            }
            Effect::Reset(cause) => {
                tracing::info!(plan.id = %plan, cause = cause.as_str(), "the history is another one; listeners get a snapshot");
                let snapshot = Arc::clone(self.replica.plan());
                self.deliver(&PlanEvent::Snapshot { plan: snapshot, reason: reset_reason(cause) }, None);
            }
            Effect::Answer { ticket, verdict } => self.judge(ticket, verdict, jobs),
            Effect::StoreSnapshot(snapshot) => {
                let (backend, retention) = (backend(), self.context.settings.retention);
                self.spawn(jobs, async move {
                    store::keep_snapshot(backend, plan, snapshot, retention).await;
                    Done::Closed
                });
            }
            Effect::RepairStarted(cause) => {
                tracing::debug!(plan.id = %plan, cause = cause.as_str(), "the log is read to catch up");
                self.context.metrics.plans.gap(cause);
            }
        }
    }

    /// Whoever made a change is active, unless it is read so late that they may have gone to sleep since.
    fn note_active(&self, change: &Change) {
        if clock::now() < change.at.after(limits::IDLE_AFTER) {
            self.active.lock().insert(change.user_id.clone());
        }
    }

    /// Counts and logs what became of changes that the log lost: once per event, and each that did not come back.
    fn note_rollback(&self, rollback: Rollback, jobs: &mut Jobs) {
        let (plan, metrics) = (self.id, &self.context.metrics);
        match rollback {
            Rollback::Restored { changes, head } => {
                metrics.plans.changes_restored.increment(changes);
                tracing::warn!(plan.id = %plan, changes, %head, "the log had lost its end; it is restored");
            }
            Rollback::Parted { after, lost, is_partial } => {
                metrics.plans.histories_parted.increment(1);
                tracing::warn!(
                    plan.id = %plan, %after, lost, is_partial,
                    "the log had lost its end and went on without it; what was lost is judged again"
                );
            }
            Rollback::Judged { lost, outcome: outcome @ (Readmission::Refused(_) | Readmission::Unchanged) } => {
                let (log, key) = (Arc::clone(&self.context.backend.log), lost.operation_key());
                self.spawn(jobs, async move {
                    let found = log.find(plan, &key).await;
                    Done::Missed { lost, outcome, found }
                });
            }
            Rollback::Judged { lost, outcome } => self.note_readmission(&lost, &outcome),
        }
    }

    fn note_readmission(&self, lost: &Applied, outcome: &Readmission) {
        self.context.metrics.plans.readmitted(outcome);
        if let Readmission::Refused(refusal) = outcome {
            let (plan, revision, operation) = (self.id, lost.revision(), &lost.change.operation_id);
            tracing::warn!(
                plan.id = %plan, %revision, operation.id = %operation, %refusal,
                "an acknowledged change was lost with the log's end and no longer fits"
            );
        }
    }

    /// Tells every listener without waiting. One that can't take it is let go, and attaches again when it can.
    fn deliver(&mut self, event: &PlanEvent, fan_out: Option<Arc<Traced>>) {
        let pressure = &self.context.metrics.pressure;
        let queued = || Queued::new(event.clone(), self.learnt, fan_out.clone(), pressure);
        self.listeners.retain(|listener| match listener.events.try_send(queued()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.context.metrics.plans.listeners_behind.increment(1);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    fn judge(&mut self, ticket: Ticket, verdict: Verdict, jobs: &mut Jobs) {
        let rejection = match verdict {
            Verdict::Accepted { applied, plan } => {
                let accepted =
                    Accepted { revision: applied.revision(), applied: Some(applied), plan, is_repeat: false };
                return self.acknowledge(EditResult::Accepted, ticket, accepted, jobs);
            }
            Verdict::Unchanged { plan, repeat } => return self.changes_nothing(ticket, plan, repeat, jobs),
            Verdict::Refused { refusal, repeat: Some(key) } => return self.look_up(ticket, key, refusal, jobs),
            Verdict::Refused { refusal, repeat: None } => Rejection::Refused(refusal),
            Verdict::Repeated { revision } => return self.tell_repeated(ticket, revision, jobs),
            Verdict::Overloaded => Rejection::Overloaded,
            Verdict::Unavailable => Rejection::Unavailable,
            Verdict::Withdrawn => Rejection::Forbidden,
        };
        self.answer(ticket, Err(rejection));
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<Accepted, Rejection>) {
        self.answer_as(result_of(&answer), ticket, answer);
    }

    fn answer_as(&mut self, result: EditResult, ticket: Ticket, answer: Result<Accepted, Rejection>) {
        self.traced.answered(ticket, Some(&answer));
        if let Some(Waiting { since, reply, .. }) = self.tickets.remove(&ticket) {
            self.context.metrics.plans.edit_seconds(result).record(since.elapsed().as_secs_f64());
            // Whoever asked may have hung up; the change stands all the same.
            let _ = reply.send(answer);
        }
    }
}

fn result_of(answer: &Result<Accepted, Rejection>) -> EditResult {
    match answer {
        Ok(Accepted { applied: Some(_), .. }) => EditResult::Accepted,
        Ok(Accepted { applied: None, .. }) => EditResult::Unchanged,
        Err(Rejection::Refused(refusal)) if matches!(**refusal, Refusal::Conflict { .. }) => EditResult::Conflict,
        Err(Rejection::Refused(_) | Rejection::NoSuchPlan | Rejection::Unrecoverable { .. }) => EditResult::Refused,
        Err(Rejection::Overloaded) => EditResult::Overloaded,
        Err(Rejection::Unavailable) => EditResult::Unavailable,
        Err(Rejection::Unconfirmed) => EditResult::Unconfirmed,
        Err(Rejection::Forbidden | Rejection::Stopping) => EditResult::Stopped,
    }
}

fn reset_reason(cause: Cause) -> &'static str {
    match cause {
        Cause::Trimmed => "the log no longer reaches back to the changes that were missed",
        Cause::Epoch => "a new epoch of the log began, as changes may have been lost; this is what the plan holds now",
        _ => "the end of the plan's log was lost and others went on from there; this is what the plan holds now",
    }
}
