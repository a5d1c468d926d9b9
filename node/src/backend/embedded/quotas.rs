//! What users may do: per user a bucket of operations, and who holds how many places. What says nothing any more (a full
//! bucket, places that ran out) is dropped when the tables have grown to twice what was left the last time.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use mille_shared::{NodeId, UserId};
use tokio::time::Instant;

use super::{Store, lock};
use crate::backend::{OperationsLease, PlacesClaim, Quotas, Result};

/// Entries below which nothing is dropped.
const ENTRIES_MIN: usize = 1_024;

/// The tables.
#[derive(Default)]
pub(super) struct QuotaTables {
    /// Per user, when all that they took is paid for at an even pace.
    buckets: HashMap<UserId, Instant>,
    /// Per user and node, how many places, and until when.
    places: HashMap<UserId, HashMap<NodeId, (u32, Instant)>>,
    /// The number of entries at which they are looked through.
    sweep_at: usize,
}

impl QuotaTables {
    fn sweep(&mut self, now: Instant) {
        if self.buckets.len() + self.places.len() < self.sweep_at.max(ENTRIES_MIN) {
            return;
        }
        self.buckets.retain(|_, paid_at| now < *paid_at);
        self.places.retain(|_, nodes| nodes.values().any(|(_, until)| now < *until));
        self.sweep_at = 2 * (self.buckets.len() + self.places.len());
    }
}

#[async_trait]
impl Quotas for Store {
    async fn lease_operations(
        &self,
        user: &UserId,
        per_second: u32,
        burst: u32,
        asked: u32,
    ) -> Result<OperationsLease> {
        let now = Instant::now();
        let mut tables = lock(&self.quotas);
        tables.sweep(now);
        let interval = Duration::from_secs(1) / per_second.max(1);
        let paid_at = tables.buckets.get(user).copied().unwrap_or(now).max(now);
        let owed = (paid_at - now).div_duration_f64(interval).ceil() as u32;
        let granted = asked.min(burst.saturating_sub(owed));
        if granted == 0 {
            let some = burst.min(asked / 4 + 1);
            return Ok(OperationsLease::None {
                retry_after: (paid_at - now).saturating_sub(interval * (burst - some)),
            });
        }
        tables.buckets.insert(user.clone(), paid_at + interval * granted);
        Ok(OperationsLease::Some(granted))
    }

    async fn hold_places(&self, user: &UserId, node: &NodeId, claim: PlacesClaim) -> Result<u32> {
        let PlacesClaim { wanted, kept, max, ttl } = claim;
        let now = Instant::now();
        let mut tables = lock(&self.quotas);
        tables.sweep(now);
        let nodes = tables.places.entry(user.clone()).or_default();
        nodes.retain(|_, (_, until)| now < *until);
        let others: u32 = nodes.iter().filter(|(of, _)| *of != node).map(|(_, (count, _))| *count).sum();
        let held = kept.min(wanted).max(wanted.min(max.saturating_sub(others)));
        if held > 0 {
            nodes.insert(node.clone(), (held, now + ttl));
        } else {
            nodes.remove(node);
        }
        if nodes.is_empty() {
            tables.places.remove(user);
        }
        Ok(held)
    }
}
