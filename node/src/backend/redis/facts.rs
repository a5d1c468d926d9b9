//! What can be learned of Redis by asking it, for operators.
//!
//! Closed lists of names: whatever else stands in `INFO` or among the settings, passwords for one, is not read. The users of
//! `ops/redis-users.acl` may not ask for settings, since that right knows no names; then what only they tell is unknown, and
//! said to be.

use std::collections::BTreeMap;

use fred::interfaces::ClientLike;
use fred::types::Value;
use mille_shared::facts::{RedisFacts, Unknown};
use tokio::time::Instant;

use super::functions::LIBRARY_NAME;
use super::route::{Redis, told};
use super::server::{Failure, Server, here};
use super::values;
use crate::backend::{Error, Result};
use crate::clock;

/// What is told of `INFO`.
const INFO: [&str; 24] = [
    "redis_version",
    "run_id",
    "role",
    "loading",
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
    /// Asks for everything; what is not answered is unknown. Takes as long as three commands may.
    pub(super) async fn ask_facts(&self) -> RedisFacts {
        let mut facts = RedisFacts {
            mode: self.context.access.seeds.mode().to_owned(),
            database: self.context.access.database(),
            library: LIBRARY_NAME.to_owned(),
            ..RedisFacts::default()
        };
        let mut unknown = |what: &str, error: &Error| {
            facts.unknown.push(Unknown { what: what.to_owned(), because: reason(&error.to_string()) });
        };
        let home = match self.home() {
            Ok(home) => home,
            Err(error) => {
                unknown("server", &error);
                return facts;
            }
        };
        match clock_ahead(&home).await {
            Ok((ahead_ms, took_ms)) => (facts.clock_ahead_ms, facts.latency_ms) = (Some(ahead_ms), Some(took_ms)),
            Err(error) => unknown("clock", &error),
        }
        match answer("info", home.send("info", home.client.info::<String>(None))).await {
            Ok(info) => facts.info = chosen(&INFO, |name| values::info_field(&info, name).map(str::to_owned)),
            Err(error) => unknown("info", &error),
        }
        match config(&home).await {
            Ok(config) => facts.config = config,
            Err(error) => unknown("config", &error),
        }
        facts
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
