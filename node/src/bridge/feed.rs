//! A line from the bridge to one actor.
//!
//! Bounded by [`limits::FEED_MESSAGES_MAX`]. The bridge never waits: what does not fit is dropped, and the actor hears of
//! an interruption, which it repairs from the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mille_shared::log::LogState;
use mille_shared::{PlanId, limits};
use tokio::sync::mpsc;

use crate::backend::{Channel, Interruption};
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
    /// Messages may have been lost on all of its channels.
    Interrupted(Interruption),
}

/// The bridge's end of a line.
#[derive(Clone)]
pub struct FeedSender {
    sender: mpsc::Sender<Heard>,
    lagged: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// The actor's end of a line.
pub struct Feed {
    receiver: mpsc::Receiver<Heard>,
    lagged: Arc<AtomicBool>,
}

pub(super) fn line(metrics: Arc<Metrics>) -> (FeedSender, Feed) {
    let (sender, receiver) = mpsc::channel(limits::FEED_MESSAGES_MAX);
    let lagged = Arc::new(AtomicBool::new(false));
    (FeedSender { sender, lagged: Arc::clone(&lagged), metrics }, Feed { receiver, lagged })
}

impl FeedSender {
    pub(super) fn offer(&self, heard: Heard) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(heard) {
            self.lagged.store(true, Ordering::Release);
            self.metrics.feed_messages_dropped.increment(1);
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lagged, &other.lagged)
    }
}

impl Feed {
    /// The next thing heard. Waits; can be cancelled without loss. Pends for ever once nobody can send.
    pub async fn next(&mut self) -> Heard {
        // The flag is only ever set while the queue is full, so a receiver that waits can't miss it.
        if self.lagged.swap(false, Ordering::Acquire) {
            return Heard::Interrupted(Interruption::Lagged);
        }
        match self.receiver.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
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
            let state = LogState { head: None, life: StoreLife::new("life") };
            sender.offer(Heard::Head { plan: PlanId(1), state, is_settled: true });
        }
        assert!(matches!(feed.next().await, Heard::Interrupted(Interruption::Lagged)));
        assert!(matches!(feed.next().await, Heard::Head { .. }), "what fitted is still there");
    }
}
