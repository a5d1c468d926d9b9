//! A listener of a plan: every change once, in order, whatever happens between it and the actor.
//!
//! The actor never waits for a listener. When a listener's queue is full the actor lets go of it; the listener takes what
//! is queued and attaches again from where it is, exactly like a client that reconnects. So a slow reader costs one
//! bounded queue, and there is one way to catch up, not two.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mille_shared::log::{ChainHash, Head};
use mille_shared::{PlanId, Revision, UserId};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::command::{AttachRequest, Attached, Audience, Backlog, Pace, PlanEvent, Queued, Rejection};
use super::handle::ProjectHandle;
use super::past::Past;
use super::registry::OpenError;
use super::replay::LogReplay;
use crate::metrics::LearntAt;
use crate::traces::Traced;

/// How long a plan that can't take its listeners back is asked again.
const REATTACH_PATIENCE: Duration = Duration::from_secs(30);
/// The pause behind the first try, and the longest: each is twice the one before, less up to a half of it by chance. Who listens
/// for many judges their rights behind each.
const REATTACH_PAUSE_FIRST: Duration = Duration::from_millis(200);
const REATTACH_PAUSE_MAX: Duration = Duration::from_secs(1);

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

/// How far a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The last revision that it was told.
    pub revision: Revision,
    /// The hash of the history up to there. `None`: we have only the client's word.
    pub known: Option<ChainHash>,
}

impl From<Head> for Place {
    fn from(head: Head) -> Self {
        Self { revision: head.revision, known: Some(head.hash) }
    }
}

/// A plan's event, and what is known of its way here.
#[derive(Debug)]
pub struct Telling {
    /// The event.
    pub event: PlanEvent,
    /// When this node learnt of it. `None`: it is of the past.
    pub learnt: Option<Instant>,
    /// The fan-out that it is a part of, if that is traced: to be kept until it was told.
    pub fan_out: Option<Arc<Traced>>,
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
    audience: Audience,
    wants_progress: bool,
    /// How far it is. `None` until something was told: then the start still counts.
    place: Option<Place>,
    start: Start,
    /// What is told first, from a past that is shared with others.
    past: Option<(Arc<Past>, usize)>,
    backlog: VecDeque<PlanEvent>,
    /// Told of what is given out, for whoever writes it.
    learnt: LearntAt,
    replay: Option<LogReplay>,
    live: mpsc::Receiver<Queued>,
    /// Whether a SNAPSHOT is to come, since the log leaves its epoch.
    leaves_epoch: bool,
    /// Since when the plan can't take us back, and the pause behind the next try.
    away: Option<(Instant, Duration)>,
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
        let audience = Audience::User(user_id);
        let request = AttachRequest { audience: audience.clone(), start, is_first: true, known: None, wants_progress };
        let attached = project.attach(plan, request).await?;
        let place = start.place().map(|revision| Place { revision, known: None });
        let mut following = Self { start, wants_progress, ..Self::detached(project, plan, audience, place) };
        following.take(attached);
        Ok(following)
    }

    /// One that goes on from a place, for a user who listened before.
    #[must_use]
    pub fn resumed(project: ProjectHandle, plan: PlanId, user: &UserId, place: Place) -> Self {
        Self::detached(project, plan, Audience::User(user.clone()), Some(place))
    }

    /// One that goes on from a place for many users: it is told when members change, and checks nobody's right to listen.
    /// `pace` says how long it lets pass behind each telling.
    #[must_use]
    pub fn for_many(project: ProjectHandle, plan: PlanId, place: Place, pace: Arc<Pace>) -> Self {
        Self::detached(project, plan, Audience::Many(pace), Some(place))
    }

    /// Attaches when it is asked for the next event.
    fn detached(project: ProjectHandle, plan: PlanId, audience: Audience, place: Option<Place>) -> Self {
        let (_, nothing) = mpsc::channel(1);
        Self {
            project,
            plan,
            audience,
            wants_progress: false,
            place,
            start: Start::Next,
            past: None,
            backlog: VecDeque::new(),
            learnt: LearntAt::default(),
            replay: None,
            live: nothing,
            leaves_epoch: false,
            away: None,
            telling: None,
        }
    }

    /// The project as it is served now.
    #[must_use]
    pub fn project(&self) -> &ProjectHandle {
        &self.project
    }

    /// How far it is, if nothing waits that it could tell at once and its place is good beside those of others: what comes next
    /// is new.
    #[must_use]
    pub fn caught_up(&self) -> Option<Place> {
        let lacks_nothing = self.past.is_none()
            && self.backlog.is_empty()
            && self.replay.is_none()
            && self.live.is_empty()
            && !self.live.is_closed()
            && !self.leaves_epoch;
        self.place.filter(|_| lacks_nothing)
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
        let Telling { event, learnt, fan_out } = self.tell().await?;
        learnt.into_iter().for_each(|learnt| self.learnt.set(learnt));
        self.telling = fan_out;
        Ok(event)
    }

    /// Attaches, unless it is attached or has something to tell first. Then [`Self::caught_up`] is an answer.
    ///
    /// # Errors
    /// [`Ended`], once; the stream is over then.
    pub async fn attached(&mut self) -> Result<(), Ended> {
        while self.past.is_none() && self.backlog.is_empty() && self.replay.is_none() && self.is_let_go() {
            self.attach_where_it_is().await?;
        }
        Ok(())
    }

    /// Whether the next event is here already.
    #[must_use]
    pub fn has_at_hand(&self) -> bool {
        self.past.is_some() || !self.backlog.is_empty() || self.replay.is_none() && !self.live.is_empty()
    }

    /// Whether the actor has let go of us, and nothing that it told us waits.
    fn is_let_go(&self) -> bool {
        self.live.is_closed() && self.live.is_empty()
    }

    /// The next event, and what is known of its way here. Waits until there is one; can be cancelled without loss.
    ///
    /// # Errors
    /// [`Ended`], once; the stream is over then.
    pub async fn tell(&mut self) -> Result<Telling, Ended> {
        loop {
            // A long past takes its time, and the actor can't stop it. Nor can it take back what it told a slow listener; it
            // lets go of one that may not listen.
            if self.past.is_some() || self.replay.is_some() || self.live.is_closed() {
                self.check_audience()?;
            }
            let (event, learnt, fan_out) = if let Some((past, index)) = &mut self.past {
                let Some(applied) = past.get(*index).cloned() else {
                    self.past = None;
                    continue;
                };
                *index += 1;
                if past.get(*index).is_none() {
                    self.past = None;
                }
                (PlanEvent::Changed(applied), None, None)
            } else if let Some(event) = self.backlog.pop_front() {
                (event, None, None)
            } else if let Some(replay) = &mut self.replay {
                match replay.next_page().await {
                    Ok(changes) if changes.is_empty() => self.replay = None,
                    Ok(changes) => {
                        if replay.is_done() {
                            self.replay = None;
                        }
                        self.project.metrics().plans.replayed_events.increment(changes.len() as u64);
                        self.backlog.extend(changes.into_iter().map(PlanEvent::Changed));
                    }
                    Err(why) => self.attach(Start::Snapshot { reason: why.reason() }).await?,
                }
                continue;
            } else if let Some(queued) = self.live.recv().await {
                self.leaves_epoch &= !matches!(queued.event, PlanEvent::Snapshot { .. });
                (queued.event, Some(queued.learnt), queued.fan_out)
            } else {
                self.attach_where_it_is().await?;
                continue;
            };
            if self.is_new(&event) {
                return Ok(Telling { event, learnt, fan_out });
            }
        }
    }

    fn check_audience(&self) -> Result<(), Ended> {
        let members = self.project.members();
        if self.audience.may_listen(|user| members.role_of(user)) { Ok(()) } else { Err(Ended::Forbidden) }
    }

    async fn attach_where_it_is(&mut self) -> Result<(), Ended> {
        self.check_audience()?;
        self.attach(self.place.map_or(self.start, |place| Start::After(place.revision))).await
    }

    /// Attaches again: because the actor let go of us, or because the log could not be read. A plan that all its listeners come
    /// back to at once, or whose store does not answer, is asked once more behind a pause: then nothing has changed but that.
    async fn attach(&mut self, start: Start) -> Result<(), Ended> {
        match self.try_attach(start).await {
            Ok(attached) => {
                self.away = None;
                self.take(attached);
                Ok(())
            }
            Err(Rejection::Forbidden) => Err(Ended::Forbidden),
            Err(Rejection::NoSuchPlan) => Err(Ended::Gone),
            Err(Rejection::Overloaded | Rejection::Unavailable) => self.pause().await,
            Err(_) => Err(Ended::Stopping),
        }
    }

    async fn pause(&mut self) -> Result<(), Ended> {
        let (since, pause) = *self.away.get_or_insert_with(|| (Instant::now(), REATTACH_PAUSE_FIRST));
        if since.elapsed() >= REATTACH_PATIENCE {
            return Err(Ended::Stopping);
        }
        self.away = Some((since, REATTACH_PAUSE_MAX.min(2 * pause)));
        let pause = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(pause).await;
        if matches!(self.audience, Audience::Many(_)) {
            self.backlog.push_back(PlanEvent::MembersChanged);
        }
        Ok(())
    }

    async fn try_attach(&mut self, start: Start) -> Result<Attached, Rejection> {
        let request = AttachRequest {
            audience: self.audience.clone(),
            start,
            is_first: false,
            known: self.place.and_then(|place| place.known),
            wants_progress: self.wants_progress,
        };
        match self.project.attach(self.plan, request.clone()).await {
            Err(Rejection::Stopping) => {
                // The actor may only have been retired or restarted; a new one may serve.
                self.project = self.project.projects.open_again(self.project.id).await.map_err(|why| match why {
                    OpenError::NotFound => Rejection::NoSuchPlan,
                    OpenError::Unavailable => Rejection::Unavailable,
                    _ => Rejection::Stopping,
                })?;
                self.project.attach(self.plan, request).await
            }
            other => other,
        }
    }

    fn take(&mut self, attached: Attached) {
        if self.start == Start::Next && self.place.is_none() {
            self.reach(attached.head);
        }
        let lacks_nothing = matches!(&attached.backlog, Backlog::Events(events) if events.is_empty());
        if lacks_nothing && self.place.is_some_and(|place| place.revision == attached.head.revision) {
            // What was only the client's word is known now.
            self.reach(attached.head);
        }
        (self.live, self.leaves_epoch) = (attached.live, attached.leaves_epoch);
        (self.past, self.replay) = (None, None);
        if matches!(self.audience, Audience::Many(_)) {
            // While nobody listened, nobody was told.
            self.backlog.push_back(PlanEvent::MembersChanged);
        }
        match attached.backlog {
            Backlog::Events(events) => self.backlog.extend(events),
            Backlog::Past { past, from, events } => {
                self.past = Some((past, from));
                self.backlog.extend(events);
            }
            Backlog::FromLog { until } => {
                let backend = self.project.projects.backend().clone();
                self.replay = self
                    .place
                    .map(|after| LogReplay::new(backend, self.plan, after.revision, until).behind(after.known));
            }
        }
    }

    /// Notes where an event brings us; false for one that was told before.
    fn is_new(&mut self, event: &PlanEvent) -> bool {
        match event {
            PlanEvent::Progress(_) | PlanEvent::MembersChanged => true,
            PlanEvent::Snapshot { plan, .. } => {
                self.reach(plan.head());
                true
            }
            PlanEvent::Changed(applied) => {
                let seen = self.place.is_some_and(|place| place.revision >= applied.revision());
                if !seen {
                    self.reach(applied.head);
                }
                !seen
            }
        }
    }

    fn reach(&mut self, head: Head) {
        self.place = Some(head.into());
    }
}
