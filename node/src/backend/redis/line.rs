//! The subscription connection to one server.
//!
//! The client library's `subscribe` returns before the server has it, and it says nothing of messages lost during a
//! reconnect. So: whatever must be in force is followed by a PING on the same connection and counts when that is
//! answered; and after a reconnect we subscribe again ourselves and then say [`Interruption::Reconnect`]. Nothing but
//! subscriptions and PINGs travels on this connection: an answer to anything else could be taken for another's.
//!
//! In a cluster channels are sharded, and each is one server's. SSUBSCRIBE is answered, one by one. SUNSUBSCRIBE is not: if the
//! server refuses it, because the channel is another's by now, the library takes the refusal for the answer to whatever
//! comes next. So every answer here is looked at, whether it is one to what was asked; the watchdog finds what is left.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::clients::SubscriberClient;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, FredResult, PubsubInterface};
use fred::types::config::Server;
use fred::types::{Builder, Message, Value};
use futures_util::future::join_all;
use imbl::HashSet;
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::keys::Channels;
use super::link::Link;
use super::observer::{Connection, Part, RedisObserver as _};
use super::server::{Context, here};
use super::{BROADCAST_MESSAGES_MAX, FAN_OUT_MAX, watchdog};
use crate::backend::incoming::Outlet;
use crate::backend::{Channel, Incoming, Interruption, Reach};

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

/// The one queue of all lines. Held only to put something in.
pub(super) type SharedOutlet = Arc<Mutex<Outlet>>;

/// Connects it. It ends when `stop` is cancelled.
pub(super) async fn open(builder: &Builder, context: &Context, stop: &CancellationToken) -> FredResult<Arc<Line>> {
    let mut builder = builder.clone();
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = BROADCAST_MESSAGES_MAX);
    let subscriber = builder.build_subscriber_client()?;
    let messages = subscriber.message_rx();
    let link = Link::make(subscriber.clone()).await?;
    // From here on only: the first connection interrupts nothing.
    let (losses, reconnects) = (subscriber.error_rx(), subscriber.reconnect_rx());
    let (restored, restorations) = mpsc::channel(RESTORATIONS_UNTOLD_MAX);
    let line = Arc::new(Line {
        names: context.channels.clone(),
        subscriber: subscriber.clone(),
        channels: ArcSwap::default(),
        restorations_begun: AtomicU64::new(0),
        restored,
        outlet: Arc::clone(&context.outlet),
        trouble: Arc::clone(&context.trouble),
        moved: Arc::clone(&context.moved),
        state: State::default(),
        observer: context.tally.part(),
    });
    let tasks = &context.tasks;
    tasks.spawn(link.leave_when_stopped(stop.clone()));
    tasks.spawn(watchdog::watch(subscriber, Arc::clone(&line), stop.clone()));
    tasks.spawn(Arc::clone(&line).dispatch(messages, restorations, stop.clone()));
    tasks.spawn(Arc::clone(&line).keep(losses, reconnects, stop.clone()));
    Ok(line)
}

/// What this node listens to at one server.
pub(super) struct Line {
    names: Channels,
    subscriber: SubscriberClient,
    /// What is listened to here. Looked at with every message, so a look takes no lock.
    channels: ArcSwap<HashSet<Channel>>,
    /// How often subscribing again began. While it is not over, what comes is dropped: the interruption that follows counts for
    /// it, and whoever heard something before it would look for what is missing twice.
    restorations_begun: AtomicU64,
    /// To whoever takes messages.
    restored: mpsc::Sender<Restored>,
    outlet: SharedOutlet,
    /// Told when the server says that a channel is another's.
    trouble: Arc<Notify>,
    /// Told when one was let go that nobody else knows of.
    moved: Arc<Notify>,
    state: State,
    observer: Part,
}

/// What is known of the connection. Told by several tasks, each in its own words.
#[derive(Default)]
struct State {
    /// The connection was lost, and not everything is subscribed to again.
    is_broken: AtomicBool,
    /// The last PING was not answered.
    is_silent: AtomicBool,
    /// Somebody asked for a new connection: see [`Line::reconnect`].
    is_asked_for: AtomicBool,
    /// See [`Line::doubt`].
    is_doubted: AtomicBool,
}

/// A channel that is another server's, and how this one says so.
#[derive(Debug)]
struct Refused {
    channel: Channel,
    error: FredError,
}

/// Everything is subscribed to again.
struct Restored {
    /// The last restoration that had begun by then.
    number: u64,
    why: Interruption,
}

impl Line {
    /// Listens to a channel here. After an error we do not.
    pub(super) async fn subscribe(&self, channel: Channel) -> FredResult<()> {
        // First noted, so that a reconnect in between subscribes it too, and no message of it is taken for a stray.
        self.channels.rcu(|channels| channels.update(channel));
        let answer = match self.subscribe_to(&[channel]).await {
            Ok(refused) => refused.into_iter().next().map_or(Ok(()), |Refused { error, .. }| Err(error)),
            Err(error) => Err(error),
        };
        if answer.is_err() {
            self.forget(channel);
        }
        answer
    }

    /// Listens no more.
    pub(super) async fn unsubscribe(&self, channel: Channel) -> FredResult<()> {
        self.forget(channel);
        let name = self.names.name(channel);
        if self.names.are_sharded() {
            self.subscriber.sunsubscribe(name).await
        } else {
            self.subscriber.unsubscribe(name).await
        }
    }

    /// Listens to channels that another server had, and then says that messages may have been lost on them meanwhile. Answers
    /// how many of them are listened to: the others are another server's by now. After an error it is only some.
    pub(super) async fn take_over(&self, channels: &[Channel]) -> FredResult<usize> {
        self.channels.rcu(|all| channels.iter().fold(HashSet::clone(all), |all, channel| all.update(*channel)));
        let (mut taken, mut failure) = (Vec::with_capacity(channels.len()), None);
        for some in channels.chunks(SUBSCRIBE_CHANNELS_MAX) {
            if failure.is_none() {
                match self.subscribe_to(some).await {
                    Ok(refused) => {
                        self.let_go(&refused);
                        let is_refused = |channel: &Channel| refused.iter().any(|refused| refused.channel == *channel);
                        taken.extend(some.iter().copied().filter(|channel| !is_refused(channel)));
                        continue;
                    }
                    Err(error) => failure = Some(error),
                }
            }
            some.iter().for_each(|channel| self.forget(*channel));
        }
        let count = taken.len();
        if count > 0 {
            let reach = self.reach(taken);
            self.outlet.lock().send(Incoming::Interrupted { why: Interruption::Moved, reach });
        }
        failure.map_or(Ok(count), Err)
    }

    /// Doubts that the server still has all of this: it may have given a slot away and got it back, and the client library drops
    /// what a server says when it ends a subscription.
    pub(super) fn doubt(&self) {
        self.state.is_doubted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.state.is_doubted.load(Ordering::Relaxed)
    }

    /// Looks whether the server has as many subscriptions as it should, and subscribes again if not. Answers whether all that
    /// is listened to here is now.
    pub(super) async fn look_after(&self) -> bool {
        self.state.is_doubted.store(false, Ordering::Relaxed);
        let channels: Vec<Channel> = self.channels.load().iter().copied().collect();
        // Best with the probe's: if that is what was lost, it is subscribed again with this, and nobody need be told.
        let probe = channels.iter().find(|channel| matches!(channel, Channel::Probe(_)));
        let Some(any) = probe.or(channels.first()) else { return true };
        // To subscribe twice changes nothing, and the answer counts all of them.
        let count = self.subscribe_to_shard(self.names.name(*any)).await;
        let has_all = count.is_ok_and(|count| usize::try_from(count) == Ok(channels.len()));
        has_all || self.take_over(&channels).await.is_ok_and(|taken| taken == channels.len())
    }

    /// Makes the connection anew, since it seems to deliver nothing.
    pub(super) async fn reconnect(&self) {
        // While the client is at it, it would take the wish as one for yet another connection.
        if self.subscriber.is_connected() {
            self.state.is_asked_for.store(true, Ordering::Relaxed);
            watchdog::reconnect(&self.subscriber).await;
        }
    }

    /// Whether messages come in, as far as is known.
    pub(super) fn is_in_force(&self) -> bool {
        let State { is_broken, is_silent, .. } = &self.state;
        self.subscriber.is_connected() && !is_broken.load(Ordering::Relaxed) && !is_silent.load(Ordering::Relaxed)
    }

    /// What is listened to here.
    pub(super) fn channels(&self) -> Arc<HashSet<Channel>> {
        self.channels.load_full()
    }

    /// Takes what comes on a channel for a stray from now on.
    pub(super) fn forget(&self, channel: Channel) {
        self.channels.rcu(|channels| channels.without(&channel));
    }

    /// Without shards there is one line, and whatever it missed may concern everyone.
    fn reach(&self, channels: Vec<Channel>) -> Reach {
        if self.names.are_sharded() { Reach::Only(channels.into()) } else { Reach::Everything }
    }

    /// Takes messages as fast as they come and puts them into our queue. Does nothing else: what it does not take in
    /// time is lost.
    async fn dispatch(
        self: Arc<Self>,
        mut messages: Receiver<Message>,
        mut restorations: mpsc::Receiver<Restored>,
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
                    self.interrupt(why);
                    continue;
                }
                message = messages.recv() => message,
            };
            match message {
                Ok(message) if self.restorations_begun.load(Ordering::Acquire) == restorations_over => {
                    self.hear(message);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "messages of the subscription were lost: we are too slow");
                    self.interrupt(Interruption::Lagged);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn interrupt(&self, why: Interruption) {
        let reach = self.reach(self.channels.load().iter().copied().collect());
        self.outlet.lock().send(Incoming::Interrupted { why, reach });
    }

    fn hear(&self, message: Message) {
        let Some(channel) = self.names.parse(&message.channel) else { return };
        // Left meanwhile, or never wanted by a subscriber whose request failed: a stray.
        if !self.channels.load().contains(&channel) {
            return;
        }
        if let Some(payload) = message.value.into_bytes() {
            self.outlet.lock().send(Incoming::Message { channel, payload });
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
            let answer = self.subscribe_to(&wanted).await;
            let is_same_connection = || losses.is_empty() && reconnects.is_empty();
            if let Ok(refused) = &answer
                && is_same_connection()
            {
                self.let_go(refused);
                self.tell_restored(wanted.len() - refused.len()).await;
                if !refused.is_empty() {
                    self.moved.notify_one();
                }
                return;
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

    /// Takes for strays what this server says is another's, and has it looked whose.
    fn let_go(&self, refused: &[Refused]) {
        let Some(Refused { error, .. }) = refused.first() else { return };
        tracing::warn!(%error, channels = refused.len(), "channels are another server's by now");
        for Refused { channel, .. } in refused {
            self.forget(*channel);
        }
        self.trouble.notify_one();
    }

    /// Subscribes, and waits until the server has it. Answers what it refused because another server has it; everything else
    /// is listened to.
    async fn subscribe_to(&self, channels: &[Channel]) -> FredResult<Vec<Refused>> {
        if !self.names.are_sharded() {
            for some in channels.chunks(SUBSCRIBE_CHANNELS_MAX) {
                let names: Vec<_> = some.iter().map(|channel| self.names.name(*channel)).collect();
                self.subscriber.subscribe(names).await?;
            }
            // It answers in the order of asking.
            return self.subscriber.ping::<Value>(None).await.map(|_| Vec::new());
        }
        let mut refused = Vec::new();
        for some in channels.chunks(FAN_OUT_MAX) {
            let answers = join_all(some.iter().map(|channel| self.subscribe_to_shard(self.names.name(*channel)))).await;
            for (channel, answer) in some.iter().zip(answers) {
                match answer {
                    Err(error) if error.is_moved() => refused.push(Refused { channel: *channel, error }),
                    answer => drop(answer?),
                }
            }
        }
        Ok(refused)
    }

    /// One channel at a time: those of a call must be of one slot, and each has an answer of its own. Answers how many
    /// subscriptions the connection has then.
    async fn subscribe_to_shard(&self, name: String) -> FredResult<u64> {
        let answer: Value = self.subscriber.custom(here("ssubscribe"), vec![Value::from(name.as_str())]).await?;
        match answer.into_array().as_slice() {
            [_, channel, count] if channel.as_bytes() == Some(name.as_bytes()) => count.clone().convert(),
            // From here on every answer would be another's.
            _ => {
                watchdog::reconnect(&self.subscriber).await;
                Err(FredError::new(ErrorKind::Protocol, "the answer to another subscription"))
            }
        }
    }
}

/// Takes what waits, and leaves it at that.
pub(super) fn forget<T: Clone>(events: &mut Receiver<T>) {
    while matches!(events.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
}

impl watchdog::Watched for Line {
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
