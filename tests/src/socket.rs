//! A polite graphql-transport-ws client: init, ping and pong, many operations on one socket.
//!
//! A task owns the connection and hands each operation its own bounded stream. A stream nobody reads fills
//! up and then stops the whole socket, as a slow browser does; so a test that wants a slow reader just
//! doesn't read.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::client::{Client, Failure, Refusal, first_refusal};
use crate::documents as d;
use crate::patience::{soon, within};
use crate::people::Project;
use crate::wire::{Closing, Frame, RawSocket};

/// Events of one operation that may wait unread.
const EVENTS_MAX: usize = 4_096;
/// Messages of a test that may wait for the socket.
const COMMANDS_MAX: usize = 64;
/// The subprotocol spoken here.
const SUBPROTOCOL: &str = "graphql-transport-ws";

/// What an operation brings.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A `next` frame's payload.
    Next(Value),
    /// An `error` frame's payload. Nothing comes after it.
    Error(Value),
    /// A `complete` frame. Nothing comes after it.
    Complete,
    /// The socket ended. Nothing comes after it.
    Closed(Closing),
}

/// An open socket, past `connection_ack`. It lives as long as it or one of its subscriptions is held;
/// then its connection is cut without a close frame.
#[derive(Debug)]
pub struct Socket {
    commands: mpsc::Sender<Command>,
    closed: watch::Receiver<Option<Closing>>,
    pings: watch::Receiver<Vec<Value>>,
    next_id: AtomicU64,
    /// Sent along with each operation.
    extensions: Option<Value>,
}

/// One running operation. Dropping it tells the node to stop.
#[derive(Debug)]
pub struct Subscription {
    id: String,
    events: mpsc::Receiver<Event>,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Start { id: String, payload: Value, events: mpsc::Sender<Event> },
    Stop { id: String },
    Close,
}

impl Socket {
    /// Connects with the client's token and waits for `connection_ack`.
    ///
    /// # Errors
    /// When there is no socket, or it is closed before the ack; the message names the close code.
    pub async fn connect(client: &Client) -> Result<Self> {
        let mut payload = json!({});
        if let Some(token) = &client.token {
            payload["Authorization"] = json!(format!("Bearer {token}"));
        }
        if let Some(id) = &client.client_id {
            payload["clientId"] = json!(id);
        }
        match Self::init(&client.base, payload).await? {
            Ok(socket) => {
                let extensions = client.traceparent.as_ref().map(|trace| json!({"traceparent": trace}));
                Ok(Self { extensions, ..socket })
            }
            Err(closing) => bail!("the socket was closed at connection_init: {closing:?}"),
        }
    }

    /// Connects to the node at `base` with any `connection_init` payload. The inner error is the close
    /// that came instead of the ack.
    ///
    /// # Errors
    /// When there is no socket at all, or no answer.
    pub async fn init(base: &str, payload: Value) -> Result<Result<Self, Closing>> {
        let url = format!("{}/graphql/ws", base.replacen("http", "ws", 1));
        let mut raw = RawSocket::open(&url, &[SUBPROTOCOL]).await?;
        raw.text(json!({"type": "connection_init", "payload": payload}).to_string()).await?;
        loop {
            match within(soon(), "connection_ack", raw.next()).await? {
                Frame::Text(text) => {
                    let message: Value = serde_json::from_str(&text)?;
                    match message["type"].as_str() {
                        Some("connection_ack") => return Ok(Ok(Self::run(raw))),
                        Some("ping") => raw.text(r#"{"type":"pong"}"#).await?,
                        _ => bail!("connection_ack was expected, not {text}"),
                    }
                }
                Frame::Closed(closing) => return Ok(Err(closing)),
                Frame::Control => {}
                Frame::Binary(_) => bail!("a binary frame before connection_ack"),
            }
        }
    }

    /// Starts an operation.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn start(&self, document: &str, variables: Value) -> Result<Subscription> {
        let id = format!("op-{}", self.next_id.fetch_add(1, Ordering::Relaxed));
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut payload = json!({"query": document, "variables": variables});
        if let Some(extensions) = &self.extensions {
            payload["extensions"] = extensions.clone();
        }
        let command = Command::Start { id: id.clone(), payload, events: sender };
        if self.commands.send(command).await.is_err() {
            bail!("the socket is closed: {:?}", *self.closed.borrow());
        }
        Ok(Subscription { id, events, commands: self.commands.clone() })
    }

    /// Follows a plan's deltas: after a revision, or from a snapshot when `after` is `None`.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn follow(&self, project: &Project, after: Option<&str>) -> Result<Subscription> {
        let variables = json!({"p": project.id, "plan": project.plan, "after": after, "snapshot": after.is_none()});
        self.start(d::FOLLOW, variables).await
    }

    /// Runs a query or a mutation over the socket and brings its data.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn run_one(&self, document: &str, variables: Value) -> Result<Value, Failure> {
        let lost = |error: anyhow::Error| Failure::NoAnswer(format!("{error:#}"));
        let mut operation = self.start(document, variables).await.map_err(lost)?;
        match operation.next().await.map_err(lost)? {
            Event::Next(payload) => match first_refusal(&payload["errors"], 0) {
                Some(refusal) => Err(refusal.into()),
                None => Ok(payload["data"].clone()),
            },
            Event::Error(errors) => Err(first_refusal(&errors, 0)
                .map_or_else(|| Failure::NoAnswer(format!("an error without errors: {errors}")), Failure::Refused)),
            other => Err(Failure::NoAnswer(format!("{other:?}"))),
        }
    }

    /// How the socket ends.
    ///
    /// # Errors
    /// When it stays open for `patience`.
    pub async fn closing(&self, patience: Duration) -> Result<Closing> {
        let mut closed = self.closed.clone();
        let ended = within(patience, "a close", closed.wait_for(Option::is_some)).await??;
        ended.clone().context("closed without a closing")
    }

    /// Whether the socket is still open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.closed.borrow().is_none()
    }

    /// Waits for a `ping` with a payload that fits.
    ///
    /// # Errors
    /// When none comes within `patience`.
    pub async fn ping_payload(&self, patience: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut pings = self.pings.clone();
        let seen = within(patience, "a ping", pings.wait_for(|all| all.iter().any(&fits))).await??;
        seen.iter().find(|payload| fits(payload)).cloned().context("a ping that fits")
    }

    /// Closes with 1000.
    ///
    /// # Errors
    /// Never for a socket that is closed already.
    pub async fn close(self) -> Result<()> {
        // A closed socket has no receiver, which is what is wanted.
        let _ = self.commands.send(Command::Close).await;
        self.closing(soon()).await?;
        Ok(())
    }

    fn run(raw: RawSocket) -> Self {
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (closed_sender, closed) = watch::channel(None);
        let (ping_sender, pings) = watch::channel(Vec::new());
        let loop_ =
            Loop { raw, commands: command_queue, running: HashMap::new(), over: HashSet::new(), pings: ping_sender };
        tokio::spawn(async move {
            let closing = loop_.run().await;
            // Nobody may be waiting for the end.
            let _ = closed_sender.send(Some(closing));
        });
        Self { commands, closed, pings, next_id: AtomicU64::new(1), extensions: None }
    }
}

impl Subscription {
    /// The next event; once the stream is over, an error.
    ///
    /// # Errors
    /// When none comes soon.
    pub async fn next(&mut self) -> Result<Event> {
        self.next_within(soon()).await
    }

    /// The next event, at most after `patience`.
    ///
    /// # Errors
    /// When none comes.
    pub async fn next_within(&mut self, patience: Duration) -> Result<Event> {
        let event = within(patience, "an event of a subscription", self.events.recv()).await?;
        event.context("the subscription is over, or its socket was dropped")
    }

    /// The next event, if it is here already.
    pub fn waiting(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// The value of `field` in the next event.
    ///
    /// # Errors
    /// When the next event is no data.
    pub async fn value(&mut self, field: &str) -> Result<Value> {
        match self.next().await? {
            Event::Next(mut payload) if payload["errors"].is_null() => Ok(payload["data"][field].take()),
            other => bail!("data of {field} was expected, not {other:?}"),
        }
    }

    /// The refusal the operation ends with: an `error` frame, or errors in its first result.
    ///
    /// # Errors
    /// When it brings data instead.
    pub async fn refusal(&mut self) -> Result<Refusal> {
        let event = self.next().await?;
        let errors = match &event {
            Event::Error(errors) => errors,
            Event::Next(payload) => &payload["errors"],
            _ => bail!("a refusal was expected, not {event:?}"),
        };
        first_refusal(errors, 0).with_context(|| format!("a refusal was expected, not {event:?}"))
    }

    /// The `error` frame that ends a running stream, after whatever data was still under way.
    ///
    /// # Errors
    /// When it ends otherwise, or goes on.
    pub async fn terminal_error(&mut self, patience: Duration) -> Result<Refusal> {
        let end = async {
            loop {
                match self.events.recv().await {
                    Some(Event::Next(payload)) if payload["errors"].is_null() => {}
                    Some(Event::Error(errors)) => {
                        return first_refusal(&errors, 0).context("an error frame without errors");
                    }
                    other => bail!("an error frame was expected, not {other:?}"),
                }
            }
        };
        within(patience, "an error frame", end).await?
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // A full queue or a closed socket: the node learns it when the socket ends.
        let _ = self.commands.try_send(Command::Stop { id: std::mem::take(&mut self.id) });
    }
}

/// The task's own state.
struct Loop {
    raw: RawSocket,
    commands: mpsc::Receiver<Command>,
    running: HashMap<String, mpsc::Sender<Event>>,
    /// Operations that the node ended: nothing may come of them any more.
    over: HashSet<String>,
    pings: watch::Sender<Vec<Value>>,
}

impl Loop {
    async fn run(mut self) -> Closing {
        let closing = loop {
            let outcome = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => break Closing { code: None, reason: "the test let go of the socket".to_owned() },
                },
                frame = self.raw.next() => self.hear(frame).await,
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(closing)) => break closing,
                Err(error) => break self.last_words(&error).await,
            }
        };
        for events in self.running.into_values() {
            // A reader that is gone, or has not read, misses nothing it asked for.
            let _ = events.try_send(Event::Closed(closing.clone()));
        }
        closing
    }

    async fn obey(&mut self, command: Command) -> Result<Option<Closing>> {
        match command {
            Command::Start { id, payload, events } => {
                self.running.insert(id.clone(), events);
                self.raw.text(json!({"id": id, "type": "subscribe", "payload": payload}).to_string()).await?;
            }
            Command::Stop { id } => {
                if self.running.remove(&id).is_some() {
                    self.raw.text(json!({"id": id, "type": "complete"}).to_string()).await?;
                }
            }
            Command::Close => self.raw.close().await?,
        }
        Ok(None)
    }

    async fn hear(&mut self, frame: Frame) -> Result<Option<Closing>> {
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Closed(closing) => return Ok(Some(closing)),
            Frame::Control => return Ok(None),
            Frame::Binary(_) => bail!("the node sent a binary frame"),
        };
        let mut message: Value = serde_json::from_str(&text).with_context(|| format!("the node sent {text}"))?;
        let event = match message["type"].as_str() {
            Some("next") => Event::Next(message["payload"].take()),
            Some("error") => Event::Error(message["payload"].take()),
            Some("complete") => Event::Complete,
            Some("ping") => {
                let payload = message["payload"].take();
                self.pings.send_modify(|all| all.push(payload));
                self.raw.text(r#"{"type":"pong"}"#).await?;
                return Ok(None);
            }
            Some("pong") => return Ok(None),
            _ => bail!("the node sent {text}"),
        };
        let id = message["id"].as_str().unwrap_or_default();
        if self.over.contains(id) {
            bail!("the node told something of an operation that it had ended: {text}");
        }
        let is_last = !matches!(event, Event::Next(_));
        if let Some(events) = self.running.get(id) {
            // Waits when the reader is slow: the socket then fills, which is the reader's point.
            let _ = events.send(event).await;
            if is_last {
                self.running.remove(id);
                self.over.insert(id.to_owned());
            }
        }
        Ok(None)
    }

    /// A write that failed hides the close code that came before it; look for it.
    async fn last_words(&mut self, error: &anyhow::Error) -> Closing {
        match self.raw.closing(Duration::from_secs(1)).await {
            Ok(closing) if closing.code.is_some() => closing,
            _ => Closing { code: None, reason: format!("{error:#}") },
        }
    }
}
