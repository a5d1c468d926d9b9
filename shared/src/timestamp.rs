//! A moment, as the documents and events tell it: RFC 3339, UTC, milliseconds.
//!
//! Reading the clock is the node's work; here is only the value and its text.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970, UTC. Written `2026-11-23T18:22:07.123Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01T00:00:00Z. Negative ones are written as that moment.
    pub unix_ms: i64,
}

/// The last moment that RFC 3339 can write: the end of the year 9999.
const LAST_UNIX_MS: i64 = 253_402_300_799_999;

impl Timestamp {
    /// The moment so many milliseconds after 1970 began.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: i64) -> Self {
        Self { unix_ms }
    }

    /// The moment so much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self { unix_ms: self.unix_ms.saturating_add(ms) }
    }

    /// Reads an RFC 3339 text, whatever its offset and precision; what is finer than milliseconds is dropped, and what is
    /// before 1970 is read as it would be written: the moment at which that year began.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let unix_ms = i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()?;
        Some(Self { unix_ms: unix_ms.clamp(0, LAST_UNIX_MS) })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.unix_ms.clamp(0, LAST_UNIX_MS);
        let moment = OffsetDateTime::from_unix_timestamp(ms / 1000).map_err(|_| fmt::Error)?;
        let (date, time) = (moment.date(), moment.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            ms % 1000
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a time is written in RFC 3339"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_back_is_the_same_moment(unix_ms in 0..=LAST_UNIX_MS) {
            let moment = Timestamp::from_unix_ms(unix_ms);
            prop_assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        }
    }

    #[test]
    fn a_moment_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_unix_ms(1_795_458_127_123).to_string(), "2026-11-23T18:22:07.123Z");
        assert_eq!(Timestamp::parse("1899-12-31T23:59:59Z"), Some(Timestamp::from_unix_ms(0)), "as it is written");
    }
}
