//! The scenes: each has a cluster of its own, lets things happen to it, and notes which numbers moved.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Failure, Knock, PresenceSocket, Project, RawSocket, Socket, Token, Upgrade, documents as d,
    eventually, node_input, refused, soon,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::exposition::Exposition;
use super::in_its_time;

/// What a scene moved.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Every family there is.
    pub(crate) declared: BTreeSet<String>,
    pub(crate) families: BTreeSet<String>,
    /// By name and labels.
    pub(crate) series: BTreeSet<String>,
    /// Series that were not there at the start.
    pub(crate) new_series: BTreeSet<String>,
}

impl Moved {
    pub(crate) fn add(&mut self, other: Self) {
        self.declared.extend(other.declared);
        self.families.extend(other.families);
        self.series.extend(other.series);
        self.new_series.extend(other.new_series);
    }
}

/// Compares what nodes tell with what they told at first.
struct Watch {
    fresh: Vec<Exposition>,
    moved: Moved,
}

impl Watch {
    async fn begin(cluster: &Cluster) -> Result<Self> {
        let mut fresh = Vec::new();
        for node in 0..cluster.size() {
            fresh.push(Exposition::read(&cluster.metrics(node).await?)?);
        }
        let declared = fresh.iter().flat_map(|told| told.families.keys().cloned()).collect();
        Ok(Self { fresh, moved: Moved { declared, ..Moved::default() } })
    }

    /// Looks at a node, and notes what moved.
    async fn look(&mut self, cluster: &Cluster, node: usize) -> Result<()> {
        let told = Exposition::read(&cluster.metrics(node).await?)?;
        for (name, family) in &told.families {
            let before = self.fresh[node].families.get(name).map(|family| &family.series);
            for (series, value) in &family.series {
                match before.and_then(|before| before.get(series)) {
                    Some(before) if before == value => {}
                    Some(_) => {
                        self.moved.families.insert(name.clone());
                        self.moved.series.insert(series.clone());
                    }
                    None => drop(self.moved.new_series.insert(series.clone())),
                }
            }
        }
        Ok(())
    }

    /// Waits until a series of a node has moved.
    async fn sees(&mut self, cluster: &Cluster, node: usize, series: &str) -> Result<()> {
        eventually(in_its_time(), async || {
            self.look(cluster, node).await?;
            ensure!(self.moved.series.contains(series), "{series} does not move");
            Ok(())
        })
        .await
    }

    async fn end(mut self, cluster: &mut Cluster) -> Result<Moved> {
        for node in 0..cluster.size() {
            self.look(cluster, node).await?;
        }
        cluster.must_live()?;
        Ok(self.moved)
    }
}

/// Doors, rights, limits, presence: everything about who is there.
pub(crate) async fn people_come_and_go() -> Result<Moved> {
    let mut cluster = Cluster::of(2)
        .with("MILLE_USER_CONNECTIONS_MAX", "12")
        .with("MILLE_CONNECTION_SUBSCRIPTIONS_MAX", "1")
        .with("MILLE_USER_OPERATIONS_PER_SECOND", "2000")
        .start()
        .await?;
    let mut watch = Watch::begin(&cluster).await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "VIEWER").await?;
    // Its plan is used once, and then nobody needs it: its channel is closed after half a minute.
    let lonely = ada.create_project("lonely").await?;
    ada.plan(&lonely).await?;

    refusals(&cluster, &project).await?;
    closes(&cluster, &project).await?;
    too_much(&cluster, &project).await?;
    presence(&cluster, &project, &mut watch).await?;
    revocation(&cluster, &mut watch).await?;

    let gone = ada.create_project("gone").await?;
    let mut there = ada.presence(&gone).await?;
    ada.run(d::DELETE_PROJECT, json!({"p": gone.id})).await?;
    ensure!(there.closing(soon()).await?.code == Some(4403));
    watch.sees(&cluster, 0, "actors_retired_total{cause=\"deleted\"}").await?;
    watch.sees(&cluster, 0, "broadcast_channels_idle_cleaned_total").await?;
    watch.sees(&cluster, 1, "presence_expiries_total{cause=\"grace\"}").await?;
    watch.end(&mut cluster).await
}

/// Whoever has no right to something.
async fn refusals(cluster: &Cluster, project: &Project) -> Result<()> {
    let bob = cluster.user(0, "bob");
    let stranger = cluster.stranger(0).post(&json!({"query": d::ME})).await?;
    ensure!(stranger.status == 401);
    for token in
        [Token::of("ada").sign_with("another secret, as long as it must be"), Token::of("ada").lives_secs(-60).sign()]
    {
        ensure!(cluster.bearer(0, "ada", token).post(&json!({"query": d::ME})).await?.status == 401);
    }
    refused(cluster.user(0, "nobody").plan(project).await)?;
    refused(bob.add_node(project, "GraphNode", "pier").await)?;
    refused(bob.run(d::CLUSTER, json!({})).await)?;
    let mut socket = PresenceSocket::connect(&bob, project.id).await?;
    socket.send("join_session", json!({"userId": "ada", "userName": "ada", "avatarColor": "#336699"})).await?;
    socket.next_error().await?;
    Ok(())
}

/// Sockets of all kinds that end in many ways.
async fn closes(cluster: &Cluster, project: &Project) -> Result<()> {
    let (ada, url) = (cluster.user(0, "ada"), format!("{}/graphql/ws", cluster.ws_url(0)));
    ada.socket().await?.close().await?;
    let broken = ada.socket().await?;
    drop(broken);
    let subscribe = json!({"id": "1", "type": "subscribe", "payload": {"query": d::ME}}).to_string();
    let init =
        json!({"type": "connection_init", "payload": {"Authorization": format!("Bearer {}", Token::of("ada").sign())}});
    for (said, code) in [
        (vec![subscribe.clone()], 4401),
        (vec![r#"{"type":"connection_init"}"#.to_owned()], 4403),
        (vec!["{".to_owned()], 4400),
        (vec![init.to_string(), init.to_string()], 4429),
    ] {
        let mut socket = RawSocket::open(&url, &["graphql-transport-ws"]).await?;
        for text in said {
            socket.text(text).await?;
        }
        let closing = socket.closing(soon()).await?;
        ensure!(closing.code == Some(code), "{code} was due, not {closing:?}");
    }
    let Upgrade::Open(mut socket, _) = RawSocket::knock(&url, &["mqtt"], &[]).await? else { bail!("no upgrade") };
    ensure!(socket.closing(soon()).await?.code == Some(4406));
    let mut knocks = vec![Knock::at(project.id)];
    knocks.extend(Knock::with_token(project.id, &Token::of("nobody").sign()).into_iter().take(1));
    for knock in knocks {
        let Upgrade::Open(mut socket, _) = PresenceSocket::knock(&cluster.url(0), &knock).await? else {
            bail!("no upgrade")
        };
        ensure!(socket.closing(soon()).await?.code == Some(4403));
    }
    let mut stream = ada.stream(d::FOLLOW, json!({"p": project.id, "snapshot": true})).await?;
    stream.next().await?.context("a snapshot")?;
    drop(stream);
    Ok(())
}

/// More than one may have.
async fn too_much(cluster: &Cluster, project: &Project) -> Result<()> {
    let eve = cluster.user(0, "eve");
    cluster.user(0, "ada").share(project, "eve", "VIEWER").await?;
    let socket = eve.socket().await?;
    let mut first = socket.follow(project, None).await?;
    first.value("planDagDeltaChanged").await?;
    ensure!(socket.follow(project, None).await?.refusal().await?.code == "LIMIT_EXCEEDED");
    let mut crowd = Vec::new();
    for _ in 1..12 {
        crowd.push(eve.socket().await?);
    }
    let bearer = json!({"Authorization": format!("Bearer {}", Token::of("eve").sign())});
    let Err(closing) = Socket::init(&cluster.url(0), bearer).await? else { bail!("the 13th was let in") };
    ensure!(closing.code == Some(1013), "{closing:?}");
    // More operations at once than a node gives by itself: the store is asked.
    let mut asked = JoinSet::new();
    for socket in crowd {
        asked.spawn(async move {
            for _ in 0..20 {
                socket.run_one(d::ME, json!({})).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(outcome) = asked.join_next().await {
        outcome??;
    }
    Ok(())
}

/// Somebody joins, moves, comes back by the token, drops, and loses the right.
async fn presence(cluster: &Cluster, project: &Project, watch: &mut Watch) -> Result<()> {
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
    let mut adas = ada.presence(project).await?;
    let mut bobs = PresenceSocket::connect(&bob, project.id).await?;
    let welcome = bobs.next("welcome").await?;
    bobs.join(None).await?;
    for socket in [&mut adas, &mut bobs] {
        socket.switch_document("plan", "canvas").await?;
    }
    for step in 0..50 {
        bobs.move_cursor("plan", f64::from(step), 0.0).await?;
    }
    adas.next_where("cursor_update", soon(), |data| data["cursors"][0]["position"]["x"].as_f64() == Some(49.0)).await?;
    watch.look(cluster, 1).await?;
    let token = welcome["resumeToken"].as_str().context("a resume token")?;
    let mut again = PresenceSocket::connect(&bob, project.id).await?;
    again.join(Some(token)).await?;
    ensure!(bobs.closing(soon()).await?.code == Some(1000), "the socket before it goes");
    // Without a leave: the place is kept for the grace, and then given up.
    drop(again);
    let mut zoe = {
        ada.share(project, "zoe", "VIEWER").await?;
        cluster.user(0, "zoe").presence(project).await?
    };
    ada.unshare(project, "zoe").await?;
    ensure!(zoe.closing(soon()).await?.code == Some(4403));
    adas.send("leave_session", json!({})).await
}

/// Tokens are revoked under open sockets.
async fn revocation(cluster: &Cluster, watch: &mut Watch) -> Result<()> {
    let root = cluster.bearer(0, "root", Token::of("root").scope("admin").sign());
    let (of_user, of_token) = (cluster.user(1, "mel").socket().await?, Token::of("kim").id("kims-token"));
    let kim = cluster.bearer(1, "kim", of_token.sign());
    let of_token = kim.socket().await?;
    root.revoke_user("mel").await?;
    root.revoke_token("kims-token").await?;
    for socket in [of_user, of_token] {
        ensure!(socket.closing(soon()).await?.code == Some(4403));
    }
    ensure!(kim.post(&json!({"query": d::ME})).await?.status == 401, "it counts no more");
    watch.look(cluster, 1).await
}

/// Edits of every result, races between nodes, and messages that get lost between them.
pub(crate) async fn edits_race_and_messages_are_lost() -> Result<Moved> {
    let mut cluster = Cluster::of(2).proxied().start().await?;
    let mut watch = Watch::begin(&cluster).await?;
    let (here, there) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let project = here.create_project("harbour").await?;
    here.add_node_as(&project, "pier", "GraphNode").await?;
    here.add_node_as(&project, "crane", "GraphNode").await?;
    let beginning = here.revision(&project).await?;
    results(&here, &project).await?;

    // Every way to begin: with nothing to miss, from a revision, and from one that is of no history.
    let socket = there.socket().await?;
    let mut fresh = socket.follow(&project, None).await?;
    fresh.value("planDagDeltaChanged").await?;
    let mut behind = socket.follow(&project, Some(&beginning.to_string())).await?;
    behind.value("planDagDeltaChanged").await?;
    let mut lost = socket.follow(&project, Some("1-1")).await?;
    ensure!(lost.value("planDagDeltaChanged").await?["kind"] == "SNAPSHOT");

    // Both nodes edit the same plan at once, until one was too late.
    eventually(in_its_time(), async || {
        let mut moves = JoinSet::new();
        for step in 0..40_u32 {
            let (client, id) = if step % 2 == 0 { (here.clone(), "pier") } else { (there.clone(), "crane") };
            moves.spawn(async move { client.move_node(&project, id, f64::from(step), 0.5).await });
        }
        while let Some(moved) = moves.join_next().await {
            moved??;
        }
        for node in 0..2 {
            watch.look(&cluster, node).await?;
        }
        ensure!(watch.moved.families.contains("commit_conflicts_total"), "nobody was too late");
        Ok(())
    })
    .await?;

    ensure!(cluster.proxy(1)?.cut_subscriptions() > 0, "a node without a subscription");
    here.move_node(&project, "pier", 7.0, 7.0).await?;
    cluster.proxy(1)?.mend();
    watch.sees(&cluster, 1, "gaps_total{cause=\"reconnect\"}").await?;
    watch.sees(&cluster, 1, "redis_reconnects_total{connection=\"subscription\"}").await?;
    watch.end(&mut cluster).await
}

/// One edit of each result.
async fn results(client: &Client, project: &Project) -> Result<()> {
    let once = json!({"p": project.id, "op": "once", "node": node_input(Some("buoy"), "GraphNode", "buoy")});
    let first = client.ask(d::ADD_NODE, "addPlanDagNode", once.clone()).await?;
    client.ask(d::ADD_NODE, "addPlanDagNode", once).await?;
    let before = client.revision(project).await?.to_string();
    client.move_node(project, "buoy", 3.0, 4.0).await?;
    client.move_node(project, "buoy", 3.0, 4.0).await?;
    let late = json!({"p": project.id, "id": "buoy", "to": {"x": 5.0, "y": 6.0}, "rev": before});
    ensure!(refused(client.ask(d::MOVE_NODE, "movePlanDagNode", late).await)?.code == "CONFLICT", "{first}");
    refused(client.connect(project, "buoy", "buoy").await)?;
    Ok(())
}

/// Redis answers late, so that operations are refused under pressure; then it is gone, and comes back.
pub(crate) async fn redis_is_slow_and_then_away() -> Result<Moved> {
    let mut cluster =
        Cluster::of(1).persistent().proxied().with("MILLE_PRESSURE_REDIS_MS", "60,120,180,240").start().await?;
    let mut watch = Watch::begin(&cluster).await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let socket = ada.socket().await?;
    cluster.proxy(0)?.delay(Duration::from_millis(300));
    eventually(in_its_time(), async || {
        let variables = json!({"p": project.id, "node": node_input(None, "GraphNode", "pier")});
        let outcome = socket.run_one(d::ADD_NODE, variables).await;
        let Err(Failure::Refused(refusal)) = outcome else { bail!("it is taken: {outcome:?}") };
        ensure!(refusal.code == "OVERLOADED", "{refusal:?}");
        Ok(())
    })
    .await?;
    watch.look(&cluster, 0).await?;
    cluster.proxy(0)?.delay(Duration::ZERO);
    eventually(in_its_time(), async || Ok(ada.add_node_as(&project, "pier", "GraphNode").await?)).await?;

    cluster.redis()?.kill_9()?;
    watch.sees(&cluster, 0, "redis_breaker_open").await?;
    eventually(soon(), async || {
        let refusal = refused(ada.move_node(&project, "pier", 1.0, 2.0).await)?;
        ensure!(refusal.code == "UNAVAILABLE", "{refusal:?}");
        Ok(())
    })
    .await?;
    watch.look(&cluster, 0).await?;
    cluster.redis()?.restart().await?;
    watch.sees(&cluster, 0, "redis_reconnects_total{connection=\"commands\"}").await?;
    eventually(in_its_time(), async || Ok(ada.move_node(&project, "pier", 1.0, 2.0).await?)).await?;
    watch.end(&mut cluster).await
}

/// A Redis takes over that knows less than the nodes do: what only one node knows comes back, and what others have built on
/// is judged again.
pub(crate) async fn redis_loses_what_it_acknowledged() -> Result<Moved> {
    let mut cluster = Cluster::of(2).replicated().start().await?;
    let mut watch = Watch::begin(&cluster).await?;
    let (here, there) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let (restored, forked) = (here.create_project("restored").await?, here.create_project("forked").await?);
    let socket = here.socket().await?;
    let mut listeners = Vec::new();
    for project in [&restored, &forked] {
        here.add_node_as(project, "pier", "GraphNode").await?;
        let mut deltas = socket.follow(project, None).await?;
        deltas.value("planDagDeltaChanged").await?;
        listeners.push(deltas);
    }
    cluster.cut_replica_off().await?;
    for project in [&restored, &forked] {
        here.add_node_as(project, "lost", "GraphNode").await?;
    }
    cluster.proxy(0)?.cut();
    cluster.fail_over().await?;
    cluster.lead_to_redis(1)?;
    eventually(in_its_time(), async || Ok(there.add_node(&forked, "GraphNode", "built upon").await?)).await?;
    cluster.lead_to_redis(0)?;
    for series in ["changes_restored_total", "histories_parted_total", "changes_readmitted_total{outcome=\"accepted\"}"]
    {
        watch.sees(&cluster, 0, series).await?;
    }
    watch.end(&mut cluster).await
}

/// A GraphQL socket whose owner reads nothing, while much is said.
pub(crate) async fn a_reader_takes_nothing() -> Result<Moved> {
    let mut cluster = Cluster::of(1).embedded().start().await?;
    let mut watch = Watch::begin(&cluster).await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.add_node_as(&project, "pier", "GraphNode").await?;
    let mut reader = RawSocket::open(&format!("{}/graphql/ws", cluster.ws_url(0)), &["graphql-transport-ws"]).await?;
    let init =
        json!({"type": "connection_init", "payload": {"Authorization": format!("Bearer {}", Token::of("ada").sign())}});
    reader.text(init.to_string()).await?;
    reader.next_text().await?;
    let follow = json!({"query": d::FOLLOW, "variables": {"p": project.id, "plan": project.plan, "snapshot": true}});
    reader.text(json!({"type": "subscribe", "id": "1", "payload": follow}).to_string()).await?;
    reader.next_text().await?;
    let mut round = 0;
    eventually(in_its_time(), async || {
        for _ in 0..20 {
            round += 1;
            let config = json!({ "text": format!("{round:x<60000}") }).to_string();
            let variables = json!({"p": project.id, "id": "pier", "updates": {"config": config}});
            ada.ask(d::UPDATE_NODE, "updatePlanDagNode", variables).await?;
        }
        watch.look(&cluster, 0).await?;
        let families = &watch.moved.families;
        ensure!(families.contains("graphql_subscription_lag_total"), "its queue still takes it");
        Ok(())
    })
    .await?;
    for series in ["ws_buffer_full_total", "send_queue_bytes", "send_queue_messages"] {
        watch.sees(&cluster, 0, series).await?;
    }
    watch.end(&mut cluster).await
}
