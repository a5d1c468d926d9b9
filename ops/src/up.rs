//! `mille up`: a cluster on this machine, as like a real one as a machine allows.
//!
//! Real Redis with the shipped configuration, real nodes as processes of their own, HAProxy in front. From
//! the first process on, the state file names what runs, so that `mille down` can clean up after any end of
//! ours. Either the whole cluster is ready at the end, or nothing of it runs any more.

use std::fs::{self, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::output::{Output, refused};
use crate::ports::{NODES_MAX, Ports};
use crate::process::{LOOK_EVERY, Running, give_back_at_once, share_of_cores};
use crate::render::Server;
use crate::seed::{self, Sample};
use crate::state::{DEFAULT_DIR, Node, Proxy, Redis, State, jwt_secret, prepare_dir};
use crate::{client, down, render};

mod redis;
mod welcome;

use self::redis::Topology;

/// Until a process must be ready. Redis may have a long log to read.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often we look whether something ended by itself.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Our own variables and those that the cluster's own settings replace: a node must not see them.
const HIDDEN_VARIABLES: [&str; 9] = [
    "MILLE_STATE",
    "MILLE_BIN",
    "MILLE_NODE_BIN",
    "MILLE_BUILD_PROFILE",
    "MILLE_LISTEN",
    "MILLE_ADMIN_LISTEN",
    "MILLE_NODE_NAME",
    "MILLE_ADVERTISE",
    "REDIS_URL",
];

/// Variables of tests, of the chaos harness and of keys begin so.
const HIDDEN_PREFIXES: [&str; 4] = ["MILLE_TEST", "MILLE_CHAOS_", "JWT_", "JWKS_"];

/// `mille up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// The load balancer's port; the others follow from it. 0 looks for free ones.
    #[arg(long, default_value_t = 4000)]
    port_base: u16,
    /// Where logs, data and state.json go [default: .mille].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How Redis stands. Each has data of its own in the state directory.
    #[arg(long, value_enum, default_value_t = Topology::Single)]
    redis: Topology,
    /// Uses this Redis instead of a private one.
    #[arg(long, value_name = "URL", conflicts_with = "redis")]
    redis_url: Option<String>,
    /// Returns when the cluster is ready and leaves it running.
    #[arg(long)]
    detach: bool,
    /// Starts no load balancer.
    #[arg(long)]
    no_proxy: bool,
    /// Makes no sample project.
    #[arg(long)]
    no_seed: bool,
}

/// Starts the cluster; returns at once with `--detach`, else when it was stopped.
pub(crate) async fn run(args: UpArgs, output: &Output) -> Result<ExitCode> {
    let named = args.state.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DIR));
    let dir = prepare_dir(&named)?;
    // Held as long as we live, so that two starts in one directory can't meet.
    let _lock = lock(&dir)?;
    refuse_second(&dir)?;
    let programs = Programs::find(&args)?;
    let redis_ports = if args.redis_url.is_none() { args.redis.ports() } else { (0, 0) };
    let ports = Ports::claim(args.port_base, args.nodes, !args.no_proxy, redis_ports)?;
    let mut stop = Stop::new()?;

    let mut cluster = Cluster::new(&args, dir.clone(), ports)?;
    let started = tokio::select! {
        started = cluster.start(&args, &programs, output) => started,
        () = stop.asked() => Err(anyhow!("stopped before the cluster was ready")),
    };
    let sample = match started {
        Ok(sample) => sample,
        Err(error) => {
            cluster.stop(output).await;
            return Err(error);
        }
    };
    welcome::print(&cluster.state, &dir, sample, args.detach, output)?;
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let code = tokio::select! {
        code = cluster.watch(output) => code,
        () = stop.asked() => ExitCode::SUCCESS,
    };
    cluster.stop(output).await;
    Ok(code)
}

/// Ctrl-C, a polite kill, or the terminal's end.
struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The programs a cluster is made of.
struct Programs {
    node: PathBuf,
    redis: PathBuf,
    proxy: PathBuf,
}

impl Programs {
    fn find(args: &UpArgs) -> Result<Self> {
        let node = match std::env::var_os("MILLE_NODE_BIN") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe().context("can't find myself")?.with_file_name("mille-node"),
        };
        let mut missing = Vec::new();
        if !node.is_file() {
            missing.push(format!("{} (build it: cargo build -p mille-node)", node.display()));
        }
        let redis = in_path("redis-server");
        if redis.is_none() && args.redis_url.is_none() {
            missing.push("redis-server (Debian: apt-get install redis-server; or give --redis-url)".to_owned());
        }
        let proxy = in_path("haproxy");
        if proxy.is_none() && !args.no_proxy {
            missing.push("haproxy (Debian: apt-get install haproxy; or give --no-proxy)".to_owned());
        }
        if !missing.is_empty() {
            return Err(refused(format!("missing: {}", missing.join("; "))));
        }
        Ok(Self { node, redis: redis.unwrap_or_default(), proxy: proxy.unwrap_or_default() })
    }
}

/// A cluster that is starting or running as our children.
struct Cluster {
    dir: PathBuf,
    ports: Ports,
    state: State,
    running: Vec<Running>,
    http: reqwest::Client,
}

impl Cluster {
    fn new(args: &UpArgs, dir: PathBuf, ports: Ports) -> Result<Self> {
        fs::create_dir_all(dir.join("logs")).context("can't make the directory for logs")?;
        let url = args.redis_url.clone().unwrap_or_else(|| Self::redis_url(ports, args.redis));
        let redis = Redis { url, pid: None, servers: Vec::new() };
        let state = State { proxy: None, nodes: Vec::new(), redis, jwt_secret: jwt_secret(&dir)? };
        Ok(Self { dir, ports, state, running: Vec::new(), http: client::http(true, Duration::from_secs(2))? })
    }

    /// Starts everything, each when what it needs is ready.
    async fn start(&mut self, args: &UpArgs, programs: &Programs, output: &Output) -> Result<Option<Sample>> {
        if args.redis_url.is_none() {
            self.start_redis(programs, args.redis).await?;
            output.note(format_args!("redis is ready on port {}", self.ports.redis()));
        }
        let threads = share_of_cores(args.nodes.into());
        for number in 1..=args.nodes {
            self.start_node(number, threads, programs)?;
        }
        for number in 1..=args.nodes {
            let url = format!("http://127.0.0.1:{}/readyz", self.ports.node(number));
            self.wait_until_ready(&format!("node{number}"), &url).await?;
        }
        output.note(format_args!("{} nodes are ready", args.nodes));
        if !args.no_proxy {
            self.start_proxy(programs).await?;
            output.note(format_args!("the load balancer is ready on port {}", self.ports.proxy()));
        }
        if args.no_seed {
            return Ok(None);
        }
        seed::seed(&self.state, output).await.map(Some).map_err(|error| {
            let tails: Vec<String> =
                self.running.iter().filter(|process| process.name.starts_with("node")).map(Running::log_tail).collect();
            anyhow!("can't make the sample project: {error:#}\n{}", tails.join("\n"))
        })
    }

    fn start_node(&mut self, number: u16, threads: usize, programs: &Programs) -> Result<()> {
        let name = format!("node{number}");
        let listen = format!("127.0.0.1:{}", self.ports.node(number));
        let admin = format!("127.0.0.1:{}", self.ports.admin(number));
        let mut command = Command::new(&programs.node);
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if HIDDEN_VARIABLES.contains(&text.as_ref())
                || HIDDEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(&variable);
            }
        }
        command
            .args(["--listen", &listen, "--admin-listen", &admin, "--node-name", &name, "--dev"])
            // Not as arguments, which every user of the machine can read.
            .env("JWT_SECRET", &self.state.jwt_secret)
            .env("REDIS_URL", &self.state.redis.url);
        if std::env::var_os("MILLE_WORKER_THREADS").is_none() {
            command.env("MILLE_WORKER_THREADS", threads.to_string());
        }
        give_back_at_once(&mut command);
        if std::env::var_os("MILLE_ALLOWED_ORIGINS").is_none() {
            command.env("MILLE_ALLOWED_ORIGINS", self.own_origins(number));
        }
        let pid = self.spawn(&name, command)?;
        let (url, admin_url) = (format!("http://{listen}"), format!("http://{admin}"));
        self.state.nodes.push(Node { name, url, admin_url, pid });
        self.state.save(&self.dir)
    }

    /// The pages that this cluster serves itself.
    fn own_origins(&self, number: u16) -> String {
        let ports = [self.ports.proxy(), self.ports.node(number)];
        let origins: Vec<String> = ports
            .iter()
            .flat_map(|port| ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{port}")))
            .collect();
        origins.join(",")
    }

    async fn start_proxy(&mut self, programs: &Programs) -> Result<()> {
        let nodes: Vec<Server> = self
            .state
            .nodes
            .iter()
            .map(|node| Server {
                name: node.name.clone(),
                address: node.url.trim_start_matches("http://").to_owned(),
                admin_port: node.admin_port(),
            })
            .collect();
        let config = self.dir.join("haproxy.cfg");
        fs::write(&config, render::haproxy(self.ports.proxy(), &nodes))
            .context("can't write HAProxy's configuration")?;
        let mut command = Command::new(&programs.proxy);
        command.args(["-db", "-f"]).arg(&config);
        let pid = self.spawn("haproxy", command)?;
        let url = format!("http://127.0.0.1:{}", self.ports.proxy());
        self.state.proxy = Some(Proxy { url: url.clone(), pid });
        self.state.save(&self.dir)?;
        self.wait_until_ready("haproxy", &format!("{url}/readyz")).await
    }

    fn spawn(&mut self, name: &str, command: Command) -> Result<u32> {
        let running = Running::start(name, command, &self.dir.join("logs").join(format!("{name}.log")))?;
        let pid = running.pid;
        self.running.push(running);
        Ok(pid)
    }

    async fn wait_until_ready(&mut self, name: &str, url: &str) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.http.get(url).send().await.is_ok_and(|response| response.status() == 200) {
            self.expect_alive(name, deadline)?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// An error with the end of its log when the process ended or is late.
    fn expect_alive(&mut self, name: &str, deadline: Instant) -> Result<()> {
        let Some(process) = self.running.iter_mut().find(|process| process.name == name) else {
            bail!("{name} was never started");
        };
        if let Some(how) = process.ended() {
            bail!("{name} ended before it was ready ({how}); {}", process.log_tail());
        }
        if Instant::now() >= deadline {
            bail!("{name} was not ready within {} s; {}", READY_WITHIN.as_secs(), process.log_tail());
        }
        Ok(())
    }

    /// Tells of each process that ends by itself; returns when none is left. One that was killed is not
    /// started again: killing nodes is what many try first, and they want to see what follows.
    async fn watch(&mut self, output: &Output) -> ExitCode {
        while !self.running.is_empty() {
            self.running.retain_mut(|process| {
                let Some(how) = process.ended() else { return true };
                output.note(format_args!(
                    "{} (pid {}) ended: {how}; its log: {}",
                    process.name,
                    process.pid,
                    process.log.display()
                ));
                false
            });
            sleep(WATCH_EVERY).await;
        }
        ExitCode::FAILURE
    }

    /// Stops what still runs, in order.
    async fn stop(&mut self, output: &Output) {
        output.note("stopping");
        match down::stop(&self.state, &self.dir).await {
            Ok(departures) => {
                for (name, how) in departures {
                    output.note(format_args!("{name} {}", how.as_str()));
                }
            }
            Err(error) => output.error(&error),
        }
    }
}

fn lock(dir: &Path) -> Result<fs::File> {
    let file = fs::File::create(dir.join("lock")).context("can't write to the state directory")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(already_running(dir, "")),
        Err(TryLockError::Error(error)) => Err(error).context("can't lock the state directory"),
    }
}

fn refuse_second(dir: &Path) -> Result<()> {
    let Some(state) = State::load(dir)? else { return Ok(()) };
    let living = state.living();
    if living.is_empty() {
        return State::remove(dir);
    }
    Err(already_running(dir, &format!(" ({})", living.join(", "))))
}

fn already_running(dir: &Path, who: &str) -> anyhow::Error {
    refused(format!(
        "a cluster already runs in {}{who}; stop it with `mille down --state {}`",
        dir.display(),
        dir.display()
    ))
}

/// Finds a program; also where an ordinary user's PATH does not look but Debian puts servers.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_in_one_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = lock(dir.path()).expect("nobody has it");
        let error = lock(dir.path()).expect_err("the first has it");
        assert!(error.to_string().contains("already runs"), "{error}");
    }

    #[test]
    fn the_state_of_a_cluster_that_died_does_not_stop_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State {
            proxy: None,
            nodes: vec![Node {
                name: "node1".into(),
                url: "http://127.0.0.1:1".into(),
                admin_url: "http://127.0.0.1:2".into(),
                // Ourselves: alive, but no node.
                pid: std::process::id(),
            }],
            redis: Redis { url: "redis://127.0.0.1:3".into(), pid: None, servers: Vec::new() },
            jwt_secret: "s".into(),
        };
        state.save(dir.path()).expect("saved");
        refuse_second(dir.path()).expect("none of it lives");
        assert_eq!(State::load(dir.path()).expect("readable"), None);
    }

    #[test]
    fn a_program_is_found_or_not() {
        assert!(in_path("sh").is_some());
        assert_eq!(in_path("no-such-program-anywhere"), None);
    }
}
