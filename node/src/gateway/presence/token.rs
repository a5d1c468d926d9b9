//! The time a token has left on an open socket: when to warn, when to end.

use std::time::Duration;

use mille_shared::limits;
use tokio::time::Instant;

use crate::clock;
use crate::gateway::auth::Identity;

/// When a token is called expiring, and when it counts no more.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenClock {
    expires_at: Instant,
    ends_at: Instant,
    warned: bool,
}

/// What time has made of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenState {
    /// Nothing to do.
    Good,
    /// Say that it expires, this once.
    Expiring(Duration),
    /// Close the socket.
    Over,
}

impl TokenClock {
    pub(super) fn new(identity: &Identity, leeway: Duration) -> Self {
        let (now, since_epoch) = (Instant::now(), clock::since_epoch());
        // A token for ages is as good as one for a year; the clock can't count to ages.
        let until = |at: Duration| now + at.saturating_sub(since_epoch).min(Duration::from_secs(365 * 24 * 60 * 60));
        let expires_at = Duration::from_secs(identity.expires_at);
        Self { expires_at: until(expires_at), ends_at: until(expires_at.saturating_add(leeway)), warned: false }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Instant {
        let warn_at = self.expires_at.checked_sub(limits::TOKEN_EXPIRY_WARNING).unwrap_or(self.expires_at);
        if self.warned { self.ends_at } else { warn_at.min(self.ends_at) }
    }

    pub(super) fn look(&mut self, now: Instant) -> TokenState {
        if now >= self.ends_at {
            TokenState::Over
        } else if !self.warned && now + limits::TOKEN_EXPIRY_WARNING >= self.expires_at {
            self.warned = true;
            TokenState::Expiring(self.expires_at.saturating_duration_since(now))
        } else {
            TokenState::Good
        }
    }
}
