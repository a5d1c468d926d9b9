//! How often Redis was asked for what: `INFO commandstats`, and nothing else of it.
//!
//! What a function calls is counted by Redis as if a client had: an edit that is one FCALL shows the XADD in it too. And a
//! PUBLISH is one call, however many nodes hear it. What nodes ask at rest (each looks at its logs and at its own line about
//! once per second) is counted apart, for a while in which nobody edits, so that few edits don't seem to cause it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::redis::Primaries;
use crate::state::Redis;

/// Commands that are left out: asked by those who measure, or by those who keep connections alive.
const ASIDE: [&str; 5] = ["info", "ping", "hello", "client", "config"];

/// Fewer per edit than this is no part of an edit but of what nodes do by themselves.
const PER_EDIT_MIN: f64 = 0.02;

/// Calls so far, by command.
///
/// # Errors
/// When Redis does not answer.
pub(crate) async fn calls(redis: &Redis) -> Result<BTreeMap<String, u64>> {
    Ok(told(Primaries::connect(redis).await?.commands().await?))
}

/// When Redis brings changes to disk: what an edit waits for.
///
/// # Errors
/// When Redis does not tell.
pub(crate) async fn appendfsync(redis: &Redis) -> Result<String> {
    Primaries::connect(redis).await?.appendfsync().await
}

fn told(calls: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    calls.into_iter().filter(|(name, _)| !ASIDE.iter().any(|aside| name.split('|').next() == Some(aside))).collect()
}

/// Calls so far, at one moment.
#[derive(Debug)]
pub(crate) struct Count {
    calls: BTreeMap<String, u64>,
    at: Instant,
}

impl Count {
    /// Counts now, over connections that are open already.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub(crate) async fn over(redis: &mut Primaries) -> Result<Self> {
        Ok(Self::of(redis.commands().await?, Instant::now()))
    }

    /// Counts now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub(crate) async fn begin(redis: &Redis) -> Result<Self> {
        Self::over(&mut Primaries::connect(redis).await?).await
    }

    /// What was called since then.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub(crate) async fn end(self, redis: &Redis) -> Result<Calls> {
        Ok(Self::begin(redis).await?.since(&self))
    }

    pub(crate) fn of(calls: BTreeMap<String, u64>, at: Instant) -> Self {
        Self { calls: told(calls), at }
    }

    /// What was called since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Calls {
        let grown = self.calls.iter().map(|(name, calls)| {
            let before = earlier.calls.get(name).copied().unwrap_or_default();
            (name.clone(), calls.saturating_sub(before))
        });
        Calls { by_command: grown.collect(), during: self.at - earlier.at }
    }
}

/// Calls in some time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Calls {
    by_command: BTreeMap<String, u64>,
    during: Duration,
}

impl Calls {
    /// All of several times together.
    pub(crate) fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for calls in all {
            sum.during += calls.during;
            for (name, count) in &calls.by_command {
                *sum.by_command.entry(name.clone()).or_default() += count;
            }
        }
        sum
    }

    /// Calls per second, by command; nothing of no time.
    pub(crate) fn per_second(&self) -> BTreeMap<String, f64> {
        let seconds = self.during.as_secs_f64();
        let called = self.by_command.iter().filter(|&(_, &count)| count > 0 && seconds > 0.0);
        called.map(|(name, &count)| (name.clone(), thousandths(count as f64 / seconds))).collect()
    }

    /// How often any of these commands was called.
    pub(crate) fn of(&self, commands: &[&str]) -> u64 {
        commands.iter().filter_map(|command| self.by_command.get(*command)).sum()
    }

    /// The same without what would have been called anyway, `at_rest` per second.
    pub(crate) fn beyond(&self, commands: &[&str], at_rest: &BTreeMap<String, f64>) -> f64 {
        let at_rest: f64 = commands.iter().filter_map(|command| at_rest.get(*command)).sum();
        (self.of(commands) as f64 - at_rest * self.during.as_secs_f64()).max(0.0)
    }

    /// Those that were called, by command.
    pub(crate) fn by_command(&self) -> BTreeMap<String, u64> {
        let called = self.by_command.iter().filter(|&(_, &count)| count > 0);
        called.map(|(name, &count)| (name.clone(), count)).collect()
    }

    /// Calls for each edit, by command, and `all`.
    pub(crate) fn per_edit(&self, edits: u64) -> BTreeMap<String, f64> {
        self.per_edit_beyond(edits, &BTreeMap::new())
    }

    /// The same without what would have been called anyway, `at_rest` per second.
    pub(crate) fn per_edit_beyond(&self, edits: u64, at_rest: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        let per_edit = self
            .by_command
            .keys()
            .map(|name| (name.clone(), thousandths(self.beyond(&[name.as_str()], at_rest) / edits.max(1) as f64)));
        let mut per_edit: BTreeMap<String, f64> = per_edit.filter(|&(_, calls)| calls >= PER_EDIT_MIN).collect();
        let all = thousandths(per_edit.values().sum());
        per_edit.insert("all".to_owned(), all);
        per_edit
    }
}

fn thousandths(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(seconds: u64, by_command: &[(&str, u64)]) -> Calls {
        let by_command = by_command.iter().map(|&(name, calls)| (name.to_owned(), calls)).collect();
        Calls { by_command, during: Duration::from_secs(seconds) }
    }

    fn figures(figures: &[(&str, f64)]) -> BTreeMap<String, f64> {
        figures.iter().map(|&(name, figure)| (name.to_owned(), figure)).collect()
    }

    #[test]
    fn calls_are_told_per_edit_without_those_of_who_measures() {
        let all = [("fcall", 200), ("spublish", 1), ("client|setname", 5), ("info", 7)];
        let told = told(all.map(|(name, calls)| (name.to_owned(), calls)).into());
        assert_eq!(told.keys().collect::<Vec<_>>(), ["fcall", "spublish"]);
        let calls = Calls { by_command: told, during: Duration::from_secs(1) };
        assert_eq!(calls.per_edit(200), figures(&[("fcall", 1.0), ("all", 1.0)]));
    }

    #[test]
    fn what_nodes_ask_at_rest_is_no_part_of_an_edit() {
        // Three nodes that send themselves a message each second, and twenty edits per second.
        let at_rest = calls(10, &[("publish", 30), ("fcall", 0)]).per_second();
        assert_eq!(at_rest, figures(&[("publish", 3.0)]));
        let edited = Calls::sum([
            &calls(10, &[("publish", 230), ("fcall", 200)]),
            &calls(10, &[("publish", 230), ("fcall", 200)]),
        ]);
        assert_eq!(edited.per_edit(400), figures(&[("publish", 1.15), ("fcall", 1.0), ("all", 2.15)]));
        assert_eq!(edited.per_edit_beyond(400, &at_rest), figures(&[("publish", 1.0), ("fcall", 1.0), ("all", 2.0)]));
        assert_eq!(Calls::default().per_second(), figures(&[]));
    }
}
