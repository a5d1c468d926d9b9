//! What subscribers of a plan are told: the same change as a JSON Patch, as typed events, as news for collaborators.
//!
//! Events hold the shared change and resolve by reference, so a thousand subscribers share one. A replayed event and a
//! live one are made from equal changes and are equal.

use std::sync::Arc;

use async_graphql::{Enum, Json, Object, SimpleObject};
use mille_core::{Applied, EdgeRecord, NodeRecord, Plan, Touch};
use mille_shared::{PlanId, ProjectId, Revision, Timestamp, delta};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::types::{PlanDagEdge, PlanDagMetadata, PlanDagNode};
use super::weights::BULK;
use crate::project::PlanEvent;

/// A plan's event as its delta stream tells it.
pub(super) struct PlanDagDeltaEvent {
    pub(super) project: ProjectId,
    pub(super) plan: PlanId,
    pub(super) told: Told,
}

/// What an event tells.
pub(super) enum Told {
    Change(Arc<Applied>),
    Snapshot { plan: Arc<Plan>, reason: &'static str },
}

impl PlanDagDeltaEvent {
    /// The event of a change.
    pub(super) fn of_change(project: ProjectId, plan: PlanId, applied: Arc<Applied>) -> Self {
        Self { project, plan, told: Told::Change(applied) }
    }

    /// The event that a delta stream tells, if it tells any.
    pub(super) fn of(project: ProjectId, plan: PlanId, event: PlanEvent) -> Option<Self> {
        let told = match event {
            PlanEvent::Changed(applied) => Told::Change(applied),
            PlanEvent::Snapshot { plan, reason } => Told::Snapshot { plan, reason },
            PlanEvent::Progress(_) | PlanEvent::MembersChanged => return None,
        };
        Some(Self { project, plan, told })
    }
}

impl Told {
    /// Its place in the plan's log.
    pub(super) fn place(&self) -> Revision {
        match self {
            Self::Change(applied) => applied.revision(),
            Self::Snapshot { plan, .. } => plan.revision(),
        }
    }

    pub(super) fn kind(&self) -> DeltaKind {
        match self {
            Self::Change(_) => DeltaKind::Delta,
            Self::Snapshot { .. } => DeltaKind::Snapshot,
        }
    }

    pub(super) fn previous(&self) -> Option<Revision> {
        self.applied().map(|applied| applied.previous)
    }

    pub(super) fn user_id(&self) -> &str {
        self.applied().map_or("", |applied| applied.change.user_id.as_str())
    }

    pub(super) fn client_id(&self) -> &str {
        self.applied().map_or("", |applied| applied.change.client_id.as_str())
    }

    pub(super) fn operation_id(&self) -> Option<&str> {
        self.applied().map(|applied| applied.change.operation_id.as_str())
    }

    pub(super) fn at(&self) -> Timestamp {
        match self {
            Self::Change(applied) => applied.change.at,
            Self::Snapshot { plan, .. } => plan.last_modified(),
        }
    }

    pub(super) fn operations(&self) -> Vec<PatchOperation<'_>> {
        match self {
            Self::Change(applied) => applied.patch.iter().map(PatchOperation::Step).collect(),
            Self::Snapshot { plan, .. } => vec![PatchOperation::Whole(plan)],
        }
    }

    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Change(_) => None,
            Self::Snapshot { reason, .. } => Some(reason),
        }
    }

    fn applied(&self) -> Option<&Applied> {
        match self {
            Self::Change(applied) => Some(applied),
            Self::Snapshot { .. } => None,
        }
    }
}

/// A step of a plan's history as a JSON Patch on the document `{nodes, edges, metadata}` at `previousRevision`.
///
/// Every revision comes once, in order, without a hole. Where that can't be kept there is one event of kind `SNAPSHOT`
/// whose only operation replaces the whole document.
#[Object]
impl PlanDagDeltaEvent {
    /// The project.
    async fn project_id(&self) -> i32 {
        self.project.0
    }

    /// The plan.
    async fn plan_id(&self) -> i32 {
        self.plan.0
    }

    /// Whether it tells of one change or of the whole document.
    async fn kind(&self) -> DeltaKind {
        self.told.kind()
    }

    /// The number of changes so far, counted from 0 within the revision's epoch.
    async fn version(&self) -> i32 {
        self.told.place().version()
    }

    /// The revision of the document after it. Continue from it with `after`.
    async fn revision(&self) -> String {
        self.told.place().to_string()
    }

    /// The revision of the document before it. Null for a `SNAPSHOT`.
    async fn previous_revision(&self) -> Option<String> {
        self.told.previous().map(|revision| revision.to_string())
    }

    /// Who made the change. Empty for a `SNAPSHOT`.
    async fn user_id(&self) -> &str {
        self.told.user_id()
    }

    /// Through which client program. Empty if it gave no name, and for a `SNAPSHOT`.
    async fn client_id(&self) -> &str {
        self.told.client_id()
    }

    /// The operation that made the change: the client's own id, or one that was made. Null for a `SNAPSHOT`.
    async fn operation_id(&self) -> Option<&str> {
        self.told.operation_id()
    }

    /// When the change was made; of a `SNAPSHOT`, when the plan last changed. RFC 3339 UTC.
    async fn timestamp(&self) -> String {
        self.told.at().to_string()
    }

    /// What to do with the document, one after the other: RFC 6902.
    #[graphql(complexity = "BULK + child_complexity")]
    async fn operations(&self) -> Vec<PatchOperation<'_>> {
        self.told.operations()
    }

    /// Why there is a `SNAPSHOT`. Null for a `DELTA`.
    async fn reason(&self) -> Option<&'static str> {
        self.told.reason()
    }
}

/// Whether an event tells of one change or of the whole document.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeltaKind {
    /// One change.
    Delta,
    /// The whole document, because the changes up to it can't be told one by one or were not asked for.
    Snapshot,
}

/// One step of a JSON Patch.
pub(super) enum PatchOperation<'a> {
    Step(&'a delta::PatchOperation),
    /// The whole document in the place of the one before.
    Whole(&'a Plan),
}

impl PatchOperation<'_> {
    pub(super) fn verb(&self) -> PatchOp {
        match self {
            Self::Step(step) => step.op.into(),
            Self::Whole(_) => PatchOp::Replace,
        }
    }

    pub(super) fn place(&self) -> &str {
        match self {
            Self::Step(step) => &step.path,
            Self::Whole(_) => "",
        }
    }

    pub(super) fn new_value(&self) -> Option<PatchValue<'_>> {
        match self {
            Self::Step(step) => step.value.as_ref().map(PatchValue::Part),
            Self::Whole(plan) => Some(PatchValue::Document(plan)),
        }
    }

    pub(super) fn origin(&self) -> Option<&str> {
        match self {
            Self::Step(step) => step.from.as_deref(),
            Self::Whole(_) => None,
        }
    }
}

/// One step of a JSON Patch (RFC 6902). The cluster sends `ADD`, `REMOVE` and `REPLACE`.
#[Object]
impl PatchOperation<'_> {
    /// What to do.
    async fn op(&self) -> PatchOp {
        self.verb()
    }

    /// Where: a JSON Pointer (RFC 6901). Empty means the whole document.
    async fn path(&self) -> &str {
        self.place()
    }

    /// The new value; for `ADD`, `REPLACE` and `TEST`.
    #[graphql(complexity = "BULK")]
    async fn value(&self) -> Option<Json<PatchValue<'_>>> {
        self.new_value().map(Json)
    }

    /// The place it comes from; for `MOVE` and `COPY`.
    async fn from(&self) -> Option<&str> {
        self.origin()
    }
}

/// The verbs of RFC 6902.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "mille_shared::delta::PatchOp")]
pub(super) enum PatchOp {
    /// Insert a value.
    Add,
    /// Take a value away.
    Remove,
    /// Put a value in another's place.
    Replace,
    /// Take a value from one place to another.
    Move,
    /// Repeat a value at another place.
    Copy,
    /// Fail unless the value is there.
    Test,
}

/// A value in a patch, written straight from where it stands.
pub(super) enum PatchValue<'a> {
    Part(&'a delta::JsonText),
    Document(&'a Plan),
}

impl Serialize for PatchValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Part(value) => value.serialize(serializer),
            Self::Document(plan) => {
                let mut document = serializer.serialize_struct("PlanDocument", 3)?;
                document.serialize_field("nodes", &Elements(|| plan.nodes().map(|record| &record.node)))?;
                document.serialize_field("edges", &Elements(|| plan.edges().map(|record| &record.edge)))?;
                document.serialize_field("metadata", plan.metadata())?;
                document.end()
            }
        }
    }
}

/// A list that is written from an iterator.
struct Elements<F>(F);

impl<F, I> Serialize for Elements<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// A page of a plan's past.
#[derive(SimpleObject)]
pub(super) struct PlanDagDeltaPage {
    /// The changes, in order, without a hole.
    pub(super) events: Vec<PlanDagDeltaEvent>,
    /// The last revision of this page; of an empty one, the one asked for. Ask again with it as `after`.
    pub(super) end_revision: String,
    /// Whether more follow.
    pub(super) has_more: bool,
}

/// What happened to one element of a plan.
pub(super) struct PlanDagUpdateEvent {
    plan: PlanId,
    told: Typed,
}

enum Typed {
    /// The change's touch with this index.
    Touch(Arc<Applied>, usize),
    Snapshot(Arc<Plan>),
}

impl PlanDagUpdateEvent {
    /// The typed events of a plan's event, in order.
    pub(super) fn of(plan: PlanId, event: PlanEvent) -> Vec<Self> {
        match event {
            PlanEvent::Changed(applied) => {
                let touches = 0..applied.touches.len();
                touches.map(|index| Self { plan, told: Typed::Touch(Arc::clone(&applied), index) }).collect()
            }
            PlanEvent::Snapshot { plan: whole, .. } => vec![Self { plan, told: Typed::Snapshot(whole) }],
            PlanEvent::Progress(_) | PlanEvent::MembersChanged => Vec::new(),
        }
    }

    /// Its place in the plan's log.
    fn place(&self) -> Revision {
        match &self.told {
            Typed::Touch(applied, _) => applied.revision(),
            Typed::Snapshot(plan) => plan.revision(),
        }
    }

    fn touch(&self) -> Option<&Touch> {
        match &self.told {
            Typed::Touch(applied, index) => applied.touches.get(*index),
            Typed::Snapshot(_) => None,
        }
    }
}

/// What happened to one element of a plan. One change may be several of these, all with its revision.
#[Object]
impl PlanDagUpdateEvent {
    /// The plan's id, as text.
    async fn plan_id(&self) -> String {
        self.plan.to_string()
    }

    /// What happened. `SNAPSHOT`: changes up to `revision` can't be told one by one; read the plan.
    async fn update_type(&self) -> PlanDagUpdateType {
        match self.touch() {
            None => PlanDagUpdateType::Snapshot,
            Some(Touch::NodeAdded(_)) => PlanDagUpdateType::NodeAdded,
            Some(Touch::NodeUpdated(_) | Touch::ExecutionChanged { .. }) => PlanDagUpdateType::NodeUpdated,
            Some(Touch::NodeRemoved(_)) => PlanDagUpdateType::NodeRemoved,
            Some(Touch::EdgeAdded(_)) => PlanDagUpdateType::EdgeAdded,
            Some(Touch::EdgeUpdated(_)) => PlanDagUpdateType::EdgeUpdated,
            Some(Touch::EdgeRemoved(_)) => PlanDagUpdateType::EdgeRemoved,
            Some(Touch::MetadataUpdated(_)) => PlanDagUpdateType::MetadataUpdated,
        }
    }

    /// The element after it; of what was removed, as it was. All null for a `SNAPSHOT`.
    async fn data(&self) -> PlanDagUpdateData<'_> {
        let node = self.touch().and_then(touched_node).map(|record| PlanDagNode(Arc::clone(record)));
        let edge = self.touch().and_then(touched_edge).map(|record| PlanDagEdge(Arc::clone(record)));
        let metadata = match (&self.told, self.touch()) {
            (Typed::Touch(applied, _), Some(Touch::MetadataUpdated(metadata))) => {
                Some(PlanDagMetadata::new(metadata, applied.revision(), applied.change.at))
            }
            _ => None,
        };
        PlanDagUpdateData { node, edge, metadata }
    }

    /// Who did it. Empty for a `SNAPSHOT`.
    async fn user_id(&self) -> &str {
        match &self.told {
            Typed::Touch(applied, _) => applied.change.user_id.as_str(),
            Typed::Snapshot(_) => "",
        }
    }

    /// When, RFC 3339 UTC.
    async fn timestamp(&self) -> String {
        match &self.told {
            Typed::Touch(applied, _) => applied.change.at.to_string(),
            Typed::Snapshot(plan) => plan.last_modified().to_string(),
        }
    }

    /// The revision of the plan after the change. With it as `after` the next change follows: who may have been cut off between
    /// the events of one change asks with the revision before, and meets some of them again. The `id` of a server-sent
    /// event needs no such care, as only the last of a change has one.
    async fn revision(&self) -> String {
        self.place().to_string()
    }
}

/// The plan node that something happened to.
pub(super) fn touched_node(touch: &Touch) -> Option<&Arc<NodeRecord>> {
    match touch {
        Touch::NodeAdded(record)
        | Touch::NodeUpdated(record)
        | Touch::NodeRemoved(record)
        | Touch::ExecutionChanged { record, .. } => Some(record),
        Touch::EdgeAdded(_) | Touch::EdgeUpdated(_) | Touch::EdgeRemoved(_) | Touch::MetadataUpdated(_) => None,
    }
}

/// The edge that something happened to.
pub(super) fn touched_edge(touch: &Touch) -> Option<&Arc<EdgeRecord>> {
    match touch {
        Touch::EdgeAdded(record) | Touch::EdgeUpdated(record) | Touch::EdgeRemoved(record) => Some(record),
        Touch::NodeAdded(_)
        | Touch::NodeUpdated(_)
        | Touch::NodeRemoved(_)
        | Touch::ExecutionChanged { .. }
        | Touch::MetadataUpdated(_) => None,
    }
}

/// The element that something happened to: at most one of these.
#[derive(SimpleObject)]
struct PlanDagUpdateData<'a> {
    /// The plan node.
    node: Option<PlanDagNode>,
    /// The edge.
    edge: Option<PlanDagEdge>,
    /// What the plan says of itself.
    metadata: Option<PlanDagMetadata<'a>>,
}

/// What happened to an element of a plan.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlanDagUpdateType {
    /// A plan node was added.
    NodeAdded,
    /// A plan node has new values, or its execution went on.
    NodeUpdated,
    /// A plan node was deleted.
    NodeRemoved,
    /// An edge was added.
    EdgeAdded,
    /// An edge has new metadata.
    EdgeUpdated,
    /// An edge was deleted.
    EdgeRemoved,
    /// The plan says something else of itself.
    MetadataUpdated,
    /// Changes were missed; read the plan.
    Snapshot,
}
