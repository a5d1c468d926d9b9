//! What telling one subscriber more allocates: `cargo bench -p mille-node --bench fan_out`.
//!
//! A whole node in this process, with clients over real sockets, and an allocator that counts. An edit is made once however
//! many hear of it, so what it allocates is told for few subscribers and for many; what the second has more of belongs to the
//! deliveries. The clients read into a buffer of their own and allocate nothing per delivery. Fails if the nodes do.

use std::alloc::System;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use jsonwebtoken::{EncodingKey, Header, encode};
use mille_node::config::{Arguments, Config};
use mille_node::node::Node;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SECRET: &str = "a secret of a bench, which nobody else needs";
const FEW: usize = 50;
const MANY: usize = 150;
const EDITS: usize = 200;
/// Edits that warm up: what is allocated once is no part of an edit.
const WARM_UP: usize = 50;
/// Of one delivery. What a socket does by itself meanwhile is in it, pings above all, and a block of observations per 128; one
/// allocation more would be 1.
const ALLOCATIONS_MAX: f64 = 0.1;

const SUBSCRIPTION: &str = "subscription ($p: Int!) { planDagDeltaChanged(projectId: $p, snapshot: true) { projectId planId kind version \
                            revision previousRevision userId clientId operationId timestamp operations { op path value from } } }";
const MOVE: &str = "mutation ($p: Int!, $x: Float!) { movePlanDagNode(projectId: $p, nodeId: \"n\", \
                    position: {x: $x, y: 0}) { id } }";

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let arguments = ["mille-node", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--jwt-secret", SECRET];
    let node = runtime.block_on(Node::start(Config::new(Arguments::try_parse_from(arguments)?)?))?;
    let bench = Bench { address: node.listen(), token: token()? };
    let created = bench.ask("mutation { createProject(name: \"bench\") { id } }", json!({}))?;
    let project = created["createProject"]["id"].clone();
    let add = "mutation ($p: Int!) { addPlanDagNode(projectId: $p, node: {id: \"n\", nodeType: DataSourceNode, \
               position: {x: -1, y: 0}, metadata: {label: \"n\"}, config: \"{}\"}) { id } }";
    bench.ask(add, json!({ "p": project }))?;

    let few = bench.allocations(&project, FEW)?;
    let many = bench.allocations(&project, MANY)?;
    let each = (many - few) / (MANY - FEW) as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "| of an edit that so many are told | allocations |\n|---|---|")?;
    writeln!(out, "| {FEW} | {few:.1} |\n| {MANY} | {many:.1} |\n| one more | {each:.3} |")?;
    if each > ALLOCATIONS_MAX {
        return Err(format!("a delivery allocates {each:.3} times; at most {ALLOCATIONS_MAX}").into());
    }
    Ok(())
}

struct Bench {
    address: SocketAddr,
    token: String,
}

impl Bench {
    /// Allocations of the whole process for each edit that so many are told.
    fn allocations(&self, project: &Value, subscribers: usize) -> Result<f64> {
        let mut sockets = Vec::new();
        for _ in 0..subscribers {
            sockets.push(Socket::subscribed(self, project)?);
        }
        let mut tell = |edits: usize| -> Result<()> {
            for x in 0..edits {
                self.ask(MOVE, json!({ "p": project, "x": x }))?;
                for socket in &mut sockets {
                    socket.read()?;
                }
            }
            Ok(())
        };
        tell(WARM_UP)?;
        let region = Region::new(ALLOCATOR);
        tell(EDITS)?;
        let counted = region.change();
        Ok((counted.allocations + counted.reallocations) as f64 / EDITS as f64)
    }

    /// One operation over HTTP, on a connection of its own.
    fn ask(&self, query: &str, variables: Value) -> Result<Value> {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let mut stream = TcpStream::connect(self.address)?;
        let (token, length) = (&self.token, body.len());
        let head = format!(
            "POST /graphql HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        // In one piece, or the second waits until the first was acknowledged.
        stream.write_all((head + &body).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let mut answer: Value = serde_json::from_str(body)?;
        if answer["data"].is_null() {
            return Err(answer.to_string().into());
        }
        Ok(answer["data"].take())
    }
}

/// A client's end of a WebSocket, with as much of it as this needs.
struct Socket {
    stream: TcpStream,
    frame: [u8; 4096],
}

impl Socket {
    fn subscribed(bench: &Bench, project: &Value) -> Result<Self> {
        let mut stream = TcpStream::connect(bench.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(
            b"GET /graphql/ws HTTP/1.1\r\nhost: bench\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
              sec-websocket-protocol: graphql-transport-ws\r\n\r\n",
        )?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let mut socket = Self { stream, frame: [0; 4096] };
        socket.say(
            &json!({"type": "connection_init", "payload": {"Authorization": format!("Bearer {}", bench.token)}}),
        )?;
        socket.read()?;
        let payload = json!({"query": SUBSCRIPTION, "variables": {"p": project}});
        socket.say(&json!({"type": "subscribe", "id": "s", "payload": payload}))?;
        // The SNAPSHOT, behind which it listens.
        socket.read()?;
        Ok(socket)
    }

    /// A client must mask what it says; with zeros it stays as it is.
    fn say(&mut self, message: &Value) -> Result<()> {
        let text = message.to_string();
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(u16::try_from(text.len())?.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        Ok(self.stream.write_all(&frame)?)
    }

    /// Reads a text past all pings.
    fn read(&mut self) -> Result<()> {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.stream.read_exact(&mut length)?;
                    usize::from(u16::from_be_bytes(length))
                }
                length => usize::from(length),
            };
            let frame = self.frame.get_mut(..length).ok_or("a frame that is too long")?;
            self.stream.read_exact(frame)?;
            if head[0] == 0x88 {
                return Err(format!("closed: {}", String::from_utf8_lossy(frame)).into());
            }
            if head[0] == 0x81 && !frame.starts_with(br#"{"type":"ping""#) {
                return Ok(());
            }
        }
    }
}

fn token() -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({"sub": "bench", "exp": now + 3_600});
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))?)
}
