//! `mille bench resume`: many clients come back at once, each many changes behind.
//!
//! They leave one node, the plan changes through that node alone, and they come back to another, which has
//! not had the plan open: the dearest way to resume, since nothing is in its memory. No process is harmed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::count_up_to;
use super::ground::Ground;
use super::load::Load;
use super::report::{Bill, Faults, Promise, Quantiles, conclude};
use super::subscribers::{Crowd, DELTAS, Progress, faults};
use super::usage::{Meter, counters, growth};
use crate::output::Output;
use crate::status::table;

/// Until every client has seen the first edit.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// What they get to come back and catch up.
const WHOLE_WITHIN: Duration = Duration::from_secs(40);

/// The number of the edit that each of them saw before it left.
const FIRST_EDIT: u32 = u32::MAX;

/// `mille bench resume`
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Clients that come back at once.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count_up_to::<10_000>())]
    clients: u32,
    /// Changes that each of them has missed.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count_up_to::<50_000>())]
    behind: u32,
    /// The node they come back to [default: the last].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Runs the bench; the exit code says whether its promises were kept.
pub(crate) async fn run(args: &ResumeArgs, output: Output) -> Result<ExitCode> {
    let ground = Ground::prepare(args.state.as_deref(), args.clients as usize).await?;
    let findings = measure(args, &ground, output).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    /// The node they left.
    from: String,
    /// The node they came back to.
    to: String,
    clients: usize,
    behind: u32,
    whole: usize,
    whole_since_reconnect: Quantiles,
    faults: Faults,
    /// Why clients were given up.
    failures: Vec<String>,
    /// At the node they came back to, from its metrics.
    at_the_node: AtTheNode,
    #[serde(flatten)]
    bill: Bill,
}

/// Growth of counters while they came back. Single commands are not told apart there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AtTheNode {
    resumes_by_replay: u64,
    resumes_by_snapshot: u64,
    /// Times the plan was read from the log to catch up.
    gaps: u64,
    /// Commands on the command connection, of any kind: reads of the log are among them.
    redis_commands: u64,
}

async fn measure(args: &ResumeArgs, ground: &Ground, output: Output) -> Result<Findings> {
    let nodes = &ground.state.nodes;
    let to = ground.node_index(args.node.as_deref())?;
    let from = (to + 1) % nodes.len();
    let progress = Arc::new(Progress::new(ground.start.seq));
    let count = args.clients as usize;
    let crowd = Crowd::open(ground, &progress, count, &[from], DELTAS).await?;
    let load = Load::new(ground, &progress, &[from])?;
    let first = load.edit(FIRST_EDIT, Instant::now()).await?;
    ensure!(first.latency.is_some(), "the first edit was not answered");
    let clients = crowd.finish(progress.head(), BEGIN_WITHIN).await?;
    let ready = clients.iter().filter(|client| client.sequence.last.seq == progress.head()).count();
    ensure!(ready == count, "only {ready} of {count} clients saw the first edit");

    output.note(format_args!("mille: {count} clients left {}; making {} changes", nodes[from].name, args.behind));
    load.run_at_once(args.behind).await?;

    output.note(format_args!("mille: they come back to {}", nodes[to].name));
    let deliveries_before = progress.deliveries();
    let counters_before = counters(&nodes[to]).await?;
    let mut meter = Meter::start(&ground.state);
    let clients = Crowd::bring_back(clients, to).finish(progress.head(), WHOLE_WITHIN).await?;
    let bill = Bill::new(meter.read(), nodes, progress.deliveries() - deliveries_before);
    let counters_after = counters(&nodes[to]).await?;

    let growth = |name: &str| growth(&counters_before, &counters_after, name);
    let times: Vec<Duration> = clients
        .iter()
        .filter_map(|client| client.returns.first())
        .filter_map(|back| back.whole.map(|whole| whole - back.began))
        .collect();
    Ok(Findings {
        bench: "resume",
        from: nodes[from].name.clone(),
        to: nodes[to].name.clone(),
        clients: clients.len(),
        behind: args.behind,
        whole: times.len(),
        whole_since_reconnect: Quantiles::of(times)?,
        faults: faults(&clients, progress.head()),
        failures: clients.iter().filter_map(|client| client.failure.clone()).collect(),
        at_the_node: AtTheNode {
            resumes_by_replay: growth("resumes_total{outcome=\"replay\"}"),
            resumes_by_snapshot: growth("resumes_total{outcome=\"snapshot\"}"),
            gaps: growth("gaps_total"),
            redis_commands: growth("redis_command_seconds_count"),
        },
        bill,
    })
}

impl Findings {
    fn promises(&self) -> Vec<Promise> {
        vec![
            Promise::new("all whole", self.whole == self.clients, format!("{} of {}", self.whole, self.clients)),
            Promise::new("0 lost", self.faults.lost == 0, self.faults.lost.to_string()),
            Promise::new("0 duplicates", self.faults.duplicates == 0, self.faults.duplicates.to_string()),
        ]
    }

    fn text(&self) -> String {
        let times = table(&[Quantiles::titles("TIME"), self.whole_since_reconnect.row("whole, since the reconnect")]);
        let given_up = self.failures.first();
        let given_up = given_up.map(|why| format!("\ngiven up: {}, the first one {why}", self.failures.len()));
        let node = &self.at_the_node;
        format!(
            "{} clients, {} changes behind, from {} to {}\n\n{times}\n\n{}{}\n\
             at {}: {} resumes by replay, {} by snapshot; {} gaps, {} commands to Redis\n\n{}",
            self.clients,
            self.behind,
            self.from,
            self.to,
            self.faults,
            given_up.unwrap_or_default(),
            self.to,
            node.resumes_by_replay,
            node.resumes_by_snapshot,
            node.gaps,
            node.redis_commands,
            self.bill
        )
    }
}
