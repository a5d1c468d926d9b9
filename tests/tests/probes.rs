//! The promise: a node says truthfully whether it lives and whether it should get connections. Blips of Redis change nothing;
//! an outage, or a Redis that takes no writes, takes the node out after a grace; what only Redis lacks is no reason to restart.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Client, Cluster, documents as d, eventually, node_input, patience, refused, soon};
use serde_json::{Value, json};
use tokio::time::Instant;

/// A blip.
const BLIP: Duration = Duration::from_secs(3);
/// No node is taken out earlier than this.
const GRACE: Duration = Duration::from_secs(10);
/// Nor later, on a machine that is not busy.
const OUT_WITHIN_SECONDS: f64 = 25.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blip_of_redis_changes_nothing_and_an_outage_takes_the_node_out_until_it_ends() -> Result<()> {
    let mut cluster = Cluster::of(1).single().start().await?;
    let probes = Client::new(&cluster.admin_url(0));
    let out = async || {
        let answer = probes.get("/readyz?verbose").await?;
        ensure!(answer.status == 503, "it is ready");
        let failing = answer.body["checks"].as_array().into_iter().flatten().filter(|check| check["ok"] == false);
        Ok(failing.filter_map(|check| check["name"].as_str().map(str::to_owned)).collect::<Vec<_>>())
    };

    cluster.redis()?.pause()?;
    let blip = eventually(BLIP, out).await;
    cluster.redis()?.resume()?;
    ensure!(blip.is_err(), "a blip takes the node out: {blip:?}");
    eventually(soon(), async || {
        checked(&probes, "breaker", true).await?;
        // The grace counts from the last of each of these, and one from before the blip would shorten it.
        for (name, done) in [("lease", "renewed "), ("delivery", "proved ")] {
            let told = check(&probes, "/readyz?verbose", name).await?;
            let age = told["detail"].as_str().and_then(|detail| detail.strip_prefix(done)?.strip_suffix(" ms ago"));
            ensure!(age.context("a failure")?.parse::<u64>()? < 1_000, "{told}");
        }
        Ok(())
    })
    .await
    .context("all is as before")?;

    let began = Instant::now();
    cluster.redis()?.pause()?;
    eventually(soon(), async || checked(&probes, "breaker", false).await).await.context("it is told at once")?;
    let why = eventually(patience(OUT_WITHIN_SECONDS), out).await?;
    ensure!(began.elapsed() > GRACE, "out after {:?}", began.elapsed());
    ensure!(why.iter().any(|name| name == "lease" || name == "delivery"), "{why:?}");
    ensure!(probes.get("/livez").await?.status == 200, "a restart would not bring Redis back");
    cluster.redis()?.resume()?;
    eventually(soon(), async || {
        ensure!(probes.get("/readyz").await?.status == 200, "it stays out");
        Ok(())
    })
    .await?;
    cluster.must_live()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_a_replica_is_told_at_once_and_takes_the_node_out_after_the_grace() -> Result<()> {
    let mut cluster = Cluster::of(1).single().start().await?;
    let probes = Client::new(&cluster.admin_url(0));
    let dead = mille_tests::free_port()?.to_string();
    let began = Instant::now();
    cluster.redis()?.ask(&["REPLICAOF", "127.0.0.1", &dead]).await?;
    eventually(soon(), async || {
        let told = check(&probes, "/readyz?verbose", "role").await?;
        ensure!(told["detail"].as_str().is_some_and(|detail| detail.starts_with("replica")), "{told}");
        Ok(())
    })
    .await?;
    eventually(patience(OUT_WITHIN_SECONDS), async || checked(&probes, "role", false).await).await?;
    ensure!(began.elapsed() > GRACE, "out after {:?}", began.elapsed());
    ensure!(probes.get("/readyz").await?.status == 503, "who can't write is not ready");
    ensure!(probes.get("/livez").await?.status == 200, "a restart would not help");
    let lease = check(&probes, "/readyz?verbose", "lease").await?;
    ensure!(lease["detail"].as_str().is_some_and(|detail| detail.contains("READONLY")), "the lease says why: {lease}");
    cluster.redis()?.ask(&["REPLICAOF", "NO", "ONE"]).await?;
    eventually(soon(), async || {
        ensure!(probes.get("/readyz").await?.status == 200, "it stays out");
        checked(&probes, "role", true).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_check_is_told_by_name_and_the_drain_at_once() -> Result<()> {
    let cluster = Cluster::of(1).embedded().with("MILLE_DRAIN_NOTICE_SECONDS", "5").start().await?;
    let (probes, ada) = (Client::new(&cluster.admin_url(0)), cluster.user(0, "ada"));
    let project = ada.create_project("harbour").await?;
    let names = async |path: &str| -> Result<Vec<String>> {
        let told = probes.get(path).await?.body;
        let checks = told["checks"].as_array().context("checks")?;
        Ok(checks.iter().filter_map(|check| check["name"].as_str().map(str::to_owned)).collect())
    };
    let ready = ["serving", "lease", "delivery", "role", "pressure", "keys", "actors", "breaker"];
    ensure!(names("/readyz?verbose").await? == ready);
    ensure!(names("/livez?verbose").await? == ["event_loop", "actors", "tasks"]);
    let actors = check(&probes, "/readyz?verbose", "actors").await?;
    ensure!(actors["detail"] == "0 of 1 do not answer", "{project:?} is counted and not named: {actors}");

    probes.post_text("/admin/drain", "text/plain", String::new()).await?;
    let answer = probes.get("/readyz").await?;
    ensure!(answer.status == 503, "it still wants connections");
    Ok(())
}

/// Who edits is refused; leases, rights and what makes room go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_whose_memory_is_full_takes_no_node_out_and_lets_one_start() -> Result<()> {
    let mut cluster = Cluster::of(2).single().start().await?;
    let ada = cluster.user(0, "ada");
    let (project, gone) = (ada.create_project("harbour").await?, ada.create_project("gone").await?);
    ada.share(&project, "bob", "EDITOR").await?;
    ada.plan(&project).await?;
    cluster.redis()?.ask(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    let full = Instant::now();
    let variables = json!({"p": project.id, "op": "once", "node": node_input(Some("crane"), "GraphNode", "crane")});
    let edit = async || ada.ask(d::ADD_NODE, "addPlanDagNode", variables.clone()).await;
    let refusal = refused(edit().await)?;
    ensure!(refusal.code == "UNAVAILABLE" && refusal.extensions["retryable"] == true, "{refusal:?}");
    ada.unshare(&project, "bob").await.context("a member is shown out")?;
    ada.run(d::DELETE_PROJECT, json!({"p": gone.id})).await.context("a project makes room")?;
    cluster.restart(1).await.context("a node starts")?;
    for node in 0..2 {
        let probes = Client::new(&cluster.admin_url(node));
        eventually(soon(), async || {
            let lease = check(&probes, "/readyz?verbose", "lease").await?;
            let age = lease["detail"].as_str().and_then(|told| told.strip_prefix("renewed ")?.strip_suffix(" ms ago"));
            let age = Duration::from_millis(age.context("a failure")?.parse()?);
            ensure!(age < full.elapsed(), "not renewed since memory is full: {lease}");
            ensure!(probes.get("/readyz").await?.status == 200, "node {node} is out");
            Ok(())
        })
        .await?;
    }
    refused(edit().await)?;
    cluster.redis()?.ask(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    eventually(soon(), async || Ok(edit().await?)).await.context("edits are taken again")?;
    cluster.must_live()
}

async fn check(probes: &Client, path: &str, name: &str) -> Result<Value> {
    let told = probes.get(path).await?.body;
    let checks = told["checks"].as_array().context("checks")?;
    checks.iter().find(|check| check["name"] == name).cloned().with_context(|| format!("no check {name}: {told}"))
}

async fn checked(probes: &Client, name: &str, ok: bool) -> Result<()> {
    let told = check(probes, "/readyz?verbose", name).await?;
    ensure!(told["ok"] == ok, "{told}");
    Ok(())
}
