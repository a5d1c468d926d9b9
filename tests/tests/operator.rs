//! The promise: an operator sees the nodes of a local cluster by `mille status`, takes one out by `mille drain`, and goes on
//! reading a plan by `mille tail` meanwhile.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Authority, Client, Cluster, Revision, SECRET, Token, clean_command, eventually, mille, mille_binary, mille_ok,
    path_text, soon, within,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// The cluster as `mille up` would have left it.
fn state_of(cluster: &Cluster) -> Result<TempDir> {
    let home = tempfile::tempdir()?;
    let nodes: Vec<Value> = (0..cluster.size())
        .map(|node| {
            let name = format!("node-{}", node + 1);
            json!({"name": name, "url": cluster.url(node), "adminUrl": cluster.admin_url(node), "pid": 0})
        })
        .collect();
    let redis = json!({"url": "redis://127.0.0.1:1", "pid": null});
    let state = json!({"proxy": null, "nodes": nodes, "redis": redis, "jwtSecret": SECRET});
    std::fs::write(home.path().join("state.json"), state.to_string())?;
    Ok(home)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_are_shown_with_what_waits_in_them_and_the_doctor_asks_them_by_the_state_file() -> Result<()> {
    let cluster = Cluster::of(2).with("MILLE_CONNECTIONS_MAX", "500").start().await?;
    let home = state_of(&cluster)?;
    let state = path_text(home.path());
    let ada = cluster.user(1, "ada");
    ada.create_project("harbour").await?;
    let shown = mille_ok(&["status", "--json", "--state", &state]).await?.json()?;
    let nodes = shown["nodes"].as_array().context("nodes")?;
    ensure!(nodes.len() == 2, "{shown}");
    for node in nodes {
        ensure!(node["ready"] == true && node["queues"]["sendBytes"] == 0 && node["lagMs"].is_number(), "{node}");
    }
    let actors: Vec<_> = nodes.iter().map(|node| node["queues"]["actors"].clone()).collect();
    ensure!(actors == [json!(0), json!(1)], "{shown}");
    let text = mille_ok(&["status", "--state", &state]).await?.out;
    for word in ["NODE", "READY", "LAG ms", "SEND kB", "MAILBOX", "node-1.", "yes", "redis: connected"] {
        ensure!(text.contains(word), "{word}: {text}");
    }
    // This Redis keeps nothing, which is the one error; the token that all take is the doctor's own.
    let said = mille(&["doctor", "--json", "--state", &state]).await?;
    let checks = said.json()?;
    let of = |name: &str, status: &str| {
        let checks = checks["checks"].as_array().into_iter().flatten();
        checks.filter(|check| check["name"] == name && check["status"] == status).count()
    };
    ensure!(
        (said.code, of("redis_append_only", "error"), of("keys", "ok"), of("members", "ok")) == (1, 1, 2, 2),
        "{said:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_by_its_name_until_it_is_gone() -> Result<()> {
    let cluster = Cluster::of(2).with("MILLE_DRAIN_NOTICE_SECONDS", "4").start().await?;
    let home = state_of(&cluster)?;
    let state = path_text(home.path());
    let said = mille(&["drain", "node-3", "--state", &state]).await?;
    ensure!(said.code == 2 && said.err.contains("node-1, node-2"), "{said:?}");
    let _socket = cluster.user(1, "ada").socket().await?;
    let said = mille_ok(&["drain", "node-2", "--json", "--state", &state]).await?;
    let told = said.json()?;
    ensure!(said.err.contains("unready, 1 connections left"), "how far it is: {said:?}");
    ensure!(told["phase"] == "gone" && told["node"].as_str().is_some_and(|id| id.starts_with("node-2.")), "{told}");
    ensure!(cluster.stranger(1).get("/livez").await.is_err(), "it is said to be gone");
    let said = mille(&["drain", "node-2", "--state", &state]).await?;
    ensure!(said.code == 2 && said.err.contains("gone already"), "{said:?}");
    // By its admin address and its id, without waiting; once more is no mistake, and patience may be shorter.
    let (id, admin_url) = (cluster.stranger(0).get("/health").await?.body["nodeId"].clone(), cluster.admin_url(0));
    let words = ["drain", id.as_str().context("an id")?, "--admin-url", &admin_url, "--json"];
    let begun = mille_ok(&[&words[..], &["--no-wait"]].concat()).await?.json()?;
    ensure!(begun["node"] == id && begun["phase"] == "unready", "{begun}");
    let late = mille(&[&words[..], &["--timeout", "0"]].concat()).await?;
    ensure!(late.code == 1 && late.json()?["phase"] == "unready" && late.err.contains("still there"), "{late:?}");
    eventually(soon(), async || {
        ensure!(cluster.stranger(0).get("/livez").await.is_err(), "it stays");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_read_on_through_another_node_line_by_line_without_a_hole() -> Result<()> {
    let mut cluster = Cluster::of(2).start().await?;
    let home = state_of(&cluster)?;
    let (ada, also_ada) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let project = ada.create_project("harbour").await?;
    let beginning = ada.revision(&project).await?.to_string();
    let plan =
        ada.run("query { projects { plans { id } } }", json!({})).await?["projects"][0]["plans"][0]["id"].clone();
    ada.add_node_as(&project, "before", "MergeNode").await?;

    let words = ["tail", &plan.to_string(), "--after", &beginning, "--user", "ada", "--state", &path_text(home.path())];
    let mut json_lines = tail(home.path(), &[&words[..], &["--json", "--count", "6"]].concat(), None)?;
    let mut text_lines = tail(home.path(), &[&words[..], &["--count", "6"]].concat(), None)?;
    let mut told = vec![json_lines.next().await?];
    let mut text = text_lines.next().await?;
    for index in 0..2 {
        ada.add_node_as(&project, &format!("a{index}"), "MergeNode").await?;
        told.push(json_lines.next().await?);
        writeln!(text, "\n{}", text_lines.next().await?)?;
    }
    cluster.kill_9(0)?;
    for index in 0..3 {
        also_ada.add_node_as(&project, &format!("b{index}"), "MergeNode").await?;
        told.push(json_lines.next().await?);
        writeln!(text, "{}", text_lines.next().await?)?;
    }
    let events = told.iter().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
    let ids: Vec<_> = events.iter().map(|event| event["data"]["node"]["id"].as_str().unwrap_or("-")).collect();
    ensure!(ids == ["before", "a0", "a1", "b0", "b1", "b2"], "{told:#?}");
    for id in ids {
        ensure!(text.lines().filter(|line| line.contains(&format!("node added: {id} "))).count() == 1, "{id}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_read_over_tls_by_whoever_trusts_the_cluster() -> Result<()> {
    let authority = Authority::new()?;
    let pair = authority.issue("node", &["localhost"])?;
    let (certificate, key) = (path_text(&pair.certificate), path_text(&pair.key));
    let cluster = Cluster::of(1)
        .embedded()
        .with("MILLE_TLS_CERT_FILE", &certificate)
        .with("MILLE_TLS_KEY_FILE", &key)
        .start()
        .await?;
    let url = format!("https://localhost:{}", cluster.port(0));
    let token = Token::of("ada").sign();
    let ada = Client::trusting(&url, &authority)?.with_token("ada", token.as_str());
    let project = ada.create_project("harbour").await?;
    ada.add_node_as(&project, "pier", "MergeNode").await?;
    let plans = ada.run("query { projects { plans { id } } }", json!({})).await?;
    let plan = plans["projects"][0]["plans"][0]["id"].to_string();
    let beginning = Revision { seq: 0, ..ada.revision(&project).await? }.to_string();
    let words = ["tail", &plan, "--after", &beginning, "--count", "1", "--url", &url, "--token", &token];
    let (home, other_home) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut trusting = tail(home.path(), &words, Some(&authority.file()))?;
    ensure!(trusting.next().await?.contains("node added: pier"));
    // Whoever trusts others only is told why there is nothing.
    let foreign = Authority::new()?.file();
    let _other = tail(other_home.path(), &words, Some(&foreign))?;
    eventually(soon(), async || {
        let said = std::fs::read_to_string(other_home.path().join("tail.log"))?;
        ensure!(said.contains("certificate"), "{said}");
        Ok(())
    })
    .await
}

/// `mille tail` under way.
struct Tail {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    _process: tokio::process::Child,
}

/// `trusted`: the authorities it knows; those of the system, if not given.
fn tail(home: &Path, words: &[&str], trusted: Option<&Path>) -> Result<Tail> {
    let mut command: Command = clean_command(&mille_binary()?);
    command.envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
    let errors = std::fs::File::create(home.join("tail.log"))?;
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut process = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
    Ok(Tail { lines, _process: process })
}

impl Tail {
    async fn next(&mut self) -> Result<String> {
        within(soon(), "a line", self.lines.next_line()).await??.context("the tail has ended")
    }
}
