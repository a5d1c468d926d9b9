//! How often Redis was asked for what: `INFO commandstats`, and nothing else of it.
//!
//! What a function calls is counted by Redis as if a client had: an edit that is one FCALL shows the XADD in it too.

use std::collections::BTreeMap;

use anyhow::Result;

use super::redis::Primaries;
use crate::state::Redis;

/// Commands that are left out: asked by those who measure, or by those who keep connections alive.
const ASIDE: [&str; 4] = ["info", "ping", "hello", "client"];

/// Fewer per edit than this is no part of an edit but of what nodes do by themselves.
const PER_EDIT_MIN: f64 = 0.02;

/// Calls so far, by command.
///
/// # Errors
/// When Redis does not answer.
pub(super) async fn calls(redis: &Redis) -> Result<BTreeMap<String, u64>> {
    Ok(told(Primaries::connect(redis).await?.commands().await?))
}

fn told(calls: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    calls.into_iter().filter(|(name, _)| !ASIDE.iter().any(|aside| name.split('|').next() == Some(aside))).collect()
}

/// Calls for each edit, by command, and `all`.
pub(super) fn per_edit(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    edits: u64,
) -> BTreeMap<String, f64> {
    let growth = after.iter().map(|(name, calls)| {
        let grown = calls.saturating_sub(before.get(name).copied().unwrap_or_default());
        (name.clone(), (grown as f64 / edits.max(1) as f64 * 1_000.0).round() / 1_000.0)
    });
    let mut per_edit: BTreeMap<String, f64> = growth.filter(|&(_, calls)| calls >= PER_EDIT_MIN).collect();
    let all = per_edit.values().sum();
    per_edit.insert("all".to_owned(), all);
    per_edit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_per_edit_without_those_of_who_measures() {
        let calls = |fcall: u64, publish: u64| {
            let all = [("fcall", fcall), ("spublish", publish), ("client|setname", 5), ("info", 7)];
            told(all.map(|(name, calls)| (name.to_owned(), calls)).into())
        };
        let (before, after) = (calls(100, 10), calls(300, 11));
        assert_eq!(before.keys().collect::<Vec<_>>(), ["fcall", "spublish"]);
        let per_edit = per_edit(&before, &after, 200);
        assert_eq!(per_edit, BTreeMap::from([("fcall".to_owned(), 1.0), ("all".to_owned(), 1.0)]));
    }
}
