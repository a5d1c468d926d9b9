//! One subscription over graphql-transport-ws.
//!
//! One socket carries one subscription: a command that follows something needs no more, and every way it
//! can end is then an end of the subscription. What to do about it (resume, give up) is the caller's
//! decision; [`Ended`] tells it which.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Uri};
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

/// Why a subscription brings no more events.
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

/// A running subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: bool,
}

impl Subscription {
    /// Opens a socket to `url` (http://…), shows `token` and subscribes.
    ///
    /// # Errors
    /// [`Ended`] says whether trying again may help.
    pub(crate) async fn open(url: &str, token: &str, query: &str, variables: Value) -> Result<Self, Ended> {
        let mut stream = connect(url).await.map_err(|error| Ended::Lost(format!("{error:#}")))?;
        let init = json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } });
        let subscribe = json!({
            "id": OPERATION_ID,
            "type": "subscribe",
            "payload": { "query": query, "variables": variables },
        });
        send(&mut stream, &init).await?;
        let mut subscription = Self { stream, asked: false };
        let greeting = async {
            loop {
                let message = subscription.receive().await?;
                match message["type"].as_str() {
                    Some("connection_ack") => return Ok(()),
                    Some("ping") => send(&mut subscription.stream, &json!({ "type": "pong" })).await?,
                    _ => return Err(Ended::Lost(format!("expected connection_ack, got {message}"))),
                }
            }
        };
        match timeout(STEP_TIMEOUT, greeting).await {
            Ok(greeted) => greeted?,
            Err(_) => return Err(Ended::Lost("the server did not acknowledge the connection".into())),
        }
        send(&mut subscription.stream, &subscribe).await?;
        Ok(subscription)
    }

    /// The next event's `data`. Answers pings meanwhile.
    ///
    /// # Errors
    /// [`Ended`]; there will be no more events.
    pub(crate) async fn next(&mut self) -> Result<Value, Ended> {
        loop {
            let mut message = match timeout(SILENCE_MAX, self.receive()).await {
                Ok(received) => received?,
                Err(_) if self.asked => return Err(Ended::Lost("the link fell silent".into())),
                Err(_) => {
                    self.asked = true;
                    send(&mut self.stream, &json!({ "type": "ping" })).await?;
                    continue;
                }
            };
            self.asked = false;
            match message["type"].as_str() {
                Some("next") => {
                    if let Some(error) = message["payload"]["errors"].get(0) {
                        return Err(Ended::Refused(GraphqlError::from_json(error)));
                    }
                    return Ok(message["payload"]["data"].take());
                }
                Some("error") => return Err(Ended::Refused(GraphqlError::from_json(&message["payload"][0]))),
                Some("complete") => return Err(Ended::Completed),
                Some("ping") => send(&mut self.stream, &json!({ "type": "pong" })).await?,
                // Whatever a later server may say beside this is not for us.
                _ => {}
            }
        }
    }

    /// Says goodbye; a server that does not answer is not waited for.
    pub(crate) async fn close(mut self) {
        let goodbye = async {
            drop(send(&mut self.stream, &json!({ "id": OPERATION_ID, "type": "complete" })).await);
            drop(self.stream.close().await);
        };
        drop(timeout(Duration::from_millis(500), goodbye).await);
    }

    /// The next message of the protocol.
    async fn receive(&mut self) -> Result<Value, Ended> {
        loop {
            let message = match self.stream.next().await {
                None => return Err(Ended::Closed { code: 1006, reason: "the connection broke".into() }),
                Some(Err(error)) => return Err(Ended::Lost(error.to_string())),
                Some(Ok(message)) => message,
            };
            if let Some((code, reason)) = message.as_close() {
                return Err(Ended::Closed { code: u16::from(code), reason: reason.to_owned() });
            }
            if let Some(text) = message.as_text() {
                return serde_json::from_str(text)
                    .map_err(|_| Ended::Lost(format!("the server sent no JSON: {text:.80}")));
            }
            // Pings and pongs of WebSocket itself are answered by the library.
        }
    }
}

async fn connect(url: &str) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let Some(rest) = url.strip_prefix("http://") else {
        anyhow::bail!("following needs a plain http:// address; {url} has none (reach it through a tunnel)");
    };
    let uri: Uri = format!("ws://{rest}/graphql/ws").parse().with_context(|| format!("{url} is no address"))?;
    let builder =
        ClientBuilder::from_uri(uri).add_header(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL))?;
    let (stream, response) = timeout(STEP_TIMEOUT, builder.connect())
        .await
        .context("no answer to the handshake")?
        .with_context(|| format!("can't connect to {url}"))?;
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    // A server that offers nothing closes with 4406 a moment later and says so itself.
    anyhow::ensure!(chosen.is_none_or(|name| name == PROTOCOL), "the server chose another protocol: {chosen:?}");
    Ok(stream)
}

async fn send(stream: &mut WebSocketStream<MaybeTlsStream<TcpStream>>, message: &Value) -> Result<(), Ended> {
    match timeout(STEP_TIMEOUT, stream.send(Message::text(message.to_string()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Ended::Lost(error.to_string())),
        Err(_) => Err(Ended::Lost("the server takes nothing".into())),
    }
}
