//! `mille bench fanout`: many subscribers, many edits, and what a delivery costs.
//!
//! The figure alone says little, since machines differ. So in the same run, by turns, the same is asked of two others: of a
//! yardstick, a process that writes frames of the same size to as many sockets at the same times and does nothing else
//! (`yardstick`), and of the stock example, which tells of edits in the way that the libraries' documentation shows
//! (`examples/stock.rs`). What the nodes use beyond the yardstick is what they add; what the example uses beyond the nodes
//! is what they save. Last comes one yardstick per node: what it uses beyond the one is the price of being several. With several
//! rounds the medians of the rounds' ratios are told.
//!
//! With `--saturate` it is asked instead how many deliveries per second there can be (`saturate`).

mod course;
mod editors;
mod findings;
mod listeners;
mod saturate;
mod side;
mod stage;
mod wire;
pub(crate) mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use super::count_up_to;
use crate::bench::clients::schedule::Rhythm;
use crate::bench::cluster::ground::Ground;
use crate::bench::cluster::redis_calls::{self, Count};
use crate::bench::report::conclude;
use crate::output::{Output, refused};
use findings::{Findings, Saturation, SideFindings, Targets, Turn};
use side::Side;
use stage::Stage;
use yardstick::{Yardstick, YardstickArgs};

/// What subscribers get after the last edit to see the end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Edits per second that one editor's socket is asked for at the most: half of what a node takes of it.
const EDITS_PER_EDITOR: u32 = 100;

/// Editors, however few the edits: they are spread over all nodes.
const EDITORS_MIN: u32 = 12;

/// Editors where the rate is not known yet.
const EDITORS_OF_A_CLIMB: u32 = 120;

/// `mille bench fanout`
#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Subscribers of all plans together, spread over all nodes, each on a socket of its own and with a full selection.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = count_up_to::<10_000>())]
    subscribers: u32,
    /// Plans, each in a project of its own, which share the subscribers and the edits.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_up_to::<5_000>())]
    plans: u32,
    /// Edits per second, all plans together. Each goes to every subscriber of its plan.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count_up_to::<5_000>())]
    edits_per_second: u32,
    /// Edits that come in a row, 1 ms apart, with a pause after them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_up_to::<5_000>())]
    burst: u32,
    /// How long edits are made in each turn.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// How often the yardstick, the nodes, the example and one yardstick per node take their turns.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_up_to::<100>())]
    rounds: u32,
    /// The stock example [default: examples/stock beside this program, if it was built].
    #[arg(long, value_name = "FILE")]
    stock: Option<PathBuf>,
    /// Measures no stock example.
    #[arg(long, conflicts_with = "stock")]
    no_stock: bool,
    /// Raises the rate from --edits-per-second on, --seconds each, until deliveries are late, and tells the most there were.
    #[arg(long, conflicts_with = "burst")]
    saturate: bool,
    #[command(flatten)]
    targets: Targets,
}

/// Runs it; the exit code says whether everybody was told everything once, and whether targets were met.
pub(crate) async fn run(args: &FanoutArgs, output: Output) -> Result<ExitCode> {
    ensure!(args.burst <= args.edits_per_second * args.seconds, "a burst longer than the bench");
    let editors = if args.saturate { EDITORS_OF_A_CLIMB } else { args.edits_per_second / EDITS_PER_EDITOR };
    let cast = stage::cast(args.plans, args.subscribers, editors.max(EDITORS_MIN))?;
    let program = if args.no_stock { None } else { stage::stock_program(args.stock.as_deref())? };
    if program.is_none() && args.targets.stock_at_least.is_some() {
        return Err(refused("no stock example: cargo build --release -p mille-ops --example stock"));
    }
    let ground = Ground::prepare_on(args.state.as_deref(), 0, 1).await?;
    let mut made = Vec::new();
    let findings = async {
        output.note(format_args!("mille: making {} plans for {} subscribers", cast.plans, cast.listeners));
        let nodes = Stage::nodes(&ground, cast, &mut made).await?;
        let stock = match &program {
            Some(program) => Some(Stage::stock(program, &ground, &nodes).await?),
            None => None,
        };
        if args.saturate {
            climb(args, &ground, nodes, stock, output).await
        } else {
            take_turns(args, &ground, nodes, stock, output).await
        }
    };
    let findings = findings.await;
    stage::clear(&ground, &made, output).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises(&args.targets))
}

async fn take_turns(
    args: &FanoutArgs,
    ground: &Ground,
    nodes: Stage,
    stock: Option<Stage>,
    output: Output,
) -> Result<Findings> {
    let rhythm = Rhythm { rate: args.edits_per_second, burst: args.burst };
    let redis = &ground.state.redis;
    let mut nodes = Side::open(nodes, redis).await?;
    let mut stock = match stock {
        Some(stage) => Some(Side::open(stage, redis).await?),
        None => None,
    };
    let frame_bytes = nodes.frame_bytes()?;
    output.note(format_args!(
        "mille: {} edits per second for {} s, {} times, by turns; frames of {frame_bytes} bytes",
        rhythm.rate, args.seconds, args.rounds
    ));
    let task = YardstickArgs {
        // Of an edit, a yardstick's socket gets what one subscriber of one plan does.
        sockets: args.subscribers / args.plans,
        groups: args.plans,
        frame_bytes,
        rate: rhythm.rate,
        burst: rhythm.burst,
        seconds: args.seconds,
    };
    let mut turns = Vec::new();
    for _ in 0..args.rounds {
        // Both sides are at rest while the yardstick has its turn.
        let count = Count::begin(redis).await?;
        let yardstick = Yardstick::measure(&task, 1).await?;
        let at_rest = count.end(redis).await?;
        let ours = nodes.round(rhythm, args.seconds, END_WITHIN).await?;
        let stock = match &mut stock {
            Some(stock) => Some(stock.round(rhythm, args.seconds, END_WITHIN).await?),
            None => None,
        };
        let one_per_node = Yardstick::measure(&task, ground.state.nodes.len().try_into()?).await?;
        turns.push(Turn { yardstick, at_rest, one_per_node, ours, stock });
    }
    let stock_findings = match &stock {
        Some(side) => Some(SideFindings::of(side, &turns, |turn| turn.stock.as_ref())?),
        None => None,
    };
    let ours = SideFindings::of(&nodes, &turns, |turn| Some(&turn.ours))?;
    nodes.close().await;
    if let Some(stock) = stock {
        stock.close().await;
    }
    Ok(Findings { ours: Some(ours), stock: stock_findings, ..findings(args, ground, &turns).await })
}

async fn climb(
    args: &FanoutArgs,
    ground: &Ground,
    nodes: Stage,
    stock: Option<Stage>,
    output: Output,
) -> Result<Findings> {
    let redis = &ground.state.redis;
    let mut sides: Vec<(Option<Stage>, Saturation)> =
        [Some(nodes), stock].into_iter().map(|stage| (stage, Saturation::default())).collect();
    for _ in 0..args.rounds {
        for (stage, saturation) in &mut sides {
            let Some(before) = stage.take() else { continue };
            let (after, steps) = saturate::climb(before, redis, args.edits_per_second, args.seconds, output).await?;
            saturation.note(steps);
            *stage = Some(after);
        }
    }
    let mut saturations = sides.into_iter().map(|(stage, saturation)| stage.map(|_| saturation));
    let (ours, stock) = (saturations.next().flatten(), saturations.next().flatten());
    Ok(Findings {
        saturation_times_the_stocks: ours.as_ref().zip(stock.as_ref()).and_then(|(ours, stock)| ours.times(stock)),
        saturation: ours,
        stock_saturation: stock,
        ..findings(args, ground, &[]).await
    })
}

/// What was asked, and what only the turns together say.
async fn findings(args: &FanoutArgs, ground: &Ground, turns: &[Turn]) -> Findings {
    Findings {
        bench: "fanout",
        nodes: ground.state.nodes.len(),
        subscribers: args.subscribers,
        plans: args.plans,
        edits_per_second: args.edits_per_second,
        burst: args.burst,
        seconds: args.seconds,
        rounds: args.rounds,
        saturate: args.saturate,
        appendfsync: redis_calls::appendfsync(&ground.state.redis).await.ok(),
        yardstick_price: Turn::yardstick_price(turns),
        times_the_yardstick: Turn::times_the_yardstick(turns),
        one_per_node_times_the_yardstick: Turn::one_per_node_times_the_yardstick(turns),
        times_one_per_node: Turn::times_one_per_node(turns),
        stock_times_ours: Turn::stock_times_ours(turns),
        redis_calls_per_second_at_rest: Turn::redis_calls_per_second_at_rest(turns),
        ours: None,
        stock: None,
        saturation: None,
        stock_saturation: None,
        saturation_times_the_stocks: None,
    }
}
