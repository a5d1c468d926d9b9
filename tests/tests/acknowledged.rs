//! The promise of `MILLE_ACK=replicated:1`: what is acknowledged is on a replica, whatever becomes of the primary and of every
//! node; and what is not there in time is said not to be, while everyone is told of it all the same.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Client, Cluster, Project, Replica, documents as d, eventually, node_input, patience, refused, soon};
use serde_json::{Value, json};

/// Seconds within which every node must serve again.
const BACK_SECONDS: f64 = 15.0;

async fn two_nodes() -> Result<(Cluster, Project)> {
    let cluster = Cluster::of(2).replicated().with("MILLE_ACK", "replicated:1").with("MILLE_ACK_TIMEOUT_MS", "400");
    let cluster = cluster.start().await?;
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
