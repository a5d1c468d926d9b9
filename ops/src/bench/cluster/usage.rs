//! What a bench cost: time and memory of processes, from `/proc`, and counts from the nodes' metrics.
//!
//! What a process used is counted in hundredths of a second, which is coarse; what each of its threads used, in
//! nanoseconds, but without those that have ended. The larger of the two is told. A process that is gone has no usage; what
//! it used is what was read last.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::client;
use crate::state::{Node, State};

/// The unit of `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that a node runs on.
const TICK: Duration = Duration::from_millis(10);

/// Patience with a node's metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    /// In user and kernel mode together.
    cpu: Duration,
    /// Resident now.
    rss_bytes: u64,
}

/// What a process cost in some time.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    pub(crate) name: String,
    pub(crate) cpu_seconds: f64,
    /// Resident at the end.
    pub(crate) rss_bytes: u64,
}

/// Measures the cluster's processes, and ours beside them, from a moment on.
#[derive(Debug)]
pub(crate) struct Meter {
    processes: Vec<Metered>,
}

#[derive(Debug)]
struct Metered {
    name: String,
    pid: u32,
    before: Usage,
    last: Usage,
}

impl Meter {
    /// Begins now.
    pub(crate) fn start(state: &State) -> Self {
        let nodes = state.nodes.iter().map(|node| (node.name.clone(), node.pid));
        let redis = state.redis.processes();
        let ourselves = ("generator".to_owned(), std::process::id());
        Self { processes: nodes.chain(redis).chain([ourselves]).map(|(name, pid)| Metered::new(name, pid)).collect() }
    }

    /// Begins now, with one process.
    pub(crate) fn of(name: &str, pid: u32) -> Self {
        Self { processes: vec![Metered::new(name.to_owned(), pid)] }
    }

    /// Begins now, with these processes.
    pub(crate) fn of_all(processes: &[(String, u32)]) -> Self {
        Self { processes: processes.iter().map(|(name, pid)| Metered::new(name.clone(), *pid)).collect() }
    }

    /// What each cost until now; a process that is gone, until it was read last.
    pub(crate) fn read(&mut self) -> Vec<Cost> {
        let costs = self.processes.iter_mut().map(|process| {
            process.last = of(process.pid).unwrap_or(process.last);
            let cpu = process.last.cpu.saturating_sub(process.before.cpu);
            Cost { name: process.name.clone(), cpu_seconds: cpu.as_secs_f64(), rss_bytes: process.last.rss_bytes }
        });
        costs.collect()
    }
}

impl Metered {
    fn new(name: String, pid: u32) -> Self {
        let usage = of(pid).unwrap_or_default();
        Self { name, pid, before: usage, last: usage }
    }
}

/// What `pid` has used; none when there is no such process.
fn of(pid: u32) -> Option<Usage> {
    let cpu = cpu_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.max(cpu_of_threads(pid));
    let rss_bytes = rss_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    Some(Usage { cpu, rss_bytes })
}

/// What the threads that are there now have used; nothing where the kernel does not tell.
fn cpu_of_threads(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let told = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The name in `stat` stands in brackets and may hold anything, so fields are counted from its end.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let (user, kernel) = (ticks()?, ticks()?);
    Some(TICK * user.checked_add(kernel)?)
}

fn rss_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Counters of a node, by name and labels as they are written, as whole numbers.
///
/// # Errors
/// When its admin listener does not answer.
pub(crate) async fn counters(node: &Node) -> Result<BTreeMap<String, u64>> {
    Scraper::new()?.counters(node).await
}

/// Reads counters again and again, over connections that stay open: one that is made under load would come late.
#[derive(Debug)]
pub(crate) struct Scraper {
    http: reqwest::Client,
}

impl Scraper {
    /// Connects with the first look.
    ///
    /// # Errors
    /// When the TLS library can't start.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { http: client::http(true, METRICS_TIMEOUT)? })
    }

    /// As [`counters`].
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn counters(&self, node: &Node) -> Result<BTreeMap<String, u64>> {
        let url = format!("{}/metrics", node.admin_url);
        let response = self.http.get(&url).send().await;
        let text = response.with_context(|| format!("no metrics from {url}"))?.text().await?;
        Ok(read_counters(&text))
    }
}

/// `gaps_total{cause="start"} 3` and the like; anything that is no whole number is left out.
fn read_counters(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
        .collect()
}

/// By how much the counters whose name begins so have grown, together.
pub(crate) fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, prefix: &str) -> u64 {
    total(after, prefix).saturating_sub(total(before, prefix))
}

/// What the counters whose name begins so say together.
pub(crate) fn total(counters: &BTreeMap<String, u64>, prefix: &str) -> u64 {
    counters.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_found_behind_any_name() {
        let stat = "42 (odd) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 3 0 100 1000 10";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_of("42 (cut"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(rss_of("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(rss_of("Name:\tzombie\n"), None);
    }

    #[test]
    fn we_ourselves_use_something_and_nobody_uses_nothing() {
        assert!(of(std::process::id()).is_some_and(|usage| usage.rss_bytes > 0));
        assert_eq!(of(u32::MAX), None);
        assert_eq!(cpu_of_threads(u32::MAX), Duration::ZERO);
    }

    #[test]
    fn counters_grow_by_name_over_all_their_labels() {
        let before =
            read_counters("# HELP gaps_total x\ngaps_total{cause=\"a\"} 1\ngaps_total{cause=\"b\"} 2\nother 0.5\n");
        let after = read_counters("gaps_total{cause=\"a\"} 4\ngaps_total{cause=\"b\"} 2\n");
        assert_eq!((before.len(), growth(&before, &after, "gaps_total"), growth(&after, &before, "gaps")), (2, 3, 0));
    }
}
