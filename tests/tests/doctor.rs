//! The promise: `mille doctor` finds nothing wrong with a cluster that is well, and of each misconfiguration that really
//! happens it says what is wrong, where, and what to do, without blaming anybody else.
//!
//! Each is made for real: a setting of a running Redis, or a third node that is started with the mistake beside two that are
//! well. The third is the last thing to be well again: it leaves in order.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Authority, Client, NODE_PASSWORD_IN_URL, Process, Redis, SECRET, SecuredRedis, Token, clean_command, eventually,
    free_port, mille, node_binary, path_text, patience, soon,
};
use serde_json::Value;
use tempfile::TempDir;

/// What `ops/redis.conf` gives subscribers.
const PUBSUB_LIMITS: &str = "pubsub 64mb 32mb 30";
/// Gives a process another clock.
const FAKE_TIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
const READY_SECONDS: f64 = 20.0;

/// Two nodes that are well, and what a third one may join.
struct Stage {
    redis_url: String,
    settings: Vec<(String, String)>,
    home: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    process: Process,
    address: String,
    admin_url: String,
}

/// What is to be found: status, check, node (`-`: the cluster), and a part of the detail.
type Expected<'a> = (&'a str, &'a str, &'a str, &'a str);

/// What the doctor said.
struct Report {
    code: i32,
    checks: Vec<Value>,
}

impl Stage {
    async fn on(redis_url: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut stage =
            Self { redis_url: redis_url.to_owned(), settings, home: tempfile::tempdir()?, nodes: Vec::new() };
        for name in ["one", "two"] {
            let node = stage.node(name, &[], &[]).await?;
            stage.nodes.push(node);
        }
        Ok(stage)
    }

    /// Starts a node with other settings than the rest, through the program `through`, if any.
    async fn node(&self, name: &str, settings: &[(&str, &str)], through: &[&str]) -> Result<Node> {
        let (address, admin) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let binary = node_binary()?;
        let mut command: Command = match through.split_first() {
            None => clean_command(&binary),
            Some((program, words)) => {
                let mut command = clean_command(&PathBuf::from(program));
                command.args(words).arg(binary);
                command
            }
        };
        command
            .env("MILLE_LISTEN", &address)
            .env("MILLE_ADMIN_LISTEN", &admin)
            .env("MILLE_NODE_NAME", name)
            .env("MILLE_CONNECTIONS_MAX", "500")
            .env("MILLE_DRAIN_NOTICE_SECONDS", "1")
            .env("MILLE_DRAIN_WINDOW_SECONDS", "0")
            .env("JWT_SECRET", SECRET)
            .env("REDIS_URL", &self.redis_url)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .envs(settings.iter().copied());
        let mut process = Process::start(name, &mut command, &self.home.path().join(format!("{admin}.log")))?;
        let admin_url = format!("http://{admin}");
        let client = Client::new(&admin_url);
        eventually(patience(READY_SECONDS), async || {
            process.must_live()?;
            let answer = client.get("/readyz").await?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        })
        .await
        .with_context(|| format!("{name} is not ready"))?;
        Ok(Node { process, address, admin_url })
    }

    /// Asks the doctor about the two, and whoever else is there.
    async fn examine(&self, others: &[&Node]) -> Result<Report> {
        let token = Token::of("operator").sign();
        let mut words = vec!["doctor", "--json", "--token", &token];
        for node in self.nodes.iter().chain(others.iter().copied()) {
            words.extend(["--admin-url", node.admin_url.as_str()]);
        }
        let said = mille(&words).await?;
        let told = said.json()?;
        ensure!(!said.out.contains(SECRET) && !said.out.contains(&token), "a secret is told: {}", said.out);
        Ok(Report { code: said.code, checks: told["checks"].as_array().context("checks")?.clone() })
    }

    /// Waits until the doctor names what is expected, and nothing else: on a busy machine there are moments in which more is
    /// wrong.
    async fn is_found(&self, others: &[&Node], expected: &[Expected<'_>]) -> Result<()> {
        let code = i32::from(expected.iter().any(|(status, ..)| *status == "error"));
        eventually(soon(), async || self.examine(others).await?.names(expected, code)).await
    }

    async fn is_well(&self) -> Result<()> {
        self.is_found(&[], &[]).await
    }

    /// A third node with a mistake: the doctor names what is expected, and nothing else; then the node leaves.
    async fn third(
        &self,
        what: &str,
        settings: &[(&str, &str)],
        through: &[&str],
        expected: &[Expected<'_>],
    ) -> Result<()> {
        let mut third = self.node("three", settings, through).await.with_context(|| what.to_owned())?;
        self.is_found(&[&third], expected).await.with_context(|| what.to_owned())?;
        third.process.stop(soon()).await?;
        self.is_well().await.with_context(|| format!("after {what}"))
    }
}

impl Report {
    /// What it found to be wrong or unknown. How fast Redis answers depends on the machine that tests.
    fn found(&self) -> Vec<&Value> {
        self.checks.iter().filter(|check| check["status"] != "ok" && check["name"] != "redis_latency").collect()
    }

    /// Fails unless it found exactly these.
    fn names(&self, expected: &[Expected<'_>], code: i32) -> Result<()> {
        let found = self.found();
        ensure!(found.len() == expected.len() && self.code == code, "exit {}: {found:#?}", self.code);
        for (status, name, node, word) in expected {
            let is_it = |check: &&&Value| {
                check["status"] == *status && check["name"] == *name && check["node"].as_str().unwrap_or("-") == *node
            };
            let check = found.iter().find(is_it).with_context(|| format!("no {status} {name} {node}: {found:#?}"))?;
            ensure!(check["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{word}: {check}");
            ensure!(check["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "nothing to do: {check}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_redis_is_named() -> Result<()> {
    let redis = Redis::persistent().await?;
    redis.ask(&["CONFIG", "SET", "client-output-buffer-limit", PUBSUB_LIMITS]).await?;
    let stage = Stage::on(&redis.url(), &[]).await?;
    stage.is_well().await.context("a cluster that is well")?;

    type Setting = (&'static str, &'static str, &'static str);
    let cases: [(&str, &[Setting], &[Expected<'_>]); 6] = [
        ("no append-only file", &[("appendonly", "no", "yes")], &[("error", "redis_append_only", "-", "gone")]),
        ("a sync per second", &[("appendfsync", "everysec", "always")], &[("warning", "redis_fsync", "-", "everysec")]),
        ("no sync at all", &[("appendfsync", "no", "always")], &[("error", "redis_fsync", "-", "disk")]),
        (
            "memory that evicts",
            &[("maxmemory-policy", "allkeys-lru", "noeviction"), ("maxmemory", "1gb", "0")],
            &[("error", "redis_eviction", "-", "allkeys-lru")],
        ),
        (
            "a small buffer for subscribers",
            &[("client-output-buffer-limit", "pubsub 1mb 256kb 10", PUBSUB_LIMITS)],
            &[("warning", "redis_pubsub_buffer", "-", "1 MB")],
        ),
        (
            "replicas that are not there",
            &[("min-replicas-to-write", "1", "0")],
            &[("error", "redis_replicas", "-", "min-replicas-to-write")],
        ),
    ];
    for (what, settings, expected) in cases {
        for (name, wrong, _) in settings {
            redis.ask(&["CONFIG", "SET", name, wrong]).await.context(what)?;
        }
        // What follows for the nodes, a lease that is not renewed for one, comes later.
        stage.is_found(&[], expected).await.context(what)?;
        for (name, _, right) in settings {
            redis.ask(&["CONFIG", "SET", name, right]).await.context(what)?;
        }
        stage.is_well().await.with_context(|| format!("after {what}"))?;
    }

    redis.ask(&["REPLICAOF", "127.0.0.1", &free_port()?.to_string()]).await?;
    stage.is_found(&[], &[("error", "redis_role", "-", "replica")]).await.context("a replica")?;
    redis.ask(&["REPLICAOF", "NO", "ONE"]).await?;
    stage.is_well().await.context("after a replica")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_node_is_named_and_the_others_are_not_blamed() -> Result<()> {
    let redis = Redis::persistent().await?;
    redis.ask(&["CONFIG", "SET", "client-output-buffer-limit", PUBSUB_LIMITS]).await?;
    let stage = Stage::on(&redis.url(), &[]).await?;
    stage.third("none", &[], &[], &[]).await?;

    let other_secret = [("JWT_SECRET", "another one, and of a decent length as well 0123456789")];
    stage.third("another secret", &other_secret, &[], &[("error", "keys", "three", "signature")]).await?;
    let short_secret = [("JWT_SECRET", "sixteen bytes it"), ("JWT_NEXT_SECRET", SECRET)];
    stage.third("a short secret", &short_secret, &[], &[("warning", "secret", "three", "32 bytes")]).await?;
    // The program `faketime` would stand between us and the node.
    let ahead = [("LD_PRELOAD", FAKE_TIME), ("FAKETIME", "+30s")];
    let found = [("error", "clock", "three", "s ahead of the others")];
    stage.third("a clock that is ahead (Debian: apt-get install faketime)", &ahead, &[], &found).await?;
    let other_database = format!("{}/1", redis.url());
    let apart = [("error", "one_store", "-", "database 1"), ("error", "members", "three", "one, two")];
    stage.third("another database", &[("REDIS_URL", &other_database)], &[], &apart).await?;
    let other_redis = Redis::persistent().await?;
    other_redis.ask(&["CONFIG", "SET", "client-output-buffer-limit", PUBSUB_LIMITS]).await?;
    let apart = [("error", "one_store", "-", "three: database 0"), ("error", "members", "three", "one, two")];
    stage.third("another Redis", &[("REDIS_URL", &other_redis.url())], &[], &apart).await?;
    let nowhere = format!("127.0.0.1:{}", free_port()?);
    let found = [("error", "address", "three", "nobody listens")];
    stage.third("an address where nobody is", &[("MILLE_ADVERTISE", &nowhere)], &[], &found).await?;
    let found = [("error", "address", "three", "where one.")];
    stage.third("another's address", &[("MILLE_ADVERTISE", &stage.nodes[0].address)], &[], &found).await?;
    let few = ["sh", "-c", "ulimit -n 256; exec \"$0\""];
    stage.third("few files", &[], &few, &[("error", "file_descriptors", "three", "256 open files")]).await?;
    let found = [("error", "names", "-", "called two")];
    stage.third("another's name", &[("MILLE_NODE_NAME", "two")], &[], &found).await?;
    let found = [("error", "lease", "three", "3 s"), ("warning", "settings", "-", "MILLE_NODE_LEASE_SECONDS")];
    stage.third("a short lease", &[("MILLE_NODE_LEASE_SECONDS", "3")], &[], &found).await?;
    let found = [("warning", "origins", "three", "every site")];
    stage.third("pages of every site", &[("MILLE_ALLOWED_ORIGINS", "*")], &[], &found).await?;

    let found =
        [("warning", "leaving", "three", "0 s of notice"), ("warning", "settings", "-", "MILLE_DRAIN_NOTICE_SECONDS")];
    stage.third("no notice", &[("MILLE_DRAIN_NOTICE_SECONDS", "0")], &[], &found).await?;

    let authority = Authority::new()?;
    for (label, days, expected) in [
        ("long", 90, &[][..]),
        ("soon", 15, &[("warning", "certificate", "three", "14 days")]),
        ("now", 5, &[("error", "certificate", "three", "4 days")]),
    ] {
        let pair = authority.issue_for(label, &["127.0.0.1"], Duration::from_secs(days * 24 * 3600))?;
        let (certificate, key) = (path_text(&pair.certificate), path_text(&pair.key));
        let files = [("MILLE_TLS_CERT_FILE", certificate.as_str()), ("MILLE_TLS_KEY_FILE", key.as_str())];
        stage.third(&format!("a certificate for {days} days"), &files, &[], expected).await?;
    }

    let mut third = stage.node("three", &[], &[]).await?;
    // Whoever forgets a node is told that it is there.
    let found = [("warning", "members", "-", "three.")];
    stage.is_found(&[], &found).await.context("a node that is forgotten")?;
    third.process.kill_9()?;
    let found = [("error", "reachable", third.admin_url.as_str(), "does not answer")];
    stage.is_found(&[&third], &found).await.context("a node that is dead")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_nodes_may_not_ask_redis_is_unknown_and_a_right_that_is_missing_is_named() -> Result<()> {
    let authority = Authority::new()?;
    let redis = SecuredRedis::start(&authority).await?;
    let ca = path_text(&authority.file());
    let stage = Stage::on(&redis.url(NODE_PASSWORD_IN_URL), &[("MILLE_REDIS_CA_FILE", &ca)]).await?;
    let unknown = ["redis_fsync", "redis_pubsub_buffer"]
        .map(|name| ("warning", name, "-", "unknown, because its user lacks the right"));
    stage.is_found(&[], &unknown).await?;

    redis.ask(&["ACL", "SETUSER", "mille", "-fcall"]).await?;
    eventually(soon(), async || {
        let report = stage.examine(&[]).await?;
        let missing: Vec<_> = report.found().into_iter().filter(|check| check["name"] == "redis_rights").collect();
        ensure!(missing.len() == 2 && report.code == 1, "{missing:?}");
        ensure!(missing.iter().all(|check| check["detail"].as_str().is_some_and(|text| text.contains("fcall"))));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_or_a_node_the_doctor_says_what_it_can_not_know() -> Result<()> {
    let redis = Redis::persistent().await?;
    redis.ask(&["CONFIG", "SET", "client-output-buffer-limit", PUBSUB_LIMITS]).await?;
    let stage = Stage::on(&redis.url(), &[]).await?;
    let [one, two] = [&stage.nodes[0].admin_url, &stage.nodes[1].admin_url];
    let said = mille(&["doctor", "--admin-url", one, "--admin-url", two]).await?;
    ensure!(said.code == 0 && said.out.contains("unknown, because there is no token"), "{said:?}");
    ensure!(said.out.contains("errors: 0"), "{said:?}");
    let said = mille(&["doctor", "--url", "http://127.0.0.1:1", "--token", "t"]).await?;
    ensure!(said.code == 2 && said.err.contains("--admin-url"), "{said:?}");
    Ok(())
}
