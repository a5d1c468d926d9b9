//! The promise: of several Redis servers any one may be killed, frozen, replaced, emptied of its slots, added or taken
//! out. What was acknowledged stays, nobody has to reconnect, and plans on other servers do not notice.
//!
//! Each test is a short run of a scenario of `mille-chaos` with fewer plans, which says what is promised and measures it.
//! They run one after the other, since each loads the machine by itself and some of them watch the clock.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_chaos::history::Event;
use mille_chaos::report::Report;
use mille_chaos::scenario::Scenario;
use mille_chaos::stage::Order;
use tokio::sync::Mutex;

/// Held by the test whose turn it is.
static TURN: Mutex<()> = Mutex::const_new(());

/// Twelve plans, 40 edits a second, 60 subscribers on three nodes.
async fn play(scenario: Scenario) -> Result<Report> {
    let _turn = TURN.lock().await;
    let order = Order { length: Duration::from_secs(10), seed: mille_tests::seed(), nodes: 3, plans: 12 };
    let report = scenario.run(order).await?;
    eprintln!("{report}");
    ensure!(report.passed(), "a promise was broken");
    ensure!(report.history.watchers == 60, "{} subscribers", report.history.watchers);
    Ok(report)
}

/// So many attempts came to nothing: otherwise nobody noticed that something was broken, and the run shows little.
fn must_be_in_vain(report: &Report) -> Result<()> {
    let in_vain = report.history.events().filter(|event| matches!(event, Event::Repeated { .. })).count();
    ensure!(in_vain > 0, "nobody tried to edit meanwhile: this run shows little");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shard_is_replaced_and_nothing_is_lost() -> Result<()> {
    must_be_in_vain(&play(Scenario::ShardKill).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_shard_is_replaced_and_does_no_harm_when_it_wakes() -> Result<()> {
    must_be_in_vain(&play(Scenario::ShardFreeze).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_replaced_in_order() -> Result<()> {
    play(Scenario::ShardFailover).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_shard_harms_its_own_plans_only() -> Result<()> {
    must_be_in_vain(&play(Scenario::ShardPause).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_go_to_another_shard_and_back_and_nobody_notices() -> Result<()> {
    let report = play(Scenario::MigrateSlots).await?;
    let moved = report.history.measured("plans whose slot moved").context("not measured")?;
    ensure!(moved > 0, "no plan's slot moved: this run shows nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_comes_by_the_operators_tool_and_goes_and_nobody_notices() -> Result<()> {
    play(Scenario::Reshard).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_replaced_and_nothing_is_lost() -> Result<()> {
    must_be_in_vain(&play(Scenario::SentinelKill).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_is_replaced_and_does_no_harm_when_it_wakes() -> Result<()> {
    must_be_in_vain(&play(Scenario::SentinelFreeze).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_replaced_in_order() -> Result<()> {
    play(Scenario::SentinelFailover).await.map(drop)
}
