//! An accepted operation, as it stands in the log.
//!
//! A change holds facts: values already resolved, so that nodes of different versions read the same history the same
//! way and nobody validates twice. Facts are small: a move is an id and a position. `updatedAt` of everything a change
//! touches is the change's own time, so it is not repeated. The JSON of these types is the wire format of the log:
//! fields may be added with a default, never renamed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::execution::{DataSourceExecution, ExecutionState, GraphExecution};
use crate::plan::{EdgeMetadata, NodeMetadata, PlanEdge, PlanMetadata, PlanNode, Position};
use crate::{ClientId, EdgeId, OperationId, PlanNodeId, RunId, Timestamp, UserId};

/// An accepted operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The operation that caused it.
    #[serde(rename = "op")]
    pub operation_id: OperationId,
    /// Who asked.
    #[serde(rename = "user")]
    pub user_id: UserId,
    /// Through which program.
    #[serde(rename = "client")]
    pub client_id: ClientId,
    /// When; also the `updatedAt` of what it touched.
    pub at: Timestamp,
    /// What happened, in order.
    pub facts: Vec<Fact>,
}

/// One thing that happened to a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Fact {
    /// The plan began. Always the first fact of a log, and only there.
    Created {
        /// What the plan says of itself.
        metadata: PlanMetadata,
    },
    /// A plan node was added, at the end.
    NodeAdded {
        /// The whole plan node.
        node: Box<PlanNode>,
    },
    /// Fields of a plan node have new values; absent ones stayed.
    NodeUpdated {
        /// Which one.
        id: PlanNodeId,
        /// Where it is drawn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<Position>,
        /// The side its outgoing edges leave from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source_position: Option<String>,
        /// The side its incoming edges arrive at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target_position: Option<String>,
        /// Its label and description.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<NodeMetadata>,
        /// Its settings.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Arc<str>>,
    },
    /// A plan node was deleted. Its edges were, by facts before this one.
    NodeRemoved {
        /// Which one.
        id: PlanNodeId,
    },
    /// An edge was added, at the end.
    EdgeAdded {
        /// The whole edge.
        edge: PlanEdge,
    },
    /// An edge has new metadata.
    EdgeUpdated {
        /// Which one.
        id: EdgeId,
        /// The whole metadata.
        metadata: EdgeMetadata,
    },
    /// An edge was deleted.
    EdgeRemoved {
        /// Which one.
        id: EdgeId,
    },
    /// The plan says something else of itself.
    MetadataUpdated {
        /// The whole metadata.
        metadata: PlanMetadata,
    },
    /// The plan has another document.
    Replaced {
        /// The plan nodes, in order.
        nodes: Vec<PlanNode>,
        /// The edges, in order.
        edges: Vec<PlanEdge>,
        /// What the plan says of itself.
        metadata: PlanMetadata,
    },
    /// An execution went a step further.
    ExecutionChanged {
        /// The plan node that runs.
        id: PlanNodeId,
        /// Which run.
        run_id: RunId,
        /// The step it is at.
        state: ExecutionState,
        /// What is now known of the data source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        datasource: Option<DataSourceExecution>,
        /// What is now known of the graph.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        graph: Option<GraphExecution>,
    },
}
