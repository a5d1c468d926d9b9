//! All doors of a node, and what holds for each of them.
//!
//! Which origins a browser may come from, what a panic looks like from outside, and what is written down about a
//! request: never its query string, since tokens travel there. What happens behind a door is the door's affair.

use std::any::Any;
use std::sync::Arc;

use async_graphql::Executor;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use mille_shared::ErrorCode;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::trace::TraceLayer;

use super::errors::ApiError;
use super::listener::BytesTaken;
use super::probes::{self, Readiness};
use super::shedding;
use super::strangers::Introduction;
use super::transport::{self, Transport};

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
    let shedding = doors.transport.shedding.clone();
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
        .layer(middleware::from_fn_with_state(doors.allowed_origins.clone(), check_socket_origin))
        .layer(cors(doors.allowed_origins))
        .merge(probes::router(doors.readiness));
    with_common_layers(router)
}

/// The admin listener: probes, metrics and the drain. For operators, not for the internet.
pub fn admin(
    readiness: Readiness,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    drain: impl Fn() + Clone + Send + Sync + 'static,
) -> Router {
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let router = Router::new()
        .route("/metrics", get(move || async move { (text, metrics()) }))
        .route(
            "/admin/drain",
            post(move || async move {
                drain();
                (StatusCode::ACCEPTED, "draining\n")
            }),
        )
        .merge(probes::router(readiness));
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
                let introduction = Some(axum::Extension(Introduction::of(&request)));
                let (headers, uri) = (request.headers().clone(), request.uri().clone());
                transport::upgrade(state, taken, introduction, headers, uri, upgrade).await
            }
            Err(rejection) => rejection.into_response(),
        };
    }
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/event-stream") {
        return transport::stream_by_query(state, request).await;
    }
    transport::graphiql(dev)
}

pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Where browsers may come from. Who sends no `Origin` is no browser and may come from anywhere.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins {
    any: bool,
    listed: Arc<[String]>,
}

impl AllowedOrigins {
    /// The origins listed (`https://host[:port]`), where `*` means any. A page may always call the host it came from.
    pub fn new(origins: impl IntoIterator<Item = String>) -> Self {
        let listed: Arc<[String]> = origins.into_iter().map(|o| o.trim_end_matches('/').to_ascii_lowercase()).collect();
        Self { any: listed.iter().any(|origin| origin == "*"), listed }
    }

    fn allows(&self, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return false };
        let is_own = || {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let host = host.and_then(|host| host.to_str().ok());
            authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
        };
        self.any || self.listed.contains(&origin) || is_own()
    }
}

/// CORS does not cover sockets: a browser opens one from any page and only tells where from.
async fn check_socket_origin(State(allowed): State<AllowedOrigins>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if is_upgrade(headers)
        && let Some(origin) = headers.get(header::ORIGIN)
        && !allowed.allows(origin, headers.get(header::HOST))
    {
        return ApiError::new(ErrorCode::Forbidden, "this origin is not allowed").into_response();
    }
    next.run(request).await
}

fn cors(allowed: AllowedOrigins) -> CorsLayer {
    let predicate =
        move |origin: &HeaderValue, parts: &request::Parts| allowed.allows(origin, parts.headers.get(header::HOST));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(predicate))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::ACCEPT,
            HeaderName::from_static("x-client-id"),
            REQUEST_ID,
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
        .max_age(std::time::Duration::from_secs(600))
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a request id that is repeated. A longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

fn with_common_layers(router: Router) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(|request: &Request| {
            let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
            // The path only: tokens travel in query strings.
            tracing::info_span!("request", method = %request.method(), path = request.uri().path(), request.id = id)
        })
        .on_request(())
        .on_failure(());
    // The last is the outermost.
    router.layer(CatchPanicLayer::custom(panicked)).layer(trace).layer(middleware::from_fn(name_request))
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
