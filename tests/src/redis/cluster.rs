//! A Redis Cluster for a test: three primaries and a replica for each, as processes of the test's own.
//!
//! It starts from a prepared `nodes.conf`, so nobody has to introduce them to each other. A server is named by its
//! number: 0, 1 and 2 begin as primaries, 3, 4 and 5 as their replicas, and who is added (`operator`) has the next. Who is what
//! later is asked, and the test believes what all servers say that are awake.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;

use super::view::{Member, members};
use super::{Redis, Setup};
use crate::patience::{eventually, patience};
use crate::process::free_port;
use crate::resp::Reply;

/// Primaries at the beginning; as many replicas.
const PRIMARIES: usize = 3;
/// Slots of a Redis Cluster.
const SLOTS: usize = 16_384;
/// Silence after which a server is held for dead. Short, so that a test need not wait; a busy machine bears it.
const NODE_TIMEOUT_MS: u16 = 1_500;
/// Seconds until all agree: a start takes two by itself, and a promotion about twice the time above.
const AGREED_SECONDS: f64 = 20.0;

/// A private Redis Cluster. Dropping it ends its processes and removes their data.
#[derive(Debug)]
pub struct RedisCluster {
    pub(super) servers: Vec<Redis>,
    pub(super) ids: Vec<String>,
    /// Who stands in for whom: those of one shard. Nobody changes it: `cluster-allow-replica-migration` is off.
    pub(super) shards: Vec<usize>,
    /// Those who belong to it no more.
    pub(super) removed: BTreeSet<usize>,
    url: String,
    is_persistent: bool,
}

impl RedisCluster {
    /// Starts one, and waits until all agree and the replicas follow.
    ///
    /// # Errors
    /// When `redis-server` is missing or they don't agree.
    pub async fn start(setup: Setup<'_>) -> Result<Self> {
        let size = if setup.is_without_replicas { PRIMARIES } else { 2 * PRIMARIES };
        let ids: Vec<String> = (0..size).map(|_| super::random_id()).collect();
        let ports = (0..size).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<Vec<_>>>()?;
        let mut servers = Vec::with_capacity(size);
        for (server, (port, bus_port)) in ports.iter().enumerate() {
            let nodes = (NODES_FILE, nodes_file(server, &ids, &ports, setup.host()));
            servers.push(setup.store(*port, cluster_settings(*bus_port, setup), Some(nodes)).await?);
        }
        let shards = (0..size).map(|server| server % PRIMARIES).collect();
        let url = setup.url("redis-cluster", &servers, None);
        let is_persistent = setup.is_persistent;
        let mut cluster = Self { servers, ids, shards, removed: BTreeSet::new(), url, is_persistent };
        for server in &mut cluster.servers {
            server.answers().await?;
        }
        cluster.is_whole().await?;
        Ok(cluster)
    }

    /// How nodes come to it: `redis-cluster://`, or `rediss-cluster://`, the user of the nodes, all servers of the beginning
    /// as seeds.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// How many servers it has had.
    #[must_use]
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    /// One of its servers.
    ///
    /// # Panics
    /// When there is no such server.
    #[must_use]
    pub fn server(&self, server: usize) -> &Redis {
        &self.servers[server]
    }

    /// One of its servers, to be killed or started again.
    ///
    /// # Panics
    /// When there is no such server.
    pub fn server_mut(&mut self, server: usize) -> &mut Redis {
        &mut self.servers[server]
    }

    /// The primaries that serve slots.
    ///
    /// # Errors
    /// When those who are awake do not agree.
    pub async fn primaries(&self) -> Result<Vec<usize>> {
        let agreed = self.agreed().await?;
        self.numbers(agreed.iter().filter(|member| member.is_primary && member.slot_count() > 0))
    }

    /// The slots that a server began with; none for a replica.
    #[must_use]
    pub fn first_slots_of(&self, server: usize) -> Vec<u16> {
        first_slots_of(server).filter_map(|slot| u16::try_from(slot).ok()).collect()
    }

    /// The primary that serves a key. In the midst of a failover this waits for its end.
    ///
    /// # Errors
    /// When those who are awake do not agree.
    pub async fn primary_of(&self, key: &str) -> Result<usize> {
        let awake = self.awake().next().context("nobody is awake")?;
        let Reply::Number(slot) = awake.ask(&["CLUSTER", "KEYSLOT", key]).await? else {
            anyhow::bail!("CLUSTER KEYSLOT is no number");
        };
        let slot = u16::try_from(slot)?;
        let agreed = self.agreed().await?;
        let found = self.numbers(agreed.iter().filter(|member| member.is_primary && member.serves(slot)))?;
        found.first().copied().with_context(|| format!("nobody serves slot {slot}"))
    }

    /// The server that has a key's newest state.
    ///
    /// # Errors
    /// As [`RedisCluster::primary_of`].
    pub async fn serving(&self, key: &str) -> Result<&Redis> {
        Ok(self.server(self.primary_of(key).await?))
    }

    /// A replica that follows a primary.
    ///
    /// # Errors
    /// When it has none, or those who are awake do not agree.
    pub async fn replica_of(&self, primary: usize) -> Result<usize> {
        let agreed = self.agreed().await?;
        let id = Some(&self.ids[primary]);
        let found = self.numbers(agreed.iter().filter(|member| member.follows.as_ref() == id))?;
        found.first().copied().with_context(|| format!("nobody follows server {primary}"))
    }

    /// Waits until the other server of a shard calls itself its primary, and brings its number. The others may not know yet.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn promoted_instead_of(&self, lost: usize) -> Result<usize> {
        let heir = (0..self.size()).find(|server| *server != lost && self.shards[*server] == self.shards[lost]);
        let heir = heir.with_context(|| format!("nobody stands in for server {lost}"))?;
        eventually(patience(AGREED_SECONDS), async || {
            let said = members_of(self.server(heir)).await?;
            let here = said.iter().find(|member| member.id == self.ids[heir]).context("a server that is not itself")?;
            ensure!(here.is_primary && here.slot_count() > 0, "server {heir} was not promoted");
            Ok(heir)
        })
        .await
    }

    /// Has the replica of a primary take its place in order (`CLUSTER FAILOVER`), and brings its number once it has.
    ///
    /// # Errors
    /// When there is none, or it is not promoted.
    pub async fn fail_over(&self, primary: usize) -> Result<usize> {
        let replica = self.replica_of(primary).await?;
        self.server(replica).ask(&["CLUSTER", "FAILOVER"]).await?;
        self.promoted_instead_of(primary).await
    }

    /// Waits until every server is awake in the eyes of all, all slots are served and all replicas follow.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn is_whole(&self) -> Result<()> {
        eventually(patience(AGREED_SECONDS), async || {
            for server in self.members() {
                let info = server.ask(&["CLUSTER", "INFO"]).await?;
                let info = info.text().context("CLUSTER INFO is a text")?;
                let is_ok = info.lines().any(|line| line == "cluster_state:ok")
                    && info.lines().any(|line| line == format!("cluster_slots_ok:{SLOTS}"));
                ensure!(is_ok, "the server at {} says {info}", server.port());
            }
            let agreed = self.agreed_now().await?;
            ensure!(agreed.iter().all(|member| !member.is_failed), "someone is held for dead: {agreed:?}");
            let hear = agreed.iter().filter_map(|member| member.follows.as_ref().map(|primary| (member, primary)));
            let hear = hear.map(async |(replica, primary)| {
                self.server(self.number(&replica.id)?).catches_up_with(self.server(self.number(primary)?)).await
            });
            try_join_all(hear).await?;
            Ok(())
        })
        .await
        .context("the cluster is not whole")
    }

    /// What all who are awake say, once they say the same.
    pub(super) async fn agreed(&self) -> Result<Vec<Member>> {
        eventually(patience(AGREED_SECONDS), async || self.agreed_now().await).await
    }

    /// By which id the servers know one of them.
    ///
    /// # Panics
    /// When there is no such server.
    #[must_use]
    pub fn id(&self, server: usize) -> &str {
        &self.ids[server]
    }

    async fn agreed_now(&self) -> Result<Vec<Member>> {
        let mut agreed: Option<Vec<Member>> = None;
        for server in self.awake() {
            let mut view = members_of(server).await?;
            view.sort_by(|a, b| a.id.cmp(&b.id));
            match &agreed {
                Some(agreed) => ensure!(*agreed == view, "the servers see the cluster differently"),
                None => agreed = Some(view),
            }
        }
        agreed.context("nobody is awake")
    }

    /// Starts one that belongs to no cluster yet. It speaks no TLS.
    pub(super) async fn launch_alone(&self) -> Result<Redis> {
        let setup = Setup { is_persistent: self.is_persistent, ..Setup::default() };
        let mut server = setup.store(free_port()?, cluster_settings(free_port()?, setup), None).await?;
        server.answers().await?;
        Ok(server)
    }

    fn members(&self) -> impl Iterator<Item = &Redis> {
        self.servers.iter().enumerate().filter(|(server, _)| !self.removed.contains(server)).map(|(_, redis)| redis)
    }

    fn awake(&self) -> impl Iterator<Item = &Redis> {
        self.members().filter(|server| server.is_awake())
    }

    fn number(&self, id: &str) -> Result<usize> {
        self.ids.iter().position(|known| known == id).context("an unknown server")
    }

    fn numbers<'a>(&self, members: impl Iterator<Item = &'a Member>) -> Result<Vec<usize>> {
        let mut numbers: Vec<usize> = members.map(|member| self.number(&member.id)).collect::<Result<_>>()?;
        numbers.sort_unstable();
        Ok(numbers)
    }
}

const NODES_FILE: &str = "nodes.conf";

async fn members_of(server: &Redis) -> Result<Vec<Member>> {
    let said = server.ask(&["CLUSTER", "NODES"]).await?;
    members(said.text().context("CLUSTER NODES is a text")?)
}

fn cluster_settings(bus_port: u16, setup: Setup<'_>) -> Vec<String> {
    let mut lines = vec![
        "cluster-enabled yes".to_owned(),
        format!("cluster-port {bus_port}"),
        format!("cluster-config-file {NODES_FILE}"),
        format!("cluster-node-timeout {NODE_TIMEOUT_MS}"),
        // As shipped: a shard that is gone harms its own plans, and a primary without slots stays one.
        "cluster-require-full-coverage no".to_owned(),
        "cluster-allow-replica-migration no".to_owned(),
    ];
    if setup.authority.is_some() {
        lines.extend(["tls-cluster yes", "cluster-preferred-endpoint-type hostname"].map(str::to_owned));
        lines.push(format!("cluster-announce-hostname {}", setup.host()));
    }
    lines
}

fn first_slots_of(server: usize) -> Range<usize> {
    if server < PRIMARIES { SLOTS * server / PRIMARIES..SLOTS * (server + 1) / PRIMARIES } else { 0..0 }
}

/// What a server would have written down of a cluster that is there already.
fn nodes_file(own: usize, ids: &[String], ports: &[(u16, u16)], host: &str) -> String {
    let name = if host == "127.0.0.1" { String::new() } else { format!(",{host}") };
    let mut text = String::new();
    for (server, (id, (port, bus_port))) in ids.iter().zip(ports).enumerate() {
        let shard = server % PRIMARIES;
        let myself = if server == own { "myself," } else { "" };
        let (role, follows, slots) = if server < PRIMARIES {
            let slots = first_slots_of(server);
            ("master", "-", format!(" {}-{}", slots.start, slots.end - 1))
        } else {
            ("slave", ids[shard].as_str(), String::new())
        };
        let epoch = shard + 1;
        text +=
            &format!("{id} 127.0.0.1:{port}@{bus_port}{name} {myself}{role} {follows} 0 0 {epoch} connected{slots}\n");
    }
    text + &format!("vars currentEpoch {PRIMARIES} lastVoteEpoch 0\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "mille:{plan:7}:log";

    #[tokio::test]
    async fn a_killed_primary_is_replaced_by_its_replica_which_has_everything() -> Result<()> {
        let mut cluster = RedisCluster::start(Setup::PERSISTENT).await?;
        let primary = cluster.primary_of(KEY).await?;
        let replica = cluster.replica_of(primary).await?;
        cluster.server(primary).ask(&["XADD", KEY, "7-*", "h", "a"]).await?;
        cluster.server(replica).catches_up_with(cluster.server(primary)).await?;
        cluster.server_mut(primary).kill_9()?;
        assert_eq!(cluster.promoted_instead_of(primary).await?, replica);
        assert_eq!(cluster.primary_of(KEY).await?, replica);
        assert_eq!(cluster.serving(KEY).await?.entries(KEY).await?.len(), 1);
        cluster.server_mut(primary).restart().await?;
        cluster.is_whole().await?;
        assert_eq!(cluster.replica_of(replica).await?, primary);
        Ok(())
    }

    #[tokio::test]
    async fn a_frozen_primary_is_replaced_and_follows_when_it_wakes() -> Result<()> {
        let cluster = RedisCluster::start(Setup::default()).await?;
        let replica = cluster.replica_of(0).await?;
        cluster.server(0).pause()?;
        cluster.promoted_instead_of(0).await?;
        assert_eq!(cluster.primaries().await?.len(), PRIMARIES);
        cluster.server(0).resume()?;
        cluster.is_whole().await?;
        assert_eq!(cluster.replica_of(replica).await?, 0);
        Ok(())
    }

    #[tokio::test]
    async fn a_failover_in_order_changes_places_and_back() -> Result<()> {
        let cluster = RedisCluster::start(Setup::default()).await?;
        let heir = cluster.fail_over(1).await?;
        assert_eq!((heir, cluster.replica_of(heir).await?), (4, 1));
        cluster.is_whole().await?;
        assert_eq!(cluster.fail_over(heir).await?, 1);
        Ok(())
    }

    #[tokio::test]
    async fn nodes_come_with_their_own_rights() -> Result<()> {
        let cluster = RedisCluster::start(Setup::default()).await?;
        let url = cluster.url();
        assert!(url.starts_with("redis-cluster://mille:") && url.matches("node=").count() == 5, "{url}");
        let listed = cluster.server(0).ask(&["ACL", "LIST"]).await?;
        let named =
            |name: &str| listed.items().iter().any(|user| user.text().is_some_and(|text| text.starts_with(name)));
        assert!(named("user mille on ") && named("user replica on ") && named("user sentinel on "), "{listed:?}");
        Ok(())
    }
}
