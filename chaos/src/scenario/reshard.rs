//! A Redis Cluster grows by a shard and shrinks again while people edit, by the operator's own tool (`redis-cli --cluster`):
//! a primary and a replica come, slots are moved onto them, the replica takes the primary's place, all slots are moved
//! away, and both are taken out. Nobody waits at a step: a tool that is driven by a script does not either.
//!
//! Nobody notices: no change is lost or told twice, nobody has to reconnect. And nodes go where slots go: they do not come
//! to a server that only follows, and leave those that are taken out.

use std::time::Duration;

use anyhow::{Result, ensure};
use mille_tests::{Cluster, NODES_USER, RedisCluster, Topology, eventually, patience};

use super::migrate_slots::HEARD_SECONDS;
use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, STREAMS_HELD};
use crate::fleet::Fleet;
use crate::nemesis::Blow;
use crate::stage::Order;

/// How long people edit on the grown cluster, and on what is left at the end, at least.
const QUIET: Duration = Duration::from_secs(3);
/// How long they do after a server's place was taken: nobody waits for that any more when the slots are moved.
const CALM: Duration = Duration::from_secs(6);
/// Seconds within which an edit must be answered while slots are moved.
const MOVED_SECONDS: f64 = 2.0;
/// The same where they are moved to a server that has just come: nodes trust its log when it has been there for two.
const COME_SECONDS: f64 = 3.5;
/// The same where a server's place is taken, and until a change must be with everyone, whatever happens.
const TAKEN_SECONDS: f64 = 5.0;
/// Seconds within which nodes must have left a server that was taken out.
const LEFT_SECONDS: f64 = 10.0;

pub(super) async fn play(order: Order) -> Result<Played> {
    let cluster = Cluster::of(order.nodes).topology(Topology::Cluster).persistent();
    let mut fleet = Fleet::set(order, cluster).await?;
    let size = fleet.cluster.store().shards()?.size();
    let (primary, replica) = (size, size + 1);
    fleet.work();
    fleet.reach(order.length.mul_f64(0.25)).await;
    let begun_ms = fleet.now_ms();
    fleet.strike(Blow::AddServer { follows: None }).await?;
    fleet.strike(Blow::AddServer { follows: Some(primary) }).await?;
    let filling_ms = fleet.now_ms();
    let filled_ms = fleet.strike(Blow::Rebalance).await?;
    let servers = fleet.servers().await?;
    let moved: Vec<usize> = (0..order.plans).filter(|plan| servers[*plan] == primary).collect();
    ensure!(!moved.is_empty(), "no plan was moved: this run shows nothing");
    fleet.reach(fleet.worked() + QUIET).await;
    let idle = nodes_at(fleet.cluster.store().shards()?, &[replica]).await?;

    let taking_ms = fleet.now_ms();
    fleet.strike(Blow::FailOverServer(primary)).await?;
    fleet.reach(fleet.worked() + CALM).await;
    let emptying_ms = fleet.now_ms();
    let emptied_ms = fleet.strike(Blow::EmptyServer(replica)).await?;
    fleet.strike(Blow::RemoveServer(primary)).await?;
    let removed_ms = fleet.strike(Blow::RemoveServer(replica)).await?;
    let shards = fleet.cluster.store().shards()?;
    let left = eventually(patience(LEFT_SECONDS), async || {
        let here = nodes_at(shards, &[primary, replica]).await?;
        ensure!(here == 0, "nodes still have {here} connections there");
        Ok(fleet.now_ms() - removed_ms)
    });
    let left = left.await.unwrap_or(u64::MAX);
    fleet.reach(order.length.max(fleet.worked() + QUIET)).await;

    let mut told = fleet.close().await?;
    let answers = |since_ms, until_ms| {
        told.worst(0..order.plans, |plan| plan.answer_times_ms(since_ms, until_ms).into_iter().max().unwrap_or(0))
    };
    let (filling, taking, emptying) =
        (answers(begun_ms, taking_ms), answers(taking_ms, emptying_ms), answers(emptying_ms, u64::MAX));
    let heard =
        |since_ms, until_ms| told.worst(moved.iter().copied(), |plan| plan.usual_delivery_ms(since_ms, until_ms));
    let (heard_there, heard_again) = (heard(filled_ms, taking_ms), heard(emptied_ms, u64::MAX));
    let late = told.worst(0..order.plans, |plan| plan.slowest_delivery_ms(begun_ms));
    let all = &mut told.all;
    all.measure("plans whose slot moved", moved.len() as u64, None);
    all.measure("ms that slots took to go to the new shard", filled_ms - filling_ms, None);
    all.measure("ms that they took to leave it", emptied_ms - emptying_ms, None);
    all.measure("ms the slowest answer took while the shard came", filling, bound_ms(COME_SECONDS));
    all.measure("ms it took while its primary was replaced", taking, bound_ms(TAKEN_SECONDS));
    all.measure("ms it took while the shard went", emptying, bound_ms(MOVED_SECONDS));
    all.measure("ms until the slowest change was with everyone", late, bound_ms(TAKEN_SECONDS));
    all.measure(
        "ms until most changes of a plan that was moved were with everyone",
        heard_there,
        bound_ms(HEARD_SECONDS),
    );
    all.measure("ms until they were, moved away again", heard_again, bound_ms(HEARD_SECONDS));
    all.measure("connections of nodes to the replica that came", idle as u64, 0);
    all.measure("ms until nodes had left the servers that went", left, bound_ms(LEFT_SECONDS));
    Ok(Played::of(told, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, ATTEMPTS_ANSWERED]))
}

/// How many connections nodes have to some servers.
async fn nodes_at(shards: &RedisCluster, servers: &[usize]) -> Result<usize> {
    let (user, mut count) = (format!("user={NODES_USER}"), 0);
    for server in servers {
        count += shards.server(*server).connections(&user).await?.len();
    }
    Ok(count)
}
