//! The operations in flight on one socket.
//!
//! A subscription that others may have asked for too is executed with theirs: it is told alone what it lacks, and joins its
//! group as soon as the socket has taken that. From then on it costs nothing here, unless the group lets go of it.
//!
//! Queries and mutations are polled whenever the socket's task runs, so that a slow reader never holds an edit.
//! Subscriptions are polled one message at a time and only when the socket can take it: their sources are bounded and
//! repair themselves, so nothing piles up here. Nothing is spawned: when the socket ends, so does all of this.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_graphql::parser::types::OperationType;
use async_graphql::{Executor, Request, Response, Value, Variables};
use futures_util::future::BoxFuture;
use futures_util::stream::{AbortHandle, Abortable, BoxStream, FuturesUnordered, SelectAll};
use futures_util::{FutureExt, StreamExt, stream};
use mille_shared::{ErrorCode, limits};
use tokio::time::Instant;
use tracing::Span;

use super::request::Operation;
use super::{Dialect, Session, TransportObserver};
use crate::gateway::errors::{ApiError, complete_errors, is_request_error};
use crate::gateway::fanout::{
    Alone, Delivery, Deposit, Execution, Group, Groups, Outlet, Rendering, Selection, Sharing, Subscriber, Waiting,
    alone,
};
use crate::metrics::LearntAt;
use crate::project::{Ended, Following, Place};
use crate::traces;

/// Queries and mutations of one socket at a time. At this number the socket is not read until one is done.
const SINGLES_MAX: usize = 100;
/// Subscriptions of one socket that were stopped and wait to be dropped. At this number the socket is not read until it has
/// taken what waits for it.
const STOPPED_MAX: usize = 100;

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
    /// Results that are written already. More may follow.
    Told { id: Arc<str>, delivery: Arc<Delivery> },
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
    /// Subscriptions that may join their group when the socket has taken everything.
    caught_up: Vec<(Key, Place)>,
    next_serial: u64,
    observer: Arc<dyn TransportObserver>,
    groups: Groups,
    outlet: Arc<Outlet>,
    dialect: Dialect,
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

/// What a subscription says.
struct Event {
    key: Key,
    what: What,
}

enum What {
    Response {
        response: Box<Response>,
        learnt: Option<Instant>,
    },
    /// From here on its events come from a group.
    Left(Box<Shared>),
    Alone(Alone),
    Over,
}

/// A subscription that others may have asked for too.
struct Shared {
    deposit: Deposit,
    selection: Selection,
    rendering: Rendering,
}

/// An id may be used again after its operation; the serial tells the two apart.
#[derive(Debug, Clone)]
struct Key {
    id: Arc<str>,
    serial: u64,
}

struct Running {
    serial: u64,
    /// `None`: a query or mutation. It runs to its end, also when nobody waits for that any more.
    subscription: Option<Subscription>,
}

struct Subscription {
    session: Arc<Session>,
    phase: Phase,
}

/// Where a subscription's events come from.
enum Phase {
    /// A stream of its own.
    Alone(AbortHandle),
    /// A stream of its own, until it has all that its group has told.
    CatchingUp(AbortHandle, Arc<Group>),
    /// Its group.
    Joined(Arc<Group>),
}

impl Operations {
    pub(super) fn new(
        observer: Arc<dyn TransportObserver>,
        groups: Groups,
        outlet: Arc<Outlet>,
        dialect: Dialect,
    ) -> Self {
        Self {
            running: HashMap::new(),
            singles: FuturesUnordered::new(),
            singles_bytes: 0,
            subscriptions: SelectAll::new(),
            subscriptions_count: 0,
            caught_up: Vec::new(),
            next_serial: 0,
            observer,
            groups,
            outlet,
            dialect,
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

    /// Whether one more operation may run. Subscriptions that were stopped are dropped when the socket has taken what waits for
    /// it; until then they count.
    pub(super) fn has_room(&self) -> bool {
        let stopped = self.subscriptions.len().saturating_sub(self.subscriptions_count);
        self.singles.len() < SINGLES_MAX
            && self.singles_bytes < limits::OPERATION_BYTES_PER_CONNECTION_MAX
            && stopped < STOPPED_MAX
    }

    /// Starts an operation that came in so many bytes. The caller has made sure that the id is free and that there is room.
    pub(super) fn start(
        &mut self,
        id: String,
        operation: Operation,
        bytes: usize,
        session: Arc<Session>,
        executor: &impl Executor,
    ) {
        let key = Key { id: id.into(), serial: self.next_serial };
        self.next_serial += 1;
        let subscription = match operation.kind {
            OperationType::Subscription => {
                let phase = Phase::Alone(self.listen(first_events(key.clone(), operation, executor)));
                self.subscriptions_count += 1;
                self.observer.subscribed();
                Some(Subscription { session, phase })
            }
            OperationType::Query | OperationType::Mutation => {
                let (kind, trace) = (operation.kind_name(), operation.trace);
                let (executor, key) = (executor.clone(), key.clone());
                let result = async move {
                    let result = AssertUnwindSafe(executor.execute(operation.request)).catch_unwind().await;
                    let mut response = result.unwrap_or_else(|_| panicked());
                    complete_errors(&mut response);
                    Single { key, response, bytes, is_query: operation.kind == OperationType::Query }
                };
                self.singles_bytes += bytes;
                self.singles.push(traces::on_socket(kind, session.connection_id(), trace, result).boxed());
                None
            }
        };
        self.running.insert(key.id, Running { serial: key.serial, subscription });
    }

    fn listen(&mut self, events: Events) -> AbortHandle {
        let (abort, registration) = AbortHandle::new_pair();
        self.subscriptions.push(Abortable::new(events, registration));
        abort
    }

    /// Ends an operation because the client asked. Whether there was one.
    pub(super) fn stop(&mut self, id: &str) -> bool {
        let Some(Running { serial, subscription }) = self.running.remove(id) else {
            return false;
        };
        if let Some(Subscription { phase, .. }) = subscription {
            self.subscriptions_count -= 1;
            self.observer.unsubscribed();
            match phase {
                Phase::Alone(stream) | Phase::CatchingUp(stream, _) => stream.abort(),
                Phase::Joined(group) => {
                    self.outlet.leave(serial);
                    group.left();
                }
            }
        }
        true
    }

    /// Ends all of them. Nothing more is told.
    pub(super) fn end_all(&mut self) {
        self.outlet.close();
        for (_, running) in self.running.drain() {
            if let Some(Subscription { phase: Phase::Joined(group), .. }) = running.subscription {
                group.left();
            }
        }
        for _ in 0..std::mem::take(&mut self.subscriptions_count) {
            self.observer.unsubscribed();
        }
        (self.singles, self.singles_bytes) = (FuturesUnordered::new(), 0);
        (self.subscriptions, self.caught_up) = (SelectAll::new(), Vec::new());
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
        while let Some(waiting) = self.outlet.next() {
            if let Some(outcome) = self.on_waiting(waiting) {
                return Poll::Ready(outcome);
            }
        }
        while let Poll::Ready(Some(Event { key, what })) = self.subscriptions.poll_next_unpin(cx) {
            if self.is_current(&key)
                && let Some(outcome) = self.on_event(key, what)
            {
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    }

    /// The same, for who holds nothing back that was told: there a subscription may join its group at once.
    pub(super) fn poll_alone(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.outlet.register(cx.waker());
        let told = self.poll_subscription(cx);
        if told.is_pending() {
            self.join_caught_up();
        }
        told
    }

    /// What a group has for a subscription.
    fn on_waiting(&mut self, waiting: Waiting) -> Option<Outcome> {
        let (Waiting::Delivery(of, _) | Waiting::Behind(of, _) | Waiting::Ended(of, _)) = waiting;
        let (id, running) = self.running.iter_mut().find(|(_, running)| running.serial == of)?;
        let id = Arc::clone(id);
        match waiting {
            Waiting::Delivery(_, delivery) => self.tell(id, delivery),
            Waiting::Ended(_, ended) => Some(self.end(id, ended)),
            Waiting::Behind(_, place) => {
                let subscription = running.subscription.as_ref()?;
                let Phase::Joined(group) = &subscription.phase else { return None };
                let following = group.resumed(&subscription.session.identity().user_id, place);
                let group = Arc::clone(group);
                self.catch_up(Key { id, serial: of }, group, following);
                None
            }
        }
    }

    fn on_event(&mut self, key: Key, what: What) -> Option<Outcome> {
        match what {
            What::Response { response, learnt } => {
                let mut response = *response;
                if response.is_err() {
                    let session = self.subscription(&key.id).map(|subscription| &subscription.session);
                    let log = session.map(|session| traces::log_span("subscription", session.connection_id()));
                    let _entered = log.map(Span::entered);
                    complete_errors(&mut response);
                }
                // Without data there is no event: the error is the subscription's end.
                if response.data == Value::Null && response.is_err() {
                    self.stop(&key.id);
                    return Some(Outcome::Failed { id: key.id, response });
                }
                Some(Outcome::Next { id: key.id, response, learnt })
            }
            What::Left(shared) => {
                let Shared { deposit, selection, rendering } = *shared;
                let group = self.groups.of(&selection, &deposit, rendering);
                self.catch_up(key, group, deposit.following);
                None
            }
            What::Alone(Alone::Told(delivery)) => self.tell(key.id, delivery),
            What::Alone(Alone::CaughtUp(place)) => {
                self.caught_up.push((key, place));
                None
            }
            What::Alone(Alone::Ended(ended)) => Some(self.end(key.id, ended)),
            What::Over => {
                self.stop(&key.id);
                Some(Outcome::Complete { id: key.id })
            }
        }
    }

    /// Has a subscription told what it lacks, until it may join its group.
    fn catch_up(&mut self, key: Key, group: Arc<Group>, following: Following) {
        let of = key.clone();
        let events = alone(Arc::clone(&group), following);
        let stream = self.listen(events.map(move |alone| Event { key: of.clone(), what: What::Alone(alone) }).boxed());
        if let Some(subscription) = self.subscription(&key.id) {
            subscription.phase = Phase::CatchingUp(stream, group);
        }
    }

    /// Lets subscriptions join their groups. To be called when the socket has taken everything: who is told by a group may be
    /// told past what waits here.
    pub(super) fn join_caught_up(&mut self) {
        for (key, place) in std::mem::take(&mut self.caught_up) {
            if !self.is_current(&key) {
                continue;
            }
            let Some(subscription) = self.subscription(&key.id) else { continue };
            let Phase::CatchingUp(_, group) = &subscription.phase else { continue };
            let (group, session) = (Arc::clone(group), Arc::clone(&subscription.session));
            subscription.phase = Phase::Joined(Arc::clone(&group));
            group.join(Subscriber {
                outlet: Arc::clone(&self.outlet),
                serial: key.serial,
                session,
                opening: self.dialect.opening(&key.id).as_bytes().into(),
                place,
                is_gone: false,
            });
        }
    }

    /// What a delivery has for a subscription. `None`: of some changes its field has nothing to say.
    fn tell(&mut self, id: Arc<str>, delivery: Arc<Delivery>) -> Option<Outcome> {
        if let Some(failure) = &delivery.rendered.failure {
            let response = Response::from_errors(failure.errors.clone());
            self.stop(&id);
            return Some(Outcome::Failed { id, response });
        }
        (!delivery.rendered.payloads.is_empty()).then_some(Outcome::Told { id, delivery })
    }

    fn end(&mut self, id: Arc<str>, ended: Ended) -> Outcome {
        self.stop(&id);
        Outcome::Failed { id, response: ApiError::from(ended).to_response() }
    }

    fn subscription(&mut self, id: &str) -> Option<&mut Subscription> {
        self.running.get_mut(id)?.subscription.as_mut()
    }

    fn is_current(&self, key: &Key) -> bool {
        self.running.get(&key.id).is_some_and(|running| running.serial == key.serial)
    }
}

impl Drop for Operations {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// The events of a subscription, until it is known whether a group has them.
fn first_events(key: Key, operation: Operation, executor: &impl Executor) -> Events {
    let learnt = LearntAt::default();
    let mut request = operation.request.data(learnt.clone());
    let twin = Selection::of(&mut request).map(|selection| {
        let (sharing, variables) = (Sharing::of(&selection), request.variables.clone());
        (sharing, selection, variables, executor.clone())
    });
    if let Some((sharing, ..)) = &twin {
        request = request.data(sharing.clone());
    }
    let ended = key.clone();
    let events = AssertUnwindSafe(executor.execute_stream(request, None)).catch_unwind();
    let responses = events.map(move |event| {
        let response = Box::new(event.unwrap_or_else(|_| panicked()));
        Event { key: key.clone(), what: What::Response { response, learnt: learnt.take() } }
    });
    let end = stream::once(async move {
        let left = twin.and_then(|(sharing, selection, variables, executor)| {
            let mut deposit = sharing.take()?;
            let rendering = match deposit.writer.take() {
                Some(writer) => Rendering::Written(writer),
                None => Rendering::Executed(execution(&selection, variables, executor)),
            };
            Some(Shared { deposit, selection, rendering })
        });
        let what = left.map_or(What::Over, |shared| What::Left(Box::new(shared)));
        Event { key: ended, what }
    });
    responses.chain(end).boxed()
}

/// The same selection, over the events of a group.
fn execution(selection: &Selection, variables: Variables, executor: impl Executor) -> Execution {
    let mut request = Request::new(selection.query()).variables(variables);
    request.operation_name = selection.operation_name().map(str::to_owned);
    Box::new(move |feed| executor.execute_stream(request.data(feed), None))
}

/// The answer of an operation that panicked: the others on the socket go on. The panic hook has told the cause.
fn panicked() -> Response {
    ApiError::new(ErrorCode::InternalError, "internal error").to_response()
}

impl Single {
    fn outcome(self) -> Outcome {
        let Self { key: Key { id, .. }, response, is_query, .. } = self;
        if is_request_error(&response) {
            Outcome::Failed { id, response }
        } else {
            Outcome::Last { id, response, is_query }
        }
    }
}
