//! What Redis and the nodes count while edits are counted.
//!
//! Nodes ask Redis for something at rest, too: each sends itself a message about once per second. That is counted before
//! anybody edits, and taken off, so that few edits do not seem to cause it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::bench::ground::Ground;
use crate::bench::redis::Primaries;
use crate::bench::usage::{Scraper, growth};

/// FCALLs per edit: one, and what leases and the like add. Nodes that write to one plan at the same time need more.
const FCALLS_PER_EDIT_MAX: f64 = 1.1;
/// And where edits are acknowledged when replicas have them: one more, that looks whether it is still there.
const FCALLS_PER_CONFIRMED_EDIT_MAX: f64 = FCALLS_PER_EDIT_MAX + 1.0;
/// How long nobody edits while it is counted what nodes ask at rest.
const REST: Duration = Duration::from_secs(2);
/// Commands of Redis that are ours, or watch the connection: no edit causes them.
const NOT_OURS: [&str; 3] = ["ping", "info", "config|get"];

/// Looks at the counts of Redis and of the nodes when the window opens and when it closes: each time the same few
/// questions over connections that are open already, so that all counts are of the seconds in which edits are counted.
pub(super) struct Looks {
    redis: Primaries,
    nodes: Scraper,
    /// Calls and messages of the nodes per second while nobody edited.
    at_rest: AtRest,
}

/// What nodes ask per second when nobody edits.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AtRest {
    fcalls_per_second: f64,
    published_per_second: f64,
}

/// Counts at one moment.
#[derive(Debug)]
pub(super) struct Counts {
    at: Instant,
    /// What Redis has served, by command.
    commands: BTreeMap<String, u64>,
    /// Batches of changes that nodes have heard of, all together.
    heard: u64,
}

impl Looks {
    /// Connects, and counts what is asked while nobody edits: the looks after that are all equally quick.
    ///
    /// # Errors
    /// When Redis or a node does not answer.
    pub(super) async fn prepare(ground: &Ground) -> Result<Self> {
        let redis = Primaries::connect(&ground.state.redis).await?;
        let mut looks = Self { redis, nodes: Scraper::new()?, at_rest: AtRest::default() };
        let before = looks.look(ground).await?;
        sleep(REST).await;
        looks.at_rest = looks.look(ground).await?.at_rest_since(&before);
        Ok(looks)
    }

    /// Counts now.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn look(&mut self, ground: &Ground) -> Result<Counts> {
        let nodes = ground.state.nodes.iter().map(|node| self.nodes.counters(node));
        let (commands, nodes) = tokio::try_join!(self.redis.commands(), try_join_all(nodes))?;
        let heard = nodes.iter().map(|node| growth(&BTreeMap::new(), node, "bridge_lag_seconds_count")).sum();
        Ok(Counts { at: Instant::now(), commands, heard })
    }

    /// What was served between two looks, while so many edits were accepted.
    pub(super) fn served(&self, before: &Counts, after: &Counts, accepted: u64) -> Served {
        Served::new(before, after, accepted, self.at_rest)
    }
}

impl Counts {
    fn at_rest_since(&self, before: &Self) -> AtRest {
        let seconds = (self.at - before.at).as_secs_f64();
        let nobody = Served::new(before, self, 0, AtRest::default());
        AtRest {
            fcalls_per_second: nobody.fcalls as f64 / seconds,
            published_per_second: nobody.published as f64 / seconds,
        }
    }
}

/// What Redis served in the window.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Served {
    /// Calls of functions that may write: commits, tries that met a log that had moved, leases, looks before a WAIT.
    pub(super) fcalls: u64,
    /// Messages to channels: one for each commit, and the nodes' to themselves.
    pub(super) published: u64,
    /// Commits that nodes heard of, all nodes together.
    pub(super) heard: u64,
    pub(super) at_rest: AtRest,
    /// These without what is asked at rest in as long a time.
    pub(super) fcalls_per_edit: f64,
    pub(super) messages_per_commit: f64,
    pub(super) edits_per_commit: f64,
    /// Everything, also what functions call, by command.
    pub(super) commands: BTreeMap<String, u64>,
}

impl Served {
    fn new(before: &Counts, after: &Counts, accepted: u64, at_rest: AtRest) -> Self {
        let heard = after.heard.saturating_sub(before.heard);
        let grown = |name: &String, count: &u64| count.saturating_sub(before.commands.get(name).copied().unwrap_or(0));
        let commands = after.commands.iter().map(|(name, count)| (name.clone(), grown(name, count)));
        let is_for_nodes = |(name, count): &(String, u64)| *count > 0 && !NOT_OURS.contains(&name.as_str());
        let commands: BTreeMap<String, u64> = commands.filter(is_for_nodes).collect();
        let of = |name: &str| commands.get(name).copied().unwrap_or(0);
        let (fcalls, published) = (of("fcall"), of("publish") + of("spublish"));
        let seconds = (after.at - before.at).as_secs_f64();
        let beyond = |count: u64, per_second: f64| (count as f64 - per_second * seconds).max(0.0);
        let commits = beyond(published, at_rest.published_per_second);
        Self {
            fcalls,
            published,
            heard,
            at_rest,
            fcalls_per_edit: beyond(fcalls, at_rest.fcalls_per_second) / accepted.max(1) as f64,
            messages_per_commit: heard as f64 / commits.max(1.0),
            edits_per_commit: accepted as f64 / commits.max(1.0),
            commands,
        }
    }

    /// How many FCALLs there may be per edit, and the promise in words. Nothing but confirmations sends WAIT.
    pub(super) fn fcalls_per_edit_max(&self) -> (f64, &'static str) {
        if self.commands.contains_key("wait") {
            (FCALLS_PER_CONFIRMED_EDIT_MAX, "at most 2.1 FCALLs per edit that replicas confirm")
        } else {
            (FCALLS_PER_EDIT_MAX, "at most 1.1 FCALLs per edit")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(at: Instant, heard: u64, calls: &[(&str, u64)]) -> Counts {
        let commands = calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Counts { at, commands, heard }
    }

    #[test]
    fn an_edit_that_replicas_confirm_may_cost_a_call_more() {
        let now = Instant::now();
        let before = counts(now, 0, &[("wait", 3)]);
        let served = |calls: &[(&str, u64)]| Served::new(&before, &counts(now, 0, calls), 100, AtRest::default());
        assert_eq!(served(&[("fcall", 100), ("wait", 3)]).fcalls_per_edit_max().0, FCALLS_PER_EDIT_MAX);
        assert_eq!(served(&[("fcall", 200), ("wait", 9)]).fcalls_per_edit_max().0, FCALLS_PER_CONFIRMED_EDIT_MAX);
    }

    #[test]
    fn what_nodes_ask_at_rest_is_no_part_of_an_edit() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let begun = counts(start, 0, &[("publish", 100), ("fcall", 50)]);
        let rested = counts(after(2), 0, &[("publish", 106), ("fcall", 52)]);
        let edited = counts(after(12), 300, &[("publish", 236), ("fcall", 162)]);
        let served = Served::new(&rested, &edited, 200, rested.at_rest_since(&begun));
        assert_eq!((served.published, served.fcalls), (130, 110));
        assert_eq!((served.messages_per_commit, served.edits_per_commit, served.fcalls_per_edit), (3.0, 2.0, 0.5));
    }
}
