//! How fast a socket is read.
//!
//! Who sends faster than anyone needs is not answered faster: the socket is not read for a while, the system's buffers fill,
//! and TCP slows the sender. That costs us nothing, where closing would bring the same client back with a handshake and a
//! fresh burst. So a flood of cursor moves costs the parsing of a bounded number of bytes per second, and a flood of
//! operations a bounded number of refusals.

use std::time::Duration;

use mille_core::allowance::{Meter, Rate};
use tokio::time::Instant;

/// How long refusals are counted, and the longest pause for them.
const REFUSALS_WITHIN: Duration = Duration::from_secs(1);

/// Bytes that a message counts as at least: what it costs to take one that says nothing. A client that moves its cursor
/// with every frame of a screen stays far below the bound also then.
const MESSAGE_BYTES_MIN: usize = 256;

/// When one socket may be read.
#[derive(Debug)]
pub(super) struct Intake {
    began: Instant,
    bytes: Meter,
    refusals_max: u32,
    refusals: u32,
    refusals_since: Instant,
    opens_at: Option<Instant>,
}

impl Intake {
    /// Of a socket from which so many bytes per second are read in the long run, four times as many at once, and which gets
    /// at most `refusals_max` refusals per second.
    pub(super) fn new(bytes_per_second: u32, refusals_max: u32) -> Self {
        let now = Instant::now();
        let rate = Rate { per_second: bytes_per_second, burst: bytes_per_second.saturating_mul(4) };
        Self {
            began: now,
            bytes: rate.meter(),
            refusals_max: refusals_max.max(1),
            refusals: 0,
            refusals_since: now,
            opens_at: None,
        }
    }

    /// Notes a message of so many bytes. Also those that the library answers by itself: a ping is read like any other.
    pub(super) fn took(&mut self, bytes: usize) {
        let now = self.began.elapsed();
        self.bytes.charge(now, u32::try_from(bytes.max(MESSAGE_BYTES_MIN)).unwrap_or(u32::MAX));
        let wait = self.bytes.wait(now, 0);
        if !wait.is_zero() {
            self.pause_until(self.began + now + wait);
        }
    }

    /// Notes that an operation was refused for its rate.
    pub(super) fn refused(&mut self) {
        let now = Instant::now();
        if now >= self.refusals_since + REFUSALS_WITHIN {
            (self.refusals, self.refusals_since) = (0, now);
        }
        self.refusals += 1;
        if self.refusals >= self.refusals_max {
            self.pause_until(self.refusals_since + REFUSALS_WITHIN);
        }
    }

    /// Lets nothing in for so long.
    pub(super) fn pause(&mut self, pause: Duration) {
        self.pause_until(Instant::now() + pause);
    }

    /// When the socket may be read again; `None`: now.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.opens_at.filter(|at| Instant::now() < *at)
    }

    fn pause_until(&mut self, until: Instant) {
        self.opens_at = self.opens_at.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_at_a_bounded_pace() {
        let mut intake = Intake::new(1_000, 10);
        let mut taken = 0;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            match intake.opens_at() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => {
                    intake.took(500);
                    taken += 500;
                }
            }
        }
        assert!((13_000..=15_000).contains(&taken), "{taken} bytes in 10 s of 1,000 per second and 4,000 at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_messages_without_content_is_one_too() {
        let mut intake = Intake::new(1_000, 10);
        let taken = (0..1_000).take_while(|_| {
            intake.took(0);
            intake.opens_at().is_none()
        });
        assert!(taken.count() < 100);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_have_an_end() {
        let mut intake = Intake::new(1_000_000, 10);
        for _ in 0..9 {
            intake.refused();
        }
        assert_eq!(intake.opens_at(), None);
        intake.refused();
        let until = intake.opens_at().expect("it is not read");
        assert_eq!(until.duration_since(Instant::now()), Duration::from_secs(1));
        tokio::time::sleep_until(until).await;
        intake.refused();
        assert_eq!(intake.opens_at(), None, "a new second");
    }
}
