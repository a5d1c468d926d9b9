//! A Redis server that others can replace is killed, frozen or relieved of its office, and another one takes its place:
//! of one shard of a Redis Cluster, or behind Sentinel of all plans. The one that was lost comes back and follows.
//!
//! Nobody may lose what was acknowledged, although a replica takes over that may lack the last moments: the nodes that
//! live know them. Nobody has to reconnect, and from 5 s after the promotion on everyone is told of new edits: also when
//! the one that was lost comes back, and for a moment may still take itself for what it was.

use std::time::Duration;

use anyhow::Result;
use mille_tests::{Cluster, Topology};

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, STREAMS_HELD};
use crate::fleet::Fleet;
use crate::history::History;
use crate::nemesis::Blow;
use crate::stage::Order;

/// How long a server is frozen: longer than it takes to be replaced.
const FROZEN_FOR: Duration = Duration::from_secs(10);
/// How long the one that was killed stays away after it was replaced.
const AWAY_FOR: Duration = Duration::from_secs(3);
/// How long people edit after everything is in its place again, at least.
const GO_ON_FOR: Duration = Duration::from_secs(3);
/// Seconds within which everyone must be told of new edits again, without further interruption, counted from the promotion.
const WHOLE_SECONDS: f64 = 5.0;
/// A plan is edited three times a second. Who is told nothing for so many milliseconds is interrupted.
const SILENCE_MS: u64 = 1_500;

/// How a server is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    Killed,
    Frozen,
    /// An operator has it replaced.
    Relieved,
}

pub(super) async fn play(order: Order, topology: Topology, loss: Loss) -> Result<Played> {
    let cluster = Cluster::of(order.nodes).topology(topology).persistent();
    let mut fleet = Fleet::set(order, cluster).await?;
    let lost = fleet.victim().await?;
    let servers = fleet.servers().await?;
    let touched: Vec<usize> = (0..order.plans).filter(|plan| servers[*plan] == lost).collect();
    fleet.work();
    fleet.reach(order.length.mul_f64(0.25)).await;
    let struck_at = fleet.worked();
    let struck_ms = fleet.now_ms();
    let promoted_ms = match loss {
        Loss::Killed => {
            fleet.strike(Blow::KillServer(lost)).await?;
            let promoted_ms = fleet.strike(Blow::Replaced(lost)).await?;
            fleet.reach(fleet.worked() + AWAY_FOR).await;
            fleet.strike(Blow::RestartServer(lost)).await?;
            promoted_ms
        }
        Loss::Frozen => {
            fleet.strike(Blow::FreezeServer(lost)).await?;
            let promoted_ms = fleet.strike(Blow::Replaced(lost)).await?;
            fleet.reach((struck_at + FROZEN_FOR).max(fleet.worked() + AWAY_FOR)).await;
            fleet.strike(Blow::ThawServer(lost)).await?;
            promoted_ms
        }
        Loss::Relieved => fleet.strike(Blow::FailOverServer(lost)).await?,
    };
    fleet.cluster.store().is_whole().await?;
    fleet.reach(order.length.max(fleet.worked() + GO_ON_FOR)).await;

    let mut told = fleet.close().await?;
    let edited = told.worst(touched.iter().copied(), |plan| first_edit_ms(plan, promoted_ms));
    let whole = told.worst(0..order.plans, |plan| plan.last_silence_ended_ms(promoted_ms, SILENCE_MS) - promoted_ms);
    let slowest = told.worst(0..order.plans, |plan| plan.slowest_answer_ms(struck_ms));
    let all = &mut told.all;
    all.measure("plans on the server that was lost", touched.len() as u64, None);
    all.measure("ms from the loss to the promotion", promoted_ms.saturating_sub(struck_ms), None);
    all.measure("ms from the promotion until each plan took an edit", edited, bound_ms(WHOLE_SECONDS));
    all.measure("ms from the promotion to the end of the last silence", whole, bound_ms(WHOLE_SECONDS));
    all.measure("ms the slowest answer took", slowest, None);
    Ok(Played::of(told, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, ATTEMPTS_ANSWERED]))
}

fn first_edit_ms(plan: &History, since_ms: u64) -> u64 {
    plan.first_acknowledged_ms(since_ms).map_or(u64::MAX, |at_ms| at_ms - since_ms)
}
