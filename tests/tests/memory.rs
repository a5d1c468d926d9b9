//! The promise: what was done is remembered. Who reads late reads all of it, and who asks again is told what came of it
//! the first time.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Client, Cluster, Project, RawSocket, Replica, Revision, Subscription, Token, documents as d, eventually, patience,
    same_value,
};
use serde_json::{Value, json};

/// Writers who work at the same time, each on a plan node of their own.
const WRITERS: usize = 4;
/// Edits of each: together more bytes than sockets hold on their way.
const EDITS_EACH: usize = 250;
/// Bytes that each of them writes.
const CONFIG_BYTES: usize = 40_000;
/// Seconds for a reader to take all of it.
const READ_SECONDS: f64 = 60.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_for_a_while_keeps_the_socket_delays_nobody_and_reads_all_of_it_later() -> Result<()> {
    let mut cluster = Cluster::of(2).with("MILLE_SNAPSHOT_EVERY_CHANGES", "200").start().await?;
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "VIEWER").await?;
    for writer in 0..WRITERS {
        ada.add_node_as(&project, &name_of(writer), "GraphNode").await?;
    }
    let quick_socket = bob.socket().await?;
    let mut quick = quick_socket.follow(&project, None).await?;
    let mut slow = Unread::follow(&cluster, &project).await?;
    let slow_replica = slow.read_until(Replica::new(), ada.revision(&project).await?).await?;

    let writers = (0..WRITERS).map(|writer| write(ada.clone(), project, writer));
    let written = futures_util::future::try_join_all(writers);
    let end = Revision { seq: (WRITERS + WRITERS * EDITS_EACH) as u64, ..ada.revision(&project).await? };
    // The quick one reads all the while, behind the same node as the slow one.
    let (written, quick_replica) = tokio::join!(written, read_until(&mut quick, Replica::new(), end));
    written?;
    let quick_replica = quick_replica.context("the quick reader")?;

    let metrics = cluster.metrics(1).await?;
    let behind = metrics.lines().find_map(|line| line.strip_prefix("graphql_subscription_lag_total "));
    let behind: f64 = behind.context("the metric")?.parse()?;
    ensure!(behind > 0.0, "nobody fell behind: this run shows little");

    let slow_replica = slow.read_until(slow_replica, end).await.context("the slow reader")?;
    ensure!(slow_replica.snapshots() == 1, "the log reaches back: every change is told");
    ensure!(slow_replica.seen().len() == quick_replica.seen().len(), "both saw as many changes");
    ensure!(same_value(slow_replica.document(), quick_replica.document()), "and hold the same document");

    // Who was behind is told with the others again: everything, and once.
    for x in 0..20 {
        ada.move_node(&project, &name_of(0), f64::from(x), 1.0).await?;
    }
    let end = ada.revision(&project).await?;
    slow.read_until(slow_replica, end).await.context("the slow reader, later")?;
    read_until(&mut quick, quick_replica, end).await.context("the quick reader, later")?;
    cluster.must_live()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_is_known_on_any_node_after_restarts_snapshots_and_trims() -> Result<()> {
    let mut cluster = Cluster::of(2)
        .single()
        .persistent()
        .with("MILLE_SNAPSHOT_EVERY_CHANGES", "10")
        .with("MILLE_LOG_RETENTION_CHANGES", "60")
        .with("MILLE_LOG_RETENTION_SECONDS", "0")
        .with("MILLE_LOG_CHANGES_MAX", "60")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.add_node_as(&project, "pier", "GraphNode").await?;
    // So many that the beginning of the log is trimmed away when the operation is done, and more behind it.
    for x in 0..100 {
        ada.move_node(&project, "pier", f64::from(x), 1.0).await?;
    }
    let first = rename(&ada, &project).await?;
    for x in 0..50 {
        ada.move_node(&project, "pier", f64::from(x), 2.0).await?;
    }
    let before = ada.revision(&project).await?;
    let log = format!("mille:{{plan:{}}}:log", project.plan);
    let oldest = cluster.redis()?.entries(&log).await?.first().context("a log")?.id.clone();
    ensure!(!oldest.ends_with("-0"), "the log was never trimmed: {oldest}");

    for node in 0..2 {
        cluster.kill_9(node)?;
    }
    cluster.redis()?.restart().await?;
    for node in 0..2 {
        cluster.restart(node).await?;
        let again = eventually(patience(20.0), async || rename(&cluster.user(node, "ada"), &project).await).await?;
        ensure!(again == first, "node {node} answers a repeat with {again}, not {first}");
    }
    let after = cluster.user(1, "ada").revision(&project).await?;
    ensure!(after == before, "a repeat made a revision: {before} to {after}");
    Ok(())
}

/// One operation, always the same; answered with the revision it has.
async fn rename(client: &Client, project: &Project) -> Result<String> {
    let change = json!({"moveNode": {"nodeId": "pier", "position": {"x": 7.0, "y": 7.0}}});
    let variables = json!({"p": project.id, "op": "once", "changes": [change]});
    let result: Value = client.ask(d::APPLY, "applyPlanDagChanges", variables).await?;
    Ok(result["revision"].as_str().context("a revision")?.to_owned())
}

async fn write(client: Client, project: Project, writer: usize) -> Result<()> {
    let filler = "x".repeat(CONFIG_BYTES);
    for edit in 0..EDITS_EACH {
        let updates = json!({"config": format!("{{\"n\":{edit},\"filler\":\"{filler}\"}}")});
        let variables = json!({"p": project.id, "id": name_of(writer), "updates": updates});
        client.ask(d::UPDATE_NODE, "updatePlanDagNode", variables).await?;
    }
    Ok(())
}

/// A subscription on a socket that nobody reads unless asked to.
struct Unread {
    socket: RawSocket,
}

impl Unread {
    async fn follow(cluster: &Cluster, project: &Project) -> Result<Self> {
        let mut socket =
            RawSocket::open(&format!("{}/graphql/ws", cluster.ws_url(1)), &["graphql-transport-ws"]).await?;
        let token = Token::of("bob").sign();
        let init = json!({"type": "connection_init", "payload": {"Authorization": format!("Bearer {token}")}});
        socket.text(init.to_string()).await?;
        let variables = json!({"p": project.id, "plan": project.plan, "after": null, "snapshot": true});
        let payload = json!({"query": d::FOLLOW, "variables": variables});
        let mut this = Self { socket };
        ensure!(this.message().await?["type"] == "connection_ack", "no connection_ack");
        this.socket.text(json!({"type": "subscribe", "id": "1", "payload": payload}).to_string()).await?;
        Ok(this)
    }

    /// The next message that is no ping.
    async fn message(&mut self) -> Result<Value> {
        loop {
            let message: Value = serde_json::from_str(&self.socket.next_text().await?)?;
            if message["type"] != "ping" {
                return Ok(message);
            }
            self.socket.text(r#"{"type":"pong"}"#).await?;
        }
    }

    async fn read_until(&mut self, mut replica: Replica, end: Revision) -> Result<Replica> {
        let reading = async {
            while replica.revision() != Some(end) {
                let message = self.message().await?;
                ensure!(message["type"] == "next", "the stream ends: {message}");
                replica.apply(&message["payload"]["data"]["planDagDeltaChanged"])?;
            }
            Ok(replica)
        };
        tokio::time::timeout(patience(READ_SECONDS), reading).await.context("it takes too long")?
    }
}

async fn read_until(deltas: &mut Subscription, mut replica: Replica, end: Revision) -> Result<Replica> {
    let reading = async {
        while replica.revision() != Some(end) {
            replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
        }
        Ok(replica)
    };
    tokio::time::timeout(patience(READ_SECONDS), reading).await.context("it takes too long")?
}

fn name_of(writer: usize) -> String {
    format!("plan-node-{writer}")
}
