//! Metrics of what nodes tell each other, and of the actors that hear it.

use metrics::{Counter, Gauge, Histogram};

use super::registry::Registry;

const RETIRED: [&str; 6] = ["stopped", "idle", "deleted", "recycled", "panicked", "failed"];

/// Metrics of the bridge between nodes.
pub struct BridgeMetrics {
    /// From the append of a change to its receipt here.
    pub lag_seconds: Histogram,
    /// Times the subscription to other nodes was interrupted.
    pub interruptions: Counter,
    /// Messages dropped because an actor was too slow.
    pub messages_dropped: Counter,
}

impl BridgeMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            lag_seconds: registry.histogram(
                "bridge_lag_seconds",
                "From the append of a batch of changes, by the clock of Redis, to its receipt over the subscription, by this node's clock, in seconds. As exact as the two clocks agree; what is negative counts as 0. Worry when the 99th percentile nears 0.1.",
            ),
            interruptions: registry.counter(
                "bridge_interruptions_total",
                "Times the subscription to other nodes was interrupted. Worry when it goes on.",
            ),
            messages_dropped: registry.counter(
                "bridge_messages_dropped_total",
                "Messages from other nodes that an actor was too slow for; they are read from the log. Worry when it goes on.",
            ),
        }
    }
}

/// Metrics of projects' actors.
pub struct ActorMetrics {
    /// Running ones.
    pub active: Gauge,
    /// How many commands waited when one was taken out.
    pub mailbox_depth: Histogram,
    /// In the order of [`RETIRED`].
    retired: [Counter; RETIRED.len()],
}

impl ActorMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            active: registry.gauge(
                "project_actors_active",
                "Running project actors. Worry when it grows and never falls: projects are not let go.",
            ),
            mailbox_depth: registry.histogram(
                "actor_mailbox_depth",
                "Commands that still waited in a project's mailbox of 1,024 when one was taken out. Worry when the 99th percentile nears 256: a project has more to do than one core can.",
            ),
            retired: registry.counters(
                "actors_retired_total",
                "Lives of project actors that ended, by cause. Worry about 'panicked' and 'failed'.",
                "cause",
                RETIRED,
            ),
        }
    }

    /// Notes a life that ended, by cause: one of [`RETIRED`].
    pub fn retired(&self, cause: &str) {
        if let Some(index) = RETIRED.iter().position(|known| *known == cause) {
            self.retired[index].increment(1);
        }
    }
}
