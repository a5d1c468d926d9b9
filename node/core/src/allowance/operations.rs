//! A user's operations on one node.

use std::time::Duration;

use super::{ASK_AGAIN_AFTER, Meter, Outcome, Rate, Verdict};

/// How long what was leased may be used. Long enough for a burst to use it, short enough that what one node leased and does
/// not need is not missing for long on the others.
const LEASE_LASTS: Duration = Duration::from_secs(1);
/// How much is leased at a time: what the rate gives in a tenth of a second.
const LEASES_PER_SECOND: u32 = 10;
/// The longest refusal of the store that is believed: a store whose clock jumped must not keep anybody out.
const REFUSAL_MAX: Duration = Duration::from_secs(5);

/// What the store said to a request for operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// So many, from one to as many as were asked for.
    Some(u32),
    /// None for so long.
    None {
        /// How long.
        retry_after: Duration,
    },
    /// It did not answer.
    Unanswered,
}

/// One user's operations on one node. A value of some 150 bytes, which may be forgotten when it [is idle](Self::is_idle).
#[derive(Debug, Clone)]
pub struct Operations {
    /// The free share.
    free: Meter,
    /// The whole rate, for as long as the store does not answer.
    whole: Meter,
    batch: u32,
    leased: u32,
    leased_until: Duration,
    is_asking: bool,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The store gives leases.
    Leasing,
    /// The store gave none, until then.
    Refused { until: Duration },
    /// The store did not answer; it is asked again then.
    Alone { ask_at: Duration },
}

impl Operations {
    /// Of a user of whom nothing is known: everything is there.
    #[must_use]
    pub fn new(rate: Rate, free_share: u32) -> Self {
        Self {
            free: rate.share(free_share),
            whole: rate.meter(),
            batch: (rate.per_second / LEASES_PER_SECOND).max(1),
            leased: 0,
            leased_until: Duration::ZERO,
            is_asking: false,
            standing: Standing::Leasing,
        }
    }

    /// Somebody wants to begin an operation.
    pub fn take(&mut self, now: Duration) -> Outcome {
        let verdict = self.verdict(now);
        let ask = self.is_due(now, verdict).then_some(self.batch);
        self.is_asking |= ask.is_some();
        Outcome { verdict, ask }
    }

    /// The store has answered. Whoever waits may come again.
    pub fn answered(&mut self, now: Duration, granted: Granted) {
        self.is_asking = false;
        match granted {
            Granted::Some(count) => {
                self.standing = Standing::Leasing;
                self.leased = self.left(now).saturating_add(count);
                self.leased_until = now + LEASE_LASTS;
            }
            Granted::None { retry_after } => {
                self.standing = Standing::Refused { until: now + retry_after.min(REFUSAL_MAX) };
            }
            Granted::Unanswered => self.standing = Standing::Alone { ask_at: now + ASK_AGAIN_AFTER },
        }
    }

    /// Whether it knows nothing that a new one would not know.
    #[must_use]
    pub fn is_idle(&self, now: Duration) -> bool {
        let counts = match self.standing {
            Standing::Leasing => false,
            Standing::Refused { until } => now < until,
            Standing::Alone { .. } => !self.whole.is_full(now),
        };
        !counts && !self.is_asking && self.left(now) == 0 && self.free.is_full(now)
    }

    fn verdict(&mut self, now: Duration) -> Verdict {
        let Err(until_free) = self.free.take(now) else { return Verdict::Taken };
        let left = self.left(now);
        if left > 0 {
            self.leased = left - 1;
            return Verdict::Taken;
        }
        match self.standing {
            Standing::Leasing => Verdict::Wait,
            Standing::Refused { until } if until <= now => Verdict::Wait,
            Standing::Refused { until } => Verdict::Refused { retry_after: until_free.min(until - now) },
            Standing::Alone { .. } => match self.whole.take(now) {
                Ok(()) => Verdict::Taken,
                Err(wait) => Verdict::Refused { retry_after: wait.min(until_free) },
            },
        }
    }

    /// Whether the store is to be asked now: somebody waits, or little is left, so that the next need not wait.
    fn is_due(&self, now: Duration, verdict: Verdict) -> bool {
        if self.is_asking {
            return false;
        }
        let runs_low = self.left(now) <= self.batch / 2 && !self.free.wait(now, self.free.burst() / 4).is_zero();
        match self.standing {
            Standing::Leasing => verdict == Verdict::Wait || runs_low,
            Standing::Refused { until } => verdict == Verdict::Wait || runs_low && until <= now,
            Standing::Alone { ask_at } => ask_at <= now && runs_low,
        }
    }

    fn left(&self, now: Duration) -> u32 {
        if now < self.leased_until { self.leased } else { 0 }
    }
}
