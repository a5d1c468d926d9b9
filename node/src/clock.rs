//! The wall clock, read in one place. What only measures durations uses tokio's clock, which tests can pause.

use std::time::{SystemTime, UNIX_EPOCH};

use mille_shared::Timestamp;

/// Now, in milliseconds since 1970.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
