//! What it costs to count: `cargo bench -p mille-node --bench metrics`. Nanoseconds per event, by one thread and by two that
//! count the same; microseconds per scrape of everything a node declares.
//!
//! Each figure is the fastest of ten rounds, since whatever else runs on the machine can only make one slower.

use std::hint::black_box;
use std::io::{Result, Write as _, stdout};
use std::time::Duration;

use mille_node::metrics::{CloseReason, EditResult, Kind, LearntAt, Metrics};
use tokio::time::Instant;

const ROUNDS: usize = 10;
const EVENTS: u32 = 200_000;
const SCRAPES: u32 = 50;

fn main() -> Result<()> {
    let metrics = Metrics::new();
    let learnt = LearntAt::default();
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let mut out = stdout().lock();
    writeln!(out, "| event | ns, one thread | ns, two threads |\n|---|---|---|")?;
    let mut tell = |what: &str, event: &(dyn Fn(u32) + Sync)| {
        let (alone, together) = (nanoseconds(1, event), nanoseconds(2, event));
        writeln!(out, "| {what} | {alone:.1} | {together:.1} |")
    };
    tell("an addition to a counter", &|_| metrics.connections.messages_sent.increment(1))?;
    tell("an observation in a histogram", &|n| {
        metrics.plans.edit_seconds(EditResult::Accepted).record(f64::from(n % 1_000) / 1_000.0);
    })?;
    tell("a delivery: noted, taken, its age observed", &|_| {
        learnt.set(now);
        if let Some(learnt) = black_box(&learnt).take() {
            metrics.plans.fan_out_seconds.record(learnt.elapsed().as_secs_f64());
        }
    })?;
    tell("a socket, opened and closed", &|_| {
        metrics.connections.opened(Kind::GraphQl);
        metrics.connections.closed(Kind::GraphQl, CloseReason::Client, 1000, second);
    })?;
    let families = metrics.render().lines().filter(|line| line.starts_with("# TYPE")).count();
    let series = metrics.render().lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    let scrape = fastest(|| {
        for _ in 0..SCRAPES {
            black_box(metrics.render());
        }
    });
    let micros = scrape.as_secs_f64() * 1e6 / f64::from(SCRAPES);
    writeln!(out, "\na scrape of {families} families, {series} lines: {micros:.0} µs")
}

/// Per event, with so many threads at it.
fn nanoseconds(threads: usize, event: &(dyn Fn(u32) + Sync)) -> f64 {
    let took = fastest(|| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..EVENTS).for_each(event));
            }
        });
    });
    took.as_secs_f64() * 1e9 / f64::from(EVENTS)
}

fn fastest(round: impl Fn()) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        round();
        began.elapsed()
    });
    rounds.min().unwrap_or_default()
}
