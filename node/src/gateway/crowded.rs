//! What a node says that takes nobody yet, or has no place for another connection.
//!
//! A browser can't read an HTTP error of a handshake, so a socket is upgraded and closed with 1013; whatever else comes is
//! refused with 503. Nobody is recognised, and of what a client sends next to nothing is kept. The listener bounds how many are
//! told so at a time; whoever comes beyond that gets the bare 503.

use std::borrow::Cow;

use axum::Router;
use axum::extract::Request;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use mille_shared::CloseCode;

use super::auth::offered_subprotocols;
use super::errors::ApiError;
use super::origins::AllowedOrigins;
use super::router::cors;
use super::shedding::SOCKET_DOORS;
use super::transport::{self, Dialect, READ_BUFFER_BYTES, WRITE_BUFFER_BYTES};

/// A router in the place of all doors, which says this to everybody. Pages that may come here can read it.
pub fn router(why: ApiError, allowed: AllowedOrigins) -> Router {
    let refusing = Router::new().fallback(
        async move |upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>, request: Request| {
            let is_socket = SOCKET_DOORS.contains(&request.uri().path());
            match upgrade {
                Ok(upgrade) if is_socket => refuse(upgrade, &request, why.message),
                _ => why.into_response(),
            }
        },
    );
    refusing.layer(cors(allowed))
}

/// The same doors, but no connection is kept for a second request.
pub fn one_request_each(router: Router) -> Router {
    router.layer(map_response(async |mut response: Response| {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }))
}

fn refuse(upgrade: WebSocketUpgrade, request: &Request, reason: Cow<'static, str>) -> Response {
    // A client that offered a subprotocol takes no socket that names none, and would never see the close code.
    let headers = request.headers();
    let dialect = Dialect::choose(offered_subprotocols(headers)).map(|dialect| dialect.subprotocol().to_owned());
    let bearer = || offered_subprotocols(headers).find(|entry| entry.starts_with("bearer.")).map(str::to_owned);
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(READ_BUFFER_BYTES)
        .max_frame_size(READ_BUFFER_BYTES);
    upgrade
        .protocols(dialect.or_else(bearer))
        .on_upgrade(async move |socket| transport::close(socket, CloseCode::TryAgainLater, &reason).await)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use mille_shared::ErrorCode;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_page_that_may_come_reads_why_and_when_to_come_back_and_no_other_does() {
        let allowed = AllowedOrigins::parse(&["https://app.example".to_owned()]).expect("an origin");
        let full = ApiError::new(ErrorCode::Unavailable, "full").retry_after(std::time::Duration::from_secs(1));
        let router = one_request_each(router(full, allowed));
        for (origin, may_read) in [("https://app.example", true), ("https://other.example", false)] {
            for (method, status) in [("OPTIONS", StatusCode::OK), ("POST", StatusCode::SERVICE_UNAVAILABLE)] {
                let request = Request::builder()
                    .method(method)
                    .uri("/graphql")
                    .header(header::ORIGIN, origin)
                    .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
                let request = request.body(Body::empty()).expect("a request");
                let answer = router.clone().oneshot(request).await.expect("an answer");
                assert_eq!(answer.status(), status, "{method}");
                assert_eq!(answer.headers()[header::CONNECTION], "close", "{method}");
                let named = answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
                assert_eq!(named.is_some_and(|named| named == origin), may_read, "{method} from {origin}");
                let exposed = answer.headers().get(header::ACCESS_CONTROL_EXPOSE_HEADERS);
                let exposed = exposed.and_then(|exposed| exposed.to_str().ok()).unwrap_or_default();
                assert_eq!(exposed.contains("retry-after"), method == "POST", "{method}: {exposed}");
            }
        }
    }
}
