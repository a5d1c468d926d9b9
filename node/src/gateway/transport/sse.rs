//! GraphQL over server-sent events, distinct connections mode: one request, one stream.
//!
//! An event's `id:` is its revision, so that a client that reconnects says where it was (`Last-Event-ID`), which beats the
//! `after` of the body it repeats. Of several events of one change only the last has it: whoever is cut before has not all
//! of the change, and is told it again. A subscription that selects no `revision` still has ids if its resolver sets
//! [`EventRevision`]. What is wrong with the operation is told in the stream; who may not ask gets an HTTP error.
//! Who is sent away, since the node is taken out or the stream has grown old, gets no `complete`: the client comes back.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::OperationType;
use async_graphql::{Executor, Response as Answer, Value};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt};
use mille_shared::{ErrorCode, Revision};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::http::{received, recognised};
use super::operations::{Operations, Outcome};
use super::request::{Operation, OperationRequest};
use super::session::{EventRevision, ResumeAfter, Session, Via};
use super::{Dialect, Transport, TransportObserver};
use crate::clock;
use crate::drain::{Farewell, Phase};
use crate::gateway::auth::{BearerToken, Identity, RevocationWatch, TokenRefused};
use crate::gateway::errors::{ApiError, Readable, complete_errors};
use crate::gateway::fanout::Outlet;
use crate::gateway::strangers::Introduction;
use crate::metrics::CloseReason;
use crate::quota::Place;

/// How often a quiet stream says that it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a stream without a known end may last; longer than any token.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// `POST /graphql/stream`.
pub async fn stream<E: Executor>(State(transport): State<Transport<E>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let token = BearerToken::from_authorization(&headers);
    let introduction = Introduction::of(&request);
    let body = async {
        let caller = admitted(&transport, token, &headers, introduction).await?;
        let user = caller.session.identity().user_id.clone();
        Ok::<_, ApiError>((caller, received(&transport, request, &user).await?))
    };
    match body.await {
        Ok((caller, Ok(request))) => {
            streamed(&transport, caller, request.prepare(&transport.documents), resume_after(&headers), true)
        }
        Ok((_, Err(response))) => response,
        Err(refusal) => refusal.into_response(),
    }
}

/// The stream of a subscription that came where one answer is given, from a client that takes either. `caller` is whoever was
/// let in to be answered.
pub(super) async fn stream_instead<E: Executor>(
    transport: &Transport<E>,
    caller: &Session,
    operation: Operation,
    after: ResumeAfter,
) -> Result<Response, ApiError> {
    let (identity, client_id) = (Identity::clone(&caller.identity()), caller.client_id().clone());
    let place = transport.quotas.connection(&identity.user_id).await?;
    let session = Arc::new(Session::new(identity, client_id, Via::EventStream, transport.authenticator.clone()));
    Ok(streamed(transport, Caller { session, place }, Ok(operation), after, true))
}

/// Who asks for a stream, and their place while it lasts.
struct Caller {
    session: Arc<Session>,
    place: Place,
}

/// Settles who asks, and whether they may: before the body is read.
async fn admitted<E: Executor>(
    transport: &Transport<E>,
    token: Option<BearerToken>,
    headers: &HeaderMap,
    introduction: Introduction,
) -> Result<Caller, ApiError> {
    let session = recognised(transport, token, headers, introduction, Via::EventStream).await?;
    let user = session.identity().user_id.clone();
    transport.quotas.begin_operation(&user).await?;
    let place = transport.quotas.connection(&user).await?;
    Ok(Caller { session, place })
}

/// The parameters of a GET: what a browser's `EventSource` can send.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
}

/// `GET /graphql/stream`.
pub async fn stream_by_query<E: Executor>(State(transport): State<Transport<E>>, request: Request) -> Response {
    let token = BearerToken::from_handshake(request.headers(), request.uri().query());
    let introduction = Introduction::of(&request);
    let caller = match admitted(&transport, token, request.headers(), introduction).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let malformed = |message| ApiError::new(ErrorCode::ValidationFailed, message).into_response();
    let Ok(Query(parameters)) = Query::<Parameters>::try_from_uri(request.uri()) else {
        return malformed("the query parameters are malformed");
    };
    let variables = match parameters.variables.as_deref().filter(|text| !text.is_empty()).map(serde_json::from_str) {
        Some(Ok(variables)) => variables,
        None => None,
        Some(Err(_)) => return malformed("`variables` must be a JSON object"),
    };
    let operation = OperationRequest {
        query: parameters.query,
        operation_name: parameters.operation_name,
        variables,
        extensions: None,
    };
    streamed(&transport, caller, operation.prepare(&transport.documents), resume_after(request.headers()), false)
}

fn streamed<E: Executor>(
    transport: &Transport<E>,
    Caller { session, place }: Caller,
    operation: Result<Operation, ApiError>,
    after: ResumeAfter,
    may_change: bool,
) -> Response {
    // Watched first, asked then, so that no revocation falls in between.
    let revocations = transport.authenticator.revoked().watch();
    if let Err(refused) = transport.authenticator.still_counts(&session.identity()) {
        return ApiError::from(refused).into_response();
    }
    let revision = EventRevision::default();
    // A query or mutation is answered, and over with that.
    let mut farewell = std::future::pending().boxed();
    let source = match operation {
        Ok(operation) if operation.kind == OperationType::Mutation && !may_change => {
            let refusal = ApiError::new(ErrorCode::ValidationFailed, "a mutation must be sent with POST");
            Source::One(one(refusal.to_response()))
        }
        Ok(operation) if operation.kind == OperationType::Subscription && transport.drain.phase() >= Phase::Closing => {
            let refusal = ApiError::new(ErrorCode::Draining, "the node is being taken out; come to another");
            return refusal.retry_after(Duration::from_secs(1)).into_response();
        }
        Ok(mut operation) => {
            operation.request = operation.request.data(Arc::clone(&session)).data(after).data(revision.clone());
            if operation.kind == OperationType::Subscription {
                farewell = transport.drain.farewell().boxed();
                Source::Many(subscribed(transport, operation, Arc::clone(&session)))
            } else {
                Source::One(transport.executor.execute_stream(operation.request, None).take(1).boxed())
            }
        }
        Err(refusal) => Source::One(one(refusal.to_response())),
    };
    let ends_at = Duration::from_secs(session.identity().expires_at).saturating_add(transport.authenticator.leeway());
    let lifetime = ends_at.saturating_sub(clock::since_epoch()).min(FOREVER);
    let events = Events {
        revocations,
        session: Arc::clone(&session),
        source,
        written: VecDeque::new(),
        revision,
        farewell,
        expires_at: Instant::now() + lifetime,
        next: Next::Answer,
        count: Count::begin(Arc::clone(&transport.observer)),
        _ended: session.ended().clone().drop_guard(),
        _place: place,
        _open: transport.tasks.token(),
    };
    let events = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL)).into_response();
    // A proxy that collects the answer before it passes it on would keep events back.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn one(answer: Answer) -> BoxStream<'static, Answer> {
    stream::once(std::future::ready(answer)).boxed()
}

/// A subscription, which tells when it is asked.
fn subscribed<E: Executor>(transport: &Transport<E>, operation: Operation, session: Arc<Session>) -> Operations {
    let outlet = Outlet::new(None, transport.shedding.backlog());
    // Those on sockets are counted; of event streams there is one for each connection.
    let mut operations = Operations::new(Arc::new(()), transport.groups.clone(), outlet, Dialect::TransportWs);
    operations.start(String::new(), operation, 0, session, &transport.executor);
    operations
}

pub(super) fn resume_after(headers: &HeaderMap) -> ResumeAfter {
    let shown = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    ResumeAfter(shown.filter(|text| !text.is_empty()).map(str::to_owned))
}

/// The events of one stream.
struct Events {
    revocations: RevocationWatch,
    session: Arc<Session>,
    source: Source,
    /// Of one change, what is written already and not told yet, and the change's revision. Bounded by its parts.
    written: VecDeque<(Bytes, Option<Revision>)>,
    revision: EventRevision,
    farewell: BoxFuture<'static, Farewell>,
    expires_at: Instant,
    next: Next,
    count: Count,
    _ended: DropGuard,
    _place: Place,
    /// While there is one, the node waits for its end.
    _open: TaskTrackerToken,
}

/// Where answers come from.
enum Source {
    One(BoxStream<'static, Answer>),
    Many(Operations),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Answer,
    Complete,
    Nothing,
}

impl Events {
    async fn next(&mut self) -> Option<Event> {
        let event = match self.next {
            Next::Answer => self.answer().await?,
            Next::Complete => self.complete(),
            Next::Nothing => return None,
        };
        self.count.observer.sent(Via::EventStream, 1);
        Some(event)
    }

    async fn answer(&mut self) -> Option<Event> {
        let identity = self.session.identity();
        let outcome = tokio::select! {
            biased;
            revoked = self.revocations.revoked(&identity) => {
                self.count.observer.revoked(revoked);
                self.count.why = CloseReason::TokenRevoked;
                return self.end(TokenRefused::Revoked);
            }
            farewell = &mut self.farewell => {
                self.count.why = farewell.reason.into();
                return None;
            }
            () = tokio::time::sleep_until(self.expires_at) => {
                self.count.why = CloseReason::TokenExpired;
                return self.end(TokenRefused::Expired);
            }
            () = std::future::ready(()), if !self.written.is_empty() => return self.told(),
            outcome = self.source.next() => outcome,
        };
        match outcome {
            Outcome::Next { response, learnt, .. } => {
                learnt.into_iter().for_each(|learnt| self.count.observer.told(learnt.elapsed(), 1));
                let id = self.revision.take().unwrap_or_else(|| revision_in(&response.data));
                Some(said(&serde_json::to_string(&response).ok()?, id))
            }
            Outcome::Told { delivery, .. } => {
                delivery.learnt.into_iter().for_each(|learnt| self.count.observer.told(learnt.elapsed(), 1));
                self.written.extend(delivery.rendered.payloads.iter().map(|payload| (payload.clone(), None)));
                if let Some((_, reached)) = self.written.back_mut() {
                    *reached = Some(delivery.rendered.head.revision);
                }
                self.told()
            }
            Outcome::Last { response, .. } | Outcome::Failed { response, .. } => self.last(&response),
            Outcome::Complete { .. } => Some(self.complete()),
        }
    }

    /// What is written already.
    fn told(&mut self) -> Option<Event> {
        let (payload, reached) = self.written.pop_front()?;
        // JSON is text.
        Some(said(std::str::from_utf8(&payload).ok()?, reached))
    }

    /// The last answer, and nothing after it.
    fn last(&mut self, answer: &Answer) -> Option<Event> {
        self.next = Next::Complete;
        self.source = Source::One(stream::empty().boxed());
        Some(said(&serde_json::to_string(&Readable(answer)).ok()?, None))
    }

    fn end(&mut self, refused: TokenRefused) -> Option<Event> {
        self.last(&ApiError::from(refused).to_response())
    }

    fn complete(&mut self) -> Event {
        self.next = Next::Nothing;
        if self.count.why == CloseReason::Client {
            self.count.why = CloseReason::Complete;
        }
        // An `EventSource` drops an event without data.
        Event::default().event("complete").data("{}")
    }
}

impl Source {
    /// What comes next. Can be cancelled without loss.
    async fn next(&mut self) -> Outcome {
        let id = || Arc::from("");
        match self {
            Self::One(answers) => match answers.next().await {
                Some(mut response) => {
                    complete_errors(&mut response);
                    if response.data == Value::Null && response.is_err() {
                        Outcome::Failed { id: id(), response }
                    } else {
                        Outcome::Next { id: id(), response, learnt: None }
                    }
                }
                None => Outcome::Complete { id: id() },
            },
            Self::Many(operations) => std::future::poll_fn(|cx| operations.poll_alone(cx)).await,
        }
    }
}

/// An event that tells an answer, which leads up to a revision.
fn said(answer: &str, reached: Option<Revision>) -> Event {
    let event = Event::default().event("next").data(answer);
    match reached {
        Some(revision) => event.id(revision.to_string()),
        None => event,
    }
}

/// The member `revision` of the answer's only field, if it is one.
fn revision_in(data: &Value) -> Option<Revision> {
    let Value::Object(fields) = data else { return None };
    let Some(Value::Object(event)) = fields.values().next() else { return None };
    match event.get("revision") {
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    }
}

/// Tells the observer when a stream begins and ends, however it ends.
struct Count {
    observer: Arc<dyn TransportObserver>,
    since: Instant,
    /// Why it ends, as far as we end it.
    why: CloseReason,
}

impl Count {
    fn begin(observer: Arc<dyn TransportObserver>) -> Self {
        observer.opened(Via::EventStream);
        Self { observer, since: Instant::now(), why: CloseReason::Client }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.observer.closed(Via::EventStream, self.why, 1000, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::value;

    use super::*;

    #[test]
    fn the_revision_is_found_in_the_event() {
        let revision = |data: &Value| revision_in(data).map(|revision| revision.to_string());
        assert_eq!(revision(&value!({"renamed": {"revision": "5-6"}})).as_deref(), Some("5-6"));
        for data in [value!(null), value!({"a": 1}), value!({"a": {"revision": "x\ny"}}), value!({"a": {"b": "5-6"}})] {
            assert_eq!(revision(&data), None, "{data}");
        }
    }
}
