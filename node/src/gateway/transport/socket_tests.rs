//! What only a real connection shows: how the WebSocket library words what it can't read, and the listener's bounds.
//! The frames are made by hand, so that they can be as wrong as they like.

use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema};
use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{BodyRoom, TransportLimits};
use super::*;
use crate::drain::{Drain, Phase};
use crate::gateway::auth::{AuthSettings, Authenticator, KeySettings};
use crate::gateway::fanout::Groups;
use crate::gateway::listener::{ListenerSettings, serve};
use crate::gateway::shedding::Shedding;
use crate::gateway::transport::Documents;
use crate::quota::UserQuotas;

struct Query;

#[Object]
impl Query {
    async fn one(&self) -> i32 {
        1
    }
}

struct Node {
    address: std::net::SocketAddr,
    drain: Drain,
    stop: CancellationToken,
    tasks: TaskTracker,
}

async fn node(settings: ListenerSettings) -> Node {
    let auth = AuthSettings::new(KeySettings::Secret { secret: "a secret for tests".to_owned(), next: None });
    let (drain, stop, tasks) = (Drain::default(), CancellationToken::new(), TaskTracker::new());
    let authenticator = Authenticator::new(&auth).await.expect("usable settings");
    let moment_max = TransportLimits::default().fan_out_moment_max;
    let transport = Transport {
        groups: Groups::new(authenticator.revoked().clone(), Arc::new(()), moment_max, TaskTracker::new()),
        executor: Schema::new(Query, EmptyMutation, EmptySubscription),
        authenticator,
        shedding: Shedding::default(),
        limits: TransportLimits { request_bytes_max: 10_000, ..TransportLimits::default() },
        drain: drain.clone(),
        tasks: tasks.clone(),
        observer: Arc::new(()),
        quotas: UserQuotas::alone(),
        documents: Documents::default(),
        bodies: BodyRoom::new(1_000_000),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/graphql/ws", get(upgrade)).with_state(transport);
    tasks.spawn(serve(listener, router, settings, tasks.clone(), stop.clone()));
    Node { address, drain, stop, tasks }
}

impl Node {
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("it is taken");
        stream
    }

    async fn socket(&self, subprotocol: &str) -> TcpStream {
        let head = format!(
            "GET /graphql/ws HTTP/1.1\r\nhost: node\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: {subprotocol}\r\n\r\n"
        );
        let mut stream = self.send(&head).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        stream
    }
}

/// The code of the close frame that comes next.
async fn close_code(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!(head[0], 0x88, "a close");
    u16::from_be_bytes([head[2], head[3]])
}

/// All that comes until the peer closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text)).await;
    // A reset after the answer is an end as well.
    let _ = read.expect("the peer closes");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn what_can_not_be_read_has_its_close_code() {
    let node = node(ListenerSettings::default()).await;
    let declared = |bytes: u64| [&[0x81, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
    for (frame, code) in [
        (declared(10_001), 1009),
        (declared(1 << 40), 1009),
        (vec![0x81, 0x81, 0, 0, 0, 0, 0xff], 4400), // no UTF-8
        (vec![0x81, 0x02, b'{', b'}'], 4400),       // not masked
        (vec![0x83, 0x80, 0, 0, 0, 0], 4400),       // an opcode that is none
        (vec![0x82, 0x80, 0, 0, 0, 0], 4400),       // binary
        (vec![0x81, 0x82, 0, 0, 0, 0, b'[', b']'], 4400),
    ] {
        let mut socket = node.socket("graphql-transport-ws").await;
        socket.write_all(&frame).await.expect("it is taken");
        assert_eq!(close_code(&mut socket).await, code, "{frame:?}");
    }
}

#[tokio::test]
async fn who_speaks_no_language_of_ours_is_told_so() {
    let node = node(ListenerSettings::default()).await;
    assert_eq!(close_code(&mut node.socket("mqtt").await).await, 4406);
}

#[tokio::test]
async fn connections_are_bounded_and_a_place_is_freed_with_its_socket() {
    let node = node(ListenerSettings { connections_max: 1, ..ListenerSettings::default() }).await;
    let socket = node.socket("graphql-ws").await;
    let request = "GET /graphql/ws HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
    assert!(rest(node.send(request).await).await.starts_with("HTTP/1.1 503"));
    drop(socket);
    let freed = async {
        while rest(node.send(request).await).await.starts_with("HTTP/1.1 503") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.expect("the place is free again");
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let settings = ListenerSettings { header_read_timeout: Duration::from_millis(200), ..ListenerSettings::default() };
    let node = node(settings).await;
    assert!(!rest(node.send("GET /graphql/ws HT").await).await.contains("200 OK"));
    assert!(rest(node.send("").await).await.is_empty());
    let idle = rest(node.send("GET /nothing HTTP/1.1\r\nhost: node\r\n\r\n").await).await;
    assert!(idle.starts_with("HTTP/1.1 404"), "{idle}");
}

#[tokio::test]
async fn a_node_that_leaves_closes_its_sockets_and_then_nothing_is_left() {
    let node = node(ListenerSettings::default()).await;
    let mut socket = node.socket("graphql-transport-ws").await;
    node.drain.enter(Phase::Closing);
    assert_eq!(close_code(&mut socket).await, 1012);
    drop(socket);
    assert_eq!(close_code(&mut node.socket("graphql-transport-ws").await).await, 1012, "late comers too");
    node.stop.cancel();
    node.tasks.close();
    tokio::time::timeout(Duration::from_secs(10), node.tasks.wait()).await.expect("everything ends");
}
