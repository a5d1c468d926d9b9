//! The last message before silence is lost on its way to one node: nothing follows it that would show the hole, and
//! the connection looks alive. It must be repaired within 2 s, on each node once.

use anyhow::{Context as _, Result, ensure};
use mille_tests::Cluster;

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN, STREAMS_HELD};
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};

pub(super) async fn play(order: Order) -> Result<Played> {
    let cluster = Cluster::of(order.nodes).persistent().proxied();
    let mut stage = Stage::set(order, cluster, Cast::USUAL).await?;
    stage.work();
    stage.reach(order.length).await;
    stage.rest().await?;
    let mut repairs = Vec::new();
    for deaf in 0..order.nodes {
        // Silence: everyone has everything, and nobody edits.
        let head = stage.head().await?.to_string();
        stage.whole(&stage.everyone(), &head).await?;
        stage.strike(Blow::LoseMessage(deaf)).await?;
        let mut writer = stage.writer_at((deaf + 1) % order.nodes);
        let lost = writer.add().await.context("the last edit was refused")?;
        let edited_ms = stage.recorder.now_ms();
        let whole = stage.whole(&stage.watchers_at(deaf), &lost).await;
        repairs.push(whole.map_or(u64::MAX, |at| at.saturating_sub(edited_ms)));
        let count = stage.cluster.proxy(deaf)?.lost_messages();
        ensure!(count == 1, "{count} messages to node {deaf} were lost: this run shows nothing");
    }
    let mut history = stage.close(false).await?;
    for (node, repair) in repairs.into_iter().enumerate() {
        history.measure(&format!("ms until node {node} told of what it had not heard"), repair, bound_ms(2.0));
    }
    Ok(Played::one(history, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN, ATTEMPTS_ANSWERED]))
}
