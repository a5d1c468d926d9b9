//! The process: settings, logs, the node, and its end.

use std::process::ExitCode;

use mille_node::config::Config;
use mille_node::node::Node;
use mille_node::shutdown::{Asked, Signals};
use mille_node::telemetry;

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
    telemetry::start(format, &filter);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mille-node: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(config))
}

async fn run(config: Config) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("mille-node: signals can't be listened to: {error}");
            return ExitCode::FAILURE;
        }
    };
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => {
            tracing::error!(%error, "the node can't start");
            eprintln!("mille-node: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    if let Some(welcome) = node.welcome() {
        eprintln!("{welcome}");
    }
    let drain = node.drain().clone();
    let asked = tokio::select! {
        asked = signals.next() => asked,
        () = node.asked_to_drain() => Asked::Drain,
    };
    if asked == Asked::Hurry {
        drain.hurry();
    }
    let hurry_when_asked_again = async {
        signals.next().await;
        drain.hurry();
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = node.stop() => ended,
        never = hurry_when_asked_again => never,
    };
    if ended {
        tracing::info!("stopped");
        ExitCode::SUCCESS
    } else {
        tracing::error!("not everything ended in time");
        ExitCode::FAILURE
    }
}
