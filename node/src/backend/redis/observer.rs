//! What the backend tells of its Redis, and how it is counted.

use std::time::Duration;

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
