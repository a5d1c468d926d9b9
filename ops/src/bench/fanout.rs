//! `mille bench fanout`: many subscribers of one plan, many edits, and what a delivery costs.
//!
//! The figure alone says little, since machines differ. So in the same run a yardstick is taken before and after: a process
//! that writes frames of the same size to as many sockets at the same times, and does nothing else. What the nodes use
//! beyond it is what they add: reading an edit once and writing it to everyone is all that a fan-out has to do.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::bare::Yardstick;
use super::ground::Ground;
use super::load::{Load, Rhythm, Sample, Schedule};
use super::report::{Bill, Faults, Promise, Quantiles, conclude, show};
use super::subscribers::{Crowd, DELTAS_WHOLE, Progress, faults};
use super::usage::Meter;
use super::{count_up_to, wait_until};
use crate::output::Output;
use crate::socket::Subscription;
use crate::status::table;

/// Until every subscriber has seen the first edit.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// What subscribers get after the last edit to see the end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Edits beside the schedule's: one that shows that everyone listens, one that is looked at, and the last.
const FIRST_EDIT: u32 = u32::MAX;
const SAMPLE_EDIT: u32 = u32::MAX - 1;
const LAST_EDIT: u32 = u32::MAX - 2;

/// `mille bench fanout`
#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Subscribers, spread over all nodes, each on a socket of its own and with a full selection.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = count_up_to::<10_000>())]
    subscribers: u32,
    /// Edits per second, all editors together. Each goes to every subscriber.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count_up_to::<5_000>())]
    edits_per_second: u32,
    /// Edits that come in a row, 1 ms apart, with a pause after them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_up_to::<5_000>())]
    burst: u32,
    /// How long edits are made.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
}

/// Runs it; the exit code says whether everybody was told everything once.
pub(crate) async fn run(args: &FanoutArgs, output: Output) -> Result<ExitCode> {
    let rhythm = Rhythm { rate: args.edits_per_second, burst: args.burst };
    ensure!(args.burst <= args.edits_per_second * args.seconds, "a burst longer than the bench");
    let ground = Ground::prepare(args.state.as_deref(), args.subscribers as usize).await?;
    let findings = measure(args, rhythm, &ground, output).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises())
}

async fn measure(args: &FanoutArgs, rhythm: Rhythm, ground: &Ground, output: Output) -> Result<Findings> {
    let everywhere: Vec<usize> = (0..ground.state.nodes.len()).collect();
    let progress = Arc::new(Progress::new(ground.start.seq));
    let load = Load::new(ground, &progress, &everywhere)?;
    let frame_bytes = frame_bytes(ground, &load).await?;
    let yardstick = || Yardstick::measure(args.subscribers, frame_bytes, rhythm, args.seconds);
    output.note(format_args!("mille: the yardstick, frames of {frame_bytes} bytes"));
    let before = yardstick().await?;

    let count = args.subscribers as usize;
    output.note(format_args!("mille: opening {count} subscriptions"));
    let crowd = Crowd::open(ground, &progress, count, &everywhere, DELTAS_WHOLE).await?;
    ensure!(load.edit(FIRST_EDIT, Instant::now()).await?.latency.is_some(), "the first edit was not answered");
    let all_listen = wait_until(BEGIN_WITHIN, || progress.begun() == count).await;
    ensure!(all_listen, "only {} of {count} subscribers saw the first edit", progress.begun());

    output.note(format_args!("mille: {} edits per second for {} s", rhythm.rate, args.seconds));
    let deliveries_before = progress.deliveries();
    let mut meter = Meter::start(&ground.state);
    let schedule = Schedule { start: Instant::now(), rhythm };
    let samples = Arc::clone(&load).run(schedule, rhythm.rate * args.seconds).await?;
    let last = load.edit(LAST_EDIT, Instant::now()).await?;
    ensure!(last.latency.is_some(), "the last edit was not answered");
    let head = progress.head();
    let subscribers = crowd.finish(head, END_WITHIN).await?;
    let bill = Bill::new(meter.read(), &ground.state.nodes, progress.deliveries() - deliveries_before);

    output.note("mille: the yardstick once more");
    let after = yardstick().await?;
    let yardstick = (before.cpu + after.cpu).as_secs_f64() * 1e6 / (before.deliveries + after.deliveries) as f64;
    Ok(Findings {
        bench: "fanout",
        nodes: ground.state.nodes.len(),
        subscribers: count,
        edits_per_second: rhythm.rate,
        burst: rhythm.burst,
        seconds: args.seconds,
        frame_bytes,
        edits: Quantiles::of(samples.iter().filter_map(|sample| sample.latency))?,
        unanswered: unanswered(&samples),
        faults: faults(&subscribers, head),
        times_the_yardstick: bill.price_per_million().map(|price| price / yardstick),
        yardstick_cpu_seconds_per_million: yardstick,
        bill,
    })
}

fn unanswered(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| sample.latency.is_none()).count()
}

/// The size of a frame that tells of one edit.
async fn frame_bytes(ground: &Ground, load: &Load) -> Result<u32> {
    let variables = json!({ "projectId": ground.project, "planId": ground.plan, "after": ground.start.to_string() });
    let opened = Subscription::open(&ground.urls()[0], &ground.token(0), DELTAS_WHOLE, variables).await;
    let mut subscription = opened.map_err(|ended| anyhow::anyhow!("nobody can subscribe: {ended:?}"))?;
    load.edit(SAMPLE_EDIT, Instant::now()).await?;
    let bytes = timeout(BEGIN_WITHIN, subscription.next_bytes()).await?;
    let bytes = bytes.map_err(|ended| anyhow::anyhow!("no event came: {ended:?}"))?;
    subscription.close().await;
    // A frame of 126 to 65,535 bytes begins with four more.
    Ok(u32::try_from(bytes)? + 4)
}

/// What can be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    nodes: usize,
    subscribers: usize,
    edits_per_second: u32,
    burst: u32,
    seconds: u32,
    /// Of one frame with its head.
    frame_bytes: u32,
    edits: Quantiles,
    unanswered: usize,
    faults: Faults,
    #[serde(rename = "yardstick_cpu_seconds_per_million_deliveries")]
    yardstick_cpu_seconds_per_million: f64,
    times_the_yardstick: Option<f64>,
    #[serde(flatten)]
    bill: Bill,
}

impl Findings {
    fn promises(&self) -> Vec<Promise> {
        vec![
            Promise::new("0 lost", self.faults.lost == 0, self.faults.lost.to_string()),
            Promise::new("0 duplicates", self.faults.duplicates == 0, self.faults.duplicates.to_string()),
            Promise::new("every edit answered", self.unanswered == 0, format!("{} unanswered", self.unanswered)),
        ]
    }

    fn text(&self) -> String {
        let times = table(&[Quantiles::titles("TIME"), self.edits.row("edits, from when they were due")]);
        format!(
            "{} subscribers on {} nodes, {} edits per second for {} s, {} in a row; frames of {} bytes\n\n{times}\n\n{}\n\n{}\n\
             the yardstick: {:.2}; the nodes use {} times as much",
            self.subscribers,
            self.nodes,
            self.edits_per_second,
            self.seconds,
            self.burst,
            self.frame_bytes,
            self.faults,
            self.bill,
            self.yardstick_cpu_seconds_per_million,
            show(self.times_the_yardstick)
        )
    }
}
