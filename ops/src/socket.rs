//! One subscription over graphql-transport-ws, and the plain socket below it.
//!
//! One socket carries one subscription: a command that follows something needs no more, and every way it
//! can end is then an end of the subscription. What to do about it (resume, give up) is the caller's
//! decision; [`Ended`] tells it which.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use crate::client::GraphqlError;

const PROTOCOL: &str = "graphql-transport-ws";

/// Patience for each step until the subscription stands.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after which we ask whether anyone is there, and after as much again take it for a dead link.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The one operation on the socket.
const OPERATION_ID: &str = "1";

/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a socket or its subscription brings no more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The server says it is over, and nothing will change that.
    Completed,
    /// The operation was refused or ended with an error.
    Refused(GraphqlError),
    /// The server closed the socket.
    Closed {
        /// Close code; 1006 when there was none.
        code: u16,
        /// As the server gave it.
        reason: String,
    },
    /// The link broke or fell silent.
    Lost(String),
}

/// A message of the protocol; what it carries is read when it is known what it must be.
#[derive(Debug, Deserialize)]
struct Incoming<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// The payload of `next`.
#[derive(Debug, Deserialize)]
struct Next<T> {
    data: Option<T>,
    #[serde(default)]
    errors: Vec<Value>,
}

/// A WebSocket that carries JSON texts.
#[derive(Debug)]
pub(crate) struct Link {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// The side of a socket that is written, and the side that is read.
pub(crate) type Outward = SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>;
pub(crate) type Inward = SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>;

/// A running subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    link: Link,
    asked: bool,
}

impl Link {
    /// Connects to `url` (http://… or https://…) at this path, with one header more than every handshake has.
    ///
    /// # Errors
    /// [`Ended::Lost`] with what kept us from it.
    pub(crate) async fn open(url: &str, path: &str, header: (HeaderName, HeaderValue)) -> Result<Self, Ended> {
        connect(url, path, header).await.map_err(|error| Ended::Lost(format!("{error:#}")))
    }

    /// Connects to `url` (http://… or https://…) for GraphQL, and shows no token yet.
    ///
    /// # Errors
    /// [`Ended::Lost`] with what kept us from it.
    pub(crate) async fn open_graphql(url: &str) -> Result<Self, Ended> {
        let offered = (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        Self::open(url, "/graphql/ws", offered).await
    }

    /// Shows `token`, and waits until it is acknowledged.
    ///
    /// # Errors
    /// [`Ended`] says whether trying again may help.
    pub(crate) async fn greet(&mut self, token: &str) -> Result<(), Ended> {
        let init = json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } });
        self.send(init.to_string()).await?;
        let greeting = async {
            loop {
                let message = self.receive().await?;
                match parse(&message)?.r#type {
                    "connection_ack" => return Ok(()),
                    "ping" => self.send(pong()).await?,
                    other => return Err(Ended::Lost(format!("expected connection_ack, got {other}"))),
                }
            }
        };
        match timeout(STEP_TIMEOUT, greeting).await {
            Ok(greeted) => greeted,
            Err(_) => Err(Ended::Lost("the server did not acknowledge the connection".into())),
        }
    }

    /// The two sides apart, for whoever writes without waiting for what is to be read.
    pub(crate) fn split(self) -> (Outward, Inward) {
        self.stream.split()
    }

    /// The next message that carries text. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Ended`]; there will be no more.
    pub(crate) async fn receive(&mut self) -> Result<Message, Ended> {
        loop {
            let message = match self.stream.next().await {
                None => return Err(Ended::Closed { code: 1006, reason: "the connection broke".into() }),
                Some(Err(error)) => return Err(Ended::Lost(error.to_string())),
                Some(Ok(message)) => message,
            };
            if let Some((code, reason)) = message.as_close() {
                return Err(Ended::Closed { code: u16::from(code), reason: reason.to_owned() });
            }
            if message.is_text() {
                return Ok(message);
            }
            // Pings and pongs of WebSocket itself are answered by the library.
        }
    }

    /// Sends a text and waits until the kernel has it.
    ///
    /// # Errors
    /// [`Ended::Lost`] when the socket is gone or takes nothing.
    pub(crate) async fn send(&mut self, text: String) -> Result<(), Ended> {
        match timeout(STEP_TIMEOUT, self.stream.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ended::Lost(error.to_string())),
            Err(_) => Err(Ended::Lost("the server takes nothing".into())),
        }
    }

    /// Closes; a server that does not answer is not waited for.
    pub(crate) async fn close(mut self) {
        drop(timeout(GOODBYE_TIMEOUT, self.stream.close()).await);
    }
}

impl Subscription {
    /// Opens a socket to `url` (http://… or https://…), shows `token` and subscribes.
    ///
    /// # Errors
    /// [`Ended`] says whether trying again may help.
    pub(crate) async fn open(url: &str, token: &str, query: &str, variables: Value) -> Result<Self, Ended> {
        let mut link = Link::open_graphql(url).await?;
        link.greet(token).await?;
        let subscribe = json!({
            "id": OPERATION_ID,
            "type": "subscribe",
            "payload": { "query": query, "variables": variables },
        });
        link.send(subscribe.to_string()).await?;
        Ok(Self { link, asked: false })
    }

    /// The next event's `data`. Answers pings meanwhile.
    ///
    /// # Errors
    /// [`Ended`]; there will be no more events.
    pub(crate) async fn next(&mut self) -> Result<Value, Ended> {
        self.next_as().await
    }

    /// The next event's `data`, read as what the caller needs of it and no more. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Ended`]; there will be no more events.
    pub(crate) async fn next_as<T: DeserializeOwned>(&mut self) -> Result<T, Ended> {
        loop {
            let message = match timeout(SILENCE_MAX, self.link.receive()).await {
                Ok(received) => received?,
                Err(_) if self.asked => return Err(Ended::Lost("the link fell silent".into())),
                Err(_) => {
                    self.asked = true;
                    self.link.send(json!({ "type": "ping" }).to_string()).await?;
                    continue;
                }
            };
            self.asked = false;
            let message = parse(&message)?;
            let payload = message.payload.map_or("null", RawValue::get);
            match message.r#type {
                "next" => return read_event(payload),
                "error" => {
                    let errors: Value = serde_json::from_str(payload).unwrap_or_default();
                    return Err(Ended::Refused(GraphqlError::from_json(&errors[0])));
                }
                "complete" => return Err(Ended::Completed),
                "ping" => self.link.send(pong()).await?,
                // Whatever a later server may say beside this is not for us.
                _ => {}
            }
        }
    }

    /// Says goodbye; a server that does not answer is not waited for.
    pub(crate) async fn close(mut self) {
        let complete = json!({ "id": OPERATION_ID, "type": "complete" });
        let goodbye = async {
            drop(self.link.send(complete.to_string()).await);
            self.link.close().await;
        };
        drop(timeout(GOODBYE_TIMEOUT, goodbye).await);
    }
}

fn pong() -> String {
    json!({ "type": "pong" }).to_string()
}

fn parse(message: &Message) -> Result<Incoming<'_>, Ended> {
    let text = message.as_text().unwrap_or_default();
    serde_json::from_str(text)
        .map_err(|_| Ended::Lost(format!("the server sent no message of the protocol: {text:.80}")))
}

fn read_event<T: DeserializeOwned>(payload: &str) -> Result<T, Ended> {
    let unreadable = |why: String| Ended::Lost(format!("the server sent an event we can't read: {why}"));
    let next: Next<T> = serde_json::from_str(payload).map_err(|error| unreadable(error.to_string()))?;
    if let Some(error) = next.errors.first() {
        return Err(Ended::Refused(GraphqlError::from_json(error)));
    }
    next.data.ok_or_else(|| unreadable("it has no data".to_owned()))
}

async fn connect(url: &str, path: &str, (name, value): (HeaderName, HeaderValue)) -> Result<Link> {
    let rest = url.strip_prefix("http").with_context(|| format!("{url} is no address of HTTP"))?;
    let uri: Uri = format!("ws{rest}{path}").parse().with_context(|| format!("{url} is no address"))?;
    let builder = ClientBuilder::from_uri(uri).add_header(name, value)?;
    let (stream, response) = timeout(STEP_TIMEOUT, builder.connect())
        .await
        .context("no answer to the handshake")?
        .with_context(|| format!("can't connect to {url}"))?;
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    // A server that offers nothing closes with 4406 a moment later and says so itself.
    anyhow::ensure!(chosen.is_none_or(|name| name == PROTOCOL), "the server chose another protocol: {chosen:?}");
    Ok(Link { stream })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    struct Small {
        n: u32,
    }

    #[test]
    fn of_an_event_only_what_is_asked_for_is_read() {
        let event: Small = read_event(r#"{"data":{"other":[1,2],"n":7}}"#).expect("an event");
        assert_eq!(event, Small { n: 7 });
    }

    #[test]
    fn an_event_with_errors_is_a_refusal_and_one_without_data_is_a_fault() {
        let refused = r#"{"data":null,"errors":[{"message":"m","extensions":{"code":"FORBIDDEN"}}]}"#;
        assert!(matches!(read_event::<Small>(refused), Err(Ended::Refused(error)) if error.code == "FORBIDDEN"));
        assert!(matches!(read_event::<Small>("null"), Err(Ended::Lost(_))));
        assert!(matches!(read_event::<Small>("{}"), Err(Ended::Lost(_))));
    }
}
