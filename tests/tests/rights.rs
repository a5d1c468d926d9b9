//! The promise: whoever loses a right loses it everywhere and at once, and in time even when the message that says so is
//! lost. Three nodes; the token is revoked, or the member removed or demoted, on another node than the one that must act.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Event, PresenceSocket, Project, Replica, Revision, Token, documents as d, eventually, patience,
    refused, soon, within,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

const NODES: usize = 3;
const SUBSCRIBERS: usize = 300;
/// Subscribers that open their sockets at the same time.
const OPENING_AT_ONCE: usize = 25;
/// Edits go on at this pace meanwhile.
const EDIT_INTERVAL: Duration = Duration::from_millis(25);
/// The sweep of the tests in which messages are lost. A fifth of it is left when the last project begins to read, which must be
/// more than this machine may stand still.
const SWEEP_SECONDS: f64 = 6.0;

fn token_id(user: &str) -> String {
    format!("token-of-{user}")
}

/// Somebody with a token as an identity provider makes it.
fn bearer(cluster: &Cluster, node: usize, user: &str) -> Client {
    cluster.bearer(node, user, Token::of(user).id(&token_id(user)).issued_now().sign())
}

fn admin(cluster: &Cluster, node: usize) -> Client {
    cluster.bearer(node, "root", Token::of("root").scope("admin").sign())
}

// ---- many who lose their rights while edits go on --------------------------------------------------------------------

/// How a subscriber listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listens {
    Deltas,
    Presence,
}

/// How a subscriber loses the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    Membership,
    UsersTokens,
    OneToken,
}

/// What a subscriber saw.
struct Seen {
    ended: Instant,
    /// The last place in the log it was told of.
    last: Option<Revision>,
}

fn subscriber(number: usize) -> (String, Listens, Loses) {
    let listens = if number.is_multiple_of(4) { Listens::Presence } else { Listens::Deltas };
    let loses = match number % 6 {
        0 | 3 | 5 => Loses::Membership,
        1 | 4 => Loses::UsersTokens,
        _ => Loses::OneToken,
    };
    (format!("user-{number}"), listens, loses)
}

/// Listens until the end, which must be the one that belongs to the loss.
async fn listen(client: Client, project: Project, listens: Listens, loses: Loses) -> Result<JoinHandle<Result<Seen>>> {
    let patience = patience(120.0);
    if listens == Listens::Presence {
        let mut socket = client.presence(&project).await?;
        return Ok(tokio::spawn(async move {
            let closing = socket.closing(patience).await?;
            ensure!(closing.code == Some(4403), "presence ends with {closing:?}");
            Ok(Seen { ended: Instant::now(), last: None })
        }));
    }
    let socket = client.socket().await?;
    let variables = json!({"p": project.id, "plan": project.plan, "after": null, "snapshot": true});
    let mut deltas = socket.start(d::FOLLOW_BRIEFLY, variables).await?;
    let first = deltas.value("planDagDeltaChanged").await?;
    Ok(tokio::spawn(async move {
        let mut last = Some(Revision::of(&first["revision"])?);
        loop {
            match deltas.next_within(patience).await? {
                Event::Next(payload) => {
                    last = Some(Revision::of(&payload["data"]["planDagDeltaChanged"]["revision"])?);
                }
                Event::Error(errors) if loses == Loses::Membership => {
                    let ended = Instant::now();
                    ensure!(errors[0]["extensions"]["code"] == "FORBIDDEN", "the stream ends with {errors}");
                    // The socket has other projects to serve; whatever else came of this stream would have closed it.
                    socket.run_one(d::ME, json!({})).await.context("the socket goes on")?;
                    return Ok(Seen { ended, last });
                }
                Event::Closed(closing) if loses != Loses::Membership && closing.code == Some(4403) => {
                    return Ok(Seen { ended: Instant::now(), last });
                }
                other => bail!("{loses:?} ends with {other:?}"),
            }
        }
    }))
}

/// Edits at a steady pace, and when each was asked for.
async fn keep_editing(
    ada: Client,
    project: Project,
    mut stop: watch::Receiver<bool>,
) -> Result<BTreeMap<Revision, Instant>> {
    let mut pace = interval(EDIT_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = BTreeMap::new();
    for step in 0_u32.. {
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => break,
            _ = pace.tick() => {}
        }
        let at = Instant::now();
        let moved = ada.move_node(&project, "pier", f64::from(step), 1.0).await?;
        asked.insert(Revision::of(&moved["revision"])?, at);
    }
    Ok(asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_lose_their_rights_within_a_second_while_edits_go_on() -> Result<()> {
    let cluster = Cluster::of(NODES).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.add_node_as(&project, "pier", "GraphNode").await?;
    let mut listeners = BTreeMap::new();
    for numbers in (0..SUBSCRIBERS).collect::<Vec<_>>().chunks(OPENING_AT_ONCE) {
        let mut opening = JoinSet::new();
        for number in numbers.iter().copied() {
            let (user, listens, loses) = subscriber(number);
            ada.share(&project, &user, "VIEWER").await?;
            let client = bearer(&cluster, number % NODES, &user);
            opening.spawn(async move { (number, listen(client, project, listens, loses).await) });
        }
        while let Some(opened) = opening.join_next().await {
            let (number, listener) = opened?;
            listeners.insert(number, listener.with_context(|| format!("subscriber {number}"))?);
        }
    }

    let (stop, stopped) = watch::channel(false);
    let editing = tokio::spawn(keep_editing(ada.clone(), project, stopped));
    let (mut asked, mut answered) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..SUBSCRIBERS {
        let (user, _, loses) = subscriber(number);
        asked.insert(number, Instant::now());
        // Never the node that must act.
        let elsewhere = (number + 1) % NODES;
        match loses {
            Loses::Membership => cluster.user(elsewhere, "ada").unshare(&project, &user).await?,
            Loses::UsersTokens => admin(&cluster, elsewhere).revoke_user(&user).await?,
            Loses::OneToken => admin(&cluster, elsewhere).revoke_token(&token_id(&user)).await?,
        };
        answered.insert(number, Instant::now());
    }
    let mut seen = BTreeMap::new();
    for (number, listener) in listeners {
        let end = within(patience(30.0), "the end of a subscriber", listener).await??;
        seen.insert(number, end.with_context(|| format!("subscriber {number}: {:?}", subscriber(number)))?);
    }
    stop.send(true)?;
    let edits = editing.await??;

    let since = |begins: &BTreeMap<usize, Instant>| {
        let mut delays: Vec<(Duration, usize)> =
            seen.iter().map(|(number, seen)| (seen.ended.saturating_duration_since(begins[number]), *number)).collect();
        delays.sort();
        delays
    };
    let (from_question, from_answer) = (since(&asked), since(&answered));
    eprintln!("{SUBSCRIBERS} lost their rights during {} edits, and saw the end", edits.len());
    for (what, delays) in [("question", &from_question), ("answer", &from_answer)] {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(delays, share));
        eprintln!("  after the {what}: p50 {p50:?}, p99 {p99:?}, max {max:?}");
    }
    let p99 = quantile(&from_answer, 0.99);
    ensure!(p99 <= patience(1.0), "p99 {p99:?}; the last: {:?}", &from_answer[from_answer.len() - 5..]);
    ensure!(edits.len() >= 10, "edits went on: {}", edits.len());
    for (number, Seen { ended, last }) in &seen {
        let Some(asked) = last.and_then(|last| edits.get(&last)) else { continue };
        let limit = (*ended).min(answered[number] + patience(1.0));
        ensure!(*asked <= limit, "subscriber {number} was told of an edit that was made after its right had ended");
    }
    Ok(())
}

/// The delay that this share of them does not exceed.
fn quantile(sorted: &[(Duration, usize)], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1].0
}

// ---- when the message is lost ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_ends_within_the_sweep_when_the_message_is_lost() -> Result<()> {
    let cluster = Cluster::of(NODES).with("MILLE_SWEEP_SECONDS", &format!("{SWEEP_SECONDS}")).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut listeners = Vec::new();
    for number in 0..24 {
        let (user, listens, loses) = subscriber(number);
        ada.share(&project, &user, "VIEWER").await?;
        let client = bearer(&cluster, number % NODES, &user);
        listeners.push((number, listen(client, project, listens, loses).await?));
    }
    // Written past the nodes, so that nobody tells anybody.
    let members = format!("mille:{{project:{}}}:members", project.id);
    let (of_project, of_revocations) =
        (cluster.serving(&members).await?, cluster.serving("mille:{revocations}").await?);
    let (now, later) = (unix_ms()?.to_string(), (unix_ms()? + 3_600_000).to_string());
    for (number, _) in &listeners {
        let (user, _, loses) = subscriber(*number);
        let what = match loses {
            Loses::Membership => {
                of_project.ask(&["HDEL", &members, &user]).await?;
                continue;
            }
            Loses::UsersTokens => format!("user {user}"),
            Loses::OneToken => format!("token {}", token_id(&user)),
        };
        of_revocations.ask(&["HSET", "mille:{revocations}:at", &what, &now]).await?;
        of_revocations.ask(&["ZADD", "mille:{revocations}", &later, &what]).await?;
    }
    let written = Instant::now();
    for (number, listener) in listeners {
        let seen = within(patience(2.0 * SWEEP_SECONDS), "the end of a subscriber", listener).await??;
        let took = seen.with_context(|| format!("{:?}", subscriber(number)))?.ended.saturating_duration_since(written);
        ensure!(took <= patience(SWEEP_SECONDS), "{:?} took {took:?}", subscriber(number));
    }
    Ok(())
}

fn unix_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

// ---- what a revoked token is worth -----------------------------------------------------------------------------------

/// That a token opens no door of a node.
async fn every_door_is_shut(cluster: &Cluster, node: usize, project: &Project, token: &str) -> Result<()> {
    let client = cluster.bearer(node, "bob", token);
    let refusal = refused(client.run(d::ME, json!({})).await)?;
    ensure!(refusal.code == "UNAUTHENTICATED" && refusal.status == 401, "node {node}: {refusal:?}");
    let refusal = refused(client.stream(d::FOLLOW, json!({"p": project.id})).await.map(drop))?;
    ensure!(refusal.code == "UNAUTHENTICATED" && refusal.status == 401, "a stream of node {node}: {refusal:?}");
    let failure = client.socket().await.err().context("a GraphQL socket opens")?;
    ensure!(format!("{failure:#}").contains("4403"), "a GraphQL socket of node {node}: {failure:#}");
    let mut presence = PresenceSocket::connect(&client, project.id).await?;
    let closing = presence.closing(soon()).await?;
    ensure!(closing.code == Some(4403), "a presence socket of node {node}: {closing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_revoked_comes_back_with_a_new_token_and_never_with_the_old_one() -> Result<()> {
    let mut cluster = Cluster::of(NODES).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    let old = Token::of("bob").issued_now().sign();
    let undated = Token::of("bob").sign();
    for node in 0..NODES {
        cluster.bearer(node, "bob", &*old).run(d::ME, json!({})).await?;
    }
    admin(&cluster, 1).revoke_user("bob").await?;
    // The other nodes hear of it a moment later.
    for node in 0..NODES {
        let client = cluster.bearer(node, "bob", &*old);
        eventually(patience(1.0), async || refused(client.run(d::ME, json!({})).await).map(drop)).await?;
    }
    // Tokens count whole seconds, so the next one is late enough in the next second.
    let new = eventually(patience(3.0), async || {
        let new = Token::of("bob").issued_now().sign();
        cluster.bearer(0, "bob", &*new).run(d::ME, json!({})).await?;
        Ok(new)
    })
    .await?;
    for lap in ["before a restart", "after it"] {
        for node in 0..NODES {
            every_door_is_shut(&cluster, node, &project, &old).await.context(lap)?;
            every_door_is_shut(&cluster, node, &project, &undated).await.context(lap)?;
            let bob = cluster.bearer(node, "bob", &*new);
            bob.add_node(&project, "GraphNode", "by bob").await.with_context(|| format!("{lap}, node {node}"))?;
            bob.presence(&project).await.with_context(|| format!("{lap}, node {node}"))?;
        }
        cluster.restart(2).await?;
    }

    // An open socket goes on with its good token, whatever bad one it is offered.
    let bob = cluster.bearer(2, "bob", &*new);
    let (socket, mut presence) = (bob.socket().await?, bob.presence(&project).await?);
    let refusal = refused(socket.run_one(d::REFRESH_AUTH, json!({"token": old})).await)?;
    ensure!(refusal.code == "UNAUTHENTICATED", "a revoked token is no fresh one: {refusal:?}");
    presence.send("authenticate", json!({"token": old})).await?;
    let error = presence.next_error().await?;
    ensure!(error["code"] == "UNAUTHENTICATED", "{error}");
    ensure!(socket.run_one(d::ME, json!({})).await?["me"]["id"] == "bob", "the socket goes on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_outlives_a_redis_that_comes_back_empty() -> Result<()> {
    let mut cluster = Cluster::of(2).single().start().await?;
    let token = Token::of("bob").issued_now().sign();
    admin(&cluster, 0).revoke_user("bob").await?;
    cluster.redis()?.restart().await?;
    let redis = cluster.redis()?;
    eventually(soon(), async || {
        let kept = redis.ask(&["ZSCORE", "mille:{revocations}", "user bob"]).await?;
        kept.text().context("nothing is put back yet").map(drop)
    })
    .await?;
    // A node that begins now knows only what it finds there.
    cluster.restart(1).await?;
    let refusal = refused(cluster.bearer(1, "bob", token).run(d::ME, json!({})).await)?;
    ensure!(refusal.code == "UNAUTHENTICATED", "{refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_steers_the_cluster_revokes_and_only_what_makes_sense() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let root = admin(&cluster, 0);
    let ask = async |client: &Client, variables: Value| refused(client.run(d::REVOKE_TOKENS, variables).await);
    let refusal = ask(&cluster.user(0, "ada"), json!({"user": "bob"})).await?;
    ensure!(refusal.code == "FORBIDDEN", "{refusal:?}");
    for variables in [
        json!({}),
        json!({"user": "bob", "token": "t"}),
        json!({"user": ""}),
        json!({"token": "x".repeat(201)}),
        json!({"user": "bob", "until": "tomorrow"}),
        json!({"user": "bob", "until": "2001-01-01T00:00:00Z"}),
    ] {
        let refusal = ask(&root, variables.clone()).await?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{variables}: {refusal:?}");
    }
    let bob = bearer(&cluster, 0, "bob");
    let (socket, other) = (bob.socket().await?, cluster.user(0, "bob").socket().await?);
    let revoked = json!({"token": token_id("bob"), "until": "2999-01-01T00:00:00+01:00"});
    ensure!(root.run(d::REVOKE_TOKENS, revoked).await?["revokeTokens"] == true, "it is revoked");
    let closing = socket.closing(patience(1.0)).await?;
    ensure!(closing.code == Some(4403), "{closing:?}");
    ensure!(other.run_one(d::ME, json!({})).await?["me"]["id"] == "bob", "only that token is revoked");

    let metrics = reqwest::get(format!("{}/metrics", cluster.admin_url(0))).await?.text().await?;
    for line in ["revocation_closes_total{cause=\"token\"} 1", "revocations_held 1", "revocation_seconds_count 1"] {
        ensure!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    Ok(())
}

// ---- members ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_removed_is_told_nothing_more_in_any_way() -> Result<()> {
    let cluster = Cluster::of(NODES).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let from = ada.revision(&project).await?.to_string();
    ada.share(&project, "bob", "EDITOR").await?;
    let bob = cluster.user(1, "bob");
    let socket = bob.socket().await?;
    let plan = project.plan.to_string();
    let mut streams = BTreeMap::new();
    for (name, document, variables) in [
        ("planDagDeltaChanged", d::FOLLOW, json!({"p": project.id, "snapshot": true})),
        ("planDagUpdated", d::UPDATED, json!({"plan": plan, "after": from})),
        ("nodeExecutionStatusChanged", d::STATUS, json!({"p": project.id, "after": from})),
        ("collaborationEvents", d::COLLABORATION, json!({"plan": plan})),
    ] {
        streams.insert(name, socket.start(document, variables).await?);
    }
    let mut events = bob.stream(d::FOLLOW, json!({"p": project.id, "snapshot": true})).await?;
    events.next().await?.context("the stream has begun")?;
    socket.run_one(d::JOIN, json!({"p": project.id})).await?;
    let mut adas = ada.presence(&project).await?;
    eventually(soon(), async || {
        let here = cluster.user(2, "ada").ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        ensure!(here.as_array().is_some_and(|all| all.iter().any(|one| one["userId"] == "bob")), "bob is here: {here}");
        Ok(())
    })
    .await?;

    ada.unshare(&project, "bob").await?;
    for (name, stream) in &mut streams {
        let refusal = stream.terminal_error(patience(1.0)).await.with_context(|| (*name).to_owned())?;
        ensure!(refusal.code == "FORBIDDEN", "{name} ends with {refusal:?}");
    }
    let last = loop {
        let (name, data) = events.next().await?.context("the stream ends with a word")?;
        if !data["errors"].is_null() {
            break (name, data);
        }
    };
    ensure!(last.0 == "next" && last.1["errors"][0]["extensions"]["code"] == "FORBIDDEN", "{last:?}");
    let end = events.next().await?;
    ensure!(end.as_ref().is_some_and(|(name, _)| name == "complete"), "{end:?}");
    let gone = |data: &Value| data["userId"] == "bob" && data["isOnline"] == false;
    adas.next_where("user_presence", patience(1.0), gone).await.context("the roster")?;

    let deltas = json!({"p": project.id, "plan": project.plan, "after": from});
    for (document, variables) in [
        (d::DELTAS, deltas),
        (d::GET_PLAN, json!({"p": project.id})),
        (d::PRESENCE, json!({"p": project.id})),
        (d::JOIN, json!({"p": project.id})),
        (d::FOLLOW, json!({"p": project.id})),
        (d::COLLABORATION, json!({"plan": plan})),
    ] {
        for node in 0..NODES {
            let mut asked = cluster.user(node, "bob").socket().await?.start(document, variables.clone()).await?;
            let refusal = asked.refusal().await?;
            ensure!(refusal.code == "NOT_FOUND", "node {node}, {document}: {refusal:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_becomes_a_viewer_keeps_every_stream_and_edits_on_no_node() -> Result<()> {
    let cluster = Cluster::of(NODES).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    let mut streams = Vec::new();
    for node in 0..NODES {
        let bob = cluster.user(node, "bob");
        bob.add_node(&project, "GraphNode", "by an editor").await?;
        let mut deltas = bob.socket().await?.follow(&project, None).await?;
        let mut replica = Replica::new();
        replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
        streams.push((deltas, replica, bob.presence(&project).await?));
    }
    cluster.user(1, "ada").share(&project, "bob", "VIEWER").await?;
    for node in 0..NODES {
        let bob = cluster.user(node, "bob");
        eventually(patience(1.0), async || {
            let refusal = refused(bob.add_node(&project, "GraphNode", "by a viewer").await)?;
            ensure!(refusal.code == "FORBIDDEN", "node {node}: {refusal:?}");
            Ok(())
        })
        .await?;
    }
    ada.add_node_as(&project, "crane", "GraphNode").await?;
    let end = ada.revision(&project).await?;
    for (deltas, replica, presence) in &mut streams {
        while replica.revision() != Some(end) {
            replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
        }
        presence.everything().await.context("presence goes on")?;
    }
    Ok(())
}

/// In the roster that is asked for and not read.
const PRESENT: usize = 40;
/// Long enough that the systems at both ends are full.
const ASKED_AND_NOT_READ: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_presence_socket_that_reads_nothing_is_let_go_of_as_soon_as_any_other() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "VIEWER").await?;
    let mut present = Vec::new();
    for number in 0..PRESENT {
        let user = format!("{number:0<180}");
        ada.share(&project, &user, "VIEWER").await?;
        present.push(cluster.user(0, &user).presence(&project).await?);
    }
    let bob = cluster.user(0, "bob");
    let mut bobs = bob.presence(&project).await?;
    let mut asks = interval(Duration::from_millis(60));
    let until = Instant::now() + ASKED_AND_NOT_READ;
    while Instant::now() < until {
        asks.tick().await;
        bobs.send("join_session", json!({"userId": "bob", "userName": "bob", "avatarColor": "#336699"})).await?;
    }
    let closed = "connections_closed_total{kind=\"presence\",code=\"4403\",reason=\"not_a_member\"} 1";
    ensure!(!cluster.metrics(0).await?.contains(closed), "it is open until then");
    ada.unshare(&project, "bob").await?;
    // A second for the right, and two in which the close could be taken.
    eventually(patience(4.0), async || {
        ensure!(cluster.metrics(0).await?.contains(closed), "it is still open");
        Ok(())
    })
    .await
}
