//! Editors on an open schedule.
//!
//! Each edit has its time, whatever became of those before it, and its latency counts from that time: a
//! cluster that stands still for a second makes a second's edits late, not one. An edit that nobody
//! answers is sent again with its operation id to another node until someone does, as a client would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::{StreamExt, stream};
use mille_shared::Revision;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::schedule::Schedule;
use super::subscribers::Progress;
use crate::bench::cluster::ground::Ground;
use crate::client::{Client, GraphqlError};

/// Edits on their way at once. When so many hang, the next waits, and its latency says so.
const IN_FLIGHT_MAX: usize = 1_024;

/// Edits on their way at once when they need not keep to a schedule.
const BULK_IN_FLIGHT: usize = 32;

/// Patience with one attempt. Then the same edit goes to another node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of one edit; then it counts as unanswered.
const ATTEMPTS_MAX: usize = 10;

/// Pause before the first repeat. Doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

const MOVE: &str =
    "mutation Bench($projectId: Int!, $planId: Int, $nodeId: String!, $to: PositionInput!, $id: String) {
  movePlanDagNode(projectId: $projectId, planId: $planId, nodeId: $nodeId, position: $to, operationId: $id) { revision }
}";

/// One edit's fate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// When it was due.
    pub(crate) due: Instant,
    /// From then to its answer; none if there never was one.
    pub(crate) latency: Option<Duration>,
    /// Times it was sent beyond the first.
    pub(crate) repeats: usize,
}

/// People who move plan nodes about.
#[derive(Debug)]
pub(crate) struct Load {
    /// One client for each node, in the cluster's order.
    clients: Vec<Client>,
    /// Nodes that edits are sent to.
    open: Vec<AtomicBool>,
    progress: Arc<Progress>,
    project: i32,
    plan: i32,
    plan_nodes: Vec<String>,
}

impl Load {
    /// Editors who use all nodes with these places.
    ///
    /// # Errors
    /// When the TLS library can't start.
    pub(crate) fn new(ground: &Ground, progress: &Arc<Progress>, nodes: &[usize]) -> Result<Arc<Self>> {
        let all = &ground.state.nodes;
        Ok(Arc::new(Self {
            clients: all.iter().map(|node| ground.editor(node)).collect::<Result<_>>()?,
            open: (0..all.len()).map(|place| AtomicBool::new(nodes.contains(&place))).collect(),
            progress: Arc::clone(progress),
            project: ground.project,
            plan: ground.plan,
            plan_nodes: ground.plan_nodes.clone(),
        }))
    }

    /// No edit is sent to this node any more.
    pub(crate) fn leave(&self, node: usize) {
        self.open[node].store(false, Ordering::Relaxed);
    }

    /// Sends `count` edits, from number 0, when `schedule` says, and waits for their answers.
    ///
    /// # Errors
    /// When the cluster refuses one for good: then the bench itself is wrong.
    pub(crate) async fn run(self: Arc<Self>, schedule: Schedule, count: u32) -> Result<Vec<Sample>> {
        let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut tasks = JoinSet::new();
        let mut samples = Vec::with_capacity(count as usize);
        for number in 0..count {
            let due = schedule.at(number);
            sleep_until(due).await;
            let permit = Arc::clone(&room).acquire_owned().await?;
            let load = Arc::clone(&self);
            tasks.spawn(async move {
                let sample = load.edit(number, due).await;
                drop(permit);
                sample
            });
            while let Some(done) = tasks.try_join_next() {
                samples.push(done??);
            }
        }
        while let Some(done) = tasks.join_next().await {
            samples.push(done??);
        }
        Ok(samples)
    }

    /// Makes `count` edits as fast as they are answered.
    ///
    /// # Errors
    /// When one was refused or not answered.
    pub(crate) async fn run_at_once(&self, count: u32) -> Result<()> {
        let edits = (0..count).map(|number| self.edit(number, Instant::now()));
        let mut edits = stream::iter(edits).buffer_unordered(BULK_IN_FLIGHT);
        while let Some(sample) = edits.next().await {
            if sample?.latency.is_none() {
                return Err(anyhow!("an edit was not answered"));
            }
        }
        Ok(())
    }

    /// Makes one edit. Its number gives it a place where no other edit puts anything, so each is a change.
    pub(crate) async fn edit(&self, number: u32, due: Instant) -> Result<Sample> {
        let turn = number as usize;
        let variables = json!({
            "projectId": self.project,
            "planId": self.plan,
            "nodeId": self.plan_nodes[turn % self.plan_nodes.len()],
            "to": { "x": f64::from(number % 50_000) + 1.0, "y": f64::from(number / 50_000) },
            "id": format!("bench-{number}"),
        });
        let mut pause = PAUSE_FIRST;
        for attempt in 0..ATTEMPTS_MAX {
            let client = &self.clients[self.node_for(turn + attempt)];
            match timeout(ANSWER_TIMEOUT, client.ask(MOVE, variables.clone())).await {
                Ok(Ok(data)) => {
                    let latency = Some(due.elapsed());
                    self.progress.note_head(revision_of(&data)?.seq);
                    return Ok(Sample { due, latency, repeats: attempt });
                }
                Ok(Err(error)) => {
                    let refusal = error.downcast_ref::<GraphqlError>();
                    if refusal.is_some_and(|refusal| !refusal.retryable) {
                        return Err(error.context("an edit was refused"));
                    }
                    pause = refusal.and_then(|refusal| refusal.retry_after).unwrap_or(pause);
                }
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(Sample { due, latency: None, repeats: ATTEMPTS_MAX - 1 })
    }

    /// The node for this turn: nodes that are left are skipped.
    fn node_for(&self, turn: usize) -> usize {
        let count = self.open.len();
        let places = (0..count).map(|step| (turn + step) % count);
        places.into_iter().find(|&place| self.open[place].load(Ordering::Relaxed)).unwrap_or(turn % count)
    }
}

fn revision_of(data: &Value) -> Result<Revision> {
    let text = data["movePlanDagNode"]["revision"].as_str().unwrap_or_default();
    text.parse().map_err(|_| anyhow!("an edit was answered without a revision: {data}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_revision_is_no_answer() {
        let answer = json!({ "movePlanDagNode": { "revision": "7-5" } });
        assert_eq!(revision_of(&answer).expect("a revision").seq, 5);
        revision_of(&json!({ "movePlanDagNode": null })).expect_err("the plan node is gone");
    }
}
