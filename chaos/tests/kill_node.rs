//! The promise: `kill -9` of a node loses nothing that was acknowledged, and nobody misses a change.

use std::time::Duration;

use anyhow::{Result, ensure};
use mille_chaos::history::Event;
use mille_chaos::scenario::KillNode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_storm_loses_nothing() -> Result<()> {
    let seed = mille_tests::seed();
    let report = KillNode { length: Duration::from_secs(8), seed, nodes: 3 }.run().await?;
    ensure!(report.passed(), "{report}");
    let kills = report.history.events().filter(|event| matches!(event, Event::Killed { .. })).count();
    let moved = report.history.events().filter(|event| matches!(event, Event::Lost { .. })).count();
    ensure!(kills == 2, "{kills} kills are no storm:\n{report}");
    ensure!(moved > 0, "nobody was on a node that died: this run shows little\n{report}");
    Ok(())
}
