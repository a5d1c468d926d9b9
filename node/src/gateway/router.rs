//! All doors of a node, and what holds for each of them.
//!
//! Which origins a browser may come from (`origins`), what it must know of an answer, what a panic looks like from outside, and what is written down about a
//! request: never its query string, since tokens travel there. What happens behind a door is the door's affair.

use std::any::Any;
use std::time::Duration;

use async_graphql::Executor;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use mille_shared::{ErrorCode, TraceParent};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};
use tower_http::trace::TraceLayer;
use tracing::{Instrument as _, Span};

use super::errors::ApiError;
use super::listener::{BytesTaken, Wire};
use super::origins::{self, AllowedOrigins};
use super::probes::{self, Readiness};
use super::shedding;
use super::strangers::Introduction;
use super::transport::{self, Transport};
use crate::clock::whole_ms;
use crate::drain::{Drain, Phase};
use crate::traces;

/// What the main listener's doors are made of.
pub struct Doors<E> {
    /// Everything GraphQL needs.
    pub transport: Transport<E>,
    /// Answers the probes.
    pub readiness: Readiness,
    /// The presence socket.
    pub presence: MethodRouter<()>,
    /// Where browsers may come from.
    pub allowed_origins: AllowedOrigins,
    /// Whether GraphiQL is shown.
    pub dev: bool,
}

/// The main listener: all that clients use, and the probes.
pub fn doors<E: Executor>(doors: Doors<E>) -> Router {
    let dev = doors.dev;
    let shedding = (doors.transport.shedding.clone(), doors.transport.authenticator.clone());
    let graphql = Router::new()
        .route(
            "/graphql",
            post(transport::answer::<E>).get(
                move |state: State<Transport<E>>, upgrade: UpgradeAttempt, request: Request| {
                    get_graphql(state, upgrade, request, dev)
                },
            ),
        )
        .route("/graphql/ws", get(transport::upgrade::<E>))
        .route("/graphql/stream", post(transport::stream::<E>).get(transport::stream_by_query::<E>))
        .with_state(doors.transport);
    let router = Router::new()
        .merge(graphql)
        .route("/ws/collaboration", doors.presence)
        .layer(middleware::from_fn_with_state(shedding, shedding::refuse_requests))
        .layer(middleware::from_fn_with_state(doors.allowed_origins.clone(), origins::check))
        .layer(cors(doors.allowed_origins))
        .merge(probes::router(doors.readiness));
    with_common_layers(router)
}

/// What the admin listener's drain is made of.
#[derive(Clone)]
pub struct DrainDoor {
    /// Where the node stands.
    pub drain: Drain,
    /// Cancelled when somebody asks for it.
    pub asked: CancellationToken,
    /// Sockets and event streams.
    pub sockets: TaskTracker,
}

impl DrainDoor {
    /// Asks for the drain; once more changes nothing.
    async fn begin(State(door): State<Self>) -> impl IntoResponse {
        // At once, so that the answer and the next probe agree.
        door.drain.enter(Phase::Unready);
        door.asked.cancel();
        (StatusCode::ACCEPTED, door.show())
    }

    async fn look(State(door): State<Self>) -> impl IntoResponse {
        door.show()
    }

    fn show(&self) -> Json<Value> {
        Json(json!({
            "phase": self.drain.phase().as_str(),
            "connections": self.sockets.len(),
            "elapsedMs": whole_ms(self.drain.elapsed()),
            "deadlineMs": whole_ms(self.drain.settings().deadline),
        }))
    }
}

/// The admin listener: probes, metrics, facts and the drain. For operators, not for the internet.
pub fn admin(
    readiness: Readiness,
    facts: MethodRouter<()>,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    drain: DrainDoor,
) -> Router {
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let router = Router::new()
        .route("/metrics", get(move || async move { (text, metrics()) }))
        .route("/admin/facts", facts)
        .route("/admin/drain", get(DrainDoor::look).post(DrainDoor::begin).with_state(drain))
        .merge(probes::router(readiness))
        .layer(middleware::from_fn(origins::refuse_pages));
    with_common_layers(router)
}

type UpgradeAttempt = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// `GET /graphql` is three doors: a socket, a stream, or a page.
async fn get_graphql<E: Executor>(
    state: State<Transport<E>>,
    attempt: UpgradeAttempt,
    request: Request,
    dev: bool,
) -> Response {
    if is_upgrade(request.headers()) {
        return match attempt {
            Ok(upgrade) => {
                let taken = request.extensions().get::<BytesTaken>().cloned().map(axum::Extension);
                let wire = request.extensions().get::<Wire>().cloned().map(axum::Extension);
                let introduction = Some(axum::Extension(Introduction::of(&request)));
                let (headers, uri) = (request.headers().clone(), request.uri().clone());
                transport::upgrade(state, taken, wire, introduction, headers, uri, upgrade).await
            }
            Err(rejection) => rejection.into_response(),
        };
    }
    if transport::takes_event_stream(request.headers()) {
        return transport::stream_by_query(state, request).await;
    }
    transport::graphiql(request.uri(), dev)
}

pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

pub(super) fn cors(allowed: AllowedOrigins) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(allowed.for_cors())
        .allow_methods([Method::GET, Method::POST])
        // Whatever a client's library adds: which page may ask decides its origin, and what it may do its token.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}

/// The doors behind which something is done that may be traced. What is done on a socket is traced by itself: its handshake
/// is over before anything is.
const TRACED: [&str; 2] = ["/graphql", "/graphql/stream"];

/// Puts a request into its trace, if anything is traced.
async fn follow(request: Request, next: Next) -> Response {
    let is_post = request.method() == Method::POST;
    let route = TRACED.into_iter().find(|route| is_post && *route == request.uri().path());
    let span = route.map_or_else(Span::none, |route| {
        traces::request(request.method().as_str(), route, || traceparent(request.headers()))
    });
    let response = next.run(request).instrument(span.clone()).await;
    traces::request_answered(&span, response.status().as_u16());
    response
}

/// The trace that a client says its request is a part of.
fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    headers.get("traceparent")?.to_str().ok()?.parse().ok()
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a request id that is repeated. A longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

fn with_common_layers(router: Router) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(|request: &Request| {
            let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
            // The path only: tokens travel in query strings.
            let (method, path, trace_id) = (request.method(), request.uri().path(), tracing::field::Empty);
            tracing::info_span!("request", %method, path, request.id = id, trace_id)
        })
        .on_request(())
        .on_failure(());
    // The last is the outermost.
    let router = router.layer(CatchPanicLayer::custom(panicked)).layer(middleware::from_fn(follow)).layer(trace);
    router.layer(middleware::from_fn(guard_answer)).layer(middleware::from_fn(name_request))
}

/// What browsers must know of every answer: it is what it says it is, is kept nowhere, and its address, in which a token
/// may stand, is told to nobody.
async fn guard_answer(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// Gives every request an id, its own if it brings one, and the answer the same.
async fn name_request(mut request: Request, next: Next) -> Response {
    let brought = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).cloned();
    let id = brought.or_else(|| HeaderValue::try_from(uuid::Uuid::new_v4().simple().to_string()).ok());
    if let Some(id) = &id {
        request.headers_mut().insert(REQUEST_ID, id.clone());
    }
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn panicked(panic: Box<dyn Any + Send>) -> axum::http::Response<Body> {
    let cause = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(cause = cause.unwrap_or("unknown"), "a request panicked");
    ApiError::new(ErrorCode::InternalError, "internal error").into_response()
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
