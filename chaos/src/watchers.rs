//! People who watch: each follows the plan on one node and, when that is lost, goes on at the next one from
//! the revision it saw last.

use anyhow::{Context as _, Result, bail};
use mille_tests::{Client, Event as Heard, Project, Replica, Revision, eventually, patience};
use serde_json::Value;
use tokio::sync::watch;

use crate::history::{Event, Recorder};

/// Seconds within which some node must take a watcher in.
const WELCOME_SECONDS: f64 = 20.0;

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    index: usize,
    /// The same person at every node.
    nodes: Vec<Client>,
    project: Project,
    recorder: Recorder,
    /// The revision to stop at, once it is known.
    end: watch::Receiver<Option<Revision>>,
    replica: Replica,
}

/// Why a watcher stopped listening on one node.
enum Pause {
    /// It has seen everything.
    Done,
    /// The stream is gone.
    Lost(String),
}

impl Watcher {
    /// The watcher `index`, which begins at the node of that number.
    #[must_use]
    pub fn new(
        index: usize,
        nodes: Vec<Client>,
        project: Project,
        recorder: Recorder,
        end: watch::Receiver<Option<Revision>>,
    ) -> Self {
        Self { index, nodes, project, recorder, end, replica: Replica::new() }
    }

    /// Watches until the end is reached, and brings the document it then holds.
    ///
    /// # Errors
    /// When no node takes it in, or the stream breaks a promise; the history has it too.
    pub async fn watch(mut self) -> Result<Value> {
        let mut attempt = self.index;
        loop {
            match self.listen(&mut attempt).await? {
                Pause::Done => return Ok(self.replica.document().clone()),
                Pause::Lost(reason) => self.recorder.note(Event::Lost { watcher: self.index, reason }),
            }
            attempt += 1;
        }
    }

    async fn listen(&mut self, attempt: &mut usize) -> Result<Pause> {
        let after = self.replica.revision().map(|revision| revision.to_string());
        let mut deltas = eventually(patience(WELCOME_SECONDS), async || {
            let node = &self.nodes[*attempt % self.nodes.len()];
            let subscription = async { node.socket().await?.follow(&self.project, after.as_deref()).await };
            let outcome = subscription.await;
            if outcome.is_err() {
                *attempt += 1;
            }
            outcome
        })
        .await
        .with_context(|| format!("no node takes watcher {} in", self.index))?;
        loop {
            if self.replica.revision().is_some() && self.replica.revision() == *self.end.borrow() {
                return Ok(Pause::Done);
            }
            let heard = tokio::select! {
                heard = deltas.next_within(patience(WELCOME_SECONDS)) => heard,
                changed = self.end.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => bail!("the scenario ended without an end"),
                },
            };
            match heard {
                Ok(Heard::Next(payload)) if payload["errors"].is_null() => {
                    self.note(&payload["data"]["planDagDeltaChanged"])?;
                }
                Ok(other) => return Ok(Pause::Lost(format!("{other:?}"))),
                Err(error) => return Ok(Pause::Lost(format!("{error:#}"))),
            }
        }
    }

    fn note(&mut self, event: &Value) -> Result<()> {
        if let Err(error) = self.replica.apply(event) {
            let reason = format!("{error:#}");
            self.recorder.note(Event::SawNonsense { watcher: self.index, reason: reason.clone() });
            bail!("watcher {}: {reason}", self.index);
        }
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        let revision = text("revision").context("just read")?;
        let watcher = self.index;
        self.recorder.note(if event["kind"] == "SNAPSHOT" {
            Event::SawSnapshot { watcher, revision, reason: text("reason").unwrap_or_default() }
        } else {
            Event::Saw { watcher, revision, previous: text("previousRevision"), operation: text("operationId") }
        });
        Ok(())
    }
}
