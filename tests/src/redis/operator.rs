//! What operators do with a Redis Cluster while it serves, by their own tool: `redis-cli --cluster`.
//!
//! A shard is added and slots are moved onto it; or they are moved away and its servers are taken out. A server that was
//! taken out goes on alone and belongs to nothing: nobody asks it who is in the cluster.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::RedisCluster;
use crate::patience::{eventually, patience, within};

/// Seconds that the tool may take: it moves thousands of slots one by one, each written to several disks.
const TOOL_SECONDS: f64 = 120.0;

impl RedisCluster {
    /// Starts a server and makes it a primary that serves nothing yet (`add-node`). Brings its number.
    ///
    /// # Errors
    /// When the tool says no, or the servers don't agree in the end.
    pub async fn add_primary(&mut self) -> Result<usize> {
        let shard = 1 + self.shards.iter().max().context("a cluster has shards")?;
        self.add(shard, &[]).await
    }

    /// Starts a server and has it follow a primary (`add-node --cluster-slave`). Brings its number, once it follows.
    ///
    /// # Errors
    /// As [`RedisCluster::add_primary`].
    pub async fn add_replica(&mut self, primary: usize) -> Result<usize> {
        let followed = self.id(primary).to_owned();
        let added = self.add(self.shards[primary], &["--cluster-slave", "--cluster-master-id", &followed]).await?;
        self.server(added).catches_up_with(self.server(primary)).await?;
        Ok(added)
    }

    /// Moves slots until all primaries have equally many, also those that had none (`rebalance`).
    ///
    /// # Errors
    /// As [`RedisCluster::add_primary`].
    pub async fn rebalance(&self) -> Result<()> {
        self.tool(&["rebalance", &self.any(), "--cluster-use-empty-masters"]).await?;
        self.agreed().await.context("after slots were moved").map(drop)
    }

    /// Moves all slots of a primary to the others, who then have equally many (`rebalance` with no weight for the one).
    ///
    /// # Errors
    /// As [`RedisCluster::add_primary`].
    pub async fn empty(&self, primary: usize) -> Result<()> {
        let weight = format!("{}=0", self.id(primary));
        self.tool(&["rebalance", &self.any(), "--cluster-use-empty-masters", "--cluster-weight", &weight]).await?;
        let left = self.slots_of(primary).await?;
        ensure!(left.is_empty(), "server {primary} still has {} slots", left.len());
        Ok(())
    }

    /// Moves so many slots of one primary to another (`reshard`).
    ///
    /// # Errors
    /// As [`RedisCluster::add_primary`].
    pub async fn reshard(&self, slots: usize, from: usize, to: usize) -> Result<()> {
        let words =
            ["--cluster-from", self.id(from), "--cluster-to", self.id(to), "--cluster-slots", &slots.to_string()]
                .map(str::to_owned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.tool(&[&["reshard", &self.any(), "--cluster-yes"], &words[..]].concat()).await?;
        self.agreed().await.context("after slots were moved").map(drop)
    }

    /// Takes a server out that serves nothing (`del-node`). It goes on, and belongs to nothing.
    ///
    /// # Errors
    /// As [`RedisCluster::add_primary`].
    pub async fn remove(&mut self, server: usize) -> Result<()> {
        self.tool(&["del-node", &self.any(), self.id(server)]).await?;
        self.removed.insert(server);
        self.agreed().await.context("after a server was taken out").map(drop)
    }

    async fn add(&mut self, shard: usize, words: &[&str]) -> Result<usize> {
        let (server, existing) = (self.launch_alone().await?, self.any());
        let id = server.ask(&["CLUSTER", "MYID"]).await?.text().context("an id")?.to_owned();
        let address = format!("127.0.0.1:{}", server.port());
        // Until all know it, those who look would not agree.
        self.tool(&[&["add-node", &address, &existing], words].concat()).await?;
        self.servers.push(server);
        self.ids.push(id);
        self.shards.push(shard);
        eventually(patience(TOOL_SECONDS), async || {
            let known = self.agreed().await?.len();
            let due = self.servers.len() - self.removed.len();
            ensure!(known == due, "{known} of {due} servers are known");
            Ok(())
        })
        .await?;
        Ok(self.servers.len() - 1)
    }

    /// The address of one that is there from the start.
    fn any(&self) -> String {
        format!("127.0.0.1:{}", self.servers[0].port())
    }

    async fn tool(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("redis-cli");
        command.arg("--cluster").args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = within(patience(TOOL_SECONDS), "the end of redis-cli", command.output())
            .await?
            .context("the tests need redis-cli (Debian: apt-get install redis-tools)")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "redis-cli --cluster {words:?}: {}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Setup;
    use super::*;

    #[tokio::test]
    async fn a_shard_is_added_filled_failed_over_emptied_and_taken_out() -> Result<()> {
        let mut cluster = RedisCluster::start(Setup::default()).await?;
        let keys: Vec<String> = (0..100).map(|plan| format!("mille:{{plan:{plan}}}:log")).collect();
        for key in &keys {
            cluster.serving(key).await?.ask(&["XADD", key, "7-*", "h", "a"]).await?;
        }
        let primary = cluster.add_primary().await?;
        let replica = cluster.add_replica(primary).await?;
        cluster.rebalance().await?;
        cluster.reshard(10, 0, primary).await?;
        assert_eq!(cluster.slots_of(primary).await?.len(), 4_096 + 10);
        assert_eq!(cluster.fail_over(primary).await?, replica);
        cluster.is_whole().await?;
        cluster.empty(replica).await?;
        cluster.remove(primary).await?;
        cluster.remove(replica).await?;
        assert_eq!(cluster.primaries().await?, [0, 1, 2]);
        for key in &keys {
            assert_eq!(cluster.serving(key).await?.entries(key).await?.len(), 1);
        }
        cluster.is_whole().await
    }
}
