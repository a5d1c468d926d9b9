//! The two slow clocks of a socket: the token's life, and the peer's patience with what we send.
//!
//! They only know times. What happens then is decided in [`super::conversation`].

use std::time::Duration;

use mille_shared::limits;
use tokio::time::Instant;

use crate::clock;
use crate::gateway::listener::BytesTaken;

/// When the token in force warns and ends.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    pub(super) expires_at: Option<u64>,
    pub(super) warn_at: Option<Instant>,
    pub(super) ends_at: Option<Instant>,
}

impl Expiry {
    /// Takes note of the token in force: a fresh one warns again.
    pub(super) fn follow(&mut self, expires_at: u64, leeway: Duration) {
        if self.expires_at == Some(expires_at) {
            return;
        }
        let (now, since_epoch) = (Instant::now(), clock::since_epoch());
        let until = |at: Duration| at.saturating_sub(since_epoch);
        self.expires_at = Some(expires_at);
        let expires_at = Duration::from_secs(expires_at);
        // A token may be good for centuries, further than a clock can be wound.
        self.warn_at = now.checked_add(until(expires_at).saturating_sub(limits::TOKEN_EXPIRY_WARNING));
        self.ends_at = now.checked_add(until(expires_at.saturating_add(leeway)));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.warn_at.into_iter().chain(self.ends_at).min()
    }
}

/// Since when the socket has taken nothing although something waits.
pub(super) struct Stall {
    pub(super) since: Option<Instant>,
    /// How much was taken until then: a large message may take long and yet move.
    before: u64,
    taken: BytesTaken,
}

impl Stall {
    pub(super) fn new(taken: BytesTaken) -> Self {
        Self { since: None, before: 0, taken }
    }

    pub(super) fn progressed(&mut self) {
        self.since = None;
    }

    /// Whether a stall begins now.
    pub(super) fn begins(&mut self) -> bool {
        let is_new = self.since.is_none();
        if is_new {
            self.since = Some(Instant::now());
            self.before = self.taken.count();
        }
        is_new
    }

    /// Whether bytes were taken since the stall began; then it begins anew.
    pub(super) fn moved(&mut self) -> bool {
        let taken = self.taken.count();
        let moved = taken != self.before;
        if moved {
            self.before = taken;
            self.since = Some(Instant::now());
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_comes_within_its_leeway_has_the_rest_of_it() {
        let mut expiry = Expiry::default();
        let expired = clock::since_epoch().as_secs() - 4;
        expiry.follow(expired, Duration::from_secs(10));
        let left = expiry.ends_at.expect("an end").duration_since(Instant::now());
        assert!(left <= Duration::from_secs(6), "{left:?}");
    }
}
