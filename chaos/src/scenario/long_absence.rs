//! Someone goes offline, the plan goes on, and they come back on another node: with every change they missed if the
//! log has them, with one SNAPSHOT if it has not.
//!
//! How long this takes is decided by the number of changes: people edit as fast as they are answered.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Cluster, Revision, eventually, patience};
use serde_json::json;

use super::Played;
use crate::checkers::{ATTEMPTS_ANSWERED, NO_SNAPSHOT, ONE_EPOCH, Promise, STREAMS_HELD};
use crate::history::Event;
use crate::stage::{Cast, Order, Stage};

/// Twelve who edit as fast as they are answered, and three who watch, the last of whom goes offline.
const CAST: Cast = Cast { writers: 12, pace: Duration::from_millis(1), watchers: 3, ..Cast::USUAL };
/// Seconds within which the changes must have been made.
const CHANGES_SECONDS: f64 = 120.0;

/// How much is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// As much as the log still has: 5,000 changes, far more than a node keeps in memory.
    WithinTheLog,
    /// More than the log still has.
    BeyondTheLog,
}

pub(super) async fn play(order: Order, absence: Absence) -> Result<Played> {
    let is_beyond = absence == Absence::BeyondTheLog;
    let cluster = Cluster::of(order.nodes).persistent();
    let (cluster, changes) = if is_beyond {
        let cluster = cluster
            .with("MILLE_SNAPSHOT_EVERY_CHANGES", "100")
            .with("MILLE_LOG_RETENTION_CHANGES", "300")
            .with("MILLE_LOG_RETENTION_SECONDS", "0")
            .with("MILLE_LOG_CHANGES_MAX", "2000");
        (cluster, 1_500)
    } else {
        (cluster, 5_000)
    };
    let mut stage = Stage::set(order, cluster, CAST).await?;
    stage.work();
    stage.reach(Duration::from_secs(1)).await;
    stage.send_away(true);
    let left = stage.head().await?;
    eventually(patience(CHANGES_SECONDS), async || {
        let made = stage.head().await?.seq - left.seq;
        ensure!(made >= changes, "{made} of {changes} changes were made");
        if is_beyond {
            let first = first_entry(&mut stage).await?;
            ensure!(first.seq > left.seq + 1, "the log still reaches back to {first}");
        }
        Ok(())
    })
    .await?;
    stage.send_away(false);
    let back_at = stage.head().await?.to_string();
    // In the midst of further changes; who does not get there is the checkers' finding.
    let _ = stage.whole(&stage.everyone(), &back_at).await;

    let mut history = stage.close(is_beyond).await?;
    let back = history.entries.iter().position(|entry| matches!(entry.event, Event::Returned { .. }));
    let back = back.context("nobody came back")?;
    let absentee = CAST.watchers - 1;
    let since = history.entries[back..].iter().map(|entry| &entry.event);
    let snapshots =
        since.filter(|event| matches!(event, Event::SawSnapshot { watcher, .. } if *watcher == absentee)).count();
    history.measure("SNAPSHOTs for who was away", snapshots as u64, u64::from(is_beyond));
    let mut further: Vec<Promise> = vec![STREAMS_HELD, ONE_EPOCH, ATTEMPTS_ANSWERED];
    if !is_beyond {
        further.push(NO_SNAPSHOT);
    }
    Ok(Played::one(history, &further))
}

async fn first_entry(stage: &mut Stage) -> Result<Revision> {
    let key = stage.log_key();
    let first = stage.cluster.redis()?.ask(&["XRANGE", &key, "-", "+", "COUNT", "1"]).await?;
    let entry = first.items().first().context("an empty log")?;
    Revision::of(&json!(entry.items().first().and_then(|id| id.text())))
}
