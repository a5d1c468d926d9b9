//! `mille bench edits`: what an edit costs, how many are taken, and when somebody at another node sees one.
//!
//! Each plan is a project of its own, with writers over all nodes and one subscriber. In a closed loop the writers send as
//! fast as they are answered, which finds how many edits the cluster takes; with `--rate` each edit has its time, and the
//! latencies are what people would feel. Redis is asked for its bare round trip in the same seconds, since no edit can be
//! quicker, and for the commands it served.

mod served;
mod watchers;
mod writers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mille_shared::Revision;
use mille_shared::limits::CONNECTION_OPERATIONS_PER_SECOND;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::count_up_to;
use crate::bench::cluster::ground::Ground;
use crate::bench::cluster::redis::Primaries;
use crate::bench::cluster::usage::{Cost, Meter};
use crate::bench::report::{Faults, Promise, Quantiles, conclude, costs_table, show};
use crate::output::Output;
use crate::status::table;
use served::{Looks, Served};
use watchers::{Seen, Watched, Watcher};
use writers::{Pace, Seat, Told, Window, Writer};

/// Sockets and projects being made at once, before the bench begins.
const MADE_AT_ONCE: usize = 32;
/// From the last socket to the first edit.
const SETTLE: Duration = Duration::from_millis(200);
/// Edits that only warm up: plans open, and users are given their shares of the limits.
const WARM_UP: Duration = Duration::from_secs(2);
/// How far above the bare round trip an edit may be seen at another node, with `--rate` and `everysec`.
const REMOTE_P50_MAX_MS: f64 = 2.0;
const REMOTE_P99_MAX_MS: f64 = 10.0;
/// Edits per second that must be accepted as fast as it goes: of one plan with so many writers at so many nodes, and of so many
/// plans.
const ONE_PLAN_PER_SECOND_MIN: f64 = 5_000.0;
const ONE_PLAN_WRITERS: u32 = 16;
const ONE_PLAN_NODES: usize = 3;
const MANY_PLANS_PER_SECOND_MIN: f64 = 20_000.0;
const MANY_PLANS: u32 = 200;
/// The part by which messages per commit may differ from the nodes that have the plan open: commits at the window's edges, and
/// the nodes' messages to themselves, of which there are not always as many as at rest.
const MESSAGES_SLACK: f64 = 0.05;

/// `mille bench edits`
#[derive(Debug, Args)]
pub(crate) struct EditsArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Plans, each of a project of its own, with one subscriber.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_up_to::<1_000>())]
    plans: u32,
    /// Writers of each plan, spread over all nodes. Each is a user of its own.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count_up_to::<200>())]
    writers: u32,
    /// Sockets of each writer. A socket may make 200 edits per second (MILLE_CONNECTION_OPERATIONS_PER_SECOND).
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count_up_to::<16>())]
    sockets: u32,
    /// All writers of a plan at one node.
    #[arg(long)]
    one_node: bool,
    /// Edits that a socket keeps on their way, without --rate.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count_up_to::<256>())]
    in_flight: u32,
    /// Edits per second, all writers together, each at its time whatever became of the others.
    #[arg(long, value_name = "N", conflicts_with = "in_flight", value_parser = count_up_to::<200_000>())]
    rate: Option<u32>,
    /// How long is measured, after two seconds that warm up.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// When Redis brings changes to disk meanwhile [default: as it does].
    #[arg(long, value_enum)]
    appendfsync: Option<Fsync>,
    /// Do not judge how soon and how many: for a machine that does other things, too.
    #[arg(long)]
    untimed: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Fsync {
    Always,
    Everysec,
    No,
}

impl Fsync {
    fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Everysec => "everysec",
            Self::No => "no",
        }
    }
}

/// A plan and those who may use it.
struct Plot {
    project: i32,
    plan: i32,
    start: Revision,
    reader: Arc<str>,
    writers: Vec<Arc<str>>,
    head: Arc<AtomicU64>,
}

/// Runs it; the exit code says whether its promises were kept.
pub(crate) async fn run(args: &EditsArgs, output: Output) -> Result<ExitCode> {
    let ground = Ground::prepare(args.state.as_deref(), 0).await?;
    let mut redis = Primaries::connect(&ground.state.redis).await?;
    let usual = redis.appendfsync().await?;
    let fsync = args.appendfsync.map_or(usual.as_str(), |fsync| fsync.as_str());
    redis.set_appendfsync(fsync).await?;
    let mut plots = Vec::new();
    let findings = measure(args, &ground, &mut plots, fsync, output).await;
    redis.set_appendfsync(&usual).await?;
    stream::iter(&plots).for_each_concurrent(MADE_AT_ONCE, |plot| ground.clear_of(plot.project, output)).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises(args.untimed))
}

async fn measure(
    args: &EditsArgs,
    ground: &Ground,
    plots: &mut Vec<Plot>,
    fsync: &str,
    output: Output,
) -> Result<Findings> {
    let nodes = &ground.state.nodes;
    output.note(format_args!("mille: {} plans with {} writers each", args.plans, args.writers));
    let made = (0..args.plans).map(|number| prepare(ground, number, args.writers));
    *plots = stream::iter(made).buffered(MADE_AT_ONCE).try_collect().await?;

    let seats = seats(args, ground, plots);
    let node_of_socket: Arc<[usize]> = seats.iter().map(|(node, _)| *node).collect();
    let sockets = seats.len();
    let watched = plots.iter().enumerate().map(|(number, plot)| {
        let node = node_of_watcher(nodes.len(), number);
        Watcher::open(Watched {
            url: nodes[node].url.clone(),
            node,
            token: Arc::clone(&plot.reader),
            project: plot.project,
            plan: plot.plan,
            start: plot.start,
            head: Arc::clone(&plot.head),
            node_of_socket: Arc::clone(&node_of_socket),
        })
    });
    let watchers: Vec<Watcher> = stream::iter(watched).buffered(MADE_AT_ONCE).try_collect().await?;
    let opened = seats.into_iter().map(|(_, seat)| Writer::open(seat));
    let opened: Vec<Writer> = stream::iter(opened).buffered(MADE_AT_ONCE).try_collect().await?;

    let mut looks = Looks::prepare(ground).await?;
    let pings = Primaries::connect(&ground.state.redis).await?;
    let start = Instant::now() + SETTLE;
    let opens = start + WARM_UP;
    let window = Window { start, opens, closes: opens + Duration::from_secs(args.seconds.into()) };
    let written = CancellationToken::new();
    let mut seen: JoinSet<Result<Seen>> = JoinSet::new();
    for watcher in watchers {
        seen.spawn(watcher.run(window, written.clone()));
    }
    let mut told: JoinSet<Result<Told>> = JoinSet::new();
    for (number, writer) in opened.into_iter().enumerate() {
        told.spawn(writer.run(pace(args, number, sockets), window));
    }

    sleep_until(window.opens).await;
    let stop = CancellationToken::new();
    let pings = pings.ping(stop.clone());
    let mut meter = Meter::start(&ground.state);
    let before = looks.look(ground).await?;
    sleep_until(window.closes).await;
    let costs = meter.read();
    let after = looks.look(ground).await?;
    stop.cancel();
    let pings = pings.await??;

    let told: Vec<Told> = all(told).await?;
    written.cancel();
    let seen: Vec<Seen> = all(seen).await?;
    let accepted: u64 = told.iter().map(|told| told.accepted).sum();
    ensure!(accepted > 0, "no edit was taken");
    let interested = [false, true].map(|with_maker| interested(args, nodes.len(), with_maker));
    Ok(Findings {
        bench: "edits",
        nodes: nodes.len(),
        plans: args.plans,
        writers: args.writers,
        sockets,
        one_node: args.one_node,
        in_flight: args.rate.is_none().then_some(args.in_flight),
        rate: args.rate,
        seconds: args.seconds,
        appendfsync: fsync.to_owned(),
        accepted,
        accepted_per_second: accepted as f64 / f64::from(args.seconds),
        edits: Quantiles::of(told.iter().flat_map(|told| told.latencies.iter().copied()))?,
        remote: Quantiles::of(seen.iter().flat_map(|seen| seen.latencies.iter().copied()))?,
        redis_round_trip: Quantiles::of(pings)?,
        sent_back: told.iter().map(|told| told.sent_back).sum(),
        unanswered: told.iter().map(|told| told.unanswered).sum(),
        faults: seen.iter().fold(Faults::default(), |faults, seen| faults + seen.faults),
        interested,
        price: Price::new(&costs, ground, accepted),
        costs,
        served: looks.served(&before, &after, accepted),
    })
}

/// A project with a plan, writers and a reader.
async fn prepare(ground: &Ground, number: u32, writers: u32) -> Result<Plot> {
    let (project, plan, start) = ground.another().await?;
    let names = (0..writers).map(|writer| format!("bench-writer-{number}-{writer}"));
    let writers = ground.admit_to(project, "EDITOR", names).await?;
    let readers = ground.admit_to(project, "VIEWER", [format!("bench-watcher-{number}")]).await?;
    ensure!(readers.len() == 1, "one reader was asked for");
    let head = Arc::new(AtomicU64::new(start.seq));
    Ok(Plot { project, plan, start, reader: Arc::clone(&readers[0]), writers, head })
}

/// The node of a plan's writer, and that of its subscriber, by their places.
fn node_of(args: &EditsArgs, nodes: usize, plan: usize, writer: usize) -> usize {
    (plan + if args.one_node { 0 } else { writer }) % nodes
}

fn node_of_watcher(nodes: usize, plan: usize) -> usize {
    (plan + 1) % nodes
}

/// How many nodes have a plan open, on average: those of its writers and of its subscriber, and for a while the first, at which
/// it was made.
fn interested(args: &EditsArgs, nodes: usize, with_maker: bool) -> f64 {
    let of_plan = |plan: usize| {
        let writers = (0..args.writers as usize).map(|writer| node_of(args, nodes, plan, writer));
        let all = writers.chain([node_of_watcher(nodes, plan)]).chain(with_maker.then_some(0));
        all.collect::<BTreeSet<usize>>().len()
    };
    let plans = args.plans as usize;
    (0..plans).map(of_plan).sum::<usize>() as f64 / plans as f64
}

/// Where each socket writes, and the place of its node.
fn seats(args: &EditsArgs, ground: &Ground, plots: &[Plot]) -> Vec<(usize, Seat)> {
    let nodes = &ground.state.nodes;
    let plan_nodes: Arc<[String]> = ground.plan_nodes.iter().cloned().collect();
    let mut seats = Vec::new();
    for (of_plan, plot) in plots.iter().enumerate() {
        for (writer, token) in plot.writers.iter().enumerate() {
            for _ in 0..args.sockets {
                let node = node_of(args, nodes.len(), of_plan, writer);
                let seat = Seat {
                    number: seats.len(),
                    url: nodes[node].url.clone(),
                    token: Arc::clone(token),
                    project: plot.project,
                    plan: plot.plan,
                    plan_nodes: Arc::clone(&plan_nodes),
                    head: Arc::clone(&plot.head),
                };
                seats.push((node, seat));
            }
        }
    }
    seats
}

fn pace(args: &EditsArgs, number: usize, sockets: usize) -> Pace {
    let Some(rate) = args.rate else { return Pace::Closed(args.in_flight as usize) };
    let period = Duration::from_secs(1).mul_f64(sockets as f64 / f64::from(rate));
    Pace::Open { period, phase: period.mul_f64(number as f64 / sockets as f64) }
}

async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(one) = tasks.join_next().await {
        done.push(one??);
    }
    Ok(done)
}

/// Processor seconds per million edits.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Price {
    #[serde(rename = "nodes_cpu_seconds_per_million_edits")]
    nodes: f64,
    #[serde(rename = "redis_cpu_seconds_per_million_edits")]
    redis: f64,
    #[serde(rename = "generator_cpu_seconds_per_million_edits")]
    generator: f64,
}

impl Price {
    fn new(costs: &[Cost], ground: &Ground, edits: u64) -> Self {
        let of = |is_meant: &dyn Fn(&str) -> bool| {
            let seconds: f64 = costs.iter().filter(|cost| is_meant(&cost.name)).map(|cost| cost.cpu_seconds).sum();
            seconds * 1e6 / edits as f64
        };
        let is_node = |name: &str| ground.state.nodes.iter().any(|node| node.name == name);
        Self {
            nodes: of(&is_node),
            redis: of(&|name| name.starts_with("redis")),
            generator: of(&|name| name == "generator"),
        }
    }
}

/// What can be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    nodes: usize,
    plans: u32,
    writers: u32,
    sockets: usize,
    one_node: bool,
    in_flight: Option<u32>,
    rate: Option<u32>,
    seconds: u32,
    appendfsync: String,
    accepted: u64,
    accepted_per_second: f64,
    edits: Quantiles,
    /// At a subscriber whose node is not the writer's.
    remote: Quantiles,
    redis_round_trip: Quantiles,
    /// Answers that sent an edit back for a while: too many at once.
    sent_back: u64,
    unanswered: usize,
    faults: Faults,
    /// Nodes that have a plan open, on average: without the one that made it, and with it.
    interested: [f64; 2],
    #[serde(flatten)]
    price: Price,
    costs: Vec<Cost>,
    served: Served,
}

impl Findings {
    /// By how many milliseconds the way to another node is longer than Redis' bare round trip, at half and at p99.
    fn above_the_round_trip(&self) -> [Option<f64>; 2] {
        let (remote, bare) = (&self.remote, &self.redis_round_trip);
        [(remote.p50_ms, bare.p50_ms), (remote.p99_ms, bare.p99_ms)].map(|(remote, bare)| Some(remote? - bare?))
    }

    fn promises(&self, untimed: bool) -> Vec<Promise> {
        let snapshots = self.faults.snapshots;
        let Served { fcalls_per_edit: fcalls, messages_per_commit: messages, .. } = self.served;
        let (fcalls_max, few_fcalls) = self.served.fcalls_per_edit_max();
        let [least, most] = self.interested;
        let is_told_once = (least * (1.0 - MESSAGES_SLACK)..=most * (1.0 + MESSAGES_SLACK)).contains(&messages);
        let [none_lost, none_twice] = self.faults.promises();
        vec![
            none_lost,
            none_twice,
            Promise::new(
                "every subscriber saw every change by itself",
                snapshots == 0,
                format!("{snapshots} snapshots"),
            ),
            Promise::new("every edit answered", self.unanswered == 0, format!("{} unanswered", self.unanswered)),
            Promise::new(few_fcalls, fcalls <= fcalls_max, format!("{fcalls:.3}")),
            Promise::new(
                "one message per commit and node that has the plan open",
                is_told_once,
                format!("{messages:.2}, with {least:.2} to {most:.2} nodes"),
            ),
            self.soon(untimed),
            self.many(untimed),
        ]
    }

    fn soon(&self, untimed: bool) -> Promise {
        let promise = "at another node within 2 ms (p50) and 10 ms (p99) above the bare round trip";
        if untimed {
            return Promise::not_judged(promise, "a run without --untimed");
        }
        if self.rate.is_none() || self.appendfsync != "everysec" {
            return Promise::not_judged(promise, "--rate and --appendfsync everysec");
        }
        let [p50, p99] = self.above_the_round_trip();
        let within = |measured: Option<f64>, max: f64| measured.is_some_and(|measured| measured <= max);
        let near = within(p50, REMOTE_P50_MAX_MS) && within(p99, REMOTE_P99_MAX_MS);
        Promise::new(promise, near, format!("{} and {} ms", show(p50), show(p99)))
    }

    fn many(&self, untimed: bool) -> Promise {
        let (one_plan, many_plans) = ("at least 5,000 edits per second of one plan", "at least 20,000 of 200 plans");
        if untimed {
            return Promise::not_judged(format!("{one_plan}, {many_plans}"), "a run without --untimed");
        }
        let is_one =
            self.plans == 1 && self.writers >= ONE_PLAN_WRITERS && self.nodes >= ONE_PLAN_NODES && !self.one_node;
        let (promise, least) = if is_one {
            (one_plan, ONE_PLAN_PER_SECOND_MIN)
        } else if self.plans >= MANY_PLANS {
            ("at least 20,000 edits per second of 200 plans", MANY_PLANS_PER_SECOND_MIN)
        } else {
            let needs = "16 writers of one plan at 3 nodes, or 200 plans";
            return Promise::not_judged(format!("{one_plan}, {many_plans}"), needs);
        };
        if self.rate.is_some() {
            return Promise::not_judged(promise, "writers as fast as it goes, without --rate");
        }
        // Whatever the cluster takes: with the usual limit they may send no more.
        if (self.sockets as f64) * f64::from(CONNECTION_OPERATIONS_PER_SECOND) < least {
            return Promise::not_judged(promise, "more --sockets: one may make 200 edits per second");
        }
        Promise::new(promise, self.accepted_per_second >= least, format!("{:.0}", self.accepted_per_second))
    }

    fn text(&self) -> String {
        let how = match (self.rate, self.in_flight) {
            (Some(rate), _) => format!("{rate} edits per second"),
            (None, in_flight) => format!("{} on their way per socket", in_flight.unwrap_or_default()),
        };
        let [p50, p99] = self.above_the_round_trip();
        let times = table(&[
            Quantiles::titles("TIME"),
            self.edits.row("an edit, until it is answered"),
            self.remote.row("an edit, until it is seen at another node"),
            self.redis_round_trip.row("Redis, there and back"),
        ]);
        let Price { nodes, redis, generator } = &self.price;
        let commands: Vec<String> =
            self.served.commands.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!(
            "{} plans with {} writers each over {} sockets on {} nodes, {how}, for {} s; appendfsync {}\n\n\
             {:.0} edits per second were accepted ({}), {} sent back for a while\n\n{times}\n\
             beyond Redis' own way: {} ms (p50), {} ms (p99)\n\n{}\n\n{}\n\
             per million edits: nodes {nodes:.1}, Redis {redis:.1}, generator {generator:.1} processor seconds\n\
             Redis: {:.3} FCALLs per edit, {:.1} edits per commit, {:.2} messages to nodes per commit\n  {}",
            self.plans,
            self.writers,
            self.sockets,
            self.nodes,
            self.seconds,
            self.appendfsync,
            self.accepted_per_second,
            self.accepted,
            self.sent_back,
            show(p50),
            show(p99),
            self.faults,
            costs_table(&self.costs),
            self.served.fcalls_per_edit,
            self.served.edits_per_commit,
            self.served.messages_per_commit,
            commands.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(plans: u32, sockets: usize, rate: Option<u32>, accepted_per_second: f64) -> Findings {
        Findings {
            bench: "edits",
            nodes: 3,
            plans,
            writers: 16,
            sockets,
            one_node: false,
            in_flight: None,
            rate,
            seconds: 1,
            appendfsync: "always".to_owned(),
            accepted: accepted_per_second as u64,
            accepted_per_second,
            edits: Quantiles::NONE,
            remote: Quantiles::NONE,
            redis_round_trip: Quantiles::NONE,
            sent_back: 0,
            unanswered: 0,
            faults: Faults::default(),
            interested: [3.0, 3.0],
            price: Price { nodes: 0.0, redis: 0.0, generator: 0.0 },
            costs: Vec::new(),
            served: Served::default(),
        }
    }

    #[test]
    fn how_many_are_taken_is_judged_where_the_run_is_as_large_as_the_promise() {
        assert_eq!(findings(1, 32, None, 5_000.0).many(false).kept, Some(true));
        assert_eq!(findings(1, 32, None, 4_999.0).many(false).kept, Some(false));
        assert_eq!(findings(200, 400, None, 14_976.0).many(false).kept, Some(false));
        assert_eq!(findings(200, 400, None, 20_001.0).many(false).kept, Some(true));
        // Too few sockets, neither one plan nor enough, a rate of its own, a machine that does other things.
        assert_eq!(findings(1, 16, None, 3_200.0).many(false).kept, None);
        assert_eq!(findings(50, 800, None, 9_000.0).many(false).kept, None);
        assert_eq!(findings(1, 32, Some(2_500), 2_500.0).many(false).kept, None);
        assert_eq!(findings(1, 32, None, 4_999.0).many(true).kept, None);
    }

    #[test]
    fn how_soon_is_judged_at_a_rate_that_waits_for_no_disk() {
        let mut findings = findings(1, 32, Some(2_500), 2_500.0);
        assert_eq!(findings.soon(false).kept, None);
        findings.appendfsync = "everysec".to_owned();
        assert_eq!(findings.soon(false).kept, Some(false), "nothing was measured");
    }
}
