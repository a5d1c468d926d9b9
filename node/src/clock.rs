//! The wall clock, read in one place. What only measures durations uses tokio's clock, which tests can pause.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mille_shared::Timestamp;

/// Now, in milliseconds since 1970.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from_unix_ms(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
}

/// Now, as exact as the clock is, since 1970.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A duration in whole milliseconds, as it is told to others.
#[must_use]
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The pause before something is read again that must not be known for older than `bound`: shorter, since reading takes its
/// time, and by chance, so that those who began together do not read together for ever.
#[must_use]
pub fn sweep_pause(bound: Duration) -> Duration {
    bound.mul_f64(0.6 + 0.2 * rand::random::<f64>())
}

/// The pause after a reading that failed.
#[must_use]
pub fn sweep_retry(bound: Duration) -> Duration {
    bound.mul_f64(0.05 + 0.05 * rand::random::<f64>())
}
