//! What goes wrong: every blow a scenario can deal, and schedules made from the seed before anything starts.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use mille_tests::{Cluster, patience};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::history::{Event, Recorder};

/// Seconds within which a node must have ended that was told to leave: what it may take, and a little more.
const TAKEN_OUT_SECONDS: f64 = 33.0;

/// What is done to a cluster. What breaks something stands before what puts it in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// A node is killed (`kill -9`).
    KillNode(usize),
    /// A node is taken out in order (SIGTERM), and has ended.
    TakeOut(usize),
    /// It is started again on its old ports.
    RestartNode(usize),
    /// A node's subscription is cut and refused.
    CutSubscription(usize),
    /// A node's line to Redis carries nothing and stays open.
    Freeze(usize),
    /// A node's line to Redis is in order again.
    Mend(usize),
    /// The next message of a plan to a node is lost on the way.
    LoseMessage(usize),
    /// Every message of a plan to a node is lost on the way, until its line is mended.
    LoseMessages(usize),
    /// Redis is stopped in the middle of what it does (SIGSTOP).
    PauseRedis,
    /// It goes on.
    ResumeRedis,
    /// Redis is killed (`kill -9`).
    KillRedis,
    /// It is started again with what it has on disk.
    RestartRedis,
    /// The replica gets nothing any more.
    CutReplicaOff,
    /// Redis is killed, and the replica takes its place.
    FailOver,
    /// A node is led to the Redis of now.
    LeadToRedis(usize),
    /// One of several Redis servers is killed (`kill -9`).
    KillServer(usize),
    /// It is stopped in the middle of what it does (SIGSTOP).
    FreezeServer(usize),
    /// It goes on.
    ThawServer(usize),
    /// It is started again with what it has on disk.
    RestartServer(usize),
    /// Another one has taken its place, by itself.
    Replaced(usize),
    /// Another one takes its place, as an operator asked for.
    FailOverServer(usize),
    /// The slots that a Redis server began with go from one to another.
    MoveSlots {
        /// Who began with them.
        of: usize,
        /// Who has them.
        from: usize,
        /// Where they go.
        to: usize,
    },
    /// A server is added to a Redis Cluster, as a primary without slots or as somebody's replica.
    AddServer {
        /// Whom it follows.
        follows: Option<usize>,
    },
    /// Slots are moved until all primaries have equally many.
    Rebalance,
    /// All slots of a primary are moved to the others.
    EmptyServer(usize),
    /// A server without slots is taken out of a Redis Cluster, and goes on alone.
    RemoveServer(usize),
}

impl Blow {
    fn mends(self) -> bool {
        use Blow::{LeadToRedis, Mend, Replaced, RestartNode, RestartRedis, RestartServer, ResumeRedis, ThawServer};
        matches!(
            self,
            RestartNode(_)
                | Mend(_)
                | ResumeRedis
                | RestartRedis
                | LeadToRedis(_)
                | ThawServer(_)
                | RestartServer(_)
                | Replaced(_)
        )
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillNode(node) => write!(f, "node {node} is killed"),
            Self::TakeOut(node) => write!(f, "node {node} is taken out"),
            Self::RestartNode(node) => write!(f, "node {node} is back"),
            Self::CutSubscription(node) => write!(f, "the subscription of node {node} is cut"),
            Self::Freeze(node) => write!(f, "the line of node {node} is frozen"),
            Self::Mend(node) => write!(f, "the line of node {node} is in order"),
            Self::LoseMessage(node) => write!(f, "the next message to node {node} is lost"),
            Self::LoseMessages(node) => write!(f, "messages to node {node} are lost"),
            Self::PauseRedis => f.write_str("Redis is paused"),
            Self::ResumeRedis => f.write_str("Redis goes on"),
            Self::KillRedis => f.write_str("Redis is killed"),
            Self::RestartRedis => f.write_str("Redis is back"),
            Self::CutReplicaOff => f.write_str("the replica is cut off"),
            Self::FailOver => f.write_str("the replica takes over"),
            Self::LeadToRedis(node) => write!(f, "node {node} is led to the new Redis"),
            Self::KillServer(server) => write!(f, "Redis server {server} is killed"),
            Self::FreezeServer(server) => write!(f, "Redis server {server} is frozen"),
            Self::ThawServer(server) => write!(f, "Redis server {server} goes on"),
            Self::RestartServer(server) => write!(f, "Redis server {server} is back"),
            Self::Replaced(server) => write!(f, "the place of Redis server {server} is taken"),
            Self::FailOverServer(server) => write!(f, "the place of Redis server {server} is to be taken"),
            Self::MoveSlots { of, from, to } => write!(f, "the slots of Redis server {of} go from {from} to {to}"),
            Self::AddServer { follows: None } => f.write_str("a Redis server is added"),
            Self::AddServer { follows: Some(server) } => write!(f, "a replica of Redis server {server} is added"),
            Self::Rebalance => f.write_str("slots are moved until all Redis servers have equally many"),
            Self::EmptyServer(server) => write!(f, "the slots of Redis server {server} are moved away"),
            Self::RemoveServer(server) => write!(f, "Redis server {server} is taken out"),
        }
    }
}

/// Kills one node at 30 % of the time and one, perhaps another, at 60 %; each is back 15 % later.
#[must_use]
pub fn kill_twice(nodes: usize, length: Duration, seed: u64) -> Vec<(Duration, Blow)> {
    let mut random = SmallRng::seed_from_u64(seed);
    let (first, second) = (random.random_range(0..nodes), random.random_range(0..nodes));
    vec![
        (length.mul_f64(0.30), Blow::KillNode(first)),
        (length.mul_f64(0.45), Blow::RestartNode(first)),
        (length.mul_f64(0.60), Blow::KillNode(second)),
        (length.mul_f64(0.75), Blow::RestartNode(second)),
    ]
}

/// Deals one blow, and brings the time when it was done.
///
/// # Errors
/// When it can't be done, or what should be in order again is not.
pub async fn strike(cluster: &mut Cluster, recorder: &Recorder, blow: Blow) -> Result<u64> {
    if !blow.mends() {
        // Written down first: what happens from here on is not to be relied upon.
        recorder.note(Event::Struck { blow });
    }
    match blow {
        Blow::KillNode(node) => cluster.kill_9(node)?,
        Blow::TakeOut(node) => {
            let exit = cluster.stop(node, patience(TAKEN_OUT_SECONDS)).await?;
            ensure!(exit.code() == Some(0), "node {node} ended with {exit}");
        }
        Blow::RestartNode(node) => cluster.restart(node).await?,
        Blow::CutSubscription(node) => {
            let cut = cluster.proxy(node)?.cut_subscriptions();
            ensure!(cut > 0, "node {node} had no subscription to cut");
        }
        Blow::Freeze(node) => cluster.proxy(node)?.freeze(),
        Blow::Mend(node) => cluster.proxy(node)?.mend(),
        Blow::LoseMessage(node) => cluster.proxy(node)?.lose_messages(1),
        Blow::LoseMessages(node) => cluster.proxy(node)?.lose_messages(u32::MAX),
        Blow::PauseRedis => cluster.redis()?.pause()?,
        Blow::ResumeRedis => cluster.redis()?.resume()?,
        Blow::KillRedis => cluster.redis()?.kill_9()?,
        Blow::RestartRedis => cluster.redis()?.restart().await?,
        Blow::CutReplicaOff => cluster.replica()?.cut_off()?,
        Blow::FailOver => cluster.fail_over().await?,
        Blow::LeadToRedis(node) => cluster.lead_to_redis(node)?,
        Blow::KillServer(server) => cluster.store_mut().server_mut(server)?.kill_9()?,
        Blow::FreezeServer(server) => cluster.store().server(server)?.pause()?,
        Blow::ThawServer(server) => cluster.store().server(server)?.resume()?,
        Blow::RestartServer(server) => cluster.store_mut().server_mut(server)?.restart().await?,
        Blow::Replaced(server) => drop(cluster.store().promoted_instead_of(server).await?),
        Blow::FailOverServer(server) => drop(cluster.store().fail_over(server).await?),
        Blow::MoveSlots { of, from, to } => {
            let shards = cluster.store().shards()?;
            let keys = shards.move_slots(&shards.first_slots_of(of), from, to).await?;
            ensure!(keys > 0, "no key was moved: this run shows nothing");
        }
        Blow::AddServer { follows } => {
            let shards = cluster.store_mut().shards_mut()?;
            match follows {
                None => shards.add_primary().await?,
                Some(server) => shards.add_replica(server).await?,
            };
        }
        Blow::Rebalance => cluster.store().shards()?.rebalance().await?,
        Blow::EmptyServer(server) => cluster.store().shards()?.empty(server).await?,
        Blow::RemoveServer(server) => cluster.store_mut().shards_mut()?.remove(server).await?,
    }
    if blow.mends() {
        recorder.note(Event::Struck { blow });
    }
    Ok(recorder.now_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_every_kill_is_followed_by_a_restart() {
        let length = Duration::from_secs(20);
        for seed in 0..50 {
            let schedule = kill_twice(3, length, seed);
            assert_eq!(schedule, kill_twice(3, length, seed));
            let blows: Vec<Blow> = schedule.iter().map(|(_, blow)| *blow).collect();
            let [Blow::KillNode(a), Blow::RestartNode(b), Blow::KillNode(c), Blow::RestartNode(d)] = blows[..] else {
                panic!("{blows:?}");
            };
            assert!(a == b && c == d && a < 3 && c < 3);
            assert!(schedule.is_sorted_by_key(|(at, _)| *at) && schedule[3].0 < length);
        }
    }
}
