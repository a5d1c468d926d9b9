//! `mille bench cursors`: some people move their cursors, many more look, spread over all nodes.
//!
//! What counts is how old the newest known position of each mover is at each viewer, at every moment: nobody sees how
//! long one update took, everybody sees where a cursor stands. That is told exactly, for all pairs and the whole time
//! ([`staleness`]), with positions of one's own node and of others apart. What bounds the cost is
//! that a viewer gets one frame per tick, however many move; so the frames are held against the tick that the node
//! told.
//!
//! Everyone is a user of their own: a thousand are made members in half a second, and told of each other in two or three.
//! That telling is a load of its own, so nothing is measured before it is over.

mod staleness;
mod viewers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{count_up_to, wait_until};
use crate::bench::cluster::ground::Ground;
use crate::bench::cluster::usage::{Cost, Meter, counters, growth};
use crate::bench::report::{Bill, Promise, conclude, show};
use crate::output::{Output, refused};
use crate::state::Node;
use crate::status::table;
use staleness::{Ages, Window};
use viewers::{Gathering, Outcome, Party, Tally};

/// Bounds of the promise.
const STALE_P99_MAX_MS: u64 = 250;
const FRAMES_TOLERANCE: f64 = 1.1;

/// The nodes fit their tick to the room with their digests, every 2 s; before that, what is measured is another room.
const WARM_UP: Duration = Duration::from_secs(3);

/// Until everyone was told who joined.
const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// Until everyone has seen every mover.
const ORIENTED_WITHIN: Duration = Duration::from_secs(30);

/// From the decision to measure until it begins, so that nobody learns of it late.
const NOTICE: Duration = Duration::from_millis(100);

/// `mille bench cursors`
#[derive(Debug, Args)]
pub(crate) struct CursorsArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Presence sockets, spread over all nodes, all in one document.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count_up_to::<10_000>())]
    connections: u32,
    /// Those of them that move; they look too. Each is a user.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count_up_to::<10_000>())]
    movers: u32,
    /// Moves of each mover per second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = count_up_to::<100>())]
    hz: u32,
    /// How long is measured, after everyone has joined and seen every mover.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// Connections that share a user, movers aside. With fewer users there is less to tell when they join.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_up_to::<250>())]
    viewers_per_user: u32,
    /// Do not judge how old positions were: for a machine that does other things, too.
    #[arg(long)]
    untimed: bool,
}

/// Runs the bench; the exit code says whether its promises were kept.
pub(crate) async fn run(args: &CursorsArgs, output: Output) -> Result<ExitCode> {
    if args.movers > args.connections {
        return Err(refused("--movers can't be more than --connections: who moves looks too"));
    }
    let party = Party {
        connections: args.connections as usize,
        movers: args.movers as usize,
        viewers_per_user: args.viewers_per_user as usize,
        hz: args.hz,
    };
    let ground = Ground::prepare(args.state.as_deref(), 0).await?;
    let findings = measure(args, party, &ground, output).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises(args.untimed))
}

async fn measure(args: &CursorsArgs, party: Party, ground: &Ground, output: Output) -> Result<Findings> {
    let Party { connections, movers, hz, .. } = party;
    let began = Instant::now();
    let tokens = ground.admit(party.users()).await?;
    let members = Instant::now();
    output.note(format_args!("mille: {connections} join one document"));
    let gathering = Gathering::join(ground, party, &tokens).await?;
    let joined = Instant::now();
    output.note(format_args!("mille: all joined; waiting until everyone was told of everyone"));
    let told = gathering.quiet(QUIET_WITHIN).await;
    let told = told.with_context(|| format!("after {} s still not all is told", QUIET_WITHIN.as_secs()))?;
    let coming = Coming { members: ms(members - began), joined: ms(joined - members), told: ms(told - members) };

    output.note(format_args!("mille: {movers} of them move {hz} times per second"));
    gathering.begin();
    let warm = Instant::now() + WARM_UP;
    let all_or_gone = || gathering.oriented() == connections || gathering.gone() > 0;
    let decided = wait_until(ORIENTED_WITHIN, all_or_gone).await;
    if !decided || gathering.gone() > 0 {
        return Err(not_oriented(gathering, connections).await?);
    }
    sleep_until(warm).await;

    output.note(format_args!("mille: everyone sees everyone; measuring for {} s", args.seconds));
    let nodes = &ground.state.nodes;
    let before = read_counters(nodes).await?;
    let from = Instant::now() + NOTICE;
    let to = from + Duration::from_secs(args.seconds.into());
    let window = gathering.measure(from, to)?;
    sleep_until(from).await;
    let mut meter = Meter::start(&ground.state);
    sleep_until(to).await;
    let costs = meter.read();
    // Without the metrics of a node that died meanwhile, what people saw is worth telling all the more.
    let commands = read_counters(nodes).await.ok().map(|after| Commands::between(&before, &after));
    let outcome = gathering.part().await?;
    Ok(Findings::new(party, window, coming, outcome, costs, nodes, commands))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why there is nothing to measure.
async fn not_oriented(gathering: Gathering, connections: usize) -> Result<anyhow::Error> {
    let oriented = gathering.oriented();
    let seen = gathering.part().await?.seen;
    let failures: Vec<String> = seen.into_iter().filter_map(|one| one.failure).collect();
    let first = failures.first().map(|why| format!(", the first one {why}")).unwrap_or_default();
    Ok(anyhow!("only {oriented} of {connections} saw every mover; gone: {}{first}", failures.len()))
}

/// Counters of all nodes, and when they were read.
type Counters = (Instant, Vec<BTreeMap<String, u64>>);

async fn read_counters(nodes: &[Node]) -> Result<Counters> {
    let mut all = Vec::with_capacity(nodes.len());
    for node in nodes {
        all.push(counters(node).await?);
    }
    Ok((Instant::now(), all))
}

/// What the nodes' metrics counted, of all nodes together.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Commands {
    /// Commands to Redis per second, of any kind, those for presence of other nodes among them.
    redis_commands_per_second: f64,
    /// Moves that a node dropped because a project had no room for them.
    cursors_dropped: u64,
}

impl Commands {
    fn between((began, before): &Counters, (ended, after): &Counters) -> Self {
        let sum = |name: &str| -> u64 { before.iter().zip(after).map(|(b, a)| growth(b, a, name)).sum() };
        let seconds = (*ended - *began).as_secs_f64();
        Self {
            redis_commands_per_second: sum("redis_command_seconds_count") as f64 / seconds,
            cursors_dropped: sum("cursors_dropped_total"),
        }
    }
}

/// How long it took to begin, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Coming {
    /// Until all users were members.
    #[serde(rename = "membersMs")]
    members: u64,
    /// From then until all had connected, joined and got the roster.
    #[serde(rename = "joinedMs")]
    joined: u64,
    /// From then until the last was told that somebody had come.
    #[serde(rename = "toldMs")]
    told: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    nodes: usize,
    connections: usize,
    movers: usize,
    hz: u32,
    viewers_per_user: usize,
    seconds: f64,
    coming: Coming,
    /// Age of the newest known position of each mover at each viewer, weighted by time.
    staleness: Staleness,
    /// The tick told last, and how many were told it.
    ticks: Vec<Tick>,
    frames: Frames,
    /// Of what was asked: movers times hz.
    moves_per_second: f64,
    /// Positions that reached a viewer after a newer one of the same mover.
    older_positions: u64,
    /// Viewers that know every mover.
    knowing: usize,
    /// Why connections ended before the end.
    failures: Vec<String>,
    /// Processor time per second, user and kernel: of each process, and of the nodes together.
    cpu_per_second: BTreeMap<String, f64>,
    nodes_cpu_per_second: f64,
    /// None when a node did not answer.
    #[serde(flatten)]
    commands: Option<Commands>,
    /// A delivery is one position brought to one viewer.
    #[serde(flatten)]
    bill: Bill,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Staleness {
    all: Ages,
    same_node: Ages,
    other_node: Ages,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tick {
    tick_ms: u64,
    viewers: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Frames {
    /// Cursor frames per viewer and second.
    mean_per_second: f64,
    max_per_second: f64,
    /// Of the frames that the ticks told to a viewer allow, the share that came; of the viewer with the most.
    max_of_allowed: f64,
    positions_per_frame: f64,
    /// Of all viewers together.
    bytes_per_second: f64,
    /// Frames that had to be read because the last ones of their node were others, in all, warm-up included. More than the
    /// ticks: viewers fall behind and get frames of their own.
    distinct: u64,
    /// Frames that were no cursors, in all.
    others: u64,
}

impl Findings {
    fn new(
        party: Party,
        window: Window,
        coming: Coming,
        outcome: Outcome,
        costs: Vec<Cost>,
        nodes: &[Node],
        commands: Option<Commands>,
    ) -> Self {
        let seconds = window.seconds();
        let Outcome { seen, near, far, distinct_frames } = outcome;
        let mut both = near.clone();
        both.add(&far);
        let mut sum = Tally::default();
        seen.iter().for_each(|one| sum.add(&one.tally));
        let most = |of: &dyn Fn(&viewers::Seen) -> f64| seen.iter().map(of).fold(0.0, f64::max);
        let mut ticks: BTreeMap<u64, usize> = BTreeMap::new();
        seen.iter().for_each(|one| *ticks.entry(one.tick_ms).or_default() += 1);
        let cpu_per_second: BTreeMap<String, f64> =
            costs.iter().map(|cost| (cost.name.clone(), cost.cpu_seconds / seconds)).collect();
        Self {
            bench: "cursors",
            nodes: nodes.len(),
            connections: party.connections,
            movers: party.movers,
            hz: party.hz,
            viewers_per_user: party.viewers_per_user,
            seconds,
            coming,
            staleness: Staleness { all: both.ages(), same_node: near.ages(), other_node: far.ages() },
            ticks: ticks.into_iter().map(|(tick_ms, viewers)| Tick { tick_ms, viewers }).collect(),
            frames: Frames {
                mean_per_second: sum.frames as f64 / seen.len() as f64 / seconds,
                max_per_second: most(&|one| one.tally.frames as f64) / seconds,
                max_of_allowed: most(&|one| one.tally.frames as f64 / one.frames_allowed),
                positions_per_frame: sum.positions as f64 / sum.frames.max(1) as f64,
                bytes_per_second: sum.bytes as f64 / seconds,
                distinct: distinct_frames,
                others: sum.others,
            },
            moves_per_second: sum.moves as f64 / seconds,
            older_positions: sum.older,
            knowing: seen.iter().filter(|one| one.unknown == 0).count(),
            failures: seen.into_iter().filter_map(|one| one.failure).collect(),
            nodes_cpu_per_second: nodes.iter().filter_map(|node| cpu_per_second.get(&node.name)).sum(),
            cpu_per_second,
            commands,
            bill: Bill::new(costs, nodes, sum.positions),
        }
    }

    fn freshness(&self, untimed: bool) -> Promise {
        let promise = format!("positions at most {STALE_P99_MAX_MS} ms old for 99 % of the time");
        if untimed {
            return Promise::not_judged(promise, "a run without --untimed");
        }
        let p99_ms = self.staleness.all.p99_ms;
        Promise::new(
            promise,
            p99_ms.is_some_and(|ms| ms <= STALE_P99_MAX_MS),
            p99_ms.map_or("nothing measured".to_owned(), |ms| format!("{ms} ms")),
        )
    }

    /// All but the first do not depend on how busy the machine is.
    fn promises(&self, untimed: bool) -> Vec<Promise> {
        let Frames { max_of_allowed, max_per_second, .. } = self.frames;
        vec![
            self.freshness(untimed),
            Promise::new(
                "frames bounded by the tick, not by the movers",
                max_of_allowed <= FRAMES_TOLERANCE,
                format!("at most {max_per_second:.1} per second, {max_of_allowed:.2} of what the tick allows"),
            ),
            Promise::new(
                "every viewer knows every mover",
                self.knowing == self.connections,
                format!("{} of {}", self.knowing, self.connections),
            ),
            Promise::new(
                "nobody was closed",
                self.failures.is_empty(),
                match self.failures.first() {
                    None => "nobody".to_owned(),
                    Some(why) => format!("{}, the first one {why}", self.failures.len()),
                },
            ),
        ]
    }

    fn text(&self) -> String {
        let Self { frames, staleness, commands, .. } = self;
        let head = format!(
            "{} connections on {} nodes, {} of them move {} times per second; measured for {:.0} s\n\
             members after {} ms; from then on {} ms until all had joined, {} ms until all were told of each other",
            self.connections,
            self.nodes,
            self.movers,
            self.hz,
            self.seconds,
            self.coming.members,
            self.coming.joined,
            self.coming.told
        );
        let ages = table(&[
            Ages::titles("AGE OF POSITIONS"),
            staleness.all.row("all"),
            staleness.same_node.row("of movers at the same node"),
            staleness.other_node.row("of movers at other nodes"),
        ]);
        let tick = |tick: &Tick| format!("{} ms to {}", tick.tick_ms, tick.viewers);
        let ticks: Vec<String> = self.ticks.iter().map(tick).collect();
        let counts = format!(
            "tick told: {}; frames per viewer and second {:.1}, at most {:.1}, with {:.1} positions\n\
             {:.1} MB of cursors per second; {} frames to read, {} frames of other kinds\n\
             moves per second {:.0}, dropped by the nodes {}, positions seen after a newer one {}",
            ticks.join(", "),
            frames.mean_per_second,
            frames.max_per_second,
            frames.positions_per_frame,
            frames.bytes_per_second / 1e6,
            frames.distinct,
            frames.others,
            self.moves_per_second,
            commands.map_or("-".to_owned(), |commands| commands.cursors_dropped.to_string()),
            self.older_positions
        );
        let cpu: Vec<String> = self.cpu_per_second.iter().map(|(name, cpu)| format!("{name} {cpu:.2}")).collect();
        format!(
            "{head}\n\n{ages}\n\n{counts}\n\n{}\n\
             processor seconds per second: nodes together {:.2} ({}); Redis commands per second {}",
            self.bill,
            self.nodes_cpu_per_second,
            cpu.join(", "),
            show(commands.map(|commands| commands.redis_commands_per_second))
        )
    }
}
