//! Which changes a copy may forget before its ring is full.
//!
//! What is in the log may still be lost: a failover undoes the last seconds, and then our ring is what the log is mended from.
//! So only what was found in the log round after round is old enough. A round is some five seconds; so what may be forgotten
//! was there ten seconds before the last check. A round in which no check found the log begins it all anew, and so does a new
//! life of the store, and whatever had to be put back.

use std::collections::VecDeque;

use mille_shared::log::{Head, StoreLife};

use super::Replica;
use crate::ring::Allowance;

/// Rounds in a row in which a place must have been found in the log.
const ROUNDS: usize = 4;

/// Where checks found the log on our history.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// The last of this round.
    fresh: Option<Head>,
    /// The last of each round before, the newest last; at most [`ROUNDS`].
    before: VecDeque<Head>,
}

impl Sightings {
    pub(super) fn saw(&mut self, head: Head) {
        self.fresh = Some(head);
    }

    /// What was seen says nothing any more.
    pub(super) fn clear(&mut self) {
        (self.fresh, self.before) = (None, VecDeque::new());
    }

    /// A round is over. Answers what was in the log in all of the last ones.
    fn round(&mut self) -> Option<Head> {
        let Some(head) = self.fresh.take() else {
            self.before.clear();
            return None;
        };
        if self.before.len() == ROUNDS {
            self.before.pop_front();
        }
        self.before.push_back(head);
        // A check may be older than the one before it.
        let lowest = self.before.iter().min_by_key(|head| head.revision.seq).copied();
        lowest.filter(|_| self.before.len() == ROUNDS)
    }
}

impl Replica {
    /// The log was met in a life of the store. Answers whether it was followed in that one; if not, what was seen before says
    /// nothing any more.
    pub(super) fn meets_again(&mut self, life: &StoreLife) -> bool {
        let is_followed = self.standing.last_followed() == Some(life);
        if !is_followed {
            self.sightings.clear();
        }
        is_followed
    }

    /// A check found what [`Self::expected`] says, and was told to nobody.
    pub fn found_as_expected(&mut self) {
        self.sightings.saw(self.plan.head());
    }

    /// Bytes of the changes that it remembers.
    #[must_use]
    pub fn remembered_bytes(&self) -> usize {
        self.ring.bytes()
    }

    /// How large a change of this plan was lately, in the log and at most. `None`: it remembers none.
    #[must_use]
    pub fn newest_payload_bytes(&self) -> Option<usize> {
        self.ring.newest_payload_bytes()
    }

    /// A round of some seconds is over. Forgets the oldest changes beyond what is allowed, if that is given: none that was not
    /// found in the log in all of the last rounds, and none while it is in doubt what the log has.
    pub fn end_round(&mut self, allowed: Option<Allowance>) {
        let is_in_doubt = self.repair.is_some() || self.suspicion.is_some();
        let seen = self.sightings.round().filter(|seen| self.ring.hash_at(seen.revision) == Some(seen.hash));
        if let (Some(seen), Some(allowed), false) = (seen, allowed, is_in_doubt) {
            self.ring.shrink_to(allowed, seen.revision);
        }
    }
}
