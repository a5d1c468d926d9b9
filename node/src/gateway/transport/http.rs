//! GraphQL over HTTP: one POST, one answer.
//!
//! Who asks is settled before the body is read. What can be said with a status is (401, 413, 415, 429, 503); what is
//! wrong with the operation itself is 200 for `application/json` and 400 for `application/graphql-response+json`, as
//! GraphQL over HTTP has it. Subscriptions need a socket, or a client that takes a stream, be it not what it likes best.

use std::sync::Arc;

use async_graphql::http::GraphiQLSource;
use async_graphql::parser::types::OperationType;
use async_graphql::{Executor, Response as Answer};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use mille_shared::{ClientId, ErrorCode, LimitName, UserId};
use tracing::Instrument as _;

use super::bodies::{NoBody, too_large};
use super::request::OperationRequest;
use super::session::{ResumeAfter, Session, Via};
use super::{Transport, sse};
use crate::gateway::auth::BearerToken;
use crate::gateway::errors::{ApiError, Readable, complete_errors, is_request_error};
use crate::gateway::strangers::Introduction;
use crate::traces;

/// The header in which a client names itself.
pub(super) const CLIENT_ID: &str = "x-client-id";

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    GraphqlResponse,
    EventStream,
}

/// `POST /graphql`.
pub async fn answer<E: Executor>(State(transport): State<Transport<E>>, request: Request) -> Response {
    match Format::accepted(request.headers()) {
        Some(Format::EventStream) => sse::stream(State(transport), request).await,
        Some(format) => match answer_as(format, &transport, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        },
        None => told(StatusCode::NOT_ACCEPTABLE, "the answer is JSON, or an event stream"),
    }
}

async fn answer_as<E: Executor>(
    format: Format,
    transport: &Transport<E>,
    request: Request,
) -> Result<Response, ApiError> {
    let token = BearerToken::from_authorization(request.headers());
    let introduction = Introduction::of(&request);
    let streamed_after = takes_event_stream(request.headers()).then(|| sse::resume_after(request.headers()));
    let session = recognised(transport, token, request.headers(), introduction, Via::Http).await?;
    transport.quotas.begin_operation(&session.identity().user_id).await?;
    let request = match received(transport, request, &session.identity().user_id).await? {
        Ok(request) => request,
        Err(response) => return Ok(response),
    };
    // The body may have taken its time.
    transport.authenticator.still_counts(&session.identity())?;
    let operation = match request.prepare(&transport.documents) {
        Ok(operation) => operation,
        Err(refusal) => return Ok(written(format, &refusal.to_response())),
    };
    if operation.kind == OperationType::Subscription {
        let message = "a subscription needs a WebSocket or `Accept: text/event-stream`";
        let after = streamed_after.ok_or_else(|| ApiError::new(ErrorCode::ValidationFailed, message))?;
        return sse::stream_instead(transport, &session, operation, after).await;
    }
    let must_be_told = operation.kind == OperationType::Mutation;
    let limited = |_: &ApiError| transport.observer.limited(LimitName::AnswerBytesInFlight);
    if must_be_told {
        transport.bodies.expects_answer(&session.identity().user_id).inspect_err(limited)?;
    }
    let ended = session.ended().clone().drop_guard();
    let span = traces::operation(operation.kind_name());
    let request = operation.request.data(Arc::clone(&session)).data(ResumeAfter::default());
    let mut answer = transport.executor.execute(request).instrument(span).await;
    drop(ended);
    if operation.kind == OperationType::Query {
        // What was read is not for a token that was revoked meanwhile. Whether something was done is.
        transport.authenticator.still_counts(&session.identity())?;
    }
    complete_errors(&mut answer);
    let body = transport.bodies.answer(encoded(&answer), &session.identity().user_id, must_be_told);
    Ok(headed(format, &answer, body.inspect_err(limited)?))
}

/// `GET /graphql` of a browser: the GraphiQL page, if the node shows it. Whoever brings an operation takes no page for an answer.
#[must_use]
pub fn graphiql(uri: &Uri, dev: bool) -> Response {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    if parameters.any(|parameter| parameter.split('=').next() == Some("query")) {
        let why = "an operation comes by POST; a GET is answered with `Accept: text/event-stream` only";
        let refusal = told(StatusCode::METHOD_NOT_ALLOWED, why);
        return ([(header::ALLOW, "POST")], refusal).into_response();
    }
    if !dev {
        let text = "This is a GraphQL endpoint: POST a query, or open a WebSocket.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let page =
        GraphiQLSource::build().endpoint("/graphql").subscription_endpoint("/graphql/ws").title("Mille").finish();
    Html(page).into_response()
}

/// Settles who asks.
pub(super) async fn recognised<E: Executor>(
    transport: &Transport<E>,
    token: Option<BearerToken>,
    headers: &HeaderMap,
    introduction: Introduction,
    via: Via,
) -> Result<Arc<Session>, ApiError> {
    let identity = transport.authenticator.require(token.as_ref()).await?;
    introduction.known();
    let client_id = match headers.get(CLIENT_ID).map(HeaderValue::to_str) {
        None => ClientId::none(),
        Some(text) => text
            .ok()
            .and_then(|text| ClientId::parse(text).ok())
            .ok_or_else(|| ApiError::new(ErrorCode::ValidationFailed, "X-Client-Id is malformed"))?,
    };
    Ok(Arc::new(Session::new(identity, client_id, via, transport.authenticator.clone())))
}

/// A refusal whose status HTTP has a word for, and we only the code of what is wrong with a request.
fn told(status: StatusCode, why: &'static str) -> Response {
    let refusal = ApiError::new(ErrorCode::ValidationFailed, why).to_response();
    (status, axum::Json(Readable(&refusal))).into_response()
}

/// Reads the body of a user's request. The inner error is a refusal that has a status but no code of its own.
pub(super) async fn received<E: Executor>(
    transport: &Transport<E>,
    request: Request,
    user: &UserId,
) -> Result<Result<OperationRequest, Response>, ApiError> {
    if !is_json(request.headers()) {
        return Ok(Err(told(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the request must be `application/json`")));
    }
    let bytes_max = transport.limits.request_bytes_max;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: usize| bytes > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let body = match transport.bodies.read(request.into_body(), bytes_max, user, &*transport.observer).await {
        Ok(body) => body,
        Err(NoBody::Refused(refusal)) => return Err(refusal),
        Err(NoBody::Broken(status)) => return Ok(Err(told(status, "the body did not come whole"))),
    };
    let malformed = |message| ApiError::new(ErrorCode::ValidationFailed, message);
    if body.bytes.trim_ascii_start().starts_with(b"[") {
        return Err(malformed("batched requests are not taken: send one at a time"));
    }
    let request: OperationRequest =
        serde_json::from_slice(&body.bytes).map_err(|_| malformed("the body is not a GraphQL request in JSON"))?;
    if request.query.is_none() {
        return Err(malformed("a request needs a `query`"));
    }
    Ok(Ok(request))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type(kind).eq_ignore_ascii_case("application/json")
}

fn media_type(entry: &str) -> &str {
    entry.split(';').next().unwrap_or_default().trim()
}

fn written(format: Format, answer: &Answer) -> Response {
    headed(format, answer, Body::from(encoded(answer)))
}

fn encoded(answer: &Answer) -> Vec<u8> {
    // Texts, numbers and lists of them can always be written.
    serde_json::to_vec(&Readable(answer)).unwrap_or_default()
}

fn headed(format: Format, answer: &Answer, body: Body) -> Response {
    let refused = format == Format::GraphqlResponse && is_request_error(answer);
    let status = if refused { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let kind = match format {
        Format::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        Format::Json | Format::EventStream => "application/json; charset=utf-8",
    };
    (status, [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

impl Format {
    /// What the client likes best of what we have. `None`: it takes nothing that we have.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        let mut any = false;
        for entry in accepted(headers) {
            any = true;
            let format = match media_type(entry).to_ascii_lowercase().as_str() {
                "application/graphql-response+json" => Self::GraphqlResponse,
                "text/event-stream" => Self::EventStream,
                "application/json" | "application/*" | "*/*" | "" => Self::Json,
                _ => continue,
            };
            let weight = weight(entry);
            // The first of equals wins, as clients list what they like best first.
            if weight > best.map_or(0.0, |(weight, _)| weight) {
                best = Some((weight, format));
            }
        }
        if any { best.map(|(_, format)| format) } else { Some(Self::Json) }
    }
}

/// Whether the client takes an event stream, be it not what it likes best.
pub fn takes_event_stream(headers: &HeaderMap) -> bool {
    accepted(headers).any(|entry| media_type(entry).eq_ignore_ascii_case("text/event-stream") && weight(entry) > 0.0)
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','))
}

fn weight(entry: &str) -> f32 {
    let parameter = entry.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    parameter.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_the_client_likes_best() {
        for (accept, expected) in [
            (None, Some(Format::Json)),
            (Some("*/*"), Some(Format::Json)),
            (Some("application/json"), Some(Format::Json)),
            (Some("application/graphql-response+json, application/json;q=0.9"), Some(Format::GraphqlResponse)),
            (Some("application/json, application/graphql-response+json"), Some(Format::Json)),
            (Some("application/json;q=0.5, application/graphql-response+json;q=0.8"), Some(Format::GraphqlResponse)),
            (Some("text/event-stream"), Some(Format::EventStream)),
            (Some("text/html, */*;q=0.1"), Some(Format::Json)),
            (Some("text/html"), None),
            (Some("application/json;q=0"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(Format::accepted(&headers), expected, "{accept:?}");
        }
    }
}
