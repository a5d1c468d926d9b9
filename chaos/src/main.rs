//! `mille-chaos`: runs one scenario against a cluster of its own, or lets people work on one that is there, and tells what
//! came out.
//!
//! Exit codes: 0 every promise was kept, 1 one was broken, 2 the run could not be carried out.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mille_chaos::given::Given;
use mille_chaos::report::Report;
use mille_chaos::scenario::Scenario;
use mille_chaos::stage::Order;

/// Breaks a cluster on purpose and checks that nobody lost anything.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What is broken, in a cluster that is started for it.
    #[arg(value_enum, required_unless_present = "nodes_given")]
    scenario: Option<Scenario>,
    /// Instead of a scenario: addresses of the nodes of a running cluster, separated by commas, which you break yourself.
    #[arg(long = "at", env = "MILLE_CHAOS_NODES", value_delimiter = ',', requires = "jwt_secret")]
    nodes_given: Vec<String>,
    /// The secret of that cluster's tokens.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// How long people edit; longer where a scenario needs it. At most 300 at a running cluster.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3_600))]
    seconds: u64,
    /// Repeats a run.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes of a scenario's cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,
    /// Plans of a scenario that has many.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(6..=100))]
    plans: u8,
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
    let outcome = match arguments.scenario {
        Some(scenario) => {
            let (nodes, plans) = (usize::from(arguments.nodes), usize::from(arguments.plans));
            scenario.run(Order { length, seed, nodes, plans }).await
        }
        None => {
            let secret = arguments.jwt_secret.unwrap_or_default();
            Given { nodes: arguments.nodes_given, secret }.run(length, seed).await
        }
    };
    match outcome {
        Ok(report) => tell(&report, arguments.json),
        Err(error) => {
            eprintln!("the run could not be carried out: {error:#}");
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
