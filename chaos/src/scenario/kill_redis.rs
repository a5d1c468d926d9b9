//! `kill -9` of Redis under load, with every write on disk before it is answered. It is back after 5 s: nothing that was
//! acknowledged is lost, no subscriber's socket is closed, and everyone is whole within 2 s.
//!
//! The last messages before the end are lost on the way to one node: so there is someone who is not whole meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use mille_tests::Cluster;

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, STREAMS_HELD};
use crate::history::whole_at_ms;
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};

/// How long Redis is away.
const AWAY_FOR: Duration = Duration::from_secs(5);
/// Who hears nothing of the last changes before that, and for how long.
const DEAF: usize = 1;
const DEAF_FOR: Duration = Duration::from_millis(300);
/// How long people edit after it is back, at least.
const GO_ON_FOR: Duration = Duration::from_secs(5);

pub(super) async fn play(order: Order) -> Result<Played> {
    let mut stage = Stage::set(order, Cluster::of(order.nodes).persistent().proxied(), Cast::USUAL).await?;
    stage.work();
    let killed_at = order.length.mul_f64(0.25);
    stage.reach(killed_at.saturating_sub(DEAF_FOR)).await;
    stage.strike(Blow::LoseMessages(DEAF)).await?;
    stage.reach(killed_at).await;
    let killed_ms = stage.strike(Blow::KillRedis).await?;
    let lost = stage.cluster.proxy(DEAF)?.lost_messages();
    ensure!(lost > 0, "no message was lost: this run shows little");
    stage.reach(killed_at + AWAY_FOR).await;
    stage.strike(Blow::Mend(DEAF)).await?;
    let back_ms = stage.strike(Blow::RestartRedis).await?;
    let head = stage.head().await?.to_string();
    stage.reach(order.length.max(killed_at + AWAY_FOR + GO_ON_FOR)).await;

    let everyone = stage.everyone();
    let mut history = stage.close(false).await?;
    let whole = whole_at_ms(&history.entries, &everyone, &head).map_or(u64::MAX, |at| at.saturating_sub(back_ms));
    history.measure("ms until everyone was whole after Redis' return", whole, bound_ms(2.0));
    let edited = history.first_acknowledged_ms(back_ms).map_or(u64::MAX, |at| at - back_ms);
    history.measure("ms until an edit was acknowledged after Redis' return", edited, bound_ms(5.0));
    history.measure("ms the slowest answer took", history.slowest_answer_ms(killed_ms), bound_ms(4.0));
    Ok(Played::one(history, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, ATTEMPTS_ANSWERED]))
}
