//! What Redis and the nodes count while edits are counted.
//!
//! Nodes ask Redis for something at rest, too: each sends itself a message about once per second. That is counted before
//! anybody edits, and taken off, so that few edits do not seem to cause it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::sleep;

use crate::bench::cluster::ground::Ground;
use crate::bench::cluster::redis::Primaries;
use crate::bench::cluster::redis_calls::Count;
use crate::bench::cluster::usage::{Scraper, total};

/// FCALLs per edit: one, and what leases and the like add. Nodes that write to one plan at the same time need more.
const FCALLS_PER_EDIT_MAX: f64 = 1.1;
/// And where edits are acknowledged when replicas have them: one more, that looks whether it is still there.
const FCALLS_PER_CONFIRMED_EDIT_MAX: f64 = FCALLS_PER_EDIT_MAX + 1.0;
/// How long nobody edits while it is counted what nodes ask at rest.
const REST: Duration = Duration::from_secs(2);
/// Calls of functions that may write: commits, tries that met a log that had moved, leases, looks before a WAIT.
const FCALLS: [&str; 1] = ["fcall"];
/// Messages to channels: one for each commit, and the nodes' to themselves.
const MESSAGES: [&str; 2] = ["publish", "spublish"];

/// Looks at the counts of Redis and of the nodes when the window opens and when it closes: each time the same few
/// questions over connections that are open already, so that all counts are of the seconds in which edits are counted.
pub(super) struct Looks {
    redis: Primaries,
    nodes: Scraper,
    /// Calls per second while nobody edited, by command.
    at_rest: BTreeMap<String, f64>,
}

/// Counts at one moment.
#[derive(Debug)]
pub(super) struct Counts {
    redis: Count,
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
        let mut looks = Self { redis, nodes: Scraper::new()?, at_rest: BTreeMap::new() };
        let before = looks.look(ground).await?;
        sleep(REST).await;
        looks.at_rest = looks.look(ground).await?.redis.since(&before.redis).per_second();
        Ok(looks)
    }

    /// Counts now.
    ///
    /// # Errors
    /// When Redis or a node does not answer.
    pub(super) async fn look(&mut self, ground: &Ground) -> Result<Counts> {
        let nodes = ground.state.nodes.iter().map(|node| self.nodes.counters(node));
        let (redis, nodes) = tokio::try_join!(Count::over(&mut self.redis), try_join_all(nodes))?;
        let heard = nodes.iter().map(|node| total(node, "bridge_lag_seconds_count")).sum();
        Ok(Counts { redis, heard })
    }

    /// What was served between two looks, while so many edits were accepted.
    pub(super) fn served(&self, before: &Counts, after: &Counts, accepted: u64) -> Served {
        Served::new(before, after, accepted, self.at_rest.clone())
    }
}

/// What Redis served in the window.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Served {
    pub(super) fcalls: u64,
    pub(super) published: u64,
    /// Commits that nodes heard of, all nodes together.
    pub(super) heard: u64,
    /// Calls per second while nobody edited, by command.
    pub(super) at_rest: BTreeMap<String, f64>,
    /// These without what is asked at rest in as long a time.
    pub(super) fcalls_per_edit: f64,
    pub(super) messages_per_commit: f64,
    pub(super) edits_per_commit: f64,
    /// Everything, also what functions call, by command.
    pub(super) commands: BTreeMap<String, u64>,
}

impl Served {
    fn new(before: &Counts, after: &Counts, accepted: u64, at_rest: BTreeMap<String, f64>) -> Self {
        let heard = after.heard.saturating_sub(before.heard);
        let calls = after.redis.since(&before.redis);
        let commits = calls.beyond(&MESSAGES, &at_rest);
        Self {
            fcalls: calls.of(&FCALLS),
            published: calls.of(&MESSAGES),
            heard,
            fcalls_per_edit: calls.beyond(&FCALLS, &at_rest) / accepted.max(1) as f64,
            messages_per_commit: heard as f64 / commits.max(1.0),
            edits_per_commit: accepted as f64 / commits.max(1.0),
            commands: calls.by_command(),
            at_rest,
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
    use tokio::time::Instant;

    use super::*;

    fn counts(at: Instant, heard: u64, calls: &[(&str, u64)]) -> Counts {
        let commands = calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Counts { redis: Count::of(commands, at), heard }
    }

    #[test]
    fn an_edit_that_replicas_confirm_may_cost_a_call_more() {
        let now = Instant::now();
        let before = counts(now, 0, &[("wait", 3)]);
        let served = |calls: &[(&str, u64)]| Served::new(&before, &counts(now, 0, calls), 100, BTreeMap::new());
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
        let at_rest = rested.redis.since(&begun.redis).per_second();
        let served = Served::new(&rested, &edited, 200, at_rest);
        assert_eq!((served.published, served.fcalls), (130, 110));
        assert_eq!((served.messages_per_commit, served.edits_per_commit, served.fcalls_per_edit), (3.0, 2.0, 0.5));
    }
}
