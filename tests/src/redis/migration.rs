//! Moving slots from one primary of a Redis Cluster to another, as operators' tools do it.
//!
//! For some slots at a time: the receiver is told that it imports them and the giver that it gives them away; the keys go
//! over; then both are told whose they are, and the others hear of it. A slot's keys stand at two servers meanwhile, and
//! who asks the wrong one is sent on.

use anyhow::{Context as _, Result};

use super::{Redis, RedisCluster};

/// Slots on their way at the same time. A tool takes one; several at once keep the awkward moment longer.
const SLOTS_AT_ONCE: usize = 64;
/// Keys that go over together.
const KEYS_AT_ONCE: &str = "100";
/// Milliseconds that they may take.
const MIGRATE_TIMEOUT_MS: &str = "5000";

impl RedisCluster {
    /// What a primary serves.
    ///
    /// # Errors
    /// When those who are awake do not agree.
    pub async fn slots_of(&self, primary: usize) -> Result<Vec<u16>> {
        let agreed = self.agreed().await?;
        let member = agreed.iter().find(|member| member.id == self.id(primary)).context("an unknown server")?;
        Ok(member.slots.iter().cloned().flatten().collect())
    }

    /// Moves slots of one primary to another, waits until all know, and brings how many keys went with them.
    ///
    /// # Errors
    /// When a server refuses, or they don't agree in the end.
    pub async fn move_slots(&self, slots: &[u16], from: usize, to: usize) -> Result<usize> {
        let mut keys = 0;
        for some in slots.chunks(SLOTS_AT_ONCE) {
            let told = |how: &str, whose: &str| -> Vec<Vec<String>> {
                some.iter().map(|slot| set_slot(*slot, how, whose)).collect()
            };
            self.server(to).ask_all(&told("IMPORTING", self.id(from))).await?;
            self.server(from).ask_all(&told("MIGRATING", self.id(to))).await?;
            keys += send_keys(self.server(from), self.server(to), some).await?;
            // The receiver first: whoever is sent away by the giver finds somebody who takes them in.
            for server in [to, from] {
                self.server(server).ask_all(&told("NODE", self.id(to))).await?;
            }
        }
        self.agreed().await.context("after a migration")?;
        Ok(keys)
    }
}

async fn send_keys(from: &Redis, to: &Redis, slots: &[u16]) -> Result<usize> {
    let port = to.port().to_string();
    let mut sent = 0;
    let mut full: Vec<u16> = slots.to_vec();
    while !full.is_empty() {
        let asked: Vec<Vec<String>> = full.iter().map(|slot| keys_in(*slot)).collect();
        let found = from.ask_all(&asked).await?;
        let mut left = Vec::new();
        for (slot, keys) in full.iter().zip(&found) {
            let keys: Vec<&str> = keys.items().iter().filter_map(|key| key.text()).collect();
            if keys.is_empty() {
                continue;
            }
            let head = ["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_TIMEOUT_MS, "KEYS"];
            from.ask(&[&head[..], &keys].concat()).await?;
            sent += keys.len();
            left.push(*slot);
        }
        full = left;
    }
    Ok(sent)
}

fn set_slot(slot: u16, how: &str, whose: &str) -> Vec<String> {
    ["CLUSTER", "SETSLOT", &slot.to_string(), how, whose].map(str::to_owned).to_vec()
}

fn keys_in(slot: u16) -> Vec<String> {
    ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), KEYS_AT_ONCE].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::Setup;
    use super::*;

    #[tokio::test]
    async fn slots_go_to_another_primary_with_their_keys_and_back() -> Result<()> {
        let cluster = RedisCluster::start(Setup::PERSISTENT).await?;
        let keys: Vec<String> = (0..200).map(|plan| format!("mille:{{plan:{plan}}}:log")).collect();
        for key in &keys {
            cluster.serving(key).await?.ask(&["XADD", key, "7-*", "h", "a"]).await?;
        }
        let slots = cluster.slots_of(0).await?;
        let there = cluster.move_slots(&slots, 0, 1).await?;
        assert!(slots.len() > 5_000 && there > 30, "{there} keys in {} slots", slots.len());
        assert_eq!(cluster.primaries().await?, [1, 2]);
        for key in &keys {
            assert_eq!(cluster.serving(key).await?.entries(key).await?.len(), 1);
        }
        assert_eq!(cluster.move_slots(&slots, 1, 0).await?, there);
        assert_eq!(cluster.slots_of(0).await?, slots);
        cluster.is_whole().await?;
        Ok(())
    }
}
