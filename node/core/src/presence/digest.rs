//! What a node says now and then of everyone it has, so that whoever missed a word finds out.
//!
//! A digest has sums, not people: over what makes each record the newest, and over when each did something last. Moves and
//! activities count in them as they were last told, else everyone who moves would look like a lost message. What was not
//! told because nobody elsewhere was there to see it, or because it alone is worth no message, is told with it.

use mille_shared::presence::{Activity, Body, Version};
use mille_shared::{ConnectionId, NodeId};

use super::effects::Moment;
use super::repair::FAREWELLS;
use super::roster::Entry;
use super::{GONE_FOR, Presence};

impl Presence {
    pub(super) fn wants_digest(&self) -> bool {
        !self.departed
            && (self.roster.len() > 0 || self.peers.watching || self.peers.farewells > 0 || self.peers.reload)
    }

    pub(super) fn digest(&mut self, now: Moment) {
        self.peers.digest_at = now.at + self.settings.digest_interval;
        self.peers.gone.retain(|_, until| *until > now.at);
        self.peers.known.retain(|_, peer| peer.heard_at + GONE_FOR > now.at);
        if self.departed {
            return;
        }
        let mut acted = Vec::new();
        if self.somebody_elsewhere(now) {
            self.tell_untold_moves();
            acted = self.take_untold_activities();
        }
        let has_something = self.roster.own() > 0 || self.peers.watching;
        if has_something || self.peers.farewells > 0 {
            self.peers.farewells = if has_something { FAREWELLS } else { self.peers.farewells - 1 };
            let Sums { connections, records, activities } = self.sums_of(&self.node);
            let (watching, active) = (self.peers.watching, Some(activities));
            self.publish(Body::Digest { connections, sum: records, watching, active, acted });
        }
        let silence = self.silence();
        let is_silent = |node: &NodeId| self.peers.known.get(node).is_none_or(|peer| peer.heard_at + silence < now.at);
        let somebody_silent = self.owners_elsewhere().iter().any(is_silent);
        if self.peers.loading.is_none() && (self.peers.reload || somebody_silent) {
            self.load(now);
        }
    }

    /// Moves are not told while nobody elsewhere is there to see them. Somebody is now.
    pub(super) fn tell_untold_moves(&mut self) {
        for entry in self.roster.entries().filter(|entry| entry.hold.is_own() && entry.told_moves < entry.record.moves)
        {
            self.cursors.mark_untold(&entry.record.connection);
        }
    }

    /// Whoever did something else than to move, and so something that was not told yet.
    fn take_untold_activities(&mut self) -> Vec<Activity> {
        let untold = |entry: &&Entry| entry.hold.is_own() && entry.told_active < entry.record.last_active;
        let acted = self.roster.entries().filter(untold).map(|Entry { record, .. }| Activity {
            connection: record.connection.clone(),
            generation: record.version.generation,
            at: record.last_active,
        });
        let acted: Vec<Activity> = acted.collect();
        for Activity { connection, at, .. } in &acted {
            if let Some(entry) = self.roster.get_mut(connection) {
                entry.told_active = *at;
            }
        }
        acted
    }

    pub(super) fn hear_acted(&mut self, from: &NodeId, acted: &Activity) {
        if let Some(Entry { record, .. }) = self.roster.get_mut(&acted.connection)
            && record.version.node == *from
            && record.version.generation == acted.generation
        {
            record.last_active = record.last_active.max(acted.at);
        }
    }

    /// The sums over a node's connections, as far as it told of them.
    pub(super) fn sums_of(&self, node: &NodeId) -> Sums {
        let mut sums = Sums { connections: 0, records: 0, activities: 0 };
        for Entry { record, hold, told_moves, told_active, .. } in self.roster.entries() {
            let Version { node: owner, generation, seq } = &record.version;
            if owner != node {
                continue;
            }
            let (moves, active) =
                if hold.is_own() { (*told_moves, *told_active) } else { (record.moves, record.last_active) };
            let active_ms = u64::try_from(active.unix_ms).unwrap_or_default();
            sums.connections += 1;
            sums.records = sums.records.wrapping_add(fingerprint(&record.connection, [*generation, *seq, moves]));
            sums.activities = sums.activities.wrapping_add(fingerprint(&record.connection, [*generation, active_ms]));
        }
        sums
    }
}

/// What a node's connections come to, as a digest tells it.
pub(super) struct Sums {
    connections: u32,
    /// Over what makes each record the newest.
    records: u64,
    /// Over when each did something last.
    activities: u64,
}

impl Sums {
    /// Whether they are those that the node itself told.
    pub(super) fn are(&self, connections: u32, records: u64, activities: Option<u64>) -> bool {
        (self.connections, self.records) == (connections, records)
            && activities.is_none_or(|activities| self.activities == activities)
    }
}

/// FNV-1a over a connection and numbers of it. The last bytes alone would move the sum by so little that two changes
/// could cancel, so the bits are mixed once more. Every version of the program must compute the same.
fn fingerprint<const N: usize>(connection: &ConnectionId, numbers: [u64; N]) -> u64 {
    let numbers = numbers.map(u64::to_be_bytes);
    let bytes = connection.as_str().bytes().chain(numbers.into_iter().flatten());
    let hash: u64 =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}
