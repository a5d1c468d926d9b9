//! A plan: its document, and for each element the change that touched it last.
//!
//! A plan only changes by applying changes in the order of its log ([`Plan::apply`]); what becomes a change is decided by
//! [`Plan::accept`]. A copy of a plan costs the same however large it is, and a reader who holds one neither stops the writer
//! nor makes it copy the plan: what both have is shared, and only what a change touches is copied (`elements`).
//!
//! Invariant: the edges form no cycle, at every revision. It holds because every change was accepted on the very state
//! it is applied to; the commit sees to that.

mod accept;
mod apply;
mod elements;
mod graph;
mod paths;
mod readmit;
mod rules;
pub(crate) mod size;
mod state;

use std::sync::Arc;

use mille_shared::execution::ExecutionState;
use mille_shared::log::Head;
use mille_shared::plan::{PlanDocument, PlanEdge, PlanMetadata, PlanNode};
use mille_shared::{EdgeId, PlanNodeId, Revision, RunId, Timestamp, limits};
use serde::{Deserialize, Serialize};

pub use apply::ApplyError;
use elements::Elements;
use graph::Graph;
pub use rules::{Findings, check_document};
pub use state::MalformedState;

/// A plan at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    head: Head,
    /// `seq` of the first change of the head's epoch. Unknown in a plan from a snapshot of before it was noted, until the
    /// next epoch.
    epoch_began: Option<u64>,
    nodes: Elements<PlanNodeId, NodeRecord>,
    edges: Elements<EdgeId, EdgeRecord>,
    /// The edges by their ends, for the rules.
    graph: Graph,
    /// Of all texts.
    bytes: usize,
    metadata: Arc<PlanMetadata>,
    metadata_revision: Revision,
    last_modified: Timestamp,
}

/// A plan node and its history, as far as it matters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The plan node.
    pub node: PlanNode,
    /// The change that touched it last.
    pub revision: Revision,
    /// Its runs and how far each came, the latest last; at most [`limits::RUNS_REMEMBERED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<(RunId, ExecutionState)>,
}

/// An edge and its history, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRecord {
    /// The edge.
    pub edge: PlanEdge,
    /// The change that touched it last.
    pub revision: Revision,
}

/// How large a plan and its parts may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanBounds {
    /// Plan nodes in a plan.
    pub nodes_max: usize,
    /// Edges in a plan.
    pub edges_max: usize,
    /// Bytes of a plan node's config.
    pub config_bytes_max: usize,
    /// Bytes of one element's metadata.
    pub metadata_bytes_max: usize,
    /// Bytes of all texts of a plan.
    pub plan_bytes_max: usize,
    /// |x| and |y| of a plan node.
    pub coordinate_abs_max: f64,
    /// Edits of one operation.
    pub changes_max: usize,
}

impl Default for PlanBounds {
    fn default() -> Self {
        Self {
            nodes_max: limits::PLAN_NODES_MAX,
            edges_max: limits::PLAN_EDGES_MAX,
            config_bytes_max: limits::CONFIG_BYTES_MAX,
            metadata_bytes_max: limits::METADATA_BYTES_MAX,
            plan_bytes_max: limits::PLAN_BYTES_MAX,
            coordinate_abs_max: limits::COORDINATE_ABS_MAX,
            changes_max: limits::CHANGES_PER_REQUEST_MAX,
        }
    }
}

impl Plan {
    /// The place of the change that made it what it is, and the hash of its whole history.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The place of the change that made it what it is.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// When it last changed.
    #[must_use]
    pub fn last_modified(&self) -> Timestamp {
        self.last_modified
    }

    /// The plan nodes, in the order they were added.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<NodeRecord>> {
        self.nodes.values()
    }

    /// The edges, in the order they were added.
    pub fn edges(&self) -> impl ExactSizeIterator<Item = &Arc<EdgeRecord>> {
        self.edges.values()
    }

    /// A plan node by id.
    #[must_use]
    pub fn node(&self, id: &PlanNodeId) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(id)
    }

    /// An edge by id.
    #[must_use]
    pub fn edge(&self, id: &EdgeId) -> Option<&Arc<EdgeRecord>> {
        self.edges.get(id)
    }

    /// What the plan says of itself.
    #[must_use]
    pub fn metadata(&self) -> &PlanMetadata {
        &self.metadata
    }

    /// The document clients hold at this revision.
    #[must_use]
    pub fn document(&self) -> PlanDocument {
        PlanDocument {
            nodes: self.nodes.values().map(|record| record.node.clone()).collect(),
            edges: self.edges.values().map(|record| record.edge.clone()).collect(),
            metadata: PlanMetadata::clone(&self.metadata),
        }
    }

    /// The edges that begin or end at a plan node, in the order they were added.
    fn edges_at(&self, id: &PlanNodeId) -> Vec<&Arc<EdgeRecord>> {
        let found = self.graph.edges_at(id).filter_map(|edge| self.edges.get_full(edge));
        let mut edges: Vec<_> = found.collect();
        edges.sort_unstable_by_key(|(place, _)| *place);
        edges.into_iter().map(|(_, record)| record).collect()
    }
}
