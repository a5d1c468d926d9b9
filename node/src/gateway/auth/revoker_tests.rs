//! Nodes with one store between them: what one revokes, all know, also after a lost message, a lost store and a restart.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use mille_shared::{TokenId, UserId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::{Backend, Channel, Incoming, PubSub, Shard};

const SWEEP: Duration = Duration::from_secs(60);
const LEEWAY: Duration = Duration::from_secs(5);
const KEPT: Duration = Duration::from_secs(3_600);

/// A line on which control messages can be lost.
struct Line {
    line: Arc<dyn PubSub>,
    is_cut: AtomicBool,
}

#[async_trait]
impl PubSub for Line {
    async fn publish(&self, channel: Channel, message: bytes::Bytes) -> backend::Result<()> {
        if channel == Channel::Control && self.is_cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.line.publish(channel, message).await
    }

    async fn subscribe(&self, channel: Channel) -> backend::Result<()> {
        self.line.subscribe(channel).await
    }

    async fn unsubscribe(&self, channel: Channel) -> backend::Result<()> {
        self.line.unsubscribe(channel).await
    }

    fn shards(&self) -> Vec<Shard> {
        self.line.shards()
    }

    fn shard_of(&self, channel: Channel) -> Option<Shard> {
        self.line.shard_of(channel)
    }

    async fn reconnect(&self, shard: Shard) {
        self.line.reconnect(shard).await;
    }

    fn is_in_force(&self, shard: Shard) -> bool {
        self.line.is_in_force(shard)
    }

    fn incoming(&self) -> Option<tokio::sync::mpsc::Receiver<Incoming>> {
        self.line.incoming()
    }
}

/// A store that does what it is asked at once and says so a second later.
struct Slow(Arc<dyn Revocations>);

#[async_trait]
impl Revocations for Slow {
    async fn revoke(&self, revocation: &Revocation, until: Timestamp) -> backend::Result<bool> {
        let kept = self.0.revoke(revocation, until).await;
        sleep(Duration::from_secs(1)).await;
        kept
    }

    async fn list(&self) -> backend::Result<Vec<(Revocation, Timestamp)>> {
        self.0.list().await
    }
}

struct Node {
    revoker: Revoker,
    revoked: RevokedTokens,
    backend: Backend,
    line: Arc<Line>,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    async fn start(store: &Embedded) -> Self {
        Self::over(store.connect()).await
    }

    async fn over(mut backend: Backend) -> Self {
        let line = Arc::new(Line { line: Arc::clone(&backend.pubsub), is_cut: AtomicBool::new(false) });
        backend.pubsub = line.clone();
        let (stop, tasks, metrics) = (CancellationToken::new(), TaskTracker::new(), Arc::new(Metrics::new()));
        let (bridge, controls) =
            Bridge::start(backend.clone(), Arc::clone(&metrics), &tasks, &stop).await.expect("a bridge");
        let revoked = RevokedTokens::new(LEEWAY);
        let settings = RevokerSettings { sweep: SWEEP, kept: KEPT };
        let store = Arc::clone(&backend.revocations);
        let revoker = Revoker::load(store, bridge, revoked.clone(), settings, metrics).await.expect("loaded");
        let (follower, stopped) = (revoker.clone(), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(follower.follow(controls)).await });
        Self { revoker, revoked, backend, line, stop }
    }

    /// Waits until it knows so many. Time is paused, so a minute is no time at all.
    async fn knows(&self, count: usize, within: Duration) {
        let look = async {
            while self.revoked.len() != count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(within, look).await.expect("in time");
    }

    async fn stored(&self) -> Vec<(Revocation, Timestamp)> {
        self.backend.revocations.list().await.expect("the list")
    }
}

fn ada() -> Revoked {
    Revoked::User(UserId::new("ada"))
}

fn token(id: &str) -> Revoked {
    Revoked::Token(TokenId::new(id))
}

#[tokio::test(start_paused = true)]
async fn what_one_node_revokes_the_others_know_at_once_and_a_later_one_from_its_start() {
    let store = Embedded::new();
    let (here, there) = (Node::start(&store).await, Node::start(&store).await);
    here.revoker.revoke(ada(), None).await.expect("revoked");
    assert_eq!(here.revoked.len(), 1, "here it counts when that is answered");
    there.knows(1, Duration::from_secs(1)).await;
    assert_eq!(Node::start(&store).await.revoked.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_made_good_within_the_sweep() {
    let store = Embedded::new();
    let (here, there) = (Node::start(&store).await, Node::start(&store).await);
    here.line.is_cut.store(true, Ordering::Relaxed);
    here.revoker.revoke(token("a"), None).await.expect("revoked");
    there.knows(1, SWEEP).await;
}

#[tokio::test(start_paused = true)]
async fn after_an_interruption_the_store_is_read_at_once() {
    let store = Embedded::new();
    let (here, there) = (Node::start(&store).await, Node::start(&store).await);
    here.line.is_cut.store(true, Ordering::Relaxed);
    here.revoker.revoke(token("a"), None).await.expect("revoked");
    there.line.reconnect(Shard::ONLY).await;
    there.knows(1, Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_store_lost_is_put_back() {
    let node = Node::start(&Embedded::new()).await;
    // Known here, and not in the store: as after a failover to a replica that lagged.
    let revocation = Revocation { what: token("a"), at: clock::now() };
    let until = clock::now().after(KEPT);
    node.revoked.take(&[(revocation.clone(), until)]);
    let look = async {
        while node.stored().await != [(revocation.clone(), until)] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SWEEP, look).await.expect("within the sweep");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_moved_is_told_to_the_store() {
    let node = Node::start(&Embedded::new()).await;
    node.revoker.revoke(ada(), Some(clock::now().after(Duration::from_secs(60)))).await.expect("revoked");
    let expires_at = u64::try_from(clock::now().unix_ms).expect("after 1970") / 1_000 + 9_000;
    let identity = super::super::Identity {
        user_id: UserId::new("ada"),
        name: None,
        color: None,
        agent: false,
        scopes: super::super::Scopes::default(),
        expires_at,
        issued_at: None,
        token_id: None,
    };
    assert!(node.revoked.find(&identity).is_some());
    let end = i64::try_from((expires_at + LEEWAY.as_secs()) * 1_000).expect("before the end of time");
    let look = async {
        while node.stored().await[0].1.unix_ms != end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(1), look).await.expect("at once");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_have_expired_are_not_revoked() {
    let node = Node::start(&Embedded::new()).await;
    let long_ago = Timestamp::from_unix_ms(clock::now().unix_ms - 3_600_000);
    assert!(matches!(node.revoker.revoke(ada(), Some(long_ago)).await, Err(RevokeError::Expired)));
    assert!(node.stored().await.is_empty() && node.revoked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_is_told_although_nobody_waits_for_the_answer_any_more() {
    let store = Embedded::new();
    let mut slow = store.connect();
    slow.revocations = Arc::new(Slow(slow.revocations));
    let (here, there) = (Node::over(slow).await, Node::start(&store).await);
    let given_up = timeout(Duration::from_millis(100), here.revoker.revoke(token("a"), None)).await;
    assert!(given_up.is_err());
    there.knows(1, Duration::from_secs(2)).await;
    here.knows(1, Duration::ZERO).await;
}
