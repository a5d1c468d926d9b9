//! Redis is stopped for 6 s (SIGSTOP) and goes on with what was sent to it meanwhile. Nobody may wait longer than a
//! command may take, and what was repeated must not happen twice, although its first attempt is executed late.

use std::time::Duration;

use anyhow::Result;
use mille_tests::Cluster;

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, STREAMS_HELD};
use crate::history::whole_at_ms;
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};

/// How long Redis is paused.
const PAUSED_FOR: Duration = Duration::from_secs(6);
/// How long people edit after it goes on, at least.
const GO_ON_FOR: Duration = Duration::from_secs(4);
/// Seconds within which an edit must be answered: what a command may take by default, and slack for a busy machine.
const ANSWER_SECONDS: f64 = 2.0 + 0.5;

pub(super) async fn play(order: Order) -> Result<Played> {
    let mut stage = Stage::set(order, Cluster::of(order.nodes).persistent(), Cast::USUAL).await?;
    stage.work();
    let paused_at = order.length.mul_f64(0.25);
    stage.reach(paused_at).await;
    let paused_ms = stage.strike(Blow::PauseRedis).await?;
    stage.reach(paused_at + PAUSED_FOR).await;
    let back_ms = stage.strike(Blow::ResumeRedis).await?;
    let head = stage.head().await?.to_string();
    stage.reach(order.length.max(paused_at + PAUSED_FOR + GO_ON_FOR)).await;

    let everyone = stage.everyone();
    let mut history = stage.close(false).await?;
    history.measure("ms the slowest answer took", history.slowest_answer_ms(paused_ms), bound_ms(ANSWER_SECONDS));
    let whole = whole_at_ms(&history.entries, &everyone, &head).map_or(u64::MAX, |at| at.saturating_sub(back_ms));
    history.measure("ms until everyone was whole after the pause", whole, bound_ms(2.0));
    let edited = history.first_acknowledged_ms(back_ms).map_or(u64::MAX, |at| at - back_ms);
    history.measure("ms until an edit was acknowledged after the pause", edited, bound_ms(5.0));
    Ok(Played::one(history, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, ATTEMPTS_ANSWERED]))
}
