//! The promise: what somebody else was given to come back with — a resume token, a revision, an operation id — opens
//! nothing that its thief may not see anyway.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Client, Cluster, PresenceSocket, Project, Token, documents as d, edge_input, node_input, patience, refused, soon,
};
use serde_json::{Value, json};

/// Stands in everything that only members of the one project may see.
const SECRET: &str = "the-secret-pier";

/// Ada's project with a secret in it, and Bob's; both have a few changes.
async fn two_houses(cluster: &Cluster) -> Result<(Client, Project, Client, Project)> {
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
    let (hers, his) = (ada.create_project("hers").await?, bob.create_project("his").await?);
    for step in 0..5 {
        ada.add_node_as(&hers, &format!("{SECRET}-{step}"), "GraphNode").await?;
        bob.add_node_as(&his, &format!("shed-{step}"), "GraphNode").await?;
    }
    Ok((ada, hers, bob, his))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_token_is_worth_nothing_in_other_hands() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, hers, _, his) = two_houses(&cluster).await?;
    ada.share(&hers, "bob", "VIEWER").await?;
    let mut adas = PresenceSocket::connect(&ada, hers.id).await?;
    let welcome = adas.next("welcome").await?;
    let stolen = welcome["resumeToken"].as_str().context("a resume token")?.to_owned();
    adas.join(None).await?;
    adas.switch_document(SECRET, "canvas").await?;
    adas.next("document_activity").await?;

    // In the same project, on her node and on another; in his own; and as a token that was bent a little.
    let bent = bend(&stolen);
    for (node, project, token) in
        [(0, &hers, &stolen), (1, &hers, &stolen), (0, &his, &stolen), (1, &his, &stolen), (0, &hers, &bent)]
    {
        let mut thief = PresenceSocket::connect(&cluster.user(node, "bob"), project.id).await?;
        let own = thief.next("welcome").await?;
        let roster = thief.join(Some(token)).await?;
        ensure!(own["connectionId"] != welcome["connectionId"], "the thief got her connection");
        let bob = roster.as_array().and_then(|all| all.iter().find(|one| one["userId"] == "bob"));
        let place = bob.context("the thief is there as himself")?["documents"].clone();
        ensure!(place == json!({}), "the thief got her place: {place}");
        if project.id == his.id {
            ensure!(!roster.to_string().contains("ada"), "another project's people: {roster}");
            let heard = thief.everything().await?;
            ensure!(!format!("{heard:?}").contains(SECRET), "another project's documents: {heard:?}");
        }
    }
    // She noticed nothing: her socket is open, her place is hers.
    let presence = ada.ask(d::PRESENCE, "projectPresence", json!({"p": hers.id})).await?;
    let all = presence.as_array().context("a list")?;
    let her = all.iter().find(|one| one["userId"] == "ada").context("ada is there")?;
    ensure!(her["connections"] == 1 && her["documents"][SECRET].is_object(), "she lost something: {her}");
    adas.move_cursor(SECRET, 1.0, 1.0).await?;
    adas.next("cursor_update").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_token_does_not_outlive_the_right_to_be_there() -> Result<()> {
    let cluster = Cluster::of(2).with("MILLE_JWT_LEEWAY_SECONDS", "0").start().await?;
    let (ada, hers, bob, _) = two_houses(&cluster).await?;
    ada.share(&hers, "bob", "VIEWER").await?;
    let mut bobs = PresenceSocket::connect(&bob, hers.id).await?;
    let token = bobs.next("welcome").await?["resumeToken"].as_str().context("a resume token")?.to_owned();
    bobs.join(None).await?;
    ada.unshare(&hers, "bob").await?;
    let closing = bobs.closing(patience(2.0)).await?;
    ensure!(closing.code == Some(4403), "{closing:?}");
    // His own token, within its grace: good for nothing any more.
    let expired = Token::of("bob").lives_secs(-60).sign();
    for client in [cluster.user(0, "bob"), cluster.user(1, "bob"), cluster.bearer(0, "bob", expired)] {
        let mut again = PresenceSocket::connect(&client, hers.id).await?;
        // It may be closed before this is said.
        let _ = again
            .send(
                "join_session",
                json!({"userId": "bob", "userName": "bob", "avatarColor": "#000", "resumeToken": token}),
            )
            .await;
        let closing = again.closing(soon()).await?;
        ensure!(closing.code == Some(4403), "{closing:?}");
        let heard = again.everything().await.unwrap_or_default();
        ensure!(heard.is_empty(), "who was removed heard {heard:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_of_another_plan_opens_only_the_own_one() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, hers, bob, his) = two_houses(&cluster).await?;
    let theirs = ada.revision(&hers).await?.to_string();
    let began = ada.deltas_after(&hers, &beginning(&theirs)).await?;
    ensure!(!began.is_empty(), "the stolen revision has changes behind it");

    let socket = bob.socket().await?;
    for after in [&theirs, &beginning(&theirs)] {
        let after = after.as_str();
        // The own plan behind a foreign place: the whole of the own plan, or the changes of the own log.
        let mut stream = socket.follow(&his, Some(after)).await?;
        let event = stream.value("planDagDeltaChanged").await?;
        ensure!(!event.to_string().contains(SECRET), "{event}");
        ensure!(event["planId"] == his.plan, "{event}");
        let text = first_event(&bob, &his, after).await?;
        ensure!(text.contains("shed-0") && !text.contains(SECRET), "over an event stream: {text}");
        // The foreign plan, by every name it has.
        for variables in
            [json!({"p": hers.id, "after": after}), json!({"p": his.id, "plan": hers.plan, "after": after})]
        {
            let refusal = socket.start(d::FOLLOW, variables.clone()).await?.refusal().await?;
            ensure!(refusal.code == "NOT_FOUND", "{variables}: {refusal:?}");
            let refusal = refused(bob.run(d::DELTAS, variables).await)?;
            ensure!(refusal.code == "NOT_FOUND", "{refusal:?}");
        }
        let own = bob.run(d::DELTAS, json!({"p": his.id, "after": after})).await;
        ensure!(!format!("{own:?}").contains(SECRET), "{own:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_id_of_somebody_else_brings_an_operation_of_ones_own() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, hers, bob, _) = two_houses(&cluster).await?;
    ada.share(&hers, "bob", "EDITOR").await?;
    let add = |label: &str| json!({"p": hers.id, "op": "op-1", "node": node_input(None, "GraphNode", label)});
    let ada = ada.named("tab");
    let first = ada.ask(d::ADD_NODE, "addPlanDagNode", add("hers")).await?;
    // The same client id and the same operation id: another user is another memory.
    let other = bob.named("tab").ask(d::ADD_NODE, "addPlanDagNode", add("his")).await?;
    ensure!(first["id"] != other["id"] && other["metadata"]["label"] == "his", "{first} and {other}");
    let again = ada.ask(d::ADD_NODE, "addPlanDagNode", add("hers")).await?;
    ensure!(again["id"] == first["id"], "her own repeat is answered once: {again}");
    let edge = json!({"p": hers.id, "op": "op-1", "edge": edge_input(None, "nowhere", "nothing")});
    refused(cluster.user(1, "eve").run(d::ADD_EDGE, edge).await).context("an outsider repeats nothing")?;
    Ok(())
}

/// The first place of the log that a revision is of.
fn beginning(revision: &str) -> String {
    let epoch = revision.split('-').next().unwrap_or_default();
    format!("{epoch}-0")
}

/// The token with another signature.
fn bend(token: &str) -> String {
    let mut bytes = token.to_owned();
    let last = bytes.pop();
    bytes.push(if last == Some('0') { '1' } else { '0' });
    bytes
}

/// The first event of a stream that is resumed as a browser does it: by `Last-Event-ID`.
async fn first_event(client: &Client, project: &Project, last_event_id: &str) -> Result<String> {
    let body: Value = json!({"query": d::FOLLOW, "variables": {"p": project.id, "after": last_event_id}});
    let request = reqwest::Client::builder().no_proxy().timeout(patience(15.0)).build()?;
    let mut response = request
        .post(format!("{}/graphql/stream", client.base()))
        .bearer_auth(Token::of(client.user()).sign())
        .header("content-type", "application/json")
        .header("accept", "text/event-stream")
        .header("last-event-id", last_event_id)
        .body(body.to_string())
        .send()
        .await?;
    let mut text = String::new();
    while !(text.contains("event: next") && text.ends_with("\n\n")) {
        let chunk = response.chunk().await?.with_context(|| format!("the stream ended: {text}"))?;
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    Ok(text)
}
