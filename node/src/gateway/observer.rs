//! What the transports tell, counted.

use std::time::Duration;

use super::auth::{RevokedBy, RevokedToken};
use mille_shared::LimitName;

use super::transport::{TransportObserver, Via};
use crate::metrics::Metrics;

impl TransportObserver for Metrics {
    fn opened(&self, _via: Via) {
        self.connection_opened();
    }

    fn closed(&self, _via: Via, code: u16, lifetime: Duration) {
        self.connection_closed(code, lifetime);
    }

    fn sent(&self, _via: Via, messages: u64) {
        self.ws_messages_sent.increment(messages);
    }

    fn subscribed(&self) {
        Metrics::subscribed(self);
    }

    fn unsubscribed(&self) {
        Metrics::unsubscribed(self);
    }

    fn stalled(&self) {
        self.ws_buffer_full.increment(1);
    }

    fn revoked(&self, revoked: RevokedToken) {
        match revoked.by {
            RevokedBy::Token => self.closed_by_token_revocation.increment(1),
            RevokedBy::User => self.closed_by_user_revocation.increment(1),
        }
        self.revocation_seconds.record(revoked.age().as_secs_f64());
    }

    fn limited(&self, name: LimitName) {
        self.limits.limited(name);
    }
}
