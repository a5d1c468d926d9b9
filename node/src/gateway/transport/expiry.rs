//! The slow clock of a socket: the token's life.
//!
//! It only knows times. What happens then is decided in [`super::conversation`].

use std::time::Duration;

use mille_shared::limits;
use tokio::time::Instant;

use crate::clock;

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
