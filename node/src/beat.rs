//! The beat: moments that all of a process shares.
//!
//! To wake costs more than most of what is done now and then: looking, renewing, asking, pinging. A thousand projects, each with
//! a time of its own, would wake the node for each of them, and each would find the caches cold. So what need not come at an
//! exact time comes at a common one: a single waking serves all of it.

use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Time between two common moments. What is done all the time is done every beat or every few of them.
pub const BEAT: Duration = Duration::from_millis(300);

/// When to do something that is to be done within `pause`: at the last common moment before it is over. A pause of less than two
/// beats is kept as it is.
#[must_use]
pub fn within(pause: Duration) -> Instant {
    let latest = Instant::now() + pause;
    if pause < 2 * BEAT { latest } else { latest - past(latest) }
}

/// Ticks at once, and then at common moments every `period`, or sooner by less than a beat; behind a tick that came late, later by
/// half a beat at most. The second tick comes by chance within a period, so that those who began together do not tick together for
/// ever.
#[must_use]
pub fn ticks(period: Duration) -> Ticks {
    let period = if period < BEAT { period } else { period - beyond_beats(period) };
    Ticks { due: Box::pin(sleep_until(Instant::now())), period, has_begun: false }
}

/// What ticks at common moments.
#[derive(Debug)]
pub struct Ticks {
    due: Pin<Box<Sleep>>,
    period: Duration,
    has_begun: bool,
}

impl Ticks {
    /// Waits for the next tick; can be cancelled without loss. However late it is, the one after it comes no sooner than a period
    /// later, less half a beat at most; only the second comes when it comes.
    pub async fn tick(&mut self) {
        self.due.as_mut().await;
        let next = self.after(Instant::now());
        self.due.as_mut().reset(next);
        self.has_begun = true;
    }

    fn after(&self, now: Instant) -> Instant {
        if self.period < BEAT {
            return now + self.period;
        }
        if self.has_begun {
            let sooner = now + self.period - BEAT / 2;
            return sooner + to_go(sooner);
        }
        let latest = now + BEAT + (self.period - BEAT).mul_f64(rand::random());
        latest - past(latest)
    }
}

/// How long ago the last common moment is at `at`.
fn past(at: Instant) -> Duration {
    const LONG_AGO: Duration = Duration::from_hours(24 * 365);
    static ONE: OnceLock<Instant> = OnceLock::new();
    // Long ago, so that it is before every test's clock.
    let one = ONE.get_or_init(|| {
        let now = Instant::now();
        now.checked_sub(LONG_AGO).unwrap_or(now)
    });
    beyond_beats(at.saturating_duration_since(*one))
}

/// How long it is from `at` to the next common moment, which may be now.
fn to_go(at: Instant) -> Duration {
    beyond_beats(BEAT - past(at))
}

/// How much longer it is than a whole number of beats.
fn beyond_beats(time: Duration) -> Duration {
    let beyond = time.as_nanos() % BEAT.as_nanos();
    Duration::from_nanos(u64::try_from(beyond).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_due_within_a_pause_is_due_together() {
        for ms in [600, 5_000, 20_000, 43_211] {
            let pause = ms * MS;
            let due = within(pause);
            assert!(due <= Instant::now() + pause && due + BEAT > Instant::now() + pause, "{pause:?}");
            assert_eq!(past(due), Duration::ZERO, "{pause:?}");
            advance(77 * MS).await;
        }
        assert_eq!(within(599 * MS), Instant::now() + 599 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_tick_comes_at_once_the_second_within_a_period_and_the_others_a_period_apart() {
        for (asked, period) in [(300, 300), (900, 900), (1_000, 900), (5_000, 4_800)] {
            for _ in 0..20 {
                advance(77 * MS).await;
                let (began, mut ticks) = (Instant::now(), ticks(asked * MS));
                ticks.tick().await;
                assert_eq!(Instant::now(), began);
                ticks.tick().await;
                let second = Instant::now();
                // A timer may be a millisecond late.
                assert!(second > began && second <= began + (period + 1) * MS, "{asked}: {:?}", second - began);
                assert!(past(second) <= MS, "{asked}");
                ticks.tick().await;
                let apart = second.elapsed();
                assert!(apart >= (period - 1) * MS && apart <= (period + 1) * MS, "{asked}: {apart:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_that_was_late_is_not_followed_too_soon() {
        let mut ticks = ticks(900 * MS);
        ticks.tick().await;
        ticks.tick().await;
        for late in [0, 100, 140, 160, 290, 1_000, 3_333] {
            advance((900 + late) * MS).await;
            ticks.tick().await;
            let ticked = Instant::now();
            ticks.tick().await;
            let apart = ticked.elapsed();
            assert!(apart >= 749 * MS && apart <= 1_051 * MS, "{late}: {apart:?}");
            assert!(past(Instant::now()) <= MS, "{late}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_period_shorter_than_a_beat_is_kept() {
        let mut ticks = ticks(20 * MS);
        ticks.tick().await;
        for _ in 0..10 {
            let ticked = Instant::now();
            ticks.tick().await;
            assert!(ticked.elapsed() >= 20 * MS && ticked.elapsed() <= 21 * MS, "{:?}", ticked.elapsed());
        }
    }
}
