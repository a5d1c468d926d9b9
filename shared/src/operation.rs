//! What a user asks for.
//!
//! An operation is a wish: it may be refused, and it says nothing of the state it will meet. Accepted, it becomes a
//! [`crate::change::Change`]. Ids of new elements are chosen before (by the client, or by the node that takes the
//! operation), so that an operation validated twice means the same.

use std::sync::Arc;

use crate::directory::Role;
use crate::execution::ExecutionState;
use crate::plan::{EdgeMetadata, NodeMetadata, PlanNodeType, Position};
use crate::{ClientId, EdgeId, OperationId, PlanNodeId, Revision, RunId, Timestamp, UserId};

/// A wish to change a plan: all of its edits happen, as one change, or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Makes a repeat recognisable.
    pub id: OperationId,
    /// Who asks.
    pub user_id: UserId,
    /// Through which program.
    pub client_id: ClientId,
    /// When the node took it.
    pub at: Timestamp,
    /// With it, elements that changed after this revision are a conflict; without it the last writer wins.
    pub expected_revision: Option<Revision>,
    /// What to do, in order.
    pub edits: Vec<Edit>,
}

impl Operation {
    /// What somebody who asks for it must be at least. Of executions a viewer may tell, if the token says so.
    #[must_use]
    pub fn needs(&self) -> Role {
        let is_report = self.edits.iter().all(|edit| matches!(edit, Edit::ReportExecution(_)));
        if is_report { Role::Viewer } else { Role::Editor }
    }
}

/// One step of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Add a plan node.
    AddNode(NewNode),
    /// Change fields of a plan node; absent ones stay.
    UpdateNode {
        /// Which one.
        id: PlanNodeId,
        /// The new values.
        update: NodeUpdate,
    },
    /// Delete a plan node and its edges.
    DeleteNode {
        /// Which one.
        id: PlanNodeId,
    },
    /// Add an edge.
    AddEdge(NewEdge),
    /// Change an edge's metadata.
    UpdateEdge {
        /// Which one.
        id: EdgeId,
        /// The new metadata; absent: nothing changes.
        metadata: Option<EdgeMetadata>,
    },
    /// Delete an edge.
    DeleteEdge {
        /// Which one.
        id: EdgeId,
    },
    /// Change what the plan says of itself.
    UpdateMetadata {
        /// The new name; `Some(None)` takes it away.
        name: Option<Option<String>>,
        /// The new description; `Some(None)` takes it away.
        description: Option<Option<String>>,
    },
    /// Put another document in this one's place. Elements that stay keep their age, and their execution unless their type changes.
    Replace(NewDocument),
    /// Tell how far an execution is.
    ReportExecution(ExecutionReport),
}

/// A plan node to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNode {
    /// Its id, already chosen.
    pub id: PlanNodeId,
    /// What it does.
    pub node_type: PlanNodeType,
    /// Where it is drawn.
    pub position: Position,
    /// Its label and description.
    pub metadata: NodeMetadata,
    /// Its settings.
    pub config: Arc<str>,
}

/// New values for a plan node; absent ones stay.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeUpdate {
    /// Where it is drawn.
    pub position: Option<Position>,
    /// The side its outgoing edges leave from.
    pub source_position: Option<String>,
    /// The side its incoming edges arrive at.
    pub target_position: Option<String>,
    /// Its label and description.
    pub metadata: Option<NodeMetadata>,
    /// Its settings.
    pub config: Option<Arc<str>>,
}

/// An edge to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEdge {
    /// Its id, already chosen.
    pub id: EdgeId,
    /// The plan node it comes from.
    pub source: PlanNodeId,
    /// The plan node it goes to.
    pub target: PlanNodeId,
    /// Its label and what it carries.
    pub metadata: EdgeMetadata,
}

/// A document to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDocument {
    /// The plan nodes, in order.
    pub nodes: Vec<NewNode>,
    /// The edges, in order.
    pub edges: Vec<NewEdge>,
    /// The plan's name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The user who made it; absent: as it was.
    pub author: Option<String>,
    /// When it was made; absent: as it was.
    pub created: Option<String>,
}

/// How far an execution is.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionReport {
    /// The plan node that runs.
    pub id: PlanNodeId,
    /// Which run.
    pub run_id: RunId,
    /// The step it is at.
    pub state: ExecutionState,
    /// Why it failed.
    pub message: Option<String>,
    /// What is known of the data source; absent fields stay.
    pub datasource: Option<DataSourceReport>,
    /// What is known of the graph; absent fields stay.
    pub graph: Option<GraphReport>,
}

/// What an executor tells of a data source.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataSourceReport {
    /// The data source, in the executor's numbering.
    pub data_source_id: Option<i32>,
    /// The file it was read from.
    pub filename: Option<String>,
    /// The executor's own word for how it stands.
    pub status: Option<String>,
    /// When it was read, RFC 3339.
    pub processed_at: Option<String>,
}

/// What an executor tells of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GraphReport {
    /// The graph, in the executor's numbering.
    pub graph_id: Option<i32>,
    /// How many vertices it has.
    pub node_count: Option<i32>,
    /// How many edges it has.
    pub edge_count: Option<i32>,
    /// When it was computed, RFC 3339.
    pub computed_date: Option<String>,
}
