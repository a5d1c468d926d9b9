//! From one life of the machine to the next, on the same node.
//!
//! A project's actor may begin anew: because it is old, or because something in it failed. Its sockets stay, so what is
//! known of people must too, else everyone would see everyone leave and come. What is carried over is facts: who is
//! known, who left lately, what other nodes said of themselves. Whatever follows from facts (indexes, encoded frames,
//! timers) is made anew, and so is whatever a failure may have left half done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mille_shared::presence::{DocumentId, Status, Version};
use mille_shared::{ConnectionId, NodeId, ProjectId, UserId};

use super::cursors::Cursors;
use super::effects::{Effect, Moment, SeatId};
use super::repair::Peers;
use super::roster::{Entry, Hold};
use super::{Presence, Settings, Timer};

/// What a life of the machine leaves to the next.
#[derive(Debug)]
pub struct Kept {
    entries: Vec<Entry>,
    buried: BTreeMap<ConnectionId, (Version, Duration)>,
    peers: Peers,
    unsent_lists: BTreeSet<DocumentId>,
    untold: Vec<UserId>,
    cursors: Cursors,
    stamp: u64,
}

impl Presence {
    /// What the next life needs. Can be asked after a failure: it only reads what is never half written.
    #[must_use]
    pub fn keep(&self) -> Kept {
        Kept {
            entries: self.roster.entries().cloned().collect(),
            buried: self.buried.clone(),
            peers: self.peers.carried(),
            unsent_lists: self.lists.unsent().clone(),
            untold: self.later.waiting().cloned().collect(),
            cursors: self.cursors.clone(),
            stamp: self.stamp,
        }
    }

    /// Goes on from an earlier life on the same clock. Nobody is told anything by it. The store is read and written again,
    /// since the earlier life may have failed between a change and its effects.
    #[must_use]
    pub fn reopen(
        now: Moment,
        project: ProjectId,
        node: NodeId,
        settings: Settings,
        kept: Kept,
    ) -> (Self, Vec<Effect>) {
        let mut presence = Self::new(now, project, node, settings);
        presence.peers = kept.peers;
        // The clock may have been set back.
        presence.stamp = presence.stamp.max(kept.stamp);
        presence.cursors = kept.cursors;
        kept.unsent_lists.iter().for_each(|document| presence.lists.mark(document));
        kept.untold.iter().for_each(|user| presence.later.wait(user));
        for entry in kept.entries {
            presence.put_back(entry);
        }
        for (connection, (last, until)) in kept.buried {
            presence.timers.insert((until, Timer::Forget(connection.clone())));
            presence.buried.insert(connection, (last, until));
        }
        let mut effects = presence.store_all();
        effects.extend(presence.interrupted(now));
        (presence, effects)
    }

    /// The whole picture again for everyone here: a failure may have swallowed some of it.
    pub fn refresh_all(&mut self, now: Moment) -> Vec<Effect> {
        let seats: Vec<SeatId> = self.roster.seats().collect();
        self.show_everything(seats);
        for entry in self.roster.entries() {
            if let Some(place) = &entry.record.place {
                self.cursors.mark(now, &place.document, &entry.record.connection);
            }
        }
        self.effects()
    }

    /// The seats that somebody sits on.
    pub fn seats(&self) -> impl Iterator<Item = SeatId> {
        self.roster.seats()
    }

    fn put_back(&mut self, mut entry: Entry) {
        let connection = entry.record.connection.clone();
        if let Hold::Grace { until } | Hold::Orphan { until } = entry.hold {
            self.timers.insert((until, Timer::Grace(connection.clone())));
        }
        let may_idle = matches!(entry.hold, Hold::Seated(_)) && entry.record.status == Status::Active;
        entry.idle_armed = may_idle && !entry.record.chosen;
        if entry.idle_armed {
            let idle_at = entry.active_at + self.settings.idle_after;
            self.timers.insert((idle_at, Timer::Idle(connection.clone())));
        }
        self.roster.put(entry);
    }
}
