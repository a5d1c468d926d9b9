//! Metrics of Redis, as this node sees it.

use metrics::{Counter, Gauge, Histogram};

use super::registry::Registry;
use crate::backend::redis::Connection;

/// Metrics of Redis.
pub struct RedisMetrics {
    /// 1 while Redis answers, every server of it, 0 while one does not, and on a node without Redis.
    pub up: Gauge,
    /// 1 while commands are refused at once because a server of Redis does not answer.
    pub breaker_open: Gauge,
    /// Times that began.
    pub breaker_opened: Counter,
    /// Commands that were refused meanwhile; none of them was sent.
    pub commands_refused: Counter,
    /// How long a command took on the command connection, until its answer or its timeout.
    pub command_seconds: Histogram,
    /// How long Redis took to answer lately, on average; infinite while it does not answer.
    pub latency_seconds: Gauge,
    /// In the order of [`Connection::ALL`].
    reconnects: [Counter; Connection::ALL.len()],
}

impl RedisMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            up: registry.gauge("redis_up", "1 while Redis answers, every server of it. Worry when it is 0 on a node that has one."),
            breaker_open: registry.gauge(
                "redis_breaker_open",
                "1 while commands are refused at once because a server of Redis does not answer. Worry when it stays so.",
            ),
            breaker_opened: registry.counter(
                "redis_breaker_opened_total",
                "Times Redis stopped answering, so that commands were refused. Worry when it goes on.",
            ),
            commands_refused: registry.counter(
                "redis_commands_refused_total",
                "Commands that were not sent because Redis does not answer; who asked may ask again. Worry when it goes on.",
            ),
            command_seconds: registry.histogram(
                "redis_command_seconds",
                "From a command on the command connection to its answer or timeout, in seconds. Worry when the 99th percentile nears 0.1.",
            ),
            latency_seconds: registry.gauge(
                "redis_latency_seconds",
                "How long Redis took to answer lately, on average, in seconds; infinite while it does not answer. Worry when it nears 0.05.",
            ),
            reconnects: registry.counters(
                "redis_reconnects_total",
                "Times a lasting connection to Redis was made anew, by connection. Worry when it goes on.",
                "connection",
                Connection::ALL.map(Connection::as_str),
            ),
        }
    }

    /// Connections that were made anew.
    pub fn reconnects(&self, connection: Connection) -> &Counter {
        &self.reconnects[connection as usize]
    }
}
