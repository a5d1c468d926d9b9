//! Metrics of who is present and where their cursors are.

use metrics::{Counter, Gauge, Histogram};
use mille_core::presence::Expiry;

use super::registry::Registry;

/// Metrics of presence.
pub struct PresenceMetrics {
    /// Connections present in projects at this node, those in their grace included.
    pub members: Gauge,
    /// Connections that left and are remembered.
    pub remembered: Gauge,
    /// In the order of [`Expiry::ALL`].
    expiries: [Counter; Expiry::ALL.len()],
    /// Presence sockets that were given the whole picture anew.
    pub behind: Counter,
    /// Times that a cursor move found a project's mailbox full.
    pub cursors_dropped: Counter,
    /// Moves that were shown together with a later one of the same person.
    pub cursors_conflated: Counter,
    /// Time between two cursor frames of a project, noted with each.
    pub cursor_interval_seconds: Histogram,
}

impl PresenceMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            members: registry.gauge(
                "presence_members",
                "Connections present in projects at this node, those in their grace included. Worry when it stays above the open sockets for longer than 10 s.",
            ),
            remembered: registry.gauge(
                "presence_remembered",
                "Connections that left, remembered for a minute in each project so that no late word brings them back. Worry when it stays high while nobody comes or goes.",
            ),
            expiries: registry.counters(
                "presence_expiries_total",
                "Presences that ended without a leave, as this node saw it, by cause. Worry about 'node_gone'.",
                "cause",
                Expiry::ALL.map(Expiry::as_str),
            ),
            behind: registry.counter(
                "presence_behind_total",
                "Presence sockets that were given the whole picture anew because they took too little. Harmless in small numbers.",
            ),
            cursors_dropped: registry.counter(
                "cursors_dropped_total",
                "Times that a cursor move found a mailbox full: it waits, or a newer one takes its place. Harmless in small numbers.",
            ),
            cursors_conflated: registry.counter(
                "cursors_conflated_total",
                "Cursor moves, and looks elsewhere, shown together with a later one of the same person: what conflation saves. Nothing to worry about.",
            ),
            cursor_interval_seconds: registry.histogram(
                "cursor_interval_seconds",
                "Time between two cursor frames of a project, in seconds. Worry when it nears 1: a room too large, or a node too busy.",
            ),
        }
    }

    /// Presences that ended without a leave, by cause.
    pub fn expiries(&self, why: Expiry) -> &Counter {
        &self.expiries[why as usize]
    }
}
