//! What clients send, and how it becomes what the core judges.
//!
//! Only shapes are checked here, by the schema itself. Whether an id is free, a number in bounds or a text short enough is
//! judged by the core, on the state the edit is committed on. Ids that a client leaves out are made here, once, before
//! the operation is judged for the first time.

use async_graphql::{InputObject, MaybeUndefined, OneofObject};
use mille_shared::operation::{Edit, NewDocument, NewEdge, NewNode, NodeUpdate};
use mille_shared::plan::{self, PlanNodeType};
use mille_shared::{EdgeId, PlanNodeId};

use super::types::{EdgeDataType, PlanDagNodeType};

/// Where a plan node is drawn, in the editor's units: finite, at most 100,000 from the origin, else
/// `VALIDATION_FAILED`.
#[derive(InputObject)]
pub(super) struct PositionInput {
    /// To the right.
    x: f64,
    /// Downwards.
    y: f64,
}

/// A plan node's label and description; together at most 50 kB, else `PAYLOAD_TOO_LARGE`.
#[derive(InputObject)]
pub(super) struct NodeMetadataInput {
    /// What the editor writes on it.
    label: String,
    /// What it is for.
    description: Option<String>,
}

/// An edge's label and what it carries. Always the whole of it: what is left out is empty or the default.
#[derive(InputObject)]
pub(super) struct EdgeMetadataInput {
    /// What the editor writes on it. At most 50 kB, else `PAYLOAD_TOO_LARGE`.
    label: Option<String>,
    /// What flows along it.
    #[graphql(default_with = "Some(EdgeDataType::GraphData)")]
    data_type: Option<EdgeDataType>,
}

/// A plan node to be.
#[derive(InputObject)]
pub(super) struct PlanDagNodeInput {
    /// 1 to 100 of `[A-Za-z0-9_-]`, free in the plan, else `VALIDATION_FAILED`. Left out: one is made.
    id: Option<String>,
    /// What it does.
    node_type: PlanDagNodeType,
    /// Where it is drawn.
    position: PositionInput,
    /// Its label and description.
    metadata: NodeMetadataInput,
    /// Its settings, opaque to the cluster (usually JSON). At most 100 kB, else `PAYLOAD_TOO_LARGE`.
    config: String,
}

/// An edge to be. Both ends must exist, and the plan must stay a graph without cycles, else `VALIDATION_FAILED`.
#[derive(InputObject)]
pub(super) struct PlanDagEdgeInput {
    /// 1 to 100 of `[A-Za-z0-9_-]`, free in the plan, else `VALIDATION_FAILED`. Left out: one is made.
    id: Option<String>,
    /// The id of the plan node it comes from.
    source: String,
    /// The id of the plan node it goes to.
    target: String,
    /// Its label and what it carries.
    metadata: EdgeMetadataInput,
}

/// New values for a plan node. What is left out or null stays as it is.
#[derive(InputObject)]
pub(super) struct PlanDagNodeUpdateInput {
    /// Where it is drawn.
    position: Option<PositionInput>,
    /// Its label and description, both.
    metadata: Option<NodeMetadataInput>,
    /// Its settings.
    config: Option<String>,
}

/// New values for an edge. What is left out or null stays as it is.
#[derive(InputObject)]
pub(super) struct PlanDagEdgeUpdateInput {
    /// Its label and what it carries, both.
    metadata: Option<EdgeMetadataInput>,
}

/// A plan node's new place. Sides that are left out or null stay as they are.
#[derive(InputObject)]
pub(super) struct NodePositionInput {
    /// Which plan node.
    node_id: String,
    /// Where it is drawn.
    position: PositionInput,
    /// The side its outgoing edges leave from, in the editor's words.
    source_position: Option<String>,
    /// The side its incoming edges arrive at, in the editor's words.
    target_position: Option<String>,
}

/// A whole document.
#[derive(InputObject)]
pub(super) struct PlanDagInput {
    /// The version the client began with. Not judged: `expectedRevision` is there for that.
    version: String,
    /// The plan nodes, in order. At most 1,000, else `LIMIT_EXCEEDED`.
    nodes: Vec<PlanDagNodeInput>,
    /// The edges, in order. At most 5,000, else `LIMIT_EXCEEDED`.
    edges: Vec<PlanDagEdgeInput>,
    /// What the plan says of itself.
    metadata: PlanDagMetadataInput,
}

/// What a document says of itself.
#[derive(InputObject)]
pub(super) struct PlanDagMetadataInput {
    /// Not judged; there because clients send back what they read.
    version: Option<String>,
    /// The plan's name. Left out or null: it has none.
    name: Option<String>,
    /// What it is for. Left out or null: it says nothing.
    description: Option<String>,
    /// When it was made. Left out or null: as it was.
    created: Option<String>,
    /// Not judged; there because clients send back what they read.
    last_modified: Option<String>,
    /// The user who made it. Left out or null: as it was.
    author: Option<String>,
}

/// One step of `applyPlanDagChanges`: exactly one of these.
#[derive(OneofObject)]
pub(super) enum PlanDagChangeInput {
    /// Add a plan node.
    AddNode(AddNodeChangeInput),
    /// Change fields of a plan node.
    UpdateNode(UpdateNodeChangeInput),
    /// Move a plan node.
    MoveNode(MoveNodeChangeInput),
    /// Delete a plan node and its edges.
    DeleteNode(DeleteNodeChangeInput),
    /// Add an edge.
    AddEdge(AddEdgeChangeInput),
    /// Change an edge's metadata.
    UpdateEdge(UpdateEdgeChangeInput),
    /// Delete an edge.
    DeleteEdge(DeleteEdgeChangeInput),
    /// Change what the plan says of itself.
    UpdateMetadata(UpdateMetadataChangeInput),
}

/// Adds a plan node.
#[derive(InputObject)]
pub(super) struct AddNodeChangeInput {
    /// The plan node to be.
    node: PlanDagNodeInput,
}

/// Changes fields of a plan node.
#[derive(InputObject)]
pub(super) struct UpdateNodeChangeInput {
    /// Which one.
    node_id: String,
    /// The new values.
    updates: PlanDagNodeUpdateInput,
}

/// Moves a plan node.
#[derive(InputObject)]
pub(super) struct MoveNodeChangeInput {
    /// Which one.
    node_id: String,
    /// Where to.
    position: PositionInput,
}

/// Deletes a plan node and its edges.
#[derive(InputObject)]
pub(super) struct DeleteNodeChangeInput {
    /// Which one.
    node_id: String,
}

/// Adds an edge.
#[derive(InputObject)]
pub(super) struct AddEdgeChangeInput {
    /// The edge to be.
    edge: PlanDagEdgeInput,
}

/// Changes an edge's metadata.
#[derive(InputObject)]
pub(super) struct UpdateEdgeChangeInput {
    /// Which one.
    edge_id: String,
    /// The new values.
    updates: PlanDagEdgeUpdateInput,
}

/// Deletes an edge.
#[derive(InputObject)]
pub(super) struct DeleteEdgeChangeInput {
    /// Which one.
    edge_id: String,
}

/// Changes what the plan says of itself. What is left out stays; null takes it away.
#[derive(InputObject)]
pub(super) struct UpdateMetadataChangeInput {
    /// The plan's name.
    pub(super) name: MaybeUndefined<String>,
    /// What it is for.
    pub(super) description: MaybeUndefined<String>,
}

impl UpdateMetadataChangeInput {
    /// Takes out what was not given.
    pub(super) fn keep(&mut self, is_given: impl Fn(&str) -> bool) {
        for (field, value) in [("name", &mut self.name), ("description", &mut self.description)] {
            if !is_given(field) {
                *value = MaybeUndefined::Undefined;
            }
        }
    }
}

impl From<PositionInput> for plan::Position {
    fn from(input: PositionInput) -> Self {
        // -0 becomes 0: the two are equal, so no delta would tell them apart.
        Self { x: input.x + 0.0, y: input.y + 0.0 }
    }
}

impl From<NodeMetadataInput> for plan::NodeMetadata {
    fn from(input: NodeMetadataInput) -> Self {
        Self { label: input.label, description: input.description }
    }
}

impl From<EdgeMetadataInput> for plan::EdgeMetadata {
    fn from(input: EdgeMetadataInput) -> Self {
        Self { label: input.label, data_type: input.data_type.map(Into::into).unwrap_or_default() }
    }
}

impl From<PlanDagNodeInput> for NewNode {
    fn from(input: PlanDagNodeInput) -> Self {
        let node_type = PlanNodeType::from(input.node_type);
        let id = input.id.unwrap_or_else(|| made_id(node_type.as_str()));
        Self {
            id: PlanNodeId::new(id),
            node_type,
            position: input.position.into(),
            metadata: input.metadata.into(),
            config: input.config.into(),
        }
    }
}

impl From<PlanDagEdgeInput> for NewEdge {
    fn from(input: PlanDagEdgeInput) -> Self {
        Self {
            id: EdgeId::new(input.id.unwrap_or_else(|| made_id("edge"))),
            source: PlanNodeId::new(input.source),
            target: PlanNodeId::new(input.target),
            metadata: input.metadata.into(),
        }
    }
}

impl From<PlanDagNodeUpdateInput> for NodeUpdate {
    fn from(input: PlanDagNodeUpdateInput) -> Self {
        Self {
            position: input.position.map(Into::into),
            metadata: input.metadata.map(Into::into),
            config: input.config.map(Into::into),
            ..Self::default()
        }
    }
}

impl From<NodePositionInput> for Edit {
    fn from(input: NodePositionInput) -> Self {
        let update = NodeUpdate {
            position: Some(input.position.into()),
            source_position: input.source_position,
            target_position: input.target_position,
            ..NodeUpdate::default()
        };
        Self::UpdateNode { id: PlanNodeId::new(input.node_id), update }
    }
}

impl From<PlanDagInput> for NewDocument {
    fn from(input: PlanDagInput) -> Self {
        let metadata = input.metadata;
        Self {
            nodes: input.nodes.into_iter().map(Into::into).collect(),
            edges: input.edges.into_iter().map(Into::into).collect(),
            name: metadata.name,
            description: metadata.description,
            author: metadata.author,
            created: metadata.created,
        }
    }
}

impl From<PlanDagChangeInput> for Edit {
    fn from(input: PlanDagChangeInput) -> Self {
        match input {
            PlanDagChangeInput::AddNode(change) => Self::AddNode(change.node.into()),
            PlanDagChangeInput::UpdateNode(change) => update_node(change.node_id, change.updates),
            PlanDagChangeInput::MoveNode(change) => move_node(change.node_id, change.position),
            PlanDagChangeInput::DeleteNode(change) => Self::DeleteNode { id: PlanNodeId::new(change.node_id) },
            PlanDagChangeInput::AddEdge(change) => Self::AddEdge(change.edge.into()),
            PlanDagChangeInput::UpdateEdge(change) => update_edge(change.edge_id, change.updates),
            PlanDagChangeInput::DeleteEdge(change) => Self::DeleteEdge { id: EdgeId::new(change.edge_id) },
            PlanDagChangeInput::UpdateMetadata(change) => update_metadata(change.name, change.description),
        }
    }
}

/// The edit that gives a plan node new values.
pub(super) fn update_node(id: String, updates: PlanDagNodeUpdateInput) -> Edit {
    Edit::UpdateNode { id: PlanNodeId::new(id), update: updates.into() }
}

/// The edit that moves a plan node.
pub(super) fn move_node(id: String, position: PositionInput) -> Edit {
    let update = NodeUpdate { position: Some(position.into()), ..NodeUpdate::default() };
    Edit::UpdateNode { id: PlanNodeId::new(id), update }
}

/// The edit that gives an edge new values.
pub(super) fn update_edge(id: String, updates: PlanDagEdgeUpdateInput) -> Edit {
    Edit::UpdateEdge { id: EdgeId::new(id), metadata: updates.metadata.map(Into::into) }
}

/// The edit that changes what the plan says of itself: left out stays, null takes away.
fn update_metadata(name: MaybeUndefined<String>, description: MaybeUndefined<String>) -> Edit {
    Edit::UpdateMetadata { name: given(name), description: given(description) }
}

fn given(value: MaybeUndefined<String>) -> Option<Option<String>> {
    match value {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(text) => Some(Some(text)),
    }
}

/// A new element's id: `<kind>_<12 hex>`. 48 random bits: in a plan of 6,000 elements two meet once in 15 million plans,
/// and then the second is refused, not lost.
fn made_id(kind: &str) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{kind}_{}", &random[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_id_is_one_that_the_core_takes() {
        let (one, other) = (made_id("DataSourceNode"), made_id("DataSourceNode"));
        assert_ne!(one, other);
        assert!(PlanNodeId::parse(&one).is_ok(), "{one}");
        let hex = one.strip_prefix("DataSourceNode_").expect("the type is in front");
        assert!(hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{one}");
    }

    #[test]
    fn a_place_has_one_zero() {
        let place = plan::Position::from(PositionInput { x: -0.0, y: -0.0 });
        assert!(place.x.is_sign_positive() && place.y.is_sign_positive());
    }

    #[test]
    fn null_takes_away_and_silence_leaves_alone() {
        let edit = update_metadata(MaybeUndefined::Null, MaybeUndefined::Undefined);
        assert_eq!(edit, Edit::UpdateMetadata { name: Some(None), description: None });
    }
}
