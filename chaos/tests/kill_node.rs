//! The promise: `kill -9` of a node loses nothing that was acknowledged, and nobody misses a change.

use std::time::Duration;

use anyhow::{Result, ensure};
use mille_chaos::history::Event;
use mille_chaos::nemesis::Blow;
use mille_chaos::scenario::Scenario;
use mille_chaos::stage::Order;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_storm_loses_nothing() -> Result<()> {
    let order = Order { length: Duration::from_secs(8), seed: mille_tests::seed(), nodes: 3, plans: 1 };
    let report = Scenario::KillNode.run(order).await?;
    ensure!(report.passed(), "{report}");
    let is_kill = |event: &&Event| matches!(event, Event::Struck { blow: Blow::KillNode(_) });
    let kills = report.history.events().filter(is_kill).count();
    let moved = report.history.events().filter(|event| matches!(event, Event::Lost { .. })).count();
    ensure!(kills == 2, "{kills} kills are no storm:\n{report}");
    ensure!(moved > 0, "nobody was on a node that died: this run shows little\n{report}");
    Ok(())
}
