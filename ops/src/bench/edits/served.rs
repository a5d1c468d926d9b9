//! What Redis and the nodes count while edits are counted.

use std::collections::BTreeMap;

use anyhow::Result;
use futures_util::future::try_join_all;
use serde::Serialize;

use crate::bench::ground::Ground;
use crate::bench::redis::Primaries;
use crate::bench::usage::{Scraper, growth};

/// FCALLs per edit: one, and what leases and the like add. Nodes that write to one plan at the same time need more.
const FCALLS_PER_EDIT_MAX: f64 = 1.1;
/// And where edits are acknowledged when replicas have them: one more, that looks whether it is still there.
const FCALLS_PER_CONFIRMED_EDIT_MAX: f64 = FCALLS_PER_EDIT_MAX + 1.0;
/// Commands of Redis that are ours, or watch the connection: no edit causes them.
const NOT_OURS: [&str; 3] = ["ping", "info", "config|get"];

/// Looks at the counts of Redis and of the nodes when the window opens and when it closes: each time the same few
/// questions over connections that are open already, so that all counts are of the seconds in which edits are counted.
pub(super) struct Looks {
    redis: Primaries,
    nodes: Scraper,
}

/// Counts at one moment.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// What Redis has served, by command.
    commands: BTreeMap<String, u64>,
    /// Batches of changes that nodes have heard of, all together.
    heard: u64,
}

impl Looks {
    /// Connects, and looks once for nothing: the next look is as quick as the last.
    ///
    /// # Errors
    /// When Redis or a node does not answer.
    pub(super) async fn prepare(ground: &Ground) -> Result<Self> {
        let mut looks = Self { redis: Primaries::connect(&ground.state.redis).await?, nodes: Scraper::new()? };
        looks.look(ground).await?;
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
        Ok(Counts { commands, heard })
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
    pub(super) fcalls_per_edit: f64,
    pub(super) messages_per_commit: f64,
    /// Everything, also what functions call, by command.
    pub(super) commands: BTreeMap<String, u64>,
}

impl Served {
    /// What was served between two looks, while so many edits were accepted.
    pub(super) fn new(before: &Counts, after: &Counts, accepted: u64) -> Self {
        let heard = after.heard.saturating_sub(before.heard);
        let grown = |name: &String, count: &u64| count.saturating_sub(before.commands.get(name).copied().unwrap_or(0));
        let commands = after.commands.iter().map(|(name, count)| (name.clone(), grown(name, count)));
        let is_for_nodes = |(name, count): &(String, u64)| *count > 0 && !NOT_OURS.contains(&name.as_str());
        let commands: BTreeMap<String, u64> = commands.filter(is_for_nodes).collect();
        let of = |name: &str| commands.get(name).copied().unwrap_or(0);
        let (fcalls, published) = (of("fcall"), of("publish") + of("spublish"));
        Self {
            fcalls,
            published,
            heard,
            fcalls_per_edit: fcalls as f64 / accepted.max(1) as f64,
            messages_per_commit: heard as f64 / published.max(1) as f64,
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

    #[test]
    fn an_edit_that_replicas_confirm_may_cost_a_call_more() {
        let served = |calls: &[(&str, u64)]| {
            let commands = calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            let before = Counts { commands: BTreeMap::from([("wait".to_owned(), 3)]), heard: 0 };
            Served::new(&before, &Counts { commands, heard: 0 }, 100)
        };
        assert_eq!(served(&[("fcall", 100), ("wait", 3)]).fcalls_per_edit_max().0, FCALLS_PER_EDIT_MAX);
        assert!((served(&[("fcall", 110)]).fcalls_per_edit - 1.1).abs() < 1e-9);
        assert_eq!(served(&[("fcall", 200), ("wait", 9)]).fcalls_per_edit_max().0, FCALLS_PER_CONFIRMED_EDIT_MAX);
    }
}
