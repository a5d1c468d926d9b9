//! The promise: who has not shown a good token costs little, and keeps out nobody who has one.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{Client, Cluster, RawSocket, Token, documents as d, eventually, patience, within};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Sockets of an attacker, unless the system gives fewer.
const CROWD: usize = 5_000;
/// Fewer than this show nothing.
const CROWD_MIN: usize = 2_500;

async fn connect(cluster: &Cluster) -> Result<TcpStream> {
    let address = cluster.url(0).replace("http://", "");
    Ok(TcpStream::connect(address).await?)
}

/// What comes until the end of the connection.
async fn rest_of(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    // An end by force is an end.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Opens so many connections, or as many as the system gives, with some bytes on each.
async fn crowd(cluster: &Cluster, bytes: &[u8]) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..CROWD {
        let Ok(mut stream) = connect(cluster).await else { break };
        // One that was turned away takes nothing.
        let _ = stream.write_all(bytes).await;
        streams.push(stream);
    }
    ensure!(streams.len() >= CROWD_MIN, "only {} sockets: raise the limit of open files", streams.len());
    Ok(streams)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_sockets_keep_nobody_out_and_cost_bounded_memory() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let upgrade = format!(
        "GET /graphql/ws HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: graphql-transport-ws\r\n\r\n",
        cluster.url(0).replace("http://", "")
    );
    let before = cluster.memory_bytes(0)?;
    for (what, bytes) in [
        ("nothing sent", ""),
        ("half a head", "POST /graphql HTTP/1.1\r\nhost: x\r\n"),
        ("no connection_init", &upgrade),
    ] {
        let crowd = crowd(&cluster, bytes.as_bytes()).await?;
        // A load balancer asks there, and would take the node out.
        let ready = Client::new(&cluster.admin_url(0)).get("/readyz").await?;
        ensure!(ready.status == 200, "{what}: a node that is crowded looks dead: {}", ready.status);
        let began = Instant::now();
        // A new connection each time: one that was let in stays in.
        for _ in 0..5 {
            let newcomer = cluster.user(0, "ada");
            let let_in = eventually(patience(5.0), async || Ok(newcomer.run(d::ME, json!({})).await?));
            let_in.await.with_context(|| format!("over HTTP, {what}"))?;
            let let_in = eventually(patience(5.0), async || newcomer.socket().await);
            let_in.await.with_context(|| format!("by a socket, {what}"))?;
        }
        let took = began.elapsed();
        let grew = cluster.memory_bytes(0)?.saturating_sub(before);
        eprintln!("{what}: {} sockets, ten newcomers in {took:?}, {grew} bytes more", crowd.len());
        ensure!(took < patience(20.0), "{what}: ten newcomers took {took:?}");
        ensure!(grew < 100 * 1024 * 1024, "{what}: {grew} bytes more");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_is_told_so_and_an_old_one_makes_room() -> Result<()> {
    let cluster = Cluster::of(1).embedded().with("MILLE_UNAUTHENTICATED_CONNECTIONS_MAX", "2").start().await?;
    // The look at /readyz was one too, and may still be there.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect(&cluster).await?);
    }
    let mut told = 0;
    for stream in &mut silent {
        let answer = within(patience(15.0), "an end", rest_of(stream)).await?;
        if answer.is_empty() {
            continue;
        }
        ensure!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
        ensure!(
            answer.contains("\"limitName\":\"unauthenticated_connections\"") && answer.contains("\"limit\":2"),
            "{answer}"
        );
        told += 1;
    }
    ensure!(
        (5..=7).contains(&told),
        "{told} of 8 were told: of those who waited, two have the places, and say nothing"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_makes_room_is_told_so_by_its_close() -> Result<()> {
    let cluster = Cluster::of(1).embedded().with("MILLE_UNAUTHENTICATED_CONNECTIONS_MAX", "2").start().await?;
    let url = format!("{}/graphql/ws", cluster.ws_url(0));
    let open =
        async || eventually(patience(5.0), async || RawSocket::open(&url, &["graphql-transport-ws"]).await).await;
    let mut first = open().await?;
    let _others = [open().await?, open().await?, open().await?];
    let closing = first.closing(patience(5.0)).await?;
    ensure!(closing.code == Some(1013), "{closing:?}");
    ensure!(closing.reason.starts_with("unauthenticated_connections: at most 2 "), "{closing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_bytes_and_time_are_bounded() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let began = Instant::now();
    let mut slow = connect(&cluster).await?;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await?;

    let url = format!("{}/graphql/ws", cluster.ws_url(0));
    let mut socket = RawSocket::open(&url, &["graphql-transport-ws"]).await?;
    let junk = json!({"type": "pong", "payload": {"x": "y".repeat(10_000)}}).to_string();
    let mut sent = 0;
    while sent < 100 && socket.text(junk.as_str()).await.is_ok() {
        sent += 1;
    }
    let closing = socket.closing(patience(5.0)).await.context("100 x 10 kB without a token")?;
    ensure!(closing.code != Some(4408), "it is the bytes, not the time: {closing:?}");

    // Many small requests add up too.
    let mut probes = connect(&cluster).await?;
    let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-padding: {}\r\n\r\n", "p".repeat(4_000));
    let (mut answers, mut last) = (0, String::new());
    for _ in 0..30 {
        if probes.write_all(request.as_bytes()).await.is_err() {
            break;
        }
        let mut buffer = [0; 4_096];
        match probes.read(&mut buffer).await {
            Ok(length @ 1..) => {
                (answers, last) = (answers + 1, String::from_utf8_lossy(&buffer[..length]).into_owned())
            }
            _ => break,
        }
    }
    // Half of the bytes, so that no request is cut off in the middle: it may be somebody else's, over a load balancer.
    ensure!((6..=9).contains(&answers), "{answers} answers of 4 kB each: 32 KiB are {}", 32_768 / 4_050);
    ensure!(last.contains("connection: close"), "{last}");

    within(patience(15.0), "the end of half a head", rest_of(&mut slow)).await?;
    let lasted = began.elapsed();
    ensure!(lasted > Duration::from_secs(8), "a head has ten seconds, not {lasted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_shown_a_token_is_not_bounded_as_a_stranger() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut stream = connect(&cluster).await?;
    let token = Token::of("ada").sign();
    let ask = |document: &str, padding: usize| {
        let body = json!({"query": document, "variables": {"unused": "x".repeat(padding)}}).to_string();
        format!(
            "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // A large first request, and the connection goes on after it.
    for padding in [900_000, 900_000, 0] {
        stream.write_all(ask("{ me { id } }", padding).as_bytes()).await?;
        let answer = within(patience(10.0), "an answer", head_and_body(&mut stream)).await??;
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"ada\""), "{answer}");
    }
    let socket = ada.socket().await?;
    for _ in 0..20 {
        let config = "c".repeat(50_000);
        let mut node = mille_tests::node_input(None, "MergeNode", "x");
        node["config"] = json!(config);
        socket.run_one(d::ADD_NODE, json!({"p": project.id, "node": node})).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_token_is_no_token() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let mut stream = connect(&cluster).await?;
    let head = "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a.b.c\r\ncontent-type: application/json\r\n\
                content-length: 900000\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut sent = 0;
    let chunk = "x".repeat(10_000);
    while sent < 900_000 && stream.write_all(chunk.as_bytes()).await.is_ok() {
        sent += chunk.len();
    }
    let answer = within(patience(10.0), "an end", rest_of(&mut stream)).await?;
    ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let good = Client::new(&cluster.url(0)).with_token("ada", Token::of("ada").sign());
    good.run(d::ME, json!({})).await?;
    Ok(())
}

/// One answer of a connection that goes on.
async fn head_and_body(stream: &mut TcpStream) -> Result<String> {
    let mut text = String::new();
    let mut buffer = [0; 4_096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("the connection ended after {text}");
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length.is_some_and(|length: usize| body.len() >= length) {
            return Ok(text);
        }
    }
}
