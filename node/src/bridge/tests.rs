//! The bridge over the embedded backend, behind a line and a log that can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use mille_shared::log::{
    ChainHash, CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, StoredSnapshot,
    Terms,
};
use mille_shared::{PlanId, Revision, limits};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::{Backend, EventLog, Lane, Noted, PubSub, Result};

const PLAN: PlanId = PlanId(1);
const OTHER: PlanId = PlanId(2);

/// A node's line, which can be deaf, be down, or not answer.
struct Line {
    line: Arc<dyn PubSub>,
    is_deaf: AtomicBool,
    is_down: AtomicBool,
    reconnects: AtomicUsize,
    /// Subscribing to [`PLAN`] takes one of these.
    answers: Semaphore,
    is_asked: watch::Sender<usize>,
}

#[async_trait]
impl PubSub for Line {
    async fn publish(&self, channel: Channel, message: Bytes) -> Result<()> {
        if self.is_deaf.load(Ordering::Relaxed) { Ok(()) } else { self.line.publish(channel, message).await }
    }

    async fn subscribe(&self, channel: Channel) -> Result<()> {
        if channel == Channel::Plan(PLAN) {
            self.is_asked.send_modify(|asked| *asked += 1);
            self.answers.acquire().await.expect("never closed").forget();
        }
        self.line.subscribe(channel).await
    }

    async fn unsubscribe(&self, channel: Channel) -> Result<()> {
        self.line.unsubscribe(channel).await
    }

    fn shards(&self) -> Vec<Shard> {
        self.line.shards()
    }

    fn shard_of(&self, channel: Channel) -> Option<Shard> {
        self.line.shard_of(channel)
    }

    async fn reconnect(&self, shard: Shard) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
        self.is_deaf.store(false, Ordering::Relaxed);
        self.line.reconnect(shard).await;
    }

    fn is_in_force(&self, _shard: Shard) -> bool {
        !self.is_down.load(Ordering::Relaxed)
    }

    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.line.incoming()
    }
}

/// A log that only knows heads, and says how often it was asked. An answer takes one of `answers`.
struct Heads {
    is_asked: watch::Sender<usize>,
    answers: Semaphore,
}

#[async_trait]
impl EventLog for Heads {
    async fn create(&self, _: PlanId, _: u64, _: Proposal) -> Result<Head> {
        unreachable!("the bridge asks for heads only")
    }

    async fn commit(&self, _: PlanId, _: Head, _: &[Proposal], _: &Terms) -> Result<CommitOutcome> {
        unreachable!("the bridge asks for heads only")
    }

    async fn range(&self, _: PlanId, _: Option<Revision>, _: usize, _: Lane) -> Result<LogPage> {
        unreachable!("the bridge asks for heads only")
    }

    fn lives(&self) -> BoxStream<'static, StoreLife> {
        stream::iter([StoreLife::new("life")]).boxed()
    }

    async fn heads(&self, plans: &[PlanId]) -> Result<Vec<Option<LogState>>> {
        let asked = *self.is_asked.borrow();
        self.is_asked.send_modify(|asked| *asked += 1);
        self.answers.acquire().await.expect("never closed").forget();
        // The head tells which question it answers.
        let head = Head { revision: Revision { epoch: 1, seq: asked as u64 }, hash: ChainHash::ROOT };
        Ok(vec![Some(LogState { head: Some(head), life: StoreLife::new("life") }); plans.len()])
    }

    async fn revive(
        &self,
        _: PlanId,
        _: StoredSnapshot,
        _: &[(LogEntry, OperationKey)],
        _: Option<&StoreLife>,
    ) -> Result<LogState> {
        unreachable!("the bridge asks for heads only")
    }

    async fn find(&self, _: PlanId, _: &OperationKey) -> Result<Option<Revision>> {
        unreachable!("the bridge asks for heads only")
    }

    async fn note_unchanged(&self, _: PlanId, _: &OperationKey, _: Head) -> Result<Noted> {
        unreachable!("the bridge asks for heads only")
    }

    async fn delete(&self, _: PlanId) -> Result<()> {
        unreachable!("the bridge asks for heads only")
    }
}

struct Bench {
    bridge: Bridge,
    line: Arc<Line>,
    heads: Arc<Heads>,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// As many answers as anyone may want.
const MANY: usize = 1_000_000;

impl Bench {
    async fn start(subscribe_answers: usize, head_answers: usize) -> Self {
        let mut backend: Backend = Embedded::new().connect();
        let line = Arc::new(Line {
            line: Arc::clone(&backend.pubsub),
            is_deaf: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            reconnects: AtomicUsize::new(0),
            answers: Semaphore::new(subscribe_answers),
            is_asked: watch::Sender::new(0),
        });
        let heads = Arc::new(Heads { is_asked: watch::Sender::new(0), answers: Semaphore::new(head_answers) });
        (backend.pubsub, backend.log) = (line.clone(), heads.clone());
        let stop = CancellationToken::new();
        let (bridge, _) =
            Bridge::start(backend, Arc::new(Metrics::new()), &TaskTracker::new(), &stop).await.expect("a bridge");
        Self { bridge, line, heads, stop }
    }

    async fn listen(&self, plan: PlanId) -> (FeedSender, Feed) {
        let (sender, feed) = self.bridge.feed();
        self.bridge.listen(Channel::Plan(plan), &sender).await.expect("listened to");
        (sender, feed)
    }

    fn heads_asked(&self) -> usize {
        *self.heads.is_asked.borrow()
    }

    /// Waits until the heads were asked for so often.
    async fn asked(&self, times: usize) {
        let mut asked = self.heads.is_asked.subscribe();
        soon(asked.wait_for(|asked| *asked >= times)).await.expect("the log lives");
    }
}

/// What must happen. Time is paused, so this is no time at all.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(600), future).await.expect("it happens")
}

/// The number of the question that the next head answers.
async fn next_head(feed: &mut Feed) -> u64 {
    loop {
        if let Heard::Head { state, .. } = soon(feed.next()).await {
            return state.head.expect("a head").revision.seq;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_listens_again_before_it_forgets_still_hears() {
    let bench = Bench::start(MANY, MANY).await;
    let (sender, mut feed) = bench.listen(PLAN).await;
    let channel = Channel::Plan(PLAN);
    bench.bridge.listen(channel, &sender).await.expect("listened to");
    bench.bridge.forget(channel, &sender).await;
    assert_eq!(bench.bridge.open_plans(), 1);
    bench.line.publish(channel, "news".into()).await.expect("published");
    soon(async { while !matches!(feed.next().await, Heard::Message { .. }) {} }).await;
    bench.bridge.forget(channel, &sender).await;
    assert_eq!(bench.bridge.open_plans(), 0);
    assert_eq!(bench.bridge.inner.turns.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_can_not_be_subscribed_to_holds_up_no_other() {
    let bench = Bench::start(0, MANY).await;
    let (sender, _feed) = bench.bridge.feed();
    let opening = bench.bridge.listen(Channel::Plan(PLAN), &sender);
    let others = async {
        let mut asked = bench.line.is_asked.subscribe();
        soon(asked.wait_for(|asked| *asked == 1)).await.expect("it is being opened");
        let (other, _feed) = bench.listen(OTHER).await;
        bench.bridge.forget(Channel::Plan(OTHER), &other).await;
        // Its own channel is changed by one at a time.
        let again = bench.bridge.forget(Channel::Plan(PLAN), &sender);
        assert!(timeout(Duration::from_secs(60), again).await.is_err(), "who forgets waits until it is listened to");
        bench.line.answers.add_permits(1);
    };
    let (opened, ()) = tokio::join!(opening, others);
    opened.expect("listened to in the end");
    bench.bridge.forget(Channel::Plan(PLAN), &sender).await;
    assert_eq!((bench.bridge.open_plans(), bench.bridge.inner.turns.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn after_an_interruption_heads_are_told_at_once_and_none_that_was_asked_for_before() {
    let bench = Bench::start(MANY, 0).await;
    let (_sender, mut feed) = bench.listen(PLAN).await;
    // A question is under way while the interruption comes.
    bench.asked(1).await;
    bench.line.reconnect(Shard::ONLY).await;
    assert!(matches!(soon(feed.next()).await, Heard::Interrupted { why: Interruption::Probe, .. }));
    let interrupted = Instant::now();
    bench.heads.answers.add_permits(MANY);
    assert_eq!(next_head(&mut feed).await, 1, "the answer to the first question is not told");
    assert!(interrupted.elapsed() <= limits::HEAD_CHECK_JITTER, "{:?}", interrupted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn heads_are_held_back_while_the_subscription_is_down_but_not_for_ever() {
    let bench = Bench::start(MANY, MANY).await;
    let (_sender, mut feed) = bench.listen(PLAN).await;
    next_head(&mut feed).await;

    // A short outage: nothing is asked until messages come again, and then at once.
    bench.line.is_down.store(true, Ordering::Relaxed);
    assert!(timeout(Duration::from_secs(3), feed.next()).await.is_err(), "no head during an outage");
    bench.line.is_down.store(false, Ordering::Relaxed);
    bench.line.reconnect(Shard::ONLY).await;
    let back = Instant::now();
    next_head(&mut feed).await;
    assert!(back.elapsed() <= limits::HEAD_CHECK_JITTER, "{:?}", back.elapsed());

    // A long one: the checks go on, and this node catches up by them.
    bench.line.is_down.store(true, Ordering::Relaxed);
    let down = Instant::now();
    next_head(&mut feed).await;
    assert!(down.elapsed() >= limits::HEADS_HELD_MAX, "{:?}", down.elapsed());
    let asked = bench.heads_asked();
    bench.asked(asked + 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_delivers_nothing_is_made_anew() {
    let bench = Bench::start(MANY, MANY).await;
    let (_sender, mut feed) = bench.listen(PLAN).await;
    next_head(&mut feed).await;
    bench.line.is_deaf.store(true, Ordering::Relaxed);
    let deaf = Instant::now();
    soon(async { while !matches!(feed.next().await, Heard::Interrupted { why: Interruption::Probe, .. }) {} }).await;
    let took = deaf.elapsed();
    assert!(took >= limits::PROBE_DEAF_AFTER && took <= limits::PROBE_DEAF_AFTER * 2, "{took:?}");
    // It delivers again, and is left alone.
    let asked = bench.heads_asked();
    bench.asked(asked + 100).await;
    assert_eq!(bench.line.reconnects.load(Ordering::Relaxed), 1);
    assert!(bench.bridge.delivery_age() <= 2 * limits::HEAD_CHECK_INTERVAL, "{:?}", bench.bridge.delivery_age());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_down_is_not_called_deaf_until_it_is_down_for_long() {
    let bench = Bench::start(MANY, MANY).await;
    bench.line.is_deaf.store(true, Ordering::Relaxed);
    bench.line.is_down.store(true, Ordering::Relaxed);
    let (_sender, mut feed) = bench.listen(PLAN).await;
    let down = Instant::now();
    soon(async { while !matches!(feed.next().await, Heard::Interrupted { why: Interruption::Probe, .. }) {} }).await;
    assert!(down.elapsed() >= limits::HEADS_HELD_MAX + limits::PROBE_DEAF_AFTER, "{:?}", down.elapsed());
    assert_eq!(bench.line.reconnects.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn interruptions_without_end_hold_up_no_check() {
    let bench = Bench::start(MANY, MANY).await;
    let (_sender, _feed) = bench.listen(PLAN).await;
    let asked = bench.heads_asked();
    let mut pace = interval(Duration::from_millis(1));
    let interrupted = async {
        loop {
            pace.tick().await;
            bench.line.reconnect(Shard::ONLY).await;
        }
    };
    tokio::select! {
        () = interrupted => {}
        checked = timeout(Duration::from_secs(10), bench.asked(asked + 20)) => checked.expect("checks go on"),
    }
}
