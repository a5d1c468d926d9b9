//! What must be true once everything was delivered or lost, and heads were compared.

use mille_shared::log::Head;

use super::{Life, World};
use crate::people::json;

impl World {
    /// Everything was delivered or lost, and heads were compared: everyone is where the log is.
    pub(super) fn check_the_end(&mut self) {
        let truth = self.log.plan();
        let document = json(truth);
        for (index, node) in self.nodes.iter().enumerate() {
            let replica = node.replica.as_ref().expect("open");
            assert!(!replica.is_repairing() && !replica.is_busy(), "node {index} has come to rest");
            assert_eq!(**replica.plan(), *truth, "node {index} has the log's plan");
            assert_eq!(json(replica.plan()), document, "node {index} has it in the log's order");
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            assert!(listener.node.is_some(), "listener {index} found a node");
            assert_eq!(listener.at.revision, truth.revision(), "listener {index} is at the log's head");
            match listener.misled {
                None => assert_eq!(listener.document, document, "listener {index} has the log's document"),
                Some(at) => assert!(!self.has_witness(at), "listener {index} was misled at {at:?} and never told"),
            }
        }
        let history = self.log.history();
        let missing: Vec<_> = self.accepted.keys().filter(|key| !history.contains(key)).cloned().collect();
        for key in missing.iter().filter(|key| !self.excused.contains(*key)) {
            let mut places = self.log.lost.iter().filter(|(_, lost)| *lost == key).map(|(place, _)| *place);
            assert!(places.all(|place| !self.has_witness(place)), "acknowledged and missing: {key:?}");
            self.seen.forgotten += 1;
        }
        assert!(self.was_rolled_back() || missing.is_empty(), "acknowledged and missing: {missing:?}");
    }

    /// Whether a node lives that had applied the change at a place that was lost.
    fn has_witness(&self, place: Head) -> bool {
        let lives = |(node, life): &Life| self.nodes[*node].life == *life;
        self.witnesses.get(&place).is_some_and(|witnesses| witnesses.iter().any(lives))
    }
}
