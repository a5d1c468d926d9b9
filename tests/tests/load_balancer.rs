//! The promise: the shipped load balancer passes on what a node should see and nothing that looks like its own word, and
//! slows down a machine that runs wild. Behind it stands a server that repeats what it was asked.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{LoadBalancer, soon, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The shipped load balancer before one server; `adapt` changes what stands in the file.
async fn before(server: u16, adapt: impl Fn(String) -> String) -> Result<LoadBalancer> {
    LoadBalancer::before(&format!("    server one 127.0.0.1:{server}"), adapt).await
}

/// Sends bytes and brings all that is answered until the end.
async fn ask(balancer: &LoadBalancer, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", balancer.port())).await?;
    stream.write_all(request.as_bytes()).await?;
    // Nothing more will be asked: so the connection ends with the answer.
    stream.shutdown().await?;
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = within(soon(), "an answer", stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Answers every request with its own head. Brings the port.
async fn echo() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|bytes| bytes > 0) {}
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", head.len());
                let _ = stream.write_all(&[answer.as_bytes(), &head].concat()).await;
            });
        }
    });
    Ok(port)
}

#[tokio::test]
async fn the_file_is_valid_as_it_is_shipped() -> Result<()> {
    let output = Command::new(LoadBalancer::binary()?)
        .args(["-c", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/haproxy.cfg")])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_told_by_us_what_only_we_know() -> Result<()> {
    let balancer = before(echo().await?, |text| text).await?;
    let said = ask(
        &balancer,
            "GET /graphql?token=t HTTP/1.1\r\nhost: here\r\nx-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\n\
             forwarded: for=6.6.6.6\r\nx-real-ip: 6.6.6.6\r\nproxy: http://evil.example\r\nproxy-connection: keep-alive\r\n\
             keep-alive: timeout=9\r\nte: trailers\r\ntrailer: x\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\
             authorization: Bearer t\r\nx-client-id: c\r\nconnection: close\r\n\r\n",
        )
        .await?
        .to_lowercase();
    for gone in [
        "6.6.6.6",
        "x-forwarded-proto",
        "forwarded:",
        "x-real-ip",
        "evil",
        "proxy",
        "keep-alive",
        "te:",
        "trailer",
        "h2c",
        "http2-settings",
    ] {
        let line = said.lines().find(|line| line.contains(gone));
        ensure!(line.is_none(), "a node hears {gone}: {line:?}");
    }
    for kept in [
        "authorization: bearer t",
        "x-client-id: c",
        "x-forwarded-for: 127.0.0.1",
        "x-request-id: ",
        "get /graphql?token=t ",
    ] {
        ensure!(said.contains(kept), "a node does not hear {kept}: {said}");
    }
    for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "cache-control: no-store"] {
        ensure!(said.contains(header), "an answer lacks {header}");
    }
    let socket = ask(
        &balancer,
        "GET /graphql/ws HTTP/1.1\r\nhost: here\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await?
    .to_lowercase();
    ensure!(socket.contains("upgrade: websocket"), "a WebSocket is passed on: {socket}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_client_asks_is_refused_here() -> Result<()> {
    let balancer = before(echo().await?, |text| text).await?;
    let many: String = (0..100).map(|index| format!("x-{index}: y\r\n")).collect();
    for (what, request, status) in [
        ("a method", "TRACE / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n".to_owned(), "405"),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(),
            "400",
        ),
        ("a bad line", "GET / HTTP/1.1\r\nhost: here\r\nbad header: x\r\n\r\n".to_owned(), "400"),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: here\r\n{many}\r\n"), "400"),
        ("a long header", format!("GET / HTTP/1.1\r\nhost: here\r\nx: {}\r\n\r\n", "y".repeat(20_000)), "400"),
    ] {
        let answer = ask(&balancer, &request).await.context(what)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_runs_wild_is_told_to_slow_down() -> Result<()> {
    let fewer = |text: String| {
        // The test itself comes from this machine, which is not counted as a rule.
        let text = text.replace("acl is_local src 127.0.0.0/8 ::1", "acl is_local src 203.0.113.1");
        text.replace("sc0_http_req_rate gt 20000", "sc0_http_req_rate gt 20")
    };
    let port = echo().await?;
    let balancer = before(port, fewer).await?;
    let request = "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(ask(&balancer, request).await?);
    }
    let refused = answers.last().context("an answer")?;
    ensure!(answers[0].starts_with("HTTP/1.1 200 "), "{}", answers[0]);
    ensure!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    for part in ["RATE_LIMITED", "retry-after: 10", "nosniff", "application/json"] {
        ensure!(refused.to_lowercase().contains(&part.to_lowercase()), "no {part}: {refused}");
    }

    let unbounded = before(port, |text| text.replace("gt 20000", "gt 20").replace("gt 5000", "gt 5")).await?;
    for _ in 0..30 {
        ensure!(ask(&unbounded, request).await?.starts_with("HTTP/1.1 200 "), "this machine is not counted");
    }
    Ok(())
}
