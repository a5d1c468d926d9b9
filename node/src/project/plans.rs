//! The open plans of one project on this node.
//!
//! Each has a replica (the machine that decides) and its listeners. Effects are performed here: what must be awaited runs
//! as a task and returns as a [`Done`], so no plan waits for another. A plan opens when it is first asked for and closes
//! a while after nobody listens.

mod open_plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mille_core::PlanBounds;
use mille_core::replica::{Cause, HeadSeen, Input};
use mille_shared::directory::Role;
use mille_shared::{PlanId, ProjectId, UserId, limits};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::access::{self, Members};
use super::command::{PlanCommand, Progress, Rejection};
use super::past::PastRoom;
use super::store::{self, OpenFailure};
use crate::backend::{Backend, Channel, Retention, envelope};
use crate::bridge::{Bridge, FeedSender};
use crate::metrics::Metrics;
pub(super) use open_plan::Done;
use open_plan::OpenPlan;
pub(super) use open_plan::RecentBytes;

/// What the open plans need from the node.
#[derive(Clone)]
pub(super) struct PlanContext {
    pub project: ProjectId,
    pub backend: Backend,
    pub bridge: Bridge,
    pub feed: FeedSender,
    /// Who may listen, as the actor knows it now.
    pub members: Arc<ArcSwap<Members>>,
    pub metrics: Arc<Metrics>,
    pub settings: PlanSettings,
    /// What this node's plans remember, this one's among them.
    pub recent: RecentBytes,
    /// What this node holds of the past.
    pub past_room: PastRoom,
}

/// How plans are kept.
#[derive(Debug, Clone, Copy)]
pub struct PlanSettings {
    /// How large a plan and its parts may be.
    pub bounds: PlanBounds,
    /// Changes between two snapshots.
    pub snapshot_every: u64,
    /// How much of a log stays.
    pub retention: Retention,
    /// The longest that edits wait for more of them, where other nodes edit the plan too.
    pub commit_moment_max: Duration,
    /// Bytes of recent changes that all plans together hold in memory.
    pub recent_bytes_max: usize,
}

/// The open plans of one project.
pub(super) struct Plans {
    context: PlanContext,
    slots: HashMap<PlanId, Slot>,
    /// At most a few per plan (one commit, one repair, one head, moments that pass), and one per waiting operation and per plan node
    /// whose progress waits.
    jobs: Jobs,
    /// How many openings there were.
    openings: u64,
    active: Active,
    /// Plans that were heard at the last sweep although they were not open; looked for only while some may be.
    leftovers: Option<HashMap<PlanId, usize>>,
}

/// One opening of a plan. A plan may be closed while a job is under way and then be opened again: what the job comes to
/// means nothing to the new copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpeningId {
    plan: PlanId,
    number: u64,
}

/// Whose changes were told since it was last asked.
type Active = Arc<Mutex<BTreeSet<UserId>>>;

type Jobs = JoinSet<(OpeningId, Done)>;

enum Slot {
    Opening(Opening),
    Open(Box<OpenPlan>),
}

/// A plan that is being read.
struct Opening {
    id: OpeningId,
    /// Bounded by [`limits::PENDING_OPERATIONS_MAX`]; beyond it callers are told of overload.
    commands: Vec<PlanCommand>,
    /// What was heard meanwhile, to be sequenced after what was read. Bounded by [`limits::FEED_MESSAGES_MAX`]; beyond
    /// it the plan is compared with its log once it is open.
    heard: Vec<Input>,
}

impl Plans {
    pub(super) fn new(context: PlanContext) -> Self {
        let active = Active::default();
        Self { context, slots: HashMap::new(), jobs: JoinSet::new(), openings: 0, active, leftovers: None }
    }

    /// Closes all plans without finishing anything. Listeners are let go of and attach again; a caller that waits for an answer
    /// is told that the project stops here, and may ask again.
    pub(super) fn begin_anew(&mut self) {
        // Dropping the jobs ends them. What those that were under way listened to is found by the sweep.
        let leftovers = Some(HashMap::new());
        let anew = Self { openings: self.openings, leftovers, ..Self::new(self.context.clone()) };
        let before = std::mem::replace(self, anew);
        // Who attaches again listens once more.
        for slot in before.slots.into_values().filter(|slot| matches!(slot, Slot::Open(_))) {
            self.close(slot.id());
            self.context.metrics.plans.channels_idle_cleaned.increment(1);
        }
    }

    /// Whether nobody would miss what is kept here but not in the log, and nobody waits for an answer: then all may be
    /// opened anew.
    pub(super) fn may_begin_anew(&self, now: Instant) -> bool {
        self.slots.values().all(|slot| matches!(slot, Slot::Open(open) if open.is_safe(now) && !open.is_awaited()))
    }

    /// Takes a command for a plan, opening it if need be.
    pub(super) fn command(&mut self, plan: PlanId, command: PlanCommand) {
        match self.slots.get_mut(&plan) {
            Some(Slot::Open(open)) => open.command(command, &mut self.jobs),
            Some(Slot::Opening(opening)) if opening.commands.len() >= limits::PENDING_OPERATIONS_MAX => {
                refuse(command, Rejection::Overloaded);
            }
            Some(Slot::Opening(opening)) => opening.commands.push(command),
            None => {
                self.openings += 1;
                let id = OpeningId { plan, number: self.openings };
                let opening = Opening { id, commands: vec![command], heard: Vec::new() };
                self.slots.insert(plan, Slot::Opening(opening));
                let PlanContext { bridge, backend, feed, .. } = self.context.clone();
                self.jobs.spawn(async move { (id, Done::Opened(store::open(bridge, backend, plan, feed).await)) });
            }
        }
    }

    /// A message on a plan's channel, which reached this node a moment ago.
    pub(super) fn heard(&mut self, plan: PlanId, payload: &[u8], received: Instant) {
        let known = |slot: &Slot, head| matches!(slot, Slot::Open(open) if open.knows(head));
        if envelope::last_place(payload).zip(self.slots.get(&plan)).is_some_and(|(head, slot)| known(slot, head)) {
            // What this node committed comes back to it; there is nothing in it that it has not.
            return;
        }
        if let Ok(entries) = envelope::decode(payload) {
            match self.slots.get_mut(&plan) {
                Some(Slot::Open(open)) => {
                    open.expect(&entries, &envelope::traces(payload));
                    open.learn(Input::Heard(entries), received, &mut self.jobs);
                    open.gathered_by_news(&mut self.jobs);
                }
                _ => self.input(plan, Input::Heard(entries)),
            }
        } else if let Ok(progress) = serde_json::from_slice::<Progress>(payload) {
            if let Some(Slot::Open(open)) = self.slots.get_mut(&plan) {
                open.tell_progress(progress);
            }
        } else {
            tracing::warn!(plan.id = %plan, "a message can't be read; the log is asked instead");
            self.input(plan, Input::Look(Cause::Hole));
        }
    }

    /// Something a plan's replica must know.
    pub(super) fn input(&mut self, plan: PlanId, input: Input) {
        match self.slots.get_mut(&plan) {
            Some(Slot::Open(open)) => open.input(input, &mut self.jobs),
            Some(Slot::Opening(opening)) if opening.heard.len() < limits::FEED_MESSAGES_MAX => {
                opening.heard.push(input)
            }
            Some(Slot::Opening(_)) | None => {}
        }
    }

    /// Something every replica must know.
    pub(super) fn input_all(&mut self, input: impl Fn() -> Input) {
        let plans: Vec<PlanId> = self.slots.keys().copied().collect();
        for plan in plans {
            self.input(plan, input());
        }
    }

    /// What a job came to. Pends while there is none; can be cancelled without loss.
    pub(super) async fn done(&mut self) -> Option<(OpeningId, Done)> {
        match self.jobs.join_next().await {
            Some(Ok(done)) => Some(done),
            Some(Err(error)) => {
                // A job's panic is ours: its plan would wait for an answer for ever, so the whole project starts anew.
                tracing::error!(%error, "a job of a plan failed");
                None
            }
            None => std::future::pending().await,
        }
    }

    /// Takes what a job came to.
    pub(super) fn take(&mut self, id: OpeningId, done: Done) {
        let plan = id.plan;
        match (done, self.slots.get_mut(&plan).filter(|slot| slot.id() == id)) {
            (Done::Opened(Ok(opened)), Some(slot)) => {
                let is_settled = self.context.bridge.see_life(&opened.state.life);
                let seen = Input::HeadSeen(HeadSeen { state: opened.state, is_settled });
                let open = OpenPlan::new(id, *opened.plan, self.context.clone(), Arc::clone(&self.active));
                let Slot::Opening(opening) = std::mem::replace(slot, Slot::Open(Box::new(open))) else { return };
                for input in opening.heard.into_iter().chain([seen]) {
                    self.input(plan, input);
                }
                for command in opening.commands {
                    self.command(plan, command);
                }
            }
            (Done::Opened(Err(failure)), Some(_)) => {
                let Some(Slot::Opening(opening)) = self.slots.remove(&plan) else { return };
                let rejection = match &failure {
                    OpenFailure::NoLog => Rejection::NoSuchPlan,
                    OpenFailure::Store(_) => Rejection::Unavailable,
                    OpenFailure::Corrupt(why) => {
                        tracing::error!(plan.id = %plan, why, "a plan can't be opened");
                        Rejection::Unavailable
                    }
                };
                for command in opening.commands {
                    refuse(command, rejection.clone());
                }
            }
            (done, Some(Slot::Open(open))) => {
                let is_gone = !open.take(done, &mut self.jobs);
                if is_gone {
                    open.refuse_all(&Rejection::NoSuchPlan);
                    self.slots.remove(&plan);
                    self.close(id);
                }
            }
            _ => {}
        }
    }

    /// Whose changes were told since this was last asked, through whichever node they came.
    pub(super) fn take_active(&self) -> BTreeSet<UserId> {
        std::mem::take(&mut *self.active.lock())
    }

    /// Lets go of listeners who may no longer listen, and of edits that wait of those who may no longer edit.
    pub(super) fn check_access(&mut self, role_of: impl Fn(&UserId) -> Option<Role>) {
        for slot in self.slots.values_mut() {
            match slot {
                Slot::Open(open) => open.check_access(&role_of, &mut self.jobs),
                Slot::Opening(opening) => opening.check_access(&role_of),
            }
        }
    }

    /// Closes plans that nobody used for a while, and channels that are heard for no plan; has the others forget what is too
    /// much. Cheap; called now and then.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.close_unused(now);
        for slot in self.slots.values_mut() {
            if let Slot::Open(open) = slot {
                open.forget_some();
            }
        }
        let Some(before) = self.leftovers.take() else { return };
        // Heard and not open: it is being closed, or its opening was ended half-way. The latter is so the next time too.
        let heard = self.context.bridge.plans_heard_by(&self.context.feed);
        let unowned: HashMap<PlanId, usize> =
            heard.into_iter().filter(|(plan, _)| !self.slots.contains_key(plan)).collect();
        for (plan, times) in before.into_iter().filter(|(plan, times)| unowned.get(plan) == Some(times)) {
            let PlanContext { bridge, feed, metrics, .. } = self.context.clone();
            let id = OpeningId { plan, number: 0 };
            self.jobs.spawn(async move {
                bridge.forget_times(Channel::Plan(plan), &feed, times).await;
                metrics.plans.channels_idle_cleaned.increment(1);
                (id, Done::Closed)
            });
        }
        self.leftovers = (!unowned.is_empty()).then_some(unowned);
    }

    fn close_unused(&mut self, now: Instant) {
        let unused = |slot: &mut Slot| match slot {
            Slot::Open(open) => {
                open.prune(now);
                open.is_unused(now)
            }
            Slot::Opening(_) => false,
        };
        let closed: Vec<OpeningId> = self.slots.extract_if(|_, slot| unused(slot)).map(|(_, slot)| slot.id()).collect();
        for id in closed {
            self.close(id);
            self.context.metrics.plans.channels_idle_cleaned.increment(1);
        }
    }

    /// Whether no plan is open.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Stops taking operations and waits for the commits that are under way, so that they are answered.
    pub(super) async fn finish(&mut self) {
        let is_busy = |slot: &Slot| matches!(slot, Slot::Open(open) if open.is_busy());
        // Who waits for something else than a job, such as a head that is no longer heard of, is not waited for.
        while !self.jobs.is_empty() && self.slots.values().any(is_busy) {
            match self.done().await {
                Some((id, done)) => self.take(id, done),
                None => break,
            }
        }
        for slot in self.slots.values_mut() {
            if let Slot::Open(open) = slot {
                open.refuse_all(&Rejection::Stopping);
            }
        }
        for plan in self.slots.drain().map(|(plan, _)| plan).collect::<Vec<_>>() {
            self.context.bridge.forget(Channel::Plan(plan), &self.context.feed).await;
        }
    }

    fn close(&mut self, id: OpeningId) {
        let PlanContext { bridge, feed, .. } = self.context.clone();
        self.jobs.spawn(async move {
            bridge.forget(Channel::Plan(id.plan), &feed).await;
            (id, Done::Closed)
        });
    }
}

impl Opening {
    fn check_access(&mut self, role_of: impl Fn(&UserId) -> Option<Role>) {
        let may_wait = |command: &PlanCommand| match command {
            PlanCommand::Submit { operation, .. } => access::may_submit(operation, &role_of),
            _ => true,
        };
        let over = self.commands.extract_if(.., |command| !may_wait(command));
        over.for_each(|command| refuse(command, Rejection::Forbidden));
    }
}

impl Slot {
    fn id(&self) -> OpeningId {
        match self {
            Self::Opening(opening) => opening.id,
            Self::Open(open) => open.id(),
        }
    }
}

/// Answers a command that can't be carried out.
fn refuse(command: PlanCommand, rejection: Rejection) {
    // Whoever asked may be gone; then nobody needs the answer.
    match command {
        PlanCommand::Submit { reply, .. } => drop(reply.send(Err(rejection))),
        PlanCommand::Read { reply } => drop(reply.send(Err(rejection))),
        PlanCommand::Attach { reply, .. } => drop(reply.send(Err(rejection))),
        PlanCommand::Progress(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::operation::{Edit, Operation};
    use mille_shared::{ClientId, OperationId, PlanNodeId};
    use tokio::sync::oneshot;

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn who_may_edit_no_more_is_refused_also_while_the_plan_is_being_read() {
        let id = OpeningId { plan: PlanId(1), number: 1 };
        let mut opening = Opening { id, commands: Vec::new(), heard: Vec::new() };
        let mut answers = Vec::new();
        for user in ["editor", "viewer", "stranger"] {
            let operation = Operation {
                id: OperationId::new(user),
                user_id: UserId::new(user),
                client_id: ClientId::none(),
                at: clock::now(),
                expected_revision: None,
                edits: vec![Edit::DeleteNode { id: PlanNodeId::new("pier") }],
            };
            let (reply, answer) = oneshot::channel();
            let command = PlanCommand::Submit { operation: operation.into(), repeatable: false, trace: None, reply };
            opening.commands.push(command);
            answers.push(answer);
        }
        opening.check_access(|user| match user.as_str() {
            "editor" => Some(Role::Editor),
            "viewer" => Some(Role::Viewer),
            _ => None,
        });
        assert_eq!(opening.commands.len(), 1);
        answers[0].try_recv().expect_err("it waits");
        for answer in &mut answers[1..] {
            assert!(matches!(answer.try_recv(), Ok(Err(Rejection::Forbidden))));
        }
    }
}
