//! One shard of a Redis Cluster does not answer for 5 s, too short for it to be replaced. Its plans wait; those of the other
//! shards do not: no edit of theirs is refused, and they are as quick as before.

use std::time::Duration;

use anyhow::{Result, ensure};
use mille_tests::{Cluster, Topology};

use super::{Played, bound_ms};
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, STREAMS_HELD};
use crate::fleet::{Fleet, Told};
use crate::history::Event;
use crate::nemesis::Blow;
use crate::stage::Order;

/// How long the shard is paused.
const PAUSED_FOR: Duration = Duration::from_secs(5);
/// Silence after which it would be replaced, in milliseconds.
const NODE_TIMEOUT_MS: &str = "15000";
/// How long people edit before that, at least: the time that the others are compared with.
const BEFORE: Duration = Duration::from_secs(4);
/// How long people edit after it goes on, at least.
const GO_ON_FOR: Duration = Duration::from_secs(5);
/// Answers without which a percentile says nothing.
const ANSWERS_MIN: usize = 50;
/// A machine's own noise, which the others' percentile may have beside twice what it was before.
const NOISE_MS: u64 = 100;

pub(super) async fn play(order: Order) -> Result<Played> {
    let cluster = Cluster::of(order.nodes).topology(Topology::Cluster).persistent();
    let mut fleet = Fleet::set(order, cluster).await?;
    let shards = fleet.cluster.store().shards()?;
    for server in 0..shards.size() {
        shards.server(server).ask(&["CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS]).await?;
    }
    let sick = fleet.victim().await?;
    let servers = fleet.servers().await?;
    fleet.work();
    let begun_ms = fleet.now_ms();
    let paused_at = BEFORE.max(order.length.mul_f64(0.25));
    fleet.reach(paused_at).await;
    let paused_ms = fleet.strike(Blow::FreezeServer(sick)).await?;
    fleet.reach(paused_at + PAUSED_FOR).await;
    let back_ms = fleet.strike(Blow::ThawServer(sick)).await?;
    fleet.reach(order.length.max(fleet.worked() + GO_ON_FOR)).await;
    ensure!(
        fleet.cluster.store().shards()?.primaries().await?.contains(&sick),
        "it was replaced: this run shows nothing"
    );

    let mut told = fleet.close().await?;
    let (others, theirs): (Vec<usize>, Vec<usize>) = (0..order.plans).partition(|plan| servers[*plan] != sick);
    let before = percentile_99(&told, &others, begun_ms, paused_ms)?;
    let during = percentile_99(&told, &others, paused_ms, back_ms)?;
    let in_vain: usize = others.iter().map(|plan| in_vain(&told, *plan)).sum();
    let edited = told.worst(theirs.iter().copied(), |plan| {
        plan.first_acknowledged_ms(back_ms).map_or(u64::MAX, |at_ms| at_ms - back_ms)
    });
    let all = &mut told.all;
    all.measure("plans on the shard that was paused", theirs.len() as u64, None);
    all.measure("ms of an edit on other shards before the pause (p99)", before, None);
    all.measure("ms of an edit on other shards during the pause (p99)", during, 2 * before + NOISE_MS);
    all.measure("attempts in vain on other shards", in_vain as u64, 0);
    all.measure("ms from the pause's end until each of its plans took an edit", edited, bound_ms(5.0));
    Ok(Played::of(told, &[STREAMS_HELD, NO_SNAPSHOT, ONE_EPOCH, ATTEMPTS_ANSWERED]))
}

fn percentile_99(told: &Told, plans: &[usize], since_ms: u64, until_ms: u64) -> Result<u64> {
    let of_plan = |plan: &usize| told.plans[*plan].answer_times_ms(since_ms, until_ms);
    let mut times: Vec<u64> = plans.iter().flat_map(of_plan).collect();
    ensure!(times.len() >= ANSWERS_MIN, "only {} answers: this run shows nothing", times.len());
    times.sort_unstable();
    Ok(times[(times.len() * 99).div_ceil(100) - 1])
}

fn in_vain(told: &Told, plan: usize) -> usize {
    told.plans[plan].events().filter(|event| matches!(event, Event::Repeated { .. })).count()
}
