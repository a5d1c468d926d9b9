//! What everyone was told, in the order it was told. Only ever added to.
//!
//! An edit is first *invoked*; whatever is known of it later is an event of its own. So a crash of the
//! harness leaves a history that is true as far as it goes.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

use serde::Serialize;
use serde_json::Value;

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
    /// A node was killed.
    Killed {
        /// Which.
        node: usize,
    },
    /// A node is back.
    Restarted {
        /// Which.
        node: usize,
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

/// Everything a checker may look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// How many watchers there were.
    pub watchers: usize,
    /// The log at the end, complete from its start.
    pub log: Vec<Logged>,
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

    /// Adds one event.
    pub fn note(&self, event: Event) {
        let at_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { at_ms, event });
    }

    /// What is written so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
