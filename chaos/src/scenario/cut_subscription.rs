//! One node's subscription is cut for 3 s in the middle of 100 changes/s. Its 200 subscribers must see no hole and
//! no repeat, and Redis must be asked for the missing range once per plan, not once per subscriber.
//!
//! All edits go to another node: a node that is offered edits while it hears nothing has to read the log for each
//! of them, and those reads would be counted too.

use std::time::Duration;

use anyhow::{Result, ensure};
use mille_tests::{Cluster, patience};

use super::{Played, bound_ms};
use crate::checkers::{NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN, STREAMS_HELD};
use crate::history::whole_at_ms;
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};

/// How long the subscription is away.
const CUT_FOR: Duration = Duration::from_secs(3);
/// Who hears nothing meanwhile.
const DEAF: usize = 1;
/// Fourteen who edit every 100 ms: some of their edits are refused, and some 135 changes/s are left. So the cluster may stand
/// still for half a second of the three, as it does where the disk does, and there are still 100.
const CAST: Cast = Cast {
    writers: 14,
    writers_at: &[0],
    pace: Duration::from_millis(100),
    watchers: 6,
    listeners: 200,
    listeners_at: DEAF,
    ..Cast::USUAL
};
/// Changes per second that must have been reached, fewer on a machine that is said to be slow.
const CHANGES_PER_SECOND_MIN: f64 = 100.0;

pub(super) async fn play(order: Order) -> Result<Played> {
    // A snapshot would be read, and trimmed for, which would be counted too.
    let cluster = Cluster::of(order.nodes)
        .persistent()
        .proxied()
        .with("MILLE_SNAPSHOT_EVERY_CHANGES", "50000")
        .with("MILLE_LOG_RETENTION_CHANGES", "100000")
        .with("MILLE_LOG_CHANGES_MAX", "100000");
    let mut stage = Stage::set(order, cluster, CAST).await?;
    stage.work();
    let cut_at = order.length.mul_f64(0.25);
    stage.reach(cut_at).await;
    let (before, reads) = (stage.head().await?, range_reads(&mut stage).await?);
    stage.strike(Blow::CutSubscription(DEAF)).await?;
    stage.reach(cut_at + CUT_FOR).await;
    let mended_ms = stage.strike(Blow::Mend(DEAF)).await?;
    let (missed, changes) = (stage.head().await?.to_string(), stage.head().await?.seq - before.seq);
    let rate = changes as f64 / CUT_FOR.as_secs_f64();
    stage.reach(order.length.max(cut_at + 2 * CUT_FOR)).await;
    stage.rest().await?;
    let end = stage.head().await?.to_string();
    // Who does not get there is the checkers' finding.
    let _ = stage.whole(&stage.everyone(), &end).await;
    let repair_reads = range_reads(&mut stage).await? - reads;

    let deaf = stage.watchers_at(DEAF);
    let mut history = stage.close(false).await?;
    let rate_min = CHANGES_PER_SECOND_MIN / patience(1.0).as_secs_f64();
    ensure!(rate >= rate_min, "only {rate:.0} changes/s: this run shows little");
    let entries = &history.entries;
    let told = |who: &[usize]| whole_at_ms(entries, who, &missed).map_or(u64::MAX, |at| at.saturating_sub(mended_ms));
    let first = deaf.iter().map(|who| told(&[*who])).min().unwrap_or(u64::MAX);
    let last = told(&deaf);
    history.measure("changes while the subscription was away", changes, None);
    history.measure("range reads for the repair of one plan", repair_reads, 1);
    history.measure("ms until the first of the deaf had what they missed", first, bound_ms(2.0));
    // 70,000 deliveries at once: how long they take says more of the machine than of the repair.
    history.measure("ms until all of the deaf had what they missed", last, None);
    Ok(Played::one(history, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN]))
}

async fn range_reads(stage: &mut Stage) -> Result<u64> {
    stage.cluster.redis()?.calls("xrange").await
}
