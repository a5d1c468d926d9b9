//! Every metric of a node, in one place.
//!
//! Handles are made once and held: counting costs an atomic addition, and a metric that never moved is still there, at
//! zero. Each part has a file, where the help of each says what it is, its unit, and when to worry; docs/metrics.md is made
//! of the same words. Labels come from closed sets, never from ids.

mod bridge;
mod connections;
mod fan_out;
mod limits;
mod load;
mod plans;
mod presence;
mod redis;
mod registry;
mod rights;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::beat;
use crate::pressure::Pressure;
use crate::vigil::Vigil;
use registry::Registry;

pub use bridge::{ActorMetrics, BridgeMetrics};
pub use connections::{CloseReason, ConnectionMetrics, Kind};
pub use fan_out::LearntAt;
pub use limits::{ConnectionRefused, LeaseOutcome, LimitMetrics};
pub use load::{LoadMetrics, TlsMetrics};
pub use plans::{EditResult, PlanMetrics, Resume};
pub use presence::PresenceMetrics;
pub use redis::RedisMetrics;
pub use rights::{NotAllowed, RightsMetrics};
pub use traces::TraceMetrics;

/// How often histograms are condensed; without it they would grow with every sample.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Every metric of a node.
pub struct Metrics {
    exporter: PrometheusHandle,
    /// Sockets and event streams.
    pub connections: ConnectionMetrics,
    /// Edits, listeners, repairs.
    pub plans: PlanMetrics,
    /// What nodes tell each other.
    pub bridge: BridgeMetrics,
    /// Projects' actors.
    pub actors: ActorMetrics,
    /// Who is present, and where.
    pub presence: PresenceMetrics,
    /// Who was not let in, and whose right ended.
    pub rights: RightsMetrics,
    /// Who was refused, and by which limit.
    pub limits: LimitMetrics,
    /// How much there is to do.
    pub load: LoadMetrics,
    /// Redis, as this node sees it.
    pub redis: RedisMetrics,
    /// TLS at the node's own door.
    pub tls: TlsMetrics,
    /// Spans on their way to a collector.
    pub traces: TraceMetrics,
    /// What the node feels of its load, where it can be read back.
    pub pressure: Pressure,
    /// Whether the node's parts go on.
    pub vigil: Vigil,
}

impl Metrics {
    /// Declares everything, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::new();
        Self {
            connections: ConnectionMetrics::declare(&mut registry),
            plans: PlanMetrics::declare(&mut registry),
            bridge: BridgeMetrics::declare(&mut registry),
            actors: ActorMetrics::declare(&mut registry),
            presence: PresenceMetrics::declare(&mut registry),
            rights: RightsMetrics::declare(&mut registry),
            limits: LimitMetrics::declare(&mut registry),
            load: LoadMetrics::declare(&mut registry),
            redis: RedisMetrics::declare(&mut registry),
            tls: TlsMetrics::declare(&mut registry),
            traces: TraceMetrics::declare(&mut registry),
            pressure: Pressure::default(),
            vigil: Vigil::default(),
            exporter: registry.handle(),
        }
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        self.exporter.render()
    }

    /// Condenses histograms until the task is dropped or aborted.
    pub async fn upkeep(self: Arc<Self>) {
        let mut ticks = beat::ticks(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.exporter.run_upkeep();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_declared_from_the_start() {
        let text = Metrics::new().render();
        let names = [
            "ws_messages_sent_total 0",
            "ws_buffer_full_total 0",
            "presence_expiries_total{cause=\"node_gone\"} 0",
            "gaps_total{cause=\"fork\"} 0",
            "gaps_total{cause=\"delivery_probe\"} 0",
            "redis_up 0",
            "revocation_closes_total{cause=\"user\"} 0",
            "pressure_level 0",
            "shed_total{what=\"operation\"} 0",
            "redis_breaker_opened_total 0",
            "redis_reconnects_total{connection=\"subscription\"} 0",
            "rate_limited_total{limit=\"user_operations\"} 0",
            "connections_refused_total{reason=\"unauthenticated\"} 0",
            "quota_leases_total{outcome=\"unanswered\"} 0",
            "edit_seconds_bucket{result=\"conflict\",le=\"0.25\"} 0",
            "resumes_total{outcome=\"fresh\"} 0",
            "trace_spans_dropped_total{cause=\"queue_full\"} 0",
        ];
        for name in names {
            assert!(text.contains(&format!("\n{name}\n")), "{name} is missing in\n{text}");
        }
    }
}
