//! The backend of one node alone: the ports' promises kept in memory, without a server.
//!
//! State lives behind short-held mutexes, one per concern; nothing awaits under them. Where two are held, the logs' is
//! taken before the hub's, so that a commit is published in the order in which it was appended. Expiry is judged when
//! something is looked at, by tokio's clock. All is gone when the process ends: durability is what Redis is for.

mod directory;
mod hub;
mod logs;
mod presence;
mod quotas;
mod revocations;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Backend;
use crate::clock;
use directory::Projects;
use hub::Hub;
use logs::Logs;
use presence::{LeaseTable, PresenceTables};
use quotas::QuotaTables;
use revocations::RevocationTable;

/// A store in memory. Clones share it.
#[derive(Clone)]
pub struct Embedded {
    store: Arc<Store>,
}

impl Embedded {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        let store = Store {
            clock: Clock::starting_now(),
            logs: Mutex::default(),
            hub: Mutex::default(),
            projects: Mutex::default(),
            presence: Mutex::default(),
            leases: Mutex::default(),
            revocations: Mutex::default(),
            quotas: Mutex::default(),
        };
        Self { store: Arc::new(store) }
    }

    /// A node's way into the store, with a subscription of its own. Several nodes of one process share the rest.
    #[must_use]
    pub fn connect(&self) -> Backend {
        let store = Arc::clone(&self.store);
        Backend {
            log: store.clone(),
            snapshots: store.clone(),
            pubsub: hub::Line::open(&store),
            directory: store.clone(),
            presence: store.clone(),
            leases: store.clone(),
            revocations: store.clone(),
            quotas: store,
        }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

struct Store {
    clock: Clock,
    logs: Mutex<Logs>,
    hub: Mutex<Hub>,
    projects: Mutex<Projects>,
    presence: Mutex<PresenceTables>,
    leases: Mutex<LeaseTable>,
    revocations: Mutex<RevocationTable>,
    quotas: Mutex<QuotaTables>,
}

/// The store's time. The wall is looked at once, so that time never runs backwards, and tests may pause it.
struct Clock {
    began: Instant,
    began_unix_ms: u64,
}

impl Clock {
    fn starting_now() -> Self {
        Self { began: Instant::now(), began_unix_ms: u64::try_from(clock::now().unix_ms).unwrap_or_default() }
    }

    fn unix_ms(&self) -> u64 {
        self.began_unix_ms + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

/// Locks. A panic under one of these locks is a bug that was told already; the others go on with what is there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
