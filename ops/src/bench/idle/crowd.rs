//! Connections that do nothing: one socket and one small task each.
//!
//! They sit in rooms of a project each, with a user of their own, since neither a document nor a user has room for
//! thousands. Who listens to a plan is told of its edits; who is present in a document sees the cursor of the room's
//! first. A round is over for a connection when it was told once; what it is told beside that does not count.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{Door, Wire};
use crate::bench::clients::subscribers::DELTAS_WHOLE;

/// Sockets being opened at once.
const OPENING_MAX: usize = 64;
/// Patience until a socket is greeted.
const GREETING_TIMEOUT: Duration = Duration::from_secs(20);
/// How far into a message its type is looked for: an id may stand before it.
const HEAD_BYTES: usize = 128;
/// Reasons that are kept; all are counted.
const REASONS_MAX: usize = 20;

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A GraphQL socket with one subscription to the room's plan.
    Graphql,
    /// A presence socket that has joined with the room's document open.
    Presence,
}

/// A project with a plan, and the user whose connections are in it.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) project: i32,
    pub(super) plan: i32,
    pub(super) user: String,
    pub(super) token: String,
}

/// A connection to be.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) kind: Kind,
    pub(super) node: SocketAddr,
    pub(super) room: Arc<Room>,
    /// Whether it is the one of its room that moves.
    pub(super) moves: bool,
}

/// What is known of all of them together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    round: AtomicU32,
    /// Connections that were told in this round.
    told: AtomicUsize,
    /// Connections that ended, and why.
    ended: AtomicUsize,
    reasons: Mutex<Vec<String>>,
}

/// All of them. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Crowd {
    tally: Arc<Tally>,
    rounds: watch::Sender<u32>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Opens them all.
    ///
    /// # Errors
    /// When one is not let in: a bench with fewer would measure something else.
    pub(super) async fn open(seats: Vec<Seat>) -> Result<Self> {
        let (rounds, round) = watch::channel(0);
        let mut crowd = Self { tally: Arc::default(), rounds, _tasks: JoinSet::new() };
        let opened = seats.into_iter().enumerate().map(|(number, seat)| async move {
            let wire = timeout(GREETING_TIMEOUT, seat.open(number)).await.context("not greeted")?;
            anyhow::Ok((wire.with_context(|| format!("connection {number}"))?, seat))
        });
        let mut opened = stream::iter(opened).buffer_unordered(OPENING_MAX);
        while let Some((wire, seat)) = opened.try_next().await? {
            let (tally, round) = (Arc::clone(&crowd.tally), seat.moves.then(|| round.clone()));
            crowd._tasks.spawn(async move {
                if let Err(why) = seat.stay(wire, &tally, round).await {
                    tally.ended(format!("{why:#}"));
                }
            });
        }
        Ok(crowd)
    }

    /// Begins a round: from now on it counts who is told. Those who move do so.
    pub(super) fn next_round(&self) {
        self.tally.told.store(0, Ordering::Relaxed);
        let round = self.tally.round.fetch_add(1, Ordering::Relaxed) + 1;
        self.rounds.send_replace(round);
    }

    /// How many were told in this round.
    pub(super) fn told(&self) -> usize {
        self.tally.told.load(Ordering::Relaxed)
    }

    /// How many ended that should not have.
    pub(super) fn ended(&self) -> usize {
        self.tally.ended.load(Ordering::Relaxed)
    }

    /// Why some of them did.
    pub(super) fn reasons(&self) -> Vec<String> {
        self.tally.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tally {
    fn ended(&self, why: String) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < REASONS_MAX {
            reasons.push(why);
        }
    }
}

impl Seat {
    async fn open(&self, number: usize) -> Result<Wire> {
        let Room { project, plan, user, token } = &*self.room;
        let bearer = format!("Bearer {token}");
        match self.kind {
            Kind::Graphql => {
                let header = "Sec-WebSocket-Protocol: graphql-transport-ws";
                let door = Door { address: self.node, path: "/graphql/ws", header };
                let mut wire = Wire::open(number, &door).await?;
                let init = json!({ "type": "connection_init", "payload": { "Authorization": bearer } });
                wire.send(&init.to_string()).await?;
                until(&mut wire, "connection_ack").await?;
                let variables = json!({ "projectId": project, "planId": plan });
                let payload = json!({ "query": DELTAS_WHOLE, "variables": variables });
                wire.send(&json!({ "id": "1", "type": "subscribe", "payload": payload }).to_string()).await?;
                Ok(wire)
            }
            Kind::Presence => {
                let header = format!("Authorization: {bearer}");
                let path = format!("/ws/collaboration?project_id={project}");
                let mut wire = Wire::open(number, &Door { address: self.node, path: &path, header: &header }).await?;
                until(&mut wire, "welcome").await?;
                let data = json!({ "userId": user, "userName": user, "documentId": document(*plan) });
                wire.send(&json!({ "type": "join_session", "data": data }).to_string()).await?;
                until(&mut wire, "bulk_presence").await?;
                Ok(wire)
            }
        }
    }

    /// Stays, answers pings, and counts what it is told; ends only when the socket does.
    async fn stay(self, mut wire: Wire, tally: &Tally, mut round: Option<watch::Receiver<u32>>) -> Result<()> {
        let (mut told_in, event) = (0, if self.kind == Kind::Graphql { "next" } else { "cursor_update" });
        loop {
            let text = tokio::select! {
                text = wire.next() => text?,
                round = changed(&mut round) => {
                    let position = json!({ "type": "canvas", "x": round, "y": 0, "zoom": 1.0 });
                    let document = document(self.room.plan);
                    let data = json!({
                        "documentId": document, "documentType": "canvas", "position": position, "timestamp": round,
                    });
                    wire.send(&json!({ "type": "cursor_update", "data": data }).to_string()).await?;
                    continue;
                }
            };
            let name = type_of(&text);
            if name == event {
                let round = tally.round.load(Ordering::Relaxed);
                if told_in != round {
                    told_in = round;
                    tally.told.fetch_add(1, Ordering::Relaxed);
                }
            } else if self.kind == Kind::Graphql {
                match name {
                    "ping" => wire.send(r#"{"type":"pong"}"#).await?,
                    name => ensure!(name == "pong", "told {}", String::from_utf8_lossy(&text)),
                }
            } else {
                ensure!(name != "error", "told {}", String::from_utf8_lossy(&text));
            }
        }
    }
}

/// The next round, for whoever moves in it.
async fn changed(rounds: &mut Option<watch::Receiver<u32>>) -> u32 {
    if let Some(rounds) = rounds
        && rounds.changed().await.is_ok()
    {
        return *rounds.borrow_and_update();
    }
    std::future::pending().await
}

/// The document of a room: its plan.
fn document(plan: i32) -> String {
    plan.to_string()
}

/// Reads until a message of this type.
async fn until(wire: &mut Wire, wanted: &str) -> Result<()> {
    loop {
        let text = wire.next().await?;
        match type_of(&text) {
            name if name == wanted => return Ok(()),
            name => ensure!(name != "error", "refused: {}", String::from_utf8_lossy(&text)),
        }
    }
}

/// The type of a message, which stands near its beginning. Empty when it does not.
fn type_of(text: &[u8]) -> &str {
    const BEFORE: &[u8] = br#""type":""#;
    let head = &text[..text.len().min(HEAD_BYTES)];
    let begin = head.windows(BEFORE.len()).position(|bytes| bytes == BEFORE);
    let name = begin.and_then(|begin| head[begin + BEFORE.len()..].split(|byte| *byte == b'"').next());
    name.and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_by_its_first_bytes() {
        assert_eq!(type_of(br#"{"type":"next","id":"1"}"#), "next");
        assert_eq!(type_of(br#"{"id":"1","type":"next"}"#), "next");
        assert_eq!([type_of(b""), type_of(br#"{"id":"1"}"#)], ["", ""]);
    }
}
