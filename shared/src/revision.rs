//! A place in a plan's log.
//!
//! A client keeps the last revision it saw and shows it when it reconnects. The epoch names one history of the log: if
//! its end is lost for good, the log goes on in another epoch, so a revision that was lost never fits by luck. `seq` is
//! dense, within an epoch and from one to the next: a hole is visible. It is the id of the entry in Redis, letter for
//! letter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A place in a plan's log: `<epoch>-<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Which history of the log: the milliseconds since 1970 at which it began.
    pub epoch: u64,
    /// How many changes the plan had before this one: 0 is its creation.
    pub seq: u64,
}

impl Revision {
    /// The place of the change after this one, in the same epoch. Holds still at the largest number, which no log reaches,
    /// but any client may name.
    #[must_use]
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq.saturating_add(1) }
    }

    /// The place before this one, if there is one in the same epoch.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        self.seq.checked_sub(1).map(|seq| Self { seq, ..self })
    }

    /// Whether `other` may be the change right after this one: the next number, in this epoch or a later one.
    #[must_use]
    pub fn precedes(self, other: Self) -> bool {
        self.seq.checked_add(1) == Some(other.seq) && other.epoch >= self.epoch
    }

    /// `seq` as a GraphQL `Int`: what clients see as a plan's version. Holds still at the largest `Int`.
    #[must_use]
    pub fn version(self) -> i32 {
        i32::try_from(self.seq).unwrap_or(i32::MAX)
    }
}

/// The text is no revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a revision is written <epoch>-<seq>, two whole numbers")]
pub struct MalformedRevision;

impl FromStr for Revision {
    type Err = MalformedRevision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, seq) = text.split_once('-').ok_or(MalformedRevision)?;
        let number = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
            if plain { digits.parse().map_err(|_| MalformedRevision) } else { Err(MalformedRevision) }
        };
        Ok(Self { epoch: number(epoch)?, seq: number(seq)? })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_back_is_the_same_revision(epoch: u64, seq: u64) {
            let revision = Revision { epoch, seq };
            prop_assert_eq!(revision.to_string().parse(), Ok(revision));
        }
    }

    #[test]
    fn numbers_go_on_from_one_epoch_to_the_next() {
        let here = Revision { epoch: 5, seq: 7 };
        assert!(here.precedes(here.next()));
        assert!(here.precedes(Revision { epoch: 9, seq: 8 }));
        assert!(!here.precedes(Revision { epoch: 9, seq: 0 }), "a number is never given twice");
        assert!(!here.precedes(Revision { epoch: 4, seq: 8 }), "epochs only grow");
        assert_eq!(here.next().previous(), Some(here));
        assert_eq!(Revision { epoch: 5, seq: 0 }.previous(), None);
        let last = Revision { epoch: 5, seq: u64::MAX };
        assert!(last.next() == last && !last.precedes(last) && !last.precedes(Revision { epoch: 5, seq: 0 }));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "1", "1-", "-1", "1-2-3", "a-b", "1 -2", "+1-2", "01-2", "1-02", "1-18446744073709551616"] {
            assert_eq!(bad.parse::<Revision>(), Err(MalformedRevision), "{bad:?}");
        }
    }
}
