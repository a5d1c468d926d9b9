//! What can be learned of Redis by asking it, for operators.
//!
//! Closed lists of names: whatever else stands in `INFO` or among the settings, passwords for one, is not read. The users of
//! `ops/redis-users.acl` may not ask for settings, since that right knows no names; then what only they tell is unknown, and
//! said to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use fred::interfaces::ClientLike;
use fred::types::Value;
use futures_util::future::join_all;
use mille_shared::facts::{RedisFacts, Unknown};
use tokio::time::Instant;

use super::functions::LIBRARY_NAME;
use super::route::{Redis, told};
use super::server::{Failure, Server, here};
use super::values;
use crate::backend::{Error, Result};
use crate::clock;

/// What is told of `INFO`.
const INFO: [&str; 25] = [
    "redis_version",
    "run_id",
    "role",
    "loading",
    "cluster_enabled",
    "aof_enabled",
    "aof_last_write_status",
    "aof_last_bgrewrite_status",
    "aof_delayed_fsync",
    "rdb_last_bgsave_status",
    "maxmemory",
    "maxmemory_policy",
    "used_memory",
    "total_system_memory",
    "evicted_keys",
    "maxclients",
    "connected_clients",
    "rejected_connections",
    "client_output_buffer_limit_disconnections",
    "connected_slaves",
    "min_slaves_good_slaves",
    "master_host",
    "master_link_status",
    "acl_access_denied_cmd",
    "uptime_in_seconds",
];

/// What is told of the settings.
const CONFIG: [&str; 8] = [
    "appendonly",
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "maxmemory",
    "maxmemory-policy",
    "client-output-buffer-limit",
    "min-replicas-to-write",
    "notify-keyspace-events",
];

impl Redis {
    /// Asks every server for everything; what is not answered is unknown. Takes as long as three commands may.
    pub(super) async fn ask_facts(&self) -> RedisFacts {
        let map = self.map();
        let home = self.home().ok();
        let is_home = |server: &Arc<Server>| home.as_ref().is_some_and(|home| Arc::ptr_eq(home, server));
        let asking = map.servers().iter().map(|server| async {
            let mut facts = self.named();
            facts.address = server.address.to_string();
            facts.slots = map.slots_of(server);
            ask(server, &mut facts).await;
            (is_home(server), facts)
        });
        let (first, others): (Vec<_>, Vec<_>) = join_all(asking).await.into_iter().partition(|(is_home, _)| *is_home);
        let unknown = || {
            let because = "no server is known to have the leases".to_owned();
            RedisFacts { unknown: vec![Unknown { what: "info".to_owned(), because }], ..self.named() }
        };
        RedisFacts {
            uncovered_slots: u32::try_from(map.uncovered()).unwrap_or_default(),
            others: others.into_iter().map(|(_, facts)| facts).collect(),
            ..first.into_iter().next().map_or_else(unknown, |(_, facts)| facts)
        }
    }

    fn named(&self) -> RedisFacts {
        RedisFacts {
            mode: self.context.access.seeds.mode().to_owned(),
            database: self.context.access.database(),
            library: LIBRARY_NAME.to_owned(),
            ..RedisFacts::default()
        }
    }
}

async fn ask(server: &Server, facts: &mut RedisFacts) {
    let mut unknown = |what: &str, error: &Error| {
        facts.unknown.push(Unknown { what: what.to_owned(), because: reason(&error.to_string()) });
    };
    match clock_ahead(server).await {
        Ok((ahead_ms, took_ms)) => (facts.clock_ahead_ms, facts.latency_ms) = (Some(ahead_ms), Some(took_ms)),
        Err(error) => unknown("clock", &error),
    }
    match answer("info", server.send("info", server.client.info::<String>(None))).await {
        Ok(info) => facts.info = chosen(&INFO, |name| values::info_field(&info, name).map(str::to_owned)),
        Err(error) => unknown("info", &error),
    }
    match config(server).await {
        Ok(config) => facts.config = config,
        Err(error) => unknown("config", &error),
    }
}

/// By how much the server's clock is ahead of ours, and how long it took to learn that, which bounds the mistake. In
/// milliseconds.
async fn clock_ahead(server: &Server) -> Result<(f64, f64)> {
    let (before, asked) = (clock::now(), Instant::now());
    let time: Vec<f64> =
        answer("time", server.send("time", server.client.custom(here("TIME"), Vec::<Value>::new()))).await?;
    let took_ms = asked.elapsed().as_secs_f64() * 1000.0;
    let [seconds, micros] = time[..] else { return Err(values::corrupt("the server's time")) };
    let here_ms = before.unix_ms as f64 + took_ms / 2.0;
    Ok((seconds * 1000.0 + micros / 1000.0 - here_ms, took_ms))
}

async fn config(server: &Server) -> Result<BTreeMap<String, String>> {
    let words: Vec<Value> = std::iter::once("GET").chain(CONFIG).map(Value::from).collect();
    let told: BTreeMap<String, String> =
        answer("config get", server.send("config get", server.client.custom(here("CONFIG"), words))).await?;
    Ok(chosen(&CONFIG, |name| told.get(name).cloned()))
}

async fn answer<T>(name: &'static str, asking: impl Future<Output = std::result::Result<T, Failure>>) -> Result<T> {
    asking.await.map_err(|failure| told(name, failure))
}

/// A right that is missing is no fault of Redis': in its own words, without what we made of them.
fn reason(error: &str) -> String {
    error.find("NOPERM").map_or_else(|| error.to_owned(), |at| format!("its user lacks the right ({})", &error[at..]))
}

fn chosen(names: &[&str], value: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    names.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_told_as_one() {
        let refused = "the backend's answer makes no sense: config get: NOPERM this user has no permissions";
        assert_eq!(reason(refused), "its user lacks the right (NOPERM this user has no permissions)");
        assert_eq!(reason("no answer"), "no answer");
    }
}
