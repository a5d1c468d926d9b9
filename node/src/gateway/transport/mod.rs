//! The transports of GraphQL: one request over HTTP, many over a WebSocket, a stream over server-sent events.
//!
//! A transport recognises the caller, bounds what they may ask at once, runs their operations on an
//! [`async_graphql::Executor`] and carries the answers. It knows neither the schema nor a plan; who asks what others ask is
//! told by [`super::fanout`]. What a socket says is decided in [`conversation`], which needs no network and is tested without one.

mod bodies;
mod conversation;
mod ending;
mod expiry;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod graphql_ws;
mod http;
mod legacy;
mod operations;
mod request;
mod root_field;
mod session;
mod socket;
mod sse;

use std::sync::Arc;
use std::time::Duration;

pub use bodies::BodyRoom;
pub(super) use ending::Unreadable;
pub use frames::Dialect;
pub use http::{answer, graphiql, takes_event_stream};
use mille_shared::{LimitName, limits};
pub use request::Documents;
pub(super) use request::Operation;
#[cfg(test)]
pub(super) use request::prepared;
pub use session::{EventRevision, ResumeAfter, Session, Via};
pub use socket::upgrade;
pub(super) use socket::{READ_BUFFER_BYTES, WRITE_BUFFER_BYTES, close};
pub use sse::{stream, stream_by_query};
use tokio_util::task::TaskTracker;

use super::auth::{Authenticator, RevokedToken};
use super::fanout::Groups;
use super::shedding::Shedding;
use crate::drain::Drain;
use crate::metrics::CloseReason;
use crate::quota::UserQuotas;

/// What every transport needs. Cheap to clone.
#[derive(Clone)]
pub struct Transport<E> {
    /// Runs operations: the schema.
    pub executor: E,
    /// Recognises callers.
    pub authenticator: Authenticator,
    /// What is refused under pressure.
    pub shedding: Shedding,
    /// The bounds of one caller.
    pub limits: TransportLimits,
    /// Says when a socket is to go.
    pub drain: Drain,
    /// Where sockets are counted, so that the node can wait for their end.
    pub tasks: TaskTracker,
    /// Who counts what happens.
    pub observer: Arc<dyn TransportObserver>,
    /// What users may do over the cluster.
    pub quotas: UserQuotas,
    /// Room for the bodies of requests.
    pub bodies: BodyRoom,
    /// Who is told the same together.
    pub groups: Groups,
    /// What was read before.
    pub documents: Documents,
}

/// The bounds of one caller.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportLimits {
    /// Bytes of a request body or frame. More: 413, or close 1009.
    pub request_bytes_max: usize,
    /// Subscriptions of one socket. More: `LIMIT_EXCEEDED` on the new one.
    pub subscriptions_max: usize,
    /// Operations a socket may begin per second in the long run. More: `RATE_LIMITED`. At least 1.
    pub operations_per_second: u32,
    /// Operations a socket may begin at once. At least 1.
    pub operations_burst: u32,
    /// How long a socket may wait with `connection_init`. Then close 4408.
    pub init_timeout: Duration,
    /// How often a socket is pinged.
    pub ping_interval: Duration,
    /// Silence after which a socket is given up: close 4408.
    pub idle_timeout: Duration,
    /// How long a socket may take nothing while something waits for it. Then close 1013.
    pub stall_timeout: Duration,
    /// How long those who are told the same wait at most for more, after they were told something.
    pub fan_out_moment_max: Duration,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            subscriptions_max: limits::SUBSCRIPTIONS_PER_CONNECTION_MAX,
            operations_per_second: limits::CONNECTION_OPERATIONS_PER_SECOND,
            operations_burst: limits::CONNECTION_OPERATIONS_BURST,
            init_timeout: limits::CONNECTION_INIT_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            idle_timeout: limits::IDLE_TIMEOUT,
            stall_timeout: limits::STALL_TIMEOUT,
            fan_out_moment_max: limits::FAN_OUT_MOMENT,
        }
    }
}

/// Where the transports tell what happens, for metrics. Every method is called on a hot path: count and return.
pub trait TransportObserver: Send + Sync + 'static {
    /// A socket or event stream begins.
    fn opened(&self, via: Via) {
        let _ = via;
    }

    /// It ends. `code` is what a WebSocket was closed with, by us or by the peer; 1006 if it just broke off, 1000 for
    /// an event stream.
    fn closed(&self, via: Via, why: CloseReason, code: u16, lifetime: Duration) {
        let _ = (via, why, code, lifetime);
    }

    /// Messages were handed to a socket or event stream.
    fn sent(&self, via: Via, messages: u64) {
        let _ = (via, messages);
    }

    /// So many sockets or event streams took changes; the oldest of them was learnt so long ago.
    fn told(&self, age: Duration, times: usize) {
        let _ = (age, times);
    }

    /// A subscription could not be told as fast as things happen, and catches up.
    fn fell_behind(&self) {}

    /// A subscription begins.
    fn subscribed(&self) {}

    /// A subscription is over, for whatever reason.
    fn unsubscribed(&self) {}

    /// A socket did not take what was there for it.
    fn stalled(&self) {}

    /// A socket or event stream ends because its token was revoked.
    fn revoked(&self, revoked: RevokedToken) {
        let _ = revoked;
    }

    /// Somebody was refused by a limit of the transport.
    fn limited(&self, name: LimitName) {
        let _ = name;
    }
}

/// Counts nothing.
impl TransportObserver for () {}
