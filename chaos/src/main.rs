//! `mille-chaos`: runs one scenario against a cluster of its own and tells what came out.
//!
//! Exit codes: 0 every promise was kept, 1 one was broken, 2 the scenario could not be carried out.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mille_chaos::report::Report;
use mille_chaos::scenario::Scenario;
use mille_chaos::stage::Order;

/// Breaks a cluster on purpose and checks that nobody lost anything.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What is broken.
    #[arg(value_enum)]
    scenario: Scenario,
    /// How long people edit; longer where a scenario needs it.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3_600))]
    seconds: u64,
    /// Repeats a run.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,
    /// The report as JSON; after a failure with the whole history.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let length = Duration::from_secs(arguments.seconds);
    let order = Order { length, seed, nodes: usize::from(arguments.nodes) };
    match arguments.scenario.run(order).await {
        Ok(report) => tell(&report, arguments.json),
        Err(error) => {
            eprintln!("the scenario could not be carried out: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn tell(report: &Report, as_json: bool) -> ExitCode {
    let text = if as_json { report.json().to_string() } else { report.to_string() };
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        eprintln!("the report could not be written: {error}");
        return ExitCode::from(2);
    }
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
