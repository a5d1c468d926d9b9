//! A plan and its elements, over the records that the plan's replica shares with every reader.

use std::sync::Arc;

use async_graphql::{Enum, Object, SimpleObject};
use mille_core::{EdgeRecord, NodeRecord, Plan};
use mille_shared::execution::{DataSourceExecution, GraphExecution};
use mille_shared::plan::PlanMetadata;
use mille_shared::{Revision, Timestamp};

use crate::gateway::graphql::weights::BULK;

/// A whole plan at one revision.
pub(crate) struct PlanDag(pub(crate) Arc<Plan>);

/// A whole plan at one revision: a directed acyclic graph of plan nodes and edges.
#[Object]
impl PlanDag {
    /// The number of changes so far, as text. Counts from 0 within the revision's epoch.
    async fn version(&self) -> String {
        self.0.revision().version().to_string()
    }

    /// The place in the plan's log that this is the state of: `<epoch>-<seq>`. Continue from it with
    /// `planDagDeltaChanged(after:)`.
    async fn revision(&self) -> String {
        self.0.revision().to_string()
    }

    /// The plan nodes, in the order they were added. At most 1,000 unless the operator chose otherwise.
    #[graphql(complexity = "BULK + child_complexity")]
    async fn nodes(&self) -> Vec<PlanDagNode> {
        self.0.nodes().cloned().map(PlanDagNode).collect()
    }

    /// The edges, in the order they were added. At most 5,000 unless the operator chose otherwise.
    #[graphql(complexity = "BULK + child_complexity")]
    async fn edges(&self) -> Vec<PlanDagEdge> {
        self.0.edges().cloned().map(PlanDagEdge).collect()
    }

    /// What the plan says of itself.
    async fn metadata(&self) -> PlanDagMetadata<'_> {
        PlanDagMetadata::new(self.0.metadata(), self.0.revision(), self.0.last_modified())
    }
}

/// A vertex of a plan.
pub(crate) struct PlanDagNode(pub(crate) Arc<NodeRecord>);

/// A vertex of a plan's graph.
#[Object]
impl PlanDagNode {
    /// Unique in the plan: 1 to 100 of `[A-Za-z0-9_-]`.
    async fn id(&self) -> &str {
        self.0.node.id.as_str()
    }

    /// What the plan node does; decides what may be connected to it.
    async fn node_type(&self) -> PlanDagNodeType {
        self.0.node.node_type.into()
    }

    /// Where it is drawn.
    async fn position(&self) -> Position {
        let position = self.0.node.position;
        Position { x: position.x, y: position.y }
    }

    /// The side its outgoing edges leave from, in the editor's words.
    async fn source_position(&self) -> Option<&str> {
        self.0.node.source_position.as_deref()
    }

    /// The side its incoming edges arrive at, in the editor's words.
    async fn target_position(&self) -> Option<&str> {
        self.0.node.target_position.as_deref()
    }

    /// Its label and description.
    #[graphql(complexity = "1 + BULK * child_complexity")]
    async fn metadata(&self) -> NodeMetadata<'_> {
        let metadata = &self.0.node.metadata;
        NodeMetadata { label: &metadata.label, description: metadata.description.as_deref() }
    }

    /// Its settings, opaque to the cluster (usually JSON). At most 100 kB.
    #[graphql(complexity = "BULK")]
    async fn config(&self) -> &str {
        &self.0.node.config
    }

    /// When it was added, RFC 3339 UTC.
    async fn created_at(&self) -> String {
        self.0.node.created_at.to_string()
    }

    /// When it was last touched, RFC 3339 UTC.
    async fn updated_at(&self) -> String {
        self.0.node.updated_at.to_string()
    }

    /// The change that touched it last. Good as `expectedRevision` of an edit of this plan node.
    async fn revision(&self) -> String {
        self.0.revision.to_string()
    }

    /// How far the data source is processed; of a `DataSourceNode` that was executed.
    async fn datasource_execution(&self) -> Option<DataSourceExecutionMetadata<'_>> {
        self.0.node.datasource_execution.as_ref().map(DataSourceExecutionMetadata::from)
    }

    /// How far the graph is computed; of any other plan node that was executed.
    async fn graph_execution(&self) -> Option<GraphExecutionMetadata<'_>> {
        self.0.node.graph_execution.as_ref().map(GraphExecutionMetadata::from)
    }
}

/// An edge of a plan.
pub(crate) struct PlanDagEdge(pub(crate) Arc<EdgeRecord>);

/// A directed edge between two plan nodes.
#[Object]
impl PlanDagEdge {
    /// Unique in the plan: 1 to 100 of `[A-Za-z0-9_-]`.
    async fn id(&self) -> &str {
        self.0.edge.id.as_str()
    }

    /// The id of the plan node it comes from.
    async fn source(&self) -> &str {
        self.0.edge.source.as_str()
    }

    /// The id of the plan node it goes to.
    async fn target(&self) -> &str {
        self.0.edge.target.as_str()
    }

    /// Its label and what it carries.
    #[graphql(complexity = "1 + BULK * child_complexity")]
    async fn metadata(&self) -> EdgeMetadata<'_> {
        let metadata = &self.0.edge.metadata;
        EdgeMetadata { label: metadata.label.as_deref(), data_type: metadata.data_type.into() }
    }

    /// When it was added, RFC 3339 UTC.
    async fn created_at(&self) -> String {
        self.0.edge.created_at.to_string()
    }

    /// When it was last touched, RFC 3339 UTC.
    async fn updated_at(&self) -> String {
        self.0.edge.updated_at.to_string()
    }

    /// The change that touched it last. Good as `expectedRevision` of an edit of this edge.
    async fn revision(&self) -> String {
        self.0.revision.to_string()
    }
}

/// What a plan says of itself.
#[derive(SimpleObject)]
pub(crate) struct PlanDagMetadata<'a> {
    /// The plan's version: the number of changes so far, as text.
    version: String,
    /// The plan's name.
    name: Option<&'a str>,
    /// What it is for.
    description: Option<&'a str>,
    /// When it was made, as the text that came in (usually RFC 3339).
    created: Option<&'a str>,
    /// When it last changed, RFC 3339 UTC.
    last_modified: Option<String>,
    /// The user who made it.
    author: Option<&'a str>,
}

impl<'a> PlanDagMetadata<'a> {
    pub(crate) fn new(metadata: &'a PlanMetadata, revision: Revision, last_modified: Timestamp) -> Self {
        Self {
            version: revision.version().to_string(),
            name: metadata.name.as_deref(),
            description: metadata.description.as_deref(),
            created: metadata.created.as_deref(),
            last_modified: Some(last_modified.to_string()),
            author: metadata.author.as_deref(),
        }
    }
}

/// A plan node's label and description.
#[derive(SimpleObject)]
struct NodeMetadata<'a> {
    /// What the editor writes on it.
    label: &'a str,
    /// What it is for.
    description: Option<&'a str>,
}

/// An edge's label and what it carries.
#[derive(SimpleObject)]
struct EdgeMetadata<'a> {
    /// What the editor writes on it.
    label: Option<&'a str>,
    /// What flows along it.
    data_type: EdgeDataType,
}

/// Where a plan node is drawn, in the editor's units. Both finite, at most 100,000 from the origin.
#[derive(SimpleObject)]
struct Position {
    /// To the right.
    x: f64,
    /// Downwards.
    y: f64,
}

/// How far a data source is processed.
#[derive(SimpleObject)]
pub(crate) struct DataSourceExecutionMetadata<'a> {
    /// The data source, in the executor's numbering.
    data_source_id: Option<i32>,
    /// The file it was read from.
    filename: Option<&'a str>,
    /// The executor's own word for how it stands.
    status: Option<&'a str>,
    /// When it was read, as the executor says it.
    processed_at: Option<&'a str>,
    /// The step the run is at: `not_started`, `pending`, `processing`, `completed` or `error`.
    execution_state: &'static str,
    /// Why it failed.
    error_message: Option<&'a str>,
}

impl<'a> From<&'a DataSourceExecution> for DataSourceExecutionMetadata<'a> {
    fn from(execution: &'a DataSourceExecution) -> Self {
        Self {
            data_source_id: execution.data_source_id,
            filename: execution.filename.as_deref(),
            status: execution.status.as_deref(),
            processed_at: execution.processed_at.as_deref(),
            execution_state: execution.execution_state.as_str(),
            error_message: execution.error_message.as_deref(),
        }
    }
}

/// How far a graph is computed.
#[derive(SimpleObject)]
pub(crate) struct GraphExecutionMetadata<'a> {
    /// The graph, in the executor's numbering.
    graph_id: Option<i32>,
    /// How many vertices it has.
    node_count: Option<i32>,
    /// How many edges it has.
    edge_count: Option<i32>,
    /// The step the run is at: `not_started`, `pending`, `processing`, `completed` or `error`.
    execution_state: &'static str,
    /// When it was computed, as the executor says it.
    computed_date: Option<&'a str>,
    /// Why it failed.
    error_message: Option<&'a str>,
}

impl<'a> From<&'a GraphExecution> for GraphExecutionMetadata<'a> {
    fn from(execution: &'a GraphExecution) -> Self {
        Self {
            graph_id: execution.graph_id,
            node_count: execution.node_count,
            edge_count: execution.edge_count,
            execution_state: execution.execution_state.as_str(),
            computed_date: execution.computed_date.as_deref(),
            error_message: execution.error_message.as_deref(),
        }
    }
}

/// What a plan node does.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "mille_shared::plan::PlanNodeType")]
#[expect(clippy::enum_variant_names, reason = "they are the names of the contract")]
pub(crate) enum PlanDagNodeType {
    /// Brings data in; takes no input.
    #[graphql(name = "DataSourceNode")]
    DataSourceNode,
    /// Holds a graph.
    #[graphql(name = "GraphNode")]
    GraphNode,
    /// Changes what passes.
    #[graphql(name = "TransformNode")]
    TransformNode,
    /// Lets a part pass.
    #[graphql(name = "FilterNode")]
    FilterNode,
    /// Joins several inputs; the only one that takes more than one.
    #[graphql(name = "MergeNode")]
    MergeNode,
    /// Repeats its input.
    #[graphql(name = "CopyNode")]
    CopyNode,
    /// Writes a result; has no output.
    #[graphql(name = "OutputNode")]
    OutputNode,
}

/// What flows along an edge.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "mille_shared::plan::EdgeDataType")]
pub(crate) enum EdgeDataType {
    /// The data itself.
    GraphData,
    /// A reference to it.
    GraphReference,
}
