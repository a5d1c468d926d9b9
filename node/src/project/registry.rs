//! All projects of this node: started when first asked for, exactly once, and known by their handles.
//!
//! Also the door to what concerns projects as such: who may enter, making and deleting, members. Order of writing: what a
//! crash in between leaves behind is unknown to everyone and harms nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use mille_core::{PlanBounds, chain};
use mille_shared::change::{Change, Fact};
use mille_shared::directory::{Member, Plan, Project, Role};
use mille_shared::log::{ChainHash, OperationKey, Proposal};
use mille_shared::plan::PlanMetadata;
use mille_shared::{ClientId, NodeId, OperationId, PlanId, ProjectId, Revision, UserId};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::access::Access;
use super::actor::{Actor, Failures, Refresh};
use super::command::{Command, Rejection};
use super::config::ProjectsConfig;
use super::died::DiedLately;
use super::guards::{ActorGauge, ForgetOnDrop};
use super::handle::{self, ProjectHandle};
use super::past::PastRoom;
use super::plans::{PlanContext, Plans, RecentBytes};
use super::presence::{PresencePart, Surroundings};
use super::reader::Reader;
use super::slots::Slots;
use crate::backend::{self, Backend, Channel, MemberChange};
use crate::bridge::{Control, ControlMessage, Controls};
use crate::clock;
use crate::metrics::{Metrics, NotAllowed};
use crate::vigil::Part;

/// The projects of this node. Cheap to clone.
#[derive(Clone)]
pub struct Projects {
    inner: Arc<Inner>,
}

struct Inner {
    config: ProjectsConfig,
    /// The projects that run or are being started.
    slots: Slots<ProjectHandle>,
    /// Reads projects.
    reader: Reader,
    /// What all plans remember.
    recent: RecentBytes,
    /// What all hold of the past for who asks for it.
    past_room: PastRoom,
    /// When the last renewal of the tables of who is present began that succeeded.
    tables_renewed: Mutex<Instant>,
    died: DiedLately,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What waits for the actors of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mailboxes {
    /// Actors that run.
    pub actors: usize,
    /// Commands that wait for them, in all.
    pub commands: usize,
    /// Commands in the fullest mailbox.
    pub fullest: usize,
}

/// Numbers that are tried for a new plan, each twice as far ahead as the one before: a million may be taken.
const PLAN_NUMBERS_MAX: u32 = 20;

/// Why a project can't be entered, or not be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is none, or the user is no member: nobody else's business which.
    #[error("there is no such project")]
    NotFound,
    /// A member, but with too low a role.
    #[error("your role in this project does not allow it")]
    Forbidden,
    /// It would leave the project without an owner.
    #[error("a project keeps at least one owner")]
    LastOwner,
    /// The user named is no member.
    #[error("that user is no member of this project")]
    NoSuchMember,
    /// The store did not answer.
    #[error("the directory does not answer")]
    Unavailable,
    /// The node stops.
    #[error("this node is stopping")]
    Stopping,
}

impl From<backend::Error> for OpenError {
    fn from(error: backend::Error) -> Self {
        tracing::warn!(%error, "the directory does not answer");
        Self::Unavailable
    }
}

impl Projects {
    /// No project yet; they start when asked for, and stop with `stop`.
    #[must_use]
    pub fn new(config: ProjectsConfig, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let held = config.metrics.plans.recent_changes_bytes.clone();
        let recent = RecentBytes::at_most(config.plans.recent_bytes_max, held);
        let reader = Reader::start(Arc::clone(&config.backend.directory), &tasks, stop.clone());
        let past_room = PastRoom::new();
        let slots = Slots::new(|handle: &ProjectHandle| !handle.is_served());
        let tables_renewed = Mutex::new(Instant::now());
        let died = DiedLately::new(config.presence.table_ttl);
        Self { inner: Arc::new(Inner { config, slots, reader, recent, past_room, tables_renewed, died, tasks, stop }) }
    }

    /// Lets a user in who has at least the role `needed`.
    ///
    /// # Errors
    /// [`OpenError::NotFound`] for who is no member, [`OpenError::Forbidden`] for too low a role.
    pub async fn access(&self, project: ProjectId, user: &UserId, needed: Role) -> Result<Access, OpenError> {
        self.counted(self.look_up(project, user, needed).await)
    }

    async fn look_up(&self, project: ProjectId, user: &UserId, needed: Role) -> Result<Access, OpenError> {
        let (handle, role) = match self.role_in(project, user, needed).await {
            // The actor may just have retired; the next one serves.
            Err(OpenError::Stopping) if !self.inner.stop.is_cancelled() => self.role_in(project, user, needed).await?,
            other => other?,
        };
        match role {
            None => Err(OpenError::NotFound),
            Some(role) if role < needed => Err(OpenError::Forbidden),
            Some(role) => Ok(Access { project: handle, user_id: user.clone(), role }),
        }
    }

    /// As [`Self::access`], by a plan's id.
    ///
    /// # Errors
    /// As [`Self::access`].
    pub async fn access_by_plan(&self, plan: PlanId, user: &UserId, needed: Role) -> Result<Access, OpenError> {
        let plan = self.backend().directory.plan(plan).await?.ok_or(OpenError::NotFound)?;
        self.access(plan.project_id, user, needed).await
    }

    /// The projects a user is a member of.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`].
    pub async fn projects_of(&self, user: &UserId) -> Result<Vec<Project>, OpenError> {
        Ok(self.backend().directory.projects_of(user).await?)
    }

    /// Makes a project with a first plan of the same name; its creator is its owner.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`]; what was made until then, nobody finds but its creator.
    pub async fn create_project(
        &self,
        name: &str,
        description: Option<&str>,
        owner: &UserId,
    ) -> Result<Access, OpenError> {
        let (this, name, owner) = (self.clone(), name.to_owned(), owner.clone());
        let description = description.map(str::to_owned);
        self.carry_out(async move {
            let directory = &this.backend().directory;
            let project = directory.create_project(&name, description.as_deref(), &owner, clock::now()).await?;
            this.make_plan(project.id, &name, &owner).await?;
            this.access(project.id, &owner, Role::Owner).await
        })
        .await
    }

    /// Makes a further plan.
    ///
    /// # Errors
    /// [`OpenError::NotFound`] if the project is gone, [`OpenError::Forbidden`], [`OpenError::Unavailable`].
    pub async fn create_plan(&self, access: &Access, name: &str) -> Result<Plan, OpenError> {
        self.confirm(access, Role::Editor).await?;
        let (this, name, access) = (self.clone(), name.to_owned(), access.clone());
        self.carry_out(async move {
            let plan = this.make_plan(access.project.id(), &name, &access.user_id).await?;
            this.changed(&access.project).await?;
            Ok(plan)
        })
        .await
    }

    /// Deletes a project with all its plans.
    ///
    /// # Errors
    /// [`OpenError::NotFound`] if it is gone already, [`OpenError::Forbidden`], [`OpenError::Unavailable`].
    pub async fn delete_project(&self, access: &Access) -> Result<(), OpenError> {
        self.confirm(access, Role::Owner).await?;
        let (this, handle) = (self.clone(), access.project.clone());
        self.carry_out(async move {
            let project = handle.id();
            let deleted = this.backend().directory.delete_project(project).await;
            if !matches!(deleted, Ok(Some(_))) {
                // It may be gone: see `member_changed`.
                let _ = this.changed(&handle).await;
            }
            let plans = deleted?.ok_or(OpenError::NotFound)?;
            this.tell(&ControlMessage::ProjectDeleted { project }).await;
            // Here it ends at once: its actor finds nothing, and stops.
            let _ = handle.refresh().await;
            for plan in plans {
                this.backend().log.delete(plan).await?;
            }
            Ok(())
        })
        .await
    }

    /// Makes a user a member, or gives a member another role.
    ///
    /// # Errors
    /// [`OpenError::LastOwner`], [`OpenError::NotFound`] if the project is gone, [`OpenError::Unavailable`].
    pub async fn set_member(&self, access: &Access, user: &UserId, role: Role) -> Result<Member, OpenError> {
        self.confirm(access, Role::Owner).await?;
        let (this, project, user) = (self.clone(), access.project.clone(), user.clone());
        self.carry_out(async move {
            let change = this.backend().directory.set_member(project.id(), &user, role, clock::now()).await;
            this.member_changed(&project, change, OpenError::NotFound).await
        })
        .await
    }

    /// Takes a member out.
    ///
    /// # Errors
    /// [`OpenError::LastOwner`], [`OpenError::NoSuchMember`], [`OpenError::Unavailable`].
    pub async fn remove_member(&self, access: &Access, user: &UserId) -> Result<(), OpenError> {
        // Whoever leaves of their own accord need be no more than a member.
        let needed = if *user == access.user_id { Role::Viewer } else { Role::Owner };
        self.confirm(access, needed).await?;
        let (this, project, user) = (self.clone(), access.project.clone(), user.clone());
        self.carry_out(async move {
            let change = this.backend().directory.remove_member(project.id(), &user, clock::now()).await;
            this.member_changed(&project, change, OpenError::NoSuchMember).await
        })
        .await
    }

    /// The store.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.inner.config.backend
    }

    /// What runs on this node for its projects.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Room for the past.
    pub(super) fn past_room(&self) -> &PastRoom {
        &self.inner.past_room
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner.config.node
    }

    /// How large a plan and its parts may be.
    #[must_use]
    pub fn plan_bounds(&self) -> PlanBounds {
        self.inner.config.plans.bounds
    }

    /// Where to count.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.config.metrics
    }

    /// The actors' mailboxes.
    #[must_use]
    pub fn mailboxes(&self) -> Mailboxes {
        let mut mailboxes = Mailboxes::default();
        for handle in self.running() {
            let waiting = handle.commands.max_capacity() - handle.commands.capacity();
            mailboxes.actors += 1;
            mailboxes.commands += waiting;
            mailboxes.fullest = mailboxes.fullest.max(waiting);
        }
        mailboxes
    }

    /// Tells every project that nodes are gone from the cluster.
    pub fn nodes_gone(&self, nodes: &[NodeId]) {
        self.inner.died.note(nodes);
        for handle in self.running() {
            handle.nodes_gone(nodes.to_vec());
        }
    }

    /// Tells every project that nodes are gone which had said that they go.
    pub fn nodes_departed(&self, nodes: &[NodeId]) {
        for handle in self.running() {
            handle.nodes_departed(nodes.to_vec());
        }
    }

    /// Tells every project that nodes are back which seemed gone.
    pub fn nodes_back(&self, nodes: &[NodeId]) {
        self.inner.died.forget(nodes);
        for handle in self.running() {
            handle.nodes_back(nodes.to_vec());
        }
    }

    /// Renews this node's tables of who is present, in one batch; what the store lost is put there again. So is everything
    /// after a while in which tables may have ended: one that somebody was put into since is there, with them alone.
    ///
    /// # Errors
    /// [`backend::Error`] if the store does not answer.
    pub async fn renew_presence(&self) -> backend::Result<()> {
        let handles: Vec<_> =
            self.running().into_iter().filter(|handle| handle.present.load(Ordering::Relaxed) > 0).collect();
        let began = Instant::now();
        let ProjectsConfig { node, presence, .. } = &self.inner.config;
        let mut all_told = true;
        if !handles.is_empty() {
            let ids: Vec<ProjectId> = handles.iter().map(ProjectHandle::id).collect();
            let lost = self.backend().presence.renew(&ids, node, presence.table_ttl).await?;
            let may_have_ended = self.inner.tables_renewed.lock().elapsed() >= presence.table_ttl;
            for handle in handles.iter().filter(|handle| may_have_ended || lost.contains(&handle.id())) {
                let told = handle.commands.try_send(Command::PresenceLost);
                all_told &= !matches!(told, Err(TrySendError::Full(_)));
            }
        }
        // Who had no room for it hears it with the next renewal.
        if all_told {
            *self.inner.tables_renewed.lock() = began;
        }
        Ok(())
    }

    /// Hears control messages until the node stops.
    pub async fn serve_control(self, mut controls: Controls) {
        while let Some(Some(control)) = self.inner.stop.run_until_cancelled(controls.next()).await {
            match control {
                Control::Told(
                    ControlMessage::ProjectChanged { project } | ControlMessage::ProjectDeleted { project },
                ) => self.inner.slots.changed(Some(project)),
                Control::Told(ControlMessage::TokensRevoked { .. }) => {}
                Control::Interrupted => self.inner.slots.changed(None),
            }
        }
    }

    async fn role_in(
        &self,
        project: ProjectId,
        user: &UserId,
        needed: Role,
    ) -> Result<(ProjectHandle, Option<Role>), OpenError> {
        let handle = match self.inner.slots.get(project) {
            Some(handle) => handle,
            None => self.open_for(project, user).await?,
        };
        match handle.role_of(user, needed).await {
            Ok(role) => Ok((handle, role)),
            Err(Rejection::Unavailable) => Err(OpenError::Unavailable),
            Err(_) => Err(OpenError::Stopping),
        }
    }

    /// As [`Self::open`], for a member. Nobody else starts an actor: whoever has any token could have us hold every project
    /// there is.
    async fn open_for(&self, project: ProjectId, user: &UserId) -> Result<ProjectHandle, OpenError> {
        let members = self.backend().directory.members(project).await?;
        if !members.iter().any(|member| member.user_id == *user) {
            return Err(OpenError::NotFound);
        }
        self.open(project).await
    }

    /// The project's handle; starts its actor if it does not run.
    ///
    /// # Errors
    /// [`OpenError::NotFound`] if the project is gone, [`OpenError::Unavailable`], [`OpenError::Stopping`].
    pub(super) async fn open(&self, project: ProjectId) -> Result<ProjectHandle, OpenError> {
        if self.inner.stop.is_cancelled() {
            return Err(OpenError::Stopping);
        }
        self.inner.slots.open(project, async |changed| self.start(project, changed).await).await
    }

    /// Starts the actor, which hears of changes by `changed`.
    async fn start(&self, id: ProjectId, changed: Arc<Notify>) -> Result<ProjectHandle, OpenError> {
        let ProjectsConfig { node, backend, bridge, metrics, plans, presence, idle_timeout, lifetime, sweep } =
            &self.inner.config;
        let (feed_sender, feed) = bridge.feed();
        let unless_started = ForgetOnDrop {
            bridge: bridge.clone(),
            channel: Channel::Project(id),
            feed: Some(feed_sender.clone()),
            tasks: self.inner.tasks.clone(),
        };
        bridge.listen(Channel::Project(id), &feed_sender).await?;
        let members = self.inner.reader.read(id).await?.ok_or(OpenError::NotFound)?;
        unless_started.keep();
        let members = Arc::new(ArcSwap::from_pointee(members));
        let (commands, receiver) = handle::mailbox();
        let context = PlanContext {
            project: id,
            backend: backend.clone(),
            bridge: bridge.clone(),
            feed: feed_sender.clone(),
            members: Arc::clone(&members),
            metrics: Arc::clone(metrics),
            settings: *plans,
            recent: self.inner.recent.clone(),
            past_room: self.inner.past_room.clone(),
        };
        let present = Arc::new(AtomicUsize::new(0));
        let around = Surroundings {
            store: Arc::clone(&backend.presence),
            pubsub: Arc::clone(&backend.pubsub),
            metrics: Arc::clone(metrics),
            tasks: self.inner.tasks.clone(),
        };
        // In a box: its task would hold it three times, once for each future that it is moved into.
        let actor = Box::new(Actor {
            id,
            reader: self.inner.reader.clone(),
            bridge: bridge.clone(),
            metrics: Arc::clone(metrics),
            members: Arc::clone(&members),
            commands: receiver,
            changed,
            feed,
            feed_sender,
            plans: Plans::new(context),
            presence: PresencePart::new(id, node.clone(), around, *presence),
            present: Arc::clone(&present),
            idle_timeout: *idle_timeout,
            lifetime: lifetime.mul_f64(rand::rng().random_range(0.9..=1.0)),
            refresh: Refresh::every(*sweep),
            failures: Failures::default(),
            pulse: metrics.vigil.pulse(Part::Actor),
        });
        metrics.actors.active.increment(1.0);
        let (stop, projects) = (self.inner.stop.child_token(), self.clone());
        // It outlives whoever asked first, and is no part of what they do.
        let span = tracing::info_span!(parent: None, "project", project.id = %id);
        let running = async move {
            let gauge = ActorGauge(Arc::clone(&projects.inner.config.metrics));
            let retired = actor.run(stop).await;
            tracing::debug!(?retired, "a project retired from this node");
            projects.inner.slots.forget(id);
            drop(gauge);
        };
        let handle = ProjectHandle { id, members, commands, present, projects: self.clone() };
        let died = self.inner.died.list();
        if !died.is_empty() {
            handle.nodes_gone(died);
        }
        self.inner.tasks.spawn(running.instrument(span));
        Ok(handle)
    }

    fn running(&self) -> Vec<ProjectHandle> {
        self.inner.slots.running()
    }

    /// The plan's log begins before anyone can find the plan.
    async fn make_plan(&self, project: ProjectId, name: &str, author: &UserId) -> Result<Plan, OpenError> {
        let (directory, at) = (&self.backend().directory, clock::now());
        let metadata = PlanMetadata {
            name: Some(name.to_owned()),
            description: None,
            author: Some(author.as_str().to_owned()),
            created: Some(at.to_string()),
        };
        let change = Change {
            operation_id: OperationId::new("create"),
            user_id: author.clone(),
            client_id: ClientId::none(),
            at,
            facts: vec![Fact::Created { metadata }],
        };
        #[expect(clippy::expect_used, reason = "only a bug can bring a change that is no JSON")]
        let payload: Arc<str> = serde_json::to_string(&change).expect("a change is JSON").into();
        let key = OperationKey::of(&change.user_id, &change.client_id, &change.operation_id);
        let epoch = u64::try_from(at.unix_ms).unwrap_or_default();
        let hash = chain::link(ChainHash::ROOT, Revision { epoch, seq: 0 }, &payload);
        let first = Proposal { key, hash, payload, trace: None };
        for taken in 0..PLAN_NUMBERS_MAX {
            let id = directory.reserve_plan(taken).await?;
            if self.backend().log.create(id, epoch, first.clone()).await?.hash != hash {
                // A number that a failover forgot was given again. Its log is somebody else's plan.
                continue;
            }
            let plan = Plan { id, project_id: project, name: name.to_owned(), created_at: at };
            return if directory.add_plan(&plan).await? { Ok(plan) } else { Err(OpenError::NotFound) };
        }
        Err(OpenError::Unavailable)
    }

    /// Looks at a right once more, in the directory, right before it takes effect: what was known here may be a moment old, and
    /// whoever was just shown out elsewhere could let themselves in again.
    async fn confirm(&self, access: &Access, needed: Role) -> Result<(), OpenError> {
        match access.project.refresh().await {
            Ok(()) => {}
            Err(Rejection::Unavailable) => return Err(OpenError::Unavailable),
            // The actor has just ended. Whoever enters anew is looked up anew.
            Err(_) => return self.access(access.project.id(), &access.user_id, needed).await.map(drop),
        }
        self.counted(match access.project.members().role_of(&access.user_id) {
            None => Err(OpenError::NotFound),
            Some(role) if role < needed => Err(OpenError::Forbidden),
            Some(_) => Ok(()),
        })
    }

    /// Notes who may not have what they asked for.
    fn counted<T>(&self, outcome: Result<T, OpenError>) -> Result<T, OpenError> {
        match outcome {
            Err(OpenError::NotFound) => self.metrics().rights.refused(NotAllowed::NotAMember),
            Err(OpenError::Forbidden) => self.metrics().rights.refused(NotAllowed::Role),
            _ => {}
        }
        outcome
    }

    /// Does something to its end although whoever asked may not wait for it: what is written must be told.
    async fn carry_out<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, OpenError>> + Send + 'static,
    ) -> Result<T, OpenError> {
        match self.inner.tasks.spawn(work.in_current_span()).await.map_err(JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(OpenError::Stopping),
        }
    }

    /// Tells of a change of members. `not_found`: what it means if there was nothing to change.
    async fn member_changed<T>(
        &self,
        project: &ProjectHandle,
        change: backend::Result<MemberChange<T>>,
        not_found: OpenError,
    ) -> Result<T, OpenError> {
        match change {
            Ok(MemberChange::Done(done)) => self.changed(project).await.map(|()| done),
            Ok(MemberChange::LastOwner) => Err(OpenError::LastOwner),
            Ok(MemberChange::NotFound) | Err(_) => {
                // What got no answer may be written, and what is not there may have gone without one: nobody is to keep until
                // the sweep a right that they lost by it. Who asked is told of the first failure.
                let _ = self.changed(project).await;
                Err(change.err().map_or(not_found, OpenError::from))
            }
        }
    }

    /// What was written is known here when this returns, and elsewhere a moment later.
    async fn changed(&self, project: &ProjectHandle) -> Result<(), OpenError> {
        self.tell(&ControlMessage::ProjectChanged { project: project.id() }).await;
        match project.refresh().await {
            Ok(()) => Ok(()),
            Err(Rejection::Stopping) => Err(OpenError::Stopping),
            Err(_) => Err(OpenError::Unavailable),
        }
    }

    async fn tell(&self, message: &ControlMessage) {
        if let Err(error) = self.inner.config.bridge.tell(message).await {
            tracing::warn!(%error, "other nodes learn of a change of members by the sweep only");
        }
    }
}
