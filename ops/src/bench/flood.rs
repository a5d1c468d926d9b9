//! `mille bench flood`: some flood the nodes, one way after the other; how do the others fare meanwhile?
//!
//! First nobody floods: that is the base. Then each flood begins, has a second to come into force, and the same people edit
//! at the same rate as in the base. What counts is their p99 beside that of the base, that none of their edits is refused
//! or lost, and how much memory the nodes take for it. Flooders are told apart by what they were refused with. Between
//! two floods the nodes get the time to become calm.
//!
//! The generator makes the flood on the same machine, so its processor time is told beside the figures: what it takes is
//! missing elsewhere, and slows the others down too.

mod floods;
mod others;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::floods::{Flood, Force, Running};
use self::others::{Others, Pace};
use super::count_up_to;
use crate::bench::cluster::ground::Ground;
use crate::bench::cluster::usage::{Cost, Meter, Scraper};
use crate::bench::report::{Promise, Quantiles, conclude, show};
use crate::output::Output;
use crate::state::Node;
use crate::status::table;

/// Bounds of the promise.
const RATIO_MAX: f64 = 2.0;
const GROWTH_MAX_BYTES: u64 = 256 << 20;

/// Until a flood is in force, or the first edits have opened what they need.
const SETTLE: Duration = Duration::from_secs(1);
/// Until the nodes are calm again after a flood; then the next one begins anyway.
const CALM_WITHIN: Duration = Duration::from_secs(20);
/// How often memory and levels are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Who floods.
const FLOODER: &str = "bench-flooder";

/// `mille bench flood`
#[derive(Debug, Args)]
pub(crate) struct FloodArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// People who edit, each over a socket, spread over all nodes.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = count_up_to::<1_000>())]
    editors: u32,
    /// Their edits per second, all together.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count_up_to::<1_000>())]
    edits_per_second: u32,
    /// How long they edit in each part.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Frames per second of a flood.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count_up_to::<1_000_000>())]
    frames_per_second: u32,
    /// Connections of the one user who floods with many.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = count_up_to::<10_000>())]
    connections: u32,
    /// Connections that say nothing.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = count_up_to::<50_000>())]
    silent: u32,
    /// Only these floods.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Flood>,
}

/// Runs the floods; the exit code says whether the promises were kept.
pub(crate) async fn run(args: &FloodArgs, output: Output) -> Result<ExitCode> {
    let ground = Ground::prepare(args.state.as_deref(), 0).await?;
    let findings = flood(args, &ground, output).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises())
}

async fn flood(args: &FloodArgs, ground: &Ground, output: Output) -> Result<Findings> {
    let editors = (0..args.editors).map(|number| format!("bench-editor-{number}"));
    let editors = ground.admit_as("EDITOR", editors).await?;
    let flooder = ground.admit([FLOODER.to_owned()]).await?;
    let flooder = flooder.first().context("the one who floods was not admitted")?;
    let force = Force {
        frames_per_second: args.frames_per_second,
        connections: args.connections as usize,
        silent: args.silent as usize,
    };
    let mut pace = Pace { first: 0, per_second: args.edits_per_second, seconds: args.seconds };
    // Once unmeasured: what the first edits open is no part of the base.
    let warm_up = Pace { seconds: 1, ..pace };
    Others::connect(ground, &editors, warm_up).await?.edit().await?;
    pace.first = warm_up.end();
    output.note(format_args!("mille: {} people edit {} times per second", args.editors, args.edits_per_second));
    let gauges = Scraper::new()?;
    let base = measure(ground, &editors, &gauges, pace, None).await?;
    let mut parts = Vec::new();
    let floods = if args.only.is_empty() { Flood::ALL.to_vec() } else { args.only.clone() };
    for flood in floods {
        pace.first = pace.end();
        output.note(format_args!("mille: the same, with the flood `{}`", flood.name()));
        let begin = || Running::start(flood, force, ground, FLOODER, flooder);
        let part = measure(ground, &editors, &gauges, pace, Some((flood, &begin))).await?;
        parts.push(part);
        calm(&gauges, &ground.state.nodes).await;
    }
    Ok(Findings {
        bench: "flood",
        nodes: ground.state.nodes.len(),
        editors: args.editors,
        asked: Asked::of(args),
        base,
        parts,
    })
}

/// What is flooded with, and what begins it.
type Begin<'a> = (Flood, &'a dyn Fn() -> Running);

/// Has the others edit while the flood is in force.
async fn measure(
    ground: &Ground,
    editors: &[Arc<str>],
    gauges: &Scraper,
    pace: Pace,
    flood: Option<Begin<'_>>,
) -> Result<Part> {
    let others = Others::connect(ground, editors, pace).await?;
    let mut meter = Meter::start(&ground.state);
    let before = meter.read();
    let (began, running) = (Instant::now(), flood.map(|(_, begin)| begin()));
    let mut watch = Watch { before: before.clone(), peak: before, level: 0 };
    let watched = async {
        loop {
            watch.look(&mut meter, gauges, &ground.state.nodes).await;
            sleep(LOOK_EVERY).await;
        }
    };
    let edited = async {
        sleep(SETTLE).await;
        others.edit().await
    };
    let fared = tokio::select! {
        fared = edited => fared?,
        () = watched => bail!("nobody looks at the nodes any more"),
    };
    let seconds = began.elapsed().as_secs_f64();
    let costs = meter.read();
    let (sent, opened, told) = running.map_or((0, 0, BTreeMap::new()), |running| {
        let told = &running.told;
        (told.sent.load(Ordering::Relaxed), told.opened.load(Ordering::Relaxed), told.counts())
    });
    Ok(Part {
        flood: flood.map(|(flood, _)| flood.name()),
        answers: Quantiles::of(fared.answers)?,
        events: Quantiles::of(fared.events)?,
        refused: fared.refused,
        unanswered: fared.unanswered,
        unseen: fared.unseen,
        others_closed: fared.ended,
        frames_per_second: sent as f64 / seconds,
        opened,
        told,
        level_max: watch.level,
        memory: watch.memory(&ground.state.nodes),
        cores: costs.iter().map(|cost| (cost.name.clone(), cost.cpu_seconds / seconds)).collect(),
    })
}

/// Waits until every node says that it is calm, for a while.
async fn calm(gauges: &Scraper, nodes: &[Node]) {
    let deadline = Instant::now() + CALM_WITHIN;
    while Instant::now() < deadline && level(gauges, nodes).await > 0 {
        sleep(LOOK_EVERY).await;
    }
}

/// The highest level of any node that tells one.
async fn level(gauges: &Scraper, nodes: &[Node]) -> u64 {
    let mut highest = 0;
    for node in nodes {
        let told = gauges.counters(node).await.unwrap_or_default();
        highest = highest.max(told.get("pressure_level").copied().unwrap_or_default());
    }
    highest
}

/// The worst that was seen while it lasted.
struct Watch {
    before: Vec<Cost>,
    peak: Vec<Cost>,
    level: u64,
}

impl Watch {
    async fn look(&mut self, meter: &mut Meter, gauges: &Scraper, nodes: &[Node]) {
        for (peak, now) in self.peak.iter_mut().zip(meter.read()) {
            peak.rss_bytes = peak.rss_bytes.max(now.rss_bytes);
        }
        self.level = self.level.max(level(gauges, nodes).await);
    }

    fn memory(&self, nodes: &[Node]) -> Vec<Memory> {
        let of_nodes = self.before.iter().zip(&self.peak).filter(|(cost, _)| nodes.iter().any(|n| n.name == cost.name));
        of_nodes
            .map(|(before, peak)| Memory {
                name: before.name.clone(),
                before_bytes: before.rss_bytes,
                peak_bytes: peak.rss_bytes,
            })
            .collect()
    }
}

/// What can be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    nodes: usize,
    editors: u32,
    #[serde(flatten)]
    asked: Asked,
    base: Part,
    parts: Vec<Part>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    edits_per_second: u32,
    seconds: u32,
    frames_per_second: u32,
    connections: u32,
    silent: u32,
}

impl Asked {
    fn of(args: &FloodArgs) -> Self {
        let FloodArgs { edits_per_second, seconds, frames_per_second, connections, silent, .. } = *args;
        Self { edits_per_second, seconds, frames_per_second, connections, silent }
    }
}

/// One part: the base, or a flood.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    /// None in the base.
    flood: Option<&'static str>,
    answers: Quantiles,
    events: Quantiles,
    /// Edits of the others that were refused, by code.
    refused: BTreeMap<String, u64>,
    unanswered: usize,
    /// Edits of the others whose event did not come in time.
    unseen: usize,
    /// Sockets of the others that ended.
    others_closed: usize,
    /// Frames that flooders sent.
    frames_per_second: f64,
    /// Connections that flooders made.
    opened: u64,
    /// What flooders were told, by kind.
    told: BTreeMap<String, u64>,
    /// The highest level of pressure that any node told.
    level_max: u64,
    memory: Vec<Memory>,
    /// Processor seconds per second, of each process.
    cores: Vec<(String, f64)>,
}

/// A node's resident memory.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    name: String,
    before_bytes: u64,
    peak_bytes: u64,
}

impl Part {
    fn name(&self) -> &'static str {
        self.flood.unwrap_or("nobody floods")
    }

    /// Bytes that a node took beyond what it had, at the most.
    fn growth_bytes(&self) -> u64 {
        self.memory.iter().map(|memory| memory.peak_bytes.saturating_sub(memory.before_bytes)).max().unwrap_or_default()
    }

    /// The p99 beside that of the base.
    fn ratio(&self, base: &Self) -> Option<f64> {
        self.answers.p99_ms.zip(base.answers.p99_ms).map(|(now, before)| now / before)
    }

    fn is_whole(&self) -> bool {
        self.refused.is_empty() && self.unanswered + self.unseen + self.others_closed == 0
    }

    fn row(&self, base: &Self) -> Vec<String> {
        let mut row = self.answers.row(self.name());
        row.extend([show(self.events.p50_ms), show(self.events.p99_ms), show(self.ratio(base))]);
        let mebibytes = self.growth_bytes() as f64 / f64::from(1 << 20);
        row.extend([self.level_max.to_string(), format!("{mebibytes:.0}")]);
        row
    }

    fn account(&self) -> String {
        let counts = |counts: &BTreeMap<String, u64>| {
            let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{what}: {count}")).collect();
            if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }
        };
        let cores: Vec<String> = self.cores.iter().map(|(name, cores)| format!("{name} {cores:.2}")).collect();
        format!(
            "{}: {:.0} frames/s over {} connections; told {}\n  others: refused {}, unanswered {}, unseen {}, closed {}\n  cores: {}",
            self.name(),
            self.frames_per_second,
            self.opened,
            counts(&self.told),
            counts(&self.refused),
            self.unanswered,
            self.unseen,
            self.others_closed,
            cores.join(", ")
        )
    }
}

impl Findings {
    fn promises(&self) -> Vec<Promise> {
        let parts = || self.parts.iter();
        let worst = parts().max_by(|a, b| {
            let ratio = |part: &Part| part.ratio(&self.base).unwrap_or(f64::INFINITY);
            ratio(a).total_cmp(&ratio(b))
        });
        let ratio = worst.and_then(|part| part.ratio(&self.base));
        let greediest = parts().max_by_key(|part| part.growth_bytes());
        let growth = greediest.map_or(0, Part::growth_bytes);
        let harmed: Vec<&str> = parts().filter(|part| !part.is_whole()).map(Part::name).collect();
        let name = |part: Option<&Part>| part.map_or("-", Part::name);
        vec![
            Promise::new(
                format!("others' p99 at most {RATIO_MAX} times that of the base"),
                ratio.is_some_and(|ratio| ratio <= RATIO_MAX),
                format!("{} times in the worst, `{}`", show(ratio), name(worst)),
            ),
            Promise::new(
                "no edit of the others refused or lost, none of them closed",
                harmed.is_empty(),
                if harmed.is_empty() { "in every flood".to_owned() } else { format!("not in {}", harmed.join(", ")) },
            ),
            Promise::new(
                format!("no node takes more than {} MiB for a flood", GROWTH_MAX_BYTES >> 20),
                growth <= GROWTH_MAX_BYTES,
                format!("{} MiB in the worst, `{}`", growth >> 20, name(greediest)),
            ),
        ]
    }

    fn text(&self) -> String {
        let Asked { edits_per_second, seconds, .. } = self.asked;
        let head = format!(
            "{} people edit on {} nodes, {edits_per_second} edits per second, {seconds} s in each part",
            self.editors, self.nodes
        );
        let mut titles = Quantiles::titles("OTHERS' EDITS");
        titles.extend(["EVENT P50", "EVENT P99", "P99 RATIO", "LEVEL", "RSS +MiB"].map(str::to_owned));
        let all = || [&self.base].into_iter().chain(&self.parts);
        let mut rows = vec![titles];
        rows.extend(all().map(|part| part.row(&self.base)));
        let accounts: Vec<String> = all().map(Part::account).collect();
        format!("{head}\n\n{}\n\n{}", table(&rows), accounts.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(flood: Option<&'static str>, p99_ms: u64, peak_mib: u64) -> Part {
        let answers = Quantiles::of([Duration::from_millis(p99_ms)]).expect("constant bounds");
        let memory = Memory { name: "node1".into(), before_bytes: 10 << 20, peak_bytes: peak_mib << 20 };
        Part {
            flood,
            answers,
            events: answers,
            refused: BTreeMap::new(),
            unanswered: 0,
            unseen: 0,
            others_closed: 0,
            frames_per_second: 0.0,
            opened: 0,
            told: BTreeMap::new(),
            level_max: 0,
            memory: vec![memory],
            cores: Vec::new(),
        }
    }

    fn kept(parts: Vec<Part>) -> Vec<bool> {
        let asked = Asked { edits_per_second: 1, seconds: 1, frames_per_second: 1, connections: 1, silent: 1 };
        let findings = Findings { bench: "flood", nodes: 3, editors: 1, asked, base: part(None, 10, 10), parts };
        findings.promises().iter().map(|promise| promise.kept == Some(true)).collect()
    }

    #[test]
    fn the_worst_flood_decides() {
        assert_eq!(kept(vec![part(Some("a"), 15, 20), part(Some("b"), 19, 200)]), [true; 3]);
        assert_eq!(kept(vec![part(Some("a"), 15, 20), part(Some("b"), 25, 20)]), [false, true, true]);
        assert_eq!(kept(vec![part(Some("a"), 15, 300), part(Some("b"), 9, 20)]), [true, true, false]);
    }

    #[test]
    fn an_edit_of_the_others_that_was_refused_breaks_the_promise() {
        let mut harmed = part(Some("a"), 10, 10);
        harmed.refused.insert("OVERLOADED".into(), 1);
        assert_eq!(kept(vec![harmed]), [true, false, true]);
        assert!(!kept(Vec::new())[0], "without a flood nothing is shown");
    }
}
