//! Metrics of how much a node has to do, and what it gives up for it.

use metrics::{Counter, Gauge, Histogram};

use super::registry::Registry;
use crate::pressure::Shed;

/// Metrics of load.
pub struct LoadMetrics {
    /// What is given up under pressure.
    pub pressure_level: Gauge,
    /// How late the event loop comes to what is due.
    pub event_loop_lag_seconds: Histogram,
    /// Bytes that wait for sockets to take them.
    pub send_queue_bytes: Gauge,
    /// Messages that wait for sockets to take them.
    pub send_queue_messages: Gauge,
    /// In the order of [`Shed::ALL`].
    shed: [Counter; Shed::ALL.len()],
}

impl LoadMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            pressure_level: registry.gauge(
                "pressure_level",
                "What is given up under pressure: 0 nothing, 1 narrow cursor ticks, 2 prompt presence, 3 new connections, 4 new operations. Worry from 3 on.",
            ),
            event_loop_lag_seconds: registry.histogram(
                "event_loop_lag_seconds",
                "How late the event loop comes to what is due, in seconds; looked at three times as often once it is late. Worry when it nears 0.05.",
            ),
            send_queue_bytes: registry.gauge(
                "send_queue_bytes",
                "Bytes that wait for sockets to take them. Worry when they stay in the hundreds of millions.",
            ),
            send_queue_messages: registry.gauge(
                "send_queue_messages",
                "Messages that wait for sockets to take them: replies, events of subscriptions and frames of presence. Worry when it stays above some hundreds per connection.",
            ),
            shed: registry.counters(
                "shed_total",
                "What was refused, or told later, because the node is under pressure. Worry about all but 'presence'.",
                "what",
                Shed::ALL.map(Shed::as_str),
            ),
        }
    }

    /// What was refused or put off under pressure.
    pub fn shed(&self, what: Shed) -> &Counter {
        &self.shed[what as usize]
    }
}

/// Metrics of TLS at the node's own door.
pub struct TlsMetrics {
    /// Handshakes that failed.
    pub handshakes_failed: Counter,
    /// Looks at a changed certificate that could not be used.
    pub certificates_refused: Counter,
}

impl TlsMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            handshakes_failed: registry.counter(
                "tls_handshakes_failed_total",
                "TLS handshakes that failed. Worry when it nears the rate of connections: a certificate clients do not take?",
            ),
            certificates_refused: registry.counter(
                "tls_certificates_refused_total",
                "Looks at a changed certificate that could not be used. Worry: the present one will expire.",
            ),
        }
    }
}
