//! Logs: how they look, and what they say by default.
//!
//! Logs go to stderr. A normal hour is readable at `info`; `RUST_LOG` asks for more or less. No token and no plan's
//! content is ever written: our own lines name neither, and libraries are not heard below `debug`, where they write down
//! whole frames.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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

/// Starts logging. Only the first call of a process counts.
pub fn start(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_discreet));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second call is a test's second node: the first one's settings stand.
    let _ = match format {
        LogFormat::Pretty => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
}

/// Whether a line can be one that holds no frame, whoever writes it.
fn is_discreet(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::DEBUG || line.target().starts_with("mille")
}
