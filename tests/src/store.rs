//! How Redis stands behind the nodes of a cluster: alone, behind Sentinel, as a Redis Cluster, or not at all.
//!
//! What a test asks for comes first. Where it asks for nothing, `MILLE_TEST_REDIS` decides (`single`, the default;
//! `sentinel`; `cluster`; `embedded`, where there is one node): so a whole suite is played on another one.

use anyhow::{Result, bail};

use crate::redis::{Redis, RedisCluster, RedisSentinels, Setup};

/// How Redis stands behind nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// No Redis: the backend within the node.
    Embedded,
    /// One server.
    Single,
    /// A master with two replicas, watched by three sentinels.
    Sentinel,
    /// Three primaries with a replica each.
    Cluster,
}

impl Topology {
    /// What `MILLE_TEST_REDIS` says.
    ///
    /// # Errors
    /// When it is none of them: a wrong setting must not look like a test that passed.
    pub fn of_environment() -> Result<Self> {
        match std::env::var("MILLE_TEST_REDIS").as_deref() {
            Err(_) | Ok("single") => Ok(Self::Single),
            Ok("embedded") => Ok(Self::Embedded),
            Ok("sentinel") => Ok(Self::Sentinel),
            Ok("cluster") => Ok(Self::Cluster),
            Ok(other) => bail!("MILLE_TEST_REDIS is embedded, single, sentinel or cluster, not {other:?}"),
        }
    }
}

/// The Redis of a cluster, as it was started. Servers have numbers, from 0 on; see [`RedisSentinels`] and
/// [`RedisCluster`].
#[derive(Debug)]
pub enum Store {
    /// There is none, or the test has brought it.
    Nothing,
    /// One server.
    Single(Redis),
    /// A master with replicas and sentinels.
    Sentinel(RedisSentinels),
    /// Several shards.
    Cluster(RedisCluster),
}

impl Store {
    pub(crate) async fn start(topology: Topology, is_persistent: bool) -> Result<Self> {
        let setup = Setup { is_persistent, ..Setup::default() };
        Ok(match (topology, is_persistent) {
            (Topology::Embedded, _) => Self::Nothing,
            (Topology::Single, false) => Self::Single(Redis::start().await?),
            (Topology::Single, true) => Self::Single(Redis::persistent().await?),
            (Topology::Sentinel, _) => Self::Sentinel(RedisSentinels::start(setup).await?),
            (Topology::Cluster, _) => Self::Cluster(RedisCluster::start(setup).await?),
        })
    }

    /// What nodes are given as `REDIS_URL`.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Single(redis) => Some(redis.url()),
            Self::Sentinel(sentinels) => Some(sentinels.url()),
            Self::Cluster(cluster) => Some(cluster.url()),
        }
    }

    /// The number of the server that has the newest state of a key.
    ///
    /// # Errors
    /// When there is none, also not after a while.
    pub async fn number_of(&self, key: &str) -> Result<usize> {
        match self {
            Self::Nothing => bail!("this cluster brought no Redis"),
            Self::Single(_) => Ok(0),
            Self::Sentinel(sentinels) => sentinels.master().await,
            Self::Cluster(cluster) => cluster.primary_of(key).await,
        }
    }

    /// The server that has the newest state of a key.
    ///
    /// # Errors
    /// As [`Store::number_of`].
    pub async fn serving(&self, key: &str) -> Result<&Redis> {
        self.server(self.number_of(key).await?)
    }

    /// One of its servers.
    ///
    /// # Errors
    /// When it has no Redis.
    ///
    /// # Panics
    /// When there is no such server.
    pub fn server(&self, server: usize) -> Result<&Redis> {
        match self {
            Self::Nothing => bail!("this cluster brought no Redis"),
            Self::Single(redis) => Ok(redis),
            Self::Sentinel(sentinels) => Ok(sentinels.server(server)),
            Self::Cluster(cluster) => Ok(cluster.server(server)),
        }
    }

    /// One of its servers, to be killed or started again.
    ///
    /// # Errors
    /// As [`Store::server`].
    ///
    /// # Panics
    /// When there is no such server.
    pub fn server_mut(&mut self, server: usize) -> Result<&mut Redis> {
        match self {
            Self::Nothing => bail!("this cluster brought no Redis"),
            Self::Single(redis) => Ok(redis),
            Self::Sentinel(sentinels) => Ok(sentinels.server_mut(server)),
            Self::Cluster(cluster) => Ok(cluster.server_mut(server)),
        }
    }

    /// Waits until another server has taken the place of one that is lost, and brings its number.
    ///
    /// # Errors
    /// When nobody does.
    pub async fn promoted_instead_of(&self, lost: usize) -> Result<usize> {
        match self {
            Self::Nothing | Self::Single(_) => bail!("nobody can take the place of this Redis"),
            Self::Sentinel(sentinels) => sentinels.promoted_instead_of(lost).await,
            Self::Cluster(cluster) => cluster.promoted_instead_of(lost).await,
        }
    }

    /// Has a server's place taken in order, and brings the number of who has it.
    ///
    /// # Errors
    /// When nobody can take it.
    pub async fn fail_over(&self, server: usize) -> Result<usize> {
        match self {
            Self::Nothing | Self::Single(_) => bail!("nobody can take the place of this Redis"),
            Self::Sentinel(sentinels) => sentinels.fail_over(server).await,
            Self::Cluster(cluster) => cluster.fail_over(server).await,
        }
    }

    /// Waits until all servers are in their places.
    ///
    /// # Errors
    /// When they don't get there.
    pub async fn is_whole(&self) -> Result<()> {
        match self {
            Self::Nothing | Self::Single(_) => Ok(()),
            Self::Sentinel(sentinels) => sentinels.is_whole().await,
            Self::Cluster(cluster) => cluster.is_whole().await,
        }
    }

    /// The Redis Cluster, if it is one.
    ///
    /// # Errors
    /// When it is none.
    pub fn shards(&self) -> Result<&RedisCluster> {
        match self {
            Self::Cluster(cluster) => Ok(cluster),
            _ => bail!("this cluster's Redis has no shards"),
        }
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// When it is none.
    pub fn shards_mut(&mut self) -> Result<&mut RedisCluster> {
        match self {
            Self::Cluster(cluster) => Ok(cluster),
            _ => bail!("this cluster's Redis has no shards"),
        }
    }

    pub(crate) fn single(&self) -> Result<&Redis> {
        match self {
            Self::Single(redis) => Ok(redis),
            _ => bail!("this cluster has no single Redis; a test that needs one says `single`"),
        }
    }

    pub(crate) fn single_mut(&mut self) -> Result<&mut Redis> {
        match self {
            Self::Single(redis) => Ok(redis),
            _ => bail!("this cluster has no single Redis; a test that needs one says `single`"),
        }
    }

    /// The ends of all logs, each under its server's name.
    pub(crate) fn tails(&self) -> Vec<(String, String)> {
        let tail = |name: String, redis: &Redis| (name, redis.tail());
        match self {
            Self::Nothing => Vec::new(),
            Self::Single(redis) => vec![tail("Redis".to_owned(), redis)],
            Self::Sentinel(sentinels) => {
                (0..sentinels.size()).map(|index| tail(format!("Redis {index}"), sentinels.server(index))).collect()
            }
            Self::Cluster(cluster) => {
                (0..cluster.size()).map(|index| tail(format!("Redis {index}"), cluster.server(index))).collect()
            }
        }
    }
}
