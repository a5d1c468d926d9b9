//! The promise: whatever comes in, the answer is a clear error with the right code, and the connection, where
//! it may live, goes on.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Frame, PresenceSocket, Project, RawSocket, Token, Upgrade, documents as d, edge_input, node_input,
    patience, refused, soon,
};
use serde_json::{Value, json};

const TRANSPORT: &str = "graphql-transport-ws";

async fn one_node() -> Result<(Cluster, Client, Project)> {
    let cluster = Cluster::of(1).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    ada.add_node_as(&project, "pier", "GraphNode").await?;
    Ok((cluster, ada, project))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_over_http_is_named_and_changes_nothing() -> Result<()> {
    let (_cluster, ada, project) = one_node().await?;
    let before = ada.plan(&project).await?;
    let p = project.id;
    let mut no_type = node_input(None, "GraphNode", "x");
    no_type["nodeType"] = json!("DanceNode");
    let wrong: [(&str, Value); 12] = [
        (d::GET_PLAN, json!({"p": "one"})),
        (d::GET_PLAN, json!({"p": 1.5})),
        (d::GET_PLAN, json!({"p": 3_000_000_000_u64})),
        (d::GET_PLAN, json!({})),
        (d::ADD_NODE, json!({"p": p, "node": no_type})),
        (d::ADD_NODE, json!({"p": p, "node": {"nodeType": "GraphNode"}})),
        (d::ADD_NODE, json!({"p": p, "node": "a node, please"})),
        (d::MOVE_NODE, json!({"p": p, "id": "pier", "to": {"x": "NaN", "y": 0}})),
        (d::MOVE_NODE, json!({"p": p, "id": "pier", "to": {"x": null, "y": 0}})),
        (d::MOVE_NODE, json!({"p": p, "id": "pier", "to": {"x": 1e300, "y": 0}})),
        (d::APPLY, json!({"p": p, "changes": [{}]})),
        ("query { nothing }", json!({})),
    ];
    for (document, variables) in wrong {
        let text = format!("{document} with {variables}");
        let refusal = refused(ada.run(document, variables).await).with_context(|| text.clone())?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{text}: {refusal:?}");
    }
    // JSON has no word for these; a GraphQL literal and a number beyond every float come closest.
    for place in ["NaN", "Infinity", "-Infinity", "1e400"] {
        let document = format!(
            "mutation {{ movePlanDagNode(projectId: {p}, nodeId: \"pier\", position: {{x: {place}, y: 0}}) {{ id }} }}"
        );
        let refusal = refused(ada.run(&document, json!({})).await).context(place)?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{place}: {refusal:?}");
    }
    // Nothing of it is run, so there is no `data`.
    for variables in [json!({}), json!({"p": null}), json!({"p": "one"})] {
        let answer = ada.post(&json!({"query": d::GET_PLAN, "variables": variables})).await?;
        ensure!(answer.body.get("data").is_none(), "{variables}: {answer:?}");
    }
    for body in
        ["", "{", "[]", "null", "\"query\"", r#"{"query": 7}"#, r#"{"query": "query {"}"#, r#"{"variables": {}}"#]
    {
        let answer = ada.post_text("/graphql", "application/json", body.to_owned()).await?;
        let refusal = answer.refusal().with_context(|| format!("{body:?} was taken: {answer:?}"))?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{body:?}: {answer:?}");
        ensure!(answer.status < 500, "{body:?}: HTTP {}", answer.status);
    }
    for (document, variables) in [
        (d::GET_PLAN, json!({"p": 2_000_000_000})),
        (d::GET_PLAN, json!({"p": -1})),
        (d::GET_PLAN, json!({"p": p, "plan": 2_000_000_000})),
        (d::DELETE_NODE, json!({"p": p, "id": ""})),
        (d::DELETE_EDGE, json!({"p": p, "id": "ü\u{0}💥"})),
    ] {
        let text = variables.to_string();
        let refusal = refused(ada.run(document, variables).await).with_context(|| text.clone())?;
        ensure!(refusal.code == "NOT_FOUND", "{text}: {refusal:?}");
    }
    ensure!(ada.plan(&project).await? == before, "nonsense changed the plan");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused_before_it_costs() -> Result<()> {
    let (_cluster, ada, project) = one_node().await?;
    let mut huge = node_input(None, "GraphNode", "x");
    huge["config"] = json!("c".repeat(1_200_000));
    let answer = ada.post(&json!({"query": d::ADD_NODE, "variables": {"p": project.id, "node": huge}})).await?;
    ensure!(answer.status == 413, "1.2 MB: HTTP {}", answer.status);
    ensure!(answer.refusal().is_some_and(|refusal| refusal.code == "PAYLOAD_TOO_LARGE"), "{:?}", answer.body);

    let wide: String =
        (0..2_000).map(|index| format!("a{index}: getPlanDag(projectId: {}) {{ version }} ", project.id)).collect();
    let refusal = refused(ada.run(&format!("query {{ {wide} }}"), json!({})).await).context("a complex query")?;
    ensure!(refusal.code == "LIMIT_EXCEEDED", "a complex query: {refusal:?}");
    // No type holds itself, so a deep query is wrong in a second way, and either may be said.
    let deep = format!("query {{ {}id{} }}", "project(id: 1) { plans { ".repeat(40), " } }".repeat(40));
    let refusal = refused(ada.run(&deep, json!({})).await).context("a deep query")?;
    let right = ["LIMIT_EXCEEDED", "VALIDATION_FAILED"].contains(&refusal.code.as_str());
    ensure!(right, "a deep query: {refusal:?}");
    let bombs = "fragment F on Project { ...F } query { projects { ...F } }";
    let refusal = refused(ada.run(bombs, json!({})).await)?;
    let right = ["LIMIT_EXCEEDED", "VALIDATION_FAILED"].contains(&refusal.code.as_str());
    ensure!(right, "a fragment in itself: {refusal:?}");
    ada.plan(&project).await.context("the node goes on")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_at_the_end_of_numbers_is_a_place_ahead_of_the_log() -> Result<()> {
    let (mut cluster, ada, project) = one_node().await?;
    ada.add_node(&project, "GraphNode", "x").await?;
    let epoch = ada.revision(&project).await?.epoch;
    let socket = ada.socket().await?;
    for after in
        [format!("{epoch}-{}", u64::MAX), format!("{}-{}", u64::MAX, u64::MAX), format!("{epoch}-{}", u64::MAX - 1)]
    {
        let mut deltas = socket.follow(&project, Some(&after)).await?;
        let event = deltas.value("planDagDeltaChanged").await?;
        ensure!(event["kind"] == "SNAPSHOT", "after {after}: {event}");
        let page = ada.run(d::DELTAS, json!({"p": project.id, "after": after})).await;
        let refusal = refused(page)?;
        ensure!(refusal.code == "UNRECOVERABLE_REVISION", "{after}: {refusal:?}");
    }
    ensure!(!cluster.log(0).contains("panicked"), "{}", cluster.log(0));
    cluster.must_live()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_has_an_upper_bound() -> Result<()> {
    let (_cluster, ada, project) = one_node().await?;
    let add = |count: usize, name: &str| -> Vec<Value> {
        (0..count)
            .map(|index| json!({"addNode": {"node": node_input(Some(&format!("{name}-{index}")), "MergeNode", "x")}}))
            .collect()
    };
    ada.run(d::APPLY, json!({"p": project.id, "changes": add(999, "n")})).await.context("1,000 plan nodes fit")?;
    let refusal = refused(ada.add_node(&project, "GraphNode", "one too many").await)?;
    ensure!(refusal.code == "LIMIT_EXCEEDED", "{refusal:?}");
    ensure!(refusal.extensions["retryable"] == false, "a full plan stays full: {refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn introspection_is_for_developers() -> Result<()> {
    let (_cluster, ada, _) = one_node().await?;
    let document = "query { __schema { types { name } } }";
    if let Ok(data) = ada.run(document, json!({})).await {
        ensure!(data["__schema"].is_null(), "introspection is on: {data}");
    }
    let dev = Cluster::of(1).embedded().dev().start().await?;
    let data = dev.user(0, "ada").run(document, json!({})).await?;
    ensure!(data["__schema"]["types"].as_array().is_some_and(|types| types.len() > 20), "with --dev it is on: {data}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_manners_on_the_graphql_socket_close_it_with_the_right_code() -> Result<()> {
    let (cluster, _, project) = one_node().await?;
    let url = format!("{}/graphql/ws", cluster.ws_url(0));
    let init = json!({"type": "connection_init", "payload": {"token": Token::of("ada").sign()}}).to_string();
    let subscribe =
        json!({"id": "1", "type": "subscribe", "payload": {"query": d::FOLLOW, "variables": {"p": project.id}}});
    let subscribe = subscribe.to_string();
    let cases: [(&str, Vec<&str>, u16); 10] = [
        ("an operation before init", vec![&subscribe], 4401),
        ("a second init", vec![&init, &init], 4429),
        ("an operation id twice", vec![&init, &subscribe, &subscribe], 4409),
        ("no JSON", vec![&init, "{not json"], 4400),
        ("no object", vec![&init, "[1, 2]"], 4400),
        ("an unknown type", vec![&init, r#"{"type": "dance"}"#], 4400),
        ("no type", vec![&init, r#"{"id": "1"}"#], 4400),
        ("no id", vec![&init, r#"{"type": "subscribe", "payload": {"query": "{ me { id } }"}}"#], 4400),
        ("no query", vec![&init, r#"{"id": "1", "type": "subscribe", "payload": {}}"#], 4400),
        ("no JSON before init", vec!["hello?"], 4400),
    ];
    for (what, frames, code) in cases {
        let mut socket = RawSocket::open(&url, &[TRANSPORT]).await?;
        for frame in frames {
            socket.text(frame).await.with_context(|| what.to_owned())?;
        }
        let closing = socket.closing(soon()).await.with_context(|| what.to_owned())?;
        ensure!(closing.code == Some(code), "{what}: {closing:?} instead of {code}");
    }
    let mut socket = RawSocket::open(&url, &[TRANSPORT]).await?;
    socket.text(init.as_str()).await?;
    socket.binary(vec![0xff; 32]).await?;
    let closing = socket.closing(soon()).await?;
    ensure!(closing.code == Some(4400), "a binary frame: {closing:?}");

    let mut socket = RawSocket::open(&url, &[]).await?;
    let closing = socket.closing(soon()).await?;
    ensure!(closing.code == Some(4406), "no subprotocol: {closing:?}");
    let mut socket = RawSocket::open(&url, &["mqtt"]).await?;
    let closing = socket.closing(soon()).await?;
    ensure!(closing.code == Some(4406), "a foreign subprotocol: {closing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_fails_leaves_its_socket_alone() -> Result<()> {
    let (_cluster, ada, project) = one_node().await?;
    let socket = ada.socket().await?;
    for (document, variables, code) in [
        ("subscription { nothing }", json!({}), "VALIDATION_FAILED"),
        ("subscription {", json!({}), "VALIDATION_FAILED"),
        (d::FOLLOW, json!({"p": "x"}), "VALIDATION_FAILED"),
        (d::FOLLOW, json!({"p": project.id, "after": "yesterday"}), "VALIDATION_FAILED"),
        (d::FOLLOW, json!({"p": 2_000_000_000}), "NOT_FOUND"),
        (d::UPDATED, json!({"plan": "harbour"}), "NOT_FOUND"),
    ] {
        let text = variables.to_string();
        let refusal = socket.start(document, variables).await?.refusal().await.with_context(|| text.clone())?;
        // A plan id that is no number may also be called malformed.
        let right = refusal.code == code || (text.contains("harbour") && refusal.code == "VALIDATION_FAILED");
        ensure!(right, "{document} with {text}: {refusal:?}");
    }
    let loops = json!({"p": project.id, "edge": edge_input(None, "pier", "pier")});
    ensure!(refused(socket.run_one(d::ADD_EDGE, loops).await)?.code == "VALIDATION_FAILED");
    ensure!(socket.run_one(d::ME, json!({})).await?["me"]["id"] == "ada", "the socket goes on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_or_too_much_is_shown_out() -> Result<()> {
    let (cluster, ada, project) = one_node().await?;
    let url = format!("{}/graphql/ws", cluster.ws_url(0));
    // Its ten seconds run while the rest of this test does.
    let mut silent = RawSocket::open(&url, &[TRANSPORT]).await?;

    let mut socket = RawSocket::open(&url, &[TRANSPORT]).await?;
    socket.text(json!({"type": "connection_init", "payload": {"token": Token::of("ada").sign()}}).to_string()).await?;
    socket.next_text().await?;
    let closing = flood(&mut socket, 2_000_000).await?;
    ensure!(closing.is_none_or(|code| code == 1009), "2 MB on the GraphQL socket: {closing:?}");

    let mut presence = ada.presence(&project).await?;
    let closing = flood(presence.raw(), 64 * 1024 + 1).await?;
    ensure!(closing == Some(1009), "65 KiB on the presence socket: {closing:?}");

    let mut broken = RawSocket::open(&url, &[TRANSPORT]).await?;
    // No frame of a client: reserved bits, no mask.
    broken.bytes(&[0xff, 0x00, 0xff, 0x7f, 0x00]).await?;
    broken.closing(soon()).await.context("bytes that are no frame")?;

    let closing = silent.closing(patience(15.0)).await?;
    ensure!(closing.code == Some(4408), "no init within ten seconds: {closing:?}");
    ada.plan(&project).await.context("the node goes on")?;
    Ok(())
}

/// Sends one frame of so many bytes and brings the close code. `None`: the connection broke while it was
/// being written, so that the code could not arrive.
async fn flood(socket: &mut RawSocket, bytes: usize) -> Result<Option<u16>> {
    if socket.text("x".repeat(bytes)).await.is_err() {
        return Ok(None);
    }
    Ok(socket.closing(soon()).await?.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_completes_in_any_order_are_fine() -> Result<()> {
    let (cluster, ..) = one_node().await?;
    let url = format!("{}/graphql/ws", cluster.ws_url(0));
    let Upgrade::Open(mut socket, chosen) = RawSocket::knock(&url, &["mqtt", TRANSPORT], &[]).await? else {
        bail!("no socket");
    };
    ensure!(chosen.as_deref() == Some(TRANSPORT), "the node chose {chosen:?}");
    let token = Token::of("ada").sign();
    socket
        .text(json!({"type": "connection_init", "payload": {"authorization": format!("Bearer {token}")}}).to_string())
        .await?;
    let answer: Value = serde_json::from_str(&socket.next_text().await?)?;
    ensure!(answer["type"] == "connection_ack", "{answer}");
    socket.text(r#"{"type": "ping", "payload": {"n": 1}}"#).await?;
    let answer: Value = serde_json::from_str(&socket.next_text().await?)?;
    ensure!(answer["type"] == "pong", "{answer}");
    for harmless in [r#"{"type": "pong"}"#, r#"{"type": "complete", "id": "never started"}"#] {
        socket.text(harmless).await?;
    }
    socket.text(r#"{"id": "1", "type": "subscribe", "payload": {"query": "{ me { id } }"}}"#).await?;
    for kind in ["next", "complete"] {
        let answer: Value = serde_json::from_str(&socket.next_text().await?)?;
        ensure!(answer["type"] == kind && answer["id"] == "1", "{kind} was due: {answer}");
    }
    // The id of an operation that is over is free again.
    socket.text(r#"{"id": "1", "type": "subscribe", "payload": {"query": "{ me { id } }"}}"#).await?;
    let answer: Value = serde_json::from_str(&socket.next_text().await?)?;
    ensure!(answer["type"] == "next", "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_on_the_presence_socket_is_an_error_and_the_socket_goes_on() -> Result<()> {
    let (_cluster, ada, project) = one_node().await?;
    let plan = project.plan.to_string();
    let cursor =
        |position: Value| json!({"documentId": plan, "documentType": "canvas", "position": position, "timestamp": 1});
    let wrong: [(&str, Value, &str); 8] = [
        ("join_session", json!({"userId": "bob", "userName": "bob", "avatarColor": "#fff"}), "FORBIDDEN"),
        ("cursor_update", cursor(json!({"type": "canvas", "x": "NaN", "y": 0})), "VALIDATION_FAILED"),
        ("cursor_update", cursor(json!({"type": "canvas", "x": 1, "y": 0, "zoom": 0})), "VALIDATION_FAILED"),
        ("cursor_update", cursor(json!({"type": "spreadsheet", "row": 1, "column": 1})), "DOCUMENT_TYPE_MISMATCH"),
        ("switch_document", json!({"documentId": plan}), "VALIDATION_FAILED"),
        ("switch_document", json!({"documentId": plan, "documentType": "opera"}), "VALIDATION_FAILED"),
        ("update_status", json!({"status": "asleep"}), "VALIDATION_FAILED"),
        ("update_viewport", json!({"documentId": plan, "x": 0, "y": 0, "zoom": -1}), "VALIDATION_FAILED"),
    ];
    for (kind, data, code) in wrong {
        // One error per second and connection is promised at most, so each case has its own.
        let mut socket = ada.presence(&project).await?;
        socket.switch_document(&plan, "canvas").await?;
        socket.send(kind, data.clone()).await?;
        let error = socket.next_error().await.with_context(|| format!("{kind} {data}"))?;
        ensure!(error["code"] == code && error["message"].is_string(), "{kind} {data}: {error}");
        socket.quiet("anything").await.with_context(|| format!("{kind} {data} ended the socket"))?;
    }
    let mut early = PresenceSocket::connect(&ada, project.id).await?;
    early.switch_document(&plan, "canvas").await?;
    let error = early.next_error().await?;
    ensure!(error["code"] == "NOT_JOINED", "before join_session: {error}");
    early.join(None).await.context("and then it may join")?;

    for garbage in ["{not json", "[]", "\"hello\"", r#"{"data": {}}"#] {
        let mut socket = ada.presence(&project).await?;
        socket.raw().text(garbage).await?;
        the_socket_answers(&mut socket, garbage).await?;
    }
    Ok(())
}

/// After garbage: an `error` with a code, or a close with 4400; nothing else, and never silence.
async fn the_socket_answers(socket: &mut PresenceSocket, garbage: &str) -> Result<()> {
    let answer = async {
        loop {
            match socket.raw().next().await {
                Frame::Text(text) => {
                    let message: Value = serde_json::from_str(&text)?;
                    if message["type"] == "error" {
                        ensure!(message["code"] == "VALIDATION_FAILED", "{garbage:?}: {message}");
                        return Ok(true);
                    }
                }
                Frame::Closed(closing) => {
                    ensure!(closing.code == Some(4400), "{garbage:?}: {closing:?}");
                    return Ok(false);
                }
                Frame::Binary(_) | Frame::Control => {}
            }
        }
    };
    let goes_on = mille_tests::within(soon() + Duration::from_secs(1), garbage, answer).await??;
    if goes_on {
        socket.quiet("anything").await.with_context(|| format!("{garbage:?} ended the socket in silence"))?;
    }
    Ok(())
}
