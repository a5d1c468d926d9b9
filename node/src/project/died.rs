//! Nodes that died lately. A project that begins must be told of them: the tables of their people may still be in the store.

use std::time::Duration;

use mille_shared::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Nodes that died within the time that a table outlives its node.
pub(super) struct DiedLately {
    kept_for: Duration,
    /// With when that was heard. As many as die in that time.
    nodes: Mutex<Vec<(Instant, NodeId)>>,
}

impl DiedLately {
    /// None yet. `kept_for`: how long a table outlives its node.
    pub(super) fn new(kept_for: Duration) -> Self {
        Self { kept_for, nodes: Mutex::default() }
    }

    /// Some died.
    pub(super) fn note(&self, nodes: &[NodeId]) {
        let now = Instant::now();
        let mut known = self.nodes.lock();
        known.retain(|(at, _)| now < *at + self.kept_for);
        known.extend(nodes.iter().map(|node| (now, node.clone())));
    }

    /// Some only seemed to have died.
    pub(super) fn forget(&self, nodes: &[NodeId]) {
        self.nodes.lock().retain(|(_, node)| !nodes.contains(node));
    }

    /// Those whose tables may still be there.
    pub(super) fn list(&self) -> Vec<NodeId> {
        let now = Instant::now();
        let known = self.nodes.lock();
        known.iter().filter(|(at, _)| now < *at + self.kept_for).map(|(_, node)| node.clone()).collect()
    }
}
