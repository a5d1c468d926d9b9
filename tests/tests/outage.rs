//! The promise: while Redis is away, a node goes on with what it knows. Edits are refused at once and may be repeated;
//! whoever reads, listens or is present notices nothing. A node that starts meanwhile waits for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use mille_tests::{
    Client, Cluster, Process, Redis, Replica, Revision, SECRET, Token, clean_command, documents as d, eventually,
    free_port, last_words, node_binary, node_input, patience, refused, same_value, soon,
};
use serde_json::json;
use tokio::time::Instant;

/// Seconds within which every node must take edits again, once Redis is back.
const BACK_SECONDS: f64 = 10.0;
/// Longer than a command of Redis may take.
const REFUSED_WITHIN: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_people_read_listen_and_are_present_and_edits_are_refused_at_once() -> Result<()> {
    let mut cluster = Cluster::of(2).single().persistent().start().await?;
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(0, "bob"));
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    ada.add_node_as(&project, "pier", "GraphNode").await?;
    let socket = bob.socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    let mut replica = Replica::new();
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    let (mut adas, mut bobs) = (ada.presence(&project).await?, bob.presence(&project).await?);
    for socket in [&mut adas, &mut bobs] {
        socket.switch_document("plan", "canvas").await?;
    }
    let before = ada.plan(&project).await?;

    let operator = cluster.bearer(0, "ada", Token::of("ada").scope("admin").sign());
    eventually(soon(), async || {
        let seen = operator.ask(d::CLUSTER, "cluster", json!({})).await?;
        ensure!(seen["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2), "{seen}");
        Ok(())
    })
    .await?;
    cluster.redis()?.kill_9()?;
    let variables = json!({"p": project.id, "op": "once", "node": node_input(Some("crane"), "GraphNode", "crane")});
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let asked = Instant::now();
        let refusal = refused(ada.ask(d::ADD_NODE, "addPlanDagNode", variables.clone()).await)?;
        slowest = slowest.max(asked.elapsed());
        ensure!(refusal.code == "UNAVAILABLE", "{refusal:?}");
        ensure!(refusal.extensions["retryable"] == true, "{refusal:?}");
        ensure!(refusal.extensions["retryAfterMs"].is_number(), "{refusal:?}");
    }
    ensure!(slowest < REFUSED_WITHIN, "refused after {slowest:?}");
    let read = ada.plan(&project).await?;
    ensure!(same_value(&read, &before), "{read}\nis not\n{before}");
    let seen = operator.ask(d::CLUSTER, "cluster", json!({})).await?;
    let nodes = seen["nodes"].as_array().map(Vec::len);
    ensure!(nodes == Some(2) && seen["redis"]["connected"] == false, "who steers the cluster sees it: {seen}");
    adas.move_cursor("plan", 7.0, 8.0).await?;
    bobs.next_where("cursor_update", soon(), |data| same_value(&data["cursors"][0]["position"]["x"], &json!(7)))
        .await?;
    adas.send("update_status", json!({"status": "away"})).await?;
    bobs.next_where("user_presence", soon(), |presence| presence["status"] == "away").await?;
    // A newcomer is let in, and listens.
    let newcomers = ada.socket().await?;
    let first = newcomers.follow(&project, None).await?.value("planDagDeltaChanged").await?;
    ensure!(first["kind"] == "SNAPSHOT" && first["revision"] == before["revision"], "{first}");
    ensure!(bob.get("/readyz").await?.status == 200, "a node is ready for longer than a blip of Redis");
    ensure!(socket.is_open(), "a listener keeps the socket");

    cluster.redis()?.restart().await?;
    for node in 0..2 {
        let there = cluster.user(node, "ada");
        let repeated = async || there.ask(d::ADD_NODE, "addPlanDagNode", variables.clone()).await;
        eventually(patience(BACK_SECONDS), async || Ok(repeated().await?)).await?;
    }
    let end = ada.revision(&project).await?;
    ensure!(end.seq == Revision::of(&before["revision"])?.seq + 1, "the edit that was repeated happened once: {end}");
    ensure!(end.epoch == Revision::of(&before["revision"])?.epoch, "nothing was lost: the epoch goes on");
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    ensure!(replica.revision() == Some(end) && replica.snapshots() == 1, "the listener hears of it as if nothing were");
    cluster.must_live()
}

/// A node that waits for this Redis, which does not run.
async fn waiting_for(redis: &Redis, home: &Path) -> Result<(Process, String)> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let mut command = clean_command(&node_binary()?);
    command.env("JWT_SECRET", SECRET).env("REDIS_URL", redis.url());
    command.env("MILLE_LISTEN", &listen).env("MILLE_ADMIN_LISTEN", format!("127.0.0.1:{}", free_port()?));
    let mut node = Process::start("node without a redis", &mut command, &home.join(format!("{listen}.log")))?;
    eventually(soon(), async || {
        node.must_live()?;
        ensure!(node.log().matches("no redis yet").count() > 1, "it tries again and says so: {}", node.log());
        Ok(())
    })
    .await?;
    Ok((node, format!("http://{listen}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_sooner_than_its_redis_waits_for_it_and_can_be_stopped_meanwhile() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut redis = Redis::start().await?;
    redis.kill_9()?;
    let (mut stopped, _) = waiting_for(&redis, home.path()).await?;
    let exit = stopped.stop(soon()).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", stopped.log());

    let (mut node, base) = waiting_for(&redis, home.path()).await?;
    let client = Client::new(&base);
    let (alive, ready) = (client.get("/livez").await?, client.get("/readyz?verbose").await?);
    ensure!(alive.status == 200 && ready.status == 503, "{alive:?} {ready:?}");
    ensure!(ready.body["checks"][0]["name"] == "started", "{ready:?}");
    let refused = client.post(&json!({"query": "{ me { id } }"})).await?;
    ensure!(refused.status == 503 && refused.body["errors"][0]["extensions"]["code"] == "UNAVAILABLE", "{refused:?}");
    redis.restart().await?;
    eventually(patience(20.0), async || {
        node.must_live()?;
        ensure!(client.get("/readyz").await?.status == 200, "not ready: {}", node.log());
        Ok(())
    })
    .await?;
    let exit = node.stop(patience(20.0)).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", node.log());

    redis.kill_9()?;
    let (code, said) = last_words(&[("REDIS_URL", redis.url())]).await?;
    ensure!(code == Some(1) && said.contains("can't be reached"), "who is not to wait ends with {code:?}: {said}");
    Ok(())
}
