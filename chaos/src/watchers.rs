//! People who watch. A *watcher* keeps the document; when its node is lost it goes on at the next one from the
//! revision it saw last, and it may go offline in between by its own will. A *follower* does the same and keeps only its
//! place. A *listener* only writes down what it hears and never moves: hundreds of them cost little, and a stream that
//! ends is a finding.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mille_tests::{
    Client, Event as Heard, Project, Replica, Revision, Socket, Subscription, documents as d, eventually, patience,
};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::history::{Event, Recorder};

/// Seconds within which some node must take a watcher in, and a stream must say something.
const WELCOME_SECONDS: f64 = 20.0;

/// The field that is followed.
const FIELD: &str = "planDagDeltaChanged";

/// What everyone who watches is given.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The watcher's number.
    pub index: usize,
    /// What is watched.
    pub project: Project,
    /// Where it is written down.
    pub recorder: Recorder,
    /// The revision to stop at, once it is known.
    pub end: watch::Receiver<Option<Revision>>,
}

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    seat: Seat,
    /// The same person at every node.
    nodes: Vec<Client>,
    /// Whether it should be offline.
    away: watch::Receiver<bool>,
    memory: Memory,
}

/// What somebody keeps of what they saw.
#[derive(Debug)]
pub enum Memory {
    /// The document.
    Document(Box<Replica>),
    /// The last revision.
    Place(Option<Revision>),
}

impl Memory {
    fn revision(&self) -> Option<Revision> {
        match self {
            Self::Document(replica) => replica.revision(),
            Self::Place(here) => *here,
        }
    }
}

/// Why a watcher stopped listening on one node.
enum Pause {
    /// It has seen everything.
    Done,
    /// It goes offline.
    Away,
    /// The stream is gone.
    Lost(Loss),
}

/// How a stream ended, and when the client should come back.
struct Loss {
    reason: String,
    back_after: Duration,
}

impl Watcher {
    /// A watcher that begins at the node of its number, and is offline while `away` says so.
    #[must_use]
    pub fn new(seat: Seat, nodes: Vec<Client>, away: watch::Receiver<bool>, memory: Memory) -> Self {
        Self { seat, nodes, away, memory }
    }

    /// Watches until the end is reached, and brings the document it then holds.
    ///
    /// # Errors
    /// When no node takes it in, or the stream breaks a promise; the history has it too.
    pub async fn watch(mut self) -> Result<Option<Value>> {
        let watcher = self.seat.index;
        let mut attempt = watcher;
        loop {
            match self.listen(&mut attempt).await? {
                Pause::Done => {
                    return Ok(match self.memory {
                        Memory::Document(replica) => Some(replica.document().clone()),
                        Memory::Place(_) => None,
                    });
                }
                Pause::Lost(Loss { reason, back_after }) => {
                    self.seat.recorder.note(Event::Lost { watcher, reason });
                    tokio::time::sleep(back_after).await;
                }
                Pause::Away => {
                    self.seat.recorder.note(Event::Left { watcher });
                    self.away.wait_for(|away| !away).await.context("the scenario ended in an absence")?;
                    self.seat.recorder.note(Event::Returned { watcher });
                }
            }
            attempt += 1;
        }
    }

    async fn listen(&mut self, attempt: &mut usize) -> Result<Pause> {
        let after = self.memory.revision().map(|revision| revision.to_string());
        let mut deltas = eventually(patience(WELCOME_SECONDS), async || {
            let node = &self.nodes[*attempt % self.nodes.len()];
            let subscription = async {
                let socket = node.socket().await?;
                match &self.memory {
                    Memory::Document(_) => socket.follow(&self.seat.project, after.as_deref()).await,
                    Memory::Place(_) => self.seat.follow_briefly(&socket, after.as_deref()).await,
                }
            };
            let outcome = subscription.await;
            if outcome.is_err() {
                *attempt += 1;
            }
            outcome
        })
        .await
        .with_context(|| format!("no node takes watcher {} in", self.seat.index))?;
        loop {
            if self.memory.revision().is_some() && self.memory.revision() == *self.seat.end.borrow() {
                return Ok(Pause::Done);
            }
            if *self.away.borrow() {
                return Ok(Pause::Away);
            }
            let heard = tokio::select! {
                heard = deltas.next_within(patience(WELCOME_SECONDS)) => heard,
                changed = self.seat.end.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => bail!("the scenario ended without an end"),
                },
                Ok(()) = self.away.changed() => continue,
            };
            match payload_of(heard) {
                Ok(event) => self.note(&event)?,
                Err(loss) => return Ok(Pause::Lost(loss)),
            }
        }
    }

    fn note(&mut self, event: &Value) -> Result<()> {
        let replica = match &mut self.memory {
            Memory::Document(replica) => replica,
            Memory::Place(here) => {
                *here = Some(self.seat.write_down(event)?);
                return Ok(());
            }
        };
        if let Err(error) = replica.apply(event) {
            let (watcher, reason) = (self.seat.index, format!("{error:#}"));
            self.seat.recorder.note(Event::SawNonsense { watcher, reason: reason.clone() });
            bail!("watcher {watcher}: {reason}");
        }
        self.seat.write_down(event).map(drop)
    }
}

/// Listens on a socket that may serve others too, until the end is reached or the stream is lost.
///
/// # Errors
/// When the socket takes no operation, or the stream is nonsense; the history has it too.
pub async fn listen(mut seat: Seat, socket: &Socket) -> Result<Option<Value>> {
    let mut deltas = seat.follow_briefly(socket, None).await?;
    let mut here = None;
    loop {
        if here.is_some() && here == *seat.end.borrow() {
            return Ok(None);
        }
        let heard = tokio::select! {
            heard = deltas.next_within(patience(WELCOME_SECONDS)) => heard,
            changed = seat.end.changed() => match changed {
                Ok(()) => continue,
                Err(_) => bail!("the scenario ended without an end"),
            },
        };
        match payload_of(heard) {
            Ok(event) => here = Some(seat.write_down(&event)?),
            Err(Loss { reason, .. }) => {
                seat.recorder.note(Event::Lost { watcher: seat.index, reason });
                return Ok(None);
            }
        }
    }
}

/// The event in what a stream brought, or why it is no stream any more.
fn payload_of(heard: Result<Heard>) -> Result<Value, Loss> {
    let at_once = Duration::ZERO;
    let (reason, back_after) = match heard {
        Ok(Heard::Next(mut payload)) if payload["errors"].is_null() => return Ok(payload["data"][FIELD].take()),
        Ok(Heard::Closed(closing)) => {
            let told: Value = serde_json::from_str(&closing.reason).unwrap_or_default();
            (format!("{closing:?}"), chosen_between(&told["min"], &told["max"]))
        }
        Ok(other) => (format!("{other:?}"), at_once),
        Err(error) => (format!("{error:#}"), at_once),
    };
    Err(Loss { reason, back_after })
}

/// A time between two, in milliseconds, as a client that was told both would choose it. At once if it was told nothing.
pub(crate) fn chosen_between(min_ms: &Value, max_ms: &Value) -> Duration {
    let (min, max) = (min_ms.as_u64().unwrap_or(0), max_ms.as_u64().unwrap_or(0));
    Duration::from_millis(rand::rng().random_range(min..=max.max(min)))
}

impl Seat {
    async fn follow_briefly(&self, socket: &Socket, after: Option<&str>) -> Result<Subscription> {
        let Project { id, plan } = self.project;
        let variables = json!({"p": id, "plan": plan, "after": after, "snapshot": after.is_none()});
        socket.start(d::FOLLOW_BRIEFLY, variables).await
    }

    fn write_down(&self, event: &Value) -> Result<Revision> {
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        let watcher = self.index;
        let here = Revision::of(&event["revision"])?;
        let revision = here.to_string();
        self.recorder.note(if event["kind"] == "SNAPSHOT" {
            Event::SawSnapshot { watcher, revision, reason: text("reason").unwrap_or_default() }
        } else {
            Event::Saw { watcher, revision, previous: text("previousRevision"), operation: text("operationId") }
        });
        Ok(here)
    }
}
