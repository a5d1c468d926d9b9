//! Where browsers may come from.
//!
//! A browser tells the origin of the page that asks; other programs tell none and may come from anywhere. A page of an
//! origin that is not allowed gets nothing: no answer it may read (CORS), no socket (which CORS does not cover), and no
//! request is carried out for it. Who asks is still told by the token alone: none of our credentials is sent by a browser of
//! its own accord, so no page can act for its visitor.
//!
//! Allowed are the origins of the settings, and a page that came from the very address it asks, if that address is a
//! number or `localhost`. A *name* must be in the settings, although the page came from there: names can be led to our address
//! by whoever owns them (DNS rebinding).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mille_shared::ErrorCode;
use tower_http::cors::AllowOrigin;

use super::errors::ApiError;

/// Where browsers may come from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins {
    any: bool,
    listed: Arc<[Origin]>,
}

/// A text that should name an origin and does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no origin: write scheme://host or scheme://host:port, or * for any")]
pub struct NoOrigin(String);

/// `scheme://host[:port]` as one text: in lower case, without the port that the scheme has anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// As it would stand in the settings.
impl fmt::Display for AllowedOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.listed.iter().map(|Origin { scheme, host, port }| {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{host}{port}")
        });
        f.write_str(&self.any.then(|| "*".to_owned()).into_iter().chain(listed).collect::<Vec<_>>().join(","))
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?);
        let is_bare = uri.path_and_query().is_none_or(|rest| rest.as_str() == "/");
        let host = authority.host().to_ascii_lowercase();
        let port = port_of(authority.as_str(), &scheme).ok()?;
        // Patterns are not understood, so they must not look as if they were.
        let is_host =
            !host.is_empty() && host.chars().all(|letter| letter.is_alphanumeric() || "-._:[]".contains(letter));
        (is_bare && is_host && !authority.as_str().contains('@')).then_some(Self { scheme, host, port })
    }

    /// Whether the page came from the address that it asks, and that address can't be a name that was led here.
    fn is_address_of(&self, host: &str) -> bool {
        let is_fixed = self.host == "localhost" || self.host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let Ok(asked) = host.parse::<axum::http::uri::Authority>() else { return false };
        is_fixed
            && self.host == asked.host().to_ascii_lowercase()
            && port_of(asked.as_str(), &self.scheme).is_ok_and(|port| port == self.port)
    }
}

/// The port of an authority, `None` for the one that the scheme has anyway.
fn port_of(authority: &str, scheme: &str) -> Result<Option<u16>, ()> {
    // An IPv6 address has colons of its own, in brackets.
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    let port = match after_host.rsplit_once(':') {
        None | Some((_, "")) => return Ok(None),
        Some((_, port)) => port.parse::<u16>().map_err(drop)?,
    };
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Ok(Some(port).filter(|port| Some(*port) != usual))
}

impl AllowedOrigins {
    /// The origins of the settings, where `*` means any.
    ///
    /// # Errors
    /// [`NoOrigin`] for an entry that is none, such as `null`, behind which any page may stand.
    pub fn parse(origins: &[String]) -> Result<Self, NoOrigin> {
        let entries = origins.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty());
        let (any, named): (Vec<_>, Vec<_>) = entries.partition(|entry| *entry == "*");
        let listed = named.into_iter().map(|entry| Origin::parse(entry).ok_or_else(|| NoOrigin(entry.to_owned())));
        Ok(Self { any: !any.is_empty(), listed: listed.collect::<Result<_, _>>()? })
    }

    /// For the layer that answers browsers which ask what they may. Credentials are never allowed: we have none that a
    /// browser would send.
    pub(super) fn for_cors(self) -> AllowOrigin {
        AllowOrigin::predicate(move |origin: &HeaderValue, parts: &request::Parts| self.allows(origin, &parts.headers))
    }

    fn allows(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        if self.any {
            return true;
        }
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return false };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.listed.contains(&origin) || host.is_some_and(|host| origin.is_address_of(host))
    }

    /// Whether all that is said of the origin is allowed; a request that names several is made by no browser.
    fn allow_all(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::ORIGIN).iter().all(|origin| self.allows(origin, headers))
    }
}

/// Turns away what comes from elsewhere, before anything is done for it.
pub(super) async fn check(State(allowed): State<AllowedOrigins>, request: Request, next: Next) -> Response {
    if allowed.allow_all(request.headers()) {
        return next.run(request).await;
    }
    ApiError::new(ErrorCode::Forbidden, "this origin is not allowed (MILLE_ALLOWED_ORIGINS)").into_response()
}

/// Turns away every page. For the admin listener, which knows no tokens: any page that its operator looks at could post to
/// it. A page that is opened there by hand tells no origin.
pub(super) async fn refuse_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return ApiError::new(ErrorCode::Forbidden, "this is no place for pages of a browser").into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(listed: &[&str], origin: &str, host: &str) -> bool {
        let listed: Vec<String> = listed.iter().map(|entry| (*entry).to_owned()).collect();
        let allowed = AllowedOrigins::parse(&listed).expect("origins");
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a host"));
        headers.insert(header::ORIGIN, origin.parse().expect("a value"));
        allowed.allow_all(&headers)
    }

    #[test]
    fn an_origin_is_compared_as_browsers_mean_it() {
        let listed =
            ["https://App.example/", "http://dev.example:8080", "http://[2001:DB8::1]:5173", "tauri://localhost"];
        for (origin, expected) in [
            ("https://app.example", true),
            ("HTTPS://APP.EXAMPLE", true),
            ("https://app.example:443", true),
            ("https://app.example:8443", false),
            ("http://app.example", false),
            ("https://app.example.evil.example", false),
            ("https://evil-app.example", false),
            ("https://x@app.example", false),
            ("https://app.example/path", false),
            ("http://dev.example:8080", true),
            ("http://dev.example", false),
            ("http://[2001:db8::1]:5173", true),
            ("http://[2001:db8::2]:5173", false),
            ("tauri://localhost", true),
            ("null", false),
            ("", false),
            ("https://", false),
            ("https://app.example https://evil.example", false),
        ] {
            assert_eq!(allowed(&listed, origin, "node.example"), expected, "{origin}");
        }
    }

    #[test]
    fn a_page_may_ask_the_address_it_came_from_but_a_name_must_be_in_the_settings() {
        for (origin, host, expected) in [
            ("http://127.0.0.1:4000", "127.0.0.1:4000", true),
            ("http://localhost:4000", "localhost:4000", true),
            ("http://LOCALHOST:4000", "LocalHost:4000", true),
            ("http://[::1]:4000", "[::1]:4000", true),
            ("https://10.0.0.7", "10.0.0.7:443", true),
            ("http://10.0.0.7:80", "10.0.0.7", true),
            ("https://10.0.0.7", "10.0.0.7:80", false),
            ("http://127.0.0.1:4001", "127.0.0.1:4000", false),
            ("http://localhost:4000", "127.0.0.1:4000", false),
            ("http://[::1]:4000", "[::2]:4000", false),
            // Led to our address by its owner: the page and the host agree, and prove nothing.
            ("http://evil.example:4000", "evil.example:4000", false),
            ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", false),
            ("null", "null", false),
        ] {
            assert_eq!(allowed(&[], origin, host), expected, "{origin} at {host}");
        }
    }

    #[test]
    fn a_star_means_any_and_several_origins_must_all_be_allowed() {
        for origin in ["https://evil.example", "null"] {
            assert!(allowed(&["*"], origin, "node.example"), "{origin}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::ORIGIN, HeaderValue::from_static("https://app.example"));
        let ours = AllowedOrigins::parse(&["https://app.example".to_owned()]).expect("an origin");
        assert!(ours.allow_all(&headers));
        headers.append(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(!ours.allow_all(&headers));
    }

    #[test]
    fn an_entry_that_is_no_origin_is_named() {
        for entry in
            ["null", "app.example", "localhost:4000", "https://*.example", "https://app.example/app", "https://a:b"]
        {
            let refused = AllowedOrigins::parse(&[entry.to_owned()]).err();
            assert_eq!(refused, Some(NoOrigin(entry.to_owned())));
        }
        assert!(AllowedOrigins::parse(&[String::new(), " https://app.example ".to_owned()]).is_ok());
    }
}
