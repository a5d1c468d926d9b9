//! Every slot of one primary of a Redis Cluster goes to another, and comes back, while people edit the plans in them. A
//! plan whose slot has moved goes on where it was: the same epoch, no change lost, told twice or more than 2 s late. And its
//! changes are heard where they are told: what nobody listens to the checks of heads find, but not at once.

use std::time::Duration;

use anyhow::Result;
use mille_tests::{Cluster, Topology};

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN, STREAMS_HELD};
use crate::fleet::Fleet;
use crate::nemesis::Blow;
use crate::stage::Order;

/// How long people edit between the two migrations, and after them at least.
const QUIET: Duration = Duration::from_secs(4);
/// Seconds within which a change must be with everyone, once it is acknowledged.
const REPAIRED_SECONDS: f64 = 2.0;
/// Seconds within which most changes of a plan are with everyone. Found by a check of its head, most take longer.
pub(super) const HEARD_SECONDS: f64 = 0.25;

pub(super) async fn play(order: Order) -> Result<Played> {
    let cluster = Cluster::of(order.nodes).topology(Topology::Cluster).persistent();
    let mut fleet = Fleet::set(order, cluster).await?;
    let from = fleet.victim().await?;
    let to = (from + 1) % fleet.cluster.store().shards()?.primaries().await?.len();
    let servers = fleet.servers().await?;
    fleet.work();
    fleet.reach(order.length.mul_f64(0.25)).await;
    let begun_ms = fleet.now_ms();
    let there_ms = fleet.strike(Blow::MoveSlots { of: from, from, to }).await?;
    fleet.reach(fleet.worked() + QUIET).await;
    let back_begun_ms = fleet.now_ms();
    let back_ms = fleet.strike(Blow::MoveSlots { of: from, from: to, to: from }).await?;
    fleet.reach(order.length.max(fleet.worked() + QUIET)).await;

    let mut told = fleet.close().await?;
    let late = told.worst(0..order.plans, |plan| plan.slowest_delivery_ms(begun_ms));
    let slowest = told.worst(0..order.plans, |plan| plan.slowest_answer_ms(begun_ms));
    let moved: Vec<usize> = (0..order.plans).filter(|plan| servers[*plan] == from).collect();
    let heard =
        |since_ms, until_ms| told.worst(moved.iter().copied(), |plan| plan.usual_delivery_ms(since_ms, until_ms));
    let (heard_there, heard_again) = (heard(there_ms, back_begun_ms), heard(back_ms, u64::MAX));
    let all = &mut told.all;
    all.measure("plans whose slot moved", moved.len() as u64, None);
    all.measure("ms that the slots took to go", there_ms - begun_ms, None);
    all.measure("ms that they took to come back", back_ms - back_begun_ms, None);
    all.measure("ms until the slowest change was with everyone", late, bound_ms(REPAIRED_SECONDS));
    all.measure(
        "ms until most changes of a plan that was moved were with everyone",
        heard_there,
        bound_ms(HEARD_SECONDS),
    );
    all.measure("ms until they were, back where they were", heard_again, bound_ms(HEARD_SECONDS));
    all.measure("ms the slowest answer took", slowest, bound_ms(REPAIRED_SECONDS));
    Ok(Played::of(told, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN, ATTEMPTS_ANSWERED]))
}
