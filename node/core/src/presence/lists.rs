//! Who is in each document, for those who are in it: always the whole list.
//!
//! A list goes to everyone in the document whenever somebody enters or leaves, so in a crowd that comes all at once, lists
//! would grow with people times people times people. What changed within a while is therefore told by one list; the while
//! is a tick of the cursors in a small document, and longer in a large one. The first change after a silence does not
//! wait, and whoever enters gets the list at once. Under pressure, lists wait as other changes do ([`super::later`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mille_shared::presence::DocumentId;

use super::Presence;
use super::effects::{Moment, To};
use super::later::THIN_INTERVAL;

/// With so many people more in a document, its lists wait a tick longer.
const PEOPLE_PER_TICK: usize = 50;
/// No list waits longer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Which lists changed, and when they may be sent again.
#[derive(Debug, Default)]
pub(super) struct Lists {
    changed: BTreeSet<DocumentId>,
    /// Of documents whose list was sent lately.
    not_before: BTreeMap<DocumentId, Duration>,
}

impl Lists {
    /// Somebody entered or left.
    pub(super) fn mark(&mut self, document: &DocumentId) {
        self.changed.insert(document.clone());
    }

    /// Those that changed and were not sent.
    pub(super) fn unsent(&self) -> &BTreeSet<DocumentId> {
        &self.changed
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.changed.iter().map(|document| self.not_before(document)).min()
    }

    /// Whether a list changed and goes out with the next wake.
    pub(super) fn is_due(&self, now: Moment, document: &DocumentId) -> bool {
        self.changed.contains(document) && self.not_before(document) <= now.at
    }

    /// The pressure eases: nothing waits longer for it.
    pub(super) fn hurry(&mut self, now: Moment) {
        self.not_before.values_mut().for_each(|not_before| *not_before = (*not_before).min(now.at + WAIT_MAX));
    }

    fn not_before(&self, document: &DocumentId) -> Duration {
        self.not_before.get(document).copied().unwrap_or_default()
    }
}

impl Presence {
    pub(super) fn send_lists(&mut self, now: Moment) {
        self.lists.not_before.retain(|_, not_before| *not_before > now.at);
        let waiting = std::mem::take(&mut self.lists.changed);
        let (due, later) = waiting.into_iter().partition(|document| self.lists.not_before(document) <= now.at);
        self.lists.changed = later;
        let due: BTreeSet<DocumentId> = due;
        for document in due {
            if self.roster.viewers(&document).next().is_none() {
                continue;
            }
            let people = self.roster.people_in(&document);
            let ticks = u32::try_from(1 + people / PEOPLE_PER_TICK).unwrap_or(u32::MAX);
            let mut wait = self.cursors.interval().saturating_mul(ticks).min(WAIT_MAX);
            if self.later.is_thin() {
                wait = wait.max(THIN_INTERVAL);
            }
            self.lists.not_before.insert(document.clone(), now.at + wait);
            self.send_activity(To::Viewers(document.clone()), &document);
        }
    }
}
