//! People who watch. A *watcher* keeps the document; when its node is lost it goes on at the next one from the
//! revision it saw last, and it may go offline in between by its own will. A *listener* only writes down what
//! it hears and never moves: hundreds of them cost little, and a stream that ends is a finding.

use anyhow::{Context as _, Result, bail};
use mille_tests::{
    Client, Event as Heard, Project, Replica, Revision, Socket, Subscription, documents as d, eventually, patience,
};
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
    replica: Replica,
}

/// Why a watcher stopped listening on one node.
enum Pause {
    /// It has seen everything.
    Done,
    /// It goes offline.
    Away,
    /// The stream is gone.
    Lost(String),
}

impl Watcher {
    /// A watcher that begins at the node of its number, and is offline while `away` says so.
    #[must_use]
    pub fn new(seat: Seat, nodes: Vec<Client>, away: watch::Receiver<bool>) -> Self {
        Self { seat, nodes, away, replica: Replica::new() }
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
                Pause::Done => return Ok(Some(self.replica.document().clone())),
                Pause::Lost(reason) => self.seat.recorder.note(Event::Lost { watcher, reason }),
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
        let after = self.replica.revision().map(|revision| revision.to_string());
        let mut deltas = eventually(patience(WELCOME_SECONDS), async || {
            let node = &self.nodes[*attempt % self.nodes.len()];
            let subscription = async { node.socket().await?.follow(&self.seat.project, after.as_deref()).await };
            let outcome = subscription.await;
            if outcome.is_err() {
                *attempt += 1;
            }
            outcome
        })
        .await
        .with_context(|| format!("no node takes watcher {} in", self.seat.index))?;
        loop {
            if self.replica.revision().is_some() && self.replica.revision() == *self.seat.end.borrow() {
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
                Err(reason) => return Ok(Pause::Lost(reason)),
            }
        }
    }

    fn note(&mut self, event: &Value) -> Result<()> {
        if let Err(error) = self.replica.apply(event) {
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
    let variables = json!({"p": seat.project.id, "plan": seat.project.plan, "after": null, "snapshot": true});
    let mut deltas: Subscription = socket.start(d::FOLLOW_BRIEFLY, variables).await?;
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
            Err(reason) => {
                seat.recorder.note(Event::Lost { watcher: seat.index, reason });
                return Ok(None);
            }
        }
    }
}

/// The event in what a stream brought, or why it is no stream any more.
fn payload_of(heard: Result<Heard>) -> Result<Value, String> {
    match heard {
        Ok(Heard::Next(mut payload)) if payload["errors"].is_null() => Ok(payload["data"][FIELD].take()),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

impl Seat {
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
