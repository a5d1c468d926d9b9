//! The recent changes of a plan, kept in memory.
//!
//! Serves resumes and repeated operations without asking the log. Bounded in changes and bytes; the oldest go first, and
//! whoever needs them reads the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mille_shared::log::OperationKey;
use mille_shared::{Revision, limits};

use crate::applied::Applied;

/// Changes without a hole between them, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    changes: VecDeque<Arc<Applied>>,
    bytes: usize,
    operations: HashMap<OperationKey, Revision>,
}

impl Ring {
    /// Takes the change that follows the newest. Any other begins the ring anew.
    pub(crate) fn push(&mut self, applied: Arc<Applied>) {
        if self.changes.back().is_some_and(|newest| newest.revision() != applied.previous) {
            self.clear();
        }
        self.bytes += applied.weight_bytes();
        self.operations.insert(key_of(&applied), applied.revision());
        self.changes.push_back(applied);
        while self.changes.len() > limits::RING_CHANGES_MAX
            || (self.bytes > limits::RING_BYTES_MAX && self.changes.len() > 1)
        {
            self.drop_oldest();
        }
    }

    /// Forgets everything: the history is another one now.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The changes after a revision, if all of them are here.
    pub(crate) fn since(&self, after: Revision) -> Option<Vec<Arc<Applied>>> {
        let newest = self.changes.back()?.revision();
        if after == newest {
            return Some(Vec::new());
        }
        let from = self.index_of(after.next())?;
        Some(self.changes.range(from..).cloned().collect())
    }

    /// The change with this revision.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Arc<Applied>> {
        self.changes.get(self.index_of(revision)?)
    }

    /// Where an operation stands, if it is recent.
    pub(crate) fn find(&self, key: &OperationKey) -> Option<Revision> {
        self.operations.get(key).copied()
    }

    /// The ring is dense, so a revision's index is its distance from the oldest.
    fn index_of(&self, revision: Revision) -> Option<usize> {
        let oldest = self.changes.front()?.revision();
        if revision.epoch != oldest.epoch {
            return None;
        }
        let index = usize::try_from(revision.seq.checked_sub(oldest.seq)?).ok()?;
        (index < self.changes.len()).then_some(index)
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.changes.pop_front() {
            self.bytes -= oldest.weight_bytes();
            self.operations.remove(&key_of(&oldest));
        }
    }
}

fn key_of(applied: &Applied) -> OperationKey {
    let change = &applied.change;
    OperationKey::of(&change.user_id, &change.client_id, &change.operation_id)
}
