//! What everyone was told, in the order it was told. Only ever added to.
//!
//! An edit is first *invoked*; whatever is known of it later is an event of its own. So a crash of the
//! harness leaves a history that is true as far as it goes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use mille_tests::Redis;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::nemesis::Blow;

/// What separates user, client and operation id in the log.
const KEY_SEPARATOR: char = '\u{1f}';

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An edit is about to be sent for the first time.
    Invoked {
        /// The operation id, the same in every repetition.
        operation: String,
        /// The field of the mutation.
        field: String,
    },
    /// The cluster said that the edit is in the log.
    Acknowledged {
        /// The operation id.
        operation: String,
        /// How often it was sent.
        attempts: u32,
        /// Where it said that the change stands.
        revision: String,
        /// How long the last attempt took.
        after_ms: u64,
    },
    /// An attempt came to nothing, and the edit is sent again.
    Repeated {
        /// The operation id.
        operation: String,
        /// `extensions.code`; empty when there was no answer at all.
        code: String,
        /// The failure as a text.
        reason: String,
        /// How long the attempt took.
        after_ms: u64,
    },
    /// The cluster said no.
    Refused {
        /// The operation id.
        operation: String,
        /// `extensions.code`.
        code: String,
        /// How often it was sent. Above 1 an earlier, unanswered one may have landed.
        attempts: u32,
    },
    /// Nobody answered, however often it was sent.
    Unknown {
        /// The operation id.
        operation: String,
        /// The last failure.
        reason: String,
    },
    /// A watcher received a change.
    Saw {
        /// Who.
        watcher: usize,
        /// The revision it leads to.
        revision: String,
        /// The revision it follows.
        previous: Option<String>,
        /// The operation that made it.
        operation: Option<String>,
    },
    /// A watcher received a whole document.
    SawSnapshot {
        /// Who.
        watcher: usize,
        /// The revision of the document.
        revision: String,
        /// Why it came; empty for the one that was asked for.
        reason: String,
    },
    /// A watcher received something that breaks a promise of the stream by itself.
    SawNonsense {
        /// Who.
        watcher: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A watcher's stream ended, and it goes to another node.
    Lost {
        /// Who.
        watcher: usize,
        /// How it ended.
        reason: String,
    },
    /// A watcher went offline by its own will.
    Left {
        /// Who.
        watcher: usize,
    },
    /// It is back, on another node.
    Returned {
        /// Who.
        watcher: usize,
    },
    /// A guest knows of so many people who are online.
    Met {
        /// Who.
        guest: usize,
        /// How many, themselves included.
        people: usize,
    },
    /// A guest was told that somebody came or went, when nobody did.
    Flickered {
        /// Who.
        guest: usize,
        /// What they were told.
        what: String,
    },
    /// A guest's socket ended, and they come back.
    Moved {
        /// Who.
        guest: usize,
        /// The close code; none without a close frame.
        code: Option<u16>,
        /// Whether they were told before when to come back.
        is_hinted: bool,
    },
    /// The nemesis broke something, or put it in order.
    Struck {
        /// What it did.
        blow: Blow,
    },
    /// A number, which a promise may bound.
    Measured {
        /// What was measured, with its unit.
        what: String,
        /// How much it was.
        value: u64,
        /// How much it may be, if that is bounded.
        at_most: Option<u64>,
    },
}

/// An event and when it was written down.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Milliseconds since the scenario began.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// One accepted change as the log tells it afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// Its revision, `<epoch>-<seq>`.
    pub revision: String,
    /// The operation that made it.
    pub operation: Option<String>,
}

impl Logged {
    /// The changes in a plan's log, straight from Redis.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn all(redis: &Redis, key: &str) -> Result<Vec<Self>> {
        let logged = redis.entries(key).await?.into_iter().map(|entry| {
            let key = entry.fields.iter().find(|(name, _)| name == "o").map(|(_, key)| key.as_str());
            let operation = key.and_then(|key| key.rsplit(KEY_SEPARATOR).next()).map(str::to_owned);
            Self { revision: entry.id, operation }
        });
        // The first entry is the plan's creation, and no change.
        Ok(logged.filter(|logged| !logged.revision.ends_with("-0")).collect())
    }
}

/// Everything a checker may look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// How many watchers there were.
    pub watchers: usize,
    /// The log at the end.
    pub log: Vec<Logged>,
    /// Whether the log may begin later than with the plan's first change, since it was trimmed.
    pub is_trimmed: bool,
    /// The revision of the plan at the end.
    pub end: String,
    /// Who held which document at the end: nodes and watchers.
    pub documents: Vec<(String, Value)>,
}

impl History {
    /// The events alone.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries.iter().map(|entry| &entry.event)
    }

    /// Adds a number, which a promise may bound, once it is known.
    pub fn measure(&mut self, what: &str, value: u64, at_most: impl Into<Option<u64>>) {
        let at_most = at_most.into();
        let at_ms = self.entries.last().map_or(0, |entry| entry.at_ms);
        self.entries.push(Entry { at_ms, event: Event::Measured { what: what.to_owned(), value, at_most } });
    }

    /// A number that was measured, by its name.
    #[must_use]
    pub fn measured(&self, name: &str) -> Option<u64> {
        self.events().find_map(|event| match event {
            Event::Measured { what, value, .. } if what == name => Some(*value),
            _ => None,
        })
    }

    /// How long the slowest answer took from `since_ms` on, in milliseconds: a yes, or a no that says to come back.
    #[must_use]
    pub fn slowest_answer_ms(&self, since_ms: u64) -> u64 {
        let answers = self.entries.iter().filter(|entry| entry.at_ms >= since_ms);
        let times = answers.filter_map(|entry| match &entry.event {
            Event::Acknowledged { after_ms, .. } | Event::Repeated { after_ms, .. } => Some(*after_ms),
            _ => None,
        });
        times.max().unwrap_or(0)
    }

    /// How long answers took that came from `since_ms` on and before `until_ms`, in milliseconds, the shortest first.
    #[must_use]
    pub fn answer_times_ms(&self, since_ms: u64, until_ms: u64) -> Vec<u64> {
        let mut times: Vec<u64> = self
            .entries
            .iter()
            .filter(|entry| (since_ms..until_ms).contains(&entry.at_ms))
            .filter_map(|entry| match &entry.event {
                Event::Acknowledged { after_ms, .. } | Event::Repeated { after_ms, .. } => Some(*after_ms),
                _ => None,
            })
            .collect();
        times.sort_unstable();
        times
    }

    /// How long after its acknowledgement the slowest change reached the last watcher, in milliseconds, of those that
    /// were acknowledged from `since_ms` on; `u64::MAX` if one never did.
    #[must_use]
    pub fn slowest_delivery_ms(&self, since_ms: u64) -> u64 {
        self.delivery_times_ms(since_ms, u64::MAX).last().copied().unwrap_or(0)
    }

    /// The same of the change in the middle, of those that were acknowledged from `since_ms` on and before `until_ms`: few
    /// that are slow do not show here, and a channel that nobody listens to does.
    #[must_use]
    pub fn usual_delivery_ms(&self, since_ms: u64, until_ms: u64) -> u64 {
        let times = self.delivery_times_ms(since_ms, until_ms);
        times.get(times.len() / 2).copied().unwrap_or(0)
    }

    /// How long after its acknowledgement each change reached the last watcher, the shortest first.
    fn delivery_times_ms(&self, since_ms: u64, until_ms: u64) -> Vec<u64> {
        let mut reached: Vec<Vec<((u64, u64), u64)>> = vec![Vec::new(); self.watchers];
        for entry in &self.entries {
            if let Event::Saw { watcher, revision, .. } | Event::SawSnapshot { watcher, revision, .. } = &entry.event
                && let Some(place) = place(revision)
                && let Some(places) = reached.get_mut(*watcher)
            {
                places.push((place, entry.at_ms));
            }
        }
        let times = self.entries.iter().filter_map(|entry| match &entry.event {
            Event::Acknowledged { revision, .. } if (since_ms..until_ms).contains(&entry.at_ms) => {
                let due = place(revision)?;
                reached
                    .iter()
                    .map(|places| {
                        let first = places.partition_point(|(place, _)| *place < due);
                        places.get(first).map_or(u64::MAX, |(_, seen_ms)| seen_ms.saturating_sub(entry.at_ms))
                    })
                    .max()
            }
            _ => None,
        });
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        times
    }

    /// When the last silence ended in which a watcher was told nothing for longer than `silence_ms`, as far as that was
    /// after `since_ms`; `since_ms` if there was none. Who is never told anything again does not show here.
    #[must_use]
    pub fn last_silence_ended_ms(&self, since_ms: u64, silence_ms: u64) -> u64 {
        let mut told = vec![None; self.watchers];
        let mut last = since_ms;
        for entry in &self.entries {
            if let Event::Saw { watcher, .. } | Event::SawSnapshot { watcher, .. } = &entry.event
                && let Some(told) = told.get_mut(*watcher)
            {
                let before = told.replace(entry.at_ms);
                if before.is_some_and(|before| entry.at_ms - before > silence_ms) {
                    last = last.max(entry.at_ms);
                }
            }
        }
        last
    }

    /// When the first edit was acknowledged that was sent after `since_ms`.
    #[must_use]
    pub fn first_acknowledged_ms(&self, since_ms: u64) -> Option<u64> {
        first_acknowledged_ms(&self.entries, since_ms)
    }
}

/// When the first edit was acknowledged that was sent after `since_ms`; `None` if none was.
#[must_use]
pub fn first_acknowledged_ms(entries: &[Entry], since_ms: u64) -> Option<u64> {
    let first = entries.iter().find(|entry| match &entry.event {
        Event::Acknowledged { after_ms, .. } => entry.at_ms >= since_ms + after_ms,
        _ => false,
    });
    first.map(|entry| entry.at_ms)
}

/// When the last of `watchers` had seen everything up to `head`; `None` if one never did.
#[must_use]
pub fn whole_at_ms(entries: &[Entry], watchers: &[usize], head: &str) -> Option<u64> {
    let head = place(head)?;
    let mut missing: HashSet<usize> = watchers.iter().copied().collect();
    for entry in entries {
        if let Event::Saw { watcher, revision, .. } | Event::SawSnapshot { watcher, revision, .. } = &entry.event
            && place(revision)? >= head
            && missing.remove(watcher)
            && missing.is_empty()
        {
            return Some(entry.at_ms);
        }
    }
    None
}

/// Epoch and seq of `"<epoch>-<seq>"`.
#[must_use]
pub fn place(revision: &str) -> Option<(u64, u64)> {
    let (epoch, seq) = revision.split_once('-')?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

/// Writes a history from many tasks.
#[derive(Debug, Clone)]
pub struct Recorder {
    began: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Recorder {
    /// Begins an empty history.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: Instant::now(), entries: Arc::default() }
    }

    /// Begins another one by the same clock.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { began: self.began, entries: Arc::default() }
    }

    /// Milliseconds since the history began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Adds one event.
    pub fn note(&self, event: Event) {
        let at_ms = self.now_ms();
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { at_ms, event });
    }

    /// Looks at what is written so far.
    pub fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is written so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_that_of_the_last_who_arrives() {
        let saw = |at_ms, watcher, revision: &str| Entry {
            at_ms,
            event: Event::SawSnapshot { watcher, revision: revision.to_owned(), reason: String::new() },
        };
        let entries = [saw(1, 0, "7-1"), saw(2, 1, "7-3"), saw(5, 0, "8-4"), saw(9, 1, "8-5")];
        assert_eq!(whole_at_ms(&entries, &[0, 1], "7-3"), Some(5));
        assert_eq!(whole_at_ms(&entries, &[1], "7-3"), Some(2));
        assert_eq!(whole_at_ms(&entries, &[0, 1], "8-5"), None);
    }

    #[test]
    fn a_delivery_takes_until_the_last_watcher_has_it_and_for_ever_if_one_does_not() {
        let told = |at_ms, revision: &str| Entry {
            at_ms,
            event: Event::Acknowledged {
                operation: String::new(),
                attempts: 1,
                revision: revision.to_owned(),
                after_ms: 1,
            },
        };
        let saw = |at_ms, watcher, revision: &str| Entry {
            at_ms,
            event: Event::Saw { watcher, revision: revision.to_owned(), previous: None, operation: None },
        };
        let entries = vec![told(2, "7-1"), saw(3, 0, "7-1"), told(4, "7-2"), saw(9, 1, "7-1"), saw(10, 0, "7-2")];
        let mut history = History { entries, watchers: 2, ..History::default() };
        assert_eq!((history.slowest_delivery_ms(0), history.slowest_delivery_ms(5)), (u64::MAX, 0));
        history.entries.push(saw(11, 1, "8-0"));
        assert_eq!((history.slowest_delivery_ms(0), history.slowest_delivery_ms(3)), (7, 7));
        assert_eq!((history.usual_delivery_ms(0, 3), history.usual_delivery_ms(0, 9)), (7, 7));
        assert_eq!(history.usual_delivery_ms(5, 9), 0);
        assert_eq!(history.answer_times_ms(0, 4), [1]);
        assert_eq!((history.last_silence_ended_ms(5, 1), history.last_silence_ended_ms(5, 6)), (11, 10));
        assert_eq!((history.last_silence_ended_ms(5, 7), history.last_silence_ended_ms(12, 1)), (5, 12));
    }

    #[test]
    fn the_slowest_answer_counts_whether_it_was_a_yes_or_a_no() {
        let (operation, revision) = ("a".to_owned(), "7-1".to_owned());
        let no =
            Event::Repeated { operation: operation.clone(), code: String::new(), reason: String::new(), after_ms: 9 };
        let yes = Event::Acknowledged { operation, attempts: 2, revision, after_ms: 4 };
        let entries = vec![Entry { at_ms: 10, event: no }, Entry { at_ms: 20, event: yes }];
        let history = History { entries, ..History::default() };
        assert_eq!((history.slowest_answer_ms(0), history.slowest_answer_ms(11)), (9, 4));
        assert_eq!((history.first_acknowledged_ms(5), history.first_acknowledged_ms(17)), (Some(20), None));
    }
}
