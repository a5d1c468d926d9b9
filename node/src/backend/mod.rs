//! The ports: what the rest of a node asks of the outside, and the two backends that answer.
//!
//! `redis` is the cluster; `embedded` is one node alone, in its own memory, with the same promises. One contract suite
//! runs against both. Nothing above this module knows which one it has, and nothing here judges what it stores: texts go
//! in and come out.

pub mod embedded;
pub mod envelope;
mod incoming;
pub mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use mille_shared::directory::{Member, Plan, Project, Role};
use mille_shared::facts::RedisFacts;
use mille_shared::log::{
    CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, StoredSnapshot, Terms,
};
use mille_shared::revocation::Revocation;
use mille_shared::{ConnectionId, NodeId, PlanId, ProjectId, Revision, Timestamp, UserId};
use tokio::sync::mpsc;

/// Everything a node needs from outside, behind ports.
#[derive(Clone)]
pub struct Backend {
    /// The plans' logs.
    pub log: Arc<dyn EventLog>,
    /// The plans' snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Channels between nodes.
    pub pubsub: Arc<dyn PubSub>,
    /// Projects, plans and members.
    pub directory: Arc<dyn Directory>,
    /// Who is present where.
    pub presence: Arc<dyn PresenceStore>,
    /// Which nodes are alive.
    pub leases: Arc<dyn Leases>,
    /// Which tokens count no more.
    pub revocations: Arc<dyn Revocations>,
    /// What users may still do.
    pub quotas: Arc<dyn Quotas>,
}

/// Why the outside did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No answer in time, or no connection. What was asked may have happened all the same.
    #[error("the backend does not answer: {0}")]
    Unavailable(String),
    /// Too many ask for the same at once; nothing happened.
    #[error("the backend is busy: {0}")]
    Busy(String),
    /// It answered what we can't read. Somebody else writes our keys, or we have a mistake.
    #[error("the backend's answer makes no sense: {0}")]
    Corrupt(String),
}

/// For whom a log or a snapshot is read. Each lane has its own bound, so that a thousand clients who come back do not keep
/// a node from catching up, without which it could take no edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A node that opens a plan or catches up: one read per open plan at a time.
    Repair,
    /// A client that resumes or asks for the past: as many as there are clients. Soon [`Error::Busy`].
    Replay,
}

/// Bytes of payload with which a page of a log ends, not counting its first entry: whoever asks from an entry on that they know
/// gets on, however large it is. A node holds a page twice while it reads it, once for each connection of a lane.
pub const LOG_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What a port answers.
pub type Result<T> = std::result::Result<T, Error>;

/// The logs: one per plan, numbered by the store, appended only behind the head that the writer names.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Begins a plan's log with its first entry, `<epoch>-0`. A log that exists already is left alone, and its head is
    /// the answer. A log that begins anew forgets the snapshots and operations of an earlier life.
    async fn create(&self, plan: PlanId, epoch: u64, first: Proposal) -> Result<Head>;

    /// In one step: looks up the operations (of new changes), compares the head, judges the terms, appends, remembers the operations and
    /// publishes the entries on [`Channel::Plan`] as an [`envelope`]. Whoever listens hears commits in the order of the
    /// log.
    ///
    /// `batch` is not empty and at most [`COMMIT_BATCH_MAX`](mille_shared::limits::COMMIT_BATCH_MAX) long, its keys
    /// differ, its payloads are single lines, and its hashes continue `expected`.
    async fn commit(&self, plan: PlanId, expected: Head, batch: &[Proposal], terms: &Terms) -> Result<CommitOutcome>;

    /// Whether an operation counts as done only when [`confirm`](Self::confirm) says so.
    fn must_confirm(&self) -> bool {
        false
    }

    /// Waits, for as long as is set, until as many of the store's replicas as is set have the entry: that at which the operation
    /// stands ([`Self::find`]), or whichever is there. `false`: they do not, or it is not at that place any more.
    async fn confirm(&self, _plan: PlanId, _revision: Revision, _key: Option<&OperationKey>) -> Result<bool> {
        Ok(true)
    }

    /// Up to `limit` entries (at least one, at most [`LOG_PAGE_ENTRIES`](mille_shared::limits::LOG_PAGE_ENTRIES)) after
    /// `after`, or from the beginning. Fewer, and then `has_more`, once those behind the first have [`LOG_PAGE_BYTES`] or
    /// more, or if the rest can't be read now. Entries that were trimmed are not there: the first one tells.
    async fn range(&self, plan: PlanId, after: Option<Revision>, limit: usize, lane: Lane) -> Result<LogPage>;

    /// As [`Self::range`], for who knows how large entries of this log were lately: small ones are read at once.
    async fn range_of(
        &self,
        plan: PlanId,
        after: Option<Revision>,
        limit: usize,
        lane: Lane,
        _entry_bytes: Option<usize>,
    ) -> Result<LogPage> {
        self.range(plan, after, limit, lane).await
    }

    /// The lives of the store's servers, each when it is told. Those of servers that do not answer are not.
    fn lives(&self) -> BoxStream<'static, StoreLife>;

    /// Where several logs end, in the order of `plans`; `None` where that is not known now, and an error if it is known of
    /// none. All are answered together: whoever would not have one shard hold up another asks for each shard's plans by
    /// themselves.
    async fn heads(&self, plans: &[PlanId]) -> Result<Vec<Option<LogState>>>;

    /// Puts a log back that is gone whole: a snapshot of the plan, and the changes that led to it with the operations
    /// they were, the newest last. A log that is there is left alone. Answers where the log ends now.
    ///
    /// `known_in` is the life of the store in which the log was last known to be whole.
    async fn revive(
        &self,
        plan: PlanId,
        snapshot: StoredSnapshot,
        changes: &[(LogEntry, OperationKey)],
        known_in: Option<&StoreLife>,
    ) -> Result<LogState>;

    /// Where an operation stands, if the log remembers it: the entry of its change, or the one behind which it changed nothing.
    async fn find(&self, plan: PlanId, key: &OperationKey) -> Result<Option<Revision>>;

    /// In one step: looks up an operation, and notes that it changed nothing of the plan as it is at an entry. [`Self::find`] and
    /// [`Self::commit`] know it from then on, for as long as the log reaches back to that entry; of one plan the last
    /// [`UNCHANGED_OPERATIONS_MAX`](mille_shared::limits::UNCHANGED_OPERATIONS_MAX).
    async fn note_unchanged(&self, plan: PlanId, key: &OperationKey, found: Head) -> Result<Noted>;

    /// Removes a plan's log, its snapshots and what it remembers.
    async fn delete(&self, plan: PlanId) -> Result<()>;
}

/// What came of noting an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is noted.
    New,
    /// It was known before, and stands here.
    Known(Revision),
    /// The log does not have the entry (any more), so nothing was noted.
    Elsewhere,
}

/// How much of a log stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Changes kept at least.
    pub changes: u64,
    /// Changes younger than this are kept too. A change is as old as the oldest snapshot that holds it, or older.
    pub age: Duration,
    /// Beyond so many in all, age does not count. As a log begins behind a snapshot, it may be longer by what lies
    /// between two snapshots.
    pub changes_max: u64,
}

/// Snapshots of plans. The oldest kept one is never behind the beginning of the log: whatever place the log reaches back
/// to, there is a snapshot at or before it and every entry since. Two kinds of logs may have none there: one that still has
/// its first entry, seq 0, is replayed from nothing; one that was [revived](EventLog::revive) can't be replayed from there.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// The newest snapshot at or before the place; without a place, the newest.
    async fn load(&self, plan: PlanId, at_or_before: Option<Revision>, lane: Lane) -> Result<Option<StoredSnapshot>>;

    /// Keeps a snapshot and trims the log to `retention`, in one step. Answers whether it was kept: it is not unless
    /// it is newer than the newest and the log has an entry with its revision and hash.
    ///
    /// Trimming removes the older snapshots that the retention no longer needs, the entries at or before the oldest
    /// snapshot that stays, and the memory of their operations.
    async fn store(&self, plan: PlanId, snapshot: StoredSnapshot, retention: Retention) -> Result<bool>;
}

/// A line between nodes. Messages on it may be lost; whoever listens must be able to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The changes of one plan, as committed.
    Plan(PlanId),
    /// Presence and cursors of one project.
    Project(ProjectId),
    /// Membership, deletions and whatever concerns every node.
    Control,
    /// One node's own line through one shard, to hear itself: proof that the subscription there delivers.
    Probe(Shard),
}

/// A part of the store that one server serves, with the channels whose subscription is one connection. Named by its lowest
/// slot, so that it is the same one when another server takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u16);

impl Shard {
    /// The shard of a store that has but one.
    pub const ONLY: Self = Self(0);
}

/// What comes in on the subscription.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// A message.
    Message {
        /// Where it was published.
        channel: Channel,
        /// What it says.
        payload: Bytes,
    },
    /// Messages may have been lost, up to now. Subscriptions are in force again.
    Interrupted {
        /// Why.
        why: Interruption,
        /// On which channels.
        reach: Reach,
    },
}

/// Which channels an interruption concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// All.
    Everything,
    /// These, and no others.
    Only(Arc<[Channel]>),
}

impl Reach {
    /// Whether it concerns this channel.
    #[must_use]
    pub fn holds(&self, channel: Channel) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(channels) => channels.contains(&channel),
        }
    }
}

/// Why messages may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interruption {
    /// The connection was lost and made anew.
    Reconnect,
    /// We did not take messages as fast as they came.
    Lagged,
    /// The connection was open and delivered nothing, so it was made anew: see [`PubSub::reconnect`].
    Probe,
    /// Another server serves these channels now: after a failover, or because their slots were moved.
    Moved,
}

/// Channels between nodes.
#[async_trait]
pub trait PubSub: Send + Sync + 'static {
    /// Tells everyone who listens now. Returning says that the store took it, not that anyone heard.
    async fn publish(&self, channel: Channel, message: Bytes) -> Result<()>;

    /// Listens. When it returns, the store delivers every later message on `channel` to us. After an error we do not
    /// listen. One channel is subscribed and unsubscribed by one caller at a time.
    async fn subscribe(&self, channel: Channel) -> Result<()>;

    /// Listens no more.
    async fn unsubscribe(&self, channel: Channel) -> Result<()>;

    /// The shards there are now. At least one, unless nothing is known of the store.
    fn shards(&self) -> Vec<Shard>;

    /// The shard through which a channel goes now; `None` while no server is known to serve it.
    fn shard_of(&self, channel: Channel) -> Option<Shard>;

    /// Makes the connection anew on which a shard's messages come, since it seems to deliver none. Begins with
    /// it at most; an [`Interruption::Probe`] says that subscriptions are in force again. Nothing, if it is being made anew
    /// already.
    async fn reconnect(&self, shard: Shard);

    /// Whether a shard's messages come in, as far as is known without asking. If not, an [`Interruption`] will say when
    /// they do.
    fn is_in_force(&self, shard: Shard) -> bool;

    /// Everything this node listens to, on one queue of [`INCOMING_MESSAGES_MAX`]. Can be taken once; later calls get
    /// `None`. When the queue is full, messages are dropped and an [`Interruption::Lagged`] follows.
    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>>;
}

/// Messages from the subscription that wait for the bridge. Full: dropped, and everyone is told of an interruption.
pub const INCOMING_MESSAGES_MAX: usize = 16_384;

/// What a change of the directory came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange<T> {
    /// It is done.
    Done(T),
    /// There is no such project or member.
    NotFound,
    /// It would leave the project without an owner.
    LastOwner,
}

/// All that the directory has of a project, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The project.
    pub project: Project,
    /// Its plans in the order of their ids: the first is the one meant when none is named.
    pub plans: Vec<Plan>,
    /// Its members in the order of their user ids.
    pub members: Vec<Member>,
}

/// Projects, their plans and members.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Makes a project with its owner, and numbers it.
    async fn create_project(
        &self,
        name: &str,
        description: Option<&str>,
        owner: &UserId,
        at: Timestamp,
    ) -> Result<Project>;

    /// What some projects have, each told when it is known. `None`: there is no such project.
    fn contents<'a>(&'a self, projects: &'a [ProjectId]) -> BoxStream<'a, (ProjectId, Result<Option<Contents>>)>;

    /// The projects a user is a member of, in the order of their ids.
    async fn projects_of(&self, user: &UserId) -> Result<Vec<Project>>;

    /// Removes a project, its members and the entries of its plans, and answers which plans those were; their logs are
    /// the caller's to delete. `None`: there is no such project.
    async fn delete_project(&self, id: ProjectId) -> Result<Option<Vec<PlanId>>>;

    /// Numbers a plan without making it, so that its log can begin before anyone finds it. `taken`: so many numbers were somebody's
    /// before. Each time the next is twice as far ahead: a counter that lost its end is soon beyond the plans that are there.
    async fn reserve_plan(&self, taken: u32) -> Result<PlanId>;

    /// Makes a plan known in its project. `false`: there is no such project.
    async fn add_plan(&self, plan: &Plan) -> Result<bool>;

    /// A plan by id.
    async fn plan(&self, id: PlanId) -> Result<Option<Plan>>;

    /// Whether a plan is of a project. One that only its project knows of is made known by its id again: a server that forgot
    /// the plan's log forgot that, too.
    async fn reclaim_plan(&self, project: ProjectId, plan: PlanId) -> Result<bool>;

    /// A project's members, in the order of their user ids. Empty: there is no such project.
    async fn members(&self, project: ProjectId) -> Result<Vec<Member>>;

    /// Makes a user a member or gives a member another role, in one step with the check that an owner stays. A member
    /// stays one since when it was added.
    async fn set_member(
        &self,
        project: ProjectId,
        user: &UserId,
        role: Role,
        at: Timestamp,
    ) -> Result<MemberChange<Member>>;

    /// Removes a member, in one step with the check that an owner stays.
    async fn remove_member(&self, project: ProjectId, user: &UserId, at: Timestamp) -> Result<MemberChange<()>>;
}

/// One connection's presence as a node stores it; the text is the project layer's.
pub type PresenceField = (ConnectionId, Arc<str>);

/// Who is present where: per project and node a table with an expiry that the node renews.
#[async_trait]
pub trait PresenceStore: Send + Sync + 'static {
    /// Keeps a connection's presence, and the node's table for `ttl`.
    async fn put(
        &self,
        project: ProjectId,
        node: &NodeId,
        connection: &ConnectionId,
        presence: &str,
        ttl: Duration,
    ) -> Result<()>;

    /// Forgets a connection's presence.
    async fn remove(&self, project: ProjectId, node: &NodeId, connection: &ConnectionId) -> Result<()>;

    /// Renews the node's tables for `ttl`, in one batch. Answers the projects whose table was gone, to be put again; a
    /// table without a connection is gone too.
    async fn renew(&self, projects: &[ProjectId], node: &NodeId, ttl: Duration) -> Result<Vec<ProjectId>>;

    /// All tables of a project that have not expired, ordered by node and connection.
    async fn load(&self, project: ProjectId) -> Result<Vec<(NodeId, Vec<PresenceField>)>>;

    /// Removes a node's table.
    async fn clear(&self, project: ProjectId, node: &NodeId) -> Result<()>;
}

/// Which nodes are alive: per node a record with an expiry that the node renews.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Takes or renews the node's lease for `ttl`, with the record others see.
    async fn renew(&self, node: &NodeId, record: &str, ttl: Duration) -> Result<()>;

    /// Gives the lease back.
    async fn release(&self, node: &NodeId) -> Result<()>;

    /// Every node whose lease holds, with its record, ordered by id.
    async fn list(&self) -> Result<Vec<(NodeId, Arc<str>)>>;

    /// How the store itself is: for operators.
    async fn status(&self) -> StoreStatus;

    /// The same as far as it is known without asking: never waits.
    fn health(&self) -> StoreHealth;

    /// All that can be learned of the server by asking it, for operators. `None`: there is no server.
    async fn facts(&self) -> Option<RedisFacts> {
        None
    }
}

/// Tokens that count no more: per token or user one record, which is forgotten at its end.
#[async_trait]
pub trait Revocations: Send + Sync + 'static {
    /// Keeps a revocation until `until`, in one step with whatever is known of the same token or user: the later moment and
    /// the later end count. Forgets what has ended. `false`: there are
    /// [`REVOCATIONS_MAX`](mille_shared::limits::REVOCATIONS_MAX) others, and nothing was kept.
    async fn revoke(&self, revocation: &Revocation, until: Timestamp) -> Result<bool>;

    /// All that have not ended, with their ends, in no order; one may come twice.
    async fn list(&self) -> Result<Vec<(Revocation, Timestamp)>>;
}

/// What the store gives of a user's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationsLease {
    /// So many, at least one.
    Some(u32),
    /// None for so long. Then there is more than a single one.
    None {
        /// How long.
        retry_after: Duration,
    },
}

/// What a node says of a user's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesClaim {
    /// So many it would hold.
    pub wanted: u32,
    /// So many it holds in any case.
    pub kept: u32,
    /// The most over all nodes.
    pub max: u32,
    /// How long this counts, unless it is said again.
    pub ttl: Duration,
}

/// What a user may do over all nodes.
#[async_trait]
pub trait Quotas: Send + Sync + 'static {
    /// Takes up to `asked` operations from the user's bucket, which gives `per_second` in the long run and `burst` at
    /// once. None of the three is zero.
    async fn lease_operations(&self, user: &UserId, per_second: u32, burst: u32, asked: u32)
    -> Result<OperationsLease>;

    /// Says how many of the user's connections the node holds from now on. Answers how many: what it wants, or fewer if other
    /// nodes hold more than the rest of the most, but never fewer than it keeps (nor more than it wants). What it held before
    /// does not matter; to want none gives back all.
    async fn hold_places(&self, user: &UserId, node: &NodeId, claim: PlacesClaim) -> Result<u32>;
}

/// Whether the store is asked at all, and what an operator should know about it. Of several servers, the first part is about
/// the one that has the leases, without which no node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHealth {
    /// False: whatever is asked is refused at once, until the store answers again.
    pub answers: bool,
    /// Whether that is so, and why, in words.
    pub breaker: String,
    /// The server's role, and how long ago it was told, in words.
    pub role: String,
    /// For how long the server has been a replica, which takes no writes.
    pub replica_for: Option<Duration>,
    /// The other servers that are not asked now, and slots that no server serves, in words.
    pub sick: Vec<String>,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreStatus {
    /// `embedded`, `standalone`, `sentinel` or `cluster`.
    pub mode: String,
    /// The server's version; ours for the embedded one.
    pub version: String,
    /// `master` or `replica`.
    pub role: String,
    /// Whether it answers; of several servers, whether all do and no slot is without one.
    pub connected: bool,
    /// How long it takes to answer, in milliseconds; of several servers the slowest.
    pub latency_ms: Option<f64>,
}
