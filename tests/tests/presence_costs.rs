//! The promise: presence asks little of Redis. A connect is a few commands however many are there; cursor moves are none
//! while everyone is at one node, and a message per interval when somebody is elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use mille_tests::{Cluster, PresenceSocket, Project, Redis, eventually, same_value, soon};
use serde_json::json;
use tokio::time::Instant;

/// Commands that a connect may cost, those within scripts included.
const COMMANDS_PER_CONNECT_MAX: f64 = 12.0;
/// What the nodes' own renewals, which come in bursts, may seem to add.
const COMMANDS_UNCLEAR: f64 = 2.0;
/// How often a node tells cursors at most, in a small room.
const CURSOR_INTERVAL: Duration = Duration::from_millis(50);
/// Messages of the nodes' own that mark an idle while: digests and probes.
const IDLE_MESSAGES: u64 = 24;
const MOVES: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_costs_a_few_commands_of_redis_however_many_are_there() -> Result<()> {
    let mut cluster = Cluster::of(2).single().start().await?;
    let project = project_of(&cluster, 60).await?;
    let _owners =
        (cluster.user(0, "olga").presence(&project).await?, cluster.user(1, "olga").presence(&project).await?);
    let idle = Idle::measure(cluster.redis()?).await?;
    let mut sockets = Vec::new();
    let mut costs = Vec::new();
    for count in [20, 40] {
        let before = Calls::of(cluster.redis()?).await?;
        for person in sockets.len()..sockets.len() + count {
            sockets.push(cluster.user(person % 2, &name_of(person)).presence(&project).await?);
        }
        // Every one is told to the other node and kept in the store.
        let redis = cluster.redis()?;
        let after = eventually(soon(), async || {
            let now = Calls::of(redis).await?;
            let (told, kept) = (now.since(&before, "publish"), now.since(&before, "fcall"));
            ensure!(told.min(kept) >= count as u64, "{told} told and {kept} kept of {count}");
            Ok(now)
        })
        .await?;
        let own = (after.total() - before.total()) as f64 - idle.commands(after.at - before.at);
        costs.push(own / count as f64);
    }
    ensure!(costs.iter().all(|cost| *cost <= COMMANDS_PER_CONNECT_MAX), "commands per connect: {costs:?}");
    ensure!((costs[0] - costs[1]).abs() < COMMANDS_UNCLEAR, "a connect costs more in a larger room: {costs:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_cost_no_command_while_everyone_is_at_one_node() -> Result<()> {
    let mut cluster = Cluster::of(2).single().start().await?;
    let project = project_of(&cluster, 2).await?;
    let (mut ada, mut bob) = (in_plan(&cluster, 0, &project, 0).await?, in_plan(&cluster, 0, &project, 1).await?);
    let idle = Idle::measure(cluster.redis()?).await?;
    let before = Calls::of(cluster.redis()?).await?;
    let mut frames = 0;
    for step in 1..=MOVES {
        let x = step as f64;
        ada.move_cursor("plan", x, 0.0).await?;
        // Now and then somebody sees it, so that the moves fill many intervals.
        if step % 10 == 0 {
            bob.next_where("cursor_update", soon(), |data| same_value(&data["cursors"][0]["position"]["x"], &json!(x)))
                .await?;
            frames += 1;
        }
    }
    let after = Calls::of(cluster.redis()?).await?;
    let own = (after.total() - before.total()) as f64 - idle.commands(after.at - before.at);
    ensure!(own < f64::from(frames) / 4.0, "{own} commands for {MOVES} moves in {frames} frames: {after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_seen_at_another_node_cost_a_message_per_interval_and_not_per_move() -> Result<()> {
    let mut cluster = Cluster::of(2).single().start().await?;
    let project = project_of(&cluster, 6).await?;
    let mut people = Vec::new();
    for person in 0..6 {
        people.push(in_plan(&cluster, person % 2, &project, person).await?);
    }
    let idle = Idle::measure(cluster.redis()?).await?;
    let before = Calls::of(cluster.redis()?).await?;
    // Each sees the last place of all before the next thousand begins.
    for round in 0..3 {
        let last = f64::from(round * 10_000 + 9_999);
        for step in 0..MOVES {
            for (person, socket) in people.iter_mut().enumerate() {
                let x = if step + 1 == MOVES { last } else { (round * 10_000) as f64 + step as f64 };
                socket.move_cursor("plan", x, person as f64).await?;
            }
        }
        for socket in &mut people {
            sees_everyone_at(socket, last, 6).await?;
        }
    }
    let after = Calls::of(cluster.redis()?).await?;
    let took = after.at - before.at;
    let intervals = took.as_secs_f64() / CURSOR_INTERVAL.as_secs_f64();
    let messages = after.since(&before, "publish") as f64 - idle.messages(took);
    let moves = 3 * 6 * MOVES;
    ensure!(messages >= 6.0, "{messages} messages: this run shows little");
    ensure!(messages <= 2.0 * (intervals + 2.0), "{messages} messages of two nodes in {intervals} intervals");
    ensure!(messages < moves as f64 / 10.0, "{messages} messages for {moves} moves: this run shows little");
    // Nothing else: no place is written down for a move. Renewals come in bursts, as many of which may fall into this while as
    // fell into any as long.
    let (others, usual) = (after.others(&before), idle.others_at_most(took));
    let own = others.saturating_sub(usual) as f64;
    ensure!(own < intervals / 8.0, "{others} commands beside the messages in {intervals} intervals, {usual} at rest");
    Ok(())
}

/// What Redis has executed so far.
#[derive(Debug)]
struct Calls {
    at: Instant,
    counts: BTreeMap<String, u64>,
}

impl Calls {
    async fn of(redis: &Redis) -> Result<Self> {
        Ok(Self { counts: redis.all_calls().await?, at: Instant::now() })
    }

    fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    fn count(&self, command: &str) -> u64 {
        self.counts.get(command).copied().unwrap_or(0)
    }

    /// All but messages.
    fn others(&self, before: &Self) -> u64 {
        self.total() - before.total() - self.since(before, "publish")
    }

    fn since(&self, before: &Self, command: &str) -> u64 {
        self.count(command) - before.count(command)
    }
}

/// What the nodes ask of Redis while nobody does anything, look by look.
struct Idle(Vec<Calls>);

impl Idle {
    /// The nodes' own messages are the clock: so many of them are a while.
    async fn measure(redis: &Redis) -> Result<Self> {
        let mut looks = vec![Calls::of(redis).await?];
        eventually(soon(), async || {
            let now = Calls::of(redis).await?;
            let messages = now.since(&looks[0], "publish");
            looks.push(now);
            ensure!(messages >= IDLE_MESSAGES, "only {messages} messages");
            Ok(())
        })
        .await?;
        Ok(Self(looks))
    }

    fn commands(&self, during: Duration) -> f64 {
        self.usually(during, |first, last| last.total() - first.total())
    }

    fn messages(&self, during: Duration) -> f64 {
        self.usually(during, |first, last| last.since(first, "publish"))
    }

    fn usually(&self, during: Duration, count: impl Fn(&Calls, &Calls) -> u64) -> f64 {
        let (first, last) = (&self.0[0], &self.0[self.0.len() - 1]);
        count(first, last) as f64 * during.as_secs_f64() / (last.at - first.at).as_secs_f64()
    }

    /// Commands beside messages in any while of this length, at most.
    fn others_at_most(&self, during: Duration) -> u64 {
        let from =
            |first: &Calls| self.0.iter().find(|last| last.at >= first.at + during).map(|last| last.others(first));
        self.0.iter().filter_map(from).max().unwrap_or_default()
    }
}

async fn project_of(cluster: &Cluster, people: usize) -> Result<Project> {
    let olga = cluster.user(0, "olga");
    let project = olga.create_project("harbour").await?;
    for person in 0..people {
        olga.share(&project, &name_of(person), "VIEWER").await?;
    }
    Ok(project)
}

async fn in_plan(cluster: &Cluster, node: usize, project: &Project, person: usize) -> Result<PresenceSocket> {
    let mut socket = cluster.user(node, &name_of(person)).presence(project).await?;
    socket.switch_document("plan", "canvas").await?;
    socket.next("document_activity").await?;
    Ok(socket)
}

async fn sees_everyone_at(socket: &mut PresenceSocket, x: f64, people: usize) -> Result<()> {
    let mut there = BTreeSet::new();
    while there.len() < people {
        let update = socket.next("cursor_update").await?;
        for cursor in update["cursors"].as_array().context("cursors")? {
            if same_value(&cursor["position"]["x"], &json!(x)) {
                there.insert(cursor["userId"].to_string());
            }
        }
    }
    Ok(())
}

fn name_of(person: usize) -> String {
    format!("person-{person}")
}
