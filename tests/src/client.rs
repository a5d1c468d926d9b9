//! GraphQL over HTTP, as any client would speak it.
//!
//! A refusal is data here, with its HTTP status and its whole `extensions`; an answer that never came is
//! something else, since nobody knows what happened to the operation.

use std::fmt::Debug;

use anyhow::{Result, bail};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::patience::patience;
use crate::stream::EventStream;
use crate::tls::Authority;

/// Seconds until an answer counts as lost.
const ANSWER_SECONDS: f64 = 15.0;

/// What a request came back with.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The HTTP headers.
    pub headers: HeaderMap,
    /// The body; `null` if it is no JSON.
    pub body: Value,
}

/// A refusal by the cluster: it understood, and said no.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code}: {message} (HTTP {status})")]
pub struct Refusal {
    /// The HTTP status, 0 on a socket.
    pub status: u16,
    /// `extensions.code`, empty if there is none.
    pub code: String,
    /// The text for people.
    pub message: String,
    /// The whole `extensions`.
    pub extensions: Value,
}

/// Why an operation brought no data.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The cluster refused. Nothing was changed.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// No answer. The change may have landed: repeat it with the same operation id.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

/// One user at one node, over HTTP.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    pub(crate) base: String,
    pub(crate) user: String,
    pub(crate) token: Option<String>,
    pub(crate) client_id: Option<String>,
    pub(crate) traceparent: Option<String>,
}

impl Client {
    /// A client of the node at `base` (`http://host:port`), without a token.
    ///
    /// # Panics
    /// When no HTTP client can be built, which only a broken build can bring.
    #[must_use]
    pub fn new(base: &str) -> Self {
        // Refused if it is there already, which is all we want.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let http = reqwest::Client::builder()
            .timeout(patience(ANSWER_SECONDS))
            .no_proxy()
            .build()
            .expect("an HTTP client needs nothing from outside");
        Self { http, base: base.to_owned(), user: String::new(), token: None, client_id: None, traceparent: None }
    }

    /// A client of the node at `base` (`https://host:port`), which trusts only what `authority` vouches for.
    ///
    /// # Errors
    /// When the authority's certificate can't be read.
    pub fn trusting(base: &str, authority: &Authority) -> Result<Self> {
        let root = reqwest::Certificate::from_pem(&std::fs::read(authority.file())?)?;
        let plain = Self::new(base);
        let http = reqwest::Client::builder().timeout(patience(ANSWER_SECONDS)).no_proxy();
        Ok(Self { http: http.tls_certs_only([root]).build()?, ..plain })
    }

    /// The same, with `token` and known to the kit as `user`.
    #[must_use]
    pub fn with_token(mut self, user: &str, token: impl Into<String>) -> Self {
        self.user = user.to_owned();
        self.token = Some(token.into());
        self
    }

    /// The same, named `client_id` to the cluster (`X-Client-Id`).
    #[must_use]
    pub fn named(mut self, client_id: &str) -> Self {
        self.client_id = Some(client_id.to_owned());
        self
    }

    /// The same, as a part of a trace: over HTTP and over sockets that it opens.
    #[must_use]
    pub fn traced(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }

    /// The same user at another node.
    #[must_use]
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// The user's id, empty without a token.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The address of the node, `http://host:port`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Runs one document and returns `data`.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the first error, [`Failure::NoAnswer`] when no answer came.
    pub async fn run(&self, document: &str, variables: Value) -> Result<Value, Failure> {
        let answer = self.post(&json!({"query": document, "variables": variables})).await?;
        answer.data()
    }

    /// Posts any JSON to `/graphql`.
    ///
    /// # Errors
    /// [`Failure::NoAnswer`].
    pub async fn post(&self, body: &Value) -> Result<Answer, Failure> {
        self.post_text("/graphql", "application/json", body.to_string()).await
    }

    /// Posts any text to any path.
    ///
    /// # Errors
    /// [`Failure::NoAnswer`].
    pub async fn post_text(&self, path: &str, content_type: &str, body: String) -> Result<Answer, Failure> {
        let request = self.http.post(format!("{}{path}", self.base)).headers(self.headers()).body(body);
        let response = request.header("content-type", content_type).send().await.map_err(no_answer)?;
        read(response).await
    }

    /// Opens a graphql-sse stream for one operation and returns what it was answered with at once:
    /// the whole answer of a refusal, or status and headers of a stream, which is dropped again.
    ///
    /// # Errors
    /// [`Failure::NoAnswer`].
    pub async fn knock_at_stream(&self, document: &str, variables: Value) -> Result<Answer, Failure> {
        let response = self.ask_for_stream(document, variables).await?;
        if response.status().is_success() {
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            return Ok(Answer { status, headers, body: Value::Null });
        }
        read(response).await
    }

    /// Opens a graphql-sse stream for one operation.
    ///
    /// # Errors
    /// [`Failure::Refused`] when there is none, [`Failure::NoAnswer`].
    pub async fn stream(&self, document: &str, variables: Value) -> Result<EventStream, Failure> {
        let response = self.ask_for_stream(document, variables).await?;
        if response.status().is_success() {
            return Ok(EventStream::over(response));
        }
        let answer = read(response).await?;
        Err(answer.refusal().map_or_else(|| Failure::NoAnswer(format!("{answer:?}")), Failure::Refused))
    }

    async fn ask_for_stream(&self, document: &str, variables: Value) -> Result<reqwest::Response, Failure> {
        let request = self
            .http
            .post(format!("{}/graphql/stream", self.base))
            .headers(self.headers())
            .header("content-type", "application/json")
            .header("accept", "text/event-stream")
            .body(json!({"query": document, "variables": variables}).to_string());
        request.send().await.map_err(no_answer)
    }

    /// Gets any path.
    ///
    /// # Errors
    /// [`Failure::NoAnswer`].
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let request = self.http.get(format!("{}{path}", self.base)).headers(self.headers());
        read(request.send().await.map_err(no_answer)?).await
    }

    /// Gets any path that answers with text.
    ///
    /// # Errors
    /// [`Failure::NoAnswer`].
    pub async fn get_text(&self, path: &str) -> Result<String, Failure> {
        let request = self.http.get(format!("{}{path}", self.base)).headers(self.headers());
        request.send().await.map_err(no_answer)?.text().await.map_err(no_answer)
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token
            && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            headers.insert("authorization", value);
        }
        if let Some(id) = &self.client_id
            && let Ok(value) = HeaderValue::from_str(id)
        {
            headers.insert(HeaderName::from_static("x-client-id"), value);
        }
        if let Some(trace) = &self.traceparent
            && let Ok(value) = HeaderValue::from_str(trace)
        {
            headers.insert(HeaderName::from_static("traceparent"), value);
        }
        headers
    }
}

impl Answer {
    /// `data`, if there is no error.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the first error; also for an answer that is no GraphQL at all.
    pub fn data(self) -> Result<Value, Failure> {
        match self.refusal() {
            Some(refusal) => Err(refusal.into()),
            None => Ok(self.body["data"].clone()),
        }
    }

    /// The first error, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        if let Some(refusal) = first_refusal(&self.body["errors"], self.status) {
            return Some(refusal);
        }
        if self.status == 200 && self.body.get("data").is_some() {
            return None;
        }
        Some(Refusal {
            status: self.status,
            code: String::new(),
            message: format!("no GraphQL answer: {}", self.body),
            extensions: Value::Null,
        })
    }
}

/// The refusal that a test waits for.
///
/// # Errors
/// When the operation went through, or was not answered.
pub fn refused<T: Debug>(outcome: Result<T, Failure>) -> Result<Refusal> {
    match outcome {
        Err(Failure::Refused(refusal)) => Ok(refusal),
        Err(failure) => Err(failure.into()),
        Ok(data) => bail!("this should have been refused, but brought {data:?}"),
    }
}

/// The first of a GraphQL answer's `errors`.
pub(crate) fn first_refusal(errors: &Value, status: u16) -> Option<Refusal> {
    let error = errors.as_array()?.first()?;
    Some(Refusal {
        status,
        code: error["extensions"]["code"].as_str().unwrap_or_default().to_owned(),
        message: error["message"].as_str().unwrap_or_default().to_owned(),
        extensions: error["extensions"].clone(),
    })
}

async fn read(response: reqwest::Response) -> Result<Answer, Failure> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.map_err(no_answer)?;
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer { status, headers, body })
}

fn no_answer(error: reqwest::Error) -> Failure {
    Failure::NoAnswer(format!("{:#}", anyhow::Error::from(error)))
}
