//! A rate with a burst, as one instant: when everything that was taken would be paid for at an even pace (GCRA).

use std::time::Duration;

/// So many per second in the long run, and so many at once. Neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// The part of a rate that is one in `share`, at least one at once.
    #[must_use]
    pub fn share(self, share: u32) -> Meter {
        let share = share.max(1);
        Meter::new(self.interval() * share, self.burst / share)
    }

    /// The whole rate.
    #[must_use]
    pub fn meter(self) -> Meter {
        Meter::new(self.interval(), self.burst)
    }

    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// What is left of a rate. Time is the caller's, from any beginning; it must not run backwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    interval: Duration,
    burst: u32,
    /// When all that was taken is paid for.
    paid_at: Duration,
}

impl Meter {
    /// A full one: one per `interval`, `burst` at once, at least one.
    #[must_use]
    pub fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst: burst.max(1), paid_at: Duration::ZERO }
    }

    /// Takes one, or says how long there is none.
    ///
    /// # Errors
    /// The time until there is one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.take_many(now, 1)
    }

    /// Takes so many at once; more than a burst are taken as soon as the burst is whole, and paid for afterwards.
    ///
    /// # Errors
    /// The time until there are so many.
    pub fn take_many(&mut self, now: Duration, count: u32) -> Result<(), Duration> {
        let wait = self.wait(now, count);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.charge(now, count);
        Ok(())
    }

    /// Takes so many whether they are there or not: for what is known only when it has happened.
    pub fn charge(&mut self, now: Duration, count: u32) {
        self.paid_at = self.paid_at.max(now).saturating_add(self.interval.saturating_mul(count));
    }

    /// How long until there are so many; zero if there are.
    #[must_use]
    pub fn wait(&self, now: Duration, count: u32) -> Duration {
        let left = self.burst.saturating_sub(count);
        self.paid_at.saturating_sub(now).saturating_sub(self.interval.saturating_mul(left))
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.paid_at <= now
    }

    /// How many may be taken at once when it is full.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }
}
