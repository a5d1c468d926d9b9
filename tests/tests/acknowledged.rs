//! The promise of `MILLE_ACK=replicated:1`: what is acknowledged is on a replica, whatever becomes of the primary and of every
//! node; and what is not there in time is said not to be, while everyone is told of it all the same.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Failure, Project, Replica, documents as d, eventually, node_input, patience, refused, soon,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Seconds within which every node must serve again.
const BACK_SECONDS: f64 = 15.0;
/// Operations of one plan that may wait, as the contract has it.
const WAITING_MAX: usize = 2_048;
/// Operations of one socket at a time.
const PER_SOCKET: usize = 100;

async fn two_nodes() -> Result<(Cluster, Project)> {
    nodes(2, "400").await
}

async fn nodes(count: usize, timeout_ms: &str) -> Result<(Cluster, Project)> {
    let cluster = Cluster::of(count)
        .replicated()
        .with("MILLE_ACK", "replicated:1")
        .with("MILLE_ACK_TIMEOUT_MS", timeout_ms)
        // A user's and a socket's own limits are not what this is about.
        .with("MILLE_USER_OPERATIONS_PER_SECOND", "100000")
        .with("MILLE_USER_OPERATIONS_BURST", "100000")
        .start()
        .await?;
    let project = cluster.user(0, "ada").create_project("harbour").await?;
    Ok((cluster, project))
}

fn adding(project: &Project, name: &str) -> Value {
    json!({"p": project.id, "op": format!("add-{name}"), "node": node_input(Some(name), "GraphNode", name)})
}

/// As clients do: what is not acknowledged is sent again. A replica that has just come is slow to say what it has.
async fn add(client: &Client, project: &Project, name: &str) -> Result<Value> {
    let sent = async || Ok(client.ask(d::ADD_NODE, "addPlanDagNode", adding(project, name)).await?);
    eventually(patience(BACK_SECONDS), sent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_replica_has_in_time_is_told_and_is_not_acknowledged_until_one_has_it() -> Result<()> {
    let (mut cluster, project) = two_nodes().await?;
    let ada = cluster.user(0, "ada");
    let socket = cluster.user(1, "ada").socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    let mut replica = Replica::new();
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;

    add(&ada, &project, "pier").await?;
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    cluster.cut_replica_off().await?;
    for _ in 0..2 {
        // The second time it is a repeat, and no surer.
        let refusal = refused(ada.ask(d::ADD_NODE, "addPlanDagNode", adding(&project, "crane")).await)?;
        ensure!(refusal.code == "UNAVAILABLE" && refusal.extensions["retryable"] == true, "{refusal:?}");
    }
    // What changes nothing rests on what is there, which may be lost yet.
    let as_it_is = json!({"p": project.id, "op": "again", "id": "crane", "updates": {"metadata": {"label": "crane"}}});
    let refusal = refused(ada.ask(d::UPDATE_NODE, "updatePlanDagNode", as_it_is.clone()).await)?;
    ensure!(refusal.code == "UNAVAILABLE" && refusal.extensions["retryable"] == true, "{refusal:?}");
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    ensure!(replica.snapshots() == 1, "a listener on another node hears of it as of any other");

    cluster.replica()?.join_again()?;
    add(&ada, &project, "crane").await?;
    ada.ask(d::UPDATE_NODE, "updatePlanDagNode", as_it_is).await?;
    ensure!(ada.revision(&project).await?.seq == replica.revision().context("a revision")?.seq, "it happened once");
    add(&cluster.user(1, "ada"), &project, "buoy").await?;
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    cluster.must_live()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_the_primary_and_every_node() -> Result<()> {
    let (mut cluster, project) = two_nodes().await?;
    let ada = cluster.user(0, "ada");
    for number in 0..20 {
        add(&ada, &project, &format!("n{number}")).await?;
    }
    // Not by the kit's own waiting: what was acknowledged must be there already.
    cluster.replica()?.cut_off()?;
    let refusal = refused(ada.ask(d::ADD_NODE, "addPlanDagNode", adding(&project, "late")).await)?;
    ensure!(refusal.code == "UNAVAILABLE", "{refusal:?}");
    for node in 0..2 {
        cluster.kill_9(node)?;
    }
    cluster.fail_over().await?;
    // Nobody follows the new one, so nothing could be acknowledged; that is not what is looked at.
    for node in 0..2 {
        cluster.lead_to_redis(node)?;
        cluster.restart(node).await?;
    }
    let ada = cluster.user(1, "ada");
    let plan = eventually(patience(BACK_SECONDS), async || Ok(ada.plan(&project).await?)).await?;
    let nodes = plan["nodes"].as_array().context("a plan has nodes")?;
    for number in 0..20 {
        let name = format!("n{number}");
        ensure!(nodes.iter().any(|node| node["id"] == name.as_str()), "{name} was acknowledged and is gone: {plan}");
    }
    let refusal =
        eventually(soon(), async || refused(ada.ask(d::ADD_NODE, "addPlanDagNode", adding(&project, "late")).await))
            .await?;
    ensure!(refusal.code == "UNAVAILABLE", "{refusal:?}");
    cluster.must_live()
}

/// Longer than what the store's connections are given up for, and shorter than replicas may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_its_time_delays_an_acknowledgement_and_costs_no_connection() -> Result<()> {
    let (mut cluster, project) = nodes(1, "5000").await?;
    let ada = cluster.user(0, "ada");
    add(&ada, &project, "pier").await?;
    let before = cluster.redis()?.connections("resp=3").await?;
    cluster.replica()?.pause()?;
    let edit = tokio::spawn({
        let (ada, sent) = (ada.clone(), adding(&project, "crane"));
        async move { ada.ask(d::ADD_NODE, "addPlanDagNode", sent).await }
    });
    let mut edit = std::pin::pin!(edit);
    let early = timeout(Duration::from_millis(1_800), edit.as_mut()).await;
    ensure!(early.is_err(), "acknowledged while the replica sleeps: {early:?}");
    cluster.replica()?.resume()?;
    edit.await??;
    let after = cluster.redis()?.connections("resp=3").await?;
    ensure!(before == after, "connections were made anew: {before:?}, then {after:?}");
    ensure!(!before.is_empty(), "nobody is connected");
    cluster.must_live()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_replicas_is_bounded_and_beyond_it_a_node_says_so_at_once() -> Result<()> {
    let (mut cluster, project) = nodes(1, "9000").await?;
    let ada = cluster.user(0, "ada");
    add(&ada, &project, "pier").await?;
    cluster.cut_replica_off().await?;
    let beyond = 52;
    let mut edits = JoinSet::new();
    for first in (0..WAITING_MAX + beyond).step_by(PER_SOCKET) {
        let socket = Arc::new(ada.socket().await?);
        for number in first..first + PER_SOCKET {
            let socket = Arc::clone(&socket);
            let to = json!({"x": number, "y": 1});
            let sent = json!({"p": project.id, "op": format!("move-{number}"), "id": "pier", "to": to});
            edits.spawn(async move { socket.run_one(d::MOVE_NODE, sent).await });
        }
    }
    for _ in 0..beyond {
        match edits.join_next().await.context("an edit")?? {
            Err(Failure::Refused(refusal)) if refusal.code == "OVERLOADED" => {
                ensure!(refusal.extensions["retryable"] == true, "{refusal:?}");
            }
            other => bail!("OVERLOADED was due, since {WAITING_MAX} wait: {other:?}"),
        }
    }
    cluster.replica()?.join_again()?;
    let mut acknowledged = 0;
    while let Some(edit) = edits.join_next().await {
        edit?.context("there was room for it")?;
        acknowledged += 1;
    }
    ensure!(acknowledged == WAITING_MAX, "{acknowledged} were acknowledged");
    // And there is room again.
    add(&ada, &project, "crane").await?;
    cluster.must_live()
}
