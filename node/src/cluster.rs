//! The cluster as this node sees it: who is alive, and who is gone.
//!
//! Every node holds a lease that it renews; who stops renewing is suspect, then gone. Nobody is asked, nobody is elected.
//! What must happen when a node is gone is the projects' affair.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mille_shared::{NodeId, Timestamp, limits};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{self, Backend, StoreStatus};
use crate::beat;
use crate::clock;
use crate::project::Projects;
use crate::vigil::Part;

/// The cluster as this node sees it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    node: NodeId,
    address: String,
    started_at: Timestamp,
    lease: Duration,
    draining: AtomicBool,
    load: Box<dyn Fn() -> Load + Send + Sync>,
    renewed: Mutex<Instant>,
    /// Why the last renewal failed, if it did.
    failure: Mutex<Option<String>>,
    /// How long the last renewal took, in microseconds.
    latency_us: AtomicU64,
    /// Whose leases held when they were last looked at, with their records.
    looked: Mutex<Vec<(NodeId, Arc<str>)>>,
}

/// What a node carries, as it tells the others with its lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Open sockets and event streams.
    pub connections: i32,
    /// Open subscriptions.
    pub subscriptions: i32,
    /// Open plans.
    pub plans: i32,
}

/// A node's record beside its lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    address: String,
    version: String,
    started_at: Timestamp,
    renewed_at: Timestamp,
    draining: bool,
    lag_ms: f64,
    load: Load,
}

/// How a node is, as another sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It renews its lease.
    Up,
    /// It missed renewals; its lease still holds.
    Suspect,
    /// It is being taken out.
    Draining,
}

/// A node, as another sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Which version it runs.
    pub version: String,
    /// Since when.
    pub started_at: Timestamp,
    /// How it is.
    pub state: NodeState,
    /// What it carries.
    pub load: Load,
    /// How long the store took to answer it, in milliseconds.
    pub lag_ms: f64,
}

/// The whole cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Its nodes, ordered by id.
    pub nodes: Vec<NodeView>,
    /// Its store.
    pub redis: StoreStatus,
}

/// Which nodes are known to live, and which were taken for dead.
#[derive(Debug, Default)]
struct Census {
    /// And whether they are on their way out.
    alive: BTreeMap<NodeId, bool>,
    /// The last of them, oldest first.
    gone: VecDeque<NodeId>,
    paused_until: Option<Instant>,
}

/// What a look at the leases brought.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    gone: Vec<NodeId>,
    /// Gone, after they had said that they go.
    departed: Vec<NodeId>,
    back: Vec<NodeId>,
}

/// Dead nodes that are remembered. A node that comes back after so many deaths of others is believed after a while only.
const GONE_NODES_MAX: usize = 256;

impl Census {
    /// Nobody is taken for dead until then: who could not renew its own lease, nor could others, and they get the time to.
    fn pause(&mut self, until: Instant) {
        self.paused_until = Some(until);
    }

    fn take(&mut self, now: Instant, alive: BTreeMap<NodeId, bool>) -> Changes {
        let back: Vec<NodeId> = self.gone.iter().filter(|node| alive.contains_key(*node)).cloned().collect();
        self.gone.retain(|node| !alive.contains_key(node));
        self.paused_until.take_if(|until| *until <= now);
        if self.paused_until.is_some() {
            self.alive.extend(alive);
            return Changes { back, ..Changes::default() };
        }
        let missed = std::mem::replace(&mut self.alive, alive);
        let missed = missed.into_iter().filter(|(node, _)| !self.alive.contains_key(node));
        let (departed, gone): (Vec<_>, Vec<_>) = missed.partition(|(_, draining)| *draining);
        let ids = |nodes: Vec<(NodeId, bool)>| nodes.into_iter().map(|(node, _)| node).collect::<Vec<_>>();
        let (departed, gone) = (ids(departed), ids(gone));
        self.gone.extend(gone.iter().chain(&departed).cloned());
        let surplus = self.gone.len().saturating_sub(GONE_NODES_MAX);
        self.gone.drain(..surplus);
        Changes { gone, departed, back }
    }
}

/// How often it is looked who holds a lease. A dead node's people are gone so much after its lease at most. It costs one
/// small question and one per node, and is no part of the renewal, which comes half as often and may take its time.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Missed renewals after which a node is suspect.
const SUSPECT_AFTER: Duration = Duration::from_millis(limits::HEARTBEAT_INTERVAL.as_millis() as u64 * 5 / 2);

impl Cluster {
    /// The cluster as seen by `node`, which listens on `address`. Nothing is renewed before [`Self::run`].
    #[must_use]
    pub fn new(
        backend: Backend,
        node: NodeId,
        address: String,
        lease: Duration,
        load: impl Fn() -> Load + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            backend,
            node,
            address,
            started_at: clock::now(),
            lease,
            draining: AtomicBool::new(false),
            load: Box::new(load),
            renewed: Mutex::new(Instant::now()),
            failure: Mutex::default(),
            latency_us: AtomicU64::new(0),
            looked: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes the lease, before the first client comes.
    ///
    /// # Errors
    /// [`backend::Error`] if the store does not answer.
    pub async fn join(&self) -> backend::Result<()> {
        self.renew().await
    }

    /// Renews the lease and this node's presences, and tells the projects of nodes that are gone, until `stop`.
    pub async fn run(self, projects: Projects, stop: CancellationToken) {
        let census = Mutex::default();
        tokio::join!(self.keep_lease(&projects, &census, &stop), self.watch_others(&projects, &census, &stop));
    }

    /// How often the lease is renewed.
    fn renewal_interval(&self) -> Duration {
        limits::HEARTBEAT_INTERVAL.min(self.inner.lease / 4)
    }

    async fn keep_lease(&self, projects: &Projects, census: &Mutex<Census>, stop: &CancellationToken) {
        let interval = self.renewal_interval();
        let mut ticks = beat::ticks(interval);
        let pulse = projects.metrics().vigil.pulse(Part::Heartbeat);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            pulse.beat();
            let silence = self.renewed_age();
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the lease was not renewed");
                *self.inner.failure.lock() = Some(error.to_string());
                continue;
            }
            if silence > 2 * interval {
                census.lock().pause(Instant::now() + 2 * interval);
            }
            if let Err(error) = projects.renew_presence().await {
                tracing::warn!(%error, "presences were not renewed");
            }
        }
    }

    async fn watch_others(&self, projects: &Projects, census: &Mutex<Census>, stop: &CancellationToken) {
        let mut ticks = beat::ticks(LOOK_INTERVAL.min(self.inner.lease / 8));
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let Ok(leases) = self.look().await else { continue };
            // Who could not renew its own lease judges nobody before it can.
            if self.renewed_age() > 2 * self.renewal_interval() {
                continue;
            }
            let is_draining =
                |text: &str| serde_json::from_str(text).is_ok_and(|Record { draining, .. }: Record| draining);
            let alive = leases.into_iter().map(|(id, text)| (id, is_draining(&text))).collect();
            let Changes { gone, departed, back } = census.lock().take(Instant::now(), alive);
            if !back.is_empty() {
                tracing::info!(nodes = ?back, "nodes are back that seemed gone");
                projects.nodes_back(&back);
            }
            if !departed.is_empty() {
                tracing::info!(nodes = ?departed, "nodes have left");
                projects.nodes_departed(&departed);
            }
            if !gone.is_empty() {
                tracing::info!(nodes = ?gone, "nodes are gone");
                projects.nodes_gone(&gone);
            }
        }
    }

    /// Gives the lease back: nothing of this node's is left.
    pub async fn leave(&self) {
        if let Err(error) = self.inner.backend.leases.release(&self.inner.node).await {
            tracing::info!(%error, "the lease was not given back; it expires by itself");
        }
    }

    /// Says at once that this node is being taken out, and if that fails with the next renewal, unless it has to `stop` before.
    pub async fn start_drain(&self, stop: &CancellationToken) {
        self.inner.draining.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = stop.run_until_cancelled(self.renew()).await {
            tracing::info!(%error, "the others hear with the next renewal that this node leaves");
        }
    }

    /// Whether this node is being taken out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }

    /// How long ago the lease was last renewed.
    #[must_use]
    pub fn renewed_age(&self) -> Duration {
        self.inner.renewed.lock().elapsed()
    }

    /// Why the last renewal failed, if it did.
    #[must_use]
    pub fn renewal_failure(&self) -> Option<String> {
        self.inner.failure.lock().clone()
    }

    /// The cluster now, and while the store does not answer as it was when it last did: then nobody's lease is young.
    pub async fn view(&self) -> ClusterView {
        let now = clock::now();
        let leases = match self.look().await {
            Ok(leases) => leases,
            Err(_) => self.inner.looked.lock().clone(),
        };
        let nodes = leases.into_iter().filter_map(|(id, text)| {
            let record: Record = serde_json::from_str(&text).ok()?;
            let age_ms = now.unix_ms.saturating_sub(record.renewed_at.unix_ms);
            let late = u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > SUSPECT_AFTER.as_millis());
            let state = match record.draining {
                true => NodeState::Draining,
                false if late => NodeState::Suspect,
                false => NodeState::Up,
            };
            let Record { address, version, started_at, load, lag_ms, .. } = record;
            Some(NodeView { id, address, version, started_at, state, load, lag_ms })
        });
        ClusterView { nodes: nodes.collect(), redis: self.inner.backend.leases.status().await }
    }

    /// Whose leases hold. Whoever looks, it is kept: what was shown once is shown also when the store is gone.
    async fn look(&self) -> backend::Result<Vec<(NodeId, Arc<str>)>> {
        let leases = self.inner.backend.leases.list().await?;
        self.inner.looked.lock().clone_from(&leases);
        Ok(leases)
    }

    async fn renew(&self) -> backend::Result<()> {
        let inner = &self.inner;
        let lag_ms = inner.latency_us.load(Ordering::Relaxed) as f64 / 1_000.0;
        let record = Record {
            address: inner.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: inner.started_at,
            renewed_at: clock::now(),
            draining: self.is_draining(),
            lag_ms,
            load: (inner.load)(),
        };
        let record = serde_json::to_string(&record).map_err(|error| backend::Error::Corrupt(error.to_string()))?;
        let asked = Instant::now();
        inner.backend.leases.renew(&inner.node, &record, inner.lease).await?;
        inner.latency_us.store(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        *inner.renewed.lock() = Instant::now();
        *inner.failure.lock() = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeMap<NodeId, bool> {
        names.iter().map(|name| (NodeId::of(name, "1"), false)).collect()
    }

    fn changes(gone: &[&str], back: &[&str]) -> Changes {
        let ids = |names: &[&str]| nodes(names).into_keys().collect();
        Changes { gone: ids(gone), departed: Vec::new(), back: ids(back) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_had_said_that_it_goes_has_departed() {
        let (mut census, now) = (Census::default(), Instant::now());
        let mut alive = nodes(&["a", "b", "c"]);
        census.take(now, alive.clone());
        alive.insert(NodeId::of("b", "1"), true);
        census.take(now, alive);
        let departed = vec![NodeId::of("b", "1")];
        assert_eq!(census.take(now, nodes(&["a"])), Changes { departed, ..changes(&["c"], &[]) });
        assert_eq!(census.take(now, nodes(&["a", "b"])), changes(&[], &["b"]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_renewing_is_gone_once_and_who_renews_again_is_back() {
        let (mut census, now) = (Census::default(), Instant::now());
        assert_eq!(census.take(now, nodes(&["a", "b"])), changes(&[], &[]));
        assert_eq!(census.take(now, nodes(&["a"])), changes(&["b"], &[]));
        assert_eq!(census.take(now, nodes(&["a"])), changes(&[], &[]));
        assert_eq!(census.take(now, nodes(&["a", "b", "c"])), changes(&[], &["b"]));
        assert_eq!(census.take(now, nodes(&["a", "b", "c"])), changes(&[], &[]));
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_outage_of_the_store_nobody_is_dead_before_all_had_the_time_to_renew() {
        let (mut census, now) = (Census::default(), Instant::now());
        census.take(now, nodes(&["a", "b", "c"]));
        census.pause(now + Duration::from_secs(4));
        assert_eq!(census.take(now + Duration::from_secs(1), nodes(&["a"])), changes(&[], &[]));
        assert_eq!(census.take(now + Duration::from_secs(3), nodes(&["a", "b"])), changes(&[], &[]));
        assert_eq!(census.take(now + Duration::from_secs(5), nodes(&["a", "b"])), changes(&["c"], &[]));
    }
}
