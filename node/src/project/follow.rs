//! A listener of a plan: every change once, in order, whatever happens between it and the actor.
//!
//! A listener attaches to the actor, is told what it lacks ([`Ahead`]: from memory, from a past that is shared with others, or
//! from the log), and then what comes on its [`Line`]. The actor never waits for a listener. When a line is full the actor lets
//! go of it; the listener takes what is queued and attaches again from where it is ([`At`]), exactly like a client that
//! reconnects. So a slow reader costs one bounded queue, and there is one way to catch up, not two.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mille_core::Applied;
use mille_shared::log::{ChainHash, Head};
use mille_shared::{PlanId, Revision, UserId};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::command::{AttachRequest, Attached, Audience, Backlog, Pace, PlanEvent, Queued, Rejection};
use super::handle::ProjectHandle;
use super::past::{Past, TURN_PATIENCE, Taken};
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
    at: At,
    /// Whether members may have changed while nobody told us. Only who listens for many is told.
    members_changed: bool,
    ahead: Ahead,
    line: Line,
    /// Told when this node learnt of each event that is given out, for whoever writes it.
    learnt: LearntAt,
    /// What was told last, if that is traced. Who asks for the next has taken it.
    telling: Option<Arc<Traced>>,
}

/// Where a listener is, and so from where it attaches.
#[derive(Debug, Clone, Copy)]
enum At {
    /// Nothing of the plan as it is now was told yet.
    Start(Start),
    /// What was told ends here.
    Place(Place),
}

impl At {
    fn place(self) -> Option<Place> {
        match self {
            Self::Start(_) => None,
            Self::Place(place) => Some(place),
        }
    }

    fn start(self) -> Start {
        match self {
            Self::Start(start) => start,
            Self::Place(place) => Start::After(place.revision),
        }
    }
}

/// What is told before anything that comes on the line.
enum Ahead {
    /// These events; at last none.
    Events(VecDeque<PlanEvent>),
    /// The changes of a past that is shared with others, of which there is at least one more, and then these events.
    Past { past: Arc<Past>, next: usize, then: VecDeque<PlanEvent> },
    /// The changes that a replay reads from the log, once it is its turn. The page was read last.
    Log { replay: Box<LogReplay>, page: VecDeque<Arc<Applied>>, turn: Turn },
}

/// Who reads the log alone takes turns with others.
enum Turn {
    /// It is waited for since then.
    Wanted(Instant),
    /// It is taken until this is dropped. Who listens for many goes on without one if there is none: of those there are few.
    Begun { _turn: Option<Taken> },
}

impl Default for Ahead {
    fn default() -> Self {
        Self::Events(VecDeque::new())
    }
}

impl Ahead {
    fn past(past: Arc<Past>, next: usize, then: VecDeque<PlanEvent>) -> Self {
        if past.get(next).is_some() { Self::Past { past, next, then } } else { Self::Events(then) }
    }

    /// Whether what is told next comes on the line.
    fn is_over(&self) -> bool {
        matches!(self, Self::Events(events) if events.is_empty())
    }

    /// Whether the next event is here already.
    fn is_at_hand(&self) -> bool {
        match self {
            Self::Events(events) => !events.is_empty(),
            Self::Past { .. } => true,
            Self::Log { page, .. } => !page.is_empty(),
        }
    }

    /// The next event, if it is here already.
    fn pop(&mut self) -> Option<PlanEvent> {
        match self {
            Self::Events(events) => events.pop_front(),
            Self::Past { past, next, then } => {
                let applied = past.get(*next).map(Arc::clone);
                *next += 1;
                if past.get(*next).is_none() {
                    *self = Self::Events(std::mem::take(then));
                }
                applied.map(PlanEvent::Changed)
            }
            Self::Log { replay, page, .. } => {
                let applied = page.pop_front();
                if page.is_empty() && replay.is_done() {
                    *self = Self::default();
                }
                applied.map(PlanEvent::Changed)
            }
        }
    }
}

/// What the actor tells a listener.
enum Line {
    /// Nothing, until the listener attaches.
    Detached(Option<Retry>),
    /// What comes here.
    Attached {
        live: mpsc::Receiver<Queued>,
        /// Whether a SNAPSHOT is to come, since the log leaves its epoch.
        leaves_epoch: bool,
    },
}

/// The plan could not take the listener back, and is asked again.
#[derive(Clone, Copy)]
struct Retry {
    since: Instant,
    /// Before the next attempt.
    pause: Duration,
}

impl Line {
    /// What comes next; nothing once the actor has let go of us.
    async fn next(&mut self) -> Option<Queued> {
        let Self::Attached { live, leaves_epoch } = self else { return None };
        let queued = live.recv().await;
        if let Some(Queued { event: PlanEvent::Snapshot { .. }, .. }) = queued {
            *leaves_epoch = false;
        }
        queued
    }

    fn is_at_hand(&self) -> bool {
        matches!(self, Self::Attached { live, .. } if !live.is_empty())
    }

    /// Whether the actor has let go of us. What it told us until then may still wait.
    fn is_closed(&self) -> bool {
        match self {
            Self::Detached(_) => true,
            Self::Attached { live, .. } => live.is_closed(),
        }
    }

    fn leaves_epoch(&self) -> bool {
        matches!(self, Self::Attached { leaves_epoch: true, .. })
    }
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
        let at = start.place().map_or(At::Start(start), |revision| At::Place(Place { revision, known: None }));
        let mut following = Self { wants_progress, ..Self::detached(project, plan, audience, at) };
        following.take(attached);
        Ok(following)
    }

    /// One that goes on from a place, for a user who listened before.
    #[must_use]
    pub fn resumed(project: ProjectHandle, plan: PlanId, user: &UserId, place: Place) -> Self {
        Self::detached(project, plan, Audience::User(user.clone()), At::Place(place))
    }

    /// One that goes on from a place for many users: it is told when members change, and checks nobody's right to listen.
    /// `pace` says how long it lets pass behind each telling.
    #[must_use]
    pub fn for_many(project: ProjectHandle, plan: PlanId, place: Place, pace: Arc<Pace>) -> Self {
        Self::detached(project, plan, Audience::Many(pace), At::Place(place))
    }

    /// Attaches when it is asked for the next event.
    fn detached(project: ProjectHandle, plan: PlanId, audience: Audience, at: At) -> Self {
        Self {
            project,
            plan,
            audience,
            wants_progress: false,
            at,
            members_changed: false,
            ahead: Ahead::default(),
            line: Line::Detached(None),
            learnt: LearntAt::default(),
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
        let lacks_nothing = !self.members_changed && self.ahead.is_over() && !self.line.is_at_hand();
        let is_placed = !self.line.is_closed() && !self.line.leaves_epoch();
        self.at.place().filter(|_| lacks_nothing && is_placed)
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
        while self.line.is_closed() && !self.has_at_hand() && self.ahead.is_over() {
            self.check_audience()?;
            self.attach().await?;
        }
        Ok(())
    }

    /// Whether the next event is here already.
    #[must_use]
    pub fn has_at_hand(&self) -> bool {
        self.members_changed || self.ahead.is_at_hand() || self.ahead.is_over() && self.line.is_at_hand()
    }

    /// The next event, and what is known of its way here. Waits until there is one; can be cancelled without loss.
    ///
    /// # Errors
    /// [`Ended`], once; the stream is over then.
    pub async fn tell(&mut self) -> Result<Telling, Ended> {
        loop {
            // A long past takes its time, and the actor can't stop it. Nor can it take back what it told a slow listener; it
            // lets go of one that may not listen.
            if self.line.is_closed() || !matches!(self.ahead, Ahead::Events(_)) {
                self.check_audience()?;
            }
            let telling = if std::mem::take(&mut self.members_changed) {
                Telling { event: PlanEvent::MembersChanged, learnt: None, fan_out: None }
            } else if let Some(event) = self.ahead.pop() {
                Telling { event, learnt: None, fan_out: None }
            } else if let Ahead::Log { turn: Turn::Wanted(since), .. } = self.ahead {
                self.take_turn(since).await;
                continue;
            } else if let Ahead::Log { replay, page, .. } = &mut self.ahead {
                match replay.next_page().await {
                    Ok(changes) if changes.is_empty() => self.ahead = Ahead::default(),
                    Ok(changes) => {
                        self.project.metrics().plans.replayed_events.increment(changes.len() as u64);
                        page.extend(changes);
                    }
                    // A replay that failed is never asked again: what it would tell next need not be what comes next.
                    Err(why) => self.begin_anew(why.reason()),
                }
                continue;
            } else if let Some(Queued { event, learnt, fan_out, .. }) = self.line.next().await {
                Telling { event, learnt: Some(learnt), fan_out }
            } else {
                self.attach().await?;
                continue;
            };
            if self.advance(&telling.event) {
                return Ok(telling);
            }
        }
    }

    /// Waits a moment for a turn to read the log.
    async fn take_turn(&mut self, since: Instant) {
        let taken = self.project.projects.past_room().listener().await;
        let is_waited_for = taken.is_none() && !self.audience.is_many();
        if !is_waited_for && let Ahead::Log { turn, .. } = &mut self.ahead {
            *turn = Turn::Begun { _turn: taken };
        } else if since.elapsed() >= TURN_PATIENCE {
            self.begin_anew("too many read the past of plans at the time");
        }
    }

    fn check_audience(&self) -> Result<(), Ended> {
        let members = self.project.members();
        if self.audience.may_listen(|user| members.role_of(user)) { Ok(()) } else { Err(Ended::Forbidden) }
    }

    /// What comes after our place can't be told: a SNAPSHOT is next.
    fn begin_anew(&mut self, reason: &'static str) {
        self.at = At::Start(Start::Snapshot { reason });
        (self.ahead, self.line) = (Ahead::default(), Line::Detached(None));
    }

    /// Attaches from where it is. A plan that all its listeners come back to at once, or whose store does not answer, is asked once
    /// more behind a pause: then nothing has changed but that.
    async fn attach(&mut self) -> Result<(), Ended> {
        match self.try_attach().await {
            Ok(attached) => {
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
        let Retry { since, pause } = match self.line {
            Line::Detached(Some(retry)) => retry,
            _ => Retry { since: Instant::now(), pause: REATTACH_PAUSE_FIRST },
        };
        if since.elapsed() >= REATTACH_PATIENCE {
            return Err(Ended::Stopping);
        }
        self.line = Line::Detached(Some(Retry { since, pause: REATTACH_PAUSE_MAX.min(2 * pause) }));
        let pause = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(pause).await;
        self.members_changed = self.audience.is_many();
        Ok(())
    }

    async fn try_attach(&mut self) -> Result<Attached, Rejection> {
        let request = AttachRequest {
            audience: self.audience.clone(),
            start: self.at.start(),
            is_first: false,
            known: self.at.place().and_then(|place| place.known),
            wants_progress: self.wants_progress,
        };
        match self.project.attach(self.plan, request.clone()).await {
            Err(Rejection::Stopping) => {
                // The actor may only have been retired or restarted; a new one may serve.
                self.project = self.project.projects.open(self.project.id).await.map_err(|why| match why {
                    OpenError::NotFound => Rejection::NoSuchPlan,
                    OpenError::Unavailable => Rejection::Unavailable,
                    _ => Rejection::Stopping,
                })?;
                self.project.attach(self.plan, request).await
            }
            other => other,
        }
    }

    fn take(&mut self, Attached { head, backlog, leaves_epoch, live }: Attached) {
        self.line = Line::Attached { live, leaves_epoch };
        // While nobody listened, nobody was told.
        self.members_changed = self.audience.is_many();
        self.ahead = match backlog {
            Backlog::Events(events) => {
                let is_at_head = match self.at {
                    At::Start(start) => start == Start::Next,
                    // What was only the client's word is known now.
                    At::Place(place) => events.is_empty() && place.revision == head.revision,
                };
                if is_at_head {
                    self.at = At::Place(head.into());
                }
                Ahead::Events(events.into())
            }
            Backlog::Past { past, from, events } => Ahead::past(past, from, events.into()),
            Backlog::FromLog { until } => match self.at {
                At::Place(Place { revision, known }) => {
                    let backend = self.project.projects.backend().clone();
                    let replay = LogReplay::new(backend, self.plan, revision, until).behind(known);
                    Ahead::Log { replay: Box::new(replay), page: VecDeque::new(), turn: Turn::Wanted(Instant::now()) }
                }
                At::Start(_) => Ahead::default(),
            },
        };
    }

    /// Notes where an event brings us; false for one that was told before.
    fn advance(&mut self, event: &PlanEvent) -> bool {
        match event {
            PlanEvent::Progress(_) | PlanEvent::MembersChanged => true,
            PlanEvent::Snapshot { plan, .. } => {
                self.at = At::Place(plan.head().into());
                true
            }
            PlanEvent::Changed(applied) => {
                let is_new = self.at.place().is_none_or(|place| place.revision < applied.revision());
                if is_new {
                    self.at = At::Place(applied.head.into());
                }
                is_new
            }
        }
    }
}
