//! Whose turn it is: one at a time per channel, whatever others do on other channels.
//!
//! Subscribing takes a round trip, and the store's state must follow ours, so a channel is changed by one at a time. A
//! lock over all channels would let a store that does not answer open plans one timeout after the other.
//!
//! A channel is in the table only while somebody has its turn or waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::backend::Channel;

type Place = Arc<tokio::sync::Mutex<()>>;

/// The channels that are being changed.
#[derive(Default)]
pub(super) struct Turns {
    /// Held only to look or to change.
    places: Mutex<HashMap<Channel, Place>>,
}

/// A turn, or the wait for one. Dropping it gives it up.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    channel: Channel,
    place: Option<Place>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the channel's turn: in the order of asking. Can be cancelled.
    pub(super) async fn take(&self, channel: Channel) -> Turn<'_> {
        let place = Arc::clone(self.places.lock().entry(channel).or_default());
        // Made before the wait, so that giving up leaves nothing behind.
        let mut turn = Turn { turns: self, channel, place: Some(Arc::clone(&place)), held: None };
        turn.held = Some(place.lock_owned().await);
        turn
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.lock().len()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut places = self.turns.places.lock();
        drop(self.place.take());
        // Only the table has it: places are handed out under its lock, so nobody can be about to wait.
        if places.get(&self.channel).is_some_and(|place| Arc::strong_count(place) == 1) {
            places.remove(&self.channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join;
    use mille_shared::PlanId;
    use tokio::time::timeout;

    use super::*;

    const ONE: Channel = Channel::Plan(PlanId(1));
    const OTHER: Channel = Channel::Plan(PlanId(2));

    #[tokio::test(start_paused = true)]
    async fn a_channel_waits_for_itself_alone() {
        let turns = Turns::default();
        let first = turns.take(ONE).await;
        drop(turns.take(OTHER).await);
        assert!(timeout(Duration::from_secs(9), turns.take(ONE)).await.is_err(), "it is another's turn");
        let next = async {
            drop(turns.take(ONE).await);
        };
        join(next, async { drop(first) }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_those_who_are_done_or_gave_up() {
        let turns = Turns::default();
        let first = turns.take(ONE).await;
        assert!(timeout(Duration::from_secs(9), turns.take(ONE)).await.is_err());
        assert_eq!(turns.len(), 1);
        drop(first);
        assert_eq!(turns.len(), 0);
        for _ in 0..3 {
            let (a, b) = (turns.take(ONE).await, turns.take(OTHER).await);
            drop((a, b));
        }
        assert_eq!(turns.len(), 0);
    }
}
