//! The promise: nothing is lost. Messages, connections, people, Redis and its last second may go; what was acknowledged
//! stays, and everyone is told of everything, in order, once.
//!
//! Each test is a short run of a scenario of `mille-chaos`, which says what is promised and measures it. They run one
//! after the other, since each loads the machine by itself and some of them watch the clock.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_chaos::history::{Event, place};
use mille_chaos::report::Report;
use mille_chaos::scenario::Scenario;
use mille_chaos::stage::Order;
use tokio::sync::Mutex;

/// Held by the test whose turn it is.
static TURN: Mutex<()> = Mutex::const_new(());

/// Plays a scenario on three nodes; people edit for so many seconds, or longer where it needs that.
async fn play(scenario: Scenario, seconds: u64) -> Result<Report> {
    let _turn = TURN.lock().await;
    let order = Order { length: Duration::from_secs(seconds), seed: mille_tests::seed(), nodes: 3, plans: 1 };
    let report = scenario.run(order).await?;
    eprintln!("{report}");
    ensure!(report.passed(), "a promise was broken");
    Ok(report)
}

fn count(report: &Report, counts: impl Fn(&Event) -> bool) -> usize {
    report.history.events().filter(|event| counts(event)).count()
}

/// 200 subscribers on 50 sockets, with light selections, beside six who keep the document. On two cores an unoptimised
/// node and an unoptimised harness bear that: 27,000 deliveries a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_cut_for_three_seconds_leaves_no_hole_and_costs_one_read() -> Result<()> {
    let report = play(Scenario::CutSubscription, 8).await?;
    ensure!(report.history.watchers >= 200, "only {} subscribers", report.history.watchers);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_before_silence_is_repaired_within_two_seconds() -> Result<()> {
    play(Scenario::LoseLastMessage, 4).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_five_thousand_changes_gets_each_of_them_on_another_node() -> Result<()> {
    let report = play(Scenario::LongAbsence, 4).await?;
    let entries = &report.history.entries;
    let (left, absentee) = entries
        .iter()
        .enumerate()
        .find_map(|(at, entry)| match entry.event {
            Event::Left { watcher } => Some((at, watcher)),
            _ => None,
        })
        .context("nobody left")?;
    let told = |event: &Event| matches!(event, Event::Saw { watcher, .. } if *watcher == absentee);
    let later = entries[left..].iter().filter(|entry| told(&entry.event)).count();
    ensure!(later >= 5_000, "only {later} changes were told after the absence");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_longer_than_the_log_reaches_back_gets_one_snapshot() -> Result<()> {
    let report = play(Scenario::AbsenceBeyondRetention, 4).await?;
    let snapshots = report.history.measured("SNAPSHOTs for who was away").context("not measured")?;
    ensure!(snapshots == 1, "{snapshots} SNAPSHOTs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_costs_nothing_that_was_acknowledged_and_no_socket() -> Result<()> {
    let report = play(Scenario::KillRedis, 8).await?;
    let in_vain = count(&report, |event| matches!(event, Event::Repeated { .. }));
    ensure!(in_vain > 0, "nobody tried to edit while Redis was away: this run shows little");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_replica_that_lags_loses_nothing_and_nobody_notices() -> Result<()> {
    let report = play(Scenario::Failover, 8).await?;
    let lost = report.history.measured("changes that the replica did not have").context("not measured")?;
    ensure!(lost >= 10, "the replica lacked only {lost} changes: this run shows little");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_forks_the_history_loses_nothing_and_everyone_is_told() -> Result<()> {
    let report = play(Scenario::FailoverFork, 8).await?;
    let log = &report.history.log;
    let epochs = |at: Option<&mille_chaos::history::Logged>| at.and_then(|logged| place(&logged.revision));
    let (first, last) = (epochs(log.first()).context("no log")?, epochs(log.last()).context("no log")?);
    ensure!(last.0 > first.0, "the log is in its first epoch: nothing forked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_their_node_is_whole_on_another_within_two_seconds() -> Result<()> {
    let report = play(Scenario::Storm, 6).await?;
    let moved = count(&report, |event| matches!(event, Event::Lost { .. }));
    ensure!(moved >= 50, "only {moved} lost their node");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_redis_makes_nobody_wait_and_nothing_happen_twice() -> Result<()> {
    let report = play(Scenario::PauseRedis, 8).await?;
    let in_vain = count(&report, |event| matches!(event, Event::Repeated { .. }));
    let repeated = count(&report, |event| matches!(event, Event::Acknowledged { attempts: 2.., .. }));
    ensure!(in_vain > 0 && repeated > 0, "nothing was repeated: this run shows little");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_is_one_announced_close_per_node_and_nothing_else() -> Result<()> {
    let report = play(Scenario::RollingRestart, 8).await?;
    let moves = report.history.measured("moves of 230 people").context("not measured")?;
    ensure!(moves >= 200, "only {moves} of 230 people had to move in three restarts: this run shows little");
    Ok(())
}
