//! The process: settings, logs, the node, and its end.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use mille_node::config::Config;
use mille_node::drain::Drain;
use mille_node::node::Node;
use mille_node::shutdown::{Asked, Signals};
use mille_node::telemetry;
use mille_node::traces::Unstarted;
use mille_shared::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads may take to end that are busy when everything else has.
const THREADS_PATIENCE: Duration = Duration::from_secs(1);

/// Settings that can't be used; nothing was begun.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (config, format, filter) = match Config::from_process() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("mille-node: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let traces = telemetry::start(format, &filter, config.traces.clone());
    raise_open_files();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.worker_threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mille-node: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(run(config, traces));
    // Whatever still runs has had its time: a thread that hangs must not keep the process.
    runtime.shutdown_timeout(THREADS_PATIENCE);
    exit
}

/// Takes as many open files as the system gives: many start a process with a thousand and let it ask for more. What is
/// then in force is among the node's facts.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, ..limit };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::info!(before = limit.current, now = limit.maximum, "more files may be open"),
        Err(error) => tracing::warn!(%error, "no more files may be open than were allowed at first"),
    }
}

async fn run(config: Config, traces: Option<Unstarted>) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("mille-node: signals can't be listened to: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = tokio::select! {
        biased;
        started = Node::start(config) => started,
        _ = signals.next() => {
            tracing::info!("asked to leave before it had started");
            return ExitCode::SUCCESS;
        }
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            tracing::error!(%error, "the node can't start");
            eprintln!("mille-node: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let traces = traces.and_then(|traces| traces.start(node.id(), node.metrics()));
    if let Some(welcome) = node.welcome() {
        eprintln!("{welcome}");
    }
    let drain = node.drain().clone();
    let (asked, by_signal) = tokio::select! {
        asked = signals.next() => (asked, true),
        () = node.asked_to_drain() => (Asked::Drain, false),
    };
    if asked == Asked::Hurry {
        drain.hurry();
    }
    let ended = tokio::select! {
        ended = node.stop() => ended,
        never = hurry_when_asked_again(&mut signals, &drain, by_signal) => match never {},
    };
    let exit = if ended {
        tracing::info!("stopped");
        ExitCode::SUCCESS
    } else {
        tracing::error!("not everything ended in time");
        ExitCode::FAILURE
    };
    if let Some(traces) = traces {
        traces.finish(limits::TRACE_FAREWELL).await;
    }
    exit
}

/// Whoever asks again by a signal is in a hurry. If an operator asked first, at the admin listener, the signal of who stops
/// processes follows: that is no second wish.
async fn hurry_when_asked_again(signals: &mut Signals, drain: &Drain, mut is_second_wish: bool) -> Infallible {
    loop {
        let is_hurry = signals.next().await == Asked::Hurry || is_second_wish;
        tracing::info!(is_hurry, "asked to leave by a signal");
        if is_hurry {
            drain.hurry();
        }
        is_second_wish = true;
    }
}
