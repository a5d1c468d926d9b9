//! The process: settings, logs, the node, and its end.

use std::process::ExitCode;

use mille_node::config::Config;
use mille_node::node::Node;
use mille_node::traces::Unstarted;
use mille_node::{shutdown, telemetry};
use mille_shared::limits;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mille-node: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(config, traces))
}

async fn run(config: Config, traces: Option<Unstarted>) -> ExitCode {
    let deadline = config.shutdown;
    let node = match Node::start(config).await {
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
    tokio::select! {
        signal = shutdown::signal() => match signal {
            Ok(signal) => tracing::info!(signal, "stopping"),
            Err(error) => tracing::error!(%error, "signals can't be listened to; stopping"),
        },
        () = node.drained() => tracing::info!("drained; stopping"),
    }
    let exit = if node.stop(deadline).await {
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
