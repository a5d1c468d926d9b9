//! A client of the presence socket.
//!
//! What comes in is kept until a test asks for it, so the order in which a test asks does not matter. That
//! something was *not* sent is shown with [`PresenceSocket::quiet`]: a ping goes out, and nothing of the
//! kind may have come before its pong.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::client::Client;
use crate::patience::{soon, within};
use crate::wire::{Closing, Frame, RawSocket, Upgrade};

/// Messages that are kept unread; more means that a test forgot to look.
const UNREAD_MAX: usize = 10_000;

/// A presence socket of one user.
#[derive(Debug)]
pub struct PresenceSocket {
    raw: RawSocket,
    user: String,
    unread: VecDeque<Value>,
    closed: Option<Closing>,
}

/// What a handshake says: query, subprotocols and headers.
#[derive(Debug, Clone, Default)]
pub struct Knock {
    /// What stands behind the `?`.
    pub query: String,
    /// The subprotocols offered.
    pub subprotocols: Vec<String>,
    /// Headers beside those of every handshake.
    pub headers: Vec<(&'static str, String)>,
}

impl Knock {
    /// A handshake without a token.
    #[must_use]
    pub fn at(project: i64) -> Self {
        Self { query: format!("project_id={project}"), ..Self::default() }
    }

    /// The three ways in which one can carry a token.
    #[must_use]
    pub fn with_token(project: i64, token: &str) -> [Self; 3] {
        let knock = Self::at(project);
        [
            Self { query: format!("{}&token={token}", knock.query), ..Self::default() },
            Self { subprotocols: vec![format!("bearer.{token}")], ..knock.clone() },
            Self { headers: vec![("authorization", format!("Bearer {token}"))], ..knock },
        ]
    }
}

impl PresenceSocket {
    /// Connects to a project's presence with the client's token in the address. Joins nothing yet.
    ///
    /// # Errors
    /// When the handshake brings no socket.
    pub async fn connect(client: &Client, project: i64) -> Result<Self> {
        let mut knock = Knock::at(project);
        if let Some(token) = &client.token {
            [knock, ..] = Knock::with_token(project, token);
        }
        match Self::knock(&client.base, &knock).await? {
            Upgrade::Open(raw, _) => Ok(Self::over(*raw, &client.user)),
            Upgrade::Refused(status) => bail!("no presence socket, but HTTP {status}"),
        }
    }

    /// Shakes hands at the presence socket of the node at `base`.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn knock(base: &str, knock: &Knock) -> Result<Upgrade> {
        let url = format!("{}/ws/collaboration?{}", base.replacen("http", "ws", 1), knock.query);
        let subprotocols: Vec<&str> = knock.subprotocols.iter().map(String::as_str).collect();
        RawSocket::knock(&url, &subprotocols, &knock.headers).await
    }

    /// A presence client over a socket that is open already.
    #[must_use]
    pub fn over(raw: RawSocket, user: &str) -> Self {
        Self { raw, user: user.to_owned(), unread: VecDeque::new(), closed: None }
    }

    /// Joins, with the resume token of an earlier connection or none, and waits for `bulk_presence`,
    /// which it brings.
    ///
    /// # Errors
    /// When the roster does not come.
    pub async fn join(&mut self, resume_token: Option<&str>) -> Result<Value> {
        let mut data = json!({"userId": self.user, "userName": self.user, "avatarColor": "#336699"});
        if let Some(token) = resume_token {
            data["resumeToken"] = json!(token);
        }
        self.send("join_session", data).await?;
        self.next("bulk_presence").await
    }

    /// Opens a document, leaving the one before.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn switch_document(&mut self, document: &str, kind: &str) -> Result<()> {
        self.send("switch_document", json!({"documentId": document, "documentType": kind})).await
    }

    /// Moves the cursor on a canvas.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn move_cursor(&mut self, document: &str, x: f64, y: f64) -> Result<()> {
        let data = json!({
            "documentId": document,
            "documentType": "canvas",
            "position": {"type": "canvas", "x": x, "y": y},
            "timestamp": 1_700_000_000_000_u64,
        });
        self.send("cursor_update", data).await
    }

    /// Sends any message of the protocol.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, kind: &str, data: Value) -> Result<()> {
        self.raw.text(json!({"type": kind, "data": data}).to_string()).await
    }

    /// The bare socket below, for bad manners.
    pub fn raw(&mut self) -> &mut RawSocket {
        &mut self.raw
    }

    /// The `data` of the oldest unread message of a type.
    ///
    /// # Errors
    /// When none comes soon.
    pub async fn next(&mut self, kind: &str) -> Result<Value> {
        self.next_where(kind, soon(), |_| true).await
    }

    /// The `data` of the oldest unread message of a type that fits. Those of the type that don't fit stay.
    ///
    /// # Errors
    /// When none comes within `patience`; the message says what came instead.
    pub async fn next_where(&mut self, kind: &str, patience: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let wanted = |message: &Value| message["type"] == kind && fits(&message["data"]);
        if let Some(place) = self.unread.iter().position(wanted) {
            let mut message = self.unread.remove(place).context("just found")?;
            return Ok(message["data"].take());
        }
        let what = format!("{kind} for {}", self.user);
        let search = async {
            loop {
                let mut message = self.receive().await?;
                if wanted(&message) {
                    return Ok(message["data"].take());
                }
                ensure!(self.unread.len() < UNREAD_MAX, "nobody reads what comes in");
                self.unread.push_back(message);
            }
        };
        let outcome = within(patience, &what, search).await;
        outcome.and_then(|inner| inner).with_context(|| format!("{} has unread: {:?}", self.user, self.unread))
    }

    /// The next `error` message as a whole: `message` and `code` stand beside its `type`.
    ///
    /// # Errors
    /// When none comes soon.
    pub async fn next_error(&mut self) -> Result<Value> {
        if let Some(place) = self.unread.iter().position(|message| message["type"] == "error") {
            return self.unread.remove(place).context("just found");
        }
        let what = format!("an error for {}", self.user);
        let search = async {
            loop {
                let message = self.receive().await?;
                if message["type"] == "error" {
                    return Ok(message);
                }
                self.unread.push_back(message);
            }
        };
        within(soon(), &what, search).await?
    }

    /// Everything unread of a type, after a ping has come back: what the node had to say to this socket
    /// before is in it. Empties the type.
    ///
    /// # Errors
    /// When the pong does not come.
    pub async fn quiet(&mut self, kind: &str) -> Result<Vec<Value>> {
        let everything = self.everything().await?;
        let (found, rest): (Vec<Value>, Vec<Value>) =
            everything.into_iter().partition(|message| message["type"] == kind);
        self.unread = rest.into();
        Ok(found.into_iter().map(|mut message| message["data"].take()).collect())
    }

    /// Everything unread as whole messages, oldest first, after a ping has come back. Leaves nothing.
    ///
    /// # Errors
    /// When the pong does not come.
    pub async fn everything(&mut self) -> Result<Vec<Value>> {
        self.raw.text(r#"{"type":"ping"}"#).await?;
        self.next("pong").await?;
        Ok(self.unread.drain(..).collect())
    }

    /// How the socket ends.
    ///
    /// # Errors
    /// When it stays open for `patience`.
    pub async fn closing(&mut self, patience: Duration) -> Result<Closing> {
        match &self.closed {
            Some(closing) => Ok(closing.clone()),
            None => self.raw.closing(patience).await,
        }
    }

    async fn receive(&mut self) -> Result<Value> {
        loop {
            match self.raw.next().await {
                Frame::Text(text) => {
                    return serde_json::from_str(&text).with_context(|| format!("the node sent {text}"));
                }
                Frame::Control => {}
                Frame::Binary(_) => bail!("the node sent a binary frame"),
                Frame::Closed(closing) => {
                    self.closed = Some(closing.clone());
                    bail!("the presence socket of {} ended: {closing:?}", self.user);
                }
            }
        }
    }
}
