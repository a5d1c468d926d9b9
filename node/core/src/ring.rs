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

#[cfg(test)]
mod tests {
    use mille_shared::change::Change;
    use mille_shared::log::{ChainHash, Head};
    use mille_shared::{ClientId, OperationId, Timestamp, UserId};

    use super::*;

    fn change(seq: u64, payload_bytes: usize) -> Arc<Applied> {
        let place = |seq| Revision { epoch: 1, seq };
        Arc::new(Applied {
            head: Head { revision: place(seq), hash: ChainHash::ROOT },
            previous: place(seq - 1),
            change: Change {
                operation_id: OperationId::new(seq.to_string()),
                user_id: UserId::new("ada"),
                client_id: ClientId::none(),
                at: Timestamp::from_unix_ms(0),
                facts: Vec::new(),
            },
            payload: "x".repeat(payload_bytes).into(),
            patch: Vec::new(),
            touches: Vec::new(),
        })
    }

    fn ring(seqs: impl IntoIterator<Item = u64>) -> Ring {
        let mut ring = Ring::default();
        seqs.into_iter().for_each(|seq| ring.push(change(seq, 10)));
        ring
    }

    fn seqs(changes: Option<Vec<Arc<Applied>>>) -> Option<Vec<u64>> {
        changes.map(|changes| changes.iter().map(|applied| applied.revision().seq).collect())
    }

    #[test]
    fn it_gives_all_changes_after_a_place_or_none() {
        let ring = ring(5..=8);
        let since = |epoch, seq| seqs(ring.since(Revision { epoch, seq }));
        assert_eq!(since(1, 3), None, "4 is missing");
        assert_eq!(since(1, 4), Some(vec![5, 6, 7, 8]));
        assert_eq!(since(1, 7), Some(vec![8]));
        assert_eq!(since(1, 8), Some(vec![]));
        assert_eq!(since(1, 9), None, "that is ahead of us");
        assert_eq!(since(2, 5), None, "that is another epoch");
    }

    #[test]
    fn a_change_that_does_not_follow_begins_it_anew() {
        let ring = ring([1, 2, 5]);
        assert!(ring.at(Revision { epoch: 1, seq: 2 }).is_none());
        assert!(ring.find(&key_of(&change(2, 0))).is_none());
        assert_eq!(ring.find(&key_of(&change(5, 0))), Some(Revision { epoch: 1, seq: 5 }));
    }

    #[test]
    fn the_oldest_go_first_and_are_forgotten_whole() {
        let last = limits::RING_CHANGES_MAX as u64 + 3;
        let ring = ring(1..=last);
        assert_eq!(ring.changes.len(), limits::RING_CHANGES_MAX);
        assert_eq!(ring.operations.len(), limits::RING_CHANGES_MAX);
        assert!(ring.at(Revision { epoch: 1, seq: 3 }).is_none());
        assert!(ring.at(Revision { epoch: 1, seq: 4 }).is_some());
    }

    #[test]
    fn bytes_count_as_well_but_the_newest_always_stays() {
        let mut ring = ring(1..=3);
        ring.push(change(4, limits::RING_BYTES_MAX));
        assert_eq!(ring.changes.len(), 1);
        ring.push(change(5, 10));
        assert_eq!(ring.changes.len(), 1);
        assert_eq!(ring.bytes, change(5, 10).weight_bytes());
    }
}
