//! Metrics of limits: who was refused, and by which.

use metrics::Counter;
use mille_shared::LimitName;

use super::registry::Registry;

/// What became of a request to the store for a user's operations or connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// It gave all or some.
    Granted,
    /// It gave nothing: the user has what they may have.
    Refused,
    /// It did not answer: the node goes on with the whole limit for itself.
    Unanswered,
    /// It was not asked, since too many users are counted already: the user is not held to the limit.
    Uncounted,
}

impl LeaseOutcome {
    const ALL: [Self; 4] = [Self::Granted, Self::Refused, Self::Unanswered, Self::Uncounted];

    fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Uncounted => "uncounted",
        }
    }
}

/// Why a connection was not taken, or cut before anybody knew whose it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefused {
    /// The node is full.
    NodeFull,
    /// Too many wait without a token.
    Strangers,
    /// It gave its place to another, having shown no token for too long.
    Superseded,
    /// It sent too much without a token.
    StrangerBytes,
    /// The user has too many.
    User,
}

impl ConnectionRefused {
    const ALL: [Self; 5] = [Self::NodeFull, Self::Strangers, Self::Superseded, Self::StrangerBytes, Self::User];

    fn as_str(self) -> &'static str {
        match self {
            Self::NodeFull => "node_full",
            Self::Strangers => "unauthenticated",
            Self::Superseded => "unauthenticated_superseded",
            Self::StrangerBytes => "unauthenticated_bytes",
            Self::User => "user",
        }
    }
}

/// Metrics of limits.
pub struct LimitMetrics {
    /// In the order of [`LimitName::ALL`].
    limited: Vec<Counter>,
    refused: [Counter; ConnectionRefused::ALL.len()],
    leases: [Counter; LeaseOutcome::ALL.len()],
}

impl LimitMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        let limited = LimitName::ALL.iter().map(|name| {
            let help =
                "Refusals by the limit that was met. Worry about 'node_connections' and 'request_bytes_in_flight'.";
            registry.counter_with("rate_limited_total", help, &[("limit", name.as_str())])
        });
        Self {
            limited: limited.collect(),
            refused: registry.counters(
                "connections_refused_total",
                "Connections not taken, or cut before they showed a good token, by reason. Worry about 'node_full'.",
                "reason",
                ConnectionRefused::ALL.map(ConnectionRefused::as_str),
            ),
            leases: registry.counters(
                "quota_leases_total",
                "Requests to Redis for a user's share of the limits, by outcome. Worry about 'unanswered' and 'uncounted'.",
                "outcome",
                LeaseOutcome::ALL.map(LeaseOutcome::as_str),
            ),
        }
    }

    /// Notes a refusal.
    pub fn limited(&self, name: LimitName) {
        self.limited[name as usize].increment(1);
    }

    /// Notes a connection that was not taken.
    pub fn refused(&self, why: ConnectionRefused) {
        self.refused[why as usize].increment(1);
    }

    /// Notes an answer of the store.
    pub fn leased(&self, outcome: LeaseOutcome) {
        self.leases[outcome as usize].increment(1);
    }
}
