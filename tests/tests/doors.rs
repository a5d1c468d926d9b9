//! The promise: a door takes a token wherever the contract says, people see their own projects only, and rights that
//! change under open streams count at once. Who may ask what is `authorisation.rs`.

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Knock, PresenceSocket, Replica, Token, Upgrade, documents as d, eventually, patience, refused,
    soon,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_presence_socket_takes_the_token_in_three_ways_and_needs_a_project() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let olga = cluster.user(0, "olga");
    let project = olga.create_project("harbour").await?;
    let (base, token) = (cluster.url(0), Token::of("olga").sign());
    for knock in Knock::with_token(project.id, &token) {
        let upgrade = PresenceSocket::knock(&base, &knock).await?;
        let Upgrade::Open(raw, _) = upgrade else { bail!("no socket for {knock:?}: {upgrade:?}") };
        let roster = PresenceSocket::over(*raw, "olga").join(None).await?;
        ensure!(roster[0]["userId"] == "olga", "the joiner is in the roster: {roster}");
    }
    for query in [format!("token={token}"), format!("project_id=harbour&token={token}")] {
        let knock = Knock { query, ..Knock::default() };
        let upgrade = PresenceSocket::knock(&base, &knock).await?;
        ensure!(matches!(upgrade, Upgrade::Refused(400)), "{knock:?}: {upgrade:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_their_own_projects_only() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
    let hers = ada.create_project("hers").await?;
    let his = bob.create_project("his").await?;
    let shared = ada.create_project("shared").await?;
    ada.share(&shared, "bob", "VIEWER").await?;
    let ids = async |client: &Client| -> Result<Vec<(i64, String)>> {
        let list = client.ask(d::PROJECTS, "projects", json!({})).await?;
        let list = list.as_array().context("a list")?;
        let mut ids: Vec<_> = list
            .iter()
            .map(|project| {
                (project["id"].as_i64().unwrap_or_default(), project["role"].as_str().unwrap_or_default().to_owned())
            })
            .collect();
        ids.sort();
        Ok(ids)
    };
    let sorted = |mut list: Vec<(i64, String)>| {
        list.sort();
        list
    };
    let hers_expected = sorted(vec![(hers.id, "OWNER".into()), (shared.id, "OWNER".into())]);
    let his_expected = sorted(vec![(his.id, "OWNER".into()), (shared.id, "VIEWER".into())]);
    eventually(soon(), async || {
        let (hers, his) = (ids(&ada).await?, ids(&bob).await?);
        ensure!(hers == hers_expected, "ada sees {hers:?}");
        ensure!(his == his_expected, "bob sees {his:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_never_loses_its_last_owner() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(0, "bob"));
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    for outcome in [ada.unshare(&project, "ada").await, ada.share(&project, "ada", "EDITOR").await] {
        let refusal = refused(outcome)?;
        ensure!(refusal.code == "VALIDATION_FAILED", "the last owner: {refusal:?}");
    }
    ada.share(&project, "bob", "OWNER").await?;
    ada.unshare(&project, "ada").await.context("one of two owners may leave")?;
    let refusal = refused(ada.plan(&project).await)?;
    ensure!(refusal.code == "NOT_FOUND", "who left is an outsider: {refusal:?}");
    let refusal = refused(bob.unshare(&project, "bob").await)?;
    ensure!(refusal.code == "VALIDATION_FAILED", "now bob is the last: {refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_removed_loses_every_stream_on_every_node_at_once() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    let bob = cluster.user(1, "bob");
    let socket = bob.socket().await?;
    let mut deltas = socket.follow(&project, None).await?;
    deltas.value("planDagDeltaChanged").await?;
    let mut presence = bob.presence(&project).await?;

    ada.unshare(&project, "bob").await?;
    // The promise is one second; the rest is for a busy machine.
    let refusal = deltas.terminal_error(patience(2.0)).await?;
    ensure!(refusal.code == "FORBIDDEN", "the stream ends with {refusal:?}");
    let closing = presence.closing(patience(2.0)).await?;
    ensure!(closing.code == Some(4403), "the presence socket ends with {closing:?}");
    eventually(patience(2.0), async || {
        let refusal = refused(bob.add_node(&project, "GraphNode", "late").await)?;
        ensure!(refusal.code == "NOT_FOUND", "an outsider's edit: {refusal:?}");
        Ok(())
    })
    .await?;
    ensure!(socket.is_open(), "the GraphQL socket has other projects to serve");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_project_every_stream_ends_for_good_on_every_node() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut streams = Vec::new();
    for node in 0..2 {
        let socket = cluster.user(node, "ada").socket().await?;
        for (document, variables) in [
            (d::FOLLOW, json!({"p": project.id})),
            (d::UPDATED, json!({"plan": project.plan.to_string()})),
            (d::STATUS, json!({"p": project.id})),
            (d::COLLABORATION, json!({"plan": project.plan.to_string()})),
        ] {
            streams.push((node, document, socket.start(document, variables).await?));
        }
        // `collaborationEvents` has no `after`: knock until it answers. The others were asked for before it.
        let (_, _, last) = streams.last_mut().context("four streams")?;
        eventually(soon(), async || {
            ada.add_node(&project, "GraphNode", "knock").await?;
            last.waiting().context("no event yet")
        })
        .await?;
    }
    let mut presence = cluster.user(1, "ada").presence(&project).await?;
    ada.run(d::DELETE_PROJECT, json!({"p": project.id})).await?;
    for (node, document, stream) in &mut streams {
        let refusal = stream.terminal_error(soon()).await?;
        let is_final = refusal.code == "NOT_FOUND" && refusal.extensions["retryable"] == false;
        ensure!(is_final, "node {node}, {document}: {refusal:?}");
    }
    let closing = presence.closing(soon()).await?;
    ensure!(closing.code == Some(4403), "the presence socket ends with {closing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_becomes_a_viewer_keeps_the_stream_and_loses_the_pen() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    let bob = cluster.user(1, "bob");
    bob.add_node_as(&project, "pier", "GraphNode").await.context("an editor edits")?;
    let mut deltas = bob.socket().await?.follow(&project, None).await?;
    let mut replica = Replica::new();
    replica.apply(&deltas.value("planDagDeltaChanged").await?)?;

    ada.share(&project, "bob", "VIEWER").await?;
    let mut step = 0.0;
    eventually(patience(2.0), async || {
        step += 1.0;
        let refusal = refused(bob.move_node(&project, "pier", step, 0.0).await)?;
        ensure!(refusal.code == "FORBIDDEN", "a viewer's edit: {refusal:?}");
        Ok(())
    })
    .await?;
    ada.add_node_as(&project, "crane", "GraphNode").await?;
    let end = ada.revision(&project).await?;
    while replica.revision() != Some(end) {
        replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_ends_when_its_token_does_unless_it_brings_a_fresh_one() -> Result<()> {
    let cluster = Cluster::of(1).with("MILLE_JWT_LEEWAY_SECONDS", "0").start().await?;
    let short = |user: &str| cluster.bearer(0, user, Token::of(user).lives_secs(4).sign());
    let (left, renewed) = (short("ada").socket().await?, short("bob").socket().await?);
    let warning = left.ping_payload(soon(), |payload| payload["type"] == "token_expiring").await?;
    ensure!(warning["inMs"].as_i64().is_some_and(|ms| (0..=4_000).contains(&ms)), "{warning}");
    let fresh = Token::of("bob").sign();
    let viewer = renewed.run_one(d::REFRESH_AUTH, json!({"token": fresh})).await?;
    ensure!(viewer["refreshAuth"]["id"] == "bob", "{viewer}");
    let foreign = renewed.run_one(d::REFRESH_AUTH, json!({"token": Token::of("ada").sign()})).await;
    refused(foreign).context("a token of someone else is taken")?;
    let closing = left.closing(soon()).await?;
    ensure!(closing.code == Some(4403), "an expired token: {closing:?}");
    ensure!(renewed.run_one(d::ME, json!({})).await?["me"]["id"] == "bob", "the renewed socket goes on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_ends_when_its_token_does_unless_it_brings_a_fresh_one() -> Result<()> {
    let cluster = Cluster::of(1).with("MILLE_JWT_LEEWAY_SECONDS", "0").start().await?;
    let project = cluster.user(0, "ada").create_project("harbour").await?;
    let short = cluster.bearer(0, "ada", Token::of("ada").lives_secs(4).sign());
    let (mut left, mut renewed) = (short.presence(&project).await?, short.presence(&project).await?);
    for socket in [&mut left, &mut renewed] {
        let warning = socket.next("token_expiring").await?;
        ensure!(warning["inMs"].as_i64().is_some_and(|ms| (0..=4_000).contains(&ms)), "{warning}");
    }
    // What is no fresh token changes nothing, for better or worse.
    let refusals = [
        (Token::of("bob").sign(), "FORBIDDEN"),
        (Token::of("ada").lives_secs(-60).sign(), "UNAUTHENTICATED"),
        (Token::of("ada").sign_with("a secret that the cluster does not know, long enough"), "UNAUTHENTICATED"),
    ];
    for (token, code) in refusals {
        left.send("authenticate", json!({"token": token})).await?;
        let error = left.next_error().await?;
        ensure!(error["code"] == code, "{error}");
    }
    renewed.send("authenticate", json!({"token": Token::of("ada").sign()})).await?;
    let closing = left.closing(soon()).await?;
    ensure!(closing.code == Some(4403), "an expired token: {closing:?}");
    renewed.send("ping", json!({})).await?;
    renewed.next("pong").await.context("the renewed socket goes on")?;
    Ok(())
}
