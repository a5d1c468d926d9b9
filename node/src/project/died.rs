//! Nodes that died lately. A project that begins must be told of them: the tables of their people may still be in the store.

use std::time::Duration;

use mille_shared::NodeId;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Nodes that died within the time that a table outlives its node.
pub(super) struct DiedLately {
    kept_for: Duration,
    /// Each until then. As many as die in that time.
    nodes: Mutex<Vec<(Instant, NodeId)>>,
}

impl DiedLately {
    /// None yet. `kept_for`: how long a table outlives its node.
    pub(super) fn new(kept_for: Duration) -> Self {
        Self { kept_for, nodes: Mutex::default() }
    }

    /// Some died.
    pub(super) fn note(&self, died: &[NodeId]) {
        let until = Instant::now() + self.kept_for;
        self.recent().extend(died.iter().map(|node| (until, node.clone())));
    }

    /// Some only seemed to have died.
    pub(super) fn forget(&self, back: &[NodeId]) {
        self.recent().retain(|(_, node)| !back.contains(node));
    }

    /// Those whose tables may still be there.
    pub(super) fn list(&self) -> Vec<NodeId> {
        self.recent().iter().map(|(_, node)| node.clone()).collect()
    }

    fn recent(&self) -> MutexGuard<'_, Vec<(Instant, NodeId)>> {
        let mut nodes = self.nodes.lock();
        let now = Instant::now();
        nodes.retain(|(until, _)| now < *until);
        nodes
    }
}
