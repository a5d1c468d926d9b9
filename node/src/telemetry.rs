//! Logs: how they look, and what they say by default. Traces: that they are made, if they are wanted.
//!
//! Logs go to stderr. A normal hour is readable at `info`; `RUST_LOG` asks for more or less. No token and no plan's
//! content is ever written: our own lines name neither, and libraries are not heard below `debug`, where they write down
//! whole frames. What is logged and what is traced are chosen apart from each other.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::traces::{self, ExportSettings, Unstarted};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines: one JSON object per line.
    Json,
}

/// What is logged unless `RUST_LOG` says otherwise.
pub const DEFAULT_FILTER: &str = "info,fred=error,hyper=warn,rustls=warn";

/// Starts logging, and tracing if there is somewhere to send traces: then the exporter is to be started too. Only the first
/// call of a process counts.
pub fn start(format: LogFormat, filter: &str, traces: Option<ExportSettings>) -> Option<Unstarted> {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let registry = tracing_subscriber::registry();
    // A second call is a test's second node: the first one's settings stand.
    let Some(traces) = traces else {
        // One filter for all: a layer with a filter of its own looks at each span that is entered, and one is per operation.
        let _ = registry.with(filter).with(filter_fn(is_discreet)).with(lines(format)).try_init();
        return None;
    };
    let (spans, exporter) = traces::layer(traces);
    let lines = lines(format).with_filter(filter.and(filter_fn(is_discreet)));
    registry.with(spans).with(lines).try_init().ok().map(|()| exporter)
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Pretty => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    }
}

/// Whether a line can be one that holds no frame, whoever writes it. The spans of traces are nobody's log.
fn is_discreet(line: &Metadata<'_>) -> bool {
    (*line.level() <= Level::DEBUG || line.target().starts_with("mille")) && line.target() != traces::TARGET
}
