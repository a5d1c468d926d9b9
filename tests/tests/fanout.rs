//! The promise: who asks the same as others is told together with them, and sees just what they would see alone.
//!
//! Subscribers come and go at any place of a plan's history while it is edited: over sockets and event streams, with several
//! subscriptions on one socket, from an old revision or from a SNAPSHOT. Each sees every revision from its beginning on, once,
//! in order, as the log tells it. And once they have all come, an edit is executed once per node for all of them.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Cluster, EventStream, Project, Revision, Socket, Subscription, documents as d, node_input, seed};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const NODES: usize = 2;
const EDITS: usize = 150;
const SUBSCRIBERS_MAX: usize = 40;
/// Edits when nobody comes or goes any more.
const LAST_EDITS: usize = 20;
/// A plan that is as large as one may be, and those who open it at once.
const PLAN_NODES: usize = 1_000;
const OPENERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_the_same_sees_what_they_would_see_alone() -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed());
    let cluster = Cluster::of(NODES).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.add_node_as(&project, "n", "DataSourceNode").await?;
    let beginning = ada.revision(&project).await?;

    let mut seers: Vec<Seer> = Vec::new();
    for edit in 0..EDITS {
        cluster.user(edit % NODES, "ada").move_node(&project, "n", edit as f64, 0.5).await?;
        match random.random_range(0..10) {
            0..=3 if seers.len() < SUBSCRIBERS_MAX => {
                let after = match random.random_range(0..3) {
                    0 => None,
                    1 => Some(beginning),
                    _ => Some(ada.revision(&project).await?),
                };
                let client = cluster.user(random.random_range(0..NODES), "ada");
                let seer = match random.random_range(0..3) {
                    0 => Seer::stream(client.stream(d::FOLLOW, variables(&project, after)).await?, after),
                    1 => Seer::on(client.socket().await?, &project, after).await?,
                    _ => match seers.iter_mut().find_map(Seer::socket) {
                        Some(socket) => Seer::beside(socket, &project, after).await?,
                        None => Seer::on(client.socket().await?, &project, after).await?,
                    },
                };
                seers.push(seer);
            }
            4 if !seers.is_empty() => {
                // To leave is to close the socket, with all that is on it, or to stop one of several subscriptions.
                let gone = seers.swap_remove(random.random_range(0..seers.len()));
                if let Some(socket) = gone.socket {
                    seers.retain(|seer| !seer.is_on(&socket));
                }
            }
            _ => {}
        }
    }
    ensure!(seers.len() > 5, "{} subscribers: this run shows little", seers.len());
    let head = ada.revision(&project).await?;
    for seer in &mut seers {
        seer.see_up_to(head).await?;
    }

    // All are live: now each node executes an edit once for all of them.
    let before = executions(&cluster).await?;
    for edit in 0..LAST_EDITS {
        ada.move_node(&project, "n", edit as f64, 0.75).await?;
    }
    let end = ada.revision(&project).await?;
    for seer in &mut seers {
        seer.see_up_to(end).await?;
    }
    let log = ada.deltas_after(&project, &beginning.to_string()).await?;
    for seer in &seers {
        let first = seer.seen.first().context("a subscriber that saw nothing")?;
        let from = log.iter().position(|event| event == first).context("an event that the log has not")?;
        ensure!(seer.seen == log[from..], "a subscriber saw something else than the log has");
    }
    let after = executions(&cluster).await?;
    for (made, node) in after.iter().zip(&before).map(|(after, before)| after - before).zip(0..) {
        let is_once = made == LAST_EDITS as f64 || made == 0.0;
        ensure!(is_once, "node {node} executed {LAST_EDITS} edits {made} times");
    }
    ensure!(after != before, "nobody listened");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_a_stream_has_nothing_to_say_of_does_not_end_it() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let plan = |ids: [&str; 2]| {
        let nodes = ids.map(|id| node_input(Some(id), "DataSourceNode", id));
        json!({"version": "1", "metadata": {"name": "New", "description": null}, "nodes": nodes, "edges": []})
    };
    let replace = async |dag: Value| {
        let variables = json!({"p": project.id, "plan": project.plan, "dag": dag});
        ada.ask(d::REPLACE_PLAN, "updatePlanDag", variables).await
    };
    replace(plan(["a", "b"])).await?;
    let beginning = ada.revision(&project).await?;
    let after = json!({"plan": project.plan.to_string(), "after": beginning.to_string()});
    let mut live = ada.stream(d::UPDATED, after.clone()).await?;
    let socket = ada.socket().await?;
    let mut on_socket = socket.start(d::UPDATED, after.clone()).await?;

    // The same plan nodes in another order: a change, in which nothing happened to any of them.
    replace(plan(["b", "a"])).await?;
    ensure!(ada.revision(&project).await? == beginning.next(), "the order is part of the plan");
    ada.move_node(&project, "a", 1.0, 2.0).await?;
    let mut late = ada.stream(d::UPDATED, after).await?;
    for stream in [&mut live, &mut late] {
        let (name, event) = stream.next().await?.context("the stream ended without a word")?;
        ensure!(name == "next" && event["data"]["planDagUpdated"]["updateType"] == "NODE_UPDATED", "{name}: {event}");
    }
    ensure!(on_socket.value("planDagUpdated").await?["updateType"] == "NODE_UPDATED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_plan_that_many_open_at_once_is_read_once_and_told_once() -> Result<()> {
    let mut cluster = Cluster::of(NODES).single().start().await?;
    let (ada, there) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let project = ada.create_project("harbour").await?;
    let nodes: Vec<_> = (0..PLAN_NODES).map(|i| node_input(Some(&format!("n{i}")), "MergeNode", "A berth")).collect();
    let dag = json!({"version": "1", "metadata": {"name": "Large", "description": null}, "nodes": nodes, "edges": []});
    ada.ask(d::REPLACE_PLAN, "updatePlanDag", json!({"p": project.id, "plan": project.plan, "dag": dag})).await?;
    let head = ada.revision(&project).await?;
    let sockets = futures_util::future::try_join_all((0..OPENERS).map(|_| there.socket())).await?;

    let (made, asked) = (executions(&cluster).await?, cluster.redis()?.all_calls().await?);
    let openings = sockets.into_iter().map(async |socket| {
        let mut seer = Seer::on(socket, &project, None).await?;
        seer.see_up_to(head).await?;
        Ok::<_, anyhow::Error>(seer)
    });
    let _seers = futures_util::future::try_join_all(openings).await?;
    let made = executions(&cluster).await?[1] - made[1];
    ensure!(made == 1.0, "{OPENERS} were told the same, which was made {made} times");
    let now = cluster.redis()?.all_calls().await?;
    let calls = |command: &str| now.get(command).copied().unwrap_or(0) - asked.get(command).copied().unwrap_or(0);
    let read = calls("xrange") + calls("hget") + calls("hmget");
    ensure!(read <= 4, "the plan was read by {read} commands: {now:?}, before {asked:?}");
    Ok(())
}

/// One subscription, and what it saw.
struct Seer {
    /// The socket that it opened; those beside it are on it too.
    socket: Option<std::sync::Arc<Socket>>,
    events: Events,
    at: Option<Revision>,
    seen: Vec<Value>,
}

enum Events {
    Socket(Subscription),
    Stream(EventStream),
}

impl Seer {
    fn stream(stream: EventStream, after: Option<Revision>) -> Self {
        Self { socket: None, events: Events::Stream(stream), at: after, seen: Vec::new() }
    }

    async fn on(socket: Socket, project: &Project, after: Option<Revision>) -> Result<Self> {
        Self::beside(std::sync::Arc::new(socket), project, after).await
    }

    async fn beside(socket: std::sync::Arc<Socket>, project: &Project, after: Option<Revision>) -> Result<Self> {
        let events = Events::Socket(socket.start(d::FOLLOW, variables(project, after)).await?);
        Ok(Self { socket: Some(socket), events, at: after, seen: Vec::new() })
    }

    fn socket(&mut self) -> Option<std::sync::Arc<Socket>> {
        self.socket.clone()
    }

    fn is_on(&self, socket: &std::sync::Arc<Socket>) -> bool {
        self.socket.as_ref().is_some_and(|own| std::sync::Arc::ptr_eq(own, socket))
    }

    /// Reads until it is there. What it reads follows, one by one, on what it had.
    async fn see_up_to(&mut self, head: Revision) -> Result<()> {
        while self.at != Some(head) {
            let event = self.next().await?;
            let revision = Revision::of(&event["revision"])?;
            match self.at {
                Some(at) => {
                    ensure!(event["kind"] == "DELTA", "who lacks nothing needs no SNAPSHOT: {event}");
                    ensure!(event["previousRevision"] == at.to_string(), "at {at}, and then {event}");
                    self.seen.push(event);
                }
                None => ensure!(event["kind"] == "SNAPSHOT", "it was asked for: {event}"),
            }
            self.at = Some(revision);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Value> {
        match &mut self.events {
            Events::Socket(subscription) => subscription.value("planDagDeltaChanged").await,
            Events::Stream(stream) => {
                let (name, mut data) = stream.next().await?.context("the stream is over")?;
                ensure!(name == "next" && data["errors"].is_null(), "{name}: {data}");
                Ok(data["data"]["planDagDeltaChanged"].take())
            }
        }
    }
}

fn variables(project: &Project, after: Option<Revision>) -> Value {
    let after = after.map(|revision| revision.to_string());
    json!({"p": project.id, "plan": project.plan, "after": after, "snapshot": after.is_none()})
}

async fn executions(cluster: &Cluster) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for node in 0..cluster.size() {
        let text = cluster.metrics(node).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("fan_out_executions_total "));
        all.push(line.context("no executions are told")?.trim().parse()?);
    }
    Ok(all)
}
