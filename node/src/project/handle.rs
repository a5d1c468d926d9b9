//! What others hold of a project: asks the actor and waits for its answer.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use mille_core::Plan;
use mille_shared::directory::Role;
use mille_shared::operation::Operation;
use mille_shared::{NodeId, PlanId, ProjectId, Revision, UserId, limits};
use tokio::sync::{mpsc, oneshot};

use super::access::Members;
use super::command::{Accepted, AttachRequest, Attached, Command, DeltaPage, PlanCommand, Progress, Rejection};
use super::follow::{Following, Start};
use super::presence::PresenceCommand;
use super::registry::Projects;
use super::replay::{self, ReplayError};
use crate::backend;
use crate::metrics::Metrics;
use crate::traces;

/// How long a plan of the past is read for somebody. They may ask again.
pub(super) const READ_AT_PATIENCE: Duration = Duration::from_secs(5);

/// A project on this node. Cheap to clone; outlives its actor, and says so ([`Rejection::Stopping`]).
#[derive(Clone)]
pub struct ProjectHandle {
    pub(super) id: ProjectId,
    pub(super) members: Arc<ArcSwap<Members>>,
    pub(super) commands: mpsc::Sender<Command>,
    /// How many connections are present on this node.
    pub(super) present: Arc<AtomicUsize>,
    pub(super) projects: Projects,
}

impl std::fmt::Debug for ProjectHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProjectHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ProjectHandle {
    /// The project's id.
    #[must_use]
    pub fn id(&self) -> ProjectId {
        self.id
    }

    /// Whether it is a handle of the same actor.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.commands.same_channel(&other.commands)
    }

    /// Whether its actor still takes what is asked.
    #[must_use]
    pub fn is_served(&self) -> bool {
        !self.commands.is_closed()
    }

    /// The node this handle is on.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        self.projects.node()
    }

    /// Where to count.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.projects.metrics()
    }

    /// The project as the directory knew it last: name, plans, members.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// The plan that is meant: the named one, or the project's first.
    ///
    /// # Errors
    /// [`Rejection::NoSuchPlan`] if it is none of this project's; else as [`Self::refresh`].
    pub async fn plan_id(&self, named: Option<PlanId>) -> Result<PlanId, Rejection> {
        if let Some(plan) = self.members.load().plan(named) {
            return Ok(plan.id);
        }
        self.refresh().await?;
        self.members.load().plan(named).map(|plan| plan.id).ok_or(Rejection::NoSuchPlan)
    }

    /// A user's role, `None` for who is no member. A role below `needed` is looked up anew before it is the answer.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] if the directory did not answer, [`Rejection::Stopping`].
    pub async fn role_of(&self, user: &UserId, needed: Role) -> Result<Option<Role>, Rejection> {
        let known = self.members.load().role_of(user);
        if known >= Some(needed) {
            return Ok(known);
        }
        self.refresh().await?;
        Ok(self.members.load().role_of(user))
    }

    /// Reads members and plans again from the directory. Also tells whoever listens or is present and may no longer.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] if the directory did not answer: what was known stays. [`Rejection::Stopping`].
    pub async fn refresh(&self) -> Result<(), Rejection> {
        self.ask(|reply| Command::Refresh { reply }).await?
    }

    /// Brings an operation into a plan's log and waits until it is there.
    ///
    /// `repeatable` says that the operation's id is the client's own, so that it may be a repeat; a repeat is answered
    /// with its first change. The caller has checked that the user may edit.
    ///
    /// # Errors
    /// [`Rejection`]; on [`Rejection::Unavailable`], [`Rejection::Unconfirmed`] and [`Rejection::Stopping`] it may have happened.
    pub async fn submit(&self, plan: PlanId, operation: Operation, repeatable: bool) -> Result<Accepted, Rejection> {
        let (operation, trace) = (Box::new(operation), traces::edit(self.id, plan));
        self.ask_plan(plan, |reply| PlanCommand::Submit { operation, repeatable, trace, reply }).await?
    }

    /// The plan as it is now: not older than the log's head when it was asked for, unless the store does not answer.
    ///
    /// # Errors
    /// [`Rejection::NoSuchPlan`], [`Rejection::Unavailable`] if the plan was not open, [`Rejection::Stopping`].
    pub async fn read(&self, plan: PlanId) -> Result<Arc<Plan>, Rejection> {
        self.ask_plan(plan, |reply| PlanCommand::Read { reply }).await?
    }

    /// The plan as the change with this revision left it. `None`: the log no longer reaches back.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] if the log does not answer within seconds, or too many ask for plans of the past.
    pub async fn read_at(&self, plan: PlanId, revision: Revision) -> Result<Option<Arc<Plan>>, Rejection> {
        let reading = replay::plan_at(self.projects.backend().clone(), plan, revision);
        match self.read_past(READ_AT_PATIENCE, reading).await {
            Ok(plan) => Ok(Some(plan)),
            Err(ReplayError::Unreachable(_)) => Ok(None),
            Err(ReplayError::Store(_)) => Err(Rejection::Unavailable),
        }
    }

    /// Reads something of the past in a task of its own: whoever asked is not polled while their socket takes nothing, and others
    /// wait for their turn.
    pub(super) async fn read_past<T: Send + 'static>(
        &self,
        patience: Duration,
        reading: impl Future<Output = Result<T, ReplayError>> + Send + 'static,
    ) -> Result<T, ReplayError> {
        let room = self.projects.past_room().clone();
        let read = self.projects.tasks().spawn(async move { room.in_turn(patience, reading).await }).await;
        // A mistake of ours, which the panic hook has told; or the node ends.
        read.unwrap_or_else(|error| Err(backend::Error::Unavailable(error.to_string()).into()))
    }

    /// Listens to a plan. The stream repairs itself: it ends only if the listener may no longer listen, the plan is gone, or
    /// this node stops or could not serve the plan for half a minute.
    ///
    /// # Errors
    /// [`Rejection::NoSuchPlan`], [`Rejection::Forbidden`], [`Rejection::Unavailable`], [`Rejection::Stopping`].
    pub async fn follow(
        &self,
        plan: PlanId,
        user: &UserId,
        start: Start,
        wants_progress: bool,
    ) -> Result<Following, Rejection> {
        Following::begin(self.clone(), plan, user.clone(), start, wants_progress).await
    }

    /// Up to `limit` changes after a revision.
    ///
    /// # Errors
    /// [`Rejection::Unrecoverable`] if the log no longer reaches back; else as [`Self::read`].
    pub async fn deltas(&self, plan: PlanId, after: Revision, limit: usize) -> Result<DeltaPage, Rejection> {
        replay::page(self, plan, after, limit).await
    }

    /// Tells the plan's listeners on every node how far an execution is. Never waits: with a full mailbox it is
    /// dropped, the next report replaces it.
    pub fn report_progress(&self, plan: PlanId, progress: Progress) {
        let command = Command::Plan(plan, PlanCommand::Progress(Box::new(progress)));
        if self.commands.try_send(command).is_err() {
            self.projects.metrics().plans.progress_dropped.increment(1);
        }
    }

    /// Hands a presence command to the actor without waiting. `false`: the mailbox is full or the project stops; the
    /// command is lost.
    #[must_use]
    pub fn try_presence(&self, command: PresenceCommand) -> bool {
        self.commands.try_send(Command::Presence(command)).is_ok()
    }

    /// Hands a move to the actor. Never waits.
    ///
    /// # Errors
    /// The move, if the mailbox is full or the project stops. The next one replaces it; the last one is to be tried again.
    pub fn presence_move(&self, command: PresenceCommand) -> Result<(), PresenceCommand> {
        let Ok(room) = self.commands.try_reserve() else {
            self.projects.metrics().presence.cursors_dropped.increment(1);
            return Err(command);
        };
        room.send(Command::Presence(command));
        Ok(())
    }

    /// Hands a presence command to the actor, waiting for room in its mailbox.
    ///
    /// # Errors
    /// [`Rejection::Stopping`].
    pub async fn presence(&self, command: PresenceCommand) -> Result<(), Rejection> {
        self.commands.send(Command::Presence(command)).await.map_err(|_| Rejection::Stopping)
    }

    pub(super) async fn attach(&self, plan: PlanId, request: AttachRequest) -> Result<Attached, Rejection> {
        self.ask_plan(plan, |reply| PlanCommand::Attach { request, reply }).await?
    }

    pub(super) fn nodes_gone(&self, nodes: Vec<NodeId>) {
        // A full mailbox is not waited for: the roster's own expiry finds the ghosts a little later.
        let _ = self.commands.try_send(Command::NodesGone(nodes));
    }

    pub(super) fn nodes_departed(&self, nodes: Vec<NodeId>) {
        // A full mailbox is not waited for, as above.
        let _ = self.commands.try_send(Command::NodesDeparted(nodes));
    }

    pub(super) fn nodes_back(&self, nodes: Vec<NodeId>) {
        // A full mailbox is not waited for: they are believed again a little later.
        let _ = self.commands.try_send(Command::NodesBack(nodes));
    }

    /// Makes the actor fail, as a mistake of ours would.
    #[cfg(test)]
    pub(crate) async fn fail(&self) {
        // One that was given up has failed.
        let _ = self.commands.send(Command::Fail).await;
    }

    async fn ask_plan<T>(
        &self,
        plan: PlanId,
        command: impl FnOnce(oneshot::Sender<T>) -> PlanCommand,
    ) -> Result<T, Rejection> {
        self.ask(|reply| Command::Plan(plan, command(reply))).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Rejection> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Rejection::Stopping)?;
        answer.await.map_err(|_| Rejection::Stopping)
    }
}

/// A project's mailbox: full, callers wait their turn.
pub(super) fn mailbox() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
    mpsc::channel(limits::MAILBOX_COMMANDS_MAX)
}
