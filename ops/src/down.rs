//! `mille down`: stops a local cluster in order.
//!
//! First the load balancer, so that nobody new comes; then the nodes, which send their clients away, all at once since
//! there is no other node to go to; Redis last, when all that was accepted has reached it. Only processes that still are what the state file says
//! get a signal.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use mille_shared::limits::SHUTDOWN_DEADLINE;
use serde_json::{Value, json};

use crate::output::Output;
use crate::process::{Departure, stop_all};
use crate::state::{State, find_dir};

/// What a process gets to end by itself: as long as a node may take, and a little more.
const PATIENCE: Duration = SHUTDOWN_DEADLINE.saturating_add(Duration::from_secs(3));

/// `mille down`
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// State directory of the cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Stops the cluster; nothing to stop is no failure.
pub(crate) async fn run(args: DownArgs, output: &Output) -> Result<ExitCode> {
    let dir = find_dir(args.state.as_deref());
    let Some(state) = State::load(&dir)? else {
        output.note(format_args!("no cluster in {}", dir.display()));
        if output.is_json() {
            output.value(&json!({ "stopped": [] }));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let departures = stop(&state, &dir).await?;
    if output.is_json() {
        let list: Vec<Value> =
            departures.iter().map(|(name, how)| json!({ "name": name, "how": how.as_str() })).collect();
        output.value(&json!({ "stopped": list }));
    } else {
        for (name, how) in &departures {
            output.line(format_args!("{name} {}", how.as_str()));
        }
    }
    let clean = departures.iter().all(|(_, how)| *how != Departure::Stuck);
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Stops what `state` names, in order, and forgets it.
///
/// # Errors
/// When the state file can't be removed.
pub(crate) async fn stop(state: &State, dir: &Path) -> Result<Vec<(String, Departure)>> {
    let mut departures = Vec::new();
    // To a node SIGTERM is something that takes longer.
    for (step, signal) in state.stop_order().into_iter().zip(["TERM", "INT", "TERM"]) {
        departures.extend(stop_all(&step, signal, PATIENCE).await);
    }
    State::remove(dir)?;
    Ok(departures)
}
