//! The operations in flight on one socket.
//!
//! Queries and mutations are polled whenever the socket's task runs, so that a slow reader never holds an edit.
//! Subscriptions are polled one message at a time and only when the socket can take it: their sources are bounded and
//! repair themselves, so nothing piles up here. Nothing is spawned: when the socket ends, so does all of this.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_graphql::parser::types::OperationType;
use async_graphql::{Executor, Response, Value};
use futures_util::future::BoxFuture;
use futures_util::stream::{AbortHandle, Abortable, BoxStream, FuturesUnordered, SelectAll};
use futures_util::{FutureExt, StreamExt, stream};
use mille_shared::{ErrorCode, limits};
use tokio::time::Instant;

use super::TransportObserver;
use super::request::Operation;
use crate::gateway::errors::{ApiError, complete_errors, is_request_error};
use crate::metrics::LearntAt;
use crate::traces;

/// Queries and mutations of one socket at a time. At this number the socket is not read until one is done.
const SINGLES_MAX: usize = 100;

/// What an operation has to say.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A result. More may follow.
    Next {
        id: Arc<str>,
        response: Response,
        /// When what it tells was learnt, if it is new.
        learnt: Option<Instant>,
    },
    /// The result of a query or mutation, and its end. A query's may be asked for again.
    Last { id: Arc<str>, response: Response, is_query: bool },
    /// The operation failed as a whole and is over.
    Failed { id: Arc<str>, response: Response },
    /// Nothing more follows.
    Complete { id: Arc<str> },
}

/// The operations of one socket.
pub(super) struct Operations {
    running: HashMap<Arc<str>, Running>,
    singles: FuturesUnordered<BoxFuture<'static, Single>>,
    /// Bytes of the requests behind `singles`.
    singles_bytes: usize,
    subscriptions: SelectAll<Abortable<Events>>,
    subscriptions_count: usize,
    next_serial: u64,
    observer: Arc<dyn TransportObserver>,
}

/// A query or mutation that is done.
struct Single {
    key: Key,
    response: Response,
    /// Of the request.
    bytes: usize,
    is_query: bool,
}

/// The events of one subscription.
type Events = BoxStream<'static, Event>;

/// What a subscription says; without a response it ends.
struct Event {
    key: Key,
    response: Option<Response>,
    learnt: Option<Instant>,
}

/// An id may be used again after its operation; the serial tells the two apart.
#[derive(Debug, Clone)]
struct Key {
    id: Arc<str>,
    serial: u64,
}

struct Running {
    serial: u64,
    /// Of a subscription. A mutation that nobody waits for any more still runs to its end.
    abort: Option<AbortHandle>,
}

impl Operations {
    pub(super) fn new(observer: Arc<dyn TransportObserver>) -> Self {
        Self {
            running: HashMap::new(),
            singles: FuturesUnordered::new(),
            singles_bytes: 0,
            subscriptions: SelectAll::new(),
            subscriptions_count: 0,
            next_serial: 0,
            observer,
        }
    }

    pub(super) fn is_running(&self, id: &str) -> bool {
        self.running.contains_key(id)
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions_count
    }

    pub(super) fn singles(&self) -> usize {
        self.singles.len()
    }

    /// Whether one more query or mutation may run.
    pub(super) fn has_room(&self) -> bool {
        self.singles.len() < SINGLES_MAX && self.singles_bytes < limits::OPERATION_BYTES_PER_CONNECTION_MAX
    }

    /// Starts an operation that came in so many bytes. The caller has made sure that the id is free and that there is room.
    pub(super) fn start(&mut self, id: String, mut operation: Operation, bytes: usize, executor: &impl Executor) {
        let key = Key { id: id.into(), serial: self.next_serial };
        self.next_serial += 1;
        let abort = match operation.kind {
            OperationType::Subscription => {
                let (responses, ended) = (key.clone(), key.clone());
                let learnt = LearntAt::default();
                operation.request = operation.request.data(learnt.clone());
                let events = AssertUnwindSafe(executor.execute_stream(operation.request, None)).catch_unwind();
                let stream = events
                    .map(move |event| {
                        let response = Some(event.unwrap_or_else(|_| panicked()));
                        Event { key: responses.clone(), response, learnt: learnt.take() }
                    })
                    .chain(stream::once(async move { Event { key: ended, response: None, learnt: None } }))
                    .boxed();
                let (abort, registration) = AbortHandle::new_pair();
                self.subscriptions.push(Abortable::new(stream, registration));
                self.subscriptions_count += 1;
                self.observer.subscribed();
                Some(abort)
            }
            OperationType::Query | OperationType::Mutation => {
                let (kind, trace) = (operation.kind_name(), operation.trace);
                let (executor, key) = (executor.clone(), key.clone());
                let result = async move {
                    let result = AssertUnwindSafe(executor.execute(operation.request)).catch_unwind().await;
                    let response = result.unwrap_or_else(|_| panicked());
                    Single { key, response, bytes, is_query: operation.kind == OperationType::Query }
                };
                self.singles_bytes += bytes;
                self.singles.push(traces::on_socket(kind, trace, result).boxed());
                None
            }
        };
        self.running.insert(key.id, Running { serial: key.serial, abort });
    }

    /// Ends an operation because the client asked. Whether there was one.
    pub(super) fn stop(&mut self, id: &str) -> bool {
        let Some(running) = self.running.remove(id) else {
            return false;
        };
        if let Some(abort) = running.abort {
            abort.abort();
            self.subscriptions_count -= 1;
            self.observer.unsubscribed();
        }
        true
    }

    /// The next result of a query or mutation. Never waits for the socket.
    pub(super) fn poll_single(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        while let Poll::Ready(Some(single)) = self.singles.poll_next_unpin(cx) {
            self.singles_bytes -= single.bytes;
            if self.is_current(&single.key) {
                self.running.remove(&single.key.id);
                return Poll::Ready(single.outcome());
            }
        }
        Poll::Pending
    }

    /// The next event of a subscription. To be called only when the socket can take it.
    pub(super) fn poll_subscription(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        while let Poll::Ready(Some(Event { key, response, learnt })) = self.subscriptions.poll_next_unpin(cx) {
            if !self.is_current(&key) {
                continue;
            }
            let Some(mut response) = response else {
                self.stop(&key.id);
                return Poll::Ready(Outcome::Complete { id: key.id });
            };
            complete_errors(&mut response);
            // Without data there is no event: the error is the subscription's end.
            return Poll::Ready(if response.data == Value::Null && response.is_err() {
                self.stop(&key.id);
                Outcome::Failed { id: key.id, response }
            } else {
                Outcome::Next { id: key.id, response, learnt }
            });
        }
        Poll::Pending
    }

    fn is_current(&self, key: &Key) -> bool {
        self.running.get(&key.id).is_some_and(|running| running.serial == key.serial)
    }
}

impl Drop for Operations {
    fn drop(&mut self) {
        for _ in 0..self.subscriptions_count {
            self.observer.unsubscribed();
        }
    }
}

/// The answer of an operation that panicked: the others on the socket go on. The panic hook has told the cause.
fn panicked() -> Response {
    ApiError::new(ErrorCode::InternalError, "internal error").to_response()
}

impl Single {
    fn outcome(self) -> Outcome {
        let Self { key: Key { id, .. }, mut response, is_query, .. } = self;
        complete_errors(&mut response);
        if is_request_error(&response) {
            Outcome::Failed { id, response }
        } else {
            Outcome::Last { id, response, is_query }
        }
    }
}
