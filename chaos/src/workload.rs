//! People who keep editing while the cluster breaks.
//!
//! Each edit has an operation id. When nobody answers, or the answer says to come back, it is sent again with
//! the same id, each time to the next node, until someone answers or patience ends. What it was told goes
//! into the history. Every edit is an `applyPlanDagChanges` of one change, since that answers with the place
//! of the change in the log.

use std::time::Duration;

use mille_tests::{Client, Failure, Project, documents as d, edge_input, eventually, node_input};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::history::{Event, Recorder, millis};

/// Plan nodes that all writers keep together, so that a long run stays below the bound of a plan.
pub const PLAN_NODES_MAX: usize = 360;
/// How long an edit is repeated before it counts as unanswered.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Add, move, connect and delete, also what can't be: some of it is refused.
    Wild,
    /// Add, move, and connect what is new to what is old. Whatever was accepted once could be accepted again on
    /// any shorter history, if only the order is kept: so nothing excuses a loss.
    Gentle,
}

/// One person who edits their own plan nodes of a shared plan.
#[derive(Debug)]
pub struct Writer {
    name: String,
    /// The same person at every node they go to, the preferred one first.
    nodes: Vec<Client>,
    project: Project,
    recorder: Recorder,
    random: SmallRng,
    count: u32,
    own: Vec<String>,
    own_max: usize,
    /// The gentle one's newest plan node that is connected.
    connected: Option<String>,
    manner: Manner,
}

/// What became of one edit.
enum Answer {
    Accepted { revision: String, after_ms: u64 },
    Refused { code: String },
}

impl Writer {
    /// A writer whose choices follow from `seed`, and who keeps `own_max` plan nodes.
    #[must_use]
    pub fn new(
        name: &str,
        nodes: Vec<Client>,
        project: Project,
        recorder: Recorder,
        seed: u64,
        own_max: usize,
        manner: Manner,
    ) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self {
            name: name.to_owned(),
            nodes,
            project,
            recorder,
            random,
            count: 0,
            own: Vec::new(),
            own_max,
            connected: None,
            manner,
        }
    }

    /// Edits once per `pace`, or more slowly if answers take longer, until `stop`.
    pub async fn work(mut self, pace: Duration, stop: watch::Receiver<bool>) {
        let mut beat = interval(pace.max(Duration::from_millis(1)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stop.borrow() {
            beat.tick().await;
            self.edit().await;
        }
    }

    /// Makes one plan node, whatever the dice say, and brings where that stands in the log.
    pub async fn add(&mut self) -> Option<String> {
        self.count += 1;
        let id = format!("{}-{}", self.name, self.count);
        let change = json!({"addNode": {"node": node_input(Some(&id), "MergeNode", &id)}});
        self.send(format!("op-{id}"), change).await
    }

    async fn edit(&mut self) {
        self.count += 1;
        let id = format!("{}-{}", self.name, self.count);
        let change = match self.manner {
            Manner::Wild => self.wild(&id),
            Manner::Gentle => self.gentle(&id),
        };
        self.send(format!("op-{id}"), change).await;
    }

    fn wild(&mut self, id: &str) -> Value {
        let some = self.own.choose(&mut self.random).cloned();
        let other = self.own.choose(&mut self.random).cloned();
        let is_full = self.own.len() >= self.own_max;
        match (self.random.random_range(0..100), some, other) {
            (0..40, Some(node), _) => self.movement(&node),
            (40..55, Some(node), Some(other)) => json!({"addEdge": {"edge": edge_input(Some(id), &node, &other)}}),
            (55..65, Some(node), _) => self.deletion(&node),
            (_, Some(node), _) if is_full => self.deletion(&node),
            _ => self.addition(id),
        }
    }

    fn gentle(&mut self, id: &str) -> Value {
        let some = self.own.choose(&mut self.random).cloned();
        let is_full = self.own.len() >= self.own_max;
        match (self.random.random_range(0..100), some, self.own.as_slice()) {
            (0..40, Some(node), _) => self.movement(&node),
            // Each new one at most once: so no pair comes twice.
            (40..55, _, [.., old, new]) if self.connected.as_ref() != Some(new) => {
                let edge = edge_input(Some(id), new, old);
                self.connected = Some(new.clone());
                json!({"addEdge": {"edge": edge}})
            }
            (_, Some(node), _) if is_full => self.movement(&node),
            _ => self.addition(id),
        }
    }

    fn addition(&mut self, id: &str) -> Value {
        self.own.push(id.to_owned());
        json!({"addNode": {"node": node_input(Some(id), "MergeNode", id)}})
    }

    fn movement(&mut self, node: &str) -> Value {
        let to = json!({"x": f64::from(self.count), "y": self.random.random_range(0.0..1_000.0_f64)});
        json!({"moveNode": {"nodeId": node, "position": to}})
    }

    fn deletion(&mut self, node: &str) -> Value {
        self.own.retain(|own| own != node);
        json!({"deleteNode": {"nodeId": node}})
    }

    async fn send(&self, operation: String, change: Value) -> Option<String> {
        let kind = change.as_object().and_then(|one| one.keys().next()).cloned().unwrap_or_default();
        self.recorder.note(Event::Invoked { operation: operation.clone(), field: kind });
        let variables = json!({"p": self.project.id, "plan": self.project.plan, "op": operation, "changes": [change]});
        let mut attempts = 0;
        let outcome = eventually(ANSWER_WITHIN, async || {
            let node = &self.nodes[attempts as usize % self.nodes.len()];
            attempts += 1;
            let asked = Instant::now();
            let answer = node.ask(d::APPLY_BRIEFLY, "applyPlanDagChanges", variables.clone()).await;
            let after_ms = millis(asked.elapsed());
            let (code, failure) = match answer {
                Ok(result) => {
                    let revision = result["revision"].as_str().unwrap_or_default().to_owned();
                    return Ok(Answer::Accepted { revision, after_ms });
                }
                Err(Failure::Refused(refusal)) if refusal.extensions["retryable"] != true => {
                    return Ok(Answer::Refused { code: refusal.code });
                }
                Err(Failure::Refused(refusal)) => (refusal.code.clone(), Failure::Refused(refusal)),
                Err(failure) => (String::new(), failure),
            };
            let (operation, reason) = (operation.clone(), failure.to_string());
            self.recorder.note(Event::Repeated { operation, code, reason, after_ms });
            Err(failure.into())
        })
        .await;
        let (event, revision) = match outcome {
            Ok(Answer::Accepted { revision, after_ms }) => {
                (Event::Acknowledged { operation, attempts, revision: revision.clone(), after_ms }, Some(revision))
            }
            Ok(Answer::Refused { code }) => (Event::Refused { operation, code, attempts }, None),
            Err(error) => (Event::Unknown { operation, reason: format!("{error:#}") }, None),
        };
        self.recorder.note(event);
        revision
    }
}
