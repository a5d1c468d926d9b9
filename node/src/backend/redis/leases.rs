//! Leases in Redis: per node a key that expires, and an index of the nodes that have one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::interfaces::ClientLike;
use fred::types::Value;
use futures_util::future::{join, join_all};
use mille_shared::NodeId;
use mille_shared::facts::RedisFacts;
use tokio::time::Instant;

use super::functions::LEASE_RENEW;
use super::presence::millis;
use super::route::Redis;
use super::values::text;
use super::{fan_out, keys};
use crate::backend::{Leases, Result, StoreHealth, StoreStatus};

#[async_trait]
impl Leases for Redis {
    async fn renew(&self, node: &NodeId, record: &str, ttl: Duration) -> Result<()> {
        let args = vec![node.as_str().into(), millis(ttl), record.into()];
        self.call(LEASE_RENEW, vec![keys::lease(node), keys::LEASES.to_owned()], args).await.map(drop)
    }

    async fn release(&self, node: &NodeId) -> Result<()> {
        self.ask::<Value>("unlink", keys::lease(node), []).await?;
        self.ask::<Value>("zrem", keys::LEASES, [node.as_str().into()]).await.map(drop)
    }

    async fn list(&self) -> Result<Vec<(NodeId, Arc<str>)>> {
        let nodes: Value = self.ask("zrange", keys::LEASES, [0.into(), Value::from(-1)]).await?;
        let mut nodes: Vec<_> = (nodes.into_array().iter())
            .map(|node| text(node, "a node's id").map(NodeId::new))
            .collect::<Result<_>>()?;
        nodes.sort_unstable();
        let leases = fan_out(&nodes, |node| {
            let lease = keys::lease(node);
            async move {
                let record: Value = self.ask("get", lease, []).await?;
                // Expired since the index was told: no lease.
                if record.is_null() { Ok(None) } else { text(&record, "a lease").map(Some) }
            }
        });
        let leases = leases.await?;
        Ok(nodes.into_iter().zip(leases).filter_map(|(node, record)| Some((node, record?))).collect())
    }

    async fn status(&self) -> StoreStatus {
        let map = self.map();
        let asking = map.servers().iter().map(|server| async move {
            let began = Instant::now();
            let answered = server.send("ping", server.client.ping::<Value>(None)).await.is_ok();
            (answered, began.elapsed().as_secs_f64() * 1000.0)
        });
        let (answers, role) = join(join_all(asking), async { self.home().ok()?.role().await.ok() }).await;
        // Of several servers the slowest, as it is whoever has something there who asks.
        let slowest = answers.iter().filter(|(answered, _)| *answered).map(|(_, took_ms)| *took_ms);
        StoreStatus {
            mode: self.context.access.seeds.mode().to_owned(),
            version: self.home().map_or_else(|_| "unknown".to_owned(), |server| server.version.clone()),
            role: role.unwrap_or_else(|| "unknown".to_owned()),
            connected: map.uncovered() == 0 && answers.iter().all(|(answered, _)| *answered),
            latency_ms: slowest.reduce(f64::max),
        }
    }

    fn health(&self) -> StoreHealth {
        let map = self.map();
        let uncovered = match map.uncovered() {
            0 => None,
            slots => Some(format!("{slots} slots have no server")),
        };
        let home = self.home();
        let others =
            map.servers().iter().filter(|server| home.as_ref().map_or(true, |home| !Arc::ptr_eq(home, server)));
        let sick = others.filter(|server| !server.gate.is_closed());
        let sick = sick.map(|server| format!("{}: {}", server.address, server.gate.health().breaker));
        let sick: Vec<String> = sick.chain(uncovered).collect();
        match home {
            Ok(home) => StoreHealth { sick, ..home.gate.health() },
            Err(error) => StoreHealth {
                answers: false,
                breaker: error.to_string(),
                role: "unknown".to_owned(),
                replica_for: None,
                sick,
            },
        }
    }

    async fn facts(&self) -> Option<RedisFacts> {
        Some(self.ask_facts().await)
    }
}
