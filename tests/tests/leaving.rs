//! The promise: a node that is taken out says so before it closes anything, sends its clients away with the time to come
//! back, lets nobody new in, and ends with 0; a socket that grows old moves on the same way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Client, Closing, Cluster, Event, Knock, PresenceSocket, Project, Socket, Subscription, Token, Upgrade,
    documents as d, eventually, patience, soon,
};
use serde_json::{Value, json};

/// Long enough for a slow machine to look at what happens meanwhile.
const NOTICE_SECONDS: u64 = 3;
const WINDOW_SECONDS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_noticed_before_anything_is_closed_and_then_goes_step_by_step() -> Result<()> {
    let mut cluster = Cluster::of(2)
        .with("MILLE_DRAIN_NOTICE_SECONDS", &NOTICE_SECONDS.to_string())
        .with("MILLE_DRAIN_WINDOW_SECONDS", &WINDOW_SECONDS.to_string())
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    // Somebody else: who is shown to others is a user, and of one who is there too nobody is seen to go.
    ada.share(&project, "bob", "VIEWER").await?;
    let mut deltas = following(&ada, &project).await?;
    let variables = json!({"p": project.id, "plan": project.plan, "after": null, "snapshot": true});
    let mut stream = ada.stream(d::FOLLOW_BRIEFLY, variables).await?;
    stream.next().await?.context("a snapshot")?;
    let mut grace = cluster.user(0, "ada").presence(&project).await?;
    let mut witness = cluster.user(1, "bob").presence(&project).await?;
    witness.everything().await?;

    let admin = Client::new(&cluster.admin_url(0));
    ensure!(phase(&admin).await? == "serving");
    let asked = admin.post_text("/admin/drain", "application/json", String::new()).await?;
    ensure!(asked.status == 202, "{asked:?}");

    // First only those who ask how it is are told. Everything else is as ever, for those who still come, too.
    ensure!(admin.get_text("/readyz").await? == "not ready: serving\n");
    ensure!(phase(&admin).await? == "unready", "sockets are closed before anybody could notice");
    let late = ada.socket().await?;
    let answer = ada.post(&json!({"query": d::ME})).await?;
    ensure!(answer.status == 200 && answer.headers.get("connection").is_some_and(|value| value == "close"));
    ensure!(late.is_open() && deltas.waiting().is_none());
    let operator = cluster.bearer(1, "ada", Token::of("ada").scope("admin").sign());
    eventually(Duration::from_secs(1), async || {
        let seen = operator.ask(d::CLUSTER, "cluster", json!({})).await?;
        let states: Vec<&str> = nodes(&seen).filter_map(|node| node["state"].as_str()).collect();
        ensure!(states.contains(&"DRAINING") && states.contains(&"UP"), "the others hear of it at once: {seen}");
        Ok(())
    })
    .await?;

    // Then sockets go, and nobody is let in.
    eventually(patience(NOTICE_SECONDS as f64 + 5.0), async || {
        ensure!(phase(&admin).await? == "closing");
        Ok(())
    })
    .await?;
    let refused = Socket::init(ada.base(), json!({})).await?.err().context("a node that leaves takes no socket")?;
    is_farewell(&refused, "drain")?;
    let presence_url = Knock::with_token(project.id, &Token::of("ada").sign());
    let Upgrade::Open(raw, _) = PresenceSocket::knock(ada.base(), &presence_url[0]).await? else {
        anyhow::bail!("a handshake always upgrades")
    };
    let mut refused = PresenceSocket::over(*raw, "ada");
    ensure!(refused.next("reconnect").await?["reason"] == "drain");
    ensure!(refused.closing(soon()).await?.code == Some(1012));
    let refused = ada.knock_at_stream(d::FOLLOW_BRIEFLY, json!({"p": project.id})).await?;
    ensure!(
        refused.status == 503 && refused.refusal().is_some_and(|refusal| refusal.code == "DRAINING"),
        "{refused:?}"
    );

    let told = cluster.metrics(0).await?;
    ensure!(told.contains("\ndrain_phase 2\n"), "the metric says where it is: {told}");

    // Each in its turn: told when to come back, and for streams without an end that would be final.
    let hint = grace.next_where("reconnect", patience(WINDOW_SECONDS as f64 + 5.0), |_| true).await?;
    ensure!(hint["reason"] == "drain" && hint["minMs"].as_u64() < hint["maxMs"].as_u64(), "{hint}");
    ensure!(grace.closing(soon()).await?.code == Some(1012));
    let closed = deltas.next_within(patience(WINDOW_SECONDS as f64 + 5.0)).await?;
    ensure!(was_sent_away(&closed, "drain"), "{closed:?}");
    while let Some((name, event)) = stream.next().await? {
        ensure!(name == "next" && event["errors"].is_null(), "a stream that was sent away says {name}: {event}");
    }
    let exit = cluster.exit(0, patience(20.0)).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", cluster.log(0));

    // Its lease is given back, so nobody waits for it to expire; and nobody was seen to come or go.
    let seen = operator.ask(d::CLUSTER, "cluster", json!({})).await?;
    ensure!(nodes(&seen).count() == 1, "the node is still there: {seen}");
    eventually(soon(), async || {
        ensure!(cluster.log(1).contains("nodes have left"), "the witness' node has seen that it went");
        Ok(())
    })
    .await?;
    let told = witness.quiet("user_presence").await?;
    ensure!(told.is_empty(), "the roster flickers: {told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_in_a_hurry_asks_twice() -> Result<()> {
    let long = "60";
    let mut cluster = Cluster::of(2)
        .with("MILLE_DRAIN_NOTICE_SECONDS", long)
        .with("MILLE_DRAIN_WINDOW_SECONDS", long)
        .with("MILLE_SHUTDOWN_SECONDS", "135")
        .start()
        .await?;
    let (polite, keyboard) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let project = polite.create_project("harbour").await?;
    let mut at_first = following(&polite, &project).await?;
    let mut at_second = following(&keyboard, &project).await?;

    // SIGINT alone is a hurry.
    cluster.signal(1, "INT")?;
    ensure!(was_sent_away(&at_second.next().await?, "drain"));
    ensure!(cluster.exit(1, patience(20.0)).await?.code() == Some(0));

    cluster.signal(0, "TERM")?;
    let admin = Client::new(&cluster.admin_url(0));
    eventually(soon(), async || {
        ensure!(phase(&admin).await? == "unready");
        Ok(())
    })
    .await?;
    ensure!(at_first.waiting().is_none(), "a polite stop waits for load balancers");
    cluster.signal(0, "TERM")?;
    ensure!(was_sent_away(&at_first.next().await?, "drain"));
    ensure!(cluster.exit(0, patience(20.0)).await?.code() == Some(0));
    Ok(())
}

/// Whoever stops processes does not know that an operator has asked already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signal_that_follows_an_operators_wish_is_no_hurry() -> Result<()> {
    let mut cluster = Cluster::of(1)
        .embedded()
        .with("MILLE_DRAIN_NOTICE_SECONDS", "60")
        .with("MILLE_SHUTDOWN_SECONDS", "90")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let mut deltas = following(&ada, &ada.create_project("harbour").await?).await?;
    let admin = Client::new(&cluster.admin_url(0));
    admin.post_text("/admin/drain", "application/json", String::new()).await?;
    let heard = async |times: usize| {
        eventually(soon(), async || {
            let log = cluster.log(0);
            ensure!(log.matches("asked to leave by a signal").count() == times, "{log}");
            Ok(())
        })
        .await
    };
    cluster.signal(0, "TERM")?;
    heard(1).await?;
    ensure!(phase(&admin).await? == "unready" && deltas.waiting().is_none(), "the first one changes nothing");
    cluster.signal(0, "TERM")?;
    ensure!(was_sent_away(&deltas.next().await?, "drain"), "the second one does");
    ensure!(cluster.exit(0, patience(20.0)).await?.code() == Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_redis_is_silent_leaves_all_the_same() -> Result<()> {
    let mut cluster = Cluster::of(1).single().start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut deltas = following(&ada, &project).await?;
    let mut here = ada.presence(&project).await?;
    cluster.redis()?.pause()?;
    cluster.signal(0, "TERM")?;
    ensure!(was_sent_away(&deltas.next().await?, "drain"));
    ensure!(here.closing(soon()).await?.code == Some(1012));
    let exit = cluster.exit(0, patience(20.0)).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", cluster.log(0));
    cluster.redis()?.resume()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_grows_old_moves_on_and_misses_nothing() -> Result<()> {
    let cluster = Cluster::of(1).embedded().with("MILLE_CONNECTION_AGE_MAX_SECONDS", "3").start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let begin = ada.revision(&project).await?.to_string();
    let mut deltas = ada.socket().await?.follow(&project, Some(&begin)).await?;
    let mut here = ada.presence(&project).await?;
    let old = patience(10.0);
    let closed = deltas.next_within(old).await?;
    ensure!(was_sent_away(&closed, "rotate"), "{closed:?}");
    ensure!(here.next_where("reconnect", old, |_| true).await?["reason"] == "rotate");
    ensure!(here.closing(soon()).await?.code == Some(1012));

    ada.add_node(&project, "TransformNode", "meanwhile").await?;
    let mut again = ada.socket().await?.follow(&project, Some(&begin)).await?;
    ensure!(again.value("planDagDeltaChanged").await?["previousRevision"] == begin.as_str());
    let rotated = cluster.metrics(0).await?;
    let rotated = rotated.lines().find_map(|line| line.strip_prefix("connections_rotated_total "));
    ensure!(rotated.is_some_and(|count| count.parse().unwrap_or(0) >= 2), "{rotated:?}");
    Ok(())
}

/// Somebody who has the plan and waits for what comes.
async fn following(client: &Client, project: &Project) -> Result<Subscription> {
    let mut deltas = client.socket().await?.follow(project, None).await?;
    deltas.value("planDagDeltaChanged").await?;
    Ok(deltas)
}

async fn phase(admin: &Client) -> Result<String> {
    let told = admin.get("/admin/drain").await?.body;
    Ok(told["phase"].as_str().with_context(|| format!("a phase: {told}"))?.to_owned())
}

fn nodes(cluster: &Value) -> impl Iterator<Item = &Value> {
    cluster["nodes"].as_array().into_iter().flatten()
}

fn was_sent_away(event: &Event, reason: &str) -> bool {
    matches!(event, Event::Closed(closing) if is_farewell(closing, reason).is_ok())
}

/// Whether a GraphQL socket was closed as a node closes one that is to come back.
fn is_farewell(closing: &Closing, reason: &str) -> Result<()> {
    let told: Value = serde_json::from_str(&closing.reason).with_context(|| format!("{closing:?}"))?;
    ensure!(closing.code == Some(1012) && told["r"] == reason, "{closing:?}");
    let (min, max) = (told["min"].as_u64().context("min")?, told["max"].as_u64().context("max")?);
    ensure!(min < max && Duration::from_millis(max) < Duration::from_secs(10), "{told}");
    Ok(())
}
