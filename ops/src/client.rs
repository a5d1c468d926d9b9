//! GraphQL over HTTP, as a client outside the cluster sees it.
//!
//! A cluster has several doors. A request goes to the first that takes the connection: one that was never
//! connected was never sent, so trying the next can't repeat an edit. Repeating an edit that may have
//! happened is up to the caller, who knows its operation id.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::target::Target;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Characters of an answer that is no GraphQL that are worth showing.
const BODY_SHOWN_MAX: usize = 300;

/// An error that the cluster answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphqlError {
    /// `extensions.code`; empty if there was none.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// Whether the cluster says that trying again may help.
    pub(crate) retryable: bool,
    /// How long to wait before that, if it says.
    pub(crate) retry_after: Option<Duration>,
}

impl GraphqlError {
    /// Reads one entry of `errors`.
    pub(crate) fn from_json(error: &Value) -> Self {
        let extensions = &error["extensions"];
        Self {
            code: extensions["code"].as_str().unwrap_or_default().to_owned(),
            message: error["message"].as_str().unwrap_or("an error without a message").to_owned(),
            retryable: extensions["retryable"].as_bool().unwrap_or(false),
            retry_after: extensions["retryAfterMs"].as_u64().map(Duration::from_millis),
        }
    }
}

impl fmt::Display for GraphqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() { f.write_str(&self.message) } else { write!(f, "{} ({})", self.message, self.code) }
    }
}

impl std::error::Error for GraphqlError {}

/// Asks one cluster, as one user.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    target: Target,
    client_id: String,
}

impl Client {
    /// A client that calls itself `client_id`; the cluster remembers operation ids per client.
    ///
    /// # Errors
    /// When the TLS library can't start.
    pub(crate) fn new(target: Target, client_id: &str) -> Result<Self> {
        let local = target.urls.iter().all(|url| is_loopback(url));
        Ok(Self { http: http(local, REQUEST_TIMEOUT)?, target, client_id: client_id.to_owned() })
    }

    /// Runs a query or mutation and returns its `data`.
    ///
    /// # Errors
    /// [`GraphqlError`] (to be found by downcast) when the cluster refused, else what kept us from asking.
    pub(crate) async fn ask(&self, query: &str, variables: Value) -> Result<Value> {
        let body = json!({ "query": query, "variables": variables });
        let mut unreachable = None;
        for url in &self.target.urls {
            let request = self
                .http
                .post(format!("{url}/graphql"))
                .bearer_auth(self.target.token()?)
                .header("X-Client-Id", &self.client_id)
                .json(&body);
            match request.send().await {
                Ok(response) => return read_answer(response).await,
                Err(error) if error.is_connect() => unreachable = Some(anyhow::Error::new(error)),
                Err(error) => return Err(error).with_context(|| format!("no answer from {url}")),
            }
        }
        let doors = self.target.urls.join(", ");
        Err(unreachable.unwrap_or_else(|| anyhow::anyhow!("no address to ask")).context(format!("can't reach {doors}")))
    }
}

/// An HTTP client; for the loopback one that ignores the proxies of the environment, which can't lead there.
///
/// # Errors
/// When the TLS library can't start.
pub(crate) fn http(local: bool, timeout: Duration) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(timeout);
    let builder = if local { builder.no_proxy() } else { builder };
    builder.build().context("can't make an HTTP client")
}

/// Whether an address leads to this machine and can't lead elsewhere.
pub(crate) fn is_loopback(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        let host = uri.host().unwrap_or_default();
        host == "localhost" || host == "[::1]" || host.starts_with("127.")
    })
}

async fn read_answer(response: reqwest::Response) -> Result<Value> {
    let status = response.status();
    let text = response.text().await.context("the answer broke off")?;
    let Ok(mut answer) = serde_json::from_str::<Value>(&text) else {
        let shown: String = text.chars().take(BODY_SHOWN_MAX).collect();
        anyhow::bail!("HTTP {status}, and no GraphQL answer: {shown}");
    };
    if let Some(error) = answer["errors"].get(0) {
        return Err(anyhow::Error::new(GraphqlError::from_json(error)));
    }
    anyhow::ensure!(answer["data"].is_object(), "HTTP {status}, and an answer without data");
    Ok(answer["data"].take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_code_and_its_advice() {
        let error = GraphqlError::from_json(&json!({
            "message": "too fast",
            "extensions": {"code": "RATE_LIMITED", "retryable": true, "retryAfterMs": 250},
        }));
        assert_eq!(error.to_string(), "too fast (RATE_LIMITED)");
        assert!(error.retryable);
        assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
    }

    #[test]
    fn an_error_without_extensions_is_still_one() {
        let error = GraphqlError::from_json(&json!({"message": "odd"}));
        assert_eq!((error.to_string().as_str(), error.retryable), ("odd", false));
    }

    #[test]
    fn only_this_machine_is_local() {
        assert!(
            is_loopback("http://127.0.0.1:4000")
                && is_loopback("http://localhost:4000")
                && is_loopback("http://[::1]:1")
        );
        assert!(!is_loopback("https://mille.example.org") && !is_loopback("http://10.0.0.1"));
    }
}
