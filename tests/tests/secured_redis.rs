//! The promise: a cluster works with a Redis that speaks TLS only and lets nodes do no more than they must, as shipped;
//! what is wrong with it ends the start with a sentence; and no password is told, not even to those who log everything. The
//! same of a Redis Cluster and of sentinels, whose servers speak TLS with each other too, and through a failover.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Authority, Builder, Cluster, NODE_PASSWORD, NODE_PASSWORD_IN_URL, NODES_PASSWORD, PresenceSocket, RedisCluster,
    RedisSentinels, Replica, SecuredRedis, Setup, Store, documents as d, eventually, last_words, node_input, path_text,
    patience, soon,
};
use serde_json::json;

/// A part of the passwords that stands neither in a name nor by chance in a log.
const TELLING: [&str; 2] = ["nodes/only", "nodes%2Fonly"];
/// Seconds within which edits must be taken after a server was lost.
const REPLACED_SECONDS: f64 = 20.0;

fn cluster_on(redis: &SecuredRedis<'_>, authority: &Authority, nodes: usize) -> Builder {
    let ca = path_text(&authority.file());
    Cluster::of(nodes)
        .on(&redis.url(NODE_PASSWORD_IN_URL))
        .with("MILLE_REDIS_CA_FILE", &ca)
        .with("RUST_LOG", "trace")
        .quiet()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_lives_on_a_redis_that_lets_it_do_no_more_than_it_must() -> Result<()> {
    let authority = Authority::new()?;
    let redis = SecuredRedis::start(&authority).await?;
    let mut cluster = cluster_on(&redis, &authority, 3)
        // So that snapshots are written and logs trimmed too.
        .with("MILLE_SNAPSHOT_EVERY_CHANGES", "5")
        .with("MILLE_LOG_RETENTION_CHANGES", "10")
        .with("MILLE_LOG_RETENTION_SECONDS", "0")
        .start()
        .await?;
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
    let project = ada.create_project("secured").await?;
    ada.share(&project, "bob", "EDITOR").await?;

    let socket = bob.socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    deltas.value("planDagDeltaChanged").await?;
    ada.add_node(&project, "TransformNode", "clean").await?;
    ensure!(deltas.value("planDagDeltaChanged").await?["kind"] == "DELTA", "an edit travels");
    let mut adas = PresenceSocket::connect(&ada, project.id).await?;
    adas.join(None).await?;
    let mut bobs = PresenceSocket::connect(&bob, project.id).await?;
    bobs.join(None).await?;
    adas.next_where("user_presence", soon(), |presence| presence["userId"] == "bob").await.context("presence works")?;
    drop(bobs);

    // Whatever else a node asks Redis for.
    for index in 0..40 {
        ada.add_node_as(&project, &format!("n{index}"), "MergeNode").await?;
    }
    let mut after = ada.revision(&project).await?;
    after.seq -= 3;
    let after = after.to_string();
    cluster.user(2, "ada").deltas_after(&project, &after).await?;
    ada.run("query { projects { id plans { id } } }", json!({})).await?;
    ada.run(d::CREATE_PLAN, json!({"p": project.id, "name": "another"})).await?;
    ada.unshare(&project, "bob").await?;
    ada.run(d::DELETE_PROJECT, json!({"p": project.id})).await?;
    cluster.stop(2, soon()).await?;

    // A Redis that lost its library, and connections that are lost.
    redis.ask(&["FUNCTION", "FLUSH"]).await?;
    redis.ask(&["CLIENT", "KILL", "USER", "mille"]).await?;
    let again = eventually(soon(), async || ada.create_project("again").await).await?;
    eventually(soon(), async || Ok(ada.add_node(&again, "TransformNode", "clean").await?)).await?;

    ensure!(redis.refusals().await?.is_empty(), "a right is missing: {:#?}", redis.refusals().await?);
    cluster.must_live()?;
    for node in 0..3 {
        let log = cluster.log(node);
        ensure!(log.contains("TRACE"), "the log is as talkative as it gets");
        ensure!(!TELLING.iter().any(|part| log.contains(part)), "node {node} tells the password");
        ensure!(!log.contains("NOPERM"), "node {node} was refused something");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_users_are_kept_within_their_bounds() -> Result<()> {
    let authority = Authority::new()?;
    let redis = SecuredRedis::start(&authority).await?;
    for words in [
        &["GET", "another:key"][..],
        &["SUBSCRIBE", "another:channel"],
        &["KEYS", "mille:*"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
        &["FUNCTION", "DELETE", "mille"],
        &["EVAL", "return 1", "0"],
        &["CLIENT", "LIST"],
        &["ACL", "LIST"],
        &["REPLICAOF", "NO", "ONE"],
    ] {
        let refused = redis.ask_as("mille", NODE_PASSWORD, words).await.err().map(|error| format!("{error:#}"));
        ensure!(refused.is_some_and(|text| text.contains("NOPERM")), "a node may {words:?}");
        ensure!(redis.ask_as("probe", "any", words).await.is_err(), "the probe may {words:?}");
        ensure!(redis.ask_as("default", "", words).await.is_err(), "anybody may {words:?}");
    }
    redis.ask_as("probe", "any", &["PING"]).await.context("a health check needs no secret")?;
    redis.ask_as("mille", NODE_PASSWORD, &["GET", "mille:{directory}:projects"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_redis_ends_the_start_with_a_sentence_that_tells_no_password() -> Result<()> {
    let authority = Authority::new()?;
    let redis = SecuredRedis::start(&authority).await?;
    let (stranger, right) = (Authority::new()?, redis.url(NODE_PASSWORD_IN_URL));
    let (ours, foreign) = (path_text(&authority.file()), path_text(&stranger.file()));
    let nobody = format!("rediss://localhost:{}", redis.port());
    let other_name = right.replace("localhost", "127.0.0.1");
    let plain = right.replacen("rediss", "redis", 1);
    for (what, url, ca, words) in [
        ("a wrong password", redis.url("nodes%2Fonly"), Some(&ours), &["REDIS_URL", "password"][..]),
        ("a password that can't be sent", redis.url("nodes%2Fonly%20once"), Some(&ours), &["REDIS_URL", "blanks"]),
        ("no password", nobody, Some(&ours), &["REDIS_URL", "password"]),
        ("a foreign authority", right.clone(), Some(&foreign), &["REDIS_URL", "MILLE_REDIS_CA_FILE"]),
        ("the system's authorities", right.clone(), None, &["REDIS_URL", "MILLE_REDIS_CA_FILE"]),
        ("another name", other_name, Some(&ours), &["REDIS_URL", "MILLE_REDIS_CA_FILE"]),
        ("no TLS", plain, None, &["REDIS_URL"]),
        (
            "no such file",
            right.clone(),
            Some(&"/nowhere/ca.pem".to_owned()),
            &["MILLE_REDIS_CA_FILE", "/nowhere/ca.pem"],
        ),
    ] {
        must_not_start(what, &url, ca, words).await?;
    }
    for (what, rights) in [
        ("no right to load the library", &["-function|load"][..]),
        ("no right to the keys", &["resetkeys", "~other:*"]),
        ("no right to the channels", &["resetchannels", "&other:*"]),
        ("no right to publish", &["-publish"]),
        ("no right to call functions", &["-fcall"]),
    ] {
        redis.ask(&[&["ACL", "SETUSER", "mille"], rights].concat()).await?;
        must_not_start(what, &right, Some(&ours), &["REDIS_URL", "NOPERM", "ops/redis-users.acl"]).await?;
        redis.ask(&["ACL", "LOAD"]).await?;
    }
    Ok(())
}

async fn must_not_start(what: &str, url: &str, ca: Option<&String>, words: &[&str]) -> Result<()> {
    let mut settings = vec![("REDIS_URL", url.to_owned()), ("RUST_LOG", "trace".to_owned())];
    settings.extend(ca.map(|ca| ("MILLE_REDIS_CA_FILE", ca.clone())));
    let (code, said) = last_words(&settings).await.context(what.to_owned())?;
    let last = said.lines().find_map(|line| line.strip_prefix("mille-node: ")).unwrap_or_default();
    ensure!(code.is_some_and(|code| code != 0), "{what}: {code:?}");
    for word in words {
        ensure!(last.contains(word), "{what} does not name {word}: {last}");
    }
    ensure!(!TELLING.iter().any(|part| said.contains(part)), "{what} tells the password: {said}");
    ensure!(!said.contains("panicked"), "{what} is no reason to panic: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_wrong_for_a_while_is_tried_again() -> Result<()> {
    let authority = Authority::new()?;
    let redis = SecuredRedis::start(&authority).await?;
    let cluster = cluster_on(&redis, &authority, 1).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("secured").await?;
    redis.ask(&["ACL", "SETUSER", "mille", "resetpass", ">another"]).await?;
    redis.ask(&["CLIENT", "KILL", "USER", "mille"]).await?;
    eventually(soon(), async || {
        let edit = ada.add_node(&project, "TransformNode", "meanwhile").await;
        ensure!(edit.is_err(), "the node is still let in");
        Ok(())
    })
    .await?;
    redis.ask(&["ACL", "LOAD"]).await?;
    eventually(soon(), async || Ok(ada.add_node(&project, "TransformNode", "afterwards").await?)).await?;
    ensure!(!TELLING.iter().any(|part| cluster.log(0).contains(part)), "the password is told");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_live_on_a_secured_redis_cluster_and_through_a_failover() -> Result<()> {
    let authority = Authority::new()?;
    let shards = RedisCluster::start(Setup::secured(&authority)).await?;
    let url = shards.url();
    ensure!(url.starts_with("rediss-cluster://mille:") && url.contains("@localhost:"), "{url}");
    edits_reach_the_other_node_also_after_a_failover(Store::Cluster(shards), &url, &authority).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_live_behind_secured_sentinels_and_through_a_failover() -> Result<()> {
    let authority = Authority::new()?;
    let sentinels = RedisSentinels::start(Setup::secured(&authority)).await?;
    let url = sentinels.url();
    ensure!(url.starts_with("rediss-sentinel://mille:") && url.contains("&sentinelPassword="), "{url}");
    edits_reach_the_other_node_also_after_a_failover(Store::Sentinel(sentinels), &url, &authority).await?;
    // The very passwords of sentinels are asked for.
    let sentinels = RedisSentinels::start(Setup::secured(&authority)).await?;
    let (right, wrong) = (sentinels.url(), sentinels.url().replace("sentinelPassword=", "sentinelPassword=no-"));
    ensure!(right != wrong, "{right}");
    must_not_start("a wrong password for sentinels", &wrong, Some(&path_text(&authority.file())), &["REDIS_URL"]).await
}

async fn edits_reach_the_other_node_also_after_a_failover(
    mut store: Store,
    url: &str,
    authority: &Authority,
) -> Result<()> {
    let cluster = Cluster::of(2)
        .on(url)
        .with("MILLE_REDIS_CA_FILE", &path_text(&authority.file()))
        .with("RUST_LOG", "trace")
        .quiet()
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("secured").await?;
    let socket = cluster.user(1, "ada").socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    let mut replica = Replica::new();
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    let edit = async |name: &str| {
        let node = node_input(Some(name), "GraphNode", name);
        let sent = json!({"p": project.id, "op": format!("add-{name}"), "node": node});
        eventually(patience(REPLACED_SECONDS), async || {
            Ok(ada.ask(d::ADD_NODE, "addPlanDagNode", sent.clone()).await?)
        })
        .await
    };
    edit("before").await?;
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;

    let lost = store.number_of(&format!("mille:{{plan:{}}}:log", project.plan)).await?;
    store.server_mut(lost)?.kill_9()?;
    let heir = store.promoted_instead_of(lost).await?;
    edit("after").await?;
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    ensure!(replica.snapshots() == 1, "the listener hears on as if nothing had happened");
    ensure!(replica.revision() == Some(ada.revision(&project).await?), "each edit is there once");

    let refusals = store.server(heir)?.ask(&["ACL", "LOG"]).await?;
    ensure!(refusals.items().is_empty(), "a right is missing: {refusals:?}");
    for node in 0..2 {
        let log = cluster.log(node);
        ensure!(!log.contains(NODES_PASSWORD) && !log.contains("asked-by-sentinels"), "node {node} tells a password");
        ensure!(!log.contains("NOPERM"), "node {node} was refused something");
    }
    Ok(())
}
