//! Every door from outside, request by request, without a network. Sockets have tests of their own.

use std::sync::Arc;

use async_graphql::{Object, Schema, SimpleObject, Subscription};
use axum::body::to_bytes;
use futures_util::{Stream, StreamExt as _, stream};
use jsonwebtoken::{EncodingKey, Header};
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{NodeId, UserId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::ServiceExt;

use super::super::auth::{AuthSettings, Authenticator, KeySettings, unix_seconds};
use super::super::probes::Check;
use super::super::transport::{BodyRoom, EventRevision, ResumeAfter, Session, TransportLimits};
use super::*;
use crate::drain::{Drain, Phase};
use crate::gateway::fanout::Groups;
use crate::gateway::transport::Documents;
use crate::metrics::Metrics;
use crate::pressure::Level;
use crate::quota::UserQuotas;

const SECRET: &str = "a secret of more than 32 bytes, for tests";
const GRAPHQL_RESPONSE: &str = "application/graphql-response+json";

#[derive(SimpleObject)]
struct Half {
    revision: &'static str,
}

struct Query;
struct Mutation;
struct Events;

#[derive(SimpleObject)]
struct Event {
    n: i32,
}

#[Object]
impl Query {
    async fn me(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<String> {
        let session = ctx.data::<Arc<Session>>()?;
        Ok(format!("{}/{}", session.identity().user_id, session.client_id()))
    }

    async fn panics(&self, really: bool) -> i32 {
        assert!(!really, "as asked");
        0
    }

    async fn revokes(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<bool> {
        revoke(ctx.data::<Authenticator>()?, "ada");
        Ok(true)
    }

    async fn busy(&self) -> async_graphql::Result<i32> {
        Err(ApiError::new(ErrorCode::Overloaded, "busy").retry_after_ms(10))?
    }
}

#[Object]
impl Mutation {
    async fn edit(&self) -> i32 {
        1
    }

    async fn revoke(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<bool> {
        revoke(ctx.data::<Authenticator>()?, "ada");
        Ok(true)
    }
}

#[Subscription]
impl Events {
    async fn count(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<impl Stream<Item = Event>> {
        let after = ctx.data::<ResumeAfter>()?.0.as_deref().and_then(|after| after.strip_prefix("1-")?.parse().ok());
        let told = ctx.data::<EventRevision>()?.clone();
        Ok(stream::iter(after.map_or(0, |n: i32| n + 1)..3).map(move |n| {
            told.set(Some(format!("1-{n}").parse().expect("a revision")));
            Event { n }
        }))
    }

    /// A change of two events, each of which bears its revision.
    async fn pair(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<impl Stream<Item = Half>> {
        let told = ctx.data::<EventRevision>()?.clone();
        Ok(stream::iter([false, true]).map(move |is_last| {
            told.set(is_last.then(|| "1-7".parse().expect("a revision")));
            Half { revision: "1-7" }
        }))
    }

    async fn endless(&self) -> impl Stream<Item = Event> {
        stream::iter([Event { n: 1 }]).chain(stream::pending())
    }
}

struct Node {
    router: Router,
    authenticator: Authenticator,
    metrics: Arc<Metrics>,
    drain: Drain,
}

async fn node(dev: bool) -> Node {
    let settings = AuthSettings::new(KeySettings::Secret { secret: SECRET.to_owned(), next: None });
    let drain = Drain::default();
    let authenticator = Authenticator::new(&settings).await.expect("usable settings");
    let metrics = Arc::new(Metrics::new());
    let moment_max = TransportLimits::default().fan_out_moment_max;
    let transport = Transport {
        groups: Groups::new(authenticator.revoked().clone(), Arc::new(()), moment_max, TaskTracker::new()),
        executor: Schema::build(Query, Mutation, Events).data(authenticator.clone()).finish(),
        authenticator: authenticator.clone(),
        shedding: super::super::shedding::Shedding::new(Arc::clone(&metrics)),
        limits: TransportLimits { request_bytes_max: 10_000, ..TransportLimits::default() },
        drain: drain.clone(),
        tasks: TaskTracker::new(),
        observer: Arc::new(()),
        quotas: UserQuotas::alone(),
        documents: Documents::default(),
        bodies: BodyRoom::new(1_000_000),
    };
    let asked = drain.clone();
    let readiness = Readiness::new(NodeId::of("n", "1"), move || {
        let ok = asked.phase() == Phase::Serving;
        let told = Check::told("breaker", false, "does not answer");
        vec![Check::needed("drain", ok, "the operator's wish"), told]
    });
    let allowed_origins = AllowedOrigins::parse(&["https://app.example/".to_owned()]).expect("an origin");
    let presence = get(|| async { "presence" });
    Node {
        router: doors(Doors { transport, readiness, presence, allowed_origins, dev }),
        authenticator,
        metrics,
        drain,
    }
}

/// Revokes all tokens of a user.
fn revoke(authenticator: &Authenticator, user: &str) {
    let now = crate::clock::now();
    let revocation = Revocation { what: Revoked::User(UserId::new(user)), at: now };
    authenticator.revoked().take(&[(revocation, now.after(std::time::Duration::from_secs(3_600)))]);
}

fn token() -> String {
    token_with("")
}

fn token_with(scope: &str) -> String {
    let claims = json!({"sub": "ada", "exp": unix_seconds() + 600, "scope": scope});
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

fn to(method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request {
    let mut request = Request::builder().method(method).uri(path).header("host", "node:4000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).expect("a request")
}

/// A POST in JSON with a good token.
fn post_json(path: &str, headers: &[(&str, &str)], body: &Value) -> Request {
    let bearer = format!("Bearer {}", token());
    let mut all = vec![("content-type", "application/json"), ("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    to(Method::POST, path, &all, body.to_string())
}

impl Node {
    fn revoke(&self, user: &str) {
        revoke(&self.authenticator, user);
    }

    async fn ask(&self, request: Request) -> Response {
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn text(&self, request: Request) -> (u16, String) {
        let response = self.ask(request).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1_000_000).await.expect("a body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn json(&self, request: Request) -> (u16, Value) {
        let (status, text) = self.text(request).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
    }
}

#[tokio::test]
async fn a_request_is_answered_to_whom_it_belongs() {
    let node = node(false).await;
    let headers = [("x-client-id", "c1"), ("x-request-id", "r1")];
    let body = json!({"query": "{ me }", "variables": null, "extensions": null, "operationName": null});
    let response = node.ask(post_json("/graphql", &headers, &body)).await;
    assert_eq!(
        (response.status(), &response.headers()["x-request-id"]),
        (StatusCode::OK, &HeaderValue::from_static("r1"))
    );
    let (_, answer) = node.json(post_json("/graphql", &headers, &body)).await;
    assert_eq!(answer, json!({"data": {"me": "ada/c1"}}));
}

#[tokio::test]
async fn under_pressure_a_request_is_refused_also_if_it_calls_itself_a_handshake() {
    let node = node(false).await;
    node.metrics.pressure.set_level(Level::RefuseConnections);
    let edit = json!({"query": "mutation { edit }"});
    let bearer = format!("Bearer {}", token());
    for upgrade in [&[][..], &[("upgrade", "websocket"), ("connection", "upgrade")]] {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend_from_slice(upgrade);
        for request in [
            post_json("/graphql", upgrade, &edit),
            post_json("/graphql/stream", upgrade, &edit),
            to(Method::GET, "/graphql/stream?query=%7Bme%7D", &headers, ""),
        ] {
            assert_eq!(node.ask(request).await.status(), StatusCode::SERVICE_UNAVAILABLE, "{upgrade:?}");
        }
    }
}

#[tokio::test]
async fn under_pressure_who_steers_the_cluster_is_let_in() {
    let node = node(false).await;
    node.metrics.pressure.set_level(Level::RefuseOperations);
    let me = json!({"query": "{ me }"});
    for (scope, status) in [("admin", 200), ("executor", 503)] {
        let bearer = format!("Bearer {}", token_with(scope));
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        let request = to(Method::POST, "/graphql", &headers, me.to_string());
        assert_eq!(node.ask(request).await.status(), status, "{scope}");
    }
}

#[tokio::test]
async fn a_refusal_has_its_status_and_its_code() {
    let node = node(false).await;
    let me = json!({"query": "{ me }"});
    let long = "x".repeat(101);
    let json_only = [("content-type", "application/json")];
    let bad_token = [("content-type", "application/json"), ("authorization", "Bearer a.b.c")];
    let graphql_response = [("accept", GRAPHQL_RESPONSE)];
    let large = json!({"query": "x".repeat(10_001)});
    let chunks = stream::iter((0..20).map(|_| Ok::<_, std::io::Error>("x".repeat(1_000))));
    let mut endless = post_json("/graphql", &[], &me);
    *endless.body_mut() = Body::from_stream(chunks);
    let mut garbage = post_json("/graphql", &[], &me);
    *garbage.body_mut() = Body::from("{");
    let text = to(Method::POST, "/graphql", &[("authorization", &format!("Bearer {}", token()))], "{ me }");
    for (request, status, code) in [
        (to(Method::POST, "/graphql", &json_only, me.to_string()), 401, "UNAUTHENTICATED"),
        (to(Method::POST, "/graphql", &bad_token, me.to_string()), 401, "UNAUTHENTICATED"),
        (to(Method::POST, "/graphql/stream", &json_only, me.to_string()), 401, "UNAUTHENTICATED"),
        (to(Method::GET, "/graphql/stream?query=%7Bme%7D&token=a.b.c", &[], ""), 401, "UNAUTHENTICATED"),
        (text, 415, "VALIDATION_FAILED"),
        (garbage, 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &[], &json!([me])), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &[], &json!({})), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &[], &json!({"query": 7})), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &[("x-client-id", &long)], &me), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &[], &json!({"query": "subscription { count { n } }"})), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &[], &large), 413, "PAYLOAD_TOO_LARGE"),
        (endless, 413, "PAYLOAD_TOO_LARGE"),
        (post_json("/graphql", &[], &json!({"query": "{ nope }"})), 200, "VALIDATION_FAILED"),
        (post_json("/graphql", &graphql_response, &json!({"query": "{ nope }"})), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &graphql_response, &json!({"query": "{"})), 400, "VALIDATION_FAILED"),
        (post_json("/graphql", &graphql_response, &json!({"query": "{ busy }"})), 200, "OVERLOADED"),
        (post_json("/graphql", &[], &json!({"query": "{ panics(really: true) }"})), 500, "INTERNAL_ERROR"),
    ] {
        let what = format!("{} {} {:?}", request.method(), request.uri().path(), request.headers().get("accept"));
        let (is, answer) = node.json(request).await;
        assert_eq!((is, &answer["errors"][0]["extensions"]["code"]), (status, &json!(code)), "{what}: {answer}");
    }
}

#[tokio::test]
async fn a_stream_tells_where_it_is_and_goes_on_from_there() {
    let node = node(false).await;
    let body = json!({"query": "subscription { count { n } }"});
    let event = |n: i32| format!("event: next\ndata: {{\"data\":{{\"count\":{{\"n\":{n}}}}}}}\nid: 1-{n}\n\n");
    let end = "event: complete\ndata: {}\n\n";
    let by_query = format!("?query=subscription%7Bcount%7Bn%7D%7D&variables=%7B%7D&token={}", token());
    for request in [
        post_json("/graphql/stream", &[], &body),
        post_json("/graphql", &[("accept", "text/event-stream")], &body),
        to(Method::GET, &format!("/graphql/stream{by_query}"), &[], ""),
        to(Method::GET, &format!("/graphql{by_query}"), &[("accept", "text/event-stream")], ""),
    ] {
        assert_eq!(node.text(request).await, (200, format!("{}{}{}{end}", event(0), event(1), event(2))));
    }
    let resumed = node.text(post_json("/graphql/stream", &[("last-event-id", "1-1")], &body)).await.1;
    assert_eq!(resumed, format!("{}{end}", event(2)));
}

#[tokio::test]
async fn a_subscription_is_streamed_to_whoever_takes_a_stream_at_all() {
    let node = node(false).await;
    let body = json!({"query": "subscription { count { n } }"});
    let me = json!({"query": "{ me }"});
    let last = "event: next\ndata: {\"data\":{\"count\":{\"n\":2}}}\nid: 1-2\n\nevent: complete\ndata: {}\n\n";
    for accepts in [
        &["application/json, text/event-stream"][..],
        &["application/json", "text/event-stream"],
        &["application/graphql-response+json, Text/Event-Stream; q=0.1"],
        &["text/event-stream;q=0.5, */*"],
    ] {
        let mut headers: Vec<_> = accepts.iter().map(|accept| ("accept", *accept)).collect();
        let (status, answer) = node.json(post_json("/graphql", &headers, &me)).await;
        assert_eq!((status, answer), (200, json!({"data": {"me": "ada/"}})), "one answer is no stream: {accepts:?}");
        headers.push(("last-event-id", "1-1"));
        let response = node.ask(post_json("/graphql", &headers, &body)).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream", "{accepts:?}");
        let told = to_bytes(response.into_body(), 10_000).await.expect("a body");
        assert_eq!(told, last, "{accepts:?}");
    }
    for accept in ["application/json", "*/*", "application/json, text/event-stream;q=0"] {
        let (status, answer) = node.json(post_json("/graphql", &[("accept", accept)], &body)).await;
        assert_eq!(
            (status, &answer["errors"][0]["extensions"]["code"]),
            (400, &json!("VALIDATION_FAILED")),
            "{accept}"
        );
    }
    node.drain.enter(Phase::Closing);
    let either = [("accept", "application/json, text/event-stream")];
    assert_eq!(node.ask(post_json("/graphql", &either, &body)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_operation_in_an_address_is_refused_and_not_answered_with_a_page() {
    for dev in [false, true] {
        let node = node(dev).await;
        for (address, accept) in [
            ("/graphql?query=%7Bme%7D", "application/json"),
            ("/graphql?query=%7Bme%7D", "text/html,*/*;q=0.8"),
            ("/graphql?variables=%7B%7D&query=", "*/*"),
            ("/graphql?query=%7Bme%7D", "application/json, text/event-stream;q=0"),
        ] {
            let response = node.ask(to(Method::GET, address, &[("accept", accept)], "")).await;
            let allowed = response.headers().get(header::ALLOW).and_then(|allow| allow.to_str().ok());
            assert_eq!((response.status().as_u16(), allowed), (405, Some("POST")), "{address} {accept}");
            let body = to_bytes(response.into_body(), 10_000).await.expect("a body");
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            assert!(answer["errors"][0]["message"].as_str().is_some_and(|why| why.contains("POST")), "{answer}");
        }
        let (status, text) = node.text(to(Method::GET, "/graphql?token=t", &[("accept", "text/html")], "")).await;
        assert_eq!((status, text.contains("GraphiQL")), if dev { (200, true) } else { (404, false) });
    }
}

#[tokio::test]
async fn whoever_is_cut_in_the_middle_of_a_change_is_told_it_again() {
    let node = node(false).await;
    let body = json!({"query": "subscription { pair { revision } }"});
    let (_, text) = node.text(post_json("/graphql/stream", &[], &body)).await;
    let next = "event: next\ndata: {\"data\":{\"pair\":{\"revision\":\"1-7\"}}}\n";
    assert_eq!(text, format!("{next}\n{next}id: 1-7\n\nevent: complete\ndata: {{}}\n\n"));
}

#[tokio::test]
async fn a_stream_carries_single_answers_and_refusals_too() {
    let node = node(false).await;
    for (query, expected) in
        [("mutation { edit }", "{\"edit\":1}"), ("{ nope }", "VALIDATION_FAILED"), ("{ me }", "ada/")]
    {
        let (status, text) = node.text(post_json("/graphql/stream", &[], &json!({"query": query}))).await;
        assert_eq!(status, 200);
        assert!(text.contains(expected) && text.ends_with("event: complete\ndata: {}\n\n"), "{query}: {text}");
    }
    let edit_by_get = format!("/graphql/stream?query=mutation%7Bedit%7D&token={}", token());
    assert!(node.text(to(Method::GET, &edit_by_get, &[], "")).await.1.contains("VALIDATION_FAILED"));
    node.drain.enter(Phase::Closing);
    let (_, text) = node.text(post_json("/graphql/stream", &[], &json!({"query": "mutation { edit }"}))).await;
    assert!(text.contains("{\"edit\":1}"), "what is over with its answer is answered: {text}");
    let listening = json!({"query": "subscription { endless { n } }"});
    let refused = node.ask(post_json("/graphql/stream", &[], &listening)).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_token() {
    let node = node(false).await;
    let body = json!({"query": "subscription { endless { n } }"});
    let (status, text) = node.text(post_json("/graphql/stream", &[], &body)).await;
    let told = text.replace(":\n\n", "");
    assert!(status == 200 && told.starts_with("event: next\ndata: {\"data\":{\"endless\":{\"n\":1}}}"), "{told}");
    assert!(told.contains("the token has expired") && told.contains("UNAUTHENTICATED"), "{told}");
    assert!(told.ends_with("event: complete\ndata: {}\n\n"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_token_is_revoked_and_none_begins_with_it() {
    let node = node(false).await;
    let body = json!({"query": "subscription { endless { n } }"});
    let response = node.ask(post_json("/graphql/stream", &[], &body)).await;
    node.revoke("eve");
    node.revoke("ada");
    let text = to_bytes(response.into_body(), 10_000).await.expect("a body");
    let text = String::from_utf8(text.to_vec()).expect("text");
    assert!(text.contains("the token was revoked") && text.contains("UNAUTHENTICATED"), "{text}");
    assert!(text.ends_with("event: complete\ndata: {}\n\n") && !text.contains("endless"), "nothing after it: {text}");

    for request in [
        post_json("/graphql/stream", &[], &body),
        post_json("/graphql", &[], &json!({"query": "{ me }"})),
        to(Method::GET, &format!("/graphql/stream?query=%7Bme%7D&token={}", token()), &[], ""),
    ] {
        let (status, answer) = node.json(request).await;
        assert_eq!((status, &answer["errors"][0]["message"]), (401, &json!("the token was revoked")));
    }
}

#[tokio::test]
async fn what_was_read_is_not_told_to_a_token_that_was_revoked_meanwhile_and_what_was_done_is() {
    let node = node(false).await;
    let (status, answer) = node.json(post_json("/graphql", &[], &json!({"query": "mutation { revoke }"}))).await;
    assert_eq!((status, &answer["data"]["revoke"]), (200, &json!(true)));
    let node = self::node(false).await;
    let (status, answer) = node.json(post_json("/graphql", &[], &json!({"query": "{ revokes }"}))).await;
    assert_eq!((status, &answer["errors"][0]["message"]), (401, &json!("the token was revoked")), "{answer}");
}

#[tokio::test]
async fn browsers_come_from_where_they_may() {
    let node = node(false).await;
    for (origin, allowed) in
        [("https://app.example", true), ("https://evil.example", false), ("http://node:4000", false), ("null", false)]
    {
        let preflight = [("origin", origin), ("access-control-request-method", "POST")];
        let response = node.ask(to(Method::OPTIONS, "/graphql", &preflight, "")).await;
        assert_eq!(response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{origin}");
        for path in ["/graphql", "/graphql/ws", "/ws/collaboration"] {
            let upgrade = [("origin", origin), ("upgrade", "websocket"), ("connection", "upgrade")];
            let status = node.ask(to(Method::GET, path, &upgrade, "")).await.status();
            assert_eq!(status != StatusCode::FORBIDDEN, allowed, "{origin} {path}");
        }
    }
    assert_eq!(node.text(to(Method::GET, "/ws/collaboration", &[], "")).await.1, "presence", "no origin, no browser");
}

#[tokio::test]
async fn no_page_can_act_for_its_visitor() {
    let node = node(false).await;
    let edit = json!({"query": "mutation { edit }"});
    // Of another origin: not carried out, although the token is good.
    let evil = post_json("/graphql", &[("origin", "https://evil.example")], &edit);
    assert_eq!(node.text(evil).await.0, 403);
    let ours = node.ask(post_json("/graphql", &[("origin", "https://app.example")], &edit)).await;
    assert_eq!(ours.status(), StatusCode::OK);
    assert!(!ours.headers().contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), "there are none to be sent");
    // What a form can send without asking is no request, whoever sends it.
    let bearer = format!("Bearer {}", token());
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", ""]
    {
        for path in ["/graphql", "/graphql/stream"] {
            let headers = [("content-type", kind), ("authorization", bearer.as_str())];
            assert_eq!(node.text(to(Method::POST, path, &headers, edit.to_string())).await.0, 415, "{kind} {path}");
        }
    }
    // Nor is what a link can send.
    let by_link = "/graphql?query=mutation%7Bedit%7D";
    assert_eq!(node.text(to(Method::GET, by_link, &[("authorization", bearer.as_str())], "")).await.0, 405);
}

#[tokio::test]
async fn every_answer_is_guarded_against_browsers() {
    let node = node(true).await;
    for request in [
        post_json("/graphql", &[], &json!({"query": "{ me }"})),
        post_json("/graphql/stream", &[], &json!({"query": "{ me }"})),
        to(Method::POST, "/graphql", &[], ""),
        to(Method::GET, "/graphql", &[("accept", "text/html")], ""),
        to(Method::GET, "/graphql", &[("origin", "https://evil.example")], ""),
        to(Method::GET, "/nowhere", &[], ""),
        to(Method::GET, "/health", &[], ""),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = node.ask(request).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.headers().get(name).and_then(|value| value.to_str().ok()), Some(value), "{what}: {name}");
        }
    }
}

#[tokio::test]
async fn probes_and_pages_say_what_they_should() {
    let node = node(true).await;
    let page = |path: &str| to(Method::GET, path, &[("accept", "text/html")], "");
    assert_eq!(node.text(page("/livez")).await, (200, "ok\n".to_owned()));
    assert_eq!(node.text(page("/readyz")).await.0, 200);
    assert!(node.text(page("/graphql")).await.1.contains("GraphiQL"));
    assert_eq!(super::tests::node(false).await.text(page("/graphql")).await.0, 404);
    node.drain.enter(Phase::Closing);
    assert_eq!(node.text(page("/readyz")).await, (503, "not ready: drain\n".to_owned()));
    let (status, verbose) = node.json(page("/readyz?verbose")).await;
    assert_eq!(verbose["checks"][1]["ok"], json!(false), "told, and not needed: {verbose}");
    assert_eq!(
        (status, &verbose["checks"][0]["name"], &verbose["checks"][0]["ok"]),
        (503, &json!("drain"), &json!(false))
    );
    assert_eq!(node.text(page("/livez")).await.0, 200, "a node that drains lives");
    let (_, health) = node.json(page("/health")).await;
    assert_eq!(
        (&health["status"], &health["service"], &health["nodeId"]),
        (&json!("unavailable"), &json!("mille-node"), &json!("n.1"))
    );
}

#[tokio::test]
async fn who_makes_no_progress_says_so_and_may_be_ready_all_the_same() {
    let stuck = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&stuck);
    let readiness = Readiness::new(NodeId::of("n", "1"), Vec::new).with_life(move || {
        let is_stuck = seen.load(std::sync::atomic::Ordering::Relaxed);
        vec![Check::needed("actors", !is_stuck, "1 of 2"), Check::needed("tasks", true, "none")]
    });
    let probes = Node { router: probes::router(readiness), ..node(false).await };
    let page = |path: &str| to(Method::GET, path, &[], "");
    assert_eq!(probes.text(page("/livez")).await, (200, "ok\n".to_owned()));
    stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(probes.text(page("/livez")).await, (503, "not alive: actors\n".to_owned()));
    let (status, verbose) = probes.json(page("/livez?verbose")).await;
    let told = json!({"alive": false, "checks": [
        {"name": "actors", "ok": false, "detail": "1 of 2"}, {"name": "tasks", "ok": true, "detail": "none"},
    ]});
    assert_eq!((status, verbose), (503, told));
    assert_eq!(probes.text(page("/readyz")).await.0, 200);
}

#[tokio::test]
async fn the_admin_listener_shows_metrics_and_starts_the_drain() {
    let (asked, drain) = (CancellationToken::new(), Drain::default());
    let readiness = Readiness::new(NodeId::of("n", "1"), Vec::new);
    let door = DrainDoor { drain: drain.clone(), asked: asked.clone(), sockets: TaskTracker::new() };
    let router = admin(readiness, get(|| async { "facts" }), || "up 1\n".to_owned(), door);
    let admin = Node { router, ..node(false).await };
    assert_eq!(admin.text(to(Method::GET, "/metrics", &[], "")).await, (200, "up 1\n".to_owned()));
    let (status, told) = admin.json(to(Method::GET, "/admin/drain", &[], "")).await;
    assert_eq!(
        (status, told),
        (200, json!({"phase": "serving", "connections": 0, "elapsedMs": 0, "deadlineMs": 30_000}))
    );
    assert_eq!(admin.text(to(Method::GET, "/admin/facts", &[], "")).await, (200, "facts".to_owned()));
    for origin in ["https://evil.example", "http://node:4000", "null"] {
        assert_eq!(admin.text(to(Method::GET, "/admin/facts", &[("origin", origin)], "")).await.0, 403, "{origin}");
        assert_eq!(admin.text(to(Method::POST, "/admin/drain", &[("origin", origin)], "")).await.0, 403, "{origin}");
    }
    assert!(!asked.is_cancelled(), "no page can drain the node of the one who looks at it");
    let (status, told) = admin.json(to(Method::POST, "/admin/drain", &[], "")).await;
    assert_eq!((status, &told["phase"]), (202, &json!("unready")));
    assert!(asked.is_cancelled());
    drain.enter(Phase::Closing);
    assert_eq!(admin.json(to(Method::GET, "/admin/drain", &[], "")).await.1["phase"], "closing");
    assert_eq!(admin.text(to(Method::GET, "/readyz", &[], "")).await.0, 200);
    assert_eq!(admin.text(to(Method::POST, "/graphql", &[], "")).await.0, 404);
}
