//! The bridge: one subscription per node, fanned out to the actors that listen.
//!
//! It carries messages and says when some may be missing; what they mean and how a gap is repaired is decided above.
//! Two tasks run here: the pump, which takes from the subscription and only dispatches, and the watch, which compares the
//! heads of all open plans with the log, in one call per shard, and proves by messages to itself that each shard delivers.

mod control;
mod deafness;
mod feed;
mod interests;
mod lives;
mod rests;
#[cfg(test)]
mod tests;
mod turns;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mille_shared::PlanId;
use mille_shared::log::StoreLife;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{self, Backend, Channel, Incoming, Interruption, Reach, Shard, envelope};
use crate::clock;
use crate::clock::whole_ms;
use crate::metrics::Metrics;

pub use control::{Control, ControlMessage, Controls};
pub use feed::{Feed, FeedSender, Heard};
use interests::Interests;
use lives::Lives;
pub use rests::Rests;
use turns::Turns;

/// The node's subscription. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    metrics: Arc<Metrics>,
    /// Who hears which channel.
    interests: Interests,
    /// Serialises subscribing and unsubscribing per channel, so that the store's state follows the map's.
    turns: Turns,
    control: broadcast::Sender<Control>,
    started: Instant,
    /// When the probe of the shard that has the control channel last came back, in milliseconds since `started`.
    delivered_ms: AtomicU64,
    lives: Lives,
    /// How many probes came back, by shard.
    probes_heard: Mutex<HashMap<Shard, u64>>,
    /// How often the subscription was interrupted. Held while feeds are told of it, and while heads are told: so a head that
    /// was asked for before is never told after.
    interruptions: Mutex<u64>,
    /// An interruption was told; the heads are to be compared soon.
    interrupted: Notify,
}

/// Control messages that wait for those who act on them. Who is further behind is told that some were lost.
const CONTROL_MESSAGES_MAX: usize = 1_024;

impl Bridge {
    /// Subscribes to what concerns every node, and starts to pump.
    ///
    /// # Errors
    /// [`backend::Error`] if the store does not answer.
    pub async fn start(
        backend: Backend,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> backend::Result<(Self, Controls)> {
        let incoming = backend.pubsub.incoming();
        let incoming = incoming.ok_or_else(|| backend::Error::Busy("the subscription is taken".to_owned()))?;
        let (control, controls) = broadcast::channel(CONTROL_MESSAGES_MAX);
        let bridge = Self {
            inner: Arc::new(Inner {
                backend,
                metrics,
                interests: Interests::default(),
                turns: Turns::default(),
                control,
                started: Instant::now(),
                delivered_ms: AtomicU64::new(0),
                lives: Lives::default(),
                probes_heard: Mutex::default(),
                interruptions: Mutex::new(0),
                interrupted: Notify::new(),
            }),
        };
        // What else it needs, the watch subscribes to, shard by shard: one that is sick need not keep a node out.
        bridge.inner.backend.pubsub.subscribe(Channel::Control).await?;
        tasks.spawn(bridge.clone().pump(incoming, stop.child_token()));
        tasks.spawn(bridge.clone().watch(stop.child_token()));
        Ok((bridge, Controls::new(controls)))
    }

    /// A line for one actor; what it hears is chosen by [`Self::listen`].
    #[must_use]
    pub fn feed(&self) -> (FeedSender, Feed) {
        feed::line(Arc::clone(&self.inner.metrics))
    }

    /// Hears a channel on a line. When it returns, every later message comes, until it was forgotten as often as it was
    /// listened to, or another line listens.
    ///
    /// # Errors
    /// [`backend::Error`]; the channel is not heard then, and need not be forgotten.
    pub async fn listen(&self, channel: Channel, feed: &FeedSender) -> backend::Result<()> {
        let _turn = self.inner.turns.take(channel).await;
        self.inner.interests.add(channel, feed);
        let subscribed = self.inner.backend.pubsub.subscribe(channel).await;
        if subscribed.is_err() {
            self.inner.interests.remove(channel);
        }
        subscribed
    }

    /// Hears a channel no more, unless another line took it over or this one listened again.
    pub async fn forget(&self, channel: Channel, feed: &FeedSender) {
        self.forget_times(channel, feed, 1).await;
    }

    /// The plans a line hears, and how often it asked for each.
    #[must_use]
    pub fn plans_heard_by(&self, feed: &FeedSender) -> Vec<(PlanId, usize)> {
        let plans = self.inner.interests.plans().into_iter().filter(|(_, line, _)| line.is_same(feed));
        plans.map(|(plan, _, times)| (plan, times)).collect()
    }

    /// As [`Self::forget`], for a line that listened so many times and lost its memory of it.
    pub async fn forget_times(&self, channel: Channel, feed: &FeedSender, times: usize) {
        let _turn = self.inner.turns.take(channel).await;
        if !self.inner.interests.subtract(channel, feed, times) {
            return;
        }
        if let Err(error) = self.inner.backend.pubsub.unsubscribe(channel).await {
            // What still comes on it finds no feed and is dropped.
            tracing::debug!(%error, ?channel, "could not unsubscribe");
        }
    }

    /// Tells every node, this one included.
    ///
    /// # Errors
    /// [`backend::Error`]; the slow sweep makes up for it.
    pub async fn tell(&self, message: &ControlMessage) -> backend::Result<()> {
        self.inner.backend.pubsub.publish(Channel::Control, message.encode()).await
    }

    /// Notes a life of the store, and says whether it is settled: known for so long that every node that lives had the
    /// time to give back what the store lost when it began.
    pub fn see_life(&self, life: &StoreLife) -> bool {
        self.inner.lives.see(life)
    }

    /// How long ago a message to ourselves last came back, through the shard that brings what concerns every node. If
    /// another does not deliver, that is its plans' loss alone.
    #[must_use]
    pub fn delivery_age(&self) -> Duration {
        let delivered = Duration::from_millis(self.inner.delivered_ms.load(Ordering::Relaxed));
        self.inner.started.elapsed().saturating_sub(delivered)
    }

    /// How many plans are open on this node.
    #[must_use]
    pub fn open_plans(&self) -> usize {
        self.inner.interests.plan_count()
    }

    /// The line that hears a plan.
    #[cfg(test)]
    pub(crate) fn feed_of(&self, plan: PlanId) -> Option<FeedSender> {
        self.inner.interests.plans().into_iter().find(|(open, ..)| *open == plan).map(|(_, feed, _)| feed)
    }

    async fn pump(self, mut incoming: mpsc::Receiver<Incoming>, stop: CancellationToken) {
        // Waited for once, not anew with each message.
        let mut stopped = std::pin::pin!(stop.cancelled());
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stopped => break,
                message = incoming.recv() => message,
            };
            match message {
                Some(Incoming::Message { channel, payload }) => self.dispatch(channel, payload),
                Some(Incoming::Interrupted { why, reach }) => self.interrupt(why, &reach),
                None => break,
            }
        }
    }

    /// Hands a message on without waiting; whoever can't take it is told that it lost some.
    fn dispatch(&self, channel: Channel, payload: bytes::Bytes) {
        match channel {
            Channel::Probe(shard) => {
                if self.inner.backend.pubsub.shard_of(Channel::Control) == Some(shard) {
                    let age = whole_ms(self.inner.started.elapsed());
                    self.inner.delivered_ms.store(age, Ordering::Relaxed);
                }
                *self.inner.probes_heard.lock().entry(shard).or_default() += 1;
            }
            Channel::Control => match ControlMessage::decode(&payload) {
                Some(message) => self.control(Control::Told(message)),
                None => tracing::warn!("a control message can't be read; nodes of different versions?"),
            },
            Channel::Plan(_) | Channel::Project(_) => {
                if let Some(appended) = envelope::appended_at(&payload) {
                    let lag = clock::since_epoch().saturating_sub(appended);
                    self.inner.metrics.bridge.lag_seconds.record(lag.as_secs_f64());
                }
                self.inner.interests.with(channel, |feed| {
                    feed.offer(Heard::Message { channel, payload, received: Instant::now() });
                });
            }
        }
    }

    fn interrupt(&self, why: Interruption, reach: &Reach) {
        self.inner.metrics.bridge.interruptions.increment(1);
        let mut interruptions = self.inner.interruptions.lock();
        *interruptions += 1;
        match reach {
            Reach::Everything => {
                tracing::info!(cause = ?why, "the subscription was interrupted; every open plan is compared with its log");
                for feed in self.inner.interests.lines() {
                    feed.offer(Heard::Interrupted { why, reach: Reach::Everything });
                }
            }
            Reach::Only(channels) => {
                tracing::info!(
                    cause = ?why,
                    channels = channels.len(),
                    "some subscriptions were interrupted; their plans are compared with their logs"
                );
                for (feed, theirs) in self.inner.interests.lines_of(channels) {
                    feed.offer(Heard::Interrupted { why, reach: Reach::Only(theirs.into()) });
                }
            }
        }
        drop(interruptions);
        self.inner.interrupted.notify_one();
        if reach.holds(Channel::Control) {
            self.control(Control::Interrupted);
        }
    }

    fn control(&self, control: Control) {
        // Nobody hears it while the node stops.
        let _ = self.inner.control.send(control);
    }
}
