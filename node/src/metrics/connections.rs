//! Metrics of sockets and event streams: how many, how long, why they ended, and what was sent.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::registry::Registry;

/// What a client is connected by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket for GraphQL.
    GraphQl,
    /// GraphQL over server-sent events.
    EventStream,
    /// A WebSocket for presence.
    Presence,
}

impl Kind {
    const ALL: [Self; 3] = [Self::GraphQl, Self::EventStream, Self::Presence];

    fn as_str(self) -> &'static str {
        match self {
            Self::GraphQl => "graphql",
            Self::EventStream => "event_stream",
            Self::Presence => "presence",
        }
    }
}

/// Why a socket or event stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it, with its own code.
    Client,
    /// It broke off without a word.
    Broken,
    /// There is nothing more to tell.
    Complete,
    /// The node is taken out.
    Drain,
    /// It has grown old, and its client is to look for another node.
    Rotate,
    /// The project stopped or failed on this node; another one, or a new actor, serves it.
    ProjectMoved,
    /// The node is under pressure.
    Pressure,
    /// It took nothing for too long.
    Slow,
    /// The user has too many.
    TooMany,
    /// Others wanted the place of one who had shown no token for long.
    Superseded,
    /// The project can't be opened, since the store does not answer; or the token can't be judged, since there are no keys yet.
    Unavailable,
    /// What the client said is not of the protocol.
    Protocol,
    /// A frame was too large.
    TooLarge,
    /// It offered no subprotocol that we speak.
    Subprotocol,
    /// It asked for something before `connection_init`.
    Uninitialised,
    /// Its `connection_init` did not come.
    InitTimeout,
    /// A second `connection_init`.
    SecondInit,
    /// An operation's id that is in use.
    DuplicateId,
    /// It was silent for too long.
    Silent,
    /// No token, or a bad one.
    TokenRefused,
    /// The token's time is over.
    TokenExpired,
    /// The token was revoked.
    TokenRevoked,
    /// The user is no member of the project, or not any more.
    NotAMember,
    /// Another socket took the connection over (`resumeToken`).
    Resumed,
}

impl CloseReason {
    /// All there are, for the handles.
    pub const ALL: [Self; 24] = [
        Self::Client,
        Self::Broken,
        Self::Complete,
        Self::Drain,
        Self::Rotate,
        Self::ProjectMoved,
        Self::Pressure,
        Self::Slow,
        Self::TooMany,
        Self::Superseded,
        Self::Unavailable,
        Self::Protocol,
        Self::TooLarge,
        Self::Subprotocol,
        Self::Uninitialised,
        Self::InitTimeout,
        Self::SecondInit,
        Self::DuplicateId,
        Self::Silent,
        Self::TokenRefused,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::NotAMember,
        Self::Resumed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broken => "broken",
            Self::Complete => "complete",
            Self::Drain => "drain",
            Self::Rotate => "rotate",
            Self::ProjectMoved => "project_moved",
            Self::Pressure => "pressure",
            Self::Slow => "slow",
            Self::TooMany => "too_many",
            Self::Superseded => "superseded",
            Self::Unavailable => "unavailable",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Subprotocol => "subprotocol",
            Self::Uninitialised => "uninitialised",
            Self::InitTimeout => "init_timeout",
            Self::SecondInit => "second_init",
            Self::DuplicateId => "duplicate_id",
            Self::Silent => "silent",
            Self::TokenRefused => "token_refused",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::NotAMember => "not_a_member",
            Self::Resumed => "resumed",
        }
    }

    /// The code a WebSocket is closed with for this reason. Of a client's own codes those are counted by themselves that
    /// clients use, the others together; one that gave none counts as 1005.
    fn codes(self) -> &'static [&'static str] {
        match self {
            Self::Client => &["1000", "1001", "1005", OTHER],
            Self::Complete | Self::Resumed => &["1000"],
            Self::Broken => &["1006"],
            Self::TooLarge => &["1009"],
            Self::Drain | Self::Rotate | Self::ProjectMoved => &["1012"],
            Self::Pressure | Self::Slow | Self::TooMany | Self::Superseded | Self::Unavailable => &["1013"],
            Self::Protocol => &["4400"],
            Self::Uninitialised => &["4401"],
            Self::TokenRefused | Self::TokenExpired | Self::TokenRevoked | Self::NotAMember => &["4403"],
            Self::Subprotocol => &["4406"],
            Self::InitTimeout | Self::Silent => &["4408"],
            Self::DuplicateId => &["4409"],
            Self::SecondInit => &["4429"],
        }
    }

    /// Whether a connection of this kind can end for this reason.
    fn is_of(self, kind: Kind) -> bool {
        match self {
            Self::Client | Self::Drain | Self::Rotate | Self::TokenExpired | Self::TokenRevoked => true,
            Self::Complete => kind == Kind::EventStream,
            Self::Broken
            | Self::Pressure
            | Self::Slow
            | Self::TooMany
            | Self::Protocol
            | Self::TooLarge
            | Self::Silent
            | Self::TokenRefused => kind != Kind::EventStream,
            Self::ProjectMoved | Self::Unavailable | Self::NotAMember | Self::Resumed => kind == Kind::Presence,
            Self::Superseded
            | Self::Subprotocol
            | Self::Uninitialised
            | Self::InitTimeout
            | Self::SecondInit
            | Self::DuplicateId => kind == Kind::GraphQl,
        }
    }
}

/// Codes that are not counted by themselves.
const OTHER: &str = "other";
/// An event stream ends without a code.
const NO_CODE: &str = "none";

/// Metrics of sockets and event streams.
pub struct ConnectionMetrics {
    /// In the order of [`Kind::ALL`].
    opened: [Counter; Kind::ALL.len()],
    lifetime_seconds: [Histogram; Kind::ALL.len()],
    closed: Vec<Closed>,
    graphql_active: Gauge,
    presence_active: Gauge,
    /// Messages handed to sockets.
    pub messages_sent: Counter,
    /// Times a GraphQL socket began to take nothing.
    pub stalled: Counter,
    /// Sockets and event streams sent to look for another node.
    pub rotated: Counter,
    /// How far the node is out.
    pub drain_phase: Gauge,
    subscriptions_active: Gauge,
    connections: AtomicI32,
    subscriptions: AtomicI32,
}

struct Closed {
    kind: Kind,
    reason: CloseReason,
    code: &'static str,
    count: Counter,
}

impl ConnectionMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        let kinds = Kind::ALL.map(Kind::as_str);
        Self {
            graphql_active: registry.gauge(
                "ws_connections_active",
                "Open GraphQL sockets and event streams. Worry when it is flat at the node's limit.",
            ),
            presence_active: registry.gauge(
                "presence_connections_active",
                "Open presence sockets. Worry when it is flat at the node's limit.",
            ),
            opened: registry.counters(
                "connections_opened_total",
                "Sockets and event streams that began, by kind. Worry when it goes on far above the rate of users: clients come back and back.",
                "kind",
                kinds,
            ),
            closed: declare_closed(registry),
            lifetime_seconds: registry.histograms(
                "connection_lifetime_seconds",
                "How long sockets and event streams were open, in seconds, by kind. Worry when many last less than 10: something throws them out.",
                "kind",
                kinds,
            ),
            messages_sent: registry.counter(
                "ws_messages_sent_total",
                "Messages handed to sockets and event streams. Worry when it is 0 while there are edits.",
            ),
            stalled: registry.counter(
                "ws_buffer_full_total",
                "Times a GraphQL socket began to take nothing of what was there for it. Harmless now and then; who takes nothing for 45 s is closed (reason 'slow').",
            ),
            subscriptions_active: registry.gauge(
                "graphql_subscriptions_active",
                "Open subscriptions on GraphQL sockets. Worry when it falls and connections do not.",
            ),
            rotated: registry.counter(
                "connections_rotated_total",
                "Sockets and event streams sent to look for another node since they had grown old. Nothing to worry about.",
            ),
            drain_phase: registry.gauge(
                "drain_phase",
                "How far the node is taken out: 0 not at all, 1 not ready, 2 sockets are closed, 3 the rest ends. Worry when it stays above 0.",
            ),
            connections: AtomicI32::new(0),
            subscriptions: AtomicI32::new(0),
        }
    }

    /// Open sockets and event streams, presence included. Gauges can't be read back.
    #[must_use]
    pub fn now(&self) -> i32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Open subscriptions.
    #[must_use]
    pub fn subscriptions_now(&self) -> i32 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Notes one that begins.
    pub fn opened(&self, kind: Kind) {
        self.opened[kind as usize].increment(1);
        self.active(kind).increment(1.0);
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes its end. `code` is what a WebSocket was closed with; an event stream has none.
    pub fn closed(&self, kind: Kind, reason: CloseReason, code: u16, lifetime: Duration) {
        let closed = self.find(kind, reason, code);
        debug_assert!(closed.is_some(), "{kind:?} does not end for {reason:?}");
        if let Some(closed) = closed {
            closed.count.increment(1);
        }
        self.active(kind).decrement(1.0);
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.lifetime_seconds[kind as usize].record(lifetime.as_secs_f64());
    }

    /// Notes a subscription that begins.
    pub fn subscribed(&self) {
        self.subscriptions_active.increment(1.0);
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes its end.
    pub fn unsubscribed(&self) {
        self.subscriptions_active.decrement(1.0);
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }

    fn active(&self, kind: Kind) -> &Gauge {
        match kind {
            Kind::GraphQl | Kind::EventStream => &self.graphql_active,
            Kind::Presence => &self.presence_active,
        }
    }

    /// The series of this end. The last one of a reason is for every code that has none of its own.
    fn find(&self, kind: Kind, reason: CloseReason, code: u16) -> Option<&Closed> {
        let mut ends = self.closed.iter().filter(|closed| closed.kind == kind && closed.reason == reason);
        let code = code.to_string();
        ends.clone().find(|closed| closed.code == code).or_else(|| ends.next_back())
    }
}

fn declare_closed(registry: &mut Registry) -> Vec<Closed> {
    let help = "Sockets and event streams that ended, by kind, close code and reason. Worry about 'slow', 'silent', 'too_many', 'pressure' and, but for a deploy, 'broken'.";
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for reason in CloseReason::ALL.into_iter().filter(|reason| reason.is_of(kind)) {
            let codes = if kind == Kind::EventStream { &[NO_CODE][..] } else { reason.codes() };
            for code in codes.iter().copied() {
                let labels = [("kind", kind.as_str()), ("code", code), ("reason", reason.as_str())];
                let count = registry.counter_with("connections_closed_total", help, &labels);
                all.push(Closed { kind, reason, code, count });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_counted_by_kind_code_and_reason() {
        let mut registry = Registry::new();
        let metrics = ConnectionMetrics::declare(&mut registry);
        let second = Duration::from_secs(1);
        metrics.closed(Kind::GraphQl, CloseReason::Client, 4999, second);
        metrics.closed(Kind::GraphQl, CloseReason::Slow, 1013, second);
        metrics.closed(Kind::EventStream, CloseReason::Complete, 1000, second);
        let text = registry.handle().render();
        for line in [
            "{kind=\"graphql\",code=\"other\",reason=\"client\"} 1",
            "{kind=\"graphql\",code=\"1013\",reason=\"slow\"} 1",
            "{kind=\"event_stream\",code=\"none\",reason=\"complete\"} 1",
            "{kind=\"presence\",code=\"1000\",reason=\"resumed\"} 0",
        ] {
            assert!(text.contains(&format!("connections_closed_total{line}\n")), "{line} is missing in\n{text}");
        }
    }
}
