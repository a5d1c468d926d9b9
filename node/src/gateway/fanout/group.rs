//! Everybody who asked the same of a plan: one follower of the plan, one execution per event, one walk over the sockets.
//!
//! A subscription begins alone, with what it lacks. Caught up, it joins its group at the exact place where it is, and from
//! then on is an entry in the group's list. A group's task runs while it has subscribers. It alone knows how far the group is,
//! so that joining needs no lock: who joins waits in line until the task comes by, between two walks.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, stream};
use mille_shared::{PlanId, UserId};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::outlet::{Delivery, Outlet};
use super::press::Press;
use super::render::{Rendered, Renderer, Rendering};
use super::walk::Walker;
use super::{Common, Deposit};
use crate::gateway::transport::Session;
use crate::project::{Ended, Following, Members, Place, PlanEvent, ProjectHandle};

/// How long what was made is kept for those who catch up, after the last of them.
const MADE_FOR: Duration = Duration::from_secs(1);

/// What stands before an answer in its frame lies where its subscriber does, which each walk reads, if the operation's id is not
/// longer than a UUID.
const OPENING_BYTES: usize = 72;

/// Everybody who asked the same of a plan.
pub struct Group {
    project: Mutex<ProjectHandle>,
    pub(super) plan: PlanId,
    pub(super) common: Arc<Common>,
    press: Press,
    /// The execution failed, and may be over: nobody new comes.
    is_broken: AtomicBool,
    line: Mutex<Line>,
    /// Subscribers that left since the task last looked.
    pub(super) left: AtomicUsize,
    /// For the task: somebody joined or left.
    pub(super) news: Notify,
}

#[derive(Default)]
struct Line {
    is_running: bool,
    /// Bounded by the subscriptions of the node's connections.
    joining: Vec<Subscriber>,
}

/// A subscription that a group tells.
pub struct Subscriber {
    /// The end of its connection.
    pub outlet: Arc<Outlet>,
    /// Its number there.
    pub serial: u64,
    /// Who it is for.
    pub session: Arc<Session>,
    /// What stands before each answer in its frame. Behind it stands a brace.
    pub opening: SmallVec<[u8; OPENING_BYTES]>,
    /// How far it is.
    pub place: Place,
    /// It has left, or was let go of.
    pub is_gone: bool,
}

impl Subscriber {
    pub(super) fn is_allowed(&self, members: &Members) -> bool {
        members.role_of(&self.session.identity().user_id).is_some()
    }
}

impl Group {
    pub(super) fn new(deposit: &Deposit, rendering: Rendering, common: Arc<Common>) -> Arc<Self> {
        let (project, plan) = (deposit.following.project().clone(), deposit.plan);
        let renderer = Renderer::new(project.id(), plan, rendering);
        let kept = project.metrics().pressure.backlog();
        Arc::new(Self {
            project: Mutex::new(project),
            plan,
            common,
            is_broken: AtomicBool::new(false),
            press: Press::new(renderer, kept),
            line: Mutex::default(),
            left: AtomicUsize::new(0),
            news: Notify::new(),
        })
    }

    /// The project, as it was last seen to be served.
    pub(super) fn project(&self) -> ProjectHandle {
        self.project.lock().clone()
    }

    /// The members of its project, as they are known now: subscribers' rights are judged by them.
    pub(super) fn project_members(&self) -> Arc<Members> {
        self.project.lock().members()
    }

    /// The project is served so now: its actor may be another one.
    pub(super) fn note_handle(&self, project: &ProjectHandle) {
        let mut known = self.project.lock();
        if !known.is_same(project) && project.is_served() {
            *known = project.clone();
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// A subscription that left goes on from where it is, alone.
    #[must_use]
    pub fn resumed(&self, user: &UserId, place: Place) -> Following {
        Following::resumed(self.project(), self.plan, user, place)
    }

    /// Lets a subscription join. Its connection is told what comes behind its place, or that it must catch up once more.
    pub fn join(self: &Arc<Self>, subscriber: Subscriber) {
        subscriber.outlet.join(subscriber.serial);
        let place = subscriber.place;
        let mut line = self.line.lock();
        line.joining.push(subscriber);
        if std::mem::replace(&mut line.is_running, true) {
            drop(line);
            return self.news.notify_one();
        }
        drop(line);
        let mut walker = Walker::new(Arc::clone(self), place);
        self.common.tasks.spawn(async move {
            if AssertUnwindSafe(walker.run()).catch_unwind().await.is_err() {
                // A mistake of ours, which the panic hook has told. Who comes back finds a new task.
                walker.end(Ended::Stopping);
            }
        });
    }

    /// A subscriber has left.
    pub fn left(&self) {
        self.left.fetch_add(1, Ordering::Release);
        self.news.notify_one();
    }

    /// Who joined since the last call.
    pub(super) fn joining(&self) -> Vec<Subscriber> {
        std::mem::take(&mut self.line.lock().joining)
    }

    /// Ends the task, unless somebody has joined.
    pub(super) fn stop(&self) -> bool {
        let mut line = self.line.lock();
        line.is_running = !line.joining.is_empty();
        !line.is_running
    }

    /// What an event comes to. `None`: nothing that is shown.
    pub(super) async fn render(&self, event: &PlanEvent) -> Option<Arc<Rendered>> {
        let note = |rendered: &Rendered| {
            self.project.lock().metrics().plans.fan_out_executions.increment(1);
            self.is_broken.fetch_or(rendered.failure.is_some(), Ordering::Relaxed);
        };
        self.press.render(event, note).await
    }
}

/// What a subscription is told while it catches up.
#[derive(Debug)]
pub enum Alone {
    /// An event.
    Told(Arc<Delivery>),
    /// It has everything up to here, and may join its group. Nothing follows.
    CaughtUp(Place),
    /// It is over. Nothing follows.
    Ended(Ended),
}

/// What a subscription lacks, until it may join its group.
pub fn alone(group: Arc<Group>, following: Following) -> impl Stream<Item = Alone> + Send {
    let company = Company::begin(group);
    stream::unfold(Some((following, company)), |state| async move {
        let (mut following, company) = state?;
        loop {
            if let Err(ended) = following.attached().await {
                return Some((Alone::Ended(ended), None));
            }
            if let Some(place) = following.caught_up() {
                return Some((Alone::CaughtUp(place), None));
            }
            let telling = match following.tell().await {
                Ok(telling) => telling,
                Err(ended) => return Some((Alone::Ended(ended), None)),
            };
            if let Some(rendered) = company.0.render(&telling.event).await {
                let delivery = Delivery { rendered, learnt: telling.learnt, _fan_out: telling.fan_out };
                return Some((Alone::Told(Arc::new(delivery)), Some((following, company))));
            }
        }
    })
}

/// Counts one who catches up: what is made meanwhile is kept for the others who do.
struct Company(Arc<Group>);

impl Company {
    fn begin(group: Arc<Group>) -> Self {
        group.press.begin_alone();
        Self(group)
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        if !self.0.press.end_alone() {
            return;
        }
        // Who opens a plan together with others comes in waves, one when the last is through.
        let group = Arc::downgrade(&self.0);
        let forgetting = async move {
            tokio::time::sleep(MADE_FOR).await;
            group.upgrade().into_iter().for_each(|group| group.press.forget_made());
        };
        // Without a runtime the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(forgetting);
        }
    }
}
