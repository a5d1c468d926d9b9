//! Channels in Redis: one subscription connection per node.
//!
//! The client library's `subscribe` returns before the server has it, and it says nothing of messages lost during a
//! reconnect. So: whatever must be in force is followed by a PING on the same connection and counts when that is
//! answered; and after a reconnect we subscribe again ourselves and then say [`Interruption::Reconnect`]. Nothing but
//! subscriptions and PINGs travels on this connection: an answer to anything else could be taken for another's.
//!
//! In a Redis Cluster the PING may go to another server than the subscription does; whoever listens there must also
//! compare heads from time to time.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use fred::clients::SubscriberClient;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, EventInterface, FredResult, PubsubInterface};
use fred::types::config::Server;
use fred::types::{Builder, Message, Value};
use imbl::HashSet;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::observer::{Connection, RedisObserver};
use super::{BROADCAST_MESSAGES_MAX, Redis, leave_when_stopped, timed, watchdog};
use crate::backend::incoming::{Outlet, outlet};
use crate::backend::{Channel, INCOMING_MESSAGES_MAX, Incoming, Interruption, PubSub, Result};

/// Channels in one SUBSCRIBE.
const SUBSCRIBE_CHANNELS_MAX: usize = 512;
/// Attempts to subscribe again on one connection. Then it is made anew.
const RESUBSCRIBE_ATTEMPTS: u32 = 3;
/// Pause after a failed attempt.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(50);

/// Restorations that whoever takes messages was not told of yet. Beyond it the next waits.
const RESTORATIONS_UNTOLD_MAX: usize = 4;

/// Connections that were lost, or could not be made.
type Losses = Receiver<(FredError, Option<Server>)>;

/// Connects the subscription.
pub(super) async fn open(
    builder: &Builder,
    redis: Arc<Redis>,
    observer: Arc<dyn RedisObserver>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> FredResult<Arc<Subscription>> {
    let mut builder = builder.clone();
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = BROADCAST_MESSAGES_MAX);
    let subscriber = builder.build_subscriber_client()?;
    let messages = subscriber.message_rx();
    let connection = subscriber.init().await?;
    // From here on only: the first connection interrupts nothing.
    let (losses, reconnects) = (subscriber.error_rx(), subscriber.reconnect_rx());
    let (outlet, incoming) = outlet(INCOMING_MESSAGES_MAX);
    let (restored, restorations) = mpsc::channel(RESTORATIONS_UNTOLD_MAX);
    let subscription = Arc::new(Subscription {
        redis,
        subscriber: subscriber.clone(),
        channels: ArcSwap::default(),
        restorations_begun: AtomicU64::new(0),
        restored,
        incoming: Mutex::new(Some(incoming)),
        state: State::default(),
        observer,
    });
    tasks.spawn(leave_when_stopped(subscriber.clone(), connection, stop.clone()));
    tasks.spawn(watchdog::watch(subscriber, Arc::clone(&subscription), stop.clone()));
    tasks.spawn(Arc::clone(&subscription).dispatch(messages, restorations, outlet, stop.clone()));
    tasks.spawn(Arc::clone(&subscription).keep(losses, reconnects, stop.clone()));
    Ok(subscription)
}

/// What this node listens to.
pub(super) struct Subscription {
    redis: Arc<Redis>,
    subscriber: SubscriberClient,
    /// What is listened to. Looked at with every message, so a look takes no lock.
    channels: ArcSwap<HashSet<Channel>>,
    /// How often subscribing again began. While it is not over, what comes is dropped: the interruption that follows counts for
    /// it, and whoever heard something before it would look for what is missing twice.
    restorations_begun: AtomicU64,
    /// To whoever takes messages.
    restored: mpsc::Sender<Restored>,
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
    state: State,
    observer: Arc<dyn RedisObserver>,
}

/// What is known of the connection. Told by several tasks, each in its own words.
#[derive(Default)]
struct State {
    /// The connection was lost, and not everything is subscribed to again.
    is_broken: AtomicBool,
    /// The last PING was not answered.
    is_silent: AtomicBool,
    /// Somebody asked for a new connection: see [`PubSub::reconnect`].
    is_asked_for: AtomicBool,
}

/// Everything is subscribed to again.
struct Restored {
    /// The last restoration that had begun by then.
    number: u64,
    why: Interruption,
}

#[async_trait]
impl PubSub for Subscription {
    async fn publish(&self, channel: Channel, message: Bytes) -> Result<()> {
        let name = self.redis.channels.name(channel);
        self.redis.send("publish", self.redis.client.publish::<Value, _, _>(name, message)).await.map(drop)
    }

    async fn subscribe(&self, channel: Channel) -> Result<()> {
        // A server that answers no commands answers this no better.
        self.redis.gate.pass("subscribe")?;
        // First noted, so that a reconnect in between subscribes it too, and no message of it is taken for a stray.
        self.channels.rcu(|channels| channels.update(channel));
        let answer = timed("subscribe", self.subscribe_to(vec![self.redis.channels.name(channel)])).await;
        if answer.is_err() {
            self.leave(channel);
        }
        answer
    }

    async fn unsubscribe(&self, channel: Channel) -> Result<()> {
        self.leave(channel);
        timed("unsubscribe", self.subscriber.unsubscribe(self.redis.channels.name(channel))).await
    }

    async fn reconnect(&self) {
        // While the client is at it, it would take the wish as one for yet another connection.
        if self.subscriber.is_connected() {
            self.state.is_asked_for.store(true, Ordering::Relaxed);
            watchdog::reconnect(&self.subscriber).await;
        }
    }

    fn is_in_force(&self) -> bool {
        let State { is_broken, is_silent, .. } = &self.state;
        self.subscriber.is_connected() && !is_broken.load(Ordering::Relaxed) && !is_silent.load(Ordering::Relaxed)
    }

    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Subscription {
    fn leave(&self, channel: Channel) {
        self.channels.rcu(|channels| channels.without(&channel));
    }

    /// Takes messages as fast as they come and puts them into our queue. Does nothing else: what it does not take in
    /// time is lost.
    async fn dispatch(
        self: Arc<Self>,
        mut messages: Receiver<Message>,
        mut restorations: mpsc::Receiver<Restored>,
        mut outlet: Outlet,
        stop: CancellationToken,
    ) {
        // Waited for once, not anew with each message.
        let mut stopped = pin!(stop.cancelled());
        let mut restorations_over = 0;
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stopped => return,
                Some(Restored { number, why }) = restorations.recv() => {
                    restorations_over = number;
                    outlet.send(Incoming::Interrupted(why));
                    continue;
                }
                message = messages.recv() => message,
            };
            match message {
                Ok(message) if self.restorations_begun.load(Ordering::Acquire) == restorations_over => {
                    self.hear(message, &mut outlet);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "messages of the subscription were lost: we are too slow");
                    outlet.send(Incoming::Interrupted(Interruption::Lagged));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn hear(&self, message: Message, outlet: &mut Outlet) {
        let Some(channel) = self.redis.channels.parse(&message.channel) else { return };
        // Left meanwhile, or never wanted by a subscriber whose request failed: a stray.
        if !self.channels.load().contains(&channel) {
            return;
        }
        if let Some(payload) = message.value.into_bytes() {
            outlet.send(Incoming::Message { channel, payload });
        }
    }

    /// Puts the subscriptions in force again after each reconnect.
    async fn keep(self: Arc<Self>, mut losses: Losses, mut reconnects: Receiver<Server>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Before the reconnect that follows it: every loss is followed by one.
                Ok(_) = losses.recv() => {
                    self.state.is_broken.store(true, Ordering::Relaxed);
                    continue;
                }
                event = reconnects.recv() => if let Err(RecvError::Closed) = event { return },
            }
            self.state.is_broken.store(true, Ordering::Relaxed);
            self.restorations_begun.fetch_add(1, Ordering::AcqRel);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.restore(&mut losses, &mut reconnects) => {}
            }
        }
    }

    /// Subscribes to everything again, and tells. Where that fails, the connection is made anew, which calls us again; and so
    /// does the client if the connection was lost meanwhile. Then an answer proves nothing: the subscriptions may have gone
    /// with the old connection, and the PING to the new one.
    async fn restore(&self, losses: &mut Losses, reconnects: &mut Receiver<Server>) {
        // What was made until now is covered. Reconnects first: a loss may be told without need, but never be left without
        // the reconnect that follows it.
        forget(reconnects);
        forget(losses);
        for attempt in 1..=RESUBSCRIBE_ATTEMPTS {
            let wanted: Vec<_> = self.channels.load().iter().copied().collect();
            let names = wanted.iter().map(|channel| self.redis.channels.name(*channel)).collect();
            let answer = timed("resubscribe", self.subscribe_to(names)).await;
            let is_same_connection = || losses.is_empty() && reconnects.is_empty();
            if answer.is_ok() && is_same_connection() {
                return self.tell_restored(wanted.len()).await;
            }
            sleep(RESUBSCRIBE_PAUSE).await;
            if !is_same_connection() {
                return;
            }
            tracing::warn!(?answer, attempt, "subscribing again failed");
        }
        watchdog::reconnect(&self.subscriber).await;
    }

    async fn tell_restored(&self, channels: usize) {
        tracing::info!(channels, "the subscription is in force again");
        let asked_for = self.state.is_asked_for.swap(false, Ordering::Relaxed);
        let why = if asked_for { Interruption::Probe } else { Interruption::Reconnect };
        // First, so that whoever hears of the interruption finds it over.
        self.state.is_broken.store(false, Ordering::Relaxed);
        self.state.is_silent.store(false, Ordering::Relaxed);
        let number = self.restorations_begun.load(Ordering::Acquire);
        // Nobody is there to be told any more when the node stops.
        let _ = self.restored.send(Restored { number, why }).await;
    }

    /// Subscribes, and waits until the server has it: it answers in the order of asking.
    async fn subscribe_to(&self, names: Vec<String>) -> FredResult<()> {
        for some in names.chunks(SUBSCRIBE_CHANNELS_MAX) {
            self.subscriber.subscribe(some.to_vec()).await?;
        }
        self.subscriber.ping::<Value>(None).await.map(drop)
    }
}

/// Takes what waits, and leaves it at that.
fn forget<T: Clone>(events: &mut Receiver<T>) {
    while matches!(events.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
}

impl watchdog::Watched for Subscription {
    const CONNECTION: Connection = Connection::Subscription;

    fn answered(&self, _took: Duration) {
        self.state.is_silent.store(false, Ordering::Relaxed);
    }

    fn unanswered(&self) {
        self.state.is_silent.store(true, Ordering::Relaxed);
    }

    fn given_up(&self) {}

    // Told in `keep`, in the order in which it happened.
    fn lost(&self) {}

    fn reconnected(&self) {
        self.observer.reconnected(Self::CONNECTION);
    }
}
