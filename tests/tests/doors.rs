//! The promise: every door refuses whom it must, with the right code, and says nothing more.
//!
//! The matrix knocks at every query, mutation and subscription of the contract as nobody, as a liar, as an
//! outsider, and in each role. The other tests follow what happens when rights change under open streams.

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Failure, PresenceSocket, Project, Replica, Socket, Token, Upgrade, documents as d, edge_input,
    eventually, node_input, patience, refused, soon,
};
use serde_json::{Value, json};

/// What an operation asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// A good token.
    Login,
    /// The scope `admin`.
    Admin,
    /// Any role in the project.
    Viewer,
    /// Editor or owner.
    Editor,
    /// Owner.
    Owner,
}

/// One operation of the contract. The variables are made for a project as [`furnished`] leaves it.
struct Door {
    field: &'static str,
    document: &'static str,
    needs: Needs,
    variables: Value,
}

/// Query, subprotocols and headers of a handshake.
type Knock<'a> = (String, Vec<&'a str>, Vec<(&'static str, String)>);

const BAD_TOKENS: [&str; 5] = ["no token", "garbage", "expired", "wrong secret", "alg none"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_good_token_every_door_is_shut() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let olga = cluster.user(0, "olga");
    let project = furnished(&olga).await?;
    let before = olga.plan(&project).await?;
    for what in BAD_TOKENS {
        let client = liar(&cluster, what);
        for door in doors(&project, &before["revision"]).into_iter().chain(streams(&project, &before)) {
            let answer = client.post(&json!({"query": door.document, "variables": door.variables})).await?;
            ensure!(answer.status == 401, "{} with {what}: HTTP {}", door.field, answer.status);
            let refusal = answer.refusal().context("an error body")?;
            ensure!(refusal.code == "UNAUTHENTICATED", "{} with {what}: {refusal:?}", door.field);
        }
        for door in streams(&project, &before) {
            let answer = client.knock_at_stream(door.document, door.variables).await?;
            ensure!(answer.status == 401, "the stream of {} with {what}: HTTP {}", door.field, answer.status);
        }
        let Err(failure) = Socket::connect(&client).await else { bail!("a GraphQL socket with {what}") };
        ensure!(format!("{failure:#}").contains("4403"), "a GraphQL socket with {what}: {failure:#}");
        let mut presence = PresenceSocket::connect(&client, project.id).await?;
        let closing = presence.closing(soon()).await?;
        ensure!(closing.code == Some(4403), "a presence socket with {what}: {closing:?}");
    }
    ensure!(olga.plan(&project).await? == before, "a shut door let something through");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outsider_never_learns_that_a_project_exists() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let olga = cluster.user(0, "olga");
    let project = furnished(&olga).await?;
    let before = olga.plan(&project).await?;
    let nowhere = Project { id: 2_000_000_000, plan: 2_000_000_000 };
    let eve = cluster.user(0, "eve");
    let socket = eve.socket().await?;
    for (real, unreal) in doors(&project, &before["revision"]).into_iter().zip(doors(&nowhere, &before["revision"])) {
        if matches!(real.needs, Needs::Login | Needs::Admin) {
            continue;
        }
        let found = refused(run(&eve, &socket, &real).await).context(real.field)?;
        let not_found = refused(run(&eve, &socket, &unreal).await).context(real.field)?;
        ensure!(found.code == "NOT_FOUND", "{} of an outsider: {found:?}", real.field);
        ensure!(not_found.code == "NOT_FOUND", "{} of no project: {not_found:?}", real.field);
        let hides = |text: &str, project: &Project| {
            text.replace(&project.id.to_string(), "#").replace(&project.plan.to_string(), "#")
        };
        let (left, right) = (hides(&found.message, &project), hides(&not_found.message, &nowhere));
        ensure!(left == right, "{}: \"{left}\" and \"{right}\" tell projects apart", real.field);
    }
    for door in streams(&project, &before) {
        let refusal = socket.start(door.document, door.variables).await?.refusal().await.context(door.field)?;
        ensure!(refusal.code == "NOT_FOUND", "{} of an outsider: {refusal:?}", door.field);
    }
    ensure!(socket.is_open(), "refusals must not end the socket");
    for id in [project.id, nowhere.id] {
        let closing = PresenceSocket::connect(&eve, id).await?.closing(soon()).await?;
        ensure!(closing.code == Some(4403), "presence of an outsider: {closing:?}");
    }
    ensure!(olga.plan(&project).await? == before, "an outsider changed the plan");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_do_its_part_and_no_more() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let olga = cluster.user(0, "olga");
    for (role, user) in [("VIEWER", "vera"), ("EDITOR", "edda"), ("OWNER", "otto")] {
        let project = furnished(&olga).await?;
        olga.share(&project, user, role).await?;
        let client = cluster.user(0, user);
        let socket = client.socket().await?;
        let plan = client.plan(&project).await?;
        for door in streams(&project, &plan) {
            let mut stream = socket.start(door.document, door.variables).await?;
            // Answered after the subscription was taken up or refused, on the same socket.
            socket.run_one(d::ME, json!({})).await?;
            if let Some(event) = stream.waiting() {
                let text = format!("{event:?}");
                ensure!(!text.contains("errors") && !text.contains("Error"), "{} as {role}: {text}", door.field);
            }
        }
        for door in doors(&project, &plan["revision"]) {
            let may = match door.needs {
                Needs::Login | Needs::Viewer => true,
                Needs::Admin => false,
                Needs::Editor => role != "VIEWER",
                Needs::Owner => role == "OWNER",
            };
            let outcome = run(&client, &socket, &door).await;
            if may {
                outcome.with_context(|| format!("{} as {role}", door.field))?;
            } else {
                let refusal = refused(outcome).with_context(|| format!("{} as {role}", door.field))?;
                ensure!(refusal.code == "FORBIDDEN", "{} as {role}: {refusal:?}", door.field);
            }
        }
        if role == "OWNER" {
            ensure!(refused(olga.plan(&project).await)?.code == "NOT_FOUND", "a deleted project is gone");
        } else {
            olga.plan(&project).await.context("only owners delete")?;
        }
    }
    let admin = cluster.bearer(0, "olga", Token::of("olga").scope("admin").sign());
    let cluster_status = admin.ask(d::CLUSTER, "cluster", json!({})).await?;
    ensure!(cluster_status["nodes"][0]["state"] == "UP", "the cluster sees itself: {cluster_status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_presence_socket_takes_the_token_in_three_ways_and_needs_a_project() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let olga = cluster.user(0, "olga");
    let project = olga.create_project("harbour").await?;
    let (base, token) = (cluster.url(0), Token::of("olga").sign());
    let with_project = format!("project_id={}", project.id);
    let subprotocol = format!("bearer.{token}");
    let ways: [Knock<'_>; 3] = [
        (format!("{with_project}&token={token}"), vec![], vec![]),
        (with_project.clone(), vec![&subprotocol], vec![]),
        (with_project.clone(), vec![], vec![("authorization", format!("Bearer {token}"))]),
    ];
    for (query, subprotocols, headers) in ways {
        let upgrade = PresenceSocket::knock(&base, &query, &subprotocols, &headers).await?;
        let Upgrade::Open(raw, _) = upgrade else { bail!("no socket for {query}: {upgrade:?}") };
        let roster = PresenceSocket::over(*raw, "olga").join(None).await?;
        ensure!(roster[0]["userId"] == "olga", "the joiner is in the roster: {roster}");
    }
    for query in [format!("token={token}"), format!("project_id=harbour&token={token}")] {
        let upgrade = PresenceSocket::knock(&base, &query, &[], &[]).await?;
        ensure!(matches!(upgrade, Upgrade::Refused(400)), "{query}: {upgrade:?}");
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

/// Runs an operation where it belongs: presence without a presence socket lives on the GraphQL socket.
async fn run(client: &Client, socket: &Socket, door: &Door) -> Result<Value, Failure> {
    match door.field {
        "joinProjectCollaboration" | "leaveProjectCollaboration" | "refreshAuth" => {
            let mut variables = door.variables.clone();
            if door.field == "refreshAuth" {
                variables["token"] = json!(Token::of(client.user()).sign());
            }
            socket.run_one(door.document, variables).await
        }
        _ => client.run(door.document, door.variables.clone()).await,
    }
}

fn liar(cluster: &Cluster, what: &str) -> Client {
    let token = Token::of("olga");
    match what {
        "garbage" => cluster.bearer(0, "olga", "not.a.token"),
        "expired" => cluster.bearer(0, "olga", token.lives_secs(-3_600).sign()),
        "wrong secret" => {
            cluster.bearer(0, "olga", token.sign_with("a secret that the cluster does not know, long enough"))
        }
        "alg none" => cluster.bearer(0, "olga", token.unsigned()),
        _ => cluster.stranger(0),
    }
}

/// A project with four plan nodes and an edge, for the variables of [`doors`].
async fn furnished(owner: &Client) -> Result<Project> {
    let project = owner.create_project("harbour").await?;
    for id in ["a", "b", "c", "doomed"] {
        owner.add_node_as(&project, id, "TransformNode").await?;
    }
    let edge = json!({"p": project.id, "edge": edge_input(Some("ab"), "a", "b")});
    owner.run(d::ADD_EDGE, edge).await?;
    Ok(project)
}

/// Every query and mutation, in an order in which each finds what it needs.
#[rustfmt::skip]
fn doors(project: &Project, after: &Value) -> Vec<Door> {
    let p = project.id;
    let dag = json!({"version": "1", "nodes": [], "edges": [], "metadata": {"name": "empty"}});
    let moved = json!([{"nodeId": "a", "position": {"x": 5.0, "y": 6.0}}]);
    let door = |field, document, needs, variables| Door { field, document, needs, variables };
    vec![
        door("me", d::ME, Needs::Login, json!({})),
        door("projects", d::PROJECTS, Needs::Login, json!({})),
        door("validatePlanDag", d::VALIDATE, Needs::Login, json!({"dag": dag})),
        door("cluster", d::CLUSTER, Needs::Admin, json!({})),
        door("createProject", d::CREATE_PROJECT, Needs::Login, json!({"name": "another"})),
        door("refreshAuth", d::REFRESH_AUTH, Needs::Login, json!({"token": "filled in by who runs it"})),
        door("project", d::PROJECT, Needs::Viewer, json!({"p": p})),
        door("getPlanDag", d::GET_PLAN, Needs::Viewer, json!({"p": p})),
        door("planDagDeltas", d::DELTAS, Needs::Viewer, json!({"p": p, "after": after})),
        door("projectCollaborators", d::COLLABORATORS, Needs::Viewer, json!({"p": p})),
        door("projectPresence", d::PRESENCE, Needs::Viewer, json!({"p": p})),
        door("projectHealth", d::HEALTH, Needs::Viewer, json!({"p": p})),
        door("joinProjectCollaboration", d::JOIN, Needs::Viewer, json!({"p": p})),
        door("leaveProjectCollaboration", d::LEAVE, Needs::Viewer, json!({"p": p})),
        door("addPlanDagNode", d::ADD_NODE, Needs::Editor, json!({"p": p, "node": node_input(None, "GraphNode", "new")})),
        door("updatePlanDagNode", d::UPDATE_NODE, Needs::Editor, json!({"p": p, "id": "a", "updates": {"config": "{\"n\":1}"}})),
        door("movePlanDagNode", d::MOVE_NODE, Needs::Editor, json!({"p": p, "id": "b", "to": {"x": 1.0, "y": 2.0}})),
        door("batchMovePlanDagNodes", d::BATCH_MOVE, Needs::Editor, json!({"p": p, "moves": moved})),
        door("deletePlanDagNode", d::DELETE_NODE, Needs::Editor, json!({"p": p, "id": "doomed"})),
        door("addPlanDagEdge", d::ADD_EDGE, Needs::Editor, json!({"p": p, "edge": edge_input(None, "b", "c")})),
        door("updatePlanDagEdge", d::UPDATE_EDGE, Needs::Editor, json!({"p": p, "id": "ab", "updates": {"metadata": {"label": "x"}}})),
        door("deletePlanDagEdge", d::DELETE_EDGE, Needs::Editor, json!({"p": p, "id": "ab"})),
        door("updatePlanDagMetadata", d::UPDATE_METADATA, Needs::Editor, json!({"p": p, "name": "renamed"})),
        door("applyPlanDagChanges", d::APPLY, Needs::Editor, json!({"p": p, "changes": [{"deleteNode": {"nodeId": "c"}}]})),
        door("reportNodeExecution", d::REPORT, Needs::Editor, json!({"p": p, "id": "a", "run": "r1", "state": "pending"})),
        door("updatePlanDag", d::REPLACE_PLAN, Needs::Editor, json!({"p": p, "dag": dag})),
        door("createPlan", d::CREATE_PLAN, Needs::Editor, json!({"p": p, "name": "second"})),
        door("setCollaborator", d::SET_COLLABORATOR, Needs::Owner, json!({"p": p, "user": "guest", "role": "VIEWER"})),
        door("removeCollaborator", d::REMOVE_COLLABORATOR, Needs::Owner, json!({"p": p, "user": "guest"})),
        door("deleteProject", d::DELETE_PROJECT, Needs::Owner, json!({"p": p})),
    ]
}

/// Every subscription.
fn streams(project: &Project, plan: &Value) -> Vec<Door> {
    let (p, id) = (project.id, project.plan.to_string());
    let after = &plan["revision"];
    let door = |field, document, variables| Door { field, document, needs: Needs::Viewer, variables };
    vec![
        door("planDagDeltaChanged", d::FOLLOW, json!({"p": p, "after": after})),
        door("planDagUpdated", d::UPDATED, json!({"plan": id, "after": after})),
        door("nodeExecutionStatusChanged", d::STATUS, json!({"p": p, "after": after})),
        door("collaborationEvents", d::COLLABORATION, json!({"plan": id})),
    ]
}
