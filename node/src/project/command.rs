//! What can be asked of a project's actor, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mille_core::{Applied, Plan, Refusal};
use mille_shared::directory::Role;
use mille_shared::execution::ExecutionState;
use mille_shared::log::{ChainHash, Head};
use mille_shared::operation::Operation;
use mille_shared::{NodeId, PlanId, PlanNodeId, Revision, RunId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::follow::Start;
use super::past::Past;
use super::presence::PresenceCommand;
use crate::pressure::{self, Pressure};
use crate::traces::Traced;

/// Something happened to a plan: what a listener is told.
#[derive(Debug, Clone)]
pub enum PlanEvent {
    /// A change.
    Changed(Arc<Applied>),
    /// The whole plan, because the changes up to it can't be told one by one (or were not asked for).
    Snapshot {
        /// The plan.
        plan: Arc<Plan>,
        /// Why.
        reason: &'static str,
    },
    /// An execution went on. Not numbered, thinned, and lost when a listener is slow.
    Progress(Arc<Progress>),
    /// The project's members may have changed. Only who listens for many is told: they look who may still be told.
    MembersChanged,
}

impl PlanEvent {
    /// The revision that whoever took it is at. `None`: it is of no change.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Changed(applied) => Some(applied.revision()),
            Self::Snapshot { plan, .. } => Some(plan.revision()),
            Self::Progress(_) | Self::MembersChanged => None,
        }
    }
}

/// An event in a listener's queue, counted as long as it waits there.
#[derive(Debug)]
pub(super) struct Queued {
    /// What it is.
    pub event: PlanEvent,
    /// When this node learnt of it.
    pub learnt: Instant,
    /// The fan-out that this is a part of, if it is traced: it ends with its last part.
    pub fan_out: Option<Arc<Traced>>,
    _waits: pressure::Backlog,
}

impl Queued {
    pub(super) fn new(event: PlanEvent, learnt: Instant, fan_out: Option<Arc<Traced>>, pressure: &Pressure) -> Self {
        let mut waits = pressure.backlog();
        waits.add(match &event {
            PlanEvent::Changed(applied) => applied.payload.len(),
            // What else it is, is held by others too.
            PlanEvent::Snapshot { .. } | PlanEvent::Progress(_) | PlanEvent::MembersChanged => size_of::<Self>(),
        });
        Self { event, learnt, fan_out, _waits: waits }
    }
}

/// How far a running plan node is: between two state changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The plan node that runs.
    pub node_id: PlanNodeId,
    /// Which run.
    pub run_id: RunId,
    /// The step it is at.
    pub state: ExecutionState,
    /// From 0 to 1.
    pub progress: Option<f64>,
    /// In the executor's words.
    pub message: Option<String>,
    /// When it was reported.
    pub at: Timestamp,
    /// The plan's revision then.
    pub revision: Revision,
}

/// What became of an accepted operation.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Where its change stands; the plan's head if it changed nothing.
    pub revision: Revision,
    /// Its change. `None`: it changed nothing.
    pub applied: Option<Arc<Applied>>,
    /// The plan with it, and perhaps with what came after.
    pub plan: Arc<Plan>,
    /// Whether it was accepted before: then much may have come after.
    pub is_repeat: bool,
}

/// A part of a plan's past.
#[derive(Debug, Clone)]
pub struct DeltaPage {
    /// The changes, in order, without a hole.
    pub changes: Vec<Arc<Applied>>,
    /// The last revision of this page; where it is empty, the one asked for.
    pub end_revision: Revision,
    /// Whether there are more behind it.
    pub has_more: bool,
}

/// Why a project's actor did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Rejection {
    /// The operation breaks a rule.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// There is no such plan in this project, or no such project.
    #[error("there is no such plan in this project")]
    NoSuchPlan,
    /// The log no longer reaches back to the revision asked for, or belongs to another epoch.
    #[error("the log does not reach back to {after}")]
    Unrecoverable {
        /// The revision asked for.
        after: Revision,
        /// Where the log is.
        head: Revision,
    },
    /// The caller's right ended.
    #[error("you may no longer do this")]
    Forbidden,
    /// Too many wait already. Nothing happened.
    #[error("too many operations wait for this plan")]
    Overloaded,
    /// The store did not answer. It may have happened: repeat it with the same operation id.
    #[error("the plan's log does not answer")]
    Unavailable,
    /// It is in the log, and not on as many replicas as an acknowledgement promises: repeat it with the same operation id.
    #[error("it is applied, but not replicated yet; the same operationId asks again")]
    Unconfirmed,
    /// The project stops on this node. It may have happened: repeat it elsewhere with the same operation id.
    #[error("the project is stopping on this node")]
    Stopping,
}

/// How an operation is answered.
pub(super) type SubmitReply = oneshot::Sender<Result<Accepted, Rejection>>;

/// What is asked of a plan.
pub(super) enum PlanCommand {
    /// Bring an operation into the plan's log.
    Submit { operation: Box<Operation>, repeatable: bool, trace: Option<Traced>, reply: SubmitReply },
    /// The plan as it is now.
    Read { reply: oneshot::Sender<Result<Arc<Plan>, Rejection>> },
    /// Register a listener.
    Attach { request: AttachRequest, reply: oneshot::Sender<Result<Attached, Rejection>> },
    /// Tell the plan's listeners on every node of an execution's progress.
    Progress(Box<Progress>),
}

/// What an actor is asked. Only handles make these.
pub(super) enum Command {
    /// Something of one of the project's plans.
    Plan(PlanId, PlanCommand),
    /// Presence.
    Presence(PresenceCommand),
    /// Members or plans of the project changed: read them again, then answer.
    Refresh { reply: oneshot::Sender<Result<(), Rejection>> },
    /// Nodes are gone from the cluster.
    NodesGone(Vec<NodeId>),
    /// Nodes are gone that had said that they go.
    NodesDeparted(Vec<NodeId>),
    /// Nodes are back that seemed gone.
    NodesBack(Vec<NodeId>),
    /// The store lost this node's table of the project's presence.
    PresenceLost,
    /// Fails, as a mistake of ours would.
    #[cfg(test)]
    Fail,
}

/// How long a group pauses after each walk, in microseconds. The group keeps to it, and so do edits that gather.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// What it was last.
    #[must_use]
    pub fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// What it is now.
    pub fn set(&self, pace: Duration) {
        self.0.store(u64::try_from(pace.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Whom a listener listens for.
#[derive(Debug, Clone)]
pub(super) enum Audience {
    /// A user: access is checked again whenever members change.
    User(UserId),
    /// Many users, whose access the listener checks itself: it is told when members change.
    Many(Arc<Pace>),
}

impl Audience {
    pub(super) fn is_many(&self) -> bool {
        matches!(self, Self::Many(_))
    }

    /// Whether it may listen, where members have these roles.
    pub(super) fn may_listen(&self, role_of: impl Fn(&UserId) -> Option<Role>) -> bool {
        match self {
            Self::User(user) => role_of(user).is_some(),
            Self::Many(_) => true,
        }
    }
}

/// What a listener wants.
#[derive(Debug, Clone)]
pub(super) struct AttachRequest {
    /// Who listens.
    pub audience: Audience,
    /// From where.
    pub start: Start,
    /// Whether it comes for the first time, and was not let go of.
    pub is_first: bool,
    /// The hash of the history it knows, if it listened before: the log may have become another since.
    pub known: Option<ChainHash>,
    /// Whether it wants to hear of progress.
    pub wants_progress: bool,
}

/// A listener's line, and how it catches up with it.
#[derive(Debug)]
pub(super) struct Attached {
    /// The plan's head when it was registered.
    pub head: Head,
    /// How it catches up.
    pub backlog: Backlog,
    /// Whether all who listen are told a SNAPSHOT soon: the log is about to leave its epoch.
    pub leaves_epoch: bool,
    /// What comes after. Its end means: attach again from where you are.
    pub live: mpsc::Receiver<Queued>,
}

/// What a listener is told before it is live.
#[derive(Debug)]
pub(super) enum Backlog {
    /// These events.
    Events(Vec<PlanEvent>),
    /// The changes of a shared past, from one of them on, and then these events.
    Past {
        /// The past.
        past: Arc<Past>,
        /// Which of its changes is the first.
        from: usize,
        /// What follows it.
        events: Vec<PlanEvent>,
    },
    /// The changes up to this revision, which must be read from the log.
    FromLog {
        /// The listener's line begins right behind it.
        until: Revision,
    },
}
