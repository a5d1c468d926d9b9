//! The plan document: what clients hold, value for value.
//!
//! Serialised, these types are the document of the delta stream: camelCase, nullable fields present as `null`, arrays
//! in insertion order. Revisions and versions are not part of it; they travel beside it. What may be in a plan is
//! decided by `mille-core`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::execution::{DataSourceExecution, GraphExecution};
use crate::{EdgeId, PlanNodeId, Timestamp};

/// A whole plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct PlanDocument {
    /// The plan nodes, in the order they were added.
    pub nodes: Vec<PlanNode>,
    /// The edges, in the order they were added.
    pub edges: Vec<PlanEdge>,
    /// What the plan says of itself.
    pub metadata: PlanMetadata,
}

/// A vertex of the DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanNode {
    /// Unique in the plan.
    pub id: PlanNodeId,
    /// What the plan node does; decides what may be connected to it.
    pub node_type: PlanNodeType,
    /// Where it is drawn.
    pub position: Position,
    /// The side its outgoing edges leave from, in the editor's words.
    pub source_position: Option<String>,
    /// The side its incoming edges arrive at, in the editor's words.
    pub target_position: Option<String>,
    /// Its label and description.
    pub metadata: NodeMetadata,
    /// The plan node's settings, opaque to us (usually JSON). At most [`crate::limits::CONFIG_BYTES_MAX`].
    pub config: Arc<str>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was last touched.
    pub updated_at: Timestamp,
    /// How far the data source is processed; for a `DataSourceNode` that was executed.
    pub datasource_execution: Option<DataSourceExecution>,
    /// How far the graph is computed; for any other plan node that was executed.
    pub graph_execution: Option<GraphExecution>,
}

/// A directed edge between two plan nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanEdge {
    /// Unique in the plan.
    pub id: EdgeId,
    /// The plan node it comes from.
    pub source: PlanNodeId,
    /// The plan node it goes to.
    pub target: PlanNodeId,
    /// Its label and what it carries.
    pub metadata: EdgeMetadata,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was last touched.
    pub updated_at: Timestamp,
}

/// What a plan says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PlanMetadata {
    /// The plan's name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The user who made it.
    pub author: Option<String>,
    /// When it was made, as RFC 3339; kept as the text that came in.
    pub created: Option<String>,
}

/// A plan node's label and description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMetadata {
    /// What the editor writes on it.
    pub label: String,
    /// What it is for.
    pub description: Option<String>,
}

/// An edge's label and what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeMetadata {
    /// What the editor writes on it.
    pub label: Option<String>,
    /// What flows along it.
    pub data_type: EdgeDataType,
}

/// Where a plan node is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// To the right, in the editor's units; |x| ≤ [`crate::limits::COORDINATE_ABS_MAX`].
    pub x: f64,
    /// Downwards, in the editor's units; |y| ≤ [`crate::limits::COORDINATE_ABS_MAX`].
    pub y: f64,
}

/// What a plan node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PlanNodeType {
    /// Brings data in; takes no input.
    DataSourceNode,
    /// Holds a graph.
    GraphNode,
    /// Changes what passes.
    TransformNode,
    /// Lets a part pass.
    FilterNode,
    /// Joins several inputs; the only one that takes more than one.
    MergeNode,
    /// Repeats its input.
    CopyNode,
    /// Writes a result; has no output.
    OutputNode,
}

impl PlanNodeType {
    /// The name on the wire, which is also the beginning of an id that we make.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DataSourceNode => "DataSourceNode",
            Self::GraphNode => "GraphNode",
            Self::TransformNode => "TransformNode",
            Self::FilterNode => "FilterNode",
            Self::MergeNode => "MergeNode",
            Self::CopyNode => "CopyNode",
            Self::OutputNode => "OutputNode",
        }
    }
}

/// What flows along an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EdgeDataType {
    /// The data itself.
    #[default]
    GraphData,
    /// A reference to it.
    GraphReference,
}
