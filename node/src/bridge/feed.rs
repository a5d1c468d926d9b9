//! A line from the bridge to one actor.
//!
//! Bounded by [`limits::FEED_MESSAGES_MAX`]. The bridge never waits: what does not fit is dropped, and the actor hears of
//! an interruption, which it repairs from the log.
//!
//! A head that was asked for before an interruption is never heard after it: it would be compared with what came later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mille_shared::log::LogState;
use mille_shared::{PlanId, limits};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Rests;
use crate::backend::{Channel, Interruption, Reach};
use crate::metrics::Metrics;

/// What an actor hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// A message on one of its channels.
    Message {
        /// Which.
        channel: Channel,
        /// What it says.
        payload: Bytes,
        /// When it reached this node.
        received: Instant,
    },
    /// The head of one of its plans, as the regular check saw it.
    Head {
        /// Which plan.
        plan: PlanId,
        /// Where its log ends.
        state: LogState,
        /// Whether the store's life is settled: every node had the time to give back what it lost.
        is_settled: bool,
    },
    /// Messages may have been lost.
    Interrupted {
        /// Why.
        why: Interruption,
        /// On which of its channels.
        reach: Reach,
    },
}

/// The bridge's end of a line.
#[derive(Clone)]
pub struct FeedSender {
    sender: mpsc::Sender<Heard>,
    lag: Arc<Lag>,
    rests: Arc<Rests>,
    metrics: Arc<Metrics>,
}

/// What was dropped because it did not fit.
#[derive(Default)]
struct Lag {
    /// Something was, and the actor has not been told.
    is_untold: AtomicBool,
    /// How often something was. Held while a head is put in, so that none is put in behind a drop it does not know of.
    drops: Mutex<u64>,
}

/// The actor's end of a line.
pub struct Feed {
    receiver: mpsc::Receiver<Heard>,
    lag: Arc<Lag>,
    /// How many of the next were put in before the last interruption by lag.
    older: usize,
}

pub(super) fn line(metrics: Arc<Metrics>) -> (FeedSender, Feed) {
    let (sender, receiver) = mpsc::channel(limits::FEED_MESSAGES_MAX);
    let lag = Arc::new(Lag::default());
    (FeedSender { sender, lag: Arc::clone(&lag), rests: Arc::default(), metrics }, Feed { receiver, lag, older: 0 })
}

impl FeedSender {
    pub(super) fn offer(&self, heard: Heard) {
        if matches!(heard, Heard::Interrupted { .. }) {
            self.rests.end_all();
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(heard) {
            self.dropped(&mut self.lag.drops.lock());
        }
    }

    /// How often something was dropped so far: to be asked before a head is, and shown with it.
    pub(super) fn drops(&self) -> u64 {
        *self.lag.drops.lock()
    }

    /// As [`Self::offer`], for a head that was asked for when so much had been dropped. It says nothing after a later drop, and
    /// nothing to who is at rest and expects it.
    pub(super) fn offer_head(&self, plan: PlanId, state: LogState, is_settled: bool, asked_at: u64) {
        let mut drops = self.lag.drops.lock();
        if *drops != asked_at || self.rests.note_if_expected(plan, &state, is_settled) {
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(Heard::Head { plan, state, is_settled }) {
            self.dropped(&mut drops);
        }
    }

    fn dropped(&self, drops: &mut u64) {
        *drops += 1;
        self.rests.end_all();
        self.lag.is_untold.store(true, Ordering::Release);
        self.metrics.bridge.messages_dropped.increment(1);
    }

    /// The plans of this line's actor that are at rest.
    #[must_use]
    pub fn rests(&self) -> &Rests {
        &self.rests
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lag, &other.lag)
    }

    /// The same of those that are the same, while one of them lives.
    pub(super) fn identity(&self) -> usize {
        Arc::as_ptr(&self.lag).addr()
    }
}

impl Feed {
    /// The next thing heard. Waits; can be cancelled without loss. Pends for ever once nobody can send.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.next_lag() {
                return heard;
            }
            let Some(heard) = self.receiver.recv().await else { return std::future::pending().await };
            if let Some(heard) = self.sift(heard) {
                return heard;
            }
        }
    }

    /// The next thing heard, if it is there already.
    pub fn try_next(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.next_lag() {
                return Some(heard);
            }
            let heard = self.receiver.try_recv().ok()?;
            if let Some(heard) = self.sift(heard) {
                return Some(heard);
            }
        }
    }

    /// The flag is only ever set while the queue is full, so a receiver that waits can't miss it.
    fn next_lag(&mut self) -> Option<Heard> {
        // Looked at before it is taken, which would cost all who share it.
        if !self.lag.is_untold.load(Ordering::Relaxed) || !self.lag.is_untold.swap(false, Ordering::Acquire) {
            return None;
        }
        self.older = self.receiver.len();
        Some(Heard::Interrupted { why: Interruption::Lagged, reach: Reach::Everything })
    }

    /// What was put in before the last interruption by lag is no head any more.
    fn sift(&mut self, heard: Heard) -> Option<Heard> {
        let is_older = self.older > 0;
        self.older = self.older.saturating_sub(1);
        (!(is_older && matches!(heard, Heard::Head { .. }))).then_some(heard)
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::log::StoreLife;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_heard_of_as_an_interruption() {
        let (sender, mut feed) = line(Arc::new(Metrics::new()));
        for _ in 0..=limits::FEED_MESSAGES_MAX {
            sender.offer(message());
        }
        assert!(matches!(feed.next().await, Heard::Interrupted { why: Interruption::Lagged, .. }));
        assert!(matches!(feed.next().await, Heard::Message { .. }), "what fitted is still there");
    }

    #[tokio::test]
    async fn a_head_that_was_asked_for_before_something_was_dropped_is_not_heard_after_it() {
        let (sender, mut feed) = line(Arc::new(Metrics::new()));
        let asked_at = sender.drops();
        sender.offer_head(PlanId(1), nowhere(), true, asked_at);
        for _ in 0..limits::FEED_MESSAGES_MAX {
            sender.offer(message());
        }
        assert!(matches!(feed.next().await, Heard::Interrupted { why: Interruption::Lagged, .. }));
        sender.offer_head(PlanId(2), nowhere(), true, asked_at);
        for _ in 1..limits::FEED_MESSAGES_MAX {
            assert!(matches!(feed.next().await, Heard::Message { .. }), "the messages, without the heads");
        }
        sender.offer_head(PlanId(3), nowhere(), true, sender.drops());
        assert!(matches!(feed.next().await, Heard::Head { plan: PlanId(3), .. }));
    }

    #[tokio::test]
    async fn who_is_at_rest_is_not_told_what_it_expects() {
        let plan = PlanId(1);
        let rest = || {
            let (sender, feed) = line(Arc::new(Metrics::new()));
            sender.rests().begin(plan, nowhere(), true, Instant::now());
            (sender, feed)
        };
        let is_told = |sender: &FeedSender, feed: &mut Feed, plan, state, is_settled| {
            sender.offer_head(plan, state, is_settled, sender.drops());
            std::iter::from_fn(|| feed.try_next()).any(|heard| matches!(heard, Heard::Head { .. }))
        };
        let (sender, mut feed) = rest();
        assert!(!is_told(&sender, &mut feed, plan, nowhere(), true));
        let another_life = LogState { life: StoreLife::new("another"), ..nowhere() };
        assert!(is_told(&sender, &mut feed, plan, another_life, true));
        assert!(is_told(&sender, &mut feed, plan, nowhere(), false));
        assert!(is_told(&sender, &mut feed, PlanId(2), nowhere(), true));
        assert!(!is_told(&sender, &mut feed, plan, nowhere(), true), "it rests still");

        assert!(sender.rests().end(plan).is_some());
        assert!(is_told(&sender, &mut feed, plan, nowhere(), true), "something happened to it");
        let (sender, mut feed) = rest();
        sender.offer(Heard::Interrupted { why: Interruption::Reconnect, reach: Reach::Everything });
        assert!(is_told(&sender, &mut feed, plan, nowhere(), true), "something may have happened to it");
        let (sender, mut feed) = rest();
        (0..=limits::FEED_MESSAGES_MAX).for_each(|_| sender.offer(message()));
        assert!(std::iter::from_fn(|| feed.try_next()).count() > limits::FEED_MESSAGES_MAX);
        assert!(is_told(&sender, &mut feed, plan, nowhere(), true), "it missed something");
    }

    fn nowhere() -> LogState {
        LogState { head: None, life: StoreLife::new("life") }
    }

    fn message() -> Heard {
        Heard::Message { channel: Channel::Plan(PlanId(1)), payload: Bytes::new(), received: Instant::now() }
    }
}
