//! The promise: what is shipped for a Redis Cluster and for sentinels starts as it stands, nodes work on it with the
//! rights that it gives them, the doctor finds it well and names what is missing; and a `REDIS_URL` that can't be meant
//! is said to be wrong when a node starts.

use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Cluster, MASTER_NAME, Process, Redis, RedisCluster, RedisSentinels, Setup, Token, ask_redis, eventually, free_port,
    last_words, mille, mille_ok, path_text, patience, soon,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What nodes, people, replicas and sentinels show.
const PASSWORD: &str = "a-random-text";
/// Seconds within which a promotion must be over, with the shipped 5 s of silence before it.
const PROMOTED_SECONDS: f64 = 30.0;

/// A process of the shipped `ops/redis-start`.
struct Shipped {
    process: Process,
    port: u16,
    _home: TempDir,
}

impl Shipped {
    fn start(port: u16, settings: &[(&str, String)]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("mille-redis-").tempdir()?;
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/redis-start"));
        command
            .env("REDIS_USERS_FILE", home.path().join("users.acl"))
            .env("REDIS_CONFIG_FILE", home.path().join("redis.conf"))
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(home.path());
        let process = Process::start("redis-start", &mut command, &home.path().join("redis.log"))?;
        Ok(Self { process, port, _home: home })
    }

    /// Waits until it answers so to an operator.
    async fn says(&mut self, question: &[&str], wanted: &str) -> Result<()> {
        eventually(patience(PROMOTED_SECONDS), async || {
            self.process.must_live()?;
            // A sentinel asks nobody who they are, and refuses to be told.
            let known = ask_redis(self.port, &[&["AUTH", "operator", PASSWORD], question]).await;
            let said = match known {
                Ok(said) => said,
                Err(_) => ask_redis(self.port, &[question]).await?,
            };
            ensure!(said.text().is_some_and(|text| text.contains(wanted)), "{said:?}");
            Ok(())
        })
        .await
    }
}

fn server_settings(mode: &str) -> Vec<(&'static str, String)> {
    let passwords = ["REDIS_PASSWORD", "REDIS_OPERATOR_PASSWORD", "REDIS_REPLICA_PASSWORD", "REDIS_SENTINEL_PASSWORD"];
    let mut settings: Vec<_> = passwords.map(|name| (name, PASSWORD.to_owned())).to_vec();
    settings.push(("REDIS_MODE", mode.to_owned()));
    settings
}

/// A port that is free together with the one 10,000 above, at which servers speak to each other: below those that systems give
/// to outgoing connections.
fn free_pair() -> Result<u16> {
    for _ in 0..200 {
        let port = free_port()?;
        if port < 22_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no two ports are free")
}

fn url(scheme: &str, ports: &[u16], more: &str) -> String {
    let others: Vec<String> = ports[1..].iter().map(|port| format!("node=127.0.0.1:{port}")).collect();
    format!("{scheme}://mille:{PASSWORD}@127.0.0.1:{}?{}{more}", ports[0], others.join("&"))
}

/// What the doctor finds to be wrong or unknown, but for how fast Redis answers here: check, and where and what.
async fn examined(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let token = Token::of("operator").sign();
    let mut words = vec!["doctor".to_owned(), "--json".to_owned(), "--token".to_owned(), token];
    for node in 0..cluster.size() {
        words.extend(["--admin-url".to_owned(), cluster.admin_url(node)]);
    }
    let said = mille(&words.iter().map(String::as_str).collect::<Vec<_>>()).await?.json()?;
    let found = said["checks"].as_array().context("checks")?.iter().filter(|check| check["status"] != "ok");
    let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let found = found.map(|check| (text(check, "name"), text(check, "node") + ": " + &text(check, "detail")));
    // The users that are shipped may not ask for settings, so two checks say that they are unknown.
    Ok(found
        .filter(|(name, _)| !["redis_latency", "redis_fsync", "redis_pubsub_buffer"].contains(&name.as_str()))
        .collect())
}

async fn is_well(cluster: &Cluster) -> Result<()> {
    eventually(soon(), async || {
        // Nodes of a test have one machine's files between them, and no names that others could look up.
        let found: Vec<_> =
            examined(cluster).await?.into_iter().filter(|(name, _)| name.starts_with("redis")).collect();
        ensure!(found.is_empty(), "the doctor finds {found:?}");
        Ok(())
    })
    .await
}

/// Three projects, which fall on several shards, each edited at one node and read at the other. Just after a promotion that
/// takes more than one attempt.
async fn people_work(cluster: &Cluster) -> Result<()> {
    for name in ["harbour", "metro", "tower"] {
        eventually(patience(PROMOTED_SECONDS), async || work_at(cluster, name).await).await?;
    }
    Ok(())
}

async fn work_at(cluster: &Cluster, name: &str) -> Result<()> {
    let (ada, at_other) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let project = ada.create_project(name).await?;
    let mut deltas = at_other.socket().await?.follow(&project, None).await?;
    ada.add_node(&project, "TransformNode", "clean").await?;
    // The document comes first, if it has not the change already.
    let first = deltas.value("planDagDeltaChanged").await?;
    if first["kind"] == "SNAPSHOT" && first["operations"][0]["value"]["nodes"] == json!([]) {
        let delta = deltas.value("planDagDeltaChanged").await?;
        ensure!(delta["kind"] == "DELTA", "{delta}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_redis_cluster_serves_nodes_and_the_doctor_names_a_shard_that_is_gone() -> Result<()> {
    let ports: Vec<u16> = (0..6).map(|_| free_pair()).collect::<Result<_>>()?;
    let names: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut servers = Vec::new();
    for (port, name) in ports.iter().zip(&names) {
        let mut settings = server_settings("cluster");
        settings.push(("REDIS_CLUSTER_SERVERS", names.join(" ")));
        settings.push(("REDIS_CLUSTER_SELF", name.clone()));
        servers.push(Shipped::start(*port, &settings)?);
    }
    for server in &mut servers {
        server.says(&["CLUSTER", "INFO"], "cluster_state:ok").await?;
    }
    let cluster = Cluster::of(2).on(&url("redis-cluster", &ports, "")).start().await?;
    people_work(&cluster).await?;
    is_well(&cluster).await?;

    servers[3].process.kill_9()?;
    eventually(soon(), async || {
        let found = examined(&cluster).await?;
        let is_named =
            found.iter().any(|(name, detail)| name == "redis_replicas" && detail.contains("nobody takes its"));
        ensure!(is_named, "a shard without a replica is not named: {found:?}");
        Ok(())
    })
    .await?;
    servers[0].process.kill_9()?;
    eventually(patience(PROMOTED_SECONDS), async || {
        let found = examined(&cluster).await?;
        let is_named = found.iter().any(|(name, detail)| name == "redis" && detail.contains(&names[0]));
        ensure!(is_named, "{} is gone and not named: {found:?}", names[0]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_sentinels_serve_nodes_and_have_a_replica_take_over() -> Result<()> {
    let ports: Vec<u16> = (0..5).map(|_| free_port()).collect::<Result<_>>()?;
    let (mut servers, mut sentinels) = (Vec::new(), Vec::new());
    for port in &ports[..2] {
        let mut settings = server_settings("replicated");
        if *port != ports[0] {
            settings.push(("REDIS_FOLLOWS", format!("127.0.0.1 {}", ports[0])));
        }
        servers.push(Shipped::start(*port, &settings)?);
    }
    for port in &ports[2..] {
        let settings = [
            ("REDIS_MODE", "sentinel".to_owned()),
            ("REDIS_SENTINEL_PASSWORD", PASSWORD.to_owned()),
            ("REDIS_MASTER", format!("127.0.0.1 {}", ports[0])),
        ];
        sentinels.push(Shipped::start(*port, &settings)?);
    }
    servers[1].says(&["INFO", "replication"], "master_link_status:up").await?;
    for sentinel in &mut sentinels {
        // It knows the others, and who could be promoted.
        sentinel.says(&["SENTINEL", "CKQUORUM", MASTER_NAME], "OK 3 usable").await?;
        sentinel.says(&["INFO", "sentinel"], ",slaves=1,sentinels=3").await?;
    }
    let name = format!("&sentinelServiceName={MASTER_NAME}");
    let cluster = Cluster::of(2).on(&url("redis-sentinel", &ports[2..], &name)).start().await?;
    people_work(&cluster).await?;
    is_well(&cluster).await?;
    servers[0].process.kill_9()?;
    people_work(&cluster).await
}

/// Twice in one directory: what servers wrote down of each other must still be true the second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mille_up_starts_several_servers_and_mille_down_ends_them_all() -> Result<()> {
    for topology in ["sentinel", "cluster"] {
        let home = tempfile::tempdir()?;
        let state = path_text(home.path());
        let (mut base, mut samples) = ("0".to_owned(), Vec::new());
        for _ in 0..2 {
            let words =
                ["up", "--json", "--detach", "--nodes", "1", "--no-proxy", "--state", &state, "--redis", topology];
            let up = mille_ok(&[&words[..], &["--port-base", &base]].concat()).await?.json()?;
            let servers = up["redis"]["servers"].as_array().context("the servers")?;
            let data = servers.iter().filter(|one| one["name"].as_str().is_some_and(|name| name.contains("server")));
            let mut said = Vec::new();
            for port in data.filter_map(|one| u16::try_from(one["port"].as_u64()?).ok()) {
                said.push(format!("{:?}", ask_redis(port, &[&["INFO", "replication"]]).await?));
            }
            let down = mille(&["down", "--json", "--state", &state]).await?.json()?;
            let stopped = down["stopped"].as_array().context("who was stopped")?;
            ensure!(stopped.len() == 7 && stopped.iter().all(|one| one["how"] == "stopped"), "{topology}: {down}");
            ensure!(servers.len() == 6, "{topology}: {up}");
            let is_in_step = |said: &String| said.contains("role:master") || said.contains("master_link_status:up");
            ensure!(said.len() >= 3 && said.iter().all(is_in_step), "{topology}: {said:#?}");
            let url = up["nodes"][0]["url"].as_str().context("a node")?;
            let port: u16 = url.rsplit(':').next().context("a port")?.parse()?;
            base = (port - 1).to_string();
            samples.push(up["sample"]["projectId"].clone());
        }
        ensure!(
            samples[0].is_number() && samples[0] == samples[1],
            "{topology}: the project is another one: {samples:?}"
        );
        let elsewhere = ["up", "--detach", "--no-proxy", "--port-base", "0", "--state", &state, "--redis", topology];
        let elsewhere = mille(&elsewhere).await?;
        ensure!(elsewhere.code != 0 && elsewhere.err.contains("--port-base"), "{topology}: {elsewhere:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_can_not_be_meant_is_said_to_be_wrong() -> Result<()> {
    let (single, shards, watched) = (
        Redis::start().await?,
        RedisCluster::start(Setup::default()).await?,
        RedisSentinels::start(Setup::default()).await?,
    );
    let sentinels = watched.url();
    let (without_name, _) = sentinels.split_once("&sentinelServiceName").context("a name")?;
    let at_shard = shards.url().replacen("redis-cluster", "redis", 1).split('?').next().unwrap_or_default().to_owned();
    let cases = [
        ("no name of a master", without_name.to_owned(), &["REDIS_URL", "sentinelServiceName"][..]),
        ("a master that no sentinel knows", sentinels.replace("=mille", "=other"), &["REDIS_URL", "No such master"]),
        ("one Redis as a cluster", single.url().replacen("redis", "redis-cluster", 1), &["REDIS_URL", "cluster"]),
        ("a shard as one Redis", at_shard, &["REDIS_URL", "redis-cluster://"]),
    ];
    for (what, url, words) in cases {
        let (code, said) = last_words(&[("REDIS_URL", url)]).await.context(what)?;
        ensure!(code.is_some_and(|code| code != 0), "{what}: ended with {code:?}");
        for word in words {
            ensure!(said.contains(word), "{what}: {word} is not said: {said}");
        }
    }
    Ok(())
}

/// Any server will do as the first that is asked: a replica knows the primaries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_as_good_as_any_to_find_a_redis_cluster() -> Result<()> {
    let shards = RedisCluster::start(Setup::default()).await?;
    let port = shards.server(shards.replica_of(0).await?).port();
    let url = shards.url();
    let (credentials, _) = url.split_once('@').context("a user")?;
    let cluster = Cluster::of(2).on(&format!("{credentials}@127.0.0.1:{port}")).start().await?;
    people_work(&cluster).await
}
