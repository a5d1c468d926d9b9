//! The promise: whoever is cut off from Redis for longer than a lease, and lives, has nobody taken for gone for long.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Client, Cluster, PresenceSocket, Project, documents as d, eventually, patience, soon};
use serde_json::{Value, json};

/// The lease of the nodes, in seconds.
const LEASE_SECONDS: f64 = 3.0;
/// Until a node that is back is believed, and has told who is there: a few renewals and a digest.
const BACK_SECONDS: f64 = 8.0;
const PEOPLE: [&str; 3] = ["ada", "bob", "cyd"];

/// A person at each of three nodes, each knowing all.
async fn three_people() -> Result<(Cluster, Project, Vec<PresenceSocket>)> {
    let lease = LEASE_SECONDS.to_string();
    let cluster = Cluster::of(3).proxied().with("MILLE_NODE_LEASE_SECONDS", &lease).start().await?;
    let clients: Vec<Client> = (0..3).map(|node| cluster.user(node, PEOPLE[node])).collect();
    let project = clients[0].create_project("harbour").await?;
    for user in &PEOPLE[1..] {
        clients[0].share(&project, user, "VIEWER").await?;
    }
    let mut sockets = Vec::new();
    for client in &clients {
        sockets.push(client.presence(&project).await?);
    }
    everyone_is_there(&cluster, &project).await?;
    for socket in &mut sockets {
        socket.quiet("user_presence").await?;
    }
    Ok((cluster, project, sockets))
}

async fn everyone_is_there(cluster: &Cluster, project: &Project) -> Result<()> {
    eventually(patience(BACK_SECONDS), async || {
        for node in 0..3 {
            let all = cluster.user(node, "ada").ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
            ensure!(all.as_array().is_some_and(|all| all.len() == 3), "node {node} knows {all}");
        }
        Ok(())
    })
    .await
}

/// What Redis holds of nodes' lives: their leases, and their tables of who is present.
async fn signs_of_life(cluster: &mut Cluster) -> Result<usize> {
    let redis = cluster.redis()?;
    let leases = redis.ask(&["KEYS", "mille:{nodes}:lease:*"]).await?.items().len();
    let tables = redis.ask(&["KEYS", "mille:{project:*:presence:*"]).await?.items().len();
    Ok(leases + tables)
}

fn is(user: &str, online: bool) -> impl Fn(&Value) -> bool {
    move |presence| presence["userId"] == user && presence["isOnline"] == online
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_that_outlasts_every_lease_nobody_was_gone() -> Result<()> {
    let (mut cluster, project, mut sockets) = three_people().await?;
    for node in 0..3 {
        cluster.proxy(node)?.freeze();
    }
    eventually(patience(LEASE_SECONDS + 5.0), async || {
        ensure!(signs_of_life(&mut cluster).await? == 0, "a lease or a table holds");
        Ok(())
    })
    .await?;
    for node in 0..3 {
        cluster.proxy(node)?.mend();
    }
    eventually(patience(BACK_SECONDS), async || {
        ensure!(signs_of_life(&mut cluster).await? == 6, "a lease or a table is missing");
        Ok(())
    })
    .await?;
    everyone_is_there(&cluster, &project).await?;
    for socket in &mut sockets {
        let told = socket.quiet("user_presence").await?;
        ensure!(!told.iter().any(|presence| presence["isOnline"] == false), "somebody seemed gone: {told:?}");
    }
    cluster.must_live()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_only_cut_off_has_its_people_back_soon() -> Result<()> {
    let (mut cluster, project, mut sockets) = three_people().await?;
    cluster.proxy(1)?.freeze();
    for socket in [0, 2] {
        let gone = sockets[socket].next_where("user_presence", patience(LEASE_SECONDS + 5.0), is("bob", false)).await;
        gone.context("a node that does not renew its lease is taken for dead")?;
    }
    cluster.proxy(1)?.mend();
    for socket in [0, 2] {
        sockets[socket].next_where("user_presence", patience(BACK_SECONDS), is("bob", true)).await?;
    }
    everyone_is_there(&cluster, &project).await?;
    sockets[1].send("update_status", json!({"status": "away"})).await?;
    sockets[0].next_where("user_presence", soon(), |presence| presence["status"] == "away").await?;
    cluster.must_live()
}
