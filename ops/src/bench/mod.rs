//! `mille bench`: loads a local cluster and says which promises it kept.
//!
//! A bench makes a project of its own, acts as its clients through the public surface, and checks what each of them
//! sees: a figure about a stream with a hole in it is worth nothing. Each has a file that says what happens when, and a folder of
//! its name for what nobody else uses. What several use is in three others: `cluster` is where a bench takes place and what that
//! costs there, `clients` are its people, `report` is how it is told, compared and summed up.
//!
//! The generator runs beside the cluster and takes its share of the machine; `cluster::usage` shows how much.

mod clients;
mod cluster;
mod cursors;
mod edits;
mod fanout;
mod flood;
mod idle;
mod report;
mod resume;
mod storm;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::output::Output;
use crate::process::LOOK_EVERY;

/// `mille bench`
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Kills a node under load: do its subscribers come back whole, and does anyone else suffer?
    Storm(storm::StormArgs),
    /// Brings many clients back at once that missed many changes.
    Resume(resume::ResumeArgs),
    /// Moves many cursors before many eyes: how old is what they see, and what does it cost?
    Cursors(cursors::CursorsArgs),
    /// Tells many of many edits: what does a delivery cost, and how much of it is the system call that nobody can spare?
    Fanout(fanout::FanoutArgs),
    /// The yardstick of `fanout`, as a process of its own.
    #[command(hide = true)]
    Yardstick(fanout::yardstick::YardstickArgs),
    /// Compares two reports of one bench: says by how much each figure differs, and fails where one is worse.
    Compare(report::compare::CompareArgs),
    /// Puts what many reports promised into one table (ops/measure makes them).
    Summary(report::summary::SummaryArgs),
    /// Edits as fast as the cluster takes it, or at a rate: what does an edit cost, and when is it seen at another node?
    Edits(edits::EditsArgs),
    /// Floods the nodes in several ways, one after the other: how do the others fare meanwhile?
    Flood(flood::FloodArgs),
    /// Opens many connections that do nothing: what does each cost?
    Idle(idle::IdleArgs),
}

/// Runs one bench; the exit code says whether all its promises were kept.
pub(crate) async fn run(args: &BenchArgs, output: &Output) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let bench = async {
        match &args.bench {
            Bench::Storm(args) => storm::run(args, *output).await,
            Bench::Resume(args) => resume::run(args, *output).await,
            Bench::Cursors(args) => cursors::run(args, *output).await,
            Bench::Fanout(args) => fanout::run(args, *output).await,
            Bench::Yardstick(args) => fanout::yardstick::run(args).await,
            Bench::Compare(args) => report::compare::run(args, *output),
            Bench::Summary(args) => report::summary::run(args, *output),
            Bench::Edits(args) => edits::run(args, *output).await,
            Bench::Flood(args) => flood::run(args, *output).await,
            Bench::Idle(args) => idle::run(args, *output).await,
        }
    };
    tokio::select! {
        code = bench => code,
        _ = interrupt.recv() => bail!("interrupted; the bench's project is left behind"),
        _ = terminate.recv() => bail!("terminated; the bench's project is left behind"),
    }
}

/// Waits until `reached`; false when it was not within `patience`.
async fn wait_until(patience: Duration, reached: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !reached() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}

/// Reads a count that must be at least 1 and at most `MAX`.
fn count_up_to<const MAX: i64>() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX)
}
