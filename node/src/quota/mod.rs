//! What a user may do on this node, held to over the cluster.
//!
//! [`mille_core::allowance`] decides; here its machines are kept, one of each per user, and the store is asked for what they
//! want to lease. A user's operation costs a look into a table; only beyond a small free share, and then once per 100 ms,
//! is the store asked, and nobody waits for it longer than a command may take.
//!
//! The tables are swept by [`UserQuotas::run`]: a user who is idle is forgotten. At [`limits::USERS_COUNTED_MAX`] users that
//! are busy at the same time, further ones are not counted until there is room.

mod operations;
mod places;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use mille_core::allowance::Rate;
use mille_shared::{LimitName, NodeId, UserId, limits};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Quotas;
use crate::beat;
use crate::metrics::{LeaseOutcome, Metrics};
pub use places::Place;

/// Renewals of places that wait for the store at a time.
const RENEWALS_IN_FLIGHT_MAX: usize = 64;

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaSettings {
    /// Operations over the cluster.
    pub operations: Rate,
    /// Connections over the cluster.
    pub connections_max: u32,
    /// How long the store holds a node's places beyond its last sign of life.
    pub places_ttl: Duration,
    /// How long anybody waits for the store. Then they go on without its word.
    pub patience: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            operations: Rate { per_second: limits::USER_OPERATIONS_PER_SECOND, burst: limits::USER_OPERATIONS_BURST },
            connections_max: limits::USER_CONNECTIONS_MAX,
            places_ttl: limits::NODE_LEASE,
            patience: limits::REDIS_COMMAND_TIMEOUT,
        }
    }
}

/// Which limit somebody met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at most {limit} {}", .name.in_words())]
pub struct Excess {
    /// Its name.
    pub name: LimitName,
    /// Its value.
    pub limit: u32,
    /// When it may be tried again, if time helps.
    pub retry_after: Option<Duration>,
}

impl Excess {
    /// The limit by name and value: for the reason of a close, which has no other place for them.
    #[must_use]
    pub fn in_words(&self) -> String {
        format!("{}: {self}", self.name)
    }
}

/// Whether an operation may begin.
pub enum Admission {
    /// It is known.
    Known(Result<(), Excess>),
    /// The store is being asked; it is known soon.
    Asked(BoxFuture<'static, Result<(), Excess>>),
}

/// Holds users to what they may do. Cheap to clone.
#[derive(Clone)]
pub struct UserQuotas {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Quotas>,
    node: NodeId,
    settings: QuotaSettings,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
    began: Instant,
    // One lock each, held for a look and an addition.
    operations: Mutex<HashMap<UserId, operations::Entry>>,
    places: Mutex<HashMap<UserId, places::Entry>>,
}

impl UserQuotas {
    /// Nobody is known yet. What is asked of the store runs on `tasks`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Quotas>,
        node: NodeId,
        settings: QuotaSettings,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        let inner = Inner {
            store,
            node,
            settings,
            tasks,
            metrics,
            began: Instant::now(),
            operations: Mutex::default(),
            places: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Forgets who is idle, and tells the store that this node still has the places it holds, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = beat::ticks(limits::HEARTBEAT_INTERVAL.min(self.inner.settings.places_ttl / 4));
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = self.now();
            self.inner.operations.lock().retain(|_, entry| !entry.is_idle(now));
            let renewals = stream::iter(self.renewals());
            let renewed = renewals.for_each_concurrent(RENEWALS_IN_FLIGHT_MAX, |(user, wanted, kept)| {
                self.clone().hold(user, wanted, kept)
            });
            stop.run_until_cancelled(renewed).await;
            self.inner.places.lock().retain(|_, entry| !entry.is_idle());
        }
    }

    /// Of a node alone, with the usual limits, and a store that takes its time.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let store = Arc::new(tests::Slow(crate::backend::embedded::Embedded::new().connect().quotas));
        let (settings, metrics) = (QuotaSettings::default(), Arc::new(Metrics::new()));
        Self::new(store, NodeId::of("alone", "1"), settings, metrics, TaskTracker::new())
    }

    fn now(&self) -> Duration {
        self.inner.began.elapsed()
    }

    /// The entry of a user; `None` if there is no room for one more.
    fn entry<'t, E>(
        &self,
        table: &'t mut HashMap<UserId, E>,
        user: &UserId,
        new: impl FnOnce(&QuotaSettings) -> E,
    ) -> Option<&'t mut E> {
        if !table.contains_key(user) {
            if table.len() >= limits::USERS_COUNTED_MAX {
                self.inner.metrics.limits.leased(LeaseOutcome::Uncounted);
                return None;
            }
            table.insert(user.clone(), new(&self.inner.settings));
        }
        table.get_mut(user)
    }

    fn refuse(&self, name: LimitName, limit: u32, retry_after: Duration) -> Excess {
        self.inner.metrics.limits.limited(name);
        Excess { name, limit, retry_after: (!retry_after.is_zero()).then_some(retry_after) }
    }
}

#[cfg(test)]
mod tests;
