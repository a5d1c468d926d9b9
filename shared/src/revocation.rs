//! Tokens that count no more although they have not expired.
//!
//! A revocation names one token, or a user with a moment: every token of the user that was issued at or before it. So the
//! user can log in again. Which tokens it meets is said here; who keeps it, and for how long, is the node's affair.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, TokenId, UserId};

/// What a revocation names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// One token.
    Token(TokenId),
    /// The tokens that a user had.
    User(UserId),
}

/// Tokens that count no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Which.
    pub what: Revoked,
    /// When they were revoked, by the clock of the node that was told. Of a user, tokens issued at or before it are meant;
    /// it is compared with what the issuer's clock wrote into the token.
    pub at: Timestamp,
}

impl Revocation {
    /// Whether a token of the user that was issued then is meant by a revocation of the user at `at`. A token that does not
    /// say when it was issued counts as issued before.
    #[must_use]
    pub fn meets_issued(at: Timestamp, issued_at_seconds: Option<u64>) -> bool {
        let issued_ms =
            issued_at_seconds.map(|seconds| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX));
        issued_ms.is_none_or(|issued_ms| issued_ms <= at.unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_issued_at_or_before_the_moment_is_meant_and_a_later_one_is_not() {
        let at = Timestamp::from_unix_ms(7_500);
        for (issued, meant) in [(Some(7), true), (Some(8), false), (Some(u64::MAX), false), (None, true)] {
            assert_eq!(Revocation::meets_issued(at, issued), meant, "{issued:?}");
        }
        assert!(Revocation::meets_issued(Timestamp::from_unix_ms(8_000), Some(8)));
    }
}
