//! Stores of several servers: a cluster, and a primary that sentinels watch over.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mille_node::backend::Backend;
use mille_node::backend::redis::{self, RedisObserver, RedisSettings};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kit::{Server, eventually, free_port};

/// Primaries of a cluster.
const PRIMARIES: usize = 3;
/// Slots of a cluster.
const SLOTS: usize = 16_384;
/// After so long without a word a server is called dead, in milliseconds.
const DEAD_AFTER_MS: &str = "1000";

/// What a node's connections live by. They end with this value.
struct Connections {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Connections {
    fn new() -> Self {
        Self { tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    async fn connect(&self, url: String, observer: Arc<dyn RedisObserver>) -> Backend {
        let settings = RedisSettings { command_timeout: Duration::from_secs(2), ..RedisSettings::at(url) };
        self.connect_with(&settings, observer).await
    }

    async fn connect_with(&self, settings: &RedisSettings, observer: Arc<dyn RedisObserver>) -> Backend {
        redis::connect(settings, observer, &self.tasks, &self.stop).await.expect("redis takes us")
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A cluster of three primaries, each with so many replicas. It begins as if it had been there before, since servers that
/// have to get to know each other take much longer.
pub(crate) struct Cluster {
    connections: Connections,
    /// The primaries first, then their replicas in the same order.
    pub(crate) servers: Vec<Server>,
    ids: Vec<String>,
}

impl Cluster {
    pub(crate) async fn start(replicas: usize) -> Self {
        for _ in 0..5 {
            if let Some(cluster) = Self::try_start(replicas).await {
                return cluster;
            }
        }
        panic!("the cluster did not start; five sets of ports were tried");
    }

    async fn try_start(replicas: usize) -> Option<Self> {
        let count = PRIMARIES * (1 + replicas);
        let ids: Vec<String> =
            (0..count).map(|_| uuid::Uuid::new_v4().simple().to_string()).map(|id| id.clone() + &id[..8]).collect();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let mut servers = Vec::new();
        for (me, (port, bus)) in ports.iter().enumerate() {
            let files = TempDir::new().expect("a directory for the server");
            let lines = (0..count).map(|n| {
                let primary = n % PRIMARIES;
                let (port, bus) = ports[n];
                let itself = if n == me { "myself," } else { "" };
                let kind = if n < PRIMARIES { "master -".to_owned() } else { format!("slave {}", ids[primary]) };
                let slots = if n < PRIMARIES {
                    format!(" {}-{}", n * SLOTS / PRIMARIES, (n + 1) * SLOTS / PRIMARIES - 1)
                } else {
                    String::new()
                };
                format!("{} 127.0.0.1:{port}@{bus} {itself}{kind} 0 0 {} connected{slots}\n", ids[n], primary + 1)
            });
            let known: String = lines.chain(["vars currentEpoch 3 lastVoteEpoch 0\n".to_owned()]).collect();
            std::fs::write(files.path().join("nodes.conf"), known).expect("a file");
            let bus = bus.to_string();
            servers.push(Server::spawn(
                *port,
                files,
                &[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    DEAD_AFTER_MS,
                    "--cluster-replica-validity-factor",
                    "0",
                    "--cluster-require-full-coverage",
                    "no",
                ],
            ));
        }
        for server in &mut servers {
            if !server.answers().await {
                return None;
            }
            server.let_nodes_in();
        }
        let cluster = Self { connections: Connections::new(), servers, ids };
        eventually("every server serves, and every replica has caught up", async || {
            let serves =
                |server: &Server| server.say("CLUSTER INFO").is_ok_and(|info| info.contains("cluster_state:ok"));
            let follows = |server: &Server| {
                server.say("INFO replication").is_ok_and(|info| info.contains("master_link_status:up"))
            };
            let (primaries, replicas) = cluster.servers.split_at(PRIMARIES);
            (primaries.iter().all(serves) && replicas.iter().all(|server| serves(server) && follows(server)))
                .then_some(())
        })
        .await;
        Some(cluster)
    }

    pub(crate) fn url(&self) -> String {
        let port = |n: usize| self.servers[n].port();
        format!("redis-cluster://mille:contract@127.0.0.1:{}?node=127.0.0.1:{}", port(0), port(1))
    }

    pub(crate) async fn connect(&self) -> Backend {
        self.connections.connect(self.url(), Arc::new(())).await
    }

    /// With the patience that nodes have.
    pub(crate) async fn connect_observed(&self, observer: Arc<dyn RedisObserver>) -> Backend {
        self.connections.connect_with(&RedisSettings::at(self.url()), observer).await
    }

    pub(crate) async fn connect_with(&self, settings: RedisSettings) -> Backend {
        self.connections.connect_with(&settings, Arc::new(())).await
    }

    /// Which primary serves a key, by number.
    pub(crate) fn primary_of(&self, key: &str) -> usize {
        self.slot_of(key) * PRIMARIES / SLOTS
    }

    pub(crate) fn slot_of(&self, key: &str) -> usize {
        let answer = self.servers[0].say(&format!("CLUSTER KEYSLOT {key}")).expect("an answer");
        answer.trim().trim_start_matches(':').parse().expect("a slot")
    }

    /// Moves a slot with all its keys from one primary to another, as an operator's tool does.
    pub(crate) fn migrate(&self, slot: usize, from: usize, to: usize) {
        self.begin_to_migrate(slot, from, to);
        self.end_migration(slot, from, to);
    }

    /// Moves the keys of a slot.
    pub(crate) fn begin_to_migrate(&self, slot: usize, from: usize, to: usize) {
        self.must(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.ids[from]));
        self.must(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.ids[to]));
        loop {
            let answer = self.must(from, &format!("CLUSTER GETKEYSINSLOT {slot} 1"));
            let Some(key) = answer.lines().nth(2).map(str::to_owned) else { break };
            self.must(from, &format!("MIGRATE 127.0.0.1 {} {key} 0 5000", self.servers[to].port()));
        }
    }

    /// Moves a slot whose keys have been moved.
    pub(crate) fn end_migration(&self, slot: usize, from: usize, to: usize) {
        for server in [to, from] {
            self.must(server, &format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[to]));
        }
    }

    /// Has a primary say that a slot without keys is another's, whoever that may be in truth.
    pub(crate) fn says_that_a_slot_is_of(&self, server: usize, slot: usize, owner: usize) {
        self.must(server, &format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[owner]));
    }

    /// Gives all servers a name, by which they send others on, and waits until each knows that of all.
    pub(crate) async fn announces(&self, name: &str) {
        for server in 0..self.servers.len() {
            self.must(server, &format!("CONFIG SET cluster-announce-hostname {name}"));
            self.must(server, "CONFIG SET cluster-preferred-endpoint-type hostname");
        }
        eventually("all know the names", async || {
            let knows = |server: &Server| {
                server
                    .say("CLUSTER NODES")
                    .is_ok_and(|nodes| nodes.matches(&format!(",{name} ")).count() == self.ids.len())
            };
            self.servers.iter().all(knows).then_some(())
        })
        .await;
    }

    fn must(&self, server: usize, command: &str) -> String {
        let answer = self.servers[server].say(command).expect("an answer");
        assert!(!answer.starts_with('-'), "{command}: {answer}");
        answer
    }
}

/// A primary with so many replicas, and three sentinels.
pub(crate) struct Watched {
    connections: Connections,
    /// The primary first.
    pub(crate) servers: Vec<Server>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    process: Child,
    port: u16,
    _files: TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Watched {
    pub(crate) async fn start(replicas: usize) -> Self {
        let mut servers = vec![Server::start().await];
        for _ in 0..replicas {
            let server = Server::start().await;
            let answer = server.say(&format!("REPLICAOF 127.0.0.1 {}", servers[0].port())).expect("an answer");
            assert_eq!(answer, "+OK\r\n");
            servers.push(server);
        }
        let sentinels = (0..3).map(|_| sentinel(servers[0].port())).collect();
        let watched = Self { connections: Connections::new(), servers, sentinels };
        eventually("the sentinels know each other and the replicas", async || {
            let knows = |sentinel: &Sentinel| {
                let told = crate::kit::say_to(sentinel.port, "SENTINEL MASTER mille").unwrap_or_default();
                let counts = |name: &str, count: usize| told.contains(&format!("{name}\r\n$1\r\n{count}\r\n"));
                counts("num-other-sentinels", 2) && counts("num-slaves", replicas)
            };
            watched.sentinels.iter().all(knows).then_some(())
        })
        .await;
        watched
    }

    pub(crate) fn url(&self) -> String {
        let port = |n: usize| self.sentinels[n].port;
        format!(
            "redis-sentinel://mille:contract@127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}&sentinelServiceName=mille",
            port(0),
            port(1),
            port(2)
        )
    }

    pub(crate) async fn connect(&self) -> Backend {
        self.connections.connect(self.url(), Arc::new(())).await
    }

    /// With the patience that nodes have.
    pub(crate) async fn connect_observed(&self, observer: Arc<dyn RedisObserver>) -> Backend {
        self.connections.connect_with(&RedisSettings::at(self.url()), observer).await
    }
}

fn sentinel(primary: u16) -> Sentinel {
    let files = TempDir::new().expect("a directory for the sentinel");
    let (port, config) = (free_port(), files.path().join("sentinel.conf"));
    let settings = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor mille 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds mille {DEAD_AFTER_MS}\nsentinel failover-timeout mille 3000\n",
        files.path().display()
    );
    std::fs::write(&config, settings).expect("a file");
    let process = Command::new("redis-server")
        .arg(&config)
        .arg("--sentinel")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server 7 must be installed and in PATH to test against it");
    Sentinel { process, port, _files: files }
}
