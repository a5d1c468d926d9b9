//! Redis behind Sentinel for a test: a master with two replicas, and three sentinels who watch them.
//!
//! The sentinels start with everybody's address, so nobody has to be found first. A server is named by its number: 0 begins
//! as the master. Who is it later is asked of the sentinels, and the test believes what most of them say.

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;

use super::{Redis, Setup, users};
use crate::patience::{eventually, patience};
use crate::process::free_port;

/// By this name sentinels are asked for the master.
pub const MASTER_NAME: &str = "mille";
/// A master and its replicas.
const SERVERS: usize = 3;
/// Those who watch. Most of them must agree on a failover.
const SENTINELS: usize = 3;
/// How many of them must hold the master for dead before one of them acts.
const QUORUM: usize = 2;
/// Silence after which a server is held for dead. Short, so that a test need not wait; a busy machine bears it.
const DOWN_AFTER_MS: u16 = 1_500;
/// A failover that isn't through by then is tried anew after twice the time.
const FAILOVER_TIMEOUT_MS: u16 = 5_000;
/// Seconds until sentinels agree. One who was the master and comes back is told after about ten that it is not.
const AGREED_SECONDS: f64 = 30.0;

/// A private Redis with replicas and sentinels. Dropping it ends its processes and removes their data.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
    url: String,
}

impl RedisSentinels {
    /// Starts them, and waits until the replicas follow and the sentinels could act.
    ///
    /// # Errors
    /// When `redis-server` is missing or they don't get there.
    pub async fn start(setup: Setup<'_>) -> Result<Self> {
        let size = if setup.is_without_replicas { 1 } else { SERVERS };
        let ports = (0..size + SENTINELS).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let (ports, sentinel_ports) = ports.split_at(size);
        let mut servers = Vec::with_capacity(size);
        for (server, port) in ports.iter().enumerate() {
            let mut lines = vec![format!("replica-announce-ip {}", setup.host())];
            if server > 0 {
                lines.push(format!("replicaof {} {}", setup.host(), ports[0]));
            }
            servers.push(setup.store(*port, lines, None).await?);
        }
        for server in &mut servers {
            server.answers().await?;
        }
        let ids: Vec<String> = sentinel_ports.iter().map(|_| super::random_id()).collect();
        let mut sentinels = Vec::with_capacity(SENTINELS);
        for (own, port) in sentinel_ports.iter().enumerate() {
            let lines = sentinel_settings(own, &ids, ports, sentinel_ports, setup.host());
            sentinels.push(setup.sentinel(*port, lines).await?);
        }
        for sentinel in &mut sentinels {
            sentinel.answers().await?;
            // They ask the servers each second who follows whom, instead of every ten: it is only waited for less.
            sentinel.ask(&["SENTINEL", "DEBUG", "INFO-PERIOD", "1000"]).await?;
        }
        let url = setup.url("redis-sentinel", &sentinels, Some(MASTER_NAME));
        let all = Self { servers, sentinels, url };
        all.is_whole().await?;
        Ok(all)
    }

    /// How nodes come to the master: `redis-sentinel://`, the user of the nodes, all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// How many servers there are, the master among them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    /// One of the servers.
    ///
    /// # Panics
    /// When there is no such server.
    #[must_use]
    pub fn server(&self, server: usize) -> &Redis {
        &self.servers[server]
    }

    /// One of the servers, to be killed or started again.
    ///
    /// # Panics
    /// When there is no such server.
    pub fn server_mut(&mut self, server: usize) -> &mut Redis {
        &mut self.servers[server]
    }

    /// One of the three sentinels, to be asked, paused, killed or started again.
    ///
    /// # Panics
    /// When there is no such sentinel.
    pub fn sentinel_mut(&mut self, sentinel: usize) -> &mut Redis {
        &mut self.sentinels[sentinel]
    }

    /// The server that most sentinels call the master, and that calls itself so.
    ///
    /// # Errors
    /// When there is none for a while.
    pub async fn master(&self) -> Result<usize> {
        eventually(patience(AGREED_SECONDS), async || self.master_now().await).await
    }

    /// The master.
    ///
    /// # Errors
    /// As [`RedisSentinels::master`].
    pub async fn serving(&self) -> Result<&Redis> {
        Ok(self.server(self.master().await?))
    }

    /// Waits until another server than `lost` calls itself the master, and brings its number. Sentinels may not name it yet.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn promoted_instead_of(&self, lost: usize) -> Result<usize> {
        eventually(patience(AGREED_SECONDS), async || {
            for (server, redis) in self.servers.iter().enumerate() {
                if server != lost && redis.is_awake() && is_master(redis).await? {
                    return Ok(server);
                }
            }
            bail!("nobody has taken the place of server {lost}")
        })
        .await
    }

    /// Has a replica take the master's place in order (`SENTINEL FAILOVER`), and brings its number once it has.
    ///
    /// # Errors
    /// When a failover is under way already, or nobody is promoted.
    pub async fn fail_over(&self, master: usize) -> Result<usize> {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.is_awake()).context("no sentinel is awake")?;
        sentinel.ask(&["SENTINEL", "FAILOVER", MASTER_NAME]).await?;
        self.promoted_instead_of(master).await
    }

    /// Waits until all other servers follow the master, and every sentinel sees them and could have one promoted.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn is_whole(&self) -> Result<()> {
        eventually(patience(AGREED_SECONDS), async || {
            let master = self.master_now().await?;
            let port = self.server(master).port().to_string();
            let replicas = (0..self.size()).filter(|server| *server != master).map(|server| self.server(server));
            for replica in replicas.clone() {
                let follows = replica.replication("master_port").await?;
                ensure!(follows == port, "the server at {} follows {follows}", replica.port());
            }
            try_join_all(replicas.map(|replica| replica.catches_up_with(self.server(master)))).await?;
            for sentinel in &self.sentinels {
                sentinel.ask(&["SENTINEL", "CKQUORUM", MASTER_NAME]).await?;
                let seen = sentinel.ask(&["SENTINEL", "REPLICAS", MASTER_NAME]).await?;
                let field = |replica: &[&str], name: &str| {
                    replica.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_owned())
                };
                let fit = seen.items().iter().filter(|replica| {
                    let texts: Vec<&str> = replica.items().iter().filter_map(|item| item.text()).collect();
                    field(&texts, "flags").as_deref() == Some("slave")
                        && field(&texts, "master-link-status").as_deref() == Some("ok")
                });
                let fit = fit.count();
                ensure!(fit + 1 == self.size(), "a sentinel sees {fit} replicas that could be promoted");
            }
            Ok(())
        })
        .await
        .context("not all are in their places")
    }

    async fn master_now(&self) -> Result<usize> {
        let mut votes = [0; SERVERS];
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_awake()) {
            let named = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME]).await?;
            let port = named.items().get(1).and_then(|port| port.text()).context("a sentinel names nobody")?;
            let server = self.servers.iter().position(|server| server.port().to_string() == port);
            votes[server.with_context(|| format!("a sentinel names port {port}"))?] += 1;
        }
        let Some(master) = votes.iter().position(|votes| 2 * votes > SENTINELS) else {
            bail!("sentinels do not agree: {votes:?}");
        };
        ensure!(self.servers[master].is_awake(), "the master {master} does not answer");
        ensure!(is_master(&self.servers[master]).await?, "server {master} is not the master");
        Ok(master)
    }
}

async fn is_master(server: &Redis) -> Result<bool> {
    Ok(server.ask(&["ROLE"]).await?.items().first().and_then(|role| role.text()) == Some("master"))
}

/// What a sentinel would have written down of servers and sentinels that it knows already.
fn sentinel_settings(own: usize, ids: &[String], ports: &[u16], sentinel_ports: &[u16], host: &str) -> Vec<String> {
    let mut lines = vec![
        format!("sentinel myid {}", ids[own]),
        format!("sentinel announce-ip {host}"),
        format!("sentinel monitor {MASTER_NAME} {host} {} {QUORUM}", ports[0]),
        format!("sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}"),
        format!("sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}"),
        format!("sentinel auth-user {MASTER_NAME} sentinel"),
        format!("sentinel auth-pass {MASTER_NAME} {}", users::SENTINELS_PASSWORD),
    ];
    lines.extend(ports[1..].iter().map(|port| format!("sentinel known-replica {MASTER_NAME} {host} {port}")));
    for (other, (id, port)) in ids.iter().zip(sentinel_ports).enumerate() {
        if other != own {
            lines.push(format!("sentinel known-sentinel {MASTER_NAME} {host} {port} {id}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_master_is_replaced_and_follows_when_it_is_back() -> Result<()> {
        let mut all = RedisSentinels::start(Setup::PERSISTENT).await?;
        assert_eq!(all.master().await?, 0);
        all.server(0).ask(&["XADD", "log", "7-*", "h", "a"]).await?;
        for replica in [1, 2] {
            all.server(replica).catches_up_with(all.server(0)).await?;
        }
        all.server_mut(0).kill_9()?;
        let heir = all.promoted_instead_of(0).await?;
        assert_eq!(all.serving().await?.entries("log").await?.len(), 1);
        all.server_mut(0).restart().await?;
        all.is_whole().await?;
        assert_eq!(all.master().await?, heir);
        Ok(())
    }

    #[tokio::test]
    async fn a_frozen_master_is_replaced_and_follows_when_it_wakes() -> Result<()> {
        let all = RedisSentinels::start(Setup::default()).await?;
        all.server(0).pause()?;
        let heir = all.promoted_instead_of(0).await?;
        all.server(0).resume()?;
        all.is_whole().await?;
        assert_eq!(all.master().await?, heir);
        Ok(())
    }

    #[tokio::test]
    async fn a_failover_in_order_changes_places_also_without_one_sentinel() -> Result<()> {
        let mut all = RedisSentinels::start(Setup::default()).await?;
        all.sentinel_mut(2).kill_9()?;
        let heir = all.fail_over(0).await?;
        assert_ne!(heir, 0);
        all.sentinel_mut(2).restart().await?;
        all.is_whole().await?;
        assert_eq!(all.master().await?, heir);
        Ok(())
    }
}
