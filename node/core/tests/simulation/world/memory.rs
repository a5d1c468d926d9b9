//! What nodes remember of the past, and what of it they forget.
//!
//! In every other pair of worlds nodes forget as soon as they may. There the log loses nothing that it had for long, and does not
//! vanish whole: if a node that is far behind puts it back, the others can't give what they forgot.

use mille_core::replica::Allowance;
use mille_shared::log::Head;

use super::{Event, HEAD_CHECK_EVERY, Node, World};

/// How long a round lasts, after which a node forgets.
const ROUND: u64 = 5 * HEAD_CHECK_EVERY / 2;
/// What was in the log for so long is not lost where nodes forget. They remember it for three rounds, less the time that the answer
/// of a check takes.
const KEPT_AFTER: u64 = 2 * ROUND;

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
        }
        if self.has_more_to_come() {
            self.after(ROUND, ROUND + 1, Event::Round(node));
        }
    }

    /// Whether a node should be able to give the change at a place back: it remembers it, or applied it and had no cause to
    /// forget it.
    pub(super) fn should_know(&self, node: usize, place: Head) -> bool {
        let Node { life, replica: Some(replica), .. } = &self.nodes[node] else { return false };
        let has_applied = self.applied_by.get(&place).is_some_and(|lives| lives.contains(&(node, *life)));
        replica.recent(place.revision).is_some_and(|applied| applied.head == place)
            || (has_applied && self.log.led_to(place, replica.plan().head()))
    }
}
