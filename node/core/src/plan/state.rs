//! A plan as a text that the store keeps: the snapshot's payload.
//!
//! Unlike the document it holds revisions and runs, so that a plan opened from it accepts and refuses exactly what the
//! plan it was written from would.

use std::sync::Arc;

use mille_shared::log::{Head, StoredSnapshot};
use mille_shared::plan::PlanMetadata;
use mille_shared::{Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::graph::Graph;
use super::{EdgeRecord, NodeRecord, Plan};

/// The stored text is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("a stored plan can't be read")]
pub struct MalformedState(#[from] serde_json::Error);

/// The fields of the stored text. They may be added to with a default, never renamed.
#[derive(Serialize, Deserialize)]
struct State<N, E, M = PlanMetadata> {
    nodes: Vec<N>,
    edges: Vec<E>,
    metadata: M,
    metadata_revision: Revision,
    last_modified: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch_began: Option<u64>,
}

impl Plan {
    /// The plan as the store keeps it.
    ///
    /// # Panics
    /// Never: every value of a plan can be written as JSON, its numbers being finite by the rules.
    #[must_use]
    pub fn to_snapshot(&self) -> StoredSnapshot {
        let state = State {
            nodes: self.nodes.values().collect(),
            edges: self.edges.values().collect(),
            metadata: &*self.metadata,
            metadata_revision: self.metadata_revision,
            last_modified: self.last_modified,
            epoch_began: self.epoch_began,
        };
        #[expect(clippy::expect_used, reason = "only a bug can bring a plan that is no JSON")]
        let payload = serde_json::to_string(&state).expect("a plan is JSON");
        StoredSnapshot { head: self.head, payload: payload.into() }
    }

    /// The plan that a stored text holds.
    ///
    /// # Errors
    /// [`MalformedState`] if the text is none of ours.
    pub fn from_snapshot(head: Head, payload: &str) -> Result<Self, MalformedState> {
        let State { nodes, edges, metadata, metadata_revision, last_modified, epoch_began } =
            serde_json::from_str::<State<NodeRecord, EdgeRecord>>(payload)?;
        let mut plan = Self {
            head,
            epoch_began,
            nodes: nodes.into_iter().map(|record| (record.node.id.clone(), Arc::new(record))).collect(),
            edges: edges.into_iter().map(|record| (record.edge.id.clone(), Arc::new(record))).collect(),
            graph: Graph::default(),
            bytes: 0,
            metadata: Arc::new(metadata),
            metadata_revision,
            last_modified,
        };
        plan.graph = plan.drawn_graph();
        plan.bytes = plan.count_bytes();
        Ok(plan)
    }

    /// Its graph, made anew.
    pub(super) fn drawn_graph(&self) -> Graph {
        let mut graph = Graph::default();
        self.nodes.values().for_each(|record| graph.add_node(&record.node.id, record.node.node_type));
        self.edges.values().for_each(|record| graph.add((&record.edge).into()));
        graph
    }
}
