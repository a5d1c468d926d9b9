//! Metrics of spans on their way to a collector.

use metrics::Counter;

use super::registry::Registry;

/// Spans on their way to a collector.
pub struct TraceMetrics {
    /// Spans that the collector took.
    pub exported: Counter,
    /// Spans dropped because more ended than the queue to the collector holds.
    pub overflown: Counter,
    /// Spans dropped because the collector did not take them.
    pub refused: Counter,
}

impl TraceMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        let [overflown, refused] = registry.counters(
            "trace_spans_dropped_total",
            "Spans that no collector got. Worry when it goes on: traces have holes; nothing else suffers.",
            "cause",
            ["queue_full", "refused"],
        );
        let exported = registry.counter(
            "trace_spans_exported_total",
            "Spans that the collector took. Worry when it stands still although edits are made and traces are on.",
        );
        Self { exported, overflown, refused }
    }
}
