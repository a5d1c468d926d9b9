//! A change after it was applied: everything any listener may want to know of it.
//!
//! Made once per change and node, then shared: the delta for those who patch documents, the touched elements for those
//! who want typed events. A replayed change and a live one give equal values.

use std::sync::Arc;

use mille_shared::change::Change;
use mille_shared::delta::PatchOperation;
use mille_shared::execution::ExecutionState;
use mille_shared::log::{Head, LogEntry, OperationKey};
use mille_shared::plan::PlanMetadata;
use mille_shared::{Revision, RunId};

use crate::plan::{EdgeRecord, NodeRecord, size};

/// A change that is part of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its place in the log, and the hash of the history up to it.
    pub head: Head,
    /// The place before it.
    pub previous: Revision,
    /// Who did what when.
    pub change: Change,
    /// The change as its entry's text.
    pub payload: Arc<str>,
    /// The change as a JSON Patch on the document before it.
    pub patch: Vec<PatchOperation>,
    /// The elements it touched, as they are after it; what was removed, as it was before.
    pub touches: Vec<Touch>,
}

impl Applied {
    /// Its place in the log.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The name under which the log remembers its operation.
    #[must_use]
    pub fn operation_key(&self) -> OperationKey {
        OperationKey::of(&self.change.user_id, &self.change.client_id, &self.change.operation_id)
    }

    /// Its log entry.
    #[must_use]
    pub fn entry(&self) -> LogEntry {
        LogEntry { revision: self.head.revision, hash: self.head.hash, payload: Arc::clone(&self.payload) }
    }

    /// Roughly how many bytes of memory it holds, for bounds: what is in the payload is in the change, the patch and the
    /// touched element too. 1.9 kB for a move.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        1_024 + self.payload.len() * 4 + self.touches.iter().map(size::of_touch).sum::<usize>()
    }
}

/// What happened to one element.
#[derive(Debug, Clone, PartialEq)]
pub enum Touch {
    /// A plan node was added.
    NodeAdded(Arc<NodeRecord>),
    /// A plan node has new values.
    NodeUpdated(Arc<NodeRecord>),
    /// A plan node was deleted.
    NodeRemoved(Arc<NodeRecord>),
    /// An edge was added.
    EdgeAdded(Arc<EdgeRecord>),
    /// An edge has new metadata.
    EdgeUpdated(Arc<EdgeRecord>),
    /// An edge was deleted.
    EdgeRemoved(Arc<EdgeRecord>),
    /// The plan says something else of itself.
    MetadataUpdated(PlanMetadata),
    /// An execution went a step further.
    ExecutionChanged {
        /// The plan node that runs.
        record: Arc<NodeRecord>,
        /// Which run.
        run_id: RunId,
        /// The step it is at.
        state: ExecutionState,
    },
}
