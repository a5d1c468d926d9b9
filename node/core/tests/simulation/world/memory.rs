//! What nodes remember of the past, and what of it they forget.
//!
//! In every other pair of worlds nodes forget as soon as they may. There the log loses nothing that it had for long, and does not
//! vanish whole: if a node that is far behind puts it back, the others can't give what they forgot.

use mille_core::replica::Allowance;
use mille_shared::log::Head;

use super::{Event, HEAD_CHECK_EVERY, Life, Node, World};

/// How long a round lasts, after which a node forgets.
const ROUND: u64 = 5 * HEAD_CHECK_EVERY / 2;
/// How long a node remembers at least what it applied, from when that was added: three rounds lie between the first check of four
/// that must have seen it and the end of the last.
const REMEMBERED_FOR: u64 = 3 * ROUND;
/// What was in the log for so long is not lost where nodes forget. Until a node learns of a loss, a round may pass, and the time
/// that the answer of a check takes.
const KEPT_AFTER: u64 = 2 * ROUND - 20;

impl World {
    /// Since when a change must be in the log for that to be sure, if anything is.
    pub(super) fn is_kept_before(&self) -> u64 {
        if self.forgets { self.now.saturating_sub(KEPT_AFTER) } else { 0 }
    }

    pub(super) fn begin_rounds(&mut self, node: usize) {
        if self.forgets {
            self.after(0, ROUND, Event::Round(node));
        }
    }

    pub(super) fn end_round(&mut self, node: usize) {
        if let Some(replica) = &mut self.nodes[node].replica {
            let before = replica.remembered_bytes();
            replica.end_round(Some(Allowance { bytes_max: 0, changes_min: 1 }));
            self.seen.forgetting += u64::from(replica.remembered_bytes() < before);
            self.check_memory(node);
        }
        if self.has_more_to_come() {
            self.after(ROUND, ROUND + 1, Event::Round(node));
        }
    }

    /// A node read the plan anew: what it applied before is none of its memories.
    pub(super) fn read_anew(&mut self, life: Life) {
        for lives in self.applied_by.values_mut() {
            lives.remove(&life);
        }
    }

    /// Whether a node should be able to give the change at a place back: it remembers it, or applied it and had no cause to
    /// forget it.
    pub(super) fn should_know(&self, node: usize, place: Head) -> bool {
        remembers(&self.nodes[node], place) || self.has_applied(node, place)
    }

    /// Each node remembers what is not long in the log, whoever else does.
    fn check_memory(&self, node: usize) {
        let since = self.now.saturating_sub(REMEMBERED_FOR);
        for place in self.log.added_since(since).filter(|place| self.has_applied(node, *place)) {
            assert!(remembers(&self.nodes[node], place), "node {node} forgot {place:?} too early");
        }
    }

    fn has_applied(&self, node: usize, place: Head) -> bool {
        let Node { life, replica: Some(replica), .. } = &self.nodes[node] else { return false };
        let has_applied = self.applied_by.get(&place).is_some_and(|lives| lives.contains(&(node, *life)));
        has_applied && self.log.led_to(place, replica.plan().head())
    }
}

fn remembers(node: &Node, place: Head) -> bool {
    let recent = node.replica.as_ref().and_then(|replica| replica.recent(place.revision));
    recent.is_some_and(|applied| applied.head == place)
}
