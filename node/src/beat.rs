//! The beat: moments that all of a process shares.
//!
//! To wake costs more than most of what is done now and then: looking, renewing, asking, pinging. A thousand projects, each with
//! a time of its own, would wake the node for each of them, and each would find the caches cold. So what need not come at an
//! exact time comes at a common one: a single waking serves all of it.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Time between two common moments: as short as the shortest pause of what is done all the time, and so long that a node which
/// does nothing hardly wakes.
pub const BEAT: Duration = Duration::from_millis(300);

/// When to do something that is to be done within `pause`: at the last common moment before it is over. A pause of less than two
/// beats is kept as it is.
#[must_use]
pub fn within(pause: Duration) -> Instant {
    let latest = Instant::now() + pause;
    if pause < 2 * BEAT { latest } else { last_common(latest) }
}

/// Ticks at once, and then at common moments every `period`, or sooner by less than a beat. The second tick comes by chance within
/// a period, so that those who began together do not tick together for ever. Ticks that were missed are left out.
#[must_use]
pub fn ticks(period: Duration) -> Interval {
    let now = Instant::now();
    let (period, second) = if period < BEAT {
        (period, now + period)
    } else {
        let chance = (period - BEAT).mul_f64(rand::random());
        (period - past_beats(period), last_common(now + BEAT + chance))
    };
    let mut ticks = interval_at(second.checked_sub(period).unwrap_or(now), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// The last common moment at or before `at`.
fn last_common(at: Instant) -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    // A test's clock may stand before the process began, when there were none.
    let Some(since) = at.checked_duration_since(began) else { return at };
    at - past_beats(since)
}

/// How much more it is than a whole number of beats.
fn past_beats(time: Duration) -> Duration {
    let past = time.as_nanos() % BEAT.as_nanos();
    Duration::from_nanos(u64::try_from(past).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_within_a_pause_is_due_together() {
        last_common(Instant::now());
        for ms in [600, 5_000, 20_000, 43_211] {
            let pause = Duration::from_millis(ms);
            let due = within(pause);
            assert!(due <= Instant::now() + pause && due + BEAT > Instant::now() + pause, "{pause:?}");
            assert_eq!(due, last_common(due), "{pause:?}");
            tokio::time::advance(Duration::from_millis(77)).await;
        }
        let short = Duration::from_millis(599);
        assert_eq!(within(short), Instant::now() + short);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_tick_comes_at_once_the_second_within_a_period_and_the_others_a_period_apart() {
        last_common(Instant::now());
        for (asked, period) in [(300, 300), (900, 900), (1_000, 900), (5_100, 5_100)] {
            let (asked, period) = (Duration::from_millis(asked), Duration::from_millis(period));
            tokio::time::advance(Duration::from_millis(77)).await;
            let (began, mut ticks) = (Instant::now(), ticks(asked));
            ticks.tick().await;
            assert_eq!(Instant::now(), began);
            ticks.tick().await;
            let second = Instant::now();
            assert!(second > began && second <= began + period, "{period:?}");
            assert_eq!(second.duration_since(last_common(second)).as_millis(), 0, "{period:?}");
            ticks.tick().await;
            assert_eq!(Instant::now().duration_since(second), period);
        }
    }
}
