//! `mille`, the operator's command line.
//!
//! Starts and stops a local cluster, and looks at or fills any cluster through its public surface: what
//! this program can do, a client can do. It never reads what is in Redis and never imports a node's code.
//! Exit codes: 0 done, 1 tried and failed, 2 refused before anything was touched (a wrong argument, a
//! missing program, a busy port).

mod admin;
mod bench;
mod client;
mod doctor;
mod down;
mod drain;
mod import;
mod output;
mod ports;
mod process;
mod render;
mod revoke;
mod seed;
mod socket;
mod state;
mod status;
mod tail;
mod target;
mod token;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::{Output, Refused};

/// Runs, watches and fills Mille clusters.
#[derive(Debug, Parser)]
#[command(name = "mille", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Answers in JSON on standard output.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a local cluster: Redis, nodes, load balancer, a sample project.
    Up(up::UpArgs),
    /// Stops the local cluster in order; Redis last, after it has written everything.
    Down(down::DownArgs),
    /// Prints a JWT for the local cluster.
    Token(token::TokenArgs),
    /// Revokes a user's tokens, or one token, before they expire.
    Revoke(revoke::RevokeArgs),
    /// Shows the cluster's nodes and its Redis.
    Status(status::StatusArgs),
    /// Says what is wrong with the cluster, and what to do.
    Doctor(doctor::DoctorArgs),
    /// Takes a node out: its clients go to other nodes, then it ends.
    Drain(drain::DrainArgs),
    /// Follows a plan's changes, one line each.
    Tail(tail::TailArgs),
    /// Builds a plan from two CSV files.
    Import(import::ImportArgs),
    /// Measures a local cluster under load, and says which promises it kept.
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match run(cli.command, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            let refused = error.downcast_ref::<Refused>().is_some();
            ExitCode::from(if refused { 2 } else { 1 })
        }
    }
}

/// Picks the one crypto backend, before anything can pick another, and runs the command.
fn run(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    // An error here says that a provider is there already, which is what we want.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().ok();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Up(args) => up::run(args, output).await,
            Command::Down(args) => down::run(args, output).await,
            Command::Token(args) => token::run(&args, output),
            Command::Revoke(args) => revoke::run(&args, output).await,
            Command::Status(args) => status::run(&args, output).await,
            Command::Doctor(args) => doctor::run(&args, output).await,
            Command::Drain(args) => drain::run(&args, output).await,
            Command::Tail(args) => tail::run(&args, output).await,
            Command::Import(args) => import::run(&args, output).await,
            Command::Bench(args) => bench::run(&args, output).await,
        }
    })
}
