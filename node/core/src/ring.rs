//! The recent changes of a plan, kept in memory.
//!
//! Serves resumes and repeated operations without asking the log, and is what a log that lost its end is mended from.
//! Bounded in changes and bytes; the oldest go first, and whoever needs them reads the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mille_shared::log::{ChainHash, Head, OperationKey};
use mille_shared::{Revision, limits};

use crate::applied::Applied;

/// Changes that say how large the next ones will be.
const NEWEST: usize = 16;

/// How much a copy keeps of what it may forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes of all its changes.
    pub bytes_max: usize,
    /// Changes that it keeps even if they have more. The newest always stays.
    pub changes_min: usize,
}

/// Changes without a hole between them, the newest last. Their numbers are dense; their epochs may differ.
#[derive(Debug)]
pub(crate) struct Ring {
    /// What stands before the oldest.
    base: Head,
    changes: VecDeque<Arc<Applied>>,
    bytes: usize,
    operations: HashMap<OperationKey, Revision>,
}

impl Ring {
    /// An empty ring of what will follow `base`.
    pub(crate) fn after(base: Head) -> Self {
        Self { base, changes: VecDeque::new(), bytes: 0, operations: HashMap::new() }
    }

    /// Takes the change that follows the newest.
    ///
    /// # Panics
    /// If it does not follow: only a bug can bring that.
    pub(crate) fn push(&mut self, applied: Arc<Applied>) {
        let newest = self.changes.back().map_or(self.base.revision, |newest| newest.revision());
        assert_eq!(applied.previous, newest, "changes are kept in the order of the log");
        self.bytes += applied.weight_bytes();
        self.operations.insert(applied.operation_key(), applied.revision());
        self.changes.push_back(applied);
        while self.changes.len() > limits::RING_CHANGES_MAX
            || (self.bytes > limits::RING_BYTES_MAX && self.changes.len() > 1)
        {
            self.drop_oldest();
        }
    }

    /// Bytes of what is here.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the largest of the newest changes, as they stand in the log.
    pub(crate) fn newest_payload_bytes(&self) -> Option<usize> {
        self.changes.iter().rev().take(NEWEST).map(|applied| applied.payload.len()).max()
    }

    /// Lets the oldest go until there is no more than is allowed, or those after `until`.
    pub(crate) fn shrink_to(&mut self, allowed: Allowance, until: Revision) {
        while self.bytes > allowed.bytes_max
            && self.changes.len() > allowed.changes_min.max(1)
            && self.base.revision.seq < until.seq
        {
            self.drop_oldest();
        }
        // As much room as it would have by growing.
        self.changes.shrink_to(2 * self.changes.len());
        self.operations.shrink_to(2 * self.operations.len());
    }

    /// What stands before the oldest change.
    pub(crate) fn base(&self) -> Head {
        self.base
    }

    /// The changes after a revision of the newest epoch, if all of them are here.
    pub(crate) fn since(&self, after: Revision) -> Option<Vec<Arc<Applied>>> {
        let newest = self.changes.back()?.revision();
        self.hash_at(after).filter(|_| after.epoch == newest.epoch)?;
        Some(self.from(after.seq + 1).cloned().collect())
    }

    /// The changes from a number on, as far as they are here.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = &Arc<Applied>> {
        let skipped = usize::try_from(seq.saturating_sub(self.base.revision.seq + 1)).unwrap_or(usize::MAX);
        self.changes.range(skipped.min(self.changes.len())..)
    }

    /// The change with this revision.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Arc<Applied>> {
        let index = usize::try_from(revision.seq.checked_sub(self.base.revision.seq + 1)?).ok()?;
        self.changes.get(index).filter(|applied| applied.revision() == revision)
    }

    /// The hash of the history up to a place, if it is here.
    pub(crate) fn hash_at(&self, revision: Revision) -> Option<ChainHash> {
        if revision == self.base.revision {
            return Some(self.base.hash);
        }
        self.at(revision).map(|applied| applied.head.hash)
    }

    /// Where an operation stands, if it is recent.
    pub(crate) fn find(&self, key: &OperationKey) -> Option<Revision> {
        self.operations.get(key).copied()
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.changes.pop_front() {
            self.base = oldest.head;
            self.bytes -= oldest.weight_bytes();
            self.operations.remove(&oldest.operation_key());
        }
    }
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

    /// A ring of these changes.
    fn ring(seqs: std::ops::RangeInclusive<u64>) -> Ring {
        let revision = change(*seqs.start(), 0).previous;
        let mut ring = Ring::after(Head { revision, hash: ChainHash::ROOT });
        seqs.for_each(|seq| ring.push(change(seq, 10)));
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
    fn a_new_epoch_goes_on_with_the_numbers_and_answers_no_older_one() {
        let mut ring = ring(5..=7);
        let mut first = Applied::clone(&change(8, 10));
        first.head.revision.epoch = 9;
        ring.push(Arc::new(first));
        let place = |epoch, seq| Revision { epoch, seq };
        assert!(ring.at(place(9, 8)).is_some() && ring.at(place(1, 7)).is_some());
        assert!(ring.at(place(1, 8)).is_none() && ring.at(place(9, 7)).is_none());
        assert_eq!(seqs(ring.since(place(9, 8))), Some(vec![]));
        assert_eq!(seqs(ring.since(place(1, 7))), None, "that is told by a snapshot");
        assert_eq!(ring.from(7).map(|applied| applied.revision()).collect::<Vec<_>>(), [place(1, 7), place(9, 8)]);
        assert_eq!(ring.hash_at(place(1, 4)), Some(ChainHash::ROOT), "what stands before the oldest");
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
    fn it_is_made_smaller_down_to_a_few() {
        let last = limits::RING_CHANGES_MAX as u64;
        let mut ring = ring(1..=last);
        let half = ring.bytes() / 2;
        let until = |seq| Revision { epoch: 1, seq };
        let allowed = |bytes_max| Allowance { bytes_max, changes_min: 64 };
        ring.shrink_to(allowed(half), until(10));
        assert_eq!(ring.base().revision.seq, 10, "none of those that must stay");
        ring.shrink_to(allowed(half), until(last));
        assert!(ring.bytes() <= half);
        assert_eq!(ring.changes.len(), limits::RING_CHANGES_MAX / 2);
        assert_eq!(ring.operations.len(), ring.changes.len());
        assert_eq!(ring.base().revision.seq, last / 2);
        ring.shrink_to(allowed(0), until(last));
        assert_eq!(ring.changes.len(), 64);
        assert!(ring.changes.capacity() < limits::RING_CHANGES_MAX, "the room is given back as well");
        ring.push(change(last + 1, 10));
        assert_eq!(ring.changes.len(), 65);
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
