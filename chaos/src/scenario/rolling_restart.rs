//! Every node is taken out and started again, one after the other, as a deployment does it: 200 subscribers, 50 edits a
//! second and 30 guests behind the shipped load balancer. Nobody may notice more than one close per node, announced, with
//! the time to come back: no edit fails, no change is missing or told twice, and nobody seems to come or go.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use mille_tests::Cluster;

use super::Played;
use crate::checkers::{NO_SNAPSHOT, ONE_EPOCH, Promise, REPEATS_KNOWN};
use crate::history::{Event, History};
use crate::nemesis::Blow;
use crate::stage::{Cast, Order, Stage};

/// Twelve who edit nearly five times a second; eight who keep the document, and many who keep their place, each on a
/// socket of their own.
const CAST: Cast = Cast { writers: 12, watchers: 8, followers: 192, guests: 30, is_balanced: true, ..Cast::USUAL };
/// How long people work before the first node goes, and after the last.
const QUIET: Duration = Duration::from_secs(2);

const SENT_AWAY_ONLY: Promise = ("whoever lost a socket was sent away, and told when to come back", sent_away_only);
const ONCE_PER_RESTART: Promise = ("nobody moved more than once per restart", once_per_restart);
const NO_FAILURE: Promise = ("no edit had to be repeated", no_edit_failed);
const NO_FLICKER: Promise = ("the roster never flickered", nobody_flickered);

pub(super) async fn play(order: Order) -> Result<Played> {
    // The times are the product's own, where the kit has none.
    let cluster = Cluster::of(order.nodes).without("MILLE_DRAIN_NOTICE_SECONDS").without("MILLE_DRAIN_WINDOW_SECONDS");
    let mut stage = Stage::set(order, cluster, CAST).await?;
    stage.work();
    stage.reach(QUIET).await;
    let mut slowest = Duration::ZERO;
    for node in 0..order.nodes {
        let before = stage.worked();
        stage.strike(Blow::TakeOut(node)).await?;
        slowest = slowest.max(stage.worked().saturating_sub(before));
        stage.strike(Blow::RestartNode(node)).await?;
    }
    stage.reach((stage.worked() + QUIET).max(order.length)).await;
    let mut history = stage.close(false).await?;
    let moved = |event: &&Event| matches!(event, Event::Lost { .. } | Event::Moved { .. });
    let moved = history.events().filter(moved).count();
    history.measure("ms that the slowest node took to leave", slowest.as_millis() as u64, None);
    history.measure("moves of 230 people", moved as u64, None);
    let further = [NO_SNAPSHOT, ONE_EPOCH, REPEATS_KNOWN, SENT_AWAY_ONLY, ONCE_PER_RESTART, NO_FAILURE, NO_FLICKER];
    Ok(Played::one(history, &further))
}

fn sent_away_only(history: &History) -> Vec<String> {
    let otherwise = history.events().filter_map(|event| match event {
        Event::Lost { watcher, reason } if !(reason.contains("Some(1012)") && reason.contains("drain")) => {
            Some(format!("watcher {watcher} lost its socket: {reason}"))
        }
        Event::Moved { guest, code, is_hinted } if *code != Some(1012) || !is_hinted => {
            Some(format!("guest {guest} lost their socket: {code:?}, hint {is_hinted}"))
        }
        _ => None,
    });
    otherwise.collect()
}

fn once_per_restart(history: &History) -> Vec<String> {
    let (mut moves, mut broken) = (HashMap::new(), Vec::new());
    for event in history.events() {
        let who = match event {
            Event::Struck { blow: Blow::TakeOut(_) } => {
                moves.clear();
                continue;
            }
            Event::Lost { watcher, .. } => format!("watcher {watcher}"),
            Event::Moved { guest, .. } => format!("guest {guest}"),
            _ => continue,
        };
        let times = moves.entry(who.clone()).or_insert(0);
        *times += 1;
        if *times > 1 {
            broken.push(format!("{who} moved {times} times"));
        }
    }
    broken
}

fn no_edit_failed(history: &History) -> Vec<String> {
    let failed = history.events().filter_map(|event| match event {
        Event::Repeated { operation, code, reason, .. } => Some(format!("{operation}: {code} {reason}")),
        _ => None,
    });
    failed.collect()
}

fn nobody_flickered(history: &History) -> Vec<String> {
    let flickers = history.entries.iter().filter_map(|entry| match &entry.event {
        Event::Flickered { guest, what } => Some(format!("guest {guest} at {} ms: {what}", entry.at_ms)),
        _ => None,
    });
    flickers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Entry;

    fn history(events: Vec<Event>) -> History {
        let entries = events.into_iter().map(|event| Entry { at_ms: 1, event }).collect();
        History { entries, ..History::default() }
    }

    fn moved(guest: usize, code: u16, is_hinted: bool) -> Event {
        Event::Moved { guest, code: Some(code), is_hinted }
    }

    fn lost(reason: &str) -> Event {
        Event::Lost { watcher: 3, reason: reason.to_owned() }
    }

    #[test]
    fn a_close_that_was_not_announced_is_found() {
        let fine = r#"Closing { code: Some(1012), reason: "{\"r\":\"drain\"}" }"#;
        assert!(sent_away_only(&history(vec![moved(0, 1012, true), lost(fine)])).is_empty());
        for bad in [moved(0, 1012, false), moved(0, 1006, true), lost("Closing { code: None }"), lost("Complete")] {
            assert_eq!(sent_away_only(&history(vec![bad.clone()])).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn who_moves_twice_in_one_restart_is_found() {
        let restart = |node| Event::Struck { blow: Blow::TakeOut(node) };
        let once = vec![restart(0), moved(0, 1012, true), lost(""), restart(1), lost(""), moved(0, 1012, true)];
        assert!(once_per_restart(&history(once)).is_empty());
        let twice = vec![restart(0), moved(0, 1012, true), lost(""), moved(0, 1012, true), lost("")];
        assert_eq!(once_per_restart(&history(twice)).len(), 2);
    }

    #[test]
    fn a_failure_and_a_flicker_are_found() {
        let (operation, code, reason) = ("op".to_owned(), "DRAINING".to_owned(), String::new());
        let failed = history(vec![Event::Repeated { operation, code, reason, after_ms: 1 }]);
        assert_eq!((no_edit_failed(&failed).len(), nobody_flickered(&failed).len()), (1, 0));
        let flicker = history(vec![Event::Flickered { guest: 1, what: "ada went".to_owned() }]);
        assert_eq!((no_edit_failed(&flicker).len(), nobody_flickered(&flicker).len()), (0, 1));
    }
}
