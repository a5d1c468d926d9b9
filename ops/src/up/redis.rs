//! Redis for a local cluster: one server, a master with two replicas and three sentinels, or a Redis Cluster of three
//! primaries and their replicas. Each with the shipped configuration, as processes of our own.
//!
//! Several servers know each other from the first moment on, since their configuration says what they would have written
//! down themselves. That file is theirs from then on, so who was promoted stays it through a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{Cluster, Programs, READY_WITHIN};
use crate::output::refused;
use crate::process::LOOK_EVERY;
use crate::render;
use crate::state::RedisServer;

/// How Redis stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topology {
    /// One server.
    Single,
    /// A master with two replicas, watched by three sentinels.
    Sentinel,
    /// A Redis Cluster: three primaries with a replica each.
    Cluster,
}

/// Servers of a Redis Cluster: so many primaries, and as many replicas.
const PRIMARIES: u16 = 3;
/// A master and its replicas.
const WATCHED: u16 = 3;
/// Those who watch them.
const SENTINELS: u16 = 3;
/// The slots of a Redis Cluster.
const SLOTS: u32 = 16_384;

impl Topology {
    /// How many ports its servers listen on, and how many second ones: of sentinels, or for servers among themselves.
    pub(super) fn ports(self) -> (u16, u16) {
        match self {
            Self::Single => (1, 0),
            Self::Sentinel => (WATCHED, SENTINELS),
            Self::Cluster => (2 * PRIMARIES, 2 * PRIMARIES),
        }
    }

    /// The name of its folder.
    fn name(self) -> &'static str {
        match self {
            Self::Single => "redis",
            Self::Sentinel => "redis-sentinel",
            Self::Cluster => "redis-cluster",
        }
    }
}

impl Cluster {
    /// Starts Redis and waits until it takes what nodes send.
    pub(super) async fn start_redis(&mut self, programs: &Programs, topology: Topology) -> Result<()> {
        let home = self.dir.join(topology.name());
        fs::create_dir_all(&home).context("can't make the directory for Redis")?;
        match topology {
            Topology::Single => self.start_single(programs, &home).await,
            Topology::Sentinel => self.start_watched(programs, &home).await,
            Topology::Cluster => self.start_shards(programs, &home).await,
        }
    }

    async fn start_single(&mut self, programs: &Programs, data: &Path) -> Result<()> {
        let config = self.dir.join("redis.conf");
        let port = self.ports.redis();
        fs::write(&config, render::redis(port, data)).context("can't write Redis' configuration")?;
        self.state.redis.pid = Some(self.spawn_redis(programs, "redis", &config, port, &[])?);
        self.state.save(&self.dir)?;
        self.wait_for_redis("redis", port, "PING", "+PONG").await
    }

    async fn start_watched(&mut self, programs: &Programs, home: &Path) -> Result<()> {
        keep_ports(home, self.ports.redis())?;
        let ports: Vec<u16> = (0..WATCHED).map(|number| self.ports.redis_server(number)).collect();
        for (number, port) in ports.iter().enumerate() {
            let (name, data) = folder(home, "server", number)?;
            let mut text = render::redis(*port, &data);
            if number > 0 {
                text += &format!("replicaof 127.0.0.1 {}\n", ports[0]);
            }
            self.start_server(programs, &name, *port, &write_once(&data, "redis.conf", &text)?, &[])?;
        }
        for (number, port) in ports.iter().enumerate() {
            self.wait_for_redis(&format!("redis-server{}", number + 1), *port, "PING", "+PONG").await?;
        }
        let sentinels: Vec<u16> = (0..SENTINELS).map(|number| self.ports.redis_second(number)).collect();
        for (number, port) in sentinels.iter().enumerate() {
            let (name, data) = folder(home, "sentinel", number)?;
            let config = write_once(&data, "sentinel.conf", &render::sentinel(*port, &data, ports[0]))?;
            self.start_server(programs, &name, *port, &config, &["--sentinel"])?;
        }
        for (number, port) in sentinels.iter().enumerate() {
            // That it knows the others, and that they could agree.
            let name = format!("redis-sentinel{}", number + 1);
            self.wait_for_redis(&name, *port, "SENTINEL CKQUORUM mille", &format!("+OK {SENTINELS} usable")).await?;
        }
        self.wait_for_replicas(ports.iter().copied()).await
    }

    async fn start_shards(&mut self, programs: &Programs, home: &Path) -> Result<()> {
        keep_ports(home, self.ports.redis())?;
        let ports: Vec<(u16, u16)> = (0..2 * PRIMARIES)
            .map(|number| (self.ports.redis_server(number), self.ports.redis_second(number)))
            .collect();
        let ids: Vec<String> =
            ports.iter().map(|_| format!("{:032x}{:08x}", rand::random::<u128>(), rand::random::<u32>())).collect();
        let is_new = !home.join("server1/nodes.conf").exists();
        for (number, (port, bus_port)) in ports.iter().enumerate() {
            let (name, data) = folder(home, "server", number)?;
            if is_new {
                fs::write(data.join("nodes.conf"), first_nodes(number, &ids, &ports))
                    .context("can't write nodes.conf")?;
            }
            let config = data.join("redis.conf");
            let text = render::redis_cluster(*port, *bus_port, &data);
            fs::write(&config, text).context("can't write Redis' configuration")?;
            self.start_server(programs, &name, *port, &config, &[])?;
        }
        for (number, (port, _)) in ports.iter().enumerate() {
            let name = format!("redis-server{}", number + 1);
            self.wait_for_redis(&name, *port, "CLUSTER INFO", "cluster_state:ok").await?;
        }
        self.wait_for_replicas(ports.iter().map(|(port, _)| *port)).await
    }

    /// Starts one of several and notes it, so that it is stopped too.
    fn start_server(&mut self, programs: &Programs, name: &str, port: u16, config: &Path, more: &[&str]) -> Result<()> {
        let pid = self.spawn_redis(programs, name, config, port, more)?;
        self.state.redis.servers.push(RedisServer { name: name.to_owned(), port, pid });
        self.state.save(&self.dir)
    }

    fn spawn_redis(&mut self, programs: &Programs, name: &str, config: &Path, port: u16, more: &[&str]) -> Result<u32> {
        let mut command = Command::new(&programs.redis);
        // The port also as an argument: it makes the process recognisable before Redis renames itself.
        command.arg(config).args(["--port", &port.to_string()]).args(more);
        self.spawn(name, command)
    }

    /// Waits until whoever is a replica follows its primary: before that, no edit is on as many servers as nodes may ask for.
    async fn wait_for_replicas(&mut self, ports: impl Iterator<Item = u16>) -> Result<()> {
        for (number, port) in ports.enumerate() {
            let (name, deadline) = (format!("redis-server{}", number + 1), Instant::now() + READY_WITHIN);
            // Who it is may change meanwhile.
            while !says(port, "INFO replication", "role:master").await
                && !says(port, "INFO replication", "master_link_status:up").await
            {
                self.expect_alive(&name, deadline)?;
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn wait_for_redis(&mut self, name: &str, port: u16, question: &str, answer: &str) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !says(port, question, answer).await {
            self.expect_alive(name, deadline)?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What nodes are given as `REDIS_URL`.
    pub(super) fn redis_url(ports: crate::ports::Ports, topology: Topology) -> String {
        let others = |from: u16, port: &dyn Fn(u16) -> u16| -> String {
            (1..from).map(|number| format!("node=127.0.0.1:{}", port(number))).collect::<Vec<_>>().join("&")
        };
        match topology {
            Topology::Single => format!("redis://127.0.0.1:{}", ports.redis()),
            Topology::Sentinel => format!(
                "redis-sentinel://127.0.0.1:{}?{}&sentinelServiceName=mille",
                ports.redis_second(0),
                others(SENTINELS, &|number| ports.redis_second(number))
            ),
            Topology::Cluster => format!(
                "redis-cluster://127.0.0.1:{}?{}",
                ports.redis(),
                others(2 * PRIMARIES, &|number| ports.redis_server(number))
            ),
        }
    }
}

fn folder(home: &Path, kind: &str, number: usize) -> Result<(String, PathBuf)> {
    let name = format!("{kind}{}", number + 1);
    let data = home.join(&name);
    fs::create_dir_all(&data).context("can't make the directory for Redis")?;
    Ok((format!("redis-{name}"), data))
}

/// Writes a configuration that its process changes later, if there is none yet.
fn write_once(data: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let config = data.join(name);
    if !config.exists() {
        fs::write(&config, text).context("can't write Redis' configuration")?;
    }
    Ok(config)
}

/// Servers wrote down each other's ports: with others they would not find each other.
fn keep_ports(home: &Path, port: u16) -> Result<()> {
    let file = home.join("first-port");
    match fs::read_to_string(&file) {
        Ok(text) if text.trim() != port.to_string() => Err(refused(format!(
            "the Redis servers in {} know each other by the ports from {} on, not {port}: start with the --port-base of then, or \
             another --state",
            home.display(),
            text.trim()
        ))),
        Ok(_) => Ok(()),
        Err(_) => fs::write(&file, format!("{port}\n")).context("can't write to the directory for Redis"),
    }
}

/// What a server would have written down of a cluster that it is in already.
fn first_nodes(own: usize, ids: &[String], ports: &[(u16, u16)]) -> String {
    let primaries = usize::from(PRIMARIES);
    let slot = |shard: usize| SLOTS * u32::try_from(shard).unwrap_or_default() / u32::from(PRIMARIES);
    let lines = ids.iter().zip(ports).enumerate().map(|(server, (id, (port, bus_port)))| {
        let shard = server % primaries;
        let own = if server == own { "myself," } else { "" };
        let role = match server < primaries {
            true => format!("master - 0 0 {} connected {}-{}", shard + 1, slot(shard), slot(shard + 1) - 1),
            false => format!("slave {} 0 0 {} connected", ids[shard], shard + 1),
        };
        format!("{id} 127.0.0.1:{port}@{bus_port} {own}{role}\n")
    });
    lines.chain([format!("vars currentEpoch {PRIMARIES} lastVoteEpoch 0\n")]).collect()
}

/// Whether a server answers so. While it reads its log it answers, but not with this.
async fn says(port: u16, question: &str, wanted: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // It closes the connection behind its answer, so that nobody waits for more.
        stream.write_all(format!("{question}\r\nQUIT\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains(wanted) {
            if stream.read_buf(&mut answer).await? == 0 || answer.starts_with(b"-") {
                return Ok(false);
            }
        }
        std::io::Result::Ok(true)
    };
    timeout(Duration::from_secs(1), ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_begins_serves_every_slot_once_and_each_server_knows_itself() {
        let ids: Vec<String> = (0..6).map(|number| format!("id{number}")).collect();
        let ports: Vec<(u16, u16)> = (0..6).map(|number| (4379 + number, 4389 + number)).collect();
        let text = first_nodes(4, &ids, &ports);
        assert!(text.contains("id4 127.0.0.1:4383@4393 myself,slave id1 0 0 2 connected\n"), "{text}");
        assert_eq!(text.matches("myself").count(), 1);
        for range in ["0-5460", "5461-10921", "10922-16383"] {
            assert!(text.contains(&format!(" connected {range}\n")), "{text}");
        }
    }

    #[test]
    fn servers_that_know_each_other_keep_their_ports() {
        let home = tempfile::tempdir().expect("a directory");
        keep_ports(home.path(), 4379).expect("the first time");
        keep_ports(home.path(), 4379).expect("the same again");
        let error = keep_ports(home.path(), 5379).expect_err("others").to_string();
        assert!(error.contains("4379") && error.contains("--port-base"), "{error}");
    }
}
