//! What users get here, with a store of one process.

use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::{self, OperationsLease, PlacesClaim};

/// A store that never answers.
struct Silent;

#[async_trait]
impl Quotas for Silent {
    async fn lease_operations(&self, _: &UserId, _: u32, _: u32, _: u32) -> backend::Result<OperationsLease> {
        std::future::pending().await
    }

    async fn hold_places(&self, _: &UserId, _: &NodeId, _: PlacesClaim) -> backend::Result<u32> {
        std::future::pending().await
    }
}

/// A store behind a long line.
pub(super) struct Slow(pub(super) Arc<dyn Quotas>);

impl Slow {
    const DELAY: Duration = Duration::from_millis(20);
}

#[async_trait]
impl Quotas for Slow {
    async fn lease_operations(
        &self,
        user: &UserId,
        per_second: u32,
        burst: u32,
        asked: u32,
    ) -> backend::Result<OperationsLease> {
        tokio::time::sleep(Self::DELAY).await;
        self.0.lease_operations(user, per_second, burst, asked).await
    }

    async fn hold_places(&self, user: &UserId, node: &NodeId, claim: PlacesClaim) -> backend::Result<u32> {
        tokio::time::sleep(Self::DELAY).await;
        self.0.hold_places(user, node, claim).await
    }
}

fn settings() -> QuotaSettings {
    QuotaSettings { operations: Rate { per_second: 100, burst: 200 }, connections_max: 10, ..QuotaSettings::default() }
}

fn quotas(store: Arc<dyn Quotas>, node: &str) -> UserQuotas {
    UserQuotas::new(store, NodeId::of(node, "1"), settings(), Arc::new(Metrics::new()), TaskTracker::new())
}

#[tokio::test(start_paused = true)]
async fn one_user_on_two_nodes_is_held_to_one_limit_and_others_are_not_touched() {
    let store = Embedded::new();
    let nodes = [quotas(store.connect().quotas, "a"), quotas(store.connect().quotas, "b")];
    let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
    let mut begun = 0;
    for attempt in 0..1_000 {
        begun += usize::from(nodes[attempt % 2].begin_operation(&ada).await.is_ok());
    }
    assert!((200..=215).contains(&begun), "{begun}: a burst of 200, and 1/32 of it on each node");
    let excess = nodes[0].begin_operation(&ada).await.expect_err("too many");
    assert_eq!((excess.name, excess.limit), (LimitName::UserOperations, 100));
    assert!(excess.retry_after.is_some_and(|wait| wait <= Duration::from_secs(1)), "{excess:?}");
    assert!(nodes[0].begin_operation(&bob).await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(nodes[0].begin_operation(&ada).await.is_ok(), "time helps");
}

#[tokio::test(start_paused = true)]
async fn places_come_back_when_connections_end() {
    let store = Embedded::new();
    let nodes = [quotas(store.connect().quotas, "a"), quotas(store.connect().quotas, "b")];
    let ada = UserId::new("ada");
    let mut places = Vec::new();
    for _ in 0..10 {
        places.push(nodes[0].connection(&ada).await.expect("a place"));
    }
    let excess = nodes[0].connection(&ada).await.err().expect("no place is left");
    assert_eq!((excess.name, excess.limit, excess.retry_after), (LimitName::UserConnections, 10, None));
    let _free = nodes[1].connection(&ada).await.expect("each node gives a little by itself");
    assert!(nodes[1].connection(&ada).await.is_err());
    places.clear();
    let mut again = Vec::new();
    // The store learns of it in the background.
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        again.push(nodes[1].connection(&ada).await.expect("what the other node had is free"));
    }
    assert!(nodes[1].connection(&ada).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_keeps_nobody_out_and_holds_nobody_up_for_long() {
    let quotas = quotas(Arc::new(Silent), "a");
    let ada = UserId::new("ada");
    let began = Instant::now();
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(quotas.connection(&ada).await.expect("in"));
    }
    for _ in 0..10 {
        assert!(quotas.begin_operation(&ada).await.is_ok());
    }
    assert!(began.elapsed() <= 10 * limits::REDIS_COMMAND_TIMEOUT, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn also_without_an_answer_a_node_lets_in_no_more_than_there_may_be() {
    let quotas = quotas(Arc::new(Silent), "a");
    let ada = UserId::new("ada");
    let together = futures_util::future::join_all((0..50).map(|_| quotas.connection(&ada))).await;
    assert_eq!(together.iter().filter(|place| place.is_ok()).count(), 10);
    drop(together);
    assert!(quotas.connection(&ada).await.is_ok(), "who left makes room");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_leaves_no_trace() {
    let quotas = quotas(Arc::new(Silent), "a");
    let ada = UserId::new("ada");
    let first = quotas.connection(&ada).await.expect("the free one");
    assert!(tokio::time::timeout(Duration::from_millis(10), quotas.connection(&ada)).await.is_err());
    assert_eq!(quotas.inner.places.lock()[&ada].waiting(), 0);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn who_is_idle_is_forgotten() {
    let quotas = quotas(Embedded::new().connect().quotas, "a");
    let (stop, ada) = (CancellationToken::new(), UserId::new("ada"));
    let running = tokio::spawn(quotas.clone().run(stop.clone()));
    for _ in 0..50 {
        assert!(quotas.begin_operation(&ada).await.is_ok());
    }
    let places = [quotas.connection(&ada).await.expect("one"), quotas.connection(&ada).await.expect("two")];
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((quotas.inner.operations.lock().len(), quotas.inner.places.lock().len()), (0, 1));
    drop(places);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(quotas.inner.places.lock().len(), 0);
    stop.cancel();
    running.await.expect("it ends");
}
