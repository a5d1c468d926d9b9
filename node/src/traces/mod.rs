//! The spans of a node, for whoever follows an edit through the cluster.
//!
//! They are named here and nowhere else, after OpenTelemetry's conventions where there are any, and apart from the spans
//! that log lines stand in: without an exporter (`export`) none of them is ever made. Ids of projects, plans and revisions
//! may stand in them; no token, no plan's content, nothing that a user typed.
//!
//! What goes on in another task or on another node is tied to a trace by a [`TraceParent`], which only a trace that is
//! recorded has. So whoever holds none does nothing, and that is all an edit costs which nobody traces.

mod export;

use mille_shared::log::{CommitOutcome, Proposal};
use mille_shared::{ConnectionId, PlanId, ProjectId, Revision, TraceParent};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::{Instrument as _, Level, Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

pub use export::{ExportSettings, Exporter, Unstarted, layer};

/// The target of every span in here, by which they are told from the spans of logs.
pub const TARGET: &str = module_path!();

/// Whether spans are made at all.
fn are_on() -> bool {
    tracing::span_enabled!(Level::INFO)
}

/// A request over HTTP. Whatever span is entered is that of its log lines, and is told of the trace.
///
/// `parent` is only asked for if spans are made.
#[must_use]
pub fn request(method: &str, route: &'static str, parent: impl FnOnce() -> Option<TraceParent>) -> Span {
    if !are_on() {
        return Span::none();
    }
    let span = info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
    );
    follow(&span, parent());
    tell_log(&Span::current(), &span);
    span
}

/// Notes how a request was answered.
pub fn request_answered(span: &Span, status: u16) {
    span.record("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// A query or mutation of a request.
#[must_use]
pub fn operation(kind: &'static str) -> Span {
    info_span!("operation", otel.name = kind, graphql.operation.type = kind)
}

/// The span of log lines about an operation of a socket: it says which connection's.
#[must_use]
pub fn log_span(kind: &'static str, connection: &ConnectionId) -> Span {
    info_span!(
        target: "mille_node::operation",
        "operation",
        kind,
        connection.id = %connection,
        trace_id = field::Empty,
    )
}

/// Runs a query or mutation of a socket, where no request is around it.
pub fn on_socket<F: Future>(
    kind: &'static str,
    connection: &ConnectionId,
    parent: Option<TraceParent>,
    operation: F,
) -> impl Future<Output = F::Output> + use<F> {
    let log = log_span(kind, connection);
    let mut span = Span::none();
    if are_on() {
        span = info_span!("operation", otel.name = kind, otel.kind = "server", graphql.operation.type = kind);
        follow(&span, parent);
        tell_log(&log, &span);
    }
    operation.instrument(span).instrument(log)
}

/// A span of a trace that is recorded. It ends when it is dropped.
#[derive(Debug)]
pub struct Traced {
    span: Span,
    place: TraceParent,
}

impl Traced {
    fn begin(span: Span) -> Option<Self> {
        let place = place_of(&span)?;
        Some(Self { span, place })
    }

    /// Its place, for what it causes.
    #[must_use]
    pub fn place(&self) -> TraceParent {
        self.place
    }

    /// Notes at which revision it ended.
    pub fn at(&self, revision: Revision) {
        self.span.record("mille.revision", field::display(revision));
    }

    /// Notes why it came to nothing, in a word of a closed set. `is_ours`: the fault is not the caller's.
    pub fn failed(&self, why: &'static str, is_ours: bool) {
        self.span.record("error.type", why);
        if is_ours {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// An edit of a plan, from here until it is answered: a part of what goes on here and now, if that is traced.
#[must_use]
pub fn edit(project: ProjectId, plan: PlanId) -> Option<Traced> {
    place_of(&Span::current())?;
    Traced::begin(info_span!(
        "edit",
        project.id = i64::from(project.0),
        plan.id = i64::from(plan.0),
        mille.revision = field::Empty,
        error.type = field::Empty,
        otel.status_code = field::Empty,
    ))
}

/// The commit of a batch to Redis, once for each edit in it that is traced: with an entry per proposal, or empty.
#[must_use]
pub fn commits(plan: PlanId, batch: &[Proposal], function: &'static str) -> Vec<Option<Traced>> {
    if batch.iter().all(|proposal| proposal.trace.is_none()) {
        return Vec::new();
    }
    let changes = batch.len();
    let commit = |place| {
        under(
            place,
            info_span!(
                parent: None,
                "commit",
                otel.name = format_args!("FCALL {function}"),
                otel.kind = "client",
                otel.status_code = field::Empty,
                db.system.name = "redis",
                db.operation.name = "FCALL",
                db.stored_procedure.name = function,
                plan.id = i64::from(plan.0),
                mille.batch.changes = changes,
                mille.commit.outcome = field::Empty,
                error.type = field::Empty,
            ),
        )
    };
    batch.iter().map(|proposal| proposal.trace.and_then(commit)).collect()
}

/// Notes what a commit came to.
pub fn committed<E>(commits: &[Option<Traced>], outcome: &Result<CommitOutcome, E>) {
    for commit in commits.iter().flatten() {
        let outcome = match outcome {
            Ok(CommitOutcome::Committed { .. }) => "committed",
            Ok(CommitOutcome::Repeated { .. }) => "repeated",
            Ok(CommitOutcome::Moved { .. }) => "moved",
            Ok(CommitOutcome::Reborn { .. }) => "reborn",
            Ok(CommitOutcome::NewEpoch { .. }) => "new_epoch",
            Err(_) => {
                commit.failed("unavailable", true);
                "unknown"
            }
        };
        commit.span.record("mille.commit.outcome", outcome);
    }
}

/// An entry of a plan's log that came in on the plan's channel, while this node takes it over.
#[must_use]
pub fn apply(place: TraceParent, plan: PlanId, revision: Revision) -> Option<Traced> {
    if !are_on() {
        return None;
    }
    under(
        place,
        info_span!(
            parent: None,
            "apply",
            otel.kind = "consumer",
            messaging.operation.type = "process",
            messaging.operation.name = "apply",
            plan.id = i64::from(plan.0),
            mille.revision = %revision,
        ),
    )
}

/// The way of a change to those who listen on this node, until the last of them took it.
#[must_use]
pub fn fan_out(place: TraceParent, plan: PlanId, revision: Revision, listeners: usize) -> Option<Traced> {
    under(
        place,
        info_span!(
            parent: None,
            "fan_out",
            plan.id = i64::from(plan.0),
            mille.revision = %revision,
            mille.listeners = listeners,
        ),
    )
}

/// A span of the trace of `place`, if it is recorded.
fn under(place: TraceParent, span: Span) -> Option<Traced> {
    follow(&span, Some(place));
    Traced::begin(span)
}

/// Makes a span that has just been made a part of a trace.
fn follow(span: &Span, parent: Option<TraceParent>) {
    let Some(TraceParent { trace_id, span_id, is_sampled }) = parent else { return };
    let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
    let context = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
    // A span that is not made has no parent either.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
}

/// Where a span is, if its trace is recorded.
fn place_of(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    let is_recorded = span.is_valid() && span.is_sampled();
    is_recorded.then(|| TraceParent {
        trace_id: span.trace_id().to_bytes(),
        span_id: span.span_id().to_bytes(),
        is_sampled: true,
    })
}

/// Lets log lines say to which trace they belong.
fn tell_log(log: &Span, span: &Span) {
    if let Some(place) = place_of(span) {
        log.record("trace_id", field::display(TraceId::from_bytes(place.trace_id)));
    }
}
