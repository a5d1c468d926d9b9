//! What a node feels of its load, where everyone can read it.
//!
//! Whoever has a queue for a socket counts its bytes with a [`Backlog`]; the store's connection notes how long answers take;
//! a [`sampler`] looks at both and at the event loop three to ten times a second, asks the machine of `mille-core` and writes
//! the level here. To read the level, or to count, costs one relaxed atomic operation and no lock: slightly old is fine.
//! What is given up at which level is decided where it would be given out.

pub mod sampler;
pub mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

pub use mille_core::pressure::{Level, Thresholds};

/// What the node feels. Cheap to clone; calm until a sampler says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Pressure(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    level: AtomicU8,
    queued_bytes: AtomicU64,
    queued_messages: AtomicU64,
    /// Answers of the store since the last sample, and how long they took in all.
    answers: AtomicU64,
    answers_us: AtomicU64,
    /// As sampled last, to be told.
    lag_us: AtomicU64,
    store_us: AtomicU64,
}

/// What is refused or put off under pressure, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// A socket of either kind.
    Socket,
    /// A request over HTTP, or an event stream.
    Request,
    /// An operation on a socket.
    Operation,
    /// A change of somebody's presence that is told later, with others that came meanwhile.
    Presence,
}

impl Shed {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Socket, Self::Request, Self::Operation, Self::Presence];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Request => "request",
            Self::Operation => "operation",
            Self::Presence => "presence",
        }
    }
}

/// Latency of a store that says nothing, where it is written down.
const SILENT_US: u64 = u64::MAX;

impl Pressure {
    /// What is given up now.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::at(self.0.level.load(Ordering::Relaxed).into())
    }

    /// How late the event loop was when it was last looked at, or is so far.
    #[must_use]
    pub fn event_loop_lag(&self) -> Duration {
        Duration::from_micros(self.0.lag_us.load(Ordering::Relaxed))
    }

    /// A count for one queue, empty.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        Backlog { pressure: self.clone(), messages: 0, bytes: 0 }
    }

    /// Bytes that wait in all queues.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.0.queued_bytes.load(Ordering::Relaxed)
    }

    /// Messages that wait in all queues.
    #[must_use]
    pub fn queued_messages(&self) -> u64 {
        self.0.queued_messages.load(Ordering::Relaxed)
    }

    /// The store answered, after so long.
    pub fn store_answered(&self, took: Duration) {
        self.0.answers.fetch_add(1, Ordering::Relaxed);
        self.0.answers_us.fetch_add(micros(took), Ordering::Relaxed);
    }

    /// The mean of what was noted since this was last asked; `None` if nothing was.
    fn take_store_latency(&self) -> Option<Duration> {
        let answers = self.0.answers.swap(0, Ordering::Relaxed);
        let in_all = self.0.answers_us.swap(0, Ordering::Relaxed);
        // An answer that comes between the two counts with the next; it makes one mean a little wrong.
        in_all.checked_div(answers).map(Duration::from_micros)
    }

    pub(crate) fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    fn set_told(&self, lag: Duration, store: Option<Duration>) {
        self.0.lag_us.store(micros(lag), Ordering::Relaxed);
        self.0.store_us.store(store.map_or(SILENT_US, micros), Ordering::Relaxed);
    }
}

impl std::fmt::Display for Pressure {
    /// The level and what it is judged by, for operators.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lag_ms = self.0.lag_us.load(Ordering::Relaxed) as f64 / 1_000.0;
        write!(f, "{}; event loop {lag_ms:.1} ms late, ", self.level().as_str())?;
        write!(f, "{} bytes in send queues, ", self.queued_bytes())?;
        match self.0.store_us.load(Ordering::Relaxed) {
            SILENT_US => write!(f, "the store does not answer"),
            store_us => write!(f, "the store answers in {:.1} ms", store_us as f64 / 1_000.0),
        }
    }
}

/// The messages of one queue and their bytes, counted with those of all others for as long as it is there.
#[derive(Debug)]
pub struct Backlog {
    pressure: Pressure,
    messages: usize,
    bytes: usize,
}

impl Backlog {
    /// Bytes of this queue.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many are in the queue now.
    pub fn set(&mut self, messages: usize, bytes: usize) {
        let all = &self.pressure.0;
        change(&all.queued_messages, self.messages, messages);
        change(&all.queued_bytes, self.bytes, bytes);
        (self.messages, self.bytes) = (messages, bytes);
    }

    /// One more message waits, of so many bytes.
    pub fn add(&mut self, bytes: usize) {
        self.set(self.messages.saturating_add(1), self.bytes.saturating_add(bytes));
    }

    /// One message waits no longer, of so many bytes.
    pub fn remove(&mut self, bytes: usize) {
        self.set(self.messages.saturating_sub(1), self.bytes.saturating_sub(bytes));
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

/// Brings a part of a sum from `before` to `now`.
fn change(all: &AtomicU64, before: usize, now: usize) {
    match now.checked_sub(before) {
        Some(0) => {}
        Some(more) => drop(all.fetch_add(more as u64, Ordering::Relaxed)),
        None => drop(all.fetch_sub((before - now) as u64, Ordering::Relaxed)),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_add_up_and_one_that_is_gone_counts_no_more() {
        let pressure = Pressure::default();
        let (mut one, mut other) = (pressure.backlog(), pressure.backlog());
        one.add(100);
        other.add(20);
        one.remove(30);
        assert_eq!((pressure.queued_bytes(), one.bytes(), pressure.queued_messages()), (90, 70, 1));
        drop(one);
        other.remove(1_000);
        assert_eq!((pressure.queued_bytes(), pressure.queued_messages()), (0, 0));
    }

    #[test]
    fn the_stores_latency_is_the_mean_of_what_came_since_the_last_look() {
        let pressure = Pressure::default();
        assert_eq!(pressure.take_store_latency(), None);
        pressure.store_answered(Duration::from_millis(10));
        pressure.store_answered(Duration::from_millis(30));
        assert_eq!(pressure.take_store_latency(), Some(Duration::from_millis(20)));
        assert_eq!(pressure.take_store_latency(), None);
    }

    #[test]
    fn operators_read_the_level_and_its_reasons() {
        let pressure = Pressure::default();
        pressure.set_told(Duration::from_micros(1_500), None);
        pressure.set_level(Level::ThinPresence);
        let text = pressure.to_string();
        assert_eq!(text, "thin_presence; event loop 1.5 ms late, 0 bytes in send queues, the store does not answer");
    }
}
