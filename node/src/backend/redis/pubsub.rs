//! Channels in Redis: one subscription connection per node.
//!
//! The client library's `subscribe` returns before the server has it, and it says nothing of messages lost during a
//! reconnect. So: whatever must be in force is followed by a PING on the same connection and counts when that is
//! answered; and after a reconnect we subscribe again ourselves and then say [`Interruption::Reconnect`]. Nothing but
//! subscriptions and PINGs travels on this connection: an answer to anything else could be taken for another's.
//!
//! In a Redis Cluster the PING may go to another server than the subscription does; whoever listens there must also
//! compare heads from time to time.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::clients::SubscriberClient;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, EventInterface, FredResult, PubsubInterface};
use fred::types::config::Server;
use fred::types::{Builder, Message, Value};
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
    let subscription = Arc::new(Subscription {
        redis,
        subscriber: subscriber.clone(),
        listening: Mutex::new(Listening { channels: HashSet::new(), outlet, is_restoring: false }),
        incoming: Mutex::new(Some(incoming)),
        state: State::default(),
        observer,
    });
    tasks.spawn(leave_when_stopped(subscriber.clone(), connection, stop.clone()));
    tasks.spawn(watchdog::watch(subscriber, Arc::clone(&subscription), stop.clone()));
    tasks.spawn(Arc::clone(&subscription).dispatch(messages, stop.clone()));
    tasks.spawn(Arc::clone(&subscription).keep(losses, reconnects, stop.clone()));
    Ok(subscription)
}

/// What this node listens to.
pub(super) struct Subscription {
    redis: Arc<Redis>,
    subscriber: SubscriberClient,
    listening: Mutex<Listening>,
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

struct Listening {
    channels: HashSet<Channel>,
    outlet: Outlet,
    /// The connection is new, and not everything is subscribed to. What comes is dropped: the interruption that follows
    /// counts for it, and whoever heard something before it would look for what is missing twice.
    is_restoring: bool,
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
        self.listening().channels.insert(channel);
        let answer = timed("subscribe", self.subscribe_to(vec![self.redis.channels.name(channel)])).await;
        if answer.is_err() {
            self.listening().channels.remove(&channel);
        }
        answer
    }

    async fn unsubscribe(&self, channel: Channel) -> Result<()> {
        self.listening().channels.remove(&channel);
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
    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes messages as fast as they come and puts them into our queue. Does nothing else: what it does not take in
    /// time is lost.
    async fn dispatch(self: Arc<Self>, mut messages: Receiver<Message>, stop: CancellationToken) {
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                message = messages.recv() => message,
            };
            match message {
                Ok(message) => self.hear(message),
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "messages of the subscription were lost: we are too slow");
                    self.listening().outlet.send(Incoming::Interrupted(Interruption::Lagged));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn hear(&self, message: Message) {
        let Some(channel) = self.redis.channels.parse(&message.channel) else { return };
        let Some(payload) = message.value.into_bytes() else { return };
        let mut listening = self.listening();
        // Left meanwhile, or never wanted by a subscriber whose request failed: a stray.
        if listening.channels.contains(&channel) && !listening.is_restoring {
            listening.outlet.send(Incoming::Message { channel, payload });
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
            self.listening().is_restoring = true;
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
            let wanted: Vec<_> = self.listening().channels.iter().copied().collect();
            let names = wanted.iter().map(|channel| self.redis.channels.name(*channel)).collect();
            let answer = timed("resubscribe", self.subscribe_to(names)).await;
            let is_same_connection = || losses.is_empty() && reconnects.is_empty();
            if answer.is_ok() && is_same_connection() {
                return self.restored(wanted.len());
            }
            sleep(RESUBSCRIBE_PAUSE).await;
            if !is_same_connection() {
                return;
            }
            tracing::warn!(?answer, attempt, "subscribing again failed");
        }
        watchdog::reconnect(&self.subscriber).await;
    }

    fn restored(&self, channels: usize) {
        tracing::info!(channels, "the subscription is in force again");
        let asked_for = self.state.is_asked_for.swap(false, Ordering::Relaxed);
        let why = if asked_for { Interruption::Probe } else { Interruption::Reconnect };
        // First, so that whoever hears of the interruption finds it over.
        self.state.is_broken.store(false, Ordering::Relaxed);
        self.state.is_silent.store(false, Ordering::Relaxed);
        let mut listening = self.listening();
        listening.is_restoring = false;
        listening.outlet.send(Incoming::Interrupted(why));
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
