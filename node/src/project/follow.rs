//! A listener of a plan: every change once, in order, whatever happens between it and the actor.
//!
//! The actor never waits for a listener. When a listener's queue is full the actor lets go of it; the listener takes what
//! is queued and attaches again from where it is, exactly like a client that reconnects. So a slow reader costs one
//! bounded queue, and there is one way to catch up, not two.

use std::collections::VecDeque;
use std::sync::Arc;

use mille_shared::log::{ChainHash, Head};
use mille_shared::{PlanId, Revision, UserId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::command::{AttachRequest, Attached, Backlog, PlanEvent, Queued, Rejection};
use super::handle::ProjectHandle;
use super::past::Past;
use super::registry::OpenError;
use super::replay::LogReplay;
use crate::metrics::LearntAt;
use crate::traces::Traced;

/// Where a listener begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next change.
    Next,
    /// With the plan as it is, then every later change.
    Snapshot {
        /// Why: told to the listener.
        reason: &'static str,
    },
    /// With the change after this one; with a snapshot where that can't be.
    After(Revision),
}

impl Start {
    /// The place after which it begins, if it names one.
    pub(super) fn place(self) -> Option<Revision> {
        match self {
            Self::After(after) => Some(after),
            Self::Next | Self::Snapshot { .. } => None,
        }
    }
}

/// Why a listener is told nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The user may no longer listen.
    #[error("you may no longer read this project")]
    Forbidden,
    /// The plan or its project is gone.
    #[error("the plan is gone")]
    Gone,
    /// This node stops or can't serve the plan; another may.
    #[error("this node no longer serves the plan")]
    Stopping,
}

/// A plan's events, in order, without a hole.
pub struct Following {
    project: ProjectHandle,
    plan: PlanId,
    user_id: UserId,
    wants_progress: bool,
    /// The last revision that was told. `None` until something was: then the start still counts.
    position: Option<Revision>,
    start: Start,
    /// The hash of the history up to there. `None`: we have only the client's word.
    known: Option<ChainHash>,
    /// What is told first, from a past that is shared with others.
    past: Option<(Arc<Past>, usize)>,
    backlog: VecDeque<PlanEvent>,
    /// When the one event of the backlog was learnt, if it is new.
    fresh: Option<Instant>,
    /// Told of what is given out, for whoever writes it.
    learnt: LearntAt,
    replay: Option<LogReplay>,
    live: mpsc::Receiver<Queued>,
    /// What was told last, if that is traced. Who asks for the next has taken it.
    telling: Option<Arc<Traced>>,
}

impl Following {
    pub(super) async fn begin(
        project: ProjectHandle,
        plan: PlanId,
        user_id: UserId,
        start: Start,
        wants_progress: bool,
    ) -> Result<Self, Rejection> {
        let request = AttachRequest { user_id: user_id.clone(), start, is_first: true, known: None, wants_progress };
        let attached = project.attach(plan, request).await?;
        let (_, nothing) = mpsc::channel(1);
        let position = start.place();
        let mut following = Self {
            project,
            plan,
            user_id,
            wants_progress,
            position,
            start,
            known: None,
            past: None,
            backlog: VecDeque::new(),
            fresh: None,
            learnt: LearntAt::default(),
            replay: None,
            live: nothing,
            telling: None,
        };
        following.take(attached);
        Ok(following)
    }

    /// Notes when each new event was learnt, as it is given out.
    #[must_use]
    pub fn noting(self, learnt: LearntAt) -> Self {
        Self { learnt, ..self }
    }

    /// The next event. Waits until there is one.
    ///
    /// # Errors
    /// [`Ended`], once; the stream is over then.
    pub async fn next(&mut self) -> Result<PlanEvent, Ended> {
        self.telling = None;
        loop {
            // A long past takes its time, and the actor can't stop it. Nor can it take back what it told a slow listener; it
            // lets go of one that may not listen.
            let may_be_out = self.past.is_some() || self.replay.is_some() || self.live.is_closed();
            if may_be_out && self.project.members().role_of(&self.user_id).is_none() {
                return Err(Ended::Forbidden);
            }
            if let Some((past, index)) = &mut self.past {
                let Some(applied) = past.get(*index).cloned() else {
                    self.past = None;
                    continue;
                };
                *index += 1;
                let event = PlanEvent::Changed(applied);
                if self.is_new(&event) {
                    return Ok(event);
                }
            } else if let Some(event) = self.backlog.pop_front() {
                let fresh = self.fresh.take();
                if self.is_new(&event) {
                    fresh.into_iter().for_each(|learnt| self.learnt.set(learnt));
                    return Ok(event);
                }
            } else if let Some(replay) = &mut self.replay {
                match replay.next_page().await {
                    Ok(changes) if changes.is_empty() => self.replay = None,
                    Ok(changes) => {
                        self.project.metrics().plans.replayed_events.increment(changes.len() as u64);
                        self.backlog.extend(changes.into_iter().map(PlanEvent::Changed));
                    }
                    Err(why) => self.attach(Start::Snapshot { reason: why.reason() }).await?,
                }
            } else if let Some(queued) = self.live.recv().await {
                self.fresh = Some(queued.learnt);
                self.telling = queued.fan_out;
                self.backlog.push_back(queued.event);
            } else {
                let start = self.position.map_or(self.start, Start::After);
                self.attach(start).await?;
            }
        }
    }

    /// Attaches again: because the actor let go of us, or because the log could not be read.
    async fn attach(&mut self, start: Start) -> Result<(), Ended> {
        let request = AttachRequest {
            user_id: self.user_id.clone(),
            start,
            is_first: false,
            known: self.known,
            wants_progress: self.wants_progress,
        };
        let attached = match self.project.attach(self.plan, request.clone()).await {
            Err(Rejection::Stopping) => {
                // The actor may only have been retired or restarted; a new one may serve.
                self.project = match self.project.projects.open_again(self.project.id).await {
                    Ok(project) => project,
                    Err(OpenError::NotFound) => return Err(Ended::Gone),
                    Err(_) => return Err(Ended::Stopping),
                };
                self.project.attach(self.plan, request).await
            }
            other => other,
        };
        match attached {
            Ok(attached) => {
                self.take(attached);
                Ok(())
            }
            Err(Rejection::Forbidden) => Err(Ended::Forbidden),
            Err(Rejection::NoSuchPlan) => Err(Ended::Gone),
            Err(_) => Err(Ended::Stopping),
        }
    }

    fn take(&mut self, attached: Attached) {
        if self.start == Start::Next && self.position.is_none() {
            self.reach(attached.head);
        }
        self.live = attached.live;
        (self.past, self.replay) = (None, None);
        match attached.backlog {
            Backlog::Events(events) => self.backlog.extend(events),
            Backlog::Past { past, from, events } => {
                self.past = Some((past, from));
                self.backlog.extend(events);
            }
            Backlog::FromLog { until } => {
                let backend = self.project.projects.backend().clone();
                self.replay =
                    self.position.map(|after| LogReplay::new(backend, self.plan, after, until).behind(self.known));
            }
        }
    }

    /// Notes where an event brings us; false for one that was told before.
    fn is_new(&mut self, event: &PlanEvent) -> bool {
        match event {
            PlanEvent::Progress(_) => true,
            PlanEvent::Snapshot { plan, .. } => {
                self.reach(plan.head());
                true
            }
            PlanEvent::Changed(applied) => {
                let seen = self.position.is_some_and(|position| position >= applied.revision());
                if !seen {
                    self.reach(applied.head);
                }
                !seen
            }
        }
    }

    fn reach(&mut self, head: Head) {
        (self.position, self.known) = (Some(head.revision), Some(head.hash));
    }
}
