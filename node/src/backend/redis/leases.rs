//! Leases in Redis: per node a key that expires, and an index of the nodes that have one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::interfaces::{ClientLike, KeysInterface, SortedSetsInterface};
use fred::types::Value;
use mille_shared::NodeId;
use mille_shared::facts::RedisFacts;
use tokio::time::Instant;

use super::functions::LEASE_RENEW;
use super::presence::millis;
use super::values::text;
use super::{Redis, fan_out, keys, mode_of};
use crate::backend::{Leases, Result, StoreHealth, StoreStatus};

#[async_trait]
impl Leases for Redis {
    async fn renew(&self, node: &NodeId, record: &str, ttl: Duration) -> Result<()> {
        let args = vec![node.as_str().into(), millis(ttl), record.into()];
        self.call(LEASE_RENEW, vec![keys::lease(node), keys::LEASES.to_owned()], args).await.map(drop)
    }

    async fn release(&self, node: &NodeId) -> Result<()> {
        self.send("unlink", self.client.unlink::<Value, _>(keys::lease(node))).await?;
        self.send("zrem", self.client.zrem::<Value, _, _>(keys::LEASES, node.as_str())).await.map(drop)
    }

    async fn list(&self) -> Result<Vec<(NodeId, Arc<str>)>> {
        let nodes: Value =
            self.send("zrange", self.client.zrange(keys::LEASES, 0, -1, None, false, None, false)).await?;
        let mut nodes: Vec<_> = (nodes.into_array().iter())
            .map(|node| text(node, "a node's id").map(NodeId::new))
            .collect::<Result<_>>()?;
        nodes.sort_unstable();
        let leases = fan_out(&nodes, |node| {
            let lease = keys::lease(node);
            async move {
                let record: Value = self.send("get", self.client.get(lease)).await?;
                // Expired since the index was told: no lease.
                if record.is_null() { Ok(None) } else { text(&record, "a lease").map(Some) }
            }
        });
        let leases = leases.await?;
        Ok(nodes.into_iter().zip(leases).filter_map(|(node, record)| Some((node, record?))).collect())
    }

    async fn status(&self) -> StoreStatus {
        let began = Instant::now();
        let answered = self.send("ping", self.client.ping::<Value>(None)).await.is_ok();
        let latency_ms = answered.then(|| began.elapsed().as_secs_f64() * 1000.0);
        StoreStatus {
            mode: mode_of(&self.client.client_config().server).to_owned(),
            version: self.version.clone(),
            role: self.role().await.unwrap_or_else(|_| "unknown".to_owned()),
            connected: answered,
            latency_ms,
        }
    }

    fn health(&self) -> StoreHealth {
        self.gate.health()
    }

    async fn facts(&self) -> Option<RedisFacts> {
        Some(self.ask_facts().await)
    }
}
