//! Where a token may be found, door by door.
//!
//! A token that was found is a [`BearerToken`]: it can be verified, but neither printed nor compared.

use std::fmt;

use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};

/// A token as somebody showed it. Nobody has looked at it yet.
#[derive(Clone)]
pub struct BearerToken(String);

impl BearerToken {
    /// Takes a token as it is, without `Bearer`.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token of an `Authorization: Bearer` header.
    #[must_use]
    pub fn from_authorization(headers: &HeaderMap) -> Option<Self> {
        headers.get(header::AUTHORIZATION)?.to_str().ok().and_then(Self::after_scheme)
    }

    /// The token of a `Sec-WebSocket-Protocol` entry `bearer.<jwt>`: browsers can set no other header.
    #[must_use]
    pub fn from_subprotocols(headers: &HeaderMap) -> Option<Self> {
        offered_subprotocols(headers).find_map(|entry| entry.strip_prefix("bearer.")).and_then(Self::non_empty)
    }

    /// The token of the query parameter `token`.
    #[must_use]
    pub fn from_query(query: Option<&str>) -> Option<Self> {
        let value = query?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
        // A JWT is made of characters that need no escaping; one that is escaped all the same is no JWT.
        Self::non_empty(value)
    }

    /// The token of a `connection_init` payload: `Authorization`, `authorization`, `token` or `authToken`, the first
    /// that holds one. Each may begin with `Bearer `.
    #[must_use]
    pub fn from_init_payload(payload: &Map<String, Value>) -> Option<Self> {
        ["Authorization", "authorization", "token", "authToken"].into_iter().find_map(|key| {
            let text = payload.get(key)?.as_str()?;
            Self::after_scheme(text).or_else(|| Self::non_empty(text).filter(|token| !token.0.contains(' ')))
        })
    }

    /// The token of a WebSocket handshake or a plain request: header first, then subprotocol, then query.
    #[must_use]
    pub fn from_handshake(headers: &HeaderMap, query: Option<&str>) -> Option<Self> {
        Self::from_authorization(headers)
            .or_else(|| Self::from_subprotocols(headers))
            .or_else(|| Self::from_query(query))
    }

    /// The text, for the one who verifies it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    fn after_scheme(text: &str) -> Option<Self> {
        let (scheme, token) = text.trim().split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") { Self::non_empty(token) } else { None }
    }

    fn non_empty(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self::new(text))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// The subprotocols a handshake offers, in the client's order.
pub fn offered_subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn revealed(token: Option<BearerToken>) -> Option<String> {
        token.map(|token| token.reveal().to_owned())
    }

    #[test]
    fn every_key_of_an_init_payload_is_looked_at() {
        for (payload, expected) in [
            (serde_json::json!({"Authorization": "Bearer a.b.c"}), Some("a.b.c")),
            (serde_json::json!({"authorization": "bearer a.b.c"}), Some("a.b.c")),
            (serde_json::json!({"token": "a.b.c"}), Some("a.b.c")),
            (serde_json::json!({"authToken": "a.b.c", "token": null}), Some("a.b.c")),
            (serde_json::json!({"Authorization": 7, "token": "a.b.c"}), Some("a.b.c")),
            (serde_json::json!({"Authorization": "Basic eDp5"}), None),
            (serde_json::json!({"token": ""}), None),
            (serde_json::json!({}), None),
        ] {
            let payload = payload.as_object().expect("an object");
            assert_eq!(revealed(BearerToken::from_init_payload(payload)).as_deref(), expected, "{payload:?}");
        }
    }

    #[test]
    fn a_handshake_may_carry_it_in_three_places() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            revealed(BearerToken::from_handshake(&headers, Some("project_id=1&token=q.q.q"))).as_deref(),
            Some("q.q.q")
        );
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("presence, bearer.s.s.s"));
        assert_eq!(revealed(BearerToken::from_handshake(&headers, Some("token=q.q.q"))).as_deref(), Some("s.s.s"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer h.h.h"));
        assert_eq!(revealed(BearerToken::from_handshake(&headers, None)).as_deref(), Some("h.h.h"));
        assert!(BearerToken::from_query(Some("my_token=x&token=")).is_none());
    }

    #[test]
    fn it_can_not_be_printed() {
        assert_eq!(format!("{:?}", BearerToken::new("secret")), "BearerToken(..)");
    }
}
