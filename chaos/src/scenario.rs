//! The scenarios: each a stage, a workload and a few blows, and what is promised beside what always holds.

mod cut_subscription;
mod failover;
mod kill_node;
mod kill_redis;
mod long_absence;
mod lose_last_message;
mod migrate_slots;
mod pause_redis;
mod promotion;
mod reshard;
mod rolling_restart;
mod shard_pause;
mod storm;

use anyhow::Result;
use clap::ValueEnum;
use mille_tests::{Topology, patience};
use tokio::task::LocalSet;

use self::promotion::Loss;
use crate::checkers::{Promise, Verdict, judge};
use crate::fleet::Told;
use crate::history::{History, millis};
use crate::report::Report;
use crate::stage::Order;

/// What can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Kills a node (kill -9) twice.
    KillNode,
    /// Cuts one node's subscription for 3 s in the middle of 100 changes/s, before 200 subscribers.
    CutSubscription,
    /// Loses the last message before silence on its way to one node, for each node once.
    LoseLastMessage,
    /// Someone is offline for 5,000 changes and comes back on another node.
    LongAbsence,
    /// Someone is offline for longer than the log reaches back.
    AbsenceBeyondRetention,
    /// Kills Redis (kill -9) and starts it again after 5 s.
    KillRedis,
    /// Fails over to a replica that was cut off 1 s earlier.
    Failover,
    /// The same, and a node that knows nothing of what was lost builds on the shorter history.
    FailoverFork,
    /// Stops Redis (SIGSTOP) for 6 s.
    PauseRedis,
    /// Kills a node with a third of 150 watchers.
    Storm,
    /// Takes out and restarts every node in turn, behind the load balancer, before 200 subscribers and 30 guests.
    RollingRestart,
    /// Kills a primary of a Redis Cluster; its replica is promoted.
    ShardKill,
    /// Freezes a primary of a Redis Cluster for 10 s; its replica is promoted.
    ShardFreeze,
    /// Has a primary of a Redis Cluster replaced by its replica (CLUSTER FAILOVER).
    ShardFailover,
    /// Pauses a shard of a Redis Cluster for 5 s, too short for it to be replaced.
    ShardPause,
    /// Moves every slot of one primary of a Redis Cluster to another, and back.
    MigrateSlots,
    /// Adds a shard to a Redis Cluster, moves slots onto it, fails it over, moves them away, and takes it out (redis-cli).
    Reshard,
    /// Kills the master behind Sentinel; a replica is promoted.
    SentinelKill,
    /// Freezes the master behind Sentinel for 10 s; a replica is promoted.
    SentinelFreeze,
    /// Has the master behind Sentinel replaced (SENTINEL FAILOVER).
    SentinelFailover,
}

/// What came of a scenario.
struct Played {
    verdicts: Vec<Verdict>,
    history: History,
}

impl Played {
    /// Of one plan: what is promised beside what always holds is `further`.
    fn one(history: History, further: &[Promise]) -> Self {
        Self { verdicts: judge(&history, further), history }
    }

    /// Of many.
    fn of(told: Told, further: &[Promise]) -> Self {
        let (verdicts, history) = told.judged(further);
        Self { verdicts, history }
    }
}

impl Scenario {
    /// Runs the scenario and judges what happened.
    ///
    /// # Errors
    /// When the scenario itself could not be carried out. A broken promise is no error but in the report.
    pub async fn run(self, order: Order) -> Result<Report> {
        // Everyone shares one thread: the harness waits far more than it works.
        let Played { verdicts, history } = LocalSet::new().run_until(self.play(order)).await?;
        Ok(Report { scenario: self.name(), seed: order.seed, nodes: order.nodes, verdicts, history })
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    async fn play(self, order: Order) -> Result<Played> {
        match self {
            Self::KillNode => kill_node::play(order).await,
            Self::CutSubscription => cut_subscription::play(order).await,
            Self::LoseLastMessage => lose_last_message::play(order).await,
            Self::LongAbsence => long_absence::play(order, long_absence::Absence::WithinTheLog).await,
            Self::AbsenceBeyondRetention => long_absence::play(order, long_absence::Absence::BeyondTheLog).await,
            Self::KillRedis => kill_redis::play(order).await,
            Self::Failover => failover::play(order, failover::Heir::KnowsEverything).await,
            Self::FailoverFork => failover::play(order, failover::Heir::KnowsLess).await,
            Self::PauseRedis => pause_redis::play(order).await,
            Self::Storm => storm::play(order).await,
            Self::RollingRestart => rolling_restart::play(order).await,
            Self::ShardKill => promotion::play(order, Topology::Cluster, Loss::Killed).await,
            Self::ShardFreeze => promotion::play(order, Topology::Cluster, Loss::Frozen).await,
            Self::ShardFailover => promotion::play(order, Topology::Cluster, Loss::Relieved).await,
            Self::ShardPause => shard_pause::play(order).await,
            Self::MigrateSlots => migrate_slots::play(order).await,
            Self::Reshard => reshard::play(order).await,
            Self::SentinelKill => promotion::play(order, Topology::Sentinel, Loss::Killed).await,
            Self::SentinelFreeze => promotion::play(order, Topology::Sentinel, Loss::Frozen).await,
            Self::SentinelFailover => promotion::play(order, Topology::Sentinel, Loss::Relieved).await,
        }
    }
}

/// A bound in milliseconds, raised for slow machines as every wait is.
fn bound_ms(seconds: f64) -> u64 {
    millis(patience(seconds))
}
