//! `mille bench storm`: a node dies under load, and its subscribers come back to the others at once.
//!
//! Subscribers are spread over all nodes, not through the load balancer, so that it is known who is where.
//! At a third of the time the victim is killed, with no farewell. Its subscribers come back elsewhere with
//! what they last saw; everyone's stream is checked to the end, and the latency of edits before, during and
//! after is told apart. The victim stays dead.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{count_up_to, wait_until};
use crate::bench::clients::load::{Load, Sample};
use crate::bench::clients::schedule::{Rhythm, Schedule};
use crate::bench::clients::subscribers::{Crowd, DELTAS, Progress, Subscriber, faults};
use crate::bench::cluster::ground::{Ground, start_again};
use crate::bench::cluster::usage::Meter;
use crate::bench::report::{Bill, Faults, Promise, Quantiles, conclude, show};
use crate::output::Output;
use crate::status::table;

/// Bounds of the promise.
const WHOLE_WITHIN: Duration = Duration::from_secs(2);
const RATIO_MAX: f64 = 5.0;

/// The storm is over so long after the last subscriber is whole.
const CALM_AFTER: Duration = Duration::from_secs(1);

/// The first edits open connections and warm caches; they do not count as "before".
const WARM_UP: Duration = Duration::from_secs(1);

/// Until every subscriber has seen the first edit.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// What subscribers get after the last edit to see the end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Until a killed process is gone.
const DEAD_WITHIN: Duration = Duration::from_secs(5);

/// The number of the edit that shows that everyone listens; none of the schedule's has it.
const FIRST_EDIT: u32 = u32::MAX;

/// The number of the edit after the schedule's. Everyone listens until it comes, so that a change of the schedule that
/// comes twice is still seen.
const LAST_EDIT: u32 = u32::MAX - 1;

/// Edits beside the schedule's.
const EXTRA_EDITS: i128 = 2;

/// `mille bench storm`
#[derive(Debug, Args)]
pub(crate) struct StormArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Subscribers, spread over all nodes.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count_up_to::<10_000>())]
    subscribers: u32,
    /// Edits per second, all editors together. Each goes to every subscriber.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count_up_to::<500>())]
    edits_per_second: u32,
    /// How long edits are made.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(6..=600))]
    seconds: u32,
    /// The node that is killed [default: the last].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Runs the storm; the exit code says whether its promises were kept.
pub(crate) async fn run(args: &StormArgs, output: Output) -> Result<ExitCode> {
    let ground = Ground::prepare(args.state.as_deref(), args.subscribers as usize).await?;
    let storm = Storm::run(args, &ground, output).await;
    ground.clear(output).await;
    let findings = storm?.findings()?;
    let code = conclude(output, &findings, &findings.text(), &findings.promises())?;
    output.note(format_args!("mille: the killed node stays dead; {}", start_again(&ground.dir)));
    Ok(code)
}

/// What happened.
struct Storm<'a> {
    args: &'a StormArgs,
    ground: &'a Ground,
    victim: usize,
    started: Instant,
    killed: Instant,
    subscribers: Vec<Subscriber>,
    samples: Vec<Sample>,
    /// The number of the last change.
    head: u64,
    all: Bill,
    until_the_kill: Bill,
}

impl<'a> Storm<'a> {
    async fn run(args: &'a StormArgs, ground: &'a Ground, output: Output) -> Result<Self> {
        let victim = ground.node_index(args.node.as_deref())?;
        let everywhere: Vec<usize> = (0..ground.state.nodes.len()).collect();
        let progress = Arc::new(Progress::new(ground.start.seq));
        let count = args.subscribers as usize;
        output.note(format_args!("mille: opening {count} subscriptions"));
        let crowd = Crowd::open(ground, &progress, count, &everywhere, DELTAS).await?;
        let load = Load::new(ground, &progress, &everywhere)?;
        let first = load.edit(FIRST_EDIT, Instant::now()).await?;
        ensure!(first.latency.is_some(), "the first edit was not answered");
        let all_listen = wait_until(BEGIN_WITHIN, || progress.begun() == count).await;
        ensure!(all_listen, "only {} of {count} subscribers saw the first edit", progress.begun());

        output.note(format_args!("mille: {} edits per second for {} s", args.edits_per_second, args.seconds));
        let mut meter = Meter::start(&ground.state);
        let deliveries_before = progress.deliveries();
        let bill = |costs| Bill::new(costs, &ground.state.nodes, progress.deliveries() - deliveries_before);
        let started = Instant::now();
        let schedule = Schedule { start: started, rhythm: Rhythm::even(args.edits_per_second) };
        let running = tokio::spawn(Arc::clone(&load).run(schedule, args.edits_per_second * args.seconds));
        sleep_until(started + Duration::from_secs(args.seconds.into()) / 3).await;
        let until_the_kill = bill(meter.read());
        let killed = kill(ground, victim, &load, output).await?;
        let samples = running.await??;
        let last = load.edit(LAST_EDIT, Instant::now()).await?;
        ensure!(last.latency.is_some(), "the last edit was not answered");

        let head = progress.head();
        let subscribers = crowd.finish(head, END_WITHIN).await?;
        let all = bill(meter.read());
        Ok(Self { args, ground, victim, started, killed, subscribers, samples, head, all, until_the_kill })
    }
}

/// Kills the node, and waits until it is gone. The time is that before the signal.
async fn kill(ground: &Ground, victim: usize, load: &Load, output: Output) -> Result<Instant> {
    let identity = ground.state.nodes[victim].identity();
    ensure!(identity.is_alive(), "{} ended before it was killed", identity.name);
    output.note(format_args!("mille: killing {} (pid {})", identity.name, identity.pid));
    let killed = Instant::now();
    identity.signal("KILL").await;
    load.leave(victim);
    ensure!(wait_until(DEAD_WITHIN, || !identity.is_alive()).await, "{} can't be killed", identity.name);
    Ok(killed)
}

/// What can be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    nodes: usize,
    victim: String,
    subscribers: usize,
    edits_per_second: u32,
    seconds: u32,
    /// Subscribers of the victim.
    bereft: usize,
    /// Those of them that are whole again.
    whole: usize,
    whole_since_reconnect: Quantiles,
    whole_since_kill: Quantiles,
    /// Changes that were missed, by the one who missed most and by all together.
    missed_max: u64,
    missed_sum: u64,
    faults: Faults,
    /// Returns that took more than one attempt.
    repeated_attempts: usize,
    /// Times a subscriber was closed beside the kill.
    other_closes: usize,
    /// Why subscribers were given up.
    failures: Vec<String>,
    edits: Edits,
    #[serde(flatten)]
    all: Bill,
    until_the_kill: Bill,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    before: Quantiles,
    during: Quantiles,
    after: Quantiles,
    /// Of the p99.
    ratio_during_to_before: Option<f64>,
    unanswered: usize,
    /// Times an edit was sent beyond the first.
    repeats: usize,
    /// Changes in the log beyond those that were answered: made twice, or made and never answered.
    surplus: i128,
}

impl Storm<'_> {
    fn findings(self) -> Result<Findings> {
        let victims = || self.subscribers.iter().filter(|subscriber| subscriber.home == self.victim);
        let first_returns = || victims().filter_map(|subscriber| subscriber.returns.first());
        let whole: Vec<(Duration, Duration)> = first_returns()
            .filter_map(|back| back.whole.map(|whole| (whole - back.began, whole - self.killed)))
            .collect();
        let last_whole = whole.iter().map(|(_, since_kill)| *since_kill).max().unwrap_or_default();
        let returns: usize = self.subscribers.iter().map(|subscriber| subscriber.returns.len()).sum();
        Ok(Findings {
            bench: "storm",
            nodes: self.ground.state.nodes.len(),
            victim: self.ground.state.nodes[self.victim].name.clone(),
            subscribers: self.subscribers.len(),
            edits_per_second: self.args.edits_per_second,
            seconds: self.args.seconds,
            bereft: victims().count(),
            whole: whole.len(),
            whole_since_reconnect: Quantiles::of(whole.iter().map(|(since, _)| *since))?,
            whole_since_kill: Quantiles::of(whole.iter().map(|(_, since)| *since))?,
            missed_max: first_returns().map(|back| back.missed).max().unwrap_or_default(),
            missed_sum: first_returns().map(|back| back.missed).sum(),
            faults: faults(&self.subscribers, self.head),
            repeated_attempts: first_returns().filter(|back| back.attempts > 1).count(),
            other_closes: returns - first_returns().count(),
            failures: self.subscribers.iter().filter_map(|subscriber| subscriber.failure.clone()).collect(),
            edits: self.edits(self.killed + last_whole + CALM_AFTER)?,
            all: self.all,
            until_the_kill: self.until_the_kill,
        })
    }

    fn edits(&self, calm_again: Instant) -> Result<Edits> {
        let phase = |from: Instant, to: Option<Instant>| {
            let within = |sample: &&Sample| sample.due >= from && to.is_none_or(|to| sample.due < to);
            Quantiles::of(self.samples.iter().filter(within).filter_map(|sample| sample.latency))
        };
        let before = phase(self.started + WARM_UP, Some(self.killed))?;
        let during = phase(self.killed, Some(calm_again))?;
        let answered = self.samples.iter().filter(|sample| sample.latency.is_some()).count();
        let surplus = i128::from(self.head - self.ground.start.seq) - EXTRA_EDITS - answered as i128;
        Ok(Edits {
            before,
            during,
            after: phase(calm_again, None)?,
            ratio_during_to_before: during.p99_ms.zip(before.p99_ms).map(|(during, before)| during / before),
            unanswered: self.samples.len() - answered,
            repeats: self.samples.iter().map(|sample| sample.repeats).sum(),
            surplus,
        })
    }
}

impl Findings {
    fn promises(&self) -> Vec<Promise> {
        let slowest = self.whole_since_reconnect.max_ms.unwrap_or_default();
        let in_time = slowest <= WHOLE_WITHIN.as_secs_f64() * 1e3;
        let Edits { ratio_during_to_before: ratio, unanswered, surplus, .. } = self.edits;
        let [none_lost, none_twice] = self.faults.promises();
        vec![
            Promise::new(
                format!("all whole within {} s of reconnecting", WHOLE_WITHIN.as_secs()),
                self.whole == self.bereft && in_time,
                format!("{} of {}, the slowest after {slowest:.0} ms", self.whole, self.bereft),
            ),
            none_lost,
            none_twice,
            Promise::new(
                format!("edits' p99 during the storm at most {RATIO_MAX} times that before"),
                ratio.is_some_and(|ratio| ratio <= RATIO_MAX),
                format!("{} times", show(ratio)),
            ),
            Promise::new(
                "every edit answered, and made once",
                unanswered == 0 && surplus == 0,
                format!("{unanswered} unanswered, {surplus} changes too many"),
            ),
        ]
    }

    fn text(&self) -> String {
        let edits = &self.edits;
        let head = format!(
            "{} subscribers on {} nodes, {} edits per second for {} s; {} killed after a third of it",
            self.subscribers, self.nodes, self.edits_per_second, self.seconds, self.victim
        );
        let times = table(&[
            Quantiles::titles("TIME"),
            self.whole_since_reconnect.row("whole, since the reconnect"),
            self.whole_since_kill.row("whole, since the kill"),
            edits.before.row("edits before"),
            edits.during.row("edits during the storm"),
            edits.after.row("edits after"),
        ]);
        let counts = format!(
            "missed meanwhile: {} changes, at most {} by one; {}\n\
             returns with several attempts {}, other closes {}; edits repeated {}, unanswered {}",
            self.missed_sum,
            self.missed_max,
            self.faults,
            self.repeated_attempts,
            self.other_closes,
            edits.repeats,
            edits.unanswered
        );
        let given_up = self.failures.first();
        let given_up = given_up.map(|why| format!("\ngiven up: {}, the first one {why}", self.failures.len()));
        format!(
            "{head}\n\n{times}\n\n{counts}{}\n\n{}\nuntil the kill: {}",
            given_up.unwrap_or_default(),
            self.all,
            self.until_the_kill.price()
        )
    }
}
