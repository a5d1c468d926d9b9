//! Redis dies, and a replica takes over that was cut off 1 s earlier: the last second of acknowledged edits is not there.
//!
//! If every node knows them, they are offered again as what they were, and nobody notices. If someone builds on the
//! shorter history first, they come back in a new epoch, and everyone is told by one SNAPSHOT. That someone is a node
//! whose line was frozen when the replica was cut off, and which is led to the replica before all others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::Cluster;

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, ONE_SNAPSHOT, Promise, STREAMS_HELD};
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};
use crate::workload::Manner;

/// How long the replica was cut off when it takes over.
const LAG: Duration = Duration::from_secs(1);
/// How long people edit after all nodes have found it, at least.
const GO_ON_FOR: Duration = Duration::from_secs(6);
/// Seconds within which a node that is alone with the replica must take an edit.
const BUILT_UPON_SECONDS: f64 = 20.0;

/// Which node finds the replica first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heir {
    /// All at once, and all of them know what was lost.
    KnowsEverything,
    /// One that does not know it.
    KnowsLess,
}

pub(super) async fn play(order: Order, heir: Heir) -> Result<Played> {
    let forks = heir == Heir::KnowsLess;
    // In a fork a wild edit may rightly find no place again: what it moves was deleted meanwhile.
    let manner = if forks { Manner::Gentle } else { Manner::Wild };
    let cast = Cast { writers: 8, pace: Duration::from_millis(100), manner, ..Cast::USUAL };
    let mut stage = Stage::set(order, Cluster::of(order.nodes).replicated(), cast).await?;
    let first = order.nodes - 1;
    stage.work();
    let cut_at = order.length.mul_f64(0.25);
    stage.reach(cut_at).await;
    if forks {
        stage.strike(Blow::Freeze(first)).await?;
    }
    stage.strike(Blow::CutReplicaOff).await?;
    stage.reach(cut_at + LAG).await;
    let before = stage.head().await?;
    stage.strike(Blow::FailOver).await?;
    let after = stage.head().await?;
    let lost = before.seq.saturating_sub(after.seq);
    ensure!(lost > 0, "the replica had everything: this run shows nothing");
    let mut led_ms = 0;
    if forks {
        led_ms = stage.strike(Blow::LeadToRedis(first)).await?;
        // That the log grows would not do: it may have known a change that the replica had not, and put that back.
        stage.taken(led_ms, BUILT_UPON_SECONDS).await.context("nobody builds on what the replica had")?;
    }
    let others = if forks { 0..first } else { 0..order.nodes };
    for node in others {
        let now_ms = stage.strike(Blow::LeadToRedis(node)).await?;
        led_ms = if forks { led_ms } else { now_ms };
    }
    let led_at = cut_at + LAG + Duration::from_millis(if forks { 5_000 } else { 0 });
    stage.reach(order.length.max(led_at + GO_ON_FOR)).await;

    let mut history = stage.close(false).await?;
    history.measure("changes that the replica did not have", lost, None);
    let edited = history.first_acknowledged_ms(led_ms).map_or(u64::MAX, |at| at - led_ms);
    history.measure("ms until an edit was acknowledged after the failover", edited, bound_ms(5.0));
    let further: Vec<Promise> = if forks {
        vec![ONE_SNAPSHOT, ATTEMPTS_ANSWERED]
    } else {
        vec![STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, ATTEMPTS_ANSWERED]
    };
    Ok(Played::one(history, &further))
}
