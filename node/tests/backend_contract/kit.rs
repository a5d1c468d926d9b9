//! What the promises are tested with: stores, a server, a writer, and waiting for a state.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mille_node::backend::embedded::Embedded;
use mille_node::backend::redis::{self, RedisObserver, RedisSettings};
use mille_node::backend::{Backend, Error, Incoming, Lane};
use mille_shared::log::{ChainHash, CommitOutcome, Head, LogEntry, OperationKey, Proposal, Terms};
use mille_shared::{PlanId, Revision};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::topologies::{Cluster, Watched};

/// The epoch in which logs begin.
pub(crate) const EPOCH: u64 = 1_700_000_000_000;
/// How long to wait for a state before calling it missing. Longer than any healing takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A store that nobody else uses.
pub(crate) struct Store {
    kind: Kind,
}

enum Kind {
    Embedded(Embedded),
    Single(Server),
    Sentinel(Watched),
    Cluster(Cluster),
}

impl Store {
    pub(crate) fn embedded() -> Self {
        Self { kind: Kind::Embedded(Embedded::new()) }
    }

    pub(crate) async fn single() -> Self {
        Self { kind: Kind::Single(Server::start().await) }
    }

    pub(crate) async fn sentinel() -> Self {
        Self { kind: Kind::Sentinel(Watched::start(0).await) }
    }

    pub(crate) async fn cluster() -> Self {
        Self { kind: Kind::Cluster(Cluster::start(0).await) }
    }

    /// A node's backend: connections and a subscription of its own.
    pub(crate) async fn connect(&self) -> Backend {
        match &self.kind {
            Kind::Embedded(embedded) => embedded.connect(),
            Kind::Single(server) => server.connect().await,
            Kind::Sentinel(watched) => watched.connect().await,
            Kind::Cluster(cluster) => cluster.connect().await,
        }
    }
}

/// Whether promises are held against this kind of store: all of them, or those that `MILLE_TEST_REDIS` names.
pub(crate) fn is_chosen(kind: &str) -> bool {
    std::env::var("MILLE_TEST_REDIS").map_or(true, |chosen| chosen.split(',').any(|chosen| chosen.trim() == kind))
}

/// How a node comes to a server, or to a line that leads there.
fn url_at(port: u16) -> String {
    format!("redis://mille:contract@127.0.0.1:{port}")
}

/// A `redis-server` of ours. It ends with this value, and so do the connections made to it.
pub(crate) struct Server {
    process: Child,
    port: u16,
    files: TempDir,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    pub(crate) async fn start() -> Self {
        for _ in 0..5 {
            let mut server = Self::spawn(free_port(), TempDir::new().expect("a directory for the server"));
            if server.answers().await {
                server.let_nodes_in();
                return server;
            }
        }
        panic!("redis-server did not start; five ports were tried");
    }

    /// Starts the process, without waiting for it.
    fn spawn(port: u16, files: TempDir) -> Self {
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0", "--dir"])
            .arg(files.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server 7 must be installed and in PATH to test against it");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Self { process, port, files, tasks, stop }
    }

    pub(crate) async fn connect(&self) -> Backend {
        let settings = RedisSettings { command_timeout: Duration::from_secs(2), ..RedisSettings::at(self.url()) };
        self.connect_with(settings).await
    }

    pub(crate) async fn connect_with(&self, settings: RedisSettings) -> Backend {
        self.connect_observed(settings, Arc::new(())).await
    }

    pub(crate) async fn connect_observed(&self, settings: RedisSettings, observer: Arc<dyn RedisObserver>) -> Backend {
        redis::connect(&settings, observer, &self.tasks, &self.stop).await.expect("redis takes us")
    }

    /// As the shipped users do: what they do not allow, the contract must not need.
    pub(crate) fn let_nodes_in(&self) {
        let users = include_str!("../../../ops/redis-users.acl");
        let rules = users.split("user mille on @NODES@").nth(1).and_then(|rest| rest.split("\n#").next());
        let rules = rules.expect("the user of the nodes").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(self.say(&format!("ACL SETUSER mille on >contract {rules}")).expect("an answer"), "+OK\r\n");
    }

    pub(crate) fn url(&self) -> String {
        url_at(self.port)
    }

    /// Stops the process without ending it: connections stay open, new ones are taken by the kernel, nobody answers.
    pub(crate) fn freeze(&self) {
        signal(self.process.id(), "-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        signal(self.process.id(), "-CONT");
    }

    /// Ends the process.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
    }

    /// Takes its disk away.
    pub(crate) fn lose_files(&self) {
        std::fs::remove_dir_all(self.files.path()).expect("its files");
    }

    /// Says a command to the server, on a connection of its own, and returns the first bytes of the answer.
    pub(crate) fn say(&self, command: &str) -> std::io::Result<String> {
        say_to(self.port, command)
    }

    /// Whether the process lives and answers as itself: another one may have taken the port.
    pub(crate) async fn answers(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            if self.say("INFO server").is_ok_and(|info| info.contains(&format!("process_id:{}\r", self.process.id()))) {
                return true;
            }
            pause().await;
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(pid: u32, signal: &str) {
    let told = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(told.is_ok_and(|status| status.success()), "kill {signal}");
}

/// Says a command to whoever listens at a port, on a connection of its own, and returns the first bytes of the answer.
pub(crate) fn say_to(port: u16, command: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = [0; 16 * 1024];
    let length = socket.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A line to a server that can go dead: connections stay open and nothing passes on them any more. New ones work. Or it
/// can be closed to subscriptions: those that are open are cut, and none can be made until it is opened again.
pub(crate) struct Proxy {
    port: u16,
    freeze: Arc<Mutex<CancellationToken>>,
    is_closed: watch::Sender<bool>,
}

impl Proxy {
    /// Begins to pass on connections, until the test ends.
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (freeze, target) = (Arc::new(Mutex::new(CancellationToken::new())), server.port);
        let current = Arc::clone(&freeze);
        let is_closed = watch::Sender::new(false);
        let closed = is_closed.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let frozen = current.lock().expect("no panic under this lock").clone();
                let mut closed = closed.subscribe();
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(("127.0.0.1", target)).await?;
                    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
                    let (asked, answered) =
                        (pass_on(&mut near_in, &mut far_out, &mut closed), tokio::io::copy(&mut far_in, &mut near_out));
                    tokio::select! {
                        done = asked => done,
                        done = answered => done.map(drop),
                        () = frozen.cancelled() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, freeze, is_closed }
    }

    pub(crate) fn url(&self) -> String {
        url_at(self.port)
    }

    /// Closes the line to subscriptions, or opens it again.
    pub(crate) fn close_to_subscriptions(&self, is_closed: bool) {
        self.is_closed.send_replace(is_closed);
    }

    /// Lets the connections that are open now go dead.
    pub(crate) fn freeze(&self) {
        let mut current = self.freeze.lock().expect("no panic under this lock");
        std::mem::take(&mut *current).cancel();
    }
}

/// Passes on what a node asks. Ends when it has subscribed and the line is closed to that.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    closed: &mut watch::Receiver<bool>,
) -> std::io::Result<()> {
    let (mut has_subscribed, mut buffer) = (false, vec![0; 64 * 1024]);
    loop {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length?,
            _ = closed.wait_for(|is_closed| *is_closed), if has_subscribed => return Ok(()),
        };
        has_subscribed |= buffer[..length].windows(9).any(|word| word == b"SUBSCRIBE");
        if length == 0 || (has_subscribed && *closed.borrow()) {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Waits until `check` gives something, at most as long as our patience lasts.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(found) = check().await {
            return found;
        }
        pause().await;
    }
    panic!("in {PATIENCE:?} it did not come to this: {what}");
}

/// The one sleep of the suite: between two looks at a state.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// The next thing on the subscription.
pub(crate) async fn next(incoming: &mut mpsc::Receiver<Incoming>) -> Incoming {
    let next = tokio::time::timeout(PATIENCE, incoming.recv()).await;
    next.expect("something must come in").expect("the subscription lives")
}

/// Writes one plan's log, one entry behind the other.
pub(crate) struct Writer {
    pub(crate) backend: Backend,
    pub(crate) plan: PlanId,
    pub(crate) head: Head,
}

impl Writer {
    /// Begins the log.
    pub(crate) async fn begin(backend: &Backend, plan: PlanId) -> Self {
        let first = proposal(ChainHash::ROOT, "first", "{\"n\":\"first\"}");
        let head = backend.log.create(plan, EPOCH, first).await.expect("a log begins");
        Self { backend: backend.clone(), plan, head }
    }

    /// Commits entries with these operation keys, which must be taken, and goes on behind them.
    pub(crate) async fn write(&mut self, keys: &[&str]) -> Vec<Proposal> {
        let batch = batch(self.head.hash, keys);
        let outcome = self.offer(&batch, &new_changes()).await;
        assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        self.go_on(self.head.revision.epoch, &batch);
        batch
    }

    /// Offers a batch behind the head that we know.
    pub(crate) async fn offer(&self, batch: &[Proposal], terms: &Terms) -> CommitOutcome {
        self.backend.log.commit(self.plan, self.head, batch, terms).await.expect("an answer")
    }

    /// Notes that a batch was taken in this epoch.
    pub(crate) fn go_on(&mut self, epoch: u64, batch: &[Proposal]) {
        let seq = self.head.revision.seq + batch.len() as u64;
        self.head = Head { revision: Revision { epoch, seq }, hash: batch[batch.len() - 1].hash };
    }

    /// Commits that many entries, numbered on from the head.
    pub(crate) async fn write_many(&mut self, count: u64) {
        let from = self.head.revision.seq + 1;
        let keys: Vec<_> = (from..from + count).map(|n| format!("op-{n}")).collect();
        self.write(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// The whole log, page by page.
    pub(crate) async fn read(&self) -> Vec<LogEntry> {
        let mut entries = Vec::new();
        for _ in 0..1_000 {
            let after = entries.last().map(|entry: &LogEntry| entry.revision);
            let page = self.backend.log.range(self.plan, after, 100, Lane::Replay).await.expect("a page");
            entries.extend(page.entries);
            if !page.has_more {
                return entries;
            }
        }
        panic!("the log does not end");
    }
}

/// The terms of a writer that vouches for nothing and lost nothing.
pub(crate) fn new_changes() -> Terms {
    Terms::Add { followed: Vec::new(), settled: None, lost_epoch: None, begins_epoch: None }
}

/// The heads alone, all of them.
pub(crate) async fn heads(backend: &Backend, plans: &[PlanId]) -> mille_node::backend::Result<Vec<Option<Head>>> {
    let unknown = || Error::Unavailable("the head of one is not known now".to_owned());
    backend.log.heads(plans).await?.into_iter().map(|state| Ok(state.ok_or_else(unknown)?.head)).collect()
}

/// Proposals that follow `hash`, one behind the other.
pub(crate) fn batch(hash: ChainHash, keys: &[&str]) -> Vec<Proposal> {
    let mut hash = hash;
    let continued = |key: &&str| {
        let next = proposal(hash, key, &format!("{{\"n\":\"{key} ü\"}}"));
        hash = next.hash;
        next
    };
    keys.iter().map(continued).collect()
}

/// A proposal whose hash depends on the one before it and its payload: FNV-1a, which is enough to tell them apart.
pub(crate) fn proposal(before: ChainHash, key: &str, payload: &str) -> Proposal {
    Proposal { key: OperationKey::from_text(key), hash: chained(before, payload), payload: payload.into(), trace: None }
}

pub(crate) fn chained(before: ChainHash, payload: &str) -> ChainHash {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = before.0.iter().chain(payload.as_bytes());
    ChainHash(bytes.fold(0xcbf2_9ce4_8422_2325, fnv).to_be_bytes())
}

/// Asserts that entries follow each other without a hole, in number and hash.
pub(crate) fn assert_chained(entries: &[LogEntry]) {
    for pair in entries.windows(2) {
        assert!(pair[0].revision.precedes(pair[1].revision), "{} then {}", pair[0].revision, pair[1].revision);
        assert_eq!(pair[1].hash, chained(pair[0].hash, &pair[1].payload), "the hash at {}", pair[1].revision);
    }
}
