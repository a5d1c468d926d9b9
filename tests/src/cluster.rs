//! A cluster for one test: nodes as processes, with a Redis of their own or none.
//!
//! `Cluster::of(3).start()` is a sentence; what a test needs beyond it is said with `embedded`, `single`, `topology`, `dev`,
//! `persistent`, `proxied`, `replicated`, `with`. Nodes never see the developer's own settings: their environment is cleaned of
//! every variable a node reads. When a test fails, the end of every log is shown.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::client::Client;
use crate::patience::{eventually, patience, soon};
use crate::process::{Exit, Process, free_port, tail_of};
use crate::proxy::Proxy;
use crate::redis::Redis;
use crate::store::{Store, Topology};
use crate::token::{SECRET, Token};

/// Seconds until a node must be ready.
const READY_SECONDS: f64 = 20.0;
/// Variables a node reads begin so, beside `REDIS_URL` and `RUST_LOG`.
const FAMILIES: [&str; 4] = ["MILLE_", "OTEL_", "JWT_", "JWKS_"];
/// Thresholds of pressure that a machine with two cores, however busy, does not reach.
const NO_PRESSURE_MS: &str = "600000,600001,600002,600003";

/// Describes a cluster before it starts.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    /// How Redis stands; none: as the environment says.
    topology: Option<Topology>,
    /// Whether the test has brought one.
    is_foreign: bool,
    persistent: bool,
    dev: bool,
    quiet: bool,
    proxied: bool,
    replicated: bool,
    settings: Vec<(String, String)>,
    left_out: Vec<String>,
}

/// A running cluster. Dropping it kills everything it started.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    store: Store,
    replica: Option<Redis>,
    /// The line of each node to Redis; none if the nodes reach it directly.
    proxies: Vec<Proxy>,
    quiet: bool,
    home: Option<TempDir>,
}

#[derive(Debug)]
struct Node {
    name: String,
    port: u16,
    admin_port: u16,
    process: Option<Process>,
    log: PathBuf,
    environment: Vec<(String, String)>,
    dev: bool,
}

impl Builder {
    /// Without Redis: the embedded backend. One node only.
    #[must_use]
    pub fn embedded(self) -> Self {
        self.topology(Topology::Embedded)
    }

    /// With one Redis server, whatever the environment says: the test breaks it, or counts what it is asked.
    #[must_use]
    pub fn single(self) -> Self {
        self.topology(Topology::Single)
    }

    /// With Redis as it stands here.
    #[must_use]
    pub fn topology(self, topology: Topology) -> Self {
        Self { topology: Some(topology), ..self }
    }

    /// With a Redis that the test has brought.
    #[must_use]
    pub fn on(self, redis_url: &str) -> Self {
        Self { is_foreign: true, ..self.with("REDIS_URL", redis_url) }
    }

    /// With a Redis that keeps what it acknowledged through a kill.
    #[must_use]
    pub fn persistent(self) -> Self {
        Self { persistent: true, ..self }
    }

    /// With a line of its own between each node and a single Redis, which the test can break.
    #[must_use]
    pub fn proxied(self) -> Self {
        Self { proxied: true, ..self.single() }
    }

    /// With a persistent Redis, a replica that can take its place, and lines that can lead there.
    #[must_use]
    pub fn replicated(self) -> Self {
        Self { replicated: true, ..self.persistent().proxied() }
    }

    /// With `--dev`: introspection is on.
    #[must_use]
    pub fn dev(self) -> Self {
        Self { dev: true, ..self }
    }

    /// Shows no logs when it is dropped.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// With a setting, as its environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a setting that the kit gives.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.left_out.push(name.to_owned());
        self
    }

    /// Starts it and waits until every node is ready.
    ///
    /// # Errors
    /// When a binary is missing or a node does not become ready; the end of its log is in the message.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.start_unready().await?;
        for node in &mut cluster.nodes {
            node.ready().await?;
        }
        Ok(cluster)
    }

    /// Starts it and waits for nothing: the test wants nodes that do not become ready.
    ///
    /// # Errors
    /// When a binary is missing.
    pub async fn start_unready(self) -> Result<Cluster> {
        let store = match (self.is_foreign, self.topology) {
            (true, _) => Store::Nothing,
            (false, Some(Topology::Embedded)) if self.nodes != 1 => bail!("the embedded backend has one node"),
            (false, Some(topology)) => Store::start(topology, self.persistent).await?,
            (false, None) => match Topology::of_environment()? {
                Topology::Embedded if self.nodes != 1 => Store::start(Topology::Single, self.persistent).await?,
                topology => Store::start(topology, self.persistent).await?,
            },
        };
        let replica = match self.replicated {
            true => Some(Redis::replica_of(store.single()?).await?),
            false => None,
        };
        let home = tempfile::Builder::new().prefix("mille-cluster-").tempdir()?;
        let (mut nodes, mut proxies) = (Vec::with_capacity(self.nodes), Vec::new());
        for index in 0..self.nodes {
            let mut redis_url = store.url();
            if self.proxied {
                let proxy = Proxy::to_redis(store.single()?.port()).await?;
                redis_url = Some(format!("redis://127.0.0.1:{}", proxy.port()));
                proxies.push(proxy);
            }
            nodes.push(self.node(index, redis_url, home.path())?);
        }
        let mut cluster = Cluster { nodes, store, replica, proxies, quiet: self.quiet, home: Some(home) };
        for node in &mut cluster.nodes {
            node.launch()?;
        }
        Ok(cluster)
    }

    fn node(&self, index: usize, redis_url: Option<String>, home: &Path) -> Result<Node> {
        let name = format!("node-{}", index + 1);
        let (port, admin_port) = (free_port()?, free_port()?);
        let mut environment = vec![
            ("MILLE_LISTEN".to_owned(), format!("127.0.0.1:{port}")),
            ("MILLE_ADMIN_LISTEN".to_owned(), format!("127.0.0.1:{admin_port}")),
            ("MILLE_NODE_NAME".to_owned(), name.clone()),
            ("JWT_SECRET".to_owned(), SECRET.to_owned()),
            ("RUST_LOG".to_owned(), "info".to_owned()),
            // Most tests try again nothing that is refused. What a node refuses under pressure is for those that make it.
            ("MILLE_PRESSURE_LAG_MS".to_owned(), NO_PRESSURE_MS.to_owned()),
            ("MILLE_PRESSURE_REDIS_MS".to_owned(), NO_PRESSURE_MS.to_owned()),
            // Nobody stands before these nodes who would have to notice that they leave.
            ("MILLE_DRAIN_NOTICE_SECONDS".to_owned(), "0".to_owned()),
            ("MILLE_DRAIN_WINDOW_SECONDS".to_owned(), "0".to_owned()),
        ];
        environment.extend(redis_url.map(|url| ("REDIS_URL".to_owned(), url)));
        environment.retain(|(name, _)| !self.left_out.contains(name));
        environment.extend(self.settings.iter().cloned());
        let log = home.join(format!("{name}.log"));
        Ok(Node { name, port, admin_port, process: None, log, environment, dev: self.dev })
    }
}

impl Cluster {
    /// Describes a cluster of so many nodes with a Redis of its own.
    #[must_use]
    pub fn of(nodes: usize) -> Builder {
        let (settings, left_out) = (Vec::new(), Vec::new());
        Builder {
            nodes,
            topology: None,
            is_foreign: false,
            persistent: false,
            dev: false,
            quiet: false,
            proxied: false,
            replicated: false,
            settings,
            left_out,
        }
    }

    /// The number of nodes, running or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The address of a node, `http://127.0.0.1:<port>`.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[node].port)
    }

    /// The address of a node's admin listener.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn admin_url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[node].admin_port)
    }

    /// The port of a node for clients.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].port
    }

    /// The port of a node for operators.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn admin_port(&self, node: usize) -> u16 {
        self.nodes[node].admin_port
    }

    /// Sends a signal to a node by its name, such as `HUP`.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn signal(&self, node: usize, signal: &str) -> Result<()> {
        let node = &self.nodes[node];
        node.process.as_ref().with_context(|| format!("{} does not run", node.name))?.signal(signal)
    }

    /// The address of a node for WebSockets, `ws://127.0.0.1:<port>`.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn ws_url(&self, node: usize) -> String {
        format!("ws://127.0.0.1:{}", self.nodes[node].port)
    }

    /// Someone without a token at a node.
    #[must_use]
    pub fn stranger(&self, node: usize) -> Client {
        Client::new(&self.url(node))
    }

    /// A user with a good token at a node.
    #[must_use]
    pub fn user(&self, node: usize, user: &str) -> Client {
        self.bearer(node, user, Token::of(user).sign())
    }

    /// Someone with any token at a node.
    #[must_use]
    pub fn bearer(&self, node: usize, user: &str, token: impl Into<String>) -> Client {
        self.stranger(node).with_token(user, token)
    }

    /// The cluster's Redis, if it stands alone.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn redis(&mut self) -> Result<&mut Redis> {
        self.store.single_mut()
    }

    /// The cluster's Redis, however it stands.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The same, to be broken.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The server that has the newest state of a key, however Redis stands.
    ///
    /// # Errors
    /// When there is none, also not after a while.
    pub async fn serving(&self, key: &str) -> Result<&Redis> {
        self.store.serving(key).await
    }

    /// The replica of the cluster's Redis.
    ///
    /// # Errors
    /// When it has none, or it has taken over already.
    pub fn replica(&self) -> Result<&Redis> {
        self.replica.as_ref().context("this cluster's Redis has no replica")
    }

    /// Waits until the replica has all that Redis has now, and lets it have nothing more.
    ///
    /// # Errors
    /// When there is no replica, or it does not get there.
    pub async fn cut_replica_off(&self) -> Result<()> {
        self.replica()?.catches_up_with(self.store.single()?).await?;
        self.replica()?.cut_off()
    }

    /// The line of a node to Redis.
    ///
    /// # Errors
    /// When its nodes have none.
    pub fn proxy(&self, node: usize) -> Result<&Proxy> {
        self.proxies.get(node).context("the nodes of this cluster reach Redis directly")
    }

    /// Kills Redis and puts its replica in its place. No node is led there yet: see [`Cluster::lead_to_redis`].
    ///
    /// # Errors
    /// When there is no replica, or it does not take over.
    pub async fn fail_over(&mut self) -> Result<()> {
        let mut replica = self.replica.take().context("this cluster's Redis has no replica")?;
        self.redis()?.kill_9()?;
        replica.promote().await?;
        self.store = Store::Single(replica);
        Ok(())
    }

    /// Leads a node to what is the cluster's Redis now.
    ///
    /// # Errors
    /// When its nodes have no lines.
    pub fn lead_to_redis(&mut self, node: usize) -> Result<()> {
        let port = self.redis()?.port();
        let proxy = self.proxy(node)?;
        proxy.lead_to(port);
        proxy.mend();
        Ok(())
    }

    /// Kills a node at once (SIGKILL).
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn kill_9(&mut self, node: usize) -> Result<()> {
        let node = &mut self.nodes[node];
        let mut process = node.process.take().with_context(|| format!("{} does not run", node.name))?;
        process.kill_9()
    }

    /// Asks a node to leave (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it doesn't run, or does not leave within `patience`.
    pub async fn stop(&mut self, node: usize, patience: Duration) -> Result<Exit> {
        let node = &mut self.nodes[node];
        let mut process = node.process.take().with_context(|| format!("{} does not run", node.name))?;
        process.stop(patience).await
    }

    /// Waits until a node ends by itself.
    ///
    /// # Errors
    /// When it doesn't run, or goes on for `patience`.
    pub async fn exit(&mut self, node: usize, patience: Duration) -> Result<Exit> {
        let node = &mut self.nodes[node];
        let mut process = node.process.take().with_context(|| format!("{} does not run", node.name))?;
        process.exit(patience).await
    }

    /// Starts a node again on its old ports; kills it before, if it runs.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        let node = &mut self.nodes[node];
        node.process = None;
        node.launch()?;
        node.ready().await
    }

    /// Bytes of memory that a node holds, without what it has in common with its files.
    ///
    /// # Errors
    /// When it doesn't run, or the system doesn't tell.
    pub fn memory_bytes(&self, node: usize) -> Result<u64> {
        let node = &self.nodes[node];
        node.process.as_ref().with_context(|| format!("{} does not run", node.name))?.memory_bytes()
    }

    /// What a node's admin listener tells in numbers.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, node: usize) -> Result<String> {
        Ok(Client::new(&self.admin_url(node)).get_text("/metrics").await?)
    }

    /// What a node has written so far, over all its lives.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(&self.nodes[node].log).unwrap_or_default()
    }

    /// Fails if a node that should run has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn must_live(&mut self) -> Result<()> {
        self.nodes.iter_mut().filter_map(|node| node.process.as_mut()).try_for_each(Process::must_live)
    }
}

impl Node {
    fn launch(&mut self) -> Result<()> {
        let mut command = clean_command(&node_binary()?);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.dev {
            command.arg("--dev");
        }
        self.process = Some(Process::start(&self.name, &mut command, &self.log)?);
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        // Not at the door for clients, which may speak TLS.
        let client = Client::new(&format!("http://127.0.0.1:{}", self.admin_port));
        let process = self.process.as_mut().context("not started")?;
        let ready = eventually(patience(READY_SECONDS), async || {
            let answer = client.get("/readyz").await?;
            ensure!(answer.status == 200, "/readyz says {}: {}", answer.status, answer.body);
            Ok(())
        });
        // A node that ended will never be ready: say so at once.
        tokio::select! {
            outcome = ready => outcome.with_context(|| format!("{} is not ready", self.name)),
            exit = process.exit(patience(READY_SECONDS) + soon()) => {
                bail!("{} ended with {} before it was ready:\n{}", self.name, exit?, process.tail())
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.process = None;
        }
        if !self.quiet {
            // The test harness shows this only for a test that failed.
            for node in &self.nodes {
                eprintln!("--- the end of {}'s log ---\n{}", node.name, tail_of(&node.log));
            }
            for (name, tail) in self.store.tails() {
                eprintln!("--- the end of {name}'s log ---\n{tail}");
            }
        }
        if std::env::var_os("MILLE_TESTS_KEEP").is_some()
            && let Some(home) = self.home.take()
        {
            eprintln!("logs kept in {}", home.keep().display());
        }
    }
}

/// The node's binary: `MILLE_NODE_BIN`, else the one built beside the test.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn node_binary() -> Result<PathBuf> {
    binary("MILLE_NODE_BIN", "mille-node", "mille-node")
}

/// The operator's command line: `MILLE_BIN`, else the one built beside the test.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn mille_binary() -> Result<PathBuf> {
    binary("MILLE_BIN", "mille", "mille-ops")
}

fn binary(variable: &str, name: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable} names {}, which is no file", path.display());
        return Ok(path);
    }
    let this = std::env::current_exe()?;
    // A test lies in target/debug/deps, a binary in target/debug.
    let beside = this.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("no {name} beside {}: run `cargo build -p {package}`, or name one in {variable}", this.display())
    })
}

/// Starts a node alone with these settings, which must keep it from starting. Brings its exit code and all that it said.
///
/// # Errors
/// When it goes on.
pub async fn last_words(settings: &[(&str, String)]) -> Result<(Option<i32>, String)> {
    let home = tempfile::Builder::new().prefix("mille-node-").tempdir()?;
    let mut command = clean_command(&node_binary()?);
    command.env("JWT_SECRET", SECRET);
    command.env("MILLE_LISTEN", format!("127.0.0.1:{}", free_port()?));
    command.env("MILLE_ADMIN_LISTEN", format!("127.0.0.1:{}", free_port()?));
    command.env("MILLE_REDIS_WAIT_SECONDS", "0");
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    let mut process = Process::start("a node that can't start", &mut command, &home.path().join("log"))?;
    let exit = process.exit(soon()).await?;
    Ok((exit.code(), process.log()))
}

/// A command whose environment holds nothing a node would read.
#[must_use]
pub fn clean_command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if FAMILIES.iter().any(|family| text.starts_with(family)) || text == "REDIS_URL" || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    command
}
