//! When edits are due, for all who must know it: editors send them by it, listeners measure by it.
//!
//! Edits are numbered over the whole bench, so that each has an operation id of its own; the number comes back in every
//! event, and tells the listener when its edit was due. A pause of the generator, of a node or of Redis makes all edits of
//! that pause late, not one.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::bench::clients::schedule::Schedule;
use crate::bench::report::histogram;

/// The number of the first edit. So large that all numbers of a bench are of one length, and so all frames.
pub(super) const FIRST_NUMBER: u32 = 1_000_000;

/// Some edits in a row of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// The number of the first of them.
    pub(super) first: u32,
    /// How many.
    pub(super) count: u32,
    /// When they are due.
    pub(super) schedule: Schedule,
}

impl Course {
    /// How late it is for the edit with this number; none when it is not one of these.
    pub(super) fn lateness(&self, number: u64, now: Instant) -> Option<Duration> {
        let turn = u32::try_from(number).ok()?.checked_sub(self.first).filter(|&turn| turn < self.count)?;
        Some(now.saturating_duration_since(self.schedule.at(turn)))
    }
}

/// Times that were measured, in microseconds.
#[derive(Debug)]
pub(super) struct Times(pub(super) Histogram<u64>);

impl Times {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self(histogram()?))
    }

    pub(super) fn note(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::clients::schedule::Rhythm;

    #[test]
    fn an_edit_is_as_late_as_the_time_since_it_was_due() {
        let start = Instant::now();
        let course = Course { first: 1_000, count: 100, schedule: Schedule { start, rhythm: Rhythm::even(100) } };
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(course.lateness(1_002, at(25)), Some(Duration::from_millis(5)));
        assert_eq!(course.lateness(1_002, at(10)), Some(Duration::ZERO), "nothing comes before it is due");
        assert_eq!([999, 1_100, u64::MAX].map(|number| course.lateness(number, at(0))), [None; 3]);
    }
}
