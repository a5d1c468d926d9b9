//! Stores of several servers, as the kit of the tests from outside starts them, and backends that are connected to them.

use std::sync::Arc;
use std::time::Duration;

use mille_node::backend::Backend;
use mille_node::backend::redis::{self, RedisObserver, RedisSettings};
use mille_tests::{Redis, RedisCluster, RedisSentinels, Setup};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kit::{eventually, say_to, signal};

/// Primaries of a cluster.
const PRIMARIES: usize = 3;
/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// Several servers, and the backends that are connected to them. They end with this value.
pub(crate) struct Several<S> {
    /// The primaries first, then their replicas in the same order.
    pub(crate) servers: Vec<Member>,
    kit: S,
    url: String,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A cluster of three primaries.
pub(crate) type Cluster = Several<RedisCluster>;
/// A primary that three sentinels watch over.
pub(crate) type Watched = Several<RedisSentinels>;

/// One server of several.
pub(crate) struct Member {
    port: u16,
    pid: u32,
}

impl Member {
    fn of(server: &Redis) -> Self {
        Self { port: server.port(), pid: server.pid().expect("it runs") }
    }

    /// How one would come to it if it stood alone.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Says a command to it, on a connection of its own, and returns the first bytes of the answer.
    pub(crate) fn say(&self, command: &str) -> std::io::Result<String> {
        say_to(self.port, command)
    }

    /// Stops the process without ending it.
    pub(crate) fn freeze(&self) {
        signal(self.pid, "-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        signal(self.pid, "-CONT");
    }

    /// Ends the process.
    pub(crate) fn kill(&mut self) {
        signal(self.pid, "-KILL");
    }
}

impl<S> Several<S> {
    fn new(servers: Vec<Member>, url: String, kit: S) -> Self {
        Self { servers, kit, url, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) async fn connect(&self) -> Backend {
        self.connect_with(RedisSettings { command_timeout: Duration::from_secs(2), ..RedisSettings::at(self.url()) })
            .await
    }

    pub(crate) async fn connect_with(&self, settings: RedisSettings) -> Backend {
        self.begin(&settings, Arc::new(())).await
    }

    /// With the patience that nodes have.
    pub(crate) async fn connect_observed(&self, observer: Arc<dyn RedisObserver>) -> Backend {
        self.begin(&RedisSettings::at(self.url()), observer).await
    }

    async fn begin(&self, settings: &RedisSettings, observer: Arc<dyn RedisObserver>) -> Backend {
        redis::connect(settings, observer, &self.tasks, &self.stop).await.expect("redis takes us")
    }
}

impl<S> Drop for Several<S> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn setup(replicas: usize) -> Setup<'static> {
    if replicas == 0 { Setup::ALONE } else { Setup::default() }
}

impl Watched {
    /// Without replicas, or with some.
    pub(crate) async fn start(replicas: usize) -> Self {
        let kit = RedisSentinels::start(setup(replicas)).await.expect("sentinels");
        Self::new((0..kit.size()).map(|server| Member::of(kit.server(server))).collect(), kit.url(), kit)
    }
}

impl Cluster {
    /// Without replicas, or with one for each primary.
    pub(crate) async fn start(replicas: usize) -> Self {
        let kit = RedisCluster::start(setup(replicas)).await.expect("a cluster");
        Self::new((0..kit.size()).map(|server| Member::of(kit.server(server))).collect(), kit.url(), kit)
    }

    /// Which primary serves a key in the beginning, by number.
    pub(crate) fn primary_of(&self, key: &str) -> usize {
        self.slot_of(key) * PRIMARIES / SLOTS
    }

    pub(crate) fn slot_of(&self, key: &str) -> usize {
        let answer = self.must(0, &format!("CLUSTER KEYSLOT {key}"));
        answer.trim().trim_start_matches(':').parse().expect("a slot")
    }

    /// Moves a slot with all its keys from one primary to another, as an operator's tool does.
    pub(crate) fn migrate(&self, slot: usize, from: usize, to: usize) {
        self.begin_to_migrate(slot, from, to);
        self.end_migration(slot, from, to);
    }

    /// Moves the keys of a slot.
    pub(crate) fn begin_to_migrate(&self, slot: usize, from: usize, to: usize) {
        self.must(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.kit.id(from)));
        self.must(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.kit.id(to)));
        loop {
            let answer = self.must(from, &format!("CLUSTER GETKEYSINSLOT {slot} 1"));
            let Some(key) = answer.lines().nth(2).map(str::to_owned) else { break };
            self.must(from, &format!("MIGRATE 127.0.0.1 {} {key} 0 5000", self.servers[to].port));
        }
    }

    /// Moves a slot whose keys have been moved.
    pub(crate) fn end_migration(&self, slot: usize, from: usize, to: usize) {
        for server in [to, from] {
            self.says_that_a_slot_is_of(server, slot, to);
        }
    }

    /// Has a primary say that a slot without keys is another's, whoever that may be in truth.
    pub(crate) fn says_that_a_slot_is_of(&self, server: usize, slot: usize, owner: usize) {
        self.must(server, &format!("CLUSTER SETSLOT {slot} NODE {}", self.kit.id(owner)));
    }

    /// Gives all servers a name, by which they send others on, and waits until each knows that of all.
    pub(crate) async fn announces(&self, name: &str) {
        for server in 0..self.servers.len() {
            self.must(server, &format!("CONFIG SET cluster-announce-hostname {name}"));
            self.must(server, "CONFIG SET cluster-preferred-endpoint-type hostname");
        }
        eventually("all know the names", async || {
            let knows = |server: &Member| {
                server
                    .say("CLUSTER NODES")
                    .is_ok_and(|nodes| nodes.matches(&format!(",{name} ")).count() == self.servers.len())
            };
            self.servers.iter().all(knows).then_some(())
        })
        .await;
    }

    /// Says a command to a server, which must take it.
    fn must(&self, server: usize, command: &str) -> String {
        let answer = self.servers[server].say(command).expect("an answer");
        assert!(!answer.starts_with('-'), "{command}: {answer}");
        answer
    }
}
