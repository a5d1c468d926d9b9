//! A third of many watchers lose their node at once. All of them must be whole again on the others within 2 s, and edits
//! go on meanwhile.
//!
//! What a storm costs, and how it looks with a thousand subscribers, is `mille bench storm`'s to measure.

use std::time::Duration;

use anyhow::Result;
use mille_tests::Cluster;

use super::{Played, bound_ms};
use crate::checkers::{NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN};
use crate::history::whole_at_ms;
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};

/// Who watches; each keeps the document.
const WATCHERS: usize = 150;
/// They must have what was changed for so long after their node died.
const MISSED_FOR: Duration = Duration::from_millis(200);
/// How long people edit after the node is gone, at least.
const GO_ON_FOR: Duration = Duration::from_secs(4);

pub(super) async fn play(order: Order) -> Result<Played> {
    let cast = Cast { writers_at: &[0], watchers: WATCHERS, ..Cast::USUAL };
    let mut stage = Stage::set(order, Cluster::of(order.nodes), cast).await?;
    let dies = order.nodes - 1;
    let homeless = stage.watchers_at(dies);
    stage.work();
    let dies_at = order.length.mul_f64(0.4);
    stage.reach(dies_at).await;
    let killed_ms = stage.strike(Blow::KillNode(dies)).await?;
    stage.reach(dies_at + MISSED_FOR).await;
    let missed = stage.head().await?.to_string();
    stage.reach(order.length.max(dies_at + GO_ON_FOR)).await;
    stage.strike(Blow::RestartNode(dies)).await?;

    let mut history = stage.close(false).await?;
    let whole = whole_at_ms(&history.entries, &homeless, &missed).map_or(u64::MAX, |at| at.saturating_sub(killed_ms));
    history.measure("watchers who lost their node", homeless.len() as u64, None);
    history.measure("ms until all of them had what was changed meanwhile", whole, bound_ms(2.0));
    history.measure("ms that the slowest edit since then took", history.slowest_answer_ms(killed_ms), bound_ms(2.0));
    Ok(Played::one(history, &[NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN]))
}
