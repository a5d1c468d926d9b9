//! What a copy may vouch for when it offers new changes.
//!
//! When the store begins a new life (a restart, a failover), a log may have lost its end, and nothing in the log tells. Who
//! followed it before can tell, and gives back what is missing. So the first new change in a new life waits until
//! everyone who may have something to give back had the time for it, and if nobody vouches for the log, it begins a new
//! epoch: whatever number a client may still know of then fits nothing by luck.

use std::collections::VecDeque;

use mille_shared::log::{Head, StoreLife, Terms};

/// Lives of the store that are remembered. More restarts than that without a change are a plan that nobody edits.
const FOLLOWED_LIVES_MAX: usize = 8;

/// What a copy may vouch for.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Lives through which we followed the log without a break, the newest last.
    followed: VecDeque<StoreLife>,
    /// The life that is known to be settled.
    settled: Option<StoreLife>,
    /// The life in which a commit waits to be offered.
    waits_in: Option<StoreLife>,
    /// The newest epoch in which changes were lost for good.
    lost_epoch: Option<u64>,
    /// The epoch that the store gave us to begin, and the head it was to be begun behind.
    granted: Option<(Head, u64)>,
}

impl Standing {
    /// The log and we are one history in this life.
    pub(super) fn follow(&mut self, life: &StoreLife) {
        if self.followed.back() == Some(life) {
            return;
        }
        if self.followed.len() >= FOLLOWED_LIVES_MAX {
            self.followed.pop_front();
        }
        self.followed.push_back(life.clone());
    }

    /// The newest life in which we are known to have followed the log.
    pub(super) fn last_followed(&self) -> Option<&StoreLife> {
        self.followed.back()
    }

    /// Our history and the log's are two, or were for a while.
    pub(super) fn break_off(&mut self) {
        self.followed.clear();
    }

    /// Everyone had the time to bring back what was lost when this life began.
    pub(super) fn settle(&mut self, life: &StoreLife) {
        self.settled = Some(life.clone());
        self.waits_in = None;
    }

    /// Whether this is the life that is known to be settled.
    pub(super) fn is_settled(&self, life: &StoreLife) -> bool {
        self.settled.as_ref() == Some(life)
    }

    /// A commit was sent back: it must wait in this life.
    pub(super) fn wait(&mut self, life: StoreLife) {
        self.waits_in = (!self.is_settled(&life)).then_some(life);
    }

    /// They have waited long enough without a word.
    pub(super) fn wait_no_longer(&mut self) {
        self.waits_in = None;
    }

    /// Whether commits wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_in.is_some()
    }

    /// Changes of this epoch are lost for good: its numbers must not be given again.
    pub(super) fn lose(&mut self, epoch: u64) {
        self.lost_epoch = self.lost_epoch.max(Some(epoch));
    }

    /// Whether the log, being in this epoch, must go on in another.
    pub(super) fn must_leave(&self, epoch: u64) -> bool {
        self.lost_epoch.is_some_and(|lost| epoch <= lost)
    }

    /// The store gave us an epoch to begin behind this head.
    pub(super) fn grant(&mut self, head: Head, epoch: u64) {
        self.granted = Some((head, epoch));
    }

    /// The epoch to begin behind this head, if it must be a new one and we know which. One that was given because nobody
    /// vouched for the log is not needed once somebody else wrote.
    pub(super) fn epoch_after(&self, head: Head) -> Option<u64> {
        let is_needed = |(before, _): &(Head, u64)| *before == head || self.must_leave(head.revision.epoch);
        self.granted.filter(is_needed).map(|(_, epoch)| epoch).filter(|epoch| *epoch > head.revision.epoch)
    }

    /// On which terms new changes are offered to a log with this head.
    pub(super) fn terms(&self, head: Head) -> Terms {
        Terms::Add {
            followed: self.followed.iter().cloned().collect(),
            settled: self.settled.clone(),
            lost_epoch: self.lost_epoch.filter(|lost| head.revision.epoch <= *lost),
            begins_epoch: self.epoch_after(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::Revision;
    use mille_shared::log::ChainHash;

    use super::*;

    fn life(name: &str) -> StoreLife {
        StoreLife::new(name)
    }

    fn head(epoch: u64) -> Head {
        Head { revision: Revision { epoch, seq: 1 }, hash: ChainHash::ROOT }
    }

    #[test]
    fn a_commit_waits_in_a_life_until_that_life_is_settled() {
        let mut standing = Standing::default();
        standing.wait(life("a"));
        assert!(standing.is_waiting());
        standing.settle(&life("a"));
        assert!(!standing.is_waiting());
        standing.wait(life("a"));
        assert!(!standing.is_waiting(), "it has waited already");
        standing.wait(life("b"));
        assert!(standing.is_waiting(), "that is another life");
    }

    #[test]
    fn lives_are_vouched_for_until_the_history_breaks() {
        let mut standing = Standing::default();
        for n in 0..20 {
            standing.follow(&life(&n.to_string()));
            standing.follow(&life(&n.to_string()));
        }
        let Terms::Add { followed, .. } = standing.terms(head(1)) else { panic!("new changes") };
        assert_eq!(followed.len(), FOLLOWED_LIVES_MAX);
        assert_eq!(standing.last_followed(), Some(&life("19")));
        standing.break_off();
        assert!(matches!(standing.terms(head(1)), Terms::Add { followed, .. } if followed.is_empty()));
    }

    #[test]
    fn an_epoch_in_which_changes_were_lost_is_left() {
        let mut standing = Standing::default();
        assert!(!standing.must_leave(5));
        standing.lose(5);
        assert!(standing.must_leave(5) && standing.must_leave(4) && !standing.must_leave(6));
        assert!(matches!(standing.terms(head(5)), Terms::Add { lost_epoch: Some(5), begins_epoch: None, .. }));
        assert!(matches!(standing.terms(head(6)), Terms::Add { lost_epoch: None, .. }));
        standing.grant(head(5), 9);
        assert!(matches!(standing.terms(head(5)), Terms::Add { begins_epoch: Some(9), .. }));
        assert!(matches!(standing.terms(head(4)), Terms::Add { begins_epoch: Some(9), .. }), "wherever the log is now");
        assert!(matches!(standing.terms(head(9)), Terms::Add { begins_epoch: None, .. }), "it has begun");
        let mut stranger = Standing::default();
        stranger.grant(head(5), 9);
        assert!(matches!(stranger.terms(head(5)), Terms::Add { begins_epoch: Some(9), .. }));
        assert!(matches!(stranger.terms(head(6)), Terms::Add { begins_epoch: None, .. }), "somebody else wrote");
    }
}
