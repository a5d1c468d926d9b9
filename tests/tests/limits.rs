//! The promise: nobody gets more than their share, on whichever nodes they try; everyone else does not notice; and every
//! "no" names the limit, its value, and when to come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Client, Closing, Cluster, Failure, Frame, PresenceSocket, Project, RawSocket, Refusal, Socket, Token,
    documents as d, eventually, node_input, patience, refused, soon,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long a user hurries.
const HURRY: Duration = Duration::from_secs(3);

/// Whether a refusal says all that it must.
fn names_its_limit(refusal: &Refusal, code: &str, name: &str, limit: u64) -> Result<()> {
    let extensions = &refusal.extensions;
    ensure!(refusal.code == code, "{code} was due: {refusal:?}");
    ensure!(extensions["limitName"] == name && extensions["limit"] == limit, "{name} = {limit} was due: {refusal:?}");
    let has_both = refusal.message.contains(name) && refusal.message.contains(&limit.to_string());
    ensure!(has_both, "the message is to name the limit: {refusal:?}");
    let helps = ["RATE_LIMITED", "OVERLOADED"].contains(&code);
    ensure!(extensions["retryAfterMs"].is_u64() == helps && extensions["retryable"] == helps, "{refusal:?}");
    Ok(())
}

/// Asks as fast as it can until then, and counts what was taken and what was refused.
async fn hurry<F>(until: Instant, ask: impl Fn() -> F) -> Result<(u64, u64, Option<Refusal>)>
where
    F: Future<Output = Result<Value, Failure>>,
{
    let (mut taken, mut refused, mut last) = (0, 0, None);
    while Instant::now() < until {
        match ask().await {
            Ok(_) => taken += 1,
            Err(Failure::Refused(refusal)) => {
                refused += 1;
                last = Some(refusal);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok((taken, refused, last))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_on_three_nodes_has_one_limit_and_others_do_not_notice() -> Result<()> {
    const RATE: u64 = 64;
    const BURST: u64 = 128;
    let cluster = Cluster::of(3)
        .with("MILLE_USER_OPERATIONS_PER_SECOND", "64")
        .with("MILLE_USER_OPERATIONS_BURST", "128")
        // A socket's own limit is not what this is about.
        .with("MILLE_CONNECTION_OPERATIONS_PER_SECOND", "100000")
        .with("MILLE_CONNECTION_OPERATIONS_BURST", "100000")
        .start()
        .await?;
    let began = Instant::now();
    let until = began + HURRY;
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..3 {
        let ada = Arc::new(cluster.user(node, "ada"));
        let socket = Arc::new(ada.socket().await?);
        tasks.spawn(hurry(until, move || {
            let ada = Arc::clone(&ada);
            async move { ada.run(d::ME, json!({})).await }
        }));
        tasks.spawn(hurry(until, move || {
            let socket = Arc::clone(&socket);
            async move { socket.run_one(d::ME, json!({})).await }
        }));
    }
    let bob = cluster.user(1, "bob");
    let mut others = 0;
    while Instant::now() < until {
        bob.run(d::ME, json!({})).await.context("bob has done nothing wrong")?;
        others += 1;
        // Well below the limit: a few at a time, as the answers come back one after the other.
        if others > 20 {
            break;
        }
    }
    let (mut taken, mut turned_down, mut last) = (0, 0, None);
    while let Some(outcome) = tasks.join_next().await {
        let (more, refused, refusal) = outcome??;
        (taken, turned_down, last) = (taken + more, turned_down + refused, refusal.or(last));
    }
    let spent = |seconds: f64| BURST as f64 + RATE as f64 * seconds;
    let seconds = began.elapsed().as_secs_f64();
    // Each node gives 1/32 by itself, and may have leased a tenth of a second's worth.
    let most = spent(seconds) * (1.0 + 3.0 / 32.0) + 3.0 * (1.0 + RATE as f64 / 10.0);
    let least = spent(HURRY.as_secs_f64()) * 0.8;
    eprintln!("{taken} taken, {turned_down} refused in {seconds:.1} s; between {least:.0} and {most:.0} were due");
    ensure!(taken as f64 <= most, "{taken} operations in {seconds:.1} s, at most {most:.0} were due");
    ensure!(taken as f64 >= least, "only {taken} operations in {seconds:.1} s, {least:.0} were due");
    let last = last.context("somebody was refused")?;
    names_its_limit(&last, "RATE_LIMITED", "user_operations", RATE)?;
    ensure!(last.extensions["retryAfterMs"].as_u64().is_some_and(|ms| (1..=5_000).contains(&ms)), "{last:?}");
    ensure!(metric(&cluster, 0, "rate_limited_total{limit=\"user_operations\"}").await? > 0.0);
    ensure!(metric(&cluster, 0, "quota_leases_total{outcome=\"granted\"}").await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_over_http_says_so_in_its_status() -> Result<()> {
    let cluster = Cluster::of(1)
        .embedded()
        .with("MILLE_USER_OPERATIONS_PER_SECOND", "1")
        .with("MILLE_USER_OPERATIONS_BURST", "1")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let mut answer = ada.post(&json!({"query": d::ME})).await?;
    for _ in 0..4 {
        answer = ada.post(&json!({"query": d::ME})).await?;
    }
    ensure!(answer.status == 429 && answer.headers.contains_key("retry-after"), "{answer:?}");
    names_its_limit(&answer.refusal().context("a refusal")?, "RATE_LIMITED", "user_operations", 1)?;
    let answer = ada.knock_at_stream(d::ME, json!({})).await?;
    ensure!(answer.status == 429, "an event stream counts too: {answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_251st_connection_of_a_user_is_refused() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut sockets = Vec::new();
    for _ in 0..125 {
        sockets.push(ada.socket().await.context("a GraphQL socket")?);
    }
    let mut presences = Vec::new();
    for _ in 0..125 {
        presences.push(welcomed(&ada, &project).await.context("a presence socket")?);
    }
    let closing = refused_socket(&ada).await?.context("the 251st was let in")?;
    is_too_many(&closing, 250)?;
    let mut one_more = PresenceSocket::connect(&ada, project.id).await?;
    is_too_many(&one_more.closing(soon()).await?, 250)?;
    let answer = ada.knock_at_stream(d::FOLLOW, json!({"p": project.id})).await?;
    ensure!(answer.status == 429 && answer.headers.contains_key("retry-after"), "{answer:?}");
    let refusal = answer.refusal().context("a refusal")?;
    ensure!(refusal.code == "LIMIT_EXCEEDED" && refusal.extensions["limit"] == 250, "{refusal:?}");
    ensure!(refusal.extensions["limitName"] == "user_connections", "{refusal:?}");
    ensure!(ada.run(d::ME, json!({})).await.is_ok(), "what needs no connection goes on");
    cluster.user(0, "bob").socket().await.context("somebody else")?;

    sockets.pop().context("one of them")?.close().await?;
    eventually(soon(), async || {
        let closing = refused_socket(&ada).await?;
        ensure!(closing.is_none(), "one has left, and still {closing:?}");
        Ok(())
    })
    .await?;
    ensure!(metric(&cluster, 0, "connections_refused_total{reason=\"user\"}").await? >= 3.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_places_of_a_dead_node_come_free() -> Result<()> {
    let mut cluster =
        Cluster::of(2).with("MILLE_USER_CONNECTIONS_MAX", "20").with("MILLE_NODE_LEASE_SECONDS", "2").start().await?;
    let (here, there) = (cluster.user(0, "ada"), cluster.user(1, "ada"));
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(here.socket().await?);
    }
    let mut others = vec![there.socket().await.context("each node gives one by itself")?];
    is_too_many(&refused_socket(&there).await?.context("all places are taken")?, 20)?;
    // A lease that is renewed holds: longer than it would by itself.
    let still = Instant::now() + Duration::from_secs(3);
    while Instant::now() < still {
        is_too_many(&refused_socket(&there).await?.context("the places are held")?, 20)?;
    }
    cluster.kill_9(0)?;
    for _ in 1..20 {
        let socket = eventually(patience(20.0), async || there.socket().await).await;
        others.push(socket.context("the dead node's places")?);
    }
    is_too_many(&refused_socket(&there).await?.context("now this node has them all")?, 20)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_limits_are_each_nodes_own_and_nobody_is_kept_out() -> Result<()> {
    let mut cluster = Cluster::of(1)
        .single()
        .with("MILLE_USER_CONNECTIONS_MAX", "40")
        .with("MILLE_USER_OPERATIONS_PER_SECOND", "100")
        .with("MILLE_USER_OPERATIONS_BURST", "100")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    cluster.redis()?.kill_9()?;
    let mut sockets = Vec::new();
    for _ in 0..40 {
        sockets.push(ada.socket().await.context("let in without the store's word")?);
    }
    is_too_many(&refused_socket(&ada).await?.context("the whole limit holds here")?, 40)?;
    for _ in 0..60 {
        ada.run(d::ME, json!({})).await.context("an operation that needs no store")?;
    }
    let (_, turned_down, refusal) = hurry(Instant::now() + HURRY, || ada.run(d::ME, json!({}))).await?;
    if turned_down > 0 {
        names_its_limit(&refusal.context("a refusal")?, "RATE_LIMITED", "user_operations", 100)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_place_on_a_node_is_told_so_in_a_way_that_a_browser_understands() -> Result<()> {
    let cluster = Cluster::of(1).embedded().with("MILLE_CONNECTIONS_MAX", "4").start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let token = json!({"token": Token::of("ada").sign()});
    let mut inside = Vec::new();
    let closing = loop {
        ensure!(inside.len() < 5, "five sockets were let in");
        match Socket::init(ada.base(), token.clone()).await? {
            Ok(socket) => inside.push(socket),
            Err(closing) => break closing,
        }
    };
    let says = |closing: &Closing| closing.code == Some(1013) && closing.reason.contains("node_connections: at most 4");
    ensure!(says(&closing), "a GraphQL socket: {closing:?}");
    let closing = PresenceSocket::connect(&ada, project.id).await?.closing(soon()).await?;
    ensure!(says(&closing), "a presence socket: {closing:?}");
    // Ada's client may have kept a connection; another must make its own.
    let answer = cluster.user(0, "ada").post(&json!({"query": d::ME})).await?;
    let extensions = &answer.body["errors"][0]["extensions"];
    ensure!(answer.status == 503 && answer.headers.contains_key("retry-after"), "{answer:?}");
    ensure!(extensions["code"] == "OVERLOADED" && extensions["limitName"] == "node_connections", "{answer:?}");
    ensure!(inside[0].run_one(d::ME, json!({})).await.is_ok(), "who is inside stays");

    drop(inside);
    eventually(soon(), async || {
        ada.socket().await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_a_socket_names_its_limit() -> Result<()> {
    let cluster = Cluster::of(1)
        .embedded()
        .with("MILLE_CONNECTION_SUBSCRIPTIONS_MAX", "2")
        .with("MILLE_CONNECTION_OPERATIONS_PER_SECOND", "1")
        .with("MILLE_CONNECTION_OPERATIONS_BURST", "6")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let socket = ada.socket().await?;
    let follow = || socket.start(d::FOLLOW, json!({"p": project.id}));
    let _two = (follow().await?, follow().await?);
    names_its_limit(&follow().await?.refusal().await?, "LIMIT_EXCEEDED", "connection_subscriptions", 2)?;
    let mut refusal = None;
    for _ in 0..7 {
        refusal = socket.run_one(d::ME, json!({})).await.err().or(refusal);
    }
    let Some(Failure::Refused(refusal)) = refusal else { anyhow::bail!("nothing was refused: {refusal:?}") };
    names_its_limit(&refusal, "RATE_LIMITED", "connection_operations", 1)?;

    let mut presence = welcomed(&ada, &project).await?;
    presence.join(None).await?;
    for _ in 0..60 {
        presence.send("update_status", json!({"status": "away"})).await?;
    }
    let error = presence.next_error().await?;
    ensure!(error["code"] == "RATE_LIMITED" && error["limit"] == 20, "{error}");
    ensure!(error["limitName"] == "presence_frames" && error["retryAfterMs"].is_u64(), "{error}");
    ensure!(error["message"].as_str().is_some_and(|text| text.contains("presence_frames")), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_a_request_names_its_limit() -> Result<()> {
    let cluster =
        Cluster::of(1).embedded().with("MILLE_PLAN_NODES_MAX", "4").with("MILLE_PLAN_EDGES_MAX", "1").start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let p = project.id;
    for id in ["a", "b", "c"] {
        ada.add_node_as(&project, id, "MergeNode").await?;
    }
    ada.run(d::ADD_EDGE, json!({"p": p, "edge": mille_tests::edge_input(None, "a", "b")})).await?;
    let node = |config: &str| {
        let mut node = node_input(None, "MergeNode", "x");
        node["config"] = json!(config);
        json!({"p": p, "node": node})
    };
    let labelled = |label: &str| json!({"p": p, "node": node_input(None, "MergeNode", label)});
    let many: Vec<Value> =
        (0..1_001).map(|_| json!({"moveNode": {"nodeId": "a", "position": {"x": 0, "y": 0}}})).collect();
    let long = "x".repeat(201);
    let refusals: [(&str, Value, &str, &str, u64); 6] = [
        (
            d::ADD_EDGE,
            json!({"p": p, "edge": mille_tests::edge_input(None, "b", "c")}),
            "LIMIT_EXCEEDED",
            "plan_edges",
            1,
        ),
        (d::APPLY, json!({"p": p, "changes": many}), "LIMIT_EXCEEDED", "operation_changes", 1_000),
        (d::ADD_NODE, node(&"c".repeat(100_001)), "PAYLOAD_TOO_LARGE", "config_bytes", 100_000),
        (d::ADD_NODE, labelled(&"l".repeat(50_001)), "PAYLOAD_TOO_LARGE", "metadata_bytes", 50_000),
        (d::CREATE_PROJECT, json!({"name": long}), "PAYLOAD_TOO_LARGE", "name_bytes", 200),
        (d::ADD_NODE, node(&"c".repeat(1_200_000)), "PAYLOAD_TOO_LARGE", "request_bytes", 1_000_000),
    ];
    for (document, variables, code, name, limit) in refusals {
        let refusal = refused(ada.run(document, variables).await).context(name)?;
        names_its_limit(&refusal, code, name, limit)?;
    }
    ada.add_node_as(&project, "d", "MergeNode").await?;
    let refusal = refused(ada.run(d::ADD_NODE, node("{}")).await)?;
    names_its_limit(&refusal, "LIMIT_EXCEEDED", "plan_nodes", 4)?;
    let complex: String = (0..600).map(|index| format!("a{index}: me {{ id }} ")).collect();
    let deep = format!("{{ {}id{} }}", "me { ".repeat(20), " }".repeat(20));
    let nested = format!("{{ me(x: {}1{}) }}", "[".repeat(300), "]".repeat(300));
    let bomb: String = (0..20).map(|i| format!("fragment f{i} on Q {{ ...f{0} ...f{0} }} ", i + 1)).collect();
    let wide = format!("{{ ...f0 }} {bomb} fragment f20 on Q {{ id }}");
    for (query, name, limit) in [
        (format!("{{ {complex} }}"), "query_complexity", 500),
        (format!("{{ projects {{ {} }} }}", "__typename ".repeat(9)), "query_repeats", 8),
        (nested, "query_nesting", 200),
        (wide, "query_selections", 10_000),
    ] {
        let refusal = refused(ada.run(&query, json!({})).await).context(name)?;
        names_its_limit(&refusal, "LIMIT_EXCEEDED", name, limit)?;
    }
    // No field of ours is deep enough without being wrong in a second way, and either may be said.
    let refusal = refused(ada.run(&deep, json!({})).await)?;
    let is_right = match refusal.code.as_str() {
        "LIMIT_EXCEEDED" => refusal.extensions["limitName"] == "query_depth" && refusal.extensions["limit"] == 12,
        code => code == "VALIDATION_FAILED",
    };
    ensure!(is_right, "{refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_operations_is_not_answered_with_a_flood() -> Result<()> {
    let cluster = Cluster::of(1)
        .embedded()
        .with("MILLE_CONNECTION_OPERATIONS_PER_SECOND", "1")
        .with("MILLE_CONNECTION_OPERATIONS_BURST", "10")
        .start()
        .await?;
    let url = format!("{}/graphql/ws", cluster.ws_url(0));
    let mut flood = RawSocket::open(&url, &["graphql-transport-ws"]).await?;
    let payload = json!({"token": Token::of("ada").sign()});
    flood.text(json!({"type": "connection_init", "payload": payload}).to_string()).await?;
    flood.next_text().await?;
    let began = Instant::now();
    for id in 0..2_000 {
        let frame = json!({"id": id.to_string(), "type": "subscribe", "payload": {"query": "{ me { id } }"}});
        flood.text(frame.to_string()).await?;
    }
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    while began.elapsed() < HURRY {
        let Ok(frame) = tokio::time::timeout_at(began + HURRY, flood.next()).await else { break };
        let Frame::Text(text) = frame else { continue };
        let message: Value = serde_json::from_str(&text)?;
        *kinds.entry(message["type"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    // Twice the burst in each second that has begun.
    let most = 2 * 10 * (began.elapsed().as_secs() + 2);
    let errors = kinds.get("error").copied().unwrap_or_default();
    ensure!((20..=most).contains(&errors), "{errors} refusals, at most {most} were due: {kinds:?}");
    cluster.user(0, "bob").socket().await?.run_one(d::ME, json!({})).await.context("others go on")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_moves_is_read_slowly_and_hurts_nobody() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let document = project.plan.to_string();
    let mut flood = welcomed(&ada, &project).await?;
    flood.join(None).await?;
    flood.switch_document(&document, "canvas").await?;
    let began = Instant::now();
    let moves = tokio::spawn(async move {
        // More than fits what is read at once: the rest waits in the sockets, or can't be written yet.
        for step in 0..50_000 {
            flood.move_cursor(&document, f64::from(step), 0.0).await?;
        }
        anyhow::Ok(flood)
    });
    let mut other = welcomed(&ada, &project).await?;
    other.join(None).await?;
    other.switch_document(&project.plan.to_string(), "canvas").await?;
    let some = |cursors: &Value| cursors["cursors"].as_array().is_some_and(|all| !all.is_empty());
    while began.elapsed() < HURRY {
        other.next_where("cursor_update", soon(), some).await.context("what is read is shown")?;
    }
    ada.plan(&project).await.context("edits go on")?;
    // A move has some 150 bytes; half a megabyte is read at once, and 128 KiB per second.
    let read = metric(&cluster, 0, "cursors_conflated_total").await?;
    let most = (512.0 + 128.0 * began.elapsed().as_secs_f64()) * 1_024.0 / 130.0;
    eprintln!("{read} moves were read in {:?}, at most {most:.0} were due", began.elapsed());
    ensure!(read > 1_000.0 && read <= most, "{read} moves were read in {:?}", began.elapsed());
    moves.abort();
    Ok(())
}

/// A presence socket that was let in.
async fn welcomed(client: &Client, project: &Project) -> Result<PresenceSocket> {
    let mut socket = PresenceSocket::connect(client, project.id).await?;
    socket.next("welcome").await?;
    Ok(socket)
}

/// How a GraphQL socket is closed at `connection_init`; `None` if it is not, and then it is closed again.
async fn refused_socket(client: &Client) -> Result<Option<Closing>> {
    let token = Token::of(client.user()).sign();
    match Socket::init(client.base(), json!({"token": token})).await? {
        Ok(socket) => {
            socket.close().await?;
            Ok(None)
        }
        Err(closing) => Ok(Some(closing)),
    }
}

fn is_too_many(closing: &Closing, limit: u64) -> Result<()> {
    let names = closing.reason.contains("user_connections") && closing.reason.contains(&limit.to_string());
    ensure!(closing.code == Some(1013) && names, "1013 with the limit's name and value was due: {closing:?}");
    Ok(())
}

/// A metric of a node.
async fn metric(cluster: &Cluster, node: usize, name: &str) -> Result<f64> {
    let text = reqwest::get(format!("{}/metrics", cluster.admin_url(node))).await?.text().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().parse()?)
}
