//! The promise: under pressure a node gives up what matters least, in order, says so, and takes it back; what it accepted it
//! carries out.
//!
//! The pressure is a Redis that answers late, over a line that the test slows down; the thresholds lie so that only that
//! counts.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Cluster, Failure, PresenceSocket, Project, Refusal, Socket, Token, documents as d, eventually, node_input,
    patience, refused, soon,
};
use serde_json::{Value, json};

/// From where on an answer of Redis asks for each level.
const REDIS_MS: &str = "60,120,180,240";
/// A delay within each level's reach: none, and the four.
const DELAYS_MS: [u64; 5] = [0, 90, 150, 210, 300];
const LEVELS: [&str; 5] = ["calm", "widen_cursors", "thin_presence", "refuse_connections", "refuse_operations"];
/// Seconds until a level is reached, or left, on a slow machine too: the promise is a third of a second up, and three
/// seconds down.
const STEP_SECONDS: f64 = 20.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_are_reached_in_order_and_left_again_and_everyone_is_told() -> Result<()> {
    let cluster = pressed().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    let (mut adas, mut bobs) = (ada.presence(&project).await?, cluster.user(0, "bob").presence(&project).await?);

    raise_to(&cluster, 1).await?;
    adas.next_where("throttle", soon(), |tick| tick["cursorIntervalMs"] == 200).await?;
    raise_to(&cluster, 2).await?;
    // Told later, and told in the end: the node notices within a second, so the first changes may still go out at once.
    eventually(soon(), async || {
        for status in ["away", "active"] {
            bobs.send("update_status", json!({"status": status})).await?;
        }
        ensure!(metric(&cluster, "shed_total{what=\"presence\"}").await? > 0.0, "nothing was told later");
        Ok(())
    })
    .await?;
    bobs.send("update_status", json!({"status": "idle"})).await?;
    adas.next_where("user_presence", soon(), |user| user["userId"] == "bob" && user["status"] == "idle").await?;
    bobs.send("leave_session", json!({})).await?;
    adas.next_where("user_presence", soon(), |user| user["userId"] == "bob" && user["isOnline"] == false).await?;
    raise_to(&cluster, 3).await?;
    raise_to(&cluster, 4).await?;

    lower(&cluster).await?;
    adas.next_where("throttle", soon(), |tick| tick["cursorIntervalMs"] == 50).await?;
    let told = changes_in(&cluster.log(0));
    ensure!(told == [1, 2, 3, 4, 3, 2, 1, 0], "the log tells of the levels {told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_are_refused_first_and_whoever_is_there_goes_on() -> Result<()> {
    let cluster = pressed().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let socket = ada.socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    deltas.value("planDagDeltaChanged").await?;
    raise_to(&cluster, 3).await?;

    let bearer = json!({"Authorization": format!("Bearer {}", Token::of("ada").sign())});
    let Err(closing) = Socket::init(&cluster.url(0), bearer).await? else { bail!("a new socket was let in") };
    ensure!((closing.code, closing.reason.as_str()) == (Some(1013), "overloaded"), "a new socket: {closing:?}");
    let mut presence = PresenceSocket::connect(&ada, project.id).await?;
    let closing = presence.closing(soon()).await?;
    ensure!((closing.code, closing.reason.as_str()) == (Some(1013), "overloaded"), "a presence socket: {closing:?}");
    let request = ada.post(&json!({"query": d::ME})).await?;
    let follow = json!({"p": project.id, "plan": project.plan, "after": null, "snapshot": true});
    let stream = ada.knock_at_stream(d::FOLLOW, follow).await?;
    for answer in [request, stream] {
        ensure!(answer.status == 503, "HTTP {}", answer.status);
        let seconds = answer.headers.get("retry-after").context("Retry-After")?.to_str()?.parse::<u64>()?;
        ensure!((1..=60).contains(&seconds), "Retry-After: {seconds}");
        let refusal = answer.refusal().context("an error body")?;
        ensure!(refusal.code == "OVERLOADED" && refusal.extensions["retryable"] == true, "{refusal:?}");
    }
    for admin in [cluster.url(0), cluster.admin_url(0)] {
        ensure!(ada.at(&admin).get("/livez").await?.status == 200, "a node under pressure lives");
        ensure!(ada.at(&admin).get("/readyz").await?.status == 503, "and wants no newcomers");
    }
    ensure!(metric(&cluster, "shed_total{what=\"socket\"}").await? == 2.0, "two sockets are counted");
    ensure!(metric(&cluster, "shed_total{what=\"request\"}").await? == 2.0, "and two requests");

    let edit = socket.run_one(d::ADD_NODE, node(&project, "pier")).await?;
    ensure!(edit["addPlanDagNode"]["id"] == "pier", "whoever is there edits: {edit}");
    let delta = deltas.value("planDagDeltaChanged").await?;
    ensure!(delta["revision"] == edit["addPlanDagNode"]["revision"], "and listens: {delta}");

    lower(&cluster).await?;
    ensure!(ada.get("/readyz").await?.status == 200, "a calm node is ready");
    ada.socket().await?;
    ada.presence(&project).await?;
    let plan = ada.plan(&project).await?;
    ensure!(plan["nodes"][0]["id"] == "pier", "as if nothing had been: {plan}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn then_nothing_new_is_begun_and_what_was_accepted_is_in_the_log() -> Result<()> {
    let mut cluster = pressed().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let socket = ada.socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    deltas.value("planDagDeltaChanged").await?;
    let mut presence = ada.presence(&project).await?;
    // Edits are under way all the time while the pressure rises.
    let rising = async {
        for place in 1..LEVELS.len() {
            raise_to(&cluster, place).await?;
        }
        anyhow::Ok(())
    };
    let (risen, edited) = tokio::join!(rising, edit_until_refused(&socket, &project));
    risen?;
    let (accepted, refusal) = edited?;
    ensure!(refusal.code == "OVERLOADED", "{refusal:?}");
    ensure!(refusal.extensions["retryAfterMs"].as_u64().is_some_and(|ms| ms >= 1_000), "{refusal:?}");
    let refusal = socket.follow(&project, None).await?.refusal().await?;
    ensure!(refusal.code == "OVERLOADED", "a new subscription: {refusal:?}");
    let refusal = refused(socket.run_one(d::ME, json!({})).await)?;
    ensure!(refusal.code == "OVERLOADED", "a query: {refusal:?}");

    let fresh = json!({"token": Token::of("ada").sign()});
    let renewed = socket.run_one(d::REFRESH_AUTH, fresh).await?;
    ensure!(renewed["refreshAuth"]["id"] == "ada", "a fresh token is taken at any level: {renewed}");
    presence.everything().await.context("a ping is answered at any level")?;
    presence.send("leave_session", json!({})).await?;
    let log = cluster.redis()?.entries(&format!("mille:{{plan:{}}}:log", project.plan)).await?;
    let log: Vec<&str> = log.iter().flat_map(|entry| &entry.fields).map(|(_, text)| text.as_str()).collect();
    let is_there = |id: &str| log.iter().any(|text| text.contains(&format!("\"{id}\"")));
    for number in 0..accepted {
        ensure!(is_there(&format!("n{number}")), "n{number} was accepted and is not in the log: {log:?}");
    }
    ensure!(accepted > 0 && !is_there(&format!("n{accepted}")), "what was refused did not happen: {log:?}");
    ensure!(socket.is_open(), "whoever is refused keeps the socket");

    lower(&cluster).await?;
    socket.run_one(d::ADD_NODE, node(&project, &format!("n{accepted}"))).await?;
    ensure!(presence.join(None).await?[0]["userId"] == "ada", "whoever left comes back");
    cluster.must_live()
}

/// Adds plan nodes `n0`, `n1`, …, one after the other, until one is refused. Brings how many were accepted, and the refusal.
async fn edit_until_refused(socket: &Socket, project: &Project) -> Result<(usize, Refusal)> {
    for accepted in 0.. {
        match socket.run_one(d::ADD_NODE, node(project, &format!("n{accepted}"))).await {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) => return Ok((accepted, refusal)),
            Err(failure) => return Err(failure.into()),
        }
    }
    bail!("nothing was ever refused")
}

/// A node that only a slow Redis puts under pressure.
async fn pressed() -> Result<Cluster> {
    Cluster::of(1).proxied().with("MILLE_PRESSURE_REDIS_MS", REDIS_MS).start().await
}

/// Slows Redis down until the node is at the level with this place in [`LEVELS`].
async fn raise_to(cluster: &Cluster, place: usize) -> Result<()> {
    cluster.proxy(0)?.delay(Duration::from_millis(DELAYS_MS[place]));
    reaches(cluster, place).await
}

/// Mends the line and waits until the node is calm.
async fn lower(cluster: &Cluster) -> Result<()> {
    cluster.proxy(0)?.delay(Duration::ZERO);
    reaches(cluster, 0).await
}

/// Waits until the probes and the metrics say that the node is at this level.
async fn reaches(cluster: &Cluster, place: usize) -> Result<()> {
    let operator = cluster.stranger(0).at(&cluster.admin_url(0));
    eventually(patience(STEP_SECONDS), async || {
        let told = operator.get("/readyz?verbose").await?.body;
        let check = told["checks"].as_array().and_then(|all| all.iter().find(|check| check["name"] == "pressure"));
        let detail = check.and_then(|check| check["detail"].as_str()).unwrap_or_default();
        let parts = ["event loop", "bytes in send queues", "the store answers"];
        ensure!(parts.iter().all(|part| detail.contains(part)), "not all is told: {told}");
        ensure!(detail.starts_with(&format!("{};", LEVELS[place])), "{} is not reached: {detail}", LEVELS[place]);
        let gauge = metric(cluster, "pressure_level").await?;
        ensure!(gauge == place as f64, "the metric says {gauge}");
        Ok(())
    })
    .await
}

async fn metric(cluster: &Cluster, name: &str) -> Result<f64> {
    let text = reqwest::get(format!("{}/metrics", cluster.admin_url(0))).await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
    value.with_context(|| format!("no {name}"))?.parse().context("a number")
}

/// The levels that the log tells of, in order.
fn changes_in(log: &str) -> Vec<usize> {
    let changes = log.lines().filter(|line| line.contains("more up") || line.contains("pressure eases"));
    let level = |line: &str| LEVELS.iter().position(|level| line.contains(&format!("level=\"{level}\"")));
    changes.filter_map(level).collect()
}

fn node(project: &Project, id: &str) -> Value {
    json!({"p": project.id, "op": id, "node": node_input(Some(id), "GraphNode", id)})
}
