//! `kill -9` of a node, twice, while six people edit and six watch. Sockets on that node are lost, and nothing else.

use anyhow::Result;
use mille_tests::Cluster;

use super::Played;
use crate::checkers::REPEATS_KNOWN;
use crate::nemesis::kill_twice;
use crate::stage::{Cast, Order, Stage};

pub(super) async fn play(order: Order) -> Result<Played> {
    let mut stage = Stage::set(order, Cluster::of(order.nodes), Cast::USUAL).await?;
    stage.work();
    for (at, blow) in kill_twice(order.nodes, order.length, order.seed) {
        stage.reach(at).await;
        stage.strike(blow).await?;
    }
    stage.reach(order.length).await;
    Ok(Played::one(stage.close(false).await?, &[REPEATS_KNOWN]))
}
