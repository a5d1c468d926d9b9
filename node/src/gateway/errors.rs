//! The one place where causes become codes.
//!
//! Whatever goes wrong behind a GraphQL door reaches the client as `extensions.code` with its companions
//! (`retryable`, `retryAfterMs`, `limit`, `limitName`, `revision`, `current`), or as an HTTP refusal that says the same. Resolvers
//! return [`ApiError`] with `?`; [`complete_errors`] runs once over every response and gives a code to the errors that
//! have none. What only a mistake of ours can bring is logged here and told as `INTERNAL_ERROR` without its text.

use std::borrow::Cow;
use std::time::Duration;

use async_graphql::{ErrorExtensionValues, Response, ServerError, Value};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use mille_shared::{ErrorCode, LimitName, Revision, limits};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use crate::clock::whole_ms;
use crate::quota::Excess;

/// A refusal or failure as a client sees it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What a client may branch on.
    pub code: ErrorCode,
    /// What a person reads. Never a token, never a plan's content.
    pub message: Cow<'static, str>,
    /// When to come back, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// The bound that was met, and its value.
    pub limit: Option<(LimitName, u64)>,
    /// The revision the refusal speaks of.
    pub revision: Option<Revision>,
    /// The state that a conflicting edit did not know.
    pub current: Option<serde_json::Value>,
}

impl ApiError {
    /// A refusal with a code and a text, nothing else.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None, limit: None, revision: None, current: None }
    }

    /// A refusal by a limit, which it names and whose value it tells.
    pub fn met(code: ErrorCode, name: LimitName, limit: usize) -> Self {
        Self::new(code, format!("{name}: at most {limit} {}", name.in_words())).limit(name, limit)
    }

    /// The same, with the time after which a repetition may succeed.
    #[must_use]
    pub fn retry_after_ms(self, milliseconds: u64) -> Self {
        Self { retry_after_ms: Some(milliseconds), ..self }
    }

    /// The same, at least a millisecond.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        self.retry_after_ms(whole_ms(wait).max(1))
    }

    /// The same, with the bound that was met.
    #[must_use]
    pub fn limit(self, name: LimitName, limit: usize) -> Self {
        Self { limit: Some((name, u64::try_from(limit).unwrap_or(u64::MAX))), ..self }
    }

    /// The same, with the revision it speaks of.
    #[must_use]
    pub fn revision(self, revision: Revision) -> Self {
        Self { revision: Some(revision), ..self }
    }

    /// The same, with the present state of what the edit touched.
    #[must_use]
    pub fn current(self, current: serde_json::Value) -> Self {
        Self { current: Some(current), ..self }
    }

    /// The HTTP status that says the same as the code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::LimitExceeded if self.limit.is_some_and(|(name, _)| name == LimitName::UserConnections) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            ErrorCode::Overloaded | ErrorCode::Draining | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::ValidationFailed
            | ErrorCode::UnrecoverableRevision
            | ErrorCode::LimitExceeded
            | ErrorCode::NotJoined
            | ErrorCode::DocumentTypeMismatch => StatusCode::BAD_REQUEST,
        }
    }

    /// The error as a GraphQL error that belongs to no field.
    #[must_use]
    pub fn to_server_error(&self) -> ServerError {
        let mut error = ServerError::new(self.message.clone(), None);
        error.extensions = Some(self.extensions());
        error
    }

    /// The error as the whole answer to an operation: no data, this error.
    #[must_use]
    pub fn to_response(&self) -> Response {
        Response::from_errors(vec![self.to_server_error()])
    }

    /// The error as a resolver's result. `?` on an [`ApiError`] comes out the same.
    #[must_use]
    pub fn into_graphql(self) -> async_graphql::Error {
        let extensions = self.extensions();
        let mut error = async_graphql::Error::new_with_source(self);
        error.extensions = Some(extensions);
        error
    }

    fn extensions(&self) -> ErrorExtensionValues {
        let mut values = ErrorExtensionValues::default();
        values.set("code", self.code.as_str());
        values.set("retryable", self.code.is_retryable());
        if let Some(milliseconds) = self.retry_after_ms {
            values.set("retryAfterMs", milliseconds);
        }
        if let Some((name, limit)) = self.limit {
            set_limit(&mut values, name, limit);
        }
        if let Some(revision) = self.revision {
            values.set("revision", revision.to_string());
        }
        if let Some(current) = &self.current {
            values.set("current", Value::from_json(current.clone()).unwrap_or_default());
        }
        values
    }
}

impl From<Excess> for ApiError {
    fn from(excess: Excess) -> Self {
        let code = match excess.name {
            LimitName::UserConnections => ErrorCode::LimitExceeded,
            _ => ErrorCode::RateLimited,
        };
        let error = Self::met(code, excess.name, excess.limit as usize);
        match excess.retry_after {
            Some(wait) => error.retry_after(wait),
            None => error,
        }
    }
}

fn set_limit(values: &mut ErrorExtensionValues, name: LimitName, limit: u64) {
    values.set("limit", limit);
    values.set("limitName", name.as_str());
}

impl IntoResponse for ApiError {
    /// An HTTP refusal with a GraphQL error body, so that a GraphQL client finds the code where it always is.
    fn into_response(self) -> axum::response::Response {
        let mut response = (self.status(), axum::Json(Readable(&self.to_response()))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status() == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of the request is not read, so the connection can't carry another.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(self.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = self.retry_after_ms.unwrap_or(RETRY_AFTER_DEFAULT_MS).div_ceil(1_000);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What `Retry-After` says when the cause has no time of its own, in milliseconds.
const RETRY_AFTER_DEFAULT_MS: u64 = 1_000;

/// Errors of a request that are told where nothing was executed: a megabyte can be wrong in a hundred thousand places.
const ERRORS_MAX: usize = 100;

/// Gives every error of a response its code. To be called once, on the way out, at every GraphQL door.
pub fn complete_errors(response: &mut Response) {
    if is_request_error(response) {
        response.errors.truncate(ERRORS_MAX);
    }
    for error in &mut response.errors {
        if !has_code(error) {
            complete(error);
        }
    }
}

/// An answer as clients read it: where nothing was executed there is no `data`, not even null.
pub struct Readable<'a>(pub &'a Response);

impl Serialize for Readable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !is_request_error(self.0) {
            return self.0.serialize(serializer);
        }
        let mut answer = serializer.serialize_struct("Answer", 1)?;
        answer.serialize_field("errors", &self.0.errors)?;
        answer.end()
    }
}

/// Whether the operation was refused before any resolver ran: a parse, validation or limit error, or a refusal at
/// the door.
#[must_use]
pub fn is_request_error(response: &Response) -> bool {
    response.data == Value::Null && !response.errors.is_empty() && response.errors.iter().all(|e| e.path.is_empty())
}

fn has_code(error: &ServerError) -> bool {
    error.extensions.as_ref().is_some_and(|values| values.get("code").is_some())
}

fn complete(error: &mut ServerError) {
    if let Some(cause) = error.source::<ApiError>() {
        error.extensions = Some(cause.extensions());
        return;
    }
    let code = classify(error);
    if code == ErrorCode::InternalError {
        tracing::error!(cause = %error.message, path = ?error.path, "a resolver failed without a code");
        error.message = "internal error".to_owned();
    }
    error.message = clipped(std::mem::take(&mut error.message));
    let limit = query_limit(&error.message);
    let values = error.extensions.get_or_insert_default();
    values.set("code", code.as_str());
    values.set("retryable", code.is_retryable());
    if let Some((name, limit)) = limit.filter(|_| code == ErrorCode::LimitExceeded) {
        set_limit(values, name, limit as u64);
        error.message.push_str(&format!(" {name}: at most {limit} {}.", name.in_words()));
    }
}

/// The bound that async-graphql speaks of. With `--dev` depth and complexity are wider than told.
fn query_limit(message: &str) -> Option<(LimitName, usize)> {
    let known = [
        ("Query is nested too deep", LimitName::QueryDepth, limits::QUERY_DEPTH_MAX),
        ("Query is too complex", LimitName::QueryComplexity, limits::QUERY_COMPLEXITY_MAX),
        ("The recursion depth of the query", LimitName::QueryDepth, limits::QUERY_DEPTH_MAX),
        ("The number of directives on the field", LimitName::QueryDirectives, limits::QUERY_DIRECTIVES_MAX),
        ("recursion limit exceeded", LimitName::QueryDepth, limits::QUERY_DEPTH_MAX),
    ];
    known.into_iter().find(|(text, ..)| message.starts_with(text)).map(|(_, name, limit)| (name, limit))
}

/// A message as far as it is shown. A parse error repeats the line it is in, and a query may be one line of a megabyte.
pub(in crate::gateway) fn clipped(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

/// Bytes of a message that quotes what a client sent.
pub(in crate::gateway) const MESSAGE_BYTES_MAX: usize = 1_000;

/// The code of an error that async-graphql itself made. It has no kinds, only texts: the ones that matter are pinned
/// by the tests below.
fn classify(error: &ServerError) -> ErrorCode {
    const INPUTS: [&str; 5] = [
        "Failed to parse \"",
        "Expected input type \"",
        "Invalid value for argument",
        "Enumeration type \"",
        "Variable ",
    ];
    let begins_with_one_of = |texts: &[&str]| texts.iter().any(|text| error.message.starts_with(text));
    if query_limit(&error.message).is_some() {
        ErrorCode::LimitExceeded
    } else if error.path.is_empty() || begins_with_one_of(&INPUTS) {
        ErrorCode::ValidationFailed
    } else {
        ErrorCode::InternalError
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema};

    use super::*;

    struct Query;

    #[Object]
    impl Query {
        async fn nested(&self) -> Query {
            Query
        }

        async fn number(&self, of: Option<i32>) -> i32 {
            of.unwrap_or_default()
        }

        async fn refused(&self) -> async_graphql::Result<i32> {
            let revision = Revision { epoch: 7, seq: 8 };
            Err(ApiError::new(ErrorCode::Conflict, "moved on")
                .revision(revision)
                .current(serde_json::json!({"id": "a"}))
                .limit(LimitName::PlanEdges, 3))?
        }

        async fn broken(&self) -> async_graphql::Result<i32> {
            Err(async_graphql::Error::new("password=hunter2"))
        }
    }

    async fn errors_of(query: &str) -> Vec<serde_json::Value> {
        let schema = Schema::build(Query, EmptyMutation, EmptySubscription).limit_depth(4).limit_complexity(6).finish();
        let mut response = schema.execute(query).await;
        complete_errors(&mut response);
        response.errors.iter().map(|e| serde_json::to_value(e).expect("an error is JSON")).collect()
    }

    async fn code_of(query: &str) -> String {
        let errors = errors_of(query).await;
        assert!(!errors.is_empty(), "{query}: {errors:?}");
        errors[0]["extensions"]["code"].as_str().expect("every error has a code").to_owned()
    }

    #[tokio::test]
    async fn what_a_client_got_wrong_is_validation_failed() {
        for query in
            ["{", "", "{ nope }", "{ number(of: \"x\") }", "query($x: Nope) { number(of: $x) }", "mutation { x }"]
        {
            assert_eq!(code_of(query).await, "VALIDATION_FAILED", "{query}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_in_very_many_places_is_told_of_some() {
        let errors = errors_of(&format!("{{ number({}) }}", "of: 1 ".repeat(1_000))).await;
        assert_eq!(errors.len(), ERRORS_MAX);
    }

    #[tokio::test]
    async fn too_deep_or_too_complex_is_limit_exceeded() {
        let deep = format!("{}number{}", "{nested".repeat(5), "}".repeat(5)).replace("nestednumber", "nested{number}");
        let very_deep = format!("{}{{number}}{}", "{nested".repeat(80), "}".repeat(80));
        let complex = "{ a: number b: number c: number d: number e: number f: number g: number }";
        for query in [deep.as_str(), very_deep.as_str(), complex] {
            let extensions = errors_of(query).await[0]["extensions"].clone();
            assert_eq!(extensions["code"], "LIMIT_EXCEEDED", "{query}");
            assert!(extensions["limit"].is_u64() && extensions["limitName"].is_string(), "{query}: {extensions}");
        }
    }

    #[tokio::test]
    async fn a_long_query_is_not_sent_back() {
        let errors = errors_of(&format!("{{ {} ! }}", "ä".repeat(50_000))).await;
        assert!(errors[0].to_string().len() < 2_000);
    }

    #[tokio::test]
    async fn a_resolvers_refusal_keeps_all_it_says() {
        let errors = errors_of("{ refused }").await;
        let expected = serde_json::json!({
            "code": "CONFLICT", "retryable": false, "revision": "7-8", "current": {"id": "a"}, "limit": 3,
            "limitName": "plan_edges",
        });
        assert_eq!(errors[0]["extensions"], expected);
        assert_eq!(errors[0]["message"], "moved on");
        assert_eq!(errors[0]["path"], serde_json::json!(["refused"]));
    }

    #[tokio::test]
    async fn a_mistake_of_ours_is_told_without_its_text() {
        let errors = errors_of("{ broken }").await;
        assert_eq!(errors[0]["extensions"]["code"], "INTERNAL_ERROR");
        assert!(!errors[0].to_string().contains("hunter2"));
    }

    #[test]
    fn a_refusal_has_its_http_twin() {
        let busy = ApiError::new(ErrorCode::RateLimited, "slow down").retry_after_ms(1_200).into_response();
        assert_eq!(busy.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(busy.headers()[header::RETRY_AFTER], "2");
        let unknown = ApiError::new(ErrorCode::Unauthenticated, "who?").into_response();
        assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(ApiError::new(ErrorCode::Draining, "").into_response().headers()[header::RETRY_AFTER], "1");
    }
}
