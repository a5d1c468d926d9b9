//! Spans on their way to a collector: OTLP over HTTP, in protobuf.
//!
//! Whoever ends a span puts it into a bounded queue and never waits: what does not fit is dropped and counted. One task
//! sends what is in the queue, batch by batch, one at a time. A batch that the collector does not take is dropped and
//! counted too: a node that kept it for later would pay for a collector that is gone. A log line says so, once a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mille_shared::{NodeId, limits};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use prost::Message as _;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::TARGET;
use crate::metrics::Metrics;

/// How spans are chosen, gathered and sent.
#[derive(Debug, Clone)]
pub struct ExportSettings {
    /// Where they are posted.
    pub endpoint: Url,
    /// Sent along with each batch; usually what the collector knows us by.
    pub headers: HeaderMap,
    /// How long the collector may take for one batch.
    pub timeout: Duration,
    /// What is told of the node, beside its id and version.
    pub resource: Vec<(String, String)>,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// Spans that wait; what is beyond is dropped.
    pub queue_max: usize,
    /// Spans in one batch. At most [`queue_max`](Self::queue_max).
    pub batch_max: usize,
    /// How long a span waits for others to come along, at most.
    pub delay: Duration,
}

/// The beginning of the queue.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<SpanData>,
    batch_max: usize,
    gauge: Arc<Gauge>,
}

/// What both ends of the queue know.
#[derive(Debug, Default)]
struct Gauge {
    /// Spans that found no place so far.
    overflown: AtomicU64,
    /// A batch is full.
    is_due: Notify,
}

/// An exporter of which only the queue exists: spans may end before the node knows its id.
#[derive(Debug)]
pub struct Unstarted {
    settings: ExportSettings,
    spans: mpsc::Receiver<SpanData>,
    gauge: Arc<Gauge>,
}

/// A running exporter.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The layer that makes the spans, and the exporter behind it.
pub fn layer<S>(settings: ExportSettings) -> (impl Layer<S>, Unstarted)
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let (spans, receiver) = mpsc::channel(settings.queue_max);
    let gauge = Arc::new(Gauge::default());
    let queue = Queue { spans, batch_max: settings.batch_max, gauge: Arc::clone(&gauge) };
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder_empty().build())
        .with_sampler(settings.sampler.clone())
        .with_span_processor(queue)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("mille-node"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false);
    // Spans only: what log lines say stays in the logs.
    let ours = filter_fn(|line| line.is_span() && line.target() == TARGET).with_max_level_hint(LevelFilter::INFO);
    (layer.with_filter(ours), Unstarted { settings, spans: receiver, gauge })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.gauge.overflown.fetch_add(1, Ordering::Relaxed);
        } else if self.spans.max_capacity() - self.spans.capacity() >= self.batch_max {
            self.gauge.is_due.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Unstarted {
    /// Begins to send, in the name of a node. `None`, with a log line that says why, if that can't be.
    #[must_use]
    pub fn start(self, node: &NodeId, metrics: Arc<Metrics>) -> Option<Exporter> {
        let Self { settings, spans, gauge } = self;
        // What the collector knows us by goes nowhere else.
        let client = reqwest::Client::builder().redirect(Policy::none()).timeout(settings.timeout);
        let client = client.default_headers(settings.headers).build();
        let client = client.inspect_err(|error| tracing::error!(%error, "no traces: there is no HTTP client")).ok()?;
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", node.to_string()))
            .with_attributes(settings.resource.into_iter().map(|(key, value)| KeyValue::new(key, value)))
            .build();
        let sender = Sender {
            client,
            endpoint: settings.endpoint,
            resource: (&resource).into(),
            batch_max: settings.batch_max,
            spans,
            gauge,
            metrics,
            overflown: 0,
            trouble: Trouble::default(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(sender.run(settings.delay, stop.clone()));
        Some(Exporter { stop, task })
    }
}

impl Exporter {
    /// Sends what waits, and ends. Takes `deadline` at most; what is not sent by then is lost.
    pub async fn finish(mut self, deadline: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            tracing::warn!("the last traces were not taken in time");
            self.task.abort();
        }
    }
}

/// The end of the queue.
struct Sender {
    client: reqwest::Client,
    endpoint: Url,
    resource: ResourceAttributesWithSchema,
    batch_max: usize,
    spans: mpsc::Receiver<SpanData>,
    gauge: Arc<Gauge>,
    metrics: Arc<Metrics>,
    /// Overflown spans that are counted already.
    overflown: u64,
    trouble: Trouble,
}

impl Sender {
    async fn run(mut self, delay: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(delay);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.gauge.is_due.notified() => false,
                _ = ticks.tick() => false,
            };
            while let Some(batch) = self.next_batch() {
                self.send(batch).await;
                self.count_overflow();
            }
            if is_last {
                return;
            }
        }
    }

    fn next_batch(&mut self) -> Option<Vec<SpanData>> {
        let waiting = self.spans.len().min(self.batch_max);
        let batch: Vec<_> = std::iter::from_fn(|| self.spans.try_recv().ok()).take(waiting).collect();
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let request = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, PROTOBUF).body(body);
        // The address may hold a password.
        match request.send().await.and_then(reqwest::Response::error_for_status).map_err(reqwest::Error::without_url) {
            Ok(_) => {
                self.metrics.traces.exported.increment(spans);
                self.trouble.ended();
            }
            Err(error) => {
                self.metrics.traces.refused.increment(spans);
                self.trouble.met(spans, &cause_of(&error));
            }
        }
    }

    fn count_overflow(&mut self) {
        let overflown = self.gauge.overflown.load(Ordering::Relaxed);
        let more = overflown - self.overflown;
        if more > 0 {
            self.overflown = overflown;
            self.metrics.traces.overflown.increment(more);
            self.trouble.met(more, "more spans ended than the collector took");
        }
    }
}

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The last cause says most: the ones before say that something was sent.
fn cause_of(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Spans that were lost, and when that was told last.
#[derive(Debug, Default)]
struct Trouble {
    lost: u64,
    told: Option<Instant>,
}

impl Trouble {
    fn met(&mut self, spans: u64, cause: &str) {
        self.lost += spans;
        if self.told.is_none_or(|told| told.elapsed() >= limits::TRACE_TROUBLE_TOLD_EVERY) {
            tracing::warn!(spans = self.lost, cause, "traces are lost");
            *self = Self { lost: 0, told: Some(Instant::now()) };
        }
    }

    fn ended(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() >= limits::TRACE_TROUBLE_TOLD_EVERY) {
            tracing::info!(spans_lost_since = self.lost, "traces are taken again");
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    fn span() -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "edit".into(),
            start_time: std::time::UNIX_EPOCH,
            end_time: std::time::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: opentelemetry::InstrumentationScope::default(),
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let (spans, mut waiting) = mpsc::channel(3);
        let gauge = Arc::new(Gauge::default());
        let queue = Queue { spans, batch_max: 2, gauge: Arc::clone(&gauge) };
        (0..5).for_each(|_| queue.on_end(span()));
        assert_eq!((waiting.len(), gauge.overflown.load(Ordering::Relaxed)), (3, 2));
        assert!(waiting.try_recv().is_ok());
        queue.on_end(span());
        assert_eq!((waiting.len(), gauge.overflown.load(Ordering::Relaxed)), (3, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_gone_is_told_of_once_a_minute() {
        let mut trouble = Trouble::default();
        let mut told = 0;
        for _ in 0..180 {
            let before = trouble.told;
            trouble.met(1, "refused");
            told += u32::from(trouble.told != before);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, 3);
        trouble.ended();
        assert!(trouble.told.is_none() && trouble.lost == 0, "a minute after the last word it is told that it is over");
    }
}
