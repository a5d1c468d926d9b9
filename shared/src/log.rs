//! The log of a plan: its entries, their hash chain, and what is offered to it.
//!
//! An entry carries a change as text and a hash of (the hash before it, its place, that text). Two histories that bear
//! the same numbers therefore differ in their hashes, and whoever reads the next entry sees it. Hashing and judging are
//! `mille-core`'s work; storing is the backend's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ClientId, OperationId, Revision, TraceParent, UserId};

/// What ties an entry to everything before it. 64 bits: long enough that two histories do not meet by chance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub [u8; 8]);

impl ChainHash {
    /// What stands before a log's first entry.
    pub const ROOT: Self = Self([0; 8]);
}

/// The text is not 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chain hash is 16 hexadecimal digits")]
pub struct MalformedHash;

impl FromStr for ChainHash {
    type Err = MalformedHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(MalformedHash);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| MalformedHash)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The last entry of a log, as far as comparing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Its place.
    pub revision: Revision,
    /// Its hash.
    pub hash: ChainHash,
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub revision: Revision,
    /// Hash of the hash before it, `revision` and `payload`.
    pub hash: ChainHash,
    /// The change, as the text that was hashed.
    pub payload: Arc<str>,
}

/// One life of the store. A restart and a failover begin another one, and in either the end of a log may be lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreLife(Arc<str>);

impl StoreLife {
    /// A life as the store names it: a word without spaces.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The store's name for it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a log ends, and in which life of the store that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The last entry; absent: there is no log.
    pub head: Option<Head>,
    /// The store's life.
    pub life: StoreLife,
}

/// A change offered to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// What makes a repeat of its operation recognisable.
    pub key: OperationKey,
    /// Hash of the hash before it, its place to be, and `payload`.
    pub hash: ChainHash,
    /// The change, as text.
    pub payload: Arc<str>,
    /// The trace it is a part of, if that is recorded: told together with the entry, and kept nowhere.
    pub trace: Option<TraceParent>,
}

/// What makes an operation recognisable in one plan: user, client and operation id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationKey(Arc<str>);

impl OperationKey {
    /// The key of a user's operation. Ids hold no control characters, so the separator can't be forged.
    #[must_use]
    pub fn of(user: &UserId, client: &ClientId, operation: &OperationId) -> Self {
        Self([user.as_str(), client.as_str(), operation.as_str()].join("\u{1f}").into())
    }

    /// A key as it was read from the log.
    pub fn from_text(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a commit is to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terms {
    /// New changes.
    ///
    /// The first ones in a new life of the store are a matter of trust: the log may have lost its end, and other nodes
    /// may be about to bring it back. So they are taken only from a writer who has waited for those; and unless the
    /// writer followed the log through the life in which it was written last, they must begin a new epoch.
    Add {
        /// Lives of the store through which the writer followed the log without a break.
        followed: Vec<StoreLife>,
        /// The life in which the writer has waited for others to bring back what was lost.
        settled: Option<StoreLife>,
        /// An epoch in which changes were lost for good, so that its numbers must not be given again.
        lost_epoch: Option<u64>,
        /// The epoch of the batch: a new one, as the store gave it for this head, or absent, that of the head.
        begins_epoch: Option<u64>,
    },
    /// Entries that the log had and lost: they get the numbers they had. All of one epoch.
    Restore {
        /// Their epoch.
        epoch: u64,
    },
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// All proposals are in the log, in order, right behind the expected head.
    Committed {
        /// The store's life.
        life: StoreLife,
    },
    /// Some proposals repeat operations that the log already has. Nothing was added.
    Repeated {
        /// For each repeat: which proposal, and where its operation stands.
        repeats: Vec<(usize, Revision)>,
    },
    /// The log is not where the writer thought. Nothing was added.
    Moved {
        /// Where it is; absent: there is no log.
        head: Option<Head>,
    },
    /// The store began a new life in which nothing was added yet, and the writer has not waited in it. Nothing was added.
    Reborn {
        /// The new life.
        life: StoreLife,
    },
    /// The log must go on in a new epoch. Nothing was added.
    NewEpoch {
        /// Which: it was never used.
        epoch: u64,
    },
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPage {
    /// Entries in order, the first being the oldest the log has after the place asked for.
    pub entries: Vec<LogEntry>,
    /// Whether the log may hold more behind these.
    pub has_more: bool,
}

/// A plan's state at a place in its log, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The place, and its hash.
    pub head: Head,
    /// The state, as `mille-core` writes it.
    pub payload: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hash_reads_back_as_itself(bytes: [u8; 8]) {
            let hash = ChainHash(bytes);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        }
    }

    #[test]
    fn two_operations_share_a_key_only_if_they_are_the_same() {
        let key =
            |u: &str, c: &str, o: &str| OperationKey::of(&UserId::new(u), &ClientId::new(c), &OperationId::new(o));
        assert_ne!(key("a", "b", "c"), key("a", "", "b c"));
        assert_eq!(key("a", "b", "c"), key("a", "b", "c"));
    }
}
