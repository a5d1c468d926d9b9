//! People who keep editing while the cluster breaks.
//!
//! Each edit has an operation id. When nobody answers, or the answer says to come back, it is sent again with
//! the same id, each time to the next node, until someone answers or patience ends. What it was told goes
//! into the history.

use std::time::Duration;

use mille_tests::{Client, Failure, Project, documents as d, edge_input, eventually, node_input};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::history::{Event, Recorder};

/// Pause between two edits of one writer. Six writers then make about 30 edits a second.
const EDIT_EVERY: Duration = Duration::from_millis(200);
/// Plan nodes that one writer keeps, so that a long run stays below the bound of a plan.
const NODES_PER_WRITER_MAX: usize = 60;
/// How long an edit is repeated before it counts as unanswered.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// One person who edits their own plan nodes of a shared plan.
#[derive(Debug)]
pub struct Writer {
    name: String,
    /// The same person at every node, the preferred one first.
    nodes: Vec<Client>,
    project: Project,
    recorder: Recorder,
    random: SmallRng,
    count: u32,
    own: Vec<String>,
}

/// What became of one edit.
enum Answer {
    Accepted,
    Refused(String),
}

impl Writer {
    /// A writer whose choices follow from `seed`.
    #[must_use]
    pub fn new(name: &str, nodes: Vec<Client>, project: Project, recorder: Recorder, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self { name: name.to_owned(), nodes, project, recorder, random, count: 0, own: Vec::new() }
    }

    /// Edits at a modest rate until `end`.
    pub async fn work(mut self, end: Instant) {
        let mut beat = interval(EDIT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            beat.tick().await;
            self.edit().await;
        }
    }

    async fn edit(&mut self) {
        self.count += 1;
        let id = format!("{}-{}", self.name, self.count);
        let operation = format!("op-{id}");
        let some = self.own.choose(&mut self.random).cloned();
        let other = self.own.choose(&mut self.random).cloned();
        let is_full = self.own.len() >= NODES_PER_WRITER_MAX;
        let (field, document, mut variables) = match (self.random.random_range(0..100), some, other) {
            (0..40, Some(node), _) => {
                let to = json!({"x": f64::from(self.count), "y": self.random.random_range(0.0..1_000.0_f64)});
                ("movePlanDagNode", d::MOVE_NODE, json!({"id": node, "to": to}))
            }
            (40..55, Some(node), Some(other)) => {
                ("addPlanDagEdge", d::ADD_EDGE, json!({"edge": edge_input(Some(&id), &node, &other)}))
            }
            (55..65, Some(node), _) => self.deletion(node),
            (_, Some(node), _) if is_full => self.deletion(node),
            _ => {
                self.own.push(id.clone());
                ("addPlanDagNode", d::ADD_NODE, json!({"node": node_input(Some(&id), "MergeNode", &id)}))
            }
        };
        variables["p"] = json!(self.project.id);
        variables["plan"] = json!(self.project.plan);
        variables["op"] = json!(operation);
        self.send(operation, field, document, variables).await;
    }

    fn deletion(&mut self, node: String) -> (&'static str, &'static str, Value) {
        self.own.retain(|own| *own != node);
        ("deletePlanDagNode", d::DELETE_NODE, json!({"id": node}))
    }

    async fn send(&self, operation: String, field: &str, document: &str, variables: Value) {
        self.recorder.note(Event::Invoked { operation: operation.clone(), field: field.to_owned() });
        let mut attempts = 0;
        let outcome = eventually(ANSWER_WITHIN, async || {
            let node = &self.nodes[attempts as usize % self.nodes.len()];
            attempts += 1;
            match node.run(document, variables.clone()).await {
                Ok(_) => Ok(Answer::Accepted),
                Err(Failure::Refused(refusal)) if refusal.extensions["retryable"] != true => {
                    Ok(Answer::Refused(refusal.code))
                }
                Err(failure) => Err(failure.into()),
            }
        })
        .await;
        self.recorder.note(match outcome {
            Ok(Answer::Accepted) => Event::Acknowledged { operation, attempts },
            Ok(Answer::Refused(code)) => Event::Refused { operation, code, attempts },
            Err(error) => Event::Unknown { operation, reason: format!("{error:#}") },
        });
    }
}
