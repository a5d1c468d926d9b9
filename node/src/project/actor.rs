//! A project's actor: waits, asks the parts it owns, performs.
//!
//! It has lives. One ends when it is old, or when something in it failed; the next one has new parts, and goes on with
//! the same mailbox, the same line from the bridge and the same sockets. So whoever talks to the actor notices at most a
//! pause, and nobody but its own project that it failed. One that fails again and again is given up.
//!
//! No branch goes before another: whatever is ready is taken in random order, so that a flood of messages can't starve
//! the users of this node, nor a flood of requests keep the node from catching up. Nothing in the loop awaits a socket or
//! the store.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mille_core::replica::{Cause, HeadSeen, Input};
use mille_shared::directory::Role;
use mille_shared::{CloseCode, PlanId, ProjectId, UserId, limits};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::access::{self, Members};
use super::command::{Command, PlanCommand, Rejection};
use super::plans::{self, Plans};
use super::presence::{NO_MEMBER, PresenceCommand, PresencePart, StoreAnswer};
use super::reader::{self, Reader};
use crate::backend::{Channel, Interruption, Reach};
use crate::beat;
use crate::bridge::{Bridge, Feed, FeedSender, Heard};
use crate::clock;
use crate::metrics::{Metrics, NotAllowed};
use crate::vigil::Pulse;

/// How often unused plans are looked for, and what is remembered too much is forgotten. A whole number of beats; two of them, each
/// by half a beat shorter, are more than the ten seconds for which a log must have held what is forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_millis(5_400);

/// Messages and commands, of each kind, that are taken in a row if they are there. To wait for everything anew costs more than
/// most of them; what else is to be done waits no longer than these take.
const IN_A_ROW_MAX: usize = 64;

/// The task that owns a project on this node.
pub(super) struct Actor {
    pub(super) id: ProjectId,
    pub(super) reader: Reader,
    pub(super) bridge: Bridge,
    pub(super) metrics: Arc<Metrics>,
    pub(super) members: Arc<ArcSwap<Members>>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Members or plans may have changed.
    pub(super) changed: Arc<Notify>,
    pub(super) feed: Feed,
    pub(super) feed_sender: FeedSender,
    pub(super) plans: Plans,
    pub(super) presence: PresencePart,
    /// How many connections are present here, for those who renew the node's tables.
    pub(super) present: Arc<AtomicUsize>,
    pub(super) idle_timeout: Duration,
    /// How old a life gets.
    pub(super) lifetime: Duration,
    pub(super) refresh: Refresh,
    pub(super) failures: Failures,
    /// Counts the rounds of the loop.
    pub(super) pulse: Pulse,
}

/// When lives failed lately.
#[derive(Default)]
pub(super) struct Failures(Vec<Instant>);

/// How a life ended.
enum End {
    /// The actor is to end.
    Retired(Retired),
    /// It was old.
    Old,
    /// Something in it failed.
    Failed,
}

/// How the life before ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Former {
    Old,
    Failed,
}

impl Former {
    /// The name in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Old => "recycled",
            Self::Failed => "panicked",
        }
    }
}

/// Reading members and plans from the directory: when somebody asks, and now and then in case a control message was lost.
/// At most once at a time, and once more if somebody asked meanwhile.
pub(super) struct Refresh {
    /// What is known must not be older.
    sweep: Duration,
    /// When to read again, whoever asks.
    due: Instant,
    running: Option<BoxFuture<'static, reader::Answer>>,
    waiting: Vec<Asker>,
    waiting_next: Vec<Asker>,
    again: bool,
}

type Asker = oneshot::Sender<Result<(), Rejection>>;

/// Why the actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retired {
    /// The node stops.
    Stopped,
    /// Nobody used it for a while.
    Idle,
    /// The project is gone.
    Deleted,
    /// It failed again and again; a new one starts when somebody asks.
    Failed,
}

impl Retired {
    /// The name in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Idle => "idle",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
        }
    }
}

enum Next {
    Heard(Heard),
    Job(Option<(plans::OpeningId, plans::Done)>),
    Presence(StoreAnswer),
    Members(reader::Answer),
    Changed,
    Command(Option<Command>),
    Wake,
    Sweep,
    RefreshDue,
}

impl Actor {
    pub(super) async fn run(mut self: Box<Self>, stop: CancellationToken) -> Retired {
        let mut former = None;
        let retired = loop {
            // Whatever a panic left half done is thrown away with the life's parts.
            former = match AssertUnwindSafe(self.live(former, &stop)).catch_unwind().await {
                Ok(End::Retired(retired)) => break retired,
                Ok(End::Old) => Some(Former::Old),
                Ok(End::Failed) | Err(_) if self.failures.note(Instant::now()) => Some(Former::Failed),
                Ok(End::Failed) | Err(_) => {
                    tracing::error!(project.id = %self.id, "the project fails again and again, and stops on this node");
                    break Retired::Failed;
                }
            }
        };
        self.commands.close();
        let presence = async {
            if retired == Retired::Deleted {
                self.presence.gone();
            }
            self.presence.shutdown().await;
        };
        if AssertUnwindSafe(presence).catch_unwind().await.is_err() {
            tracing::error!(project.id = %self.id, "presence failed while the project stopped");
        }
        self.plans.finish().await;
        self.bridge.forget(Channel::Project(self.id), &self.feed_sender).await;
        if retired == Retired::Idle {
            self.metrics.plans.channels_idle_cleaned.increment(1);
        }
        self.metrics.actors.retired(retired.as_str());
        retired
    }

    /// One life, after a former one or as the first.
    async fn live(&mut self, former: Option<Former>, stop: &CancellationToken) -> End {
        if let Some(former) = former {
            self.begin_anew(former).await;
        }
        let mut sweeps = beat::ticks(SWEEP_INTERVAL);
        let born = Instant::now();
        let (mut used, mut is_old) = (born, false);
        // Waited for once, not anew with each thing that happens.
        let changed = Arc::clone(&self.changed);
        let (mut stopped, mut news) = (pin!(stop.cancelled()), pin!(changed.notified()));
        let (mut refreshes, mut wakes) = (pin!(sleep_until(self.refresh.due)), pin!(sleep_until(born)));
        loop {
            self.pulse.beat();
            self.present.store(self.presence.connections(), Ordering::Relaxed);
            let wake = self.presence.next_deadline();
            move_to(refreshes.as_mut(), self.refresh.due);
            if let Some(deadline) = wake {
                move_to(wakes.as_mut(), deadline);
            }
            let next = tokio::select! {
                () = &mut stopped => return End::Retired(Retired::Stopped),
                members = self.refresh.done() => Next::Members(members),
                () = &mut news => {
                    news.set(changed.notified());
                    Next::Changed
                }
                _ = sweeps.tick() => Next::Sweep,
                () = &mut refreshes => Next::RefreshDue,
                heard = self.feed.next() => Next::Heard(heard),
                job = self.plans.done() => Next::Job(job),
                answer = self.presence.answer() => Next::Presence(answer),
                () = &mut wakes, if wake.is_some() => Next::Wake,
                command = self.commands.recv() => Next::Command(command),
            };
            match next {
                Next::Heard(heard) => self.heard(heard),
                Next::Job(Some((opened, done))) => self.plans.take(opened, done),
                Next::Job(None) | Next::Presence(StoreAnswer::Failed) => return End::Failed,
                Next::Presence(answer) => self.presence.handle_answer(answer),
                Next::Members(Ok(Some(members))) => self.members_read(members),
                Next::Members(Ok(None)) => return End::Retired(Retired::Deleted),
                Next::Members(Err(error)) => {
                    tracing::debug!(project.id = %self.id, %error, "members can't be read for now; what was known stays");
                    self.refresh_answered(Err(Rejection::Unavailable));
                }
                Next::Changed | Next::RefreshDue => self.start_refresh(),
                Next::Wake => self.presence.wake(Instant::now()),
                Next::Command(Some(command)) => {
                    used = Instant::now();
                    self.metrics.actors.mailbox_depth.record(self.commands.len() as f64);
                    self.command(command);
                }
                Next::Command(None) => return End::Retired(Retired::Stopped),
                Next::Sweep => {
                    let now = Instant::now();
                    self.plans.sweep(now);
                    let idle = self.plans.is_idle() && self.presence.is_idle() && self.commands.is_empty();
                    if !idle {
                        used = now;
                    } else if now.duration_since(used) >= self.idle_timeout {
                        return End::Retired(Retired::Idle);
                    }
                    is_old = now.duration_since(born) >= self.lifetime;
                }
            }
            self.take_what_waits();
            for user in self.plans.take_active() {
                self.presence.acted(&user);
            }
            // Where much goes on, there is a moment between two things in which nobody waits.
            if is_old && self.plans.may_begin_anew(Instant::now()) {
                return End::Old;
            }
        }
    }

    /// What came meanwhile, messages and commands by turns.
    fn take_what_waits(&mut self) {
        for _ in 0..IN_A_ROW_MAX {
            let (heard, command) = (self.feed.try_next(), self.commands.try_recv().ok());
            if heard.is_none() && command.is_none() {
                return;
            }
            heard.into_iter().for_each(|heard| self.heard(heard));
            command.into_iter().for_each(|command| self.command(command));
        }
    }

    async fn begin_anew(&mut self, former: Former) {
        self.metrics.actors.retired(former.as_str());
        match former {
            Former::Old => {
                tracing::debug!(project.id = %self.id, "the project is old and begins anew on this node");
                // Changes under way are answered first.
                self.plans.finish().await;
            }
            Former::Failed => {
                tracing::error!(project.id = %self.id, "something in the project failed; it begins anew on this node");
            }
        }
        self.plans.begin_anew();
        self.presence.begin_anew(former == Former::Failed);
        // A read of members may have failed with the rest.
        self.start_refresh();
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Message { channel: Channel::Plan(plan), payload, received } => {
                self.plans.heard(plan, &payload, received);
            }
            Heard::Message { channel: Channel::Project(_), payload, .. } => self.presence.heard(&payload),
            Heard::Message { .. } => {}
            Heard::Head { plan, state, is_settled } => {
                self.plans.input(plan, Input::HeadSeen(HeadSeen { state, is_settled }));
            }
            Heard::Interrupted { why, reach } => {
                let cause = match why {
                    // Another server took the place of the one we were connected to.
                    Interruption::Reconnect | Interruption::Moved => Cause::Reconnect,
                    Interruption::Lagged => Cause::Lagged,
                    Interruption::Probe => Cause::Probe,
                };
                self.interrupted(cause, &reach);
            }
        }
    }

    fn interrupted(&mut self, cause: Cause, reach: &Reach) {
        match reach {
            Reach::Everything => {
                self.plans.input_all(|| Input::Interrupted(cause));
                self.presence.interrupted();
                self.start_refresh();
            }
            // Changes of members are told on the control channel, which is none of these: nothing to read again.
            Reach::Only(channels) => {
                for channel in channels.iter() {
                    match channel {
                        Channel::Plan(plan) => self.plans.input(*plan, Input::Interrupted(cause)),
                        Channel::Project(_) => self.presence.interrupted(),
                        Channel::Control | Channel::Probe(_) => {}
                    }
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Plan(plan, command) => self.plan_command(plan, command),
            Command::Presence(PresenceCommand::Join { join, outbox }) if self.role_of(&join.user).is_none() => {
                // The right ended between the socket's look and here; nobody would look again before the members are read again.
                self.metrics.rights.refused(NotAllowed::NotAMember);
                outbox.close(CloseCode::Forbidden, NO_MEMBER);
            }
            Command::Presence(command) => self.presence.handle(command),
            Command::NodesGone(nodes) => self.presence.nodes_gone(&nodes),
            Command::NodesDeparted(nodes) => self.presence.nodes_departed(&nodes),
            Command::NodesBack(nodes) => self.presence.nodes_back(&nodes),
            Command::PresenceLost => self.presence.restore(),
            #[cfg(test)]
            Command::Fail => panic!("told to fail"),
            Command::Refresh { reply } => {
                match self.refresh.running {
                    // The read that is under way may have begun before what the asker knows of.
                    Some(_) => self.refresh.waiting_next.push(reply),
                    None => self.refresh.waiting.push(reply),
                }
                self.start_refresh();
            }
        }
    }

    fn plan_command(&mut self, plan: PlanId, command: PlanCommand) {
        match command {
            PlanCommand::Attach { request, reply } if !request.audience.may_listen(|user| self.role_of(user)) => {
                self.metrics.rights.refused(NotAllowed::NotAMember);
                let _ = reply.send(Err(Rejection::Forbidden));
            }
            PlanCommand::Submit { operation, reply, .. }
                if !access::may_submit(&operation, |user| self.role_of(user)) =>
            {
                let is_member = self.role_of(&operation.user_id).is_some();
                self.metrics.rights.refused(if is_member { NotAllowed::Role } else { NotAllowed::NotAMember });
                let _ = reply.send(Err(Rejection::Forbidden));
            }
            command => {
                if let PlanCommand::Submit { operation, .. } = &command {
                    self.presence.acted(&operation.user_id);
                }
                self.plans.command(plan, command);
            }
        }
    }

    fn role_of(&self, user: &UserId) -> Option<Role> {
        self.members.load().role_of(user)
    }

    fn start_refresh(&mut self) {
        self.refresh.due = beat::within(clock::sweep_pause(self.refresh.sweep));
        if self.refresh.running.is_some() {
            self.refresh.again = true;
            return;
        }
        let (reader, id) = (self.reader.clone(), self.id);
        self.refresh.running = Some(async move { reader.read(id).await }.boxed());
    }

    fn members_read(&mut self, members: Members) {
        self.members.store(Arc::new(members));
        let members = self.members.load_full();
        let role_of = |user: &UserId| -> Option<Role> { members.role_of(user) };
        self.plans.check_access(role_of);
        self.presence.membership_changed(role_of);
        self.refresh_answered(Ok(()));
    }

    fn refresh_answered(&mut self, answer: Result<(), Rejection>) {
        if answer.is_err() {
            self.refresh.due = Instant::now() + clock::sweep_retry(self.refresh.sweep);
        }
        for reply in self.refresh.waiting.drain(..) {
            let _ = reply.send(answer.clone());
        }
        self.refresh.waiting.append(&mut self.refresh.waiting_next);
        if std::mem::take(&mut self.refresh.again) {
            self.start_refresh();
        }
    }
}

impl Failures {
    /// Notes a failure. Answers whether there were few enough lately to go on.
    fn note(&mut self, now: Instant) -> bool {
        self.0.retain(|failed| now.duration_since(*failed) < limits::FAILURES_WITHIN);
        self.0.push(now);
        self.0.len() <= limits::FAILURES_MAX
    }
}

impl Refresh {
    /// The members were read just now, and are to be known as they were at most `sweep` ago.
    pub(super) fn every(sweep: Duration) -> Self {
        Self {
            sweep,
            due: beat::within(clock::sweep_pause(sweep)),
            running: None,
            waiting: Vec::new(),
            waiting_next: Vec::new(),
            again: false,
        }
    }

    /// What the read under way came to; pends while there is none.
    async fn done(&mut self) -> reader::Answer {
        match &mut self.running {
            Some(running) => {
                let done = running.await;
                self.running = None;
                done
            }
            None => std::future::pending().await,
        }
    }
}

/// Sets a timer, unless it is set to that moment already.
fn move_to(timer: Pin<&mut Sleep>, deadline: Instant) {
    if timer.deadline() != deadline {
        timer.reset(deadline);
    }
}
