//! `mille bench resume`: many clients come back at once, each many changes behind.
//!
//! They leave one node, the plan changes through that node alone, and they come back to another, which has
//! not had the plan open: the dearest way to resume, since nothing is in its memory. No process is harmed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use mille_shared::limits::{LOG_PAGE_ENTRIES, LOG_RETENTION_CHANGES, SNAPSHOT_EVERY_CHANGES};
use serde::Serialize;
use tokio::time::Instant;

use super::count_up_to;
use crate::bench::clients::load::Load;
use crate::bench::clients::subscribers::{Crowd, DELTAS, Progress, faults};
use crate::bench::cluster::ground::Ground;
use crate::bench::cluster::redis_calls;
use crate::bench::cluster::usage::{Meter, counters, growth};
use crate::bench::report::{Bill, Faults, Promise, Quantiles, conclude};
use crate::output::Output;
use crate::status::table;

/// Until every client has seen the first edit.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// When the slowest must be whole, of so many clients that are so far behind.
const SLOWEST_MAX_MS: f64 = 3_000.0;
const SLOWEST_OF: (usize, u32) = (1_000, 1_000);

/// Changes that a node reads once for all who missed them; of more each client reads its own.
const SHARED_CHANGES_MAX: u32 = 20_000;
/// For how long a node keeps what it read for them.
const SHARED_FOR_MS: f64 = 5_000.0;

/// What they get to come back and catch up.
const WHOLE_WITHIN: Duration = Duration::from_secs(40);

/// The number of the edit that each of them saw before it left.
const FIRST_EDIT: u32 = u32::MAX;

/// `mille bench resume`
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Clients that come back at once.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count_up_to::<10_000>())]
    clients: u32,
    /// Changes that each of them has missed.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count_up_to::<50_000>())]
    behind: u32,
    /// The node they come back to [default: the last].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Do not judge how long it took: for a machine that does other things, too.
    #[arg(long)]
    untimed: bool,
}

/// Runs the bench; the exit code says whether its promises were kept.
pub(crate) async fn run(args: &ResumeArgs, output: Output) -> Result<ExitCode> {
    let ground = Ground::prepare(args.state.as_deref(), args.clients as usize).await?;
    let findings = measure(args, &ground, output).await;
    ground.clear(output).await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises(args.untimed))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    nodes: usize,
    /// The node they left.
    from: String,
    /// The node they came back to.
    to: String,
    clients: usize,
    behind: u32,
    whole: usize,
    whole_since_reconnect: Quantiles,
    faults: Faults,
    /// Why clients were given up.
    failures: Vec<String>,
    /// At the node they came back to, from its metrics.
    at_the_node: AtTheNode,
    /// Pages of logs that were read meanwhile, by all nodes and by Redis' functions (XRANGE). None when Redis can't be asked.
    log_reads: Option<u64>,
    #[serde(flatten)]
    bill: Bill,
}

/// Growth of counters while they came back. Single commands are not told apart there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AtTheNode {
    resumes_by_replay: u64,
    resumes_by_snapshot: u64,
    /// Times the plan was read from the log to catch up.
    gaps: u64,
    /// Commands on the command connection, of any kind: reads of the log are among them.
    redis_commands: u64,
}

async fn measure(args: &ResumeArgs, ground: &Ground, output: Output) -> Result<Findings> {
    let nodes = &ground.state.nodes;
    let to = ground.node_index(args.node.as_deref())?;
    let from = (to + 1) % nodes.len();
    let progress = Arc::new(Progress::new(ground.start.seq));
    let count = args.clients as usize;
    let crowd = Crowd::open(ground, &progress, count, &[from], DELTAS).await?;
    let load = Load::new(ground, &progress, &[from])?;
    let first = load.edit(FIRST_EDIT, Instant::now()).await?;
    ensure!(first.latency.is_some(), "the first edit was not answered");
    let clients = crowd.finish(progress.head(), BEGIN_WITHIN).await?;
    let ready = clients.iter().filter(|client| client.sequence.last.seq == progress.head()).count();
    ensure!(ready == count, "only {ready} of {count} clients saw the first edit");

    output.note(format_args!("mille: {count} clients left {}; making {} changes", nodes[from].name, args.behind));
    load.run_at_once(args.behind).await?;

    output.note(format_args!("mille: they come back to {}", nodes[to].name));
    let deliveries_before = progress.deliveries();
    let counters_before = counters(&nodes[to]).await?;
    let reads_before = log_reads(ground).await;
    let mut meter = Meter::start(&ground.state);
    let clients = Crowd::bring_back(clients, to).finish(progress.head(), WHOLE_WITHIN).await?;
    let bill = Bill::new(meter.read(), nodes, progress.deliveries() - deliveries_before);
    let reads_after = log_reads(ground).await;
    let counters_after = counters(&nodes[to]).await?;

    let growth = |name: &str| growth(&counters_before, &counters_after, name);
    let times: Vec<Duration> = clients
        .iter()
        .filter_map(|client| client.returns.first())
        .filter_map(|back| back.whole.map(|whole| whole - back.began))
        .collect();
    Ok(Findings {
        bench: "resume",
        nodes: nodes.len(),
        from: nodes[from].name.clone(),
        to: nodes[to].name.clone(),
        clients: clients.len(),
        behind: args.behind,
        whole: times.len(),
        whole_since_reconnect: Quantiles::of(times)?,
        faults: faults(&clients, progress.head()),
        failures: clients.iter().filter_map(|client| client.failure.clone()).collect(),
        at_the_node: AtTheNode {
            resumes_by_replay: growth("resumes_total{outcome=\"replay\"}"),
            resumes_by_snapshot: growth("resumes_total{outcome=\"snapshot\"}"),
            gaps: growth("gaps_total"),
            redis_commands: growth("redis_command_seconds_count"),
        },
        log_reads: reads_before.zip(reads_after).map(|(before, after)| after.saturating_sub(before)),
        bill,
    })
}

/// So far. What can't be counted is no reason to measure nothing.
async fn log_reads(ground: &Ground) -> Option<u64> {
    let calls = redis_calls::calls(&ground.state.redis).await.ok()?;
    Some(calls.get("xrange").copied().unwrap_or_default())
}

/// A page is read in two steps, the first of which tells how large the entries are.
const READS_PER_PAGE: u64 = 2;

/// How often the log may be read (`XRANGE`): what opens the plan and what catches all up at once each begin at a snapshot, and what
/// was read for all is read again for who comes so late that it is forgotten. If each client read its own, it would be as many for
/// each.
fn log_reads_max(behind: u32, slowest_ms: f64) -> u64 {
    let reading = (u64::from(behind) + SNAPSHOT_EVERY_CHANGES) / LOG_PAGE_ENTRIES as u64 + 1;
    READS_PER_PAGE * reading * (2 + (slowest_ms / SHARED_FOR_MS) as u64)
}

impl Findings {
    fn promises(&self, untimed: bool) -> Vec<Promise> {
        let [none_lost, none_twice] = self.faults.promises();
        vec![
            Promise::new("all whole", self.whole == self.clients, format!("{} of {}", self.whole, self.clients)),
            self.soon(untimed),
            none_lost,
            none_twice,
            self.no_snapshot(),
            self.read_once(),
        ]
    }

    fn slowest_ms(&self) -> f64 {
        self.whole_since_reconnect.max_ms.unwrap_or_default()
    }

    fn soon(&self, untimed: bool) -> Promise {
        let promise = "the slowest whole within 3,000 ms";
        if untimed {
            return Promise::not_judged(promise, "a run without --untimed");
        }
        if (self.clients, self.behind) != SLOWEST_OF {
            return Promise::not_judged(promise, "--clients 1000 --behind 1000");
        }
        let slowest = self.slowest_ms();
        let is_soon = self.whole == self.clients && slowest <= SLOWEST_MAX_MS;
        Promise::new(promise, is_soon, format!("{slowest:.0} ms"))
    }

    fn no_snapshot(&self) -> Promise {
        let promise = "no SNAPSHOT";
        if u64::from(self.behind) > LOG_RETENTION_CHANGES {
            return Promise::not_judged(promise, "fewer changes than a log always keeps");
        }
        Promise::new(promise, self.faults.snapshots == 0, self.faults.snapshots.to_string())
    }

    fn read_once(&self) -> Promise {
        let promise = "the log read to open the plan, and once for all";
        let Some(reads) = self.log_reads else { return Promise::not_judged(promise, "a Redis that can be asked") };
        if self.behind > SHARED_CHANGES_MAX {
            return Promise::not_judged(promise, "at most 20,000 changes, which are read once for all");
        }
        let most = log_reads_max(self.behind, self.slowest_ms());
        Promise::new(promise, reads <= most, format!("{reads} reads, where that is at most {most}"))
    }

    fn text(&self) -> String {
        let times = table(&[Quantiles::titles("TIME"), self.whole_since_reconnect.row("whole, since the reconnect")]);
        let given_up = self.failures.first();
        let given_up = given_up.map(|why| format!("\ngiven up: {}, the first one {why}", self.failures.len()));
        let node = &self.at_the_node;
        format!(
            "{} clients, {} changes behind, from {} to {}\n\n{times}\n\n{}{}\n\
             at {}: {} resumes by replay, {} by snapshot; {} gaps, {} commands to Redis; reads of the log: {}\n\n{}",
            self.clients,
            self.behind,
            self.from,
            self.to,
            self.faults,
            given_up.unwrap_or_default(),
            self.to,
            node.resumes_by_replay,
            node.resumes_by_snapshot,
            node.gaps,
            node.redis_commands,
            self.log_reads.map_or("-".to_owned(), |reads| reads.to_string()),
            self.bill
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(clients: usize, behind: u32, slowest_ms: u64, log_reads: Option<u64>) -> Findings {
        let at_the_node = AtTheNode { resumes_by_replay: 0, resumes_by_snapshot: 0, gaps: 0, redis_commands: 0 };
        Findings {
            bench: "resume",
            nodes: 3,
            from: "node1".into(),
            to: "node3".into(),
            clients,
            behind,
            whole: clients,
            whole_since_reconnect: Quantiles::of([Duration::from_millis(slowest_ms)]).expect("constant bounds"),
            faults: Faults::default(),
            failures: Vec::new(),
            at_the_node,
            log_reads,
            bill: Bill::new(Vec::new(), &[], 0),
        }
    }

    #[test]
    fn the_slowest_is_judged_where_there_are_as_many_as_the_promise_speaks_of() {
        assert_eq!(findings(1_000, 1_000, 2_900, None).soon(false).kept, Some(true));
        assert_eq!(findings(1_000, 1_000, 3_100, None).soon(false).kept, Some(false));
        assert_eq!(findings(1_000, 1_000, 3_100, None).soon(true).kept, None);
        assert_eq!(findings(200, 1_000, 3_100, None).soon(false).kept, None);
    }

    #[test]
    fn a_log_that_each_client_reads_for_itself_breaks_the_promise() {
        assert_eq!(findings(200, 1_000, 500, Some(10)).read_once().kept, Some(true));
        assert_eq!(findings(200, 1_000, 500, Some(200 * 2)).read_once().kept, Some(false));
        assert_eq!(findings(200, 30_000, 500, Some(10)).read_once().kept, None);
        assert_eq!(findings(200, 1_000, 500, None).read_once().kept, None);
        assert_eq!((log_reads_max(1_000, 900.0), log_reads_max(1_000, 11_000.0)), (20, 40));
    }
}
