//! What the transports tell, counted.

use std::time::Duration;

use super::auth::{RevokedBy, RevokedToken};
use mille_shared::LimitName;

use super::transport::{TransportObserver, Via};
use crate::metrics::{CloseReason, Kind, Metrics};

impl TransportObserver for Metrics {
    fn opened(&self, via: Via) {
        self.connections.opened(kind_of(via));
    }

    fn closed(&self, via: Via, why: CloseReason, code: u16, lifetime: Duration) {
        self.connections.closed(kind_of(via), why, code, lifetime);
    }

    fn sent(&self, _via: Via, messages: u64) {
        self.connections.messages_sent.increment(messages);
    }

    fn told(&self, age: Duration, times: usize) {
        self.plans.fan_out_seconds.record_many(age.as_secs_f64(), times);
    }

    fn fell_behind(&self) {
        self.plans.listeners_behind.increment(1);
    }

    fn subscribed(&self) {
        self.connections.subscribed();
    }

    fn unsubscribed(&self) {
        self.connections.unsubscribed();
    }

    fn stalled(&self) {
        self.connections.stalled.increment(1);
    }

    fn revoked(&self, revoked: RevokedToken) {
        self.rights.revoked(revoked.by == RevokedBy::User, revoked.age());
    }

    fn limited(&self, name: LimitName) {
        self.limits.limited(name);
    }
}

fn kind_of(via: Via) -> Kind {
    match via {
        Via::EventStream => Kind::EventStream,
        // A single request opens nothing that lasts.
        Via::WebSocket | Via::Http => Kind::GraphQl,
    }
}
