//! When edits are due, whatever became of those before them.

use std::time::Duration;

use tokio::time::Instant;

/// How edits follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// Edits per second in the long run.
    pub(crate) rate: u32,
    /// Edits that come in a row, [`WITHIN_A_BURST`] apart. 1: evenly.
    pub(crate) burst: u32,
}

/// From an edit of a burst to the next.
const WITHIN_A_BURST: Duration = Duration::from_millis(1);

impl Rhythm {
    /// So many per second, evenly.
    pub(crate) fn even(rate: u32) -> Self {
        Self { rate, burst: 1 }
    }
}

/// When edits are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// The first one's time.
    pub(crate) start: Instant,
    /// How the others follow.
    pub(crate) rhythm: Rhythm,
}

impl Schedule {
    /// When the edit with this number is due. From the start, so that rounding does not add up.
    pub(crate) fn at(&self, number: u32) -> Instant {
        let Rhythm { rate, burst } = self.rhythm;
        let first_of_burst = number - number % burst;
        self.start + Duration::from_secs(1) * first_of_burst / rate + WITHIN_A_BURST * (number % burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_due_at_an_even_rate_that_does_not_drift() {
        let schedule = Schedule { start: Instant::now(), rhythm: Rhythm::even(30) };
        let after = |number| schedule.at(number) - schedule.start;
        assert_eq!(after(0), Duration::ZERO);
        assert_eq!(after(30), Duration::from_secs(1));
        assert_eq!(after(30 * 3_600), Duration::from_secs(3_600));
        assert!(after(1) > Duration::from_millis(33) && after(1) < Duration::from_millis(34));
    }

    #[test]
    fn a_burst_comes_at_once_and_then_there_is_a_pause() {
        let schedule = Schedule { start: Instant::now(), rhythm: Rhythm { rate: 100, burst: 50 } };
        let after = |number| (schedule.at(number) - schedule.start).as_millis();
        assert_eq!([0, 1, 49, 50, 51, 100].map(after), [0, 1, 49, 500, 501, 1_000]);
    }
}
