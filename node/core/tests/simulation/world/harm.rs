//! What is done to the cluster: nodes are cut off and die, listeners move, the store restarts and forgets.

use mille_core::replica::{Cause, Input};
use mille_shared::log::Head;

use super::{Event, HEAD_CHECK_EVERY, LISTENERS, NODES, World};
use crate::faults::Faults;

impl World {
    pub(super) fn do_harm(&mut self) {
        if self.is_calm() {
            return;
        }
        self.after(50, 300, Event::Nemesis);
        let node = self.rng.index(NODES);
        let Faults { nemesis, restarts, rollbacks, vanishes, .. } = self.faults;
        match self.rng.within(0, 8) {
            0 if nemesis => {
                let length = self.rng.within(20, 1_200);
                self.nodes[node].cut_until = self.now + length;
                if self.rng.percent(60) {
                    let back = Input::Interrupted(Cause::Reconnect);
                    self.after(length, length + 10, Event::Input((node, self.nodes[node].life), back));
                }
            }
            1 if nemesis => self.input((node, self.nodes[node].life), Input::Interrupted(Cause::Lagged)),
            2 if nemesis => self.restart(node),
            3 if nemesis => {
                let index = self.rng.index(LISTENERS);
                self.listeners[index].node = None;
                self.after(5, 400, Event::Attach(index));
            }
            // A life in which nobody had the time to look around proves nothing.
            4 if restarts && (nemesis || self.now > self.reborn_at + 10 * HEAD_CHECK_EVERY) => self.rebirth(),
            5 if rollbacks => {
                if !self.rng.percent(self.faults.silent) {
                    self.rebirth();
                }
                let count = self.rng.index(6);
                let lost = self.log.lose_end(count, self.is_kept_before());
                self.testify(lost);
            }
            6 if vanishes && !self.forgets && self.rng.percent(30) => {
                self.rebirth();
                let lost = self.log.vanish();
                self.testify(lost);
            }
            _ => {}
        }
    }

    /// The store begins a new life: every connection is made anew.
    fn rebirth(&mut self) {
        self.seen.rebirths += 1;
        self.reborn_at = self.now;
        self.log.be_reborn();
        for node in 0..NODES {
            let back = Input::Interrupted(Cause::Reconnect);
            self.after(1, 120, Event::Input((node, self.nodes[node].life), back));
        }
    }

    /// Notes who had applied what was lost.
    fn testify(&mut self, lost: Vec<Head>) {
        self.seen.rollbacks += u64::from(!lost.is_empty());
        for head in lost {
            let witnesses = (0..NODES).filter(|node| self.should_know(*node, head));
            self.witnesses.insert(head, witnesses.map(|node| (node, self.nodes[node].life)).collect());
        }
    }

    fn restart(&mut self, node: usize) {
        self.seen.restarts += 1;
        self.nodes[node].life += 1;
        self.nodes[node].replica = None;
        self.nodes[node].heard.clear();
        for index in 0..LISTENERS {
            if self.listeners[index].node == Some(node) {
                self.listeners[index].node = None;
                self.after(5, 100, Event::Attach(index));
            }
        }
        self.open(node);
    }
}
