//! What the backend tells of its Redis, and how it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::Metrics;

/// A connection that lasts as long as the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The one for commands.
    Commands,
    /// The one for the subscription.
    Subscription,
}

impl Connection {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Commands, Self::Subscription];

    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Subscription => "subscription",
        }
    }
}

/// Who is told how Redis is. Called on the way of every command, so it must not wait.
pub trait RedisObserver: Send + Sync + 'static {
    /// Whether Redis answered when it was last asked.
    fn up(&self, is_up: bool);
    /// The breaker opened or closed.
    fn breaker(&self, is_open: bool);
    /// A command was refused because the breaker is open.
    fn refused(&self);
    /// A connection was made anew.
    fn reconnected(&self, connection: Connection);
    /// A command of the command connection was answered, or given up.
    fn done(&self, took: Duration);
    /// The command connection brought an answer, to a command or to a question whether it lives.
    fn answered(&self, took: Duration) {
        let _ = took;
    }
}

/// What several servers tell, as one: Redis is up if all of them are.
pub(super) struct Tally {
    observer: Arc<dyn RedisObserver>,
    /// Held while the observer is told, so that the last word is the newest.
    troubled: Mutex<Troubled>,
}

/// How many servers are not as they should be.
#[derive(Default)]
struct Troubled {
    down: usize,
    open: usize,
}

impl Tally {
    pub(super) fn new(observer: Arc<dyn RedisObserver>) -> Arc<Self> {
        Arc::new(Self { observer, troubled: Mutex::default() })
    }

    /// For one server more. It counts until it is dropped.
    pub(super) fn part(self: &Arc<Self>) -> Part {
        Part { tally: Arc::clone(self), is_down: AtomicBool::new(false), is_open: AtomicBool::new(false) }
    }
}

/// One server's part of a [`Tally`].
pub(super) struct Part {
    tally: Arc<Tally>,
    is_down: AtomicBool,
    is_open: AtomicBool,
}

impl RedisObserver for Part {
    fn up(&self, is_up: bool) {
        let mut troubled = self.tally.troubled.lock();
        count(&self.is_down, !is_up, &mut troubled.down);
        self.tally.observer.up(troubled.down == 0);
    }

    fn breaker(&self, is_open: bool) {
        let mut troubled = self.tally.troubled.lock();
        count(&self.is_open, is_open, &mut troubled.open);
        if is_open || troubled.open == 0 {
            self.tally.observer.breaker(is_open);
        }
    }

    fn refused(&self) {
        self.tally.observer.refused();
    }

    fn reconnected(&self, connection: Connection) {
        self.tally.observer.reconnected(connection);
    }

    fn done(&self, took: Duration) {
        self.tally.observer.done(took);
    }

    fn answered(&self, took: Duration) {
        self.tally.observer.answered(took);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut troubled = self.tally.troubled.lock();
        let was_open = self.is_open.load(Ordering::Relaxed);
        count(&self.is_down, false, &mut troubled.down);
        count(&self.is_open, false, &mut troubled.open);
        self.tally.observer.up(troubled.down == 0);
        if was_open && troubled.open == 0 {
            self.tally.observer.breaker(false);
        }
    }
}

/// Notes how something is, and how many are so.
fn count(was: &AtomicBool, is: bool, all: &mut usize) {
    match (was.swap(is, Ordering::Relaxed), is) {
        (false, true) => *all += 1,
        (true, false) => *all -= 1,
        _ => {}
    }
}

/// Nobody looks.
impl RedisObserver for () {
    fn up(&self, _is_up: bool) {}
    fn breaker(&self, _is_open: bool) {}
    fn refused(&self) {}
    fn reconnected(&self, _connection: Connection) {}
    fn done(&self, _took: Duration) {}
}

impl RedisObserver for Metrics {
    fn up(&self, is_up: bool) {
        self.redis.up.set(f64::from(u8::from(is_up)));
    }

    fn breaker(&self, is_open: bool) {
        self.redis.breaker_open.set(f64::from(u8::from(is_open)));
        if is_open {
            self.redis.breaker_opened.increment(1);
        }
    }

    fn refused(&self) {
        self.redis.commands_refused.increment(1);
    }

    fn reconnected(&self, connection: Connection) {
        self.redis.reconnects(connection).increment(1);
    }

    fn done(&self, took: Duration) {
        self.redis.command_seconds.record(took.as_secs_f64());
    }

    fn answered(&self, took: Duration) {
        self.pressure.store_answered(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last words.
    #[derive(Default)]
    struct Last {
        is_up: AtomicBool,
        is_open: AtomicBool,
    }

    impl RedisObserver for Last {
        fn up(&self, is_up: bool) {
            self.is_up.store(is_up, Ordering::Relaxed);
        }

        fn breaker(&self, is_open: bool) {
            self.is_open.store(is_open, Ordering::Relaxed);
        }

        fn refused(&self) {}
        fn reconnected(&self, _connection: Connection) {}
        fn done(&self, _took: Duration) {}
    }

    #[test]
    fn redis_is_up_if_all_servers_are_and_one_that_is_left_counts_no_more() {
        let last = Arc::new(Last::default());
        let said = || (last.is_up.load(Ordering::Relaxed), last.is_open.load(Ordering::Relaxed));
        let tally = Tally::new(last.clone());
        let (one, other) = (tally.part(), tally.part());
        one.up(false);
        one.breaker(true);
        other.up(true);
        other.breaker(false);
        assert_eq!(said(), (false, true));
        drop(other);
        assert_eq!(said(), (false, true));
        drop(one);
        assert_eq!(said(), (true, false));
    }
}
