//! Every metric of a node, in one place.
//!
//! Handles are made once and held: counting costs an atomic addition, and a metric that never moved is still there, at
//! zero. The text of each is its help, and says when to worry. Labels come from closed sets, never from ids.

mod limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use mille_core::presence::Expiry;
use mille_core::replica::{Cause, Readmission};

use crate::backend::redis::Connection;
use crate::pressure::{Pressure, Shed};
pub use limits::{ConnectionRefused, LeaseOutcome, LimitMetrics};

/// Upper bounds of the buckets of every duration, in seconds.
const SECONDS_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Upper bounds of the buckets of connection lifetimes, in seconds: from a failed attempt to a working day.
const LIFETIME_BUCKETS: [f64; 8] = [1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];
/// How often histograms are condensed; without it they would grow with every sample.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The close codes that are counted by themselves; others are counted together as `other`.
const CLOSE_CODES: [u16; 13] = [1000, 1001, 1006, 1009, 1012, 1013, 4400, 4401, 4403, 4406, 4408, 4409, 4429];
const CAUSES: [Cause; 12] = [
    Cause::Hole,
    Cause::Reconnect,
    Cause::Lagged,
    Cause::Probe,
    Cause::HeadCheck,
    Cause::Moved,
    Cause::Behind,
    Cause::Unanswered,
    Cause::Trimmed,
    Cause::Fork,
    Cause::Epoch,
    Cause::Vanished,
];
const READMISSIONS: [&str; 4] = ["accepted", "known", "unchanged", "refused"];
const REVOCATION_CLOSES: &str = "Sockets and event streams ended because their token was revoked, by what was revoked.";
const RETIRED: [&str; 6] = ["stopped", "idle", "deleted", "recycled", "panicked", "failed"];

/// Every metric of a node.
pub struct Metrics {
    handle: PrometheusHandle,
    /// Open GraphQL sockets and event streams. Worry when it is flat at the limit.
    pub ws_connections_active: Gauge,
    /// Open presence sockets. Worry when it is flat at the limit.
    pub presence_connections_active: Gauge,
    /// Messages handed to sockets.
    pub ws_messages_sent: Counter,
    /// Sockets closed because they took nothing for too long.
    pub ws_buffer_full: Counter,
    /// Listeners that fell behind and attached again from where they were. Harmless in small numbers.
    pub listeners_behind: Counter,
    /// Open subscriptions.
    pub subscriptions_active: Gauge,
    /// Channels of plans closed because nobody used them.
    pub broadcast_channels_idle_cleaned: Counter,
    /// Times the subscription to other nodes was interrupted. Worry when it goes on.
    pub subscription_interruptions: Counter,
    /// Messages from other nodes dropped because an actor was too slow; what they said is read from the log.
    pub feed_messages_dropped: Counter,
    /// Batches offered again because the log had moved. Worry when it nears the rate of edits.
    pub commit_retries: Counter,
    /// Clients that caught up change by change.
    pub resumes_by_replay: Counter,
    /// Clients that were given the whole plan.
    pub resumes_by_snapshot: Counter,
    /// Cursor moves dropped because a project's mailbox was full. Harmless in small numbers: the next one replaces it.
    pub cursors_dropped: Counter,
    /// Moves, and looks elsewhere, that were shown together with a later one of the same person: what conflation saves.
    pub cursors_conflated: Counter,
    /// Time between two cursor frames of a project, noted with each. Worry when it nears 1: the room is too large, or the
    /// node too busy.
    pub cursor_interval_seconds: Histogram,
    /// Connections that are present in a project at this node, those in their grace included.
    pub presence_members: Gauge,
    /// Presence sockets that took so little that they had to be given the whole picture anew. Harmless in small numbers.
    pub presence_behind: Counter,
    /// Reports of execution progress dropped because a mailbox was full.
    pub progress_dropped: Counter,
    /// Running project actors.
    pub actors: Gauge,
    /// Changes that the store lost and got back. Worry: it loses what it acknowledged.
    pub changes_restored: Counter,
    /// Times others had built on a log that had lost its end. Worry: it loses what it acknowledged.
    pub histories_parted: Counter,
    /// How long an edit took from its arrival to its answer.
    pub edit_seconds: Histogram,
    /// 1 while Redis answers, 0 while it does not, and on a node without Redis.
    pub redis_up: Gauge,
    /// 1 while commands are refused at once because Redis does not answer.
    pub redis_breaker_open: Gauge,
    /// Times that began. Worry when it goes on.
    pub redis_breaker_opened: Counter,
    /// Commands that were refused meanwhile; none of them was sent.
    pub redis_commands_refused: Counter,
    /// How long a command took on the command connection, until its answer or its timeout.
    pub redis_command_seconds: Histogram,
    /// Revocations of tokens that this node keeps. Worry when it nears 100,000, where no more are taken.
    pub revocations_held: Gauge,
    /// From a revocation, by the clock of the node that was told of it, to the end of a socket here. Worry above 1: messages
    /// between nodes are lost, or clocks differ.
    pub revocation_seconds: Histogram,
    /// Sockets and event streams ended by a revocation of their token.
    pub closed_by_token_revocation: Counter,
    /// Sockets and event streams ended by a revocation of their user's tokens.
    pub closed_by_user_revocation: Counter,
    /// What is given up under pressure: 0 nothing, 1 cursors are shown less often, 2 presence is told later, 3 connections are
    /// refused, 4 operations are refused. Worry from 3 on.
    pub pressure_level: Gauge,
    /// How late the event loop comes to what is due. Worry when it nears 0.05.
    pub event_loop_lag_seconds: Histogram,
    /// Bytes that wait for sockets to take them.
    pub send_queue_bytes: Gauge,
    /// How long Redis took to answer lately, on average; infinite while it does not answer.
    pub redis_latency_seconds: Gauge,
    /// What the node feels of its load, where it can be read back.
    pub pressure: Pressure,
    /// In the order of [`Shed::ALL`].
    shed: [Counter; Shed::ALL.len()],
    /// Who was refused, and by which limit.
    pub limits: LimitMetrics,
    /// TLS handshakes that failed. Worry when it nears the rate of connections: a certificate that clients do not take?
    pub tls_handshakes_failed: Counter,
    /// Looks at a changed certificate that could not be used. Worry: the present one will expire.
    pub tls_certificates_refused: Counter,
    /// Spans that the collector took.
    pub trace_spans_exported: Counter,
    /// Spans dropped because more ended than the queue to the collector holds.
    pub trace_spans_overflown: Counter,
    /// Spans dropped because the collector did not take them.
    pub trace_spans_refused: Counter,
    redis_reconnects: Vec<(Connection, Counter)>,
    connections: AtomicI32,
    subscriptions: AtomicI32,
    connection_lifetime_seconds: Histogram,
    connections_closed: Vec<(u16, Counter)>,
    connections_closed_other: Counter,
    gaps: Vec<(Cause, Counter)>,
    retired: Vec<(&'static str, Counter)>,
    readmissions: Vec<(&'static str, Counter)>,
    /// In the order of [`Expiry::ALL`].
    presence_expiries: [Counter; Expiry::ALL.len()],
}

impl Metrics {
    /// Declares everything, at zero.
    ///
    /// # Panics
    /// Never: the buckets are constants and not empty.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the buckets are constants and not empty")]
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("connection_lifetime_seconds".to_owned()), &LIFETIME_BUCKETS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            })
            .expect("buckets are not empty")
            .build_recorder();
        let declare = Declare { recorder: &recorder };
        Self {
            handle: recorder.handle(),
            ws_connections_active: declare.gauge("ws_connections_active", "Open GraphQL sockets and event streams."),
            presence_connections_active: declare.gauge("presence_connections_active", "Open presence sockets."),
            ws_messages_sent: declare.counter("ws_messages_sent_total", "Messages handed to sockets."),
            ws_buffer_full: declare.counter("ws_buffer_full_total", "Sockets closed because they took nothing for too long."),
            listeners_behind: declare.counter(
                "graphql_subscription_lag_total",
                "Listeners that fell behind and caught up from where they were. Harmless in small numbers.",
            ),
            subscriptions_active: declare.gauge("graphql_subscriptions_active", "Open subscriptions."),
            broadcast_channels_idle_cleaned: declare
                .counter("broadcast_channels_idle_cleaned_total", "Channels of plans closed because nobody used them."),
            subscription_interruptions: declare.counter(
                "bridge_interruptions_total",
                "Times the subscription to other nodes was interrupted. Worry when it goes on.",
            ),
            feed_messages_dropped: declare.counter(
                "bridge_messages_dropped_total",
                "Messages from other nodes that an actor was too slow for; they are read from the log. Worry when it goes on.",
            ),
            commit_retries: declare.counter(
                "commit_retries_total",
                "Batches offered again because the log had moved. Worry when it nears the rate of edits.",
            ),
            resumes_by_replay: declare.labelled("resumes_total", ("outcome", "replay"), "How clients caught up."),
            resumes_by_snapshot: declare.labelled("resumes_total", ("outcome", "snapshot"), "How clients caught up."),
            cursors_dropped: declare.counter(
                "cursors_dropped_total",
                "Cursor moves dropped because a mailbox was full. Harmless in small numbers: the next one replaces it.",
            ),
            cursors_conflated: declare.counter(
                "cursors_conflated_total",
                "Cursor moves that were shown together with a later one of the same person: what conflation saves.",
            ),
            cursor_interval_seconds: declare.histogram(
                "cursor_interval_seconds",
                "Time between two cursor frames of a project. Worry when it nears 1: a room too large, or a node too busy.",
            ),
            presence_members: declare
                .gauge("presence_members", "Connections present in projects at this node, those in their grace included."),
            presence_behind: declare.counter(
                "presence_behind_total",
                "Presence sockets that were given the whole picture anew because they took too little. Harmless in small numbers.",
            ),
            presence_expiries: Expiry::ALL
                .map(|why| {
                    let help = "Presences that ended without a leave, as this node saw it. Worry about 'node_gone'.";
                    declare.labelled("presence_expiries_total", ("cause", why.as_str()), help)
                }),
            progress_dropped: declare
                .counter("execution_progress_dropped_total", "Reports of progress dropped because a mailbox was full."),
            actors: declare.gauge("project_actors_active", "Running project actors."),
            changes_restored: declare.counter(
                "changes_restored_total",
                "Changes that Redis lost and got back from this node. Worry: it loses what it acknowledged.",
            ),
            histories_parted: declare.counter(
                "histories_parted_total",
                "Times others had built on a log that had lost its end. Worry: Redis loses what it acknowledged.",
            ),
            readmissions: READMISSIONS
                .iter()
                .map(|outcome| {
                    let help = "Lost changes that were judged again. Worry about 'refused': those edits are gone.";
                    (*outcome, declare.labelled("changes_readmitted_total", ("outcome", outcome), help))
                })
                .collect(),
            edit_seconds: declare.histogram("edit_seconds", "From an edit's arrival to its answer."),
            redis_up: declare.gauge("redis_up", "1 while Redis answers. Worry when it is 0 on a node that has one."),
            redis_breaker_open: declare
                .gauge("redis_breaker_open", "1 while commands are refused at once because Redis does not answer."),
            redis_breaker_opened: declare.counter(
                "redis_breaker_opened_total",
                "Times Redis stopped answering, so that commands were refused. Worry when it goes on.",
            ),
            redis_commands_refused: declare.counter(
                "redis_commands_refused_total",
                "Commands that were not sent because Redis does not answer; who asked may ask again.",
            ),
            redis_command_seconds: declare.histogram(
                "redis_command_seconds",
                "From a command on the command connection to its answer or timeout. Worry when it nears 0.1.",
            ),
            revocations_held: declare.gauge(
                "revocations_held",
                "Revocations of tokens that this node keeps. Worry when it nears 100,000, where no more are taken.",
            ),
            revocation_seconds: declare.histogram(
                "revocation_seconds",
                "From a revocation, by the clock of the node that was told, to the end of a socket here. Worry above 1.",
            ),
            closed_by_token_revocation: declare.labelled("revocation_closes_total", ("cause", "token"), REVOCATION_CLOSES),
            closed_by_user_revocation: declare.labelled("revocation_closes_total", ("cause", "user"), REVOCATION_CLOSES),
            pressure_level: declare.gauge(
                "pressure_level",
                "What is given up under pressure: 0 nothing, 1 narrow cursor ticks, 2 prompt presence, 3 new connections, 4 new operations. Worry from 3 on.",
            ),
            event_loop_lag_seconds: declare.histogram(
                "event_loop_lag_seconds",
                "How late the event loop comes to what is due. Worry when it nears 0.05.",
            ),
            send_queue_bytes: declare
                .gauge("send_queue_bytes", "Bytes that wait for sockets to take them. Worry when they stay in the hundreds of millions."),
            redis_latency_seconds: declare.gauge(
                "redis_latency_seconds",
                "How long Redis took to answer lately, on average; infinite while it does not answer. Worry when it nears 0.05.",
            ),
            pressure: Pressure::default(),
            shed: Shed::ALL.map(|what| {
                let help = "What was refused, or told later, because the node is under pressure. Worry about all but 'presence'.";
                declare.labelled("shed_total", ("what", what.as_str()), help)
            }),
            limits: LimitMetrics::declare(&declare),
            tls_handshakes_failed: declare.counter(
                "tls_handshakes_failed_total",
                "TLS handshakes that failed. Worry when it nears the rate of connections: a certificate clients do not take?",
            ),
            tls_certificates_refused: declare.counter(
                "tls_certificates_refused_total",
                "Looks at a changed certificate that could not be used. Worry: the present one will expire.",
            ),
            trace_spans_exported: declare.counter("trace_spans_exported_total", "Spans that the collector took."),
            trace_spans_overflown: declare.labelled("trace_spans_dropped_total", ("cause", "queue_full"), TRACES_DROPPED),
            trace_spans_refused: declare.labelled("trace_spans_dropped_total", ("cause", "refused"), TRACES_DROPPED),
            redis_reconnects: Connection::ALL
                .iter()
                .map(|connection| {
                    let help = "Times a lasting connection to Redis was made anew. Worry when it goes on.";
                    (*connection, declare.labelled("redis_reconnects_total", ("connection", connection.as_str()), help))
                })
                .collect(),
            connections: AtomicI32::new(0),
            subscriptions: AtomicI32::new(0),
            connection_lifetime_seconds: declare
                .histogram("connection_lifetime_seconds", "How long sockets and event streams were open."),
            connections_closed: CLOSE_CODES.iter().map(|code| (*code, declare.closed(code.to_string()))).collect(),
            connections_closed_other: declare.closed("other".to_owned()),
            gaps: CAUSES
                .iter()
                .map(|cause| {
                    let help = "Times a plan was read from the log to catch up. Worry about 'fork'.";
                    (*cause, declare.labelled("gaps_total", ("cause", cause.as_str()), help))
                })
                .collect(),
            retired: RETIRED
                .iter()
                .map(|cause| (*cause, declare.labelled("actors_retired_total", ("cause", cause), "Lives of project actors that ended. Worry about 'panicked' and 'failed'.")))
                .collect(),
        }
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Condenses histograms until the task is dropped or aborted.
    pub async fn upkeep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }

    /// Repairs of a plan, by cause.
    pub fn gap(&self, cause: Cause) -> Counter {
        self.gaps.iter().find(|(known, _)| *known == cause).map_or_else(Counter::noop, |(_, counter)| counter.clone())
    }

    /// Lost changes that were judged again, by what became of them.
    pub fn readmission(&self, outcome: &Readmission) -> Counter {
        let name = match outcome {
            Readmission::Accepted { .. } => "accepted",
            Readmission::Known { .. } => "known",
            Readmission::Unchanged => "unchanged",
            Readmission::Refused(_) => "refused",
        };
        self.readmissions
            .iter()
            .find(|(known, _)| *known == name)
            .map_or_else(Counter::noop, |(_, count)| count.clone())
    }

    /// Presences that ended without a leave, by cause.
    pub fn presence_expiries(&self, why: Expiry) -> &Counter {
        &self.presence_expiries[why as usize]
    }

    /// What was refused or put off under pressure.
    pub fn shed(&self, what: Shed) -> &Counter {
        &self.shed[what as usize]
    }

    /// Connections to Redis that were made anew.
    pub fn redis_reconnects(&self, connection: Connection) -> Counter {
        self.redis_reconnects
            .iter()
            .find(|(known, _)| *known == connection)
            .map_or_else(Counter::noop, |(_, counter)| counter.clone())
    }

    /// Lives of project actors that ended, by cause: one of [`RETIRED`].
    pub fn retired(&self, cause: &str) -> Counter {
        self.retired
            .iter()
            .find(|(known, _)| *known == cause)
            .map_or_else(Counter::noop, |(_, counter)| counter.clone())
    }

    /// Open sockets and event streams, presence included. Gauges can't be read back.
    #[must_use]
    pub fn connections_now(&self) -> i32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Open subscriptions.
    #[must_use]
    pub fn subscriptions_now(&self) -> i32 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Notes an opened GraphQL socket or event stream.
    pub fn connection_opened(&self) {
        self.ws_connections_active.increment(1.0);
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes its end.
    pub fn connection_closed(&self, code: u16, lifetime: Duration) {
        self.ws_connections_active.decrement(1.0);
        self.closed(code, lifetime);
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

    /// Notes an opened presence socket.
    pub fn presence_opened(&self) {
        self.presence_connections_active.increment(1.0);
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a closed presence socket.
    pub fn presence_closed(&self, code: u16, lifetime: Duration) {
        self.presence_connections_active.decrement(1.0);
        self.closed(code, lifetime);
    }

    fn closed(&self, code: u16, lifetime: Duration) {
        let known = self.connections_closed.iter().find(|(known, _)| *known == code).map(|(_, counter)| counter);
        known.unwrap_or(&self.connections_closed_other).increment(1);
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.connection_lifetime_seconds.record(lifetime.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

const TRACES_DROPPED: &str =
    "Spans that no collector got. Worry when it goes on: traces have holes; nothing else suffers.";

/// Registers metrics with their help.
struct Declare<'a> {
    recorder: &'a PrometheusRecorder,
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Declare<'_> {
    fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.recorder.describe_counter(KeyName::from(name), None, help.into());
        self.recorder.register_counter(&Key::from_name(name), &METADATA)
    }

    fn labelled(&self, name: &'static str, label: (&'static str, &'static str), help: &'static str) -> Counter {
        self.recorder.describe_counter(KeyName::from(name), None, help.into());
        self.recorder.register_counter(&Key::from_parts(name, vec![Label::new(label.0, label.1)]), &METADATA)
    }

    fn closed(&self, code: String) -> Counter {
        let name = "connections_closed_total";
        let help = "Closed sockets and event streams by close code. Worry about 1013 and 4408.";
        self.recorder.describe_counter(KeyName::from(name), None, help.into());
        self.recorder.register_counter(&Key::from_parts(name, vec![Label::new("code", code)]), &METADATA)
    }

    fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.recorder.describe_gauge(KeyName::from(name), None, help.into());
        self.recorder.register_gauge(&Key::from_name(name), &METADATA)
    }

    fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        self.recorder.describe_histogram(KeyName::from(name), Some(Unit::Seconds), help.into());
        self.recorder.register_histogram(&Key::from_name(name), &METADATA)
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
            "trace_spans_dropped_total{cause=\"queue_full\"} 0",
        ];
        for name in names {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }

    #[test]
    fn a_close_code_we_do_not_know_is_counted_as_other() {
        let metrics = Metrics::new();
        metrics.connection_closed(4999, Duration::from_secs(1));
        assert!(metrics.render().contains("connections_closed_total{code=\"other\"} 1"));
    }
}
