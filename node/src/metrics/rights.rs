//! Metrics of rights: who was not let in, and whose right ended.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::registry::Registry;

/// Why somebody may not have what they asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAllowed {
    /// They show no token.
    NoToken,
    /// The token is not one that we take.
    BadToken,
    /// Its time is over.
    ExpiredToken,
    /// It was revoked.
    RevokedToken,
    /// There are no keys to judge a token by.
    NoKeys,
    /// They are no member of the project, or there is none.
    NotAMember,
    /// Their role is too low.
    Role,
    /// Their token lacks a scope.
    Scope,
    /// They say to be somebody else than their token says.
    OtherUser,
}

impl NotAllowed {
    const ALL: [Self; 9] = [
        Self::NoToken,
        Self::BadToken,
        Self::ExpiredToken,
        Self::RevokedToken,
        Self::NoKeys,
        Self::NotAMember,
        Self::Role,
        Self::Scope,
        Self::OtherUser,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::BadToken => "bad_token",
            Self::ExpiredToken => "expired_token",
            Self::RevokedToken => "revoked_token",
            Self::NoKeys => "no_keys",
            Self::NotAMember => "not_a_member",
            Self::Role => "role",
            Self::Scope => "scope",
            Self::OtherUser => "other_user",
        }
    }
}

/// Metrics of rights.
pub struct RightsMetrics {
    /// In the order of [`NotAllowed::ALL`].
    refused: [Counter; NotAllowed::ALL.len()],
    /// Revocations of tokens that this node keeps.
    pub revocations_held: Gauge,
    revocation_seconds: Histogram,
    by_token: Counter,
    by_user: Counter,
}

impl RightsMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        let [by_token, by_user] = registry.counters(
            "revocation_closes_total",
            "Sockets and event streams ended because their token was revoked, by what was revoked. Worry when nobody revoked anything.",
            "cause",
            ["token", "user"],
        );
        Self {
            by_token,
            by_user,
            refused: registry.counters(
                "authorisation_refusals_total",
                "Requests and handshakes refused for want of a right, by what was wanting. Worry about 'no_keys', and when 'bad_token' or 'not_a_member' jumps: somebody tries doors.",
                "reason",
                NotAllowed::ALL.map(NotAllowed::as_str),
            ),
            revocations_held: registry.gauge(
                "revocations_held",
                "Revocations of tokens that this node keeps. Worry when it nears 100,000, where no more are taken.",
            ),
            revocation_seconds: registry.histogram(
                "revocation_seconds",
                "From a revocation, by the clock of the node that was told, to the end of a socket here, in seconds. Worry above 1: messages between nodes are lost, or clocks differ.",
            ),
        }
    }

    /// Notes a refusal.
    pub fn refused(&self, why: NotAllowed) {
        self.refused[why as usize].increment(1);
    }

    /// Notes a socket or event stream that ends with its token, so long after the revocation.
    pub fn revoked(&self, of_user: bool, after: Duration) {
        let count = if of_user { &self.by_user } else { &self.by_token };
        count.increment(1);
        self.revocation_seconds.record(after.as_secs_f64());
    }
}
