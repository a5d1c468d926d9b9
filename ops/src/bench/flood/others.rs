//! Those who are not to suffer: people who edit over sockets of their own, and one who looks at each node.
//!
//! Edits are due on an open schedule, whatever became of those before, and latency counts from then: to the answer, and to
//! the event at a subscriber of another node. Everyone is connected before the flood begins, as people would be. Nothing
//! is repeated: an edit that is refused, or not answered by the end, is told as such.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::bench::cluster::ground::Ground;
use crate::socket::{Ended, Link, Subscription};

/// What is left to answers and events after the last edit.
const END_WITHIN: Duration = Duration::from_secs(5);

const MOVE: &str =
    "mutation Flood($projectId: Int!, $planId: Int, $nodeId: String!, $to: PositionInput!, $id: String) {
  movePlanDagNode(projectId: $projectId, planId: $planId, nodeId: $nodeId, position: $to, operationId: $id) { revision }
}";

const DELTAS: &str = "subscription Flood($projectId: Int!, $planId: Int) {
  event: planDagDeltaChanged(projectId: $projectId, planId: $planId) { operationId }
}";

/// When edits are due, over all editors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The number of the first edit; none was made before with this or a later one.
    pub(super) first: u32,
    pub(super) per_second: u32,
    pub(super) seconds: u32,
}

impl Pace {
    /// The number behind the last.
    pub(super) fn end(self) -> u32 {
        self.first + self.per_second * self.seconds
    }

    fn due(self, start: Instant, number: u32) -> Instant {
        start + Duration::from_secs(1) * (number - self.first) / self.per_second
    }
}

/// How they fared.
#[derive(Debug, Default)]
pub(super) struct Fared {
    /// From an edit's time to its answer.
    pub(super) answers: Vec<Duration>,
    /// From an edit's time to its event at another node.
    pub(super) events: Vec<Duration>,
    /// Edits that were refused, by code.
    pub(super) refused: BTreeMap<String, u64>,
    /// Edits without an answer.
    pub(super) unanswered: usize,
    /// Edits without an event at another node, refused ones aside.
    pub(super) unseen: usize,
    /// Sockets that ended.
    pub(super) ended: usize,
}

/// People who are connected and wait for the time to edit.
#[derive(Debug)]
pub(super) struct Others {
    editors: JoinSet<Edited>,
    watchers: JoinSet<Seen>,
    start: watch::Sender<Option<Instant>>,
    nodes: usize,
    count: usize,
    pace: Pace,
}

/// What became of one editor's edits.
#[derive(Debug, Default)]
struct Edited {
    answers: Vec<(u32, Instant)>,
    refused: Vec<(u32, String)>,
    ended: bool,
}

/// What one subscriber saw, and when.
#[derive(Debug)]
struct Seen {
    node: usize,
    at: HashMap<u32, Instant>,
    ended: bool,
}

impl Others {
    /// Connects an editor for each of `tokens`, and a subscriber at each node.
    ///
    /// # Errors
    /// When one of them is not let in.
    pub(super) async fn connect(ground: &Ground, tokens: &[Arc<str>], pace: Pace) -> Result<Self> {
        let (start, started) = watch::channel(None);
        let urls = ground.urls();
        let mut others = Self {
            editors: JoinSet::new(),
            watchers: JoinSet::new(),
            start,
            nodes: urls.len(),
            count: tokens.len(),
            pace,
        };
        let kept_out = |ended: Ended| anyhow!("somebody who is not to suffer was not let in: {ended:?}");
        for (node, url) in urls.iter().enumerate() {
            let variables = json!({ "projectId": ground.project, "planId": ground.plan });
            let watched = Subscription::open(url, &tokens[node % tokens.len()], DELTAS, variables).await;
            let watcher = watch(node, watched.map_err(kept_out)?, pace, started.clone());
            others.watchers.spawn(watcher);
        }
        for (number, token) in tokens.iter().enumerate() {
            let mut link = Link::open_graphql(&urls[number % urls.len()]).await.map_err(kept_out)?;
            link.greet(token).await.map_err(kept_out)?;
            let editor = Editor {
                link,
                numbers: (pace.first + number as u32..pace.end()).step_by(tokens.len()).collect(),
                project: ground.project,
                plan: ground.plan,
                plan_nodes: ground.plan_nodes.clone(),
                pace,
            };
            others.editors.spawn(editor.run(started.clone()));
        }
        Ok(others)
    }

    /// Has them edit from now on, and waits for the end.
    ///
    /// # Errors
    /// When one of them panicked.
    pub(super) async fn edit(mut self) -> Result<Fared> {
        let start = Instant::now();
        self.start.send_replace(Some(start));
        let (mut fared, mut answered) = (Fared::default(), HashMap::new());
        let mut refused: HashMap<u32, String> = HashMap::new();
        while let Some(edited) = self.editors.join_next().await {
            let edited = edited?;
            fared.ended += usize::from(edited.ended);
            answered.extend(edited.answers);
            refused.extend(edited.refused);
        }
        let mut seen = HashMap::new();
        while let Some(one) = self.watchers.join_next().await {
            let one = one?;
            fared.ended += usize::from(one.ended);
            seen.insert(one.node, one.at);
        }
        for number in self.pace.first..self.pace.end() {
            let due = self.pace.due(start, number);
            match answered.get(&number) {
                Some(at) => fared.answers.push(*at - due),
                None => fared.unanswered += usize::from(!refused.contains_key(&number)),
            }
            let elsewhere = (self.home(number) + 1) % self.nodes;
            match seen.get(&elsewhere).and_then(|seen| seen.get(&number)) {
                Some(at) => fared.events.push(*at - due),
                None => fared.unseen += usize::from(!refused.contains_key(&number)),
            }
        }
        for code in refused.into_values() {
            *fared.refused.entry(code).or_default() += 1;
        }
        Ok(fared)
    }

    /// The node at which an edit is made.
    fn home(&self, number: u32) -> usize {
        (number - self.pace.first) as usize % self.count % self.nodes
    }
}

/// One who edits.
struct Editor {
    link: Link,
    /// Its edits, in order.
    numbers: Vec<u32>,
    project: i32,
    plan: i32,
    plan_nodes: Vec<String>,
    pace: Pace,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    id: String,
    r#type: String,
    #[serde(default)]
    payload: Value,
}

impl Editor {
    async fn run(mut self, mut started: watch::Receiver<Option<Instant>>) -> Edited {
        let mut edited = Edited::default();
        let Some(start) = begin(&mut started).await else { return edited };
        edited.ended = self.edit(start, &mut edited).await.is_err();
        if !edited.ended {
            self.link.close().await;
        }
        edited
    }

    async fn edit(&mut self, start: Instant, edited: &mut Edited) -> Result<(), Ended> {
        let numbers = std::mem::take(&mut self.numbers);
        let mut due = numbers.iter().copied().peekable();
        let end = self.pace.due(start, self.pace.end()) + END_WITHIN;
        while edited.answers.len() + edited.refused.len() < numbers.len() {
            let next = due.peek().copied();
            let at = next.map_or(end, |number| self.pace.due(start, number));
            tokio::select! {
                () = sleep_until(at) => {
                    let Some(number) = due.next() else { return Ok(()) };
                    self.send(number).await?;
                }
                message = self.link.receive() => {
                    let message = message?;
                    let answer = serde_json::from_str(message.as_text().unwrap_or_default());
                    self.take(answer.map_err(|error| Ended::Lost(error.to_string()))?, edited).await?;
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, number: u32) -> Result<(), Ended> {
        let variables = json!({
            "projectId": self.project,
            "planId": self.plan,
            "nodeId": self.plan_nodes[number as usize % self.plan_nodes.len()],
            "to": { "x": f64::from(number % 50_000) + 1.0, "y": f64::from(number / 50_000) },
            "id": operation_id(number),
        });
        let payload = json!({ "query": MOVE, "variables": variables });
        self.link.send(json!({ "id": number.to_string(), "type": "subscribe", "payload": payload }).to_string()).await
    }

    async fn take(&mut self, answer: Answer, edited: &mut Edited) -> Result<(), Ended> {
        let errors = match answer.r#type.as_str() {
            "ping" => return self.link.send(json!({ "type": "pong" }).to_string()).await,
            "next" => &answer.payload["errors"],
            "error" => &answer.payload,
            _ => return Ok(()),
        };
        let Ok(number) = answer.id.parse() else { return Ok(()) };
        match errors[0]["extensions"]["code"].as_str() {
            Some(code) => edited.refused.push((number, code.to_owned())),
            None => edited.answers.push((number, Instant::now())),
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Data {
    event: Event,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    operation_id: Option<String>,
}

async fn watch(
    node: usize,
    mut subscription: Subscription,
    pace: Pace,
    mut started: watch::Receiver<Option<Instant>>,
) -> Seen {
    let mut seen = Seen { node, at: HashMap::new(), ended: false };
    let Some(start) = begin(&mut started).await else { return seen };
    let end = pace.due(start, pace.end()) + END_WITHIN;
    while seen.at.len() < (pace.end() - pace.first) as usize {
        match timeout_at(end, subscription.next_as::<Data>()).await {
            Err(_) => break,
            Ok(Err(_)) => {
                seen.ended = true;
                return seen;
            }
            Ok(Ok(data)) => {
                let number = data.event.operation_id.as_deref().and_then(number_of);
                // An edit of an earlier flood, or of nobody of ours, is none of these.
                if let Some(number) = number.filter(|number| (pace.first..pace.end()).contains(number)) {
                    seen.at.entry(number).or_insert_with(Instant::now);
                }
            }
        }
    }
    subscription.close().await;
    seen
}

/// Waits until it begins; none if it never does.
async fn begin(started: &mut watch::Receiver<Option<Instant>>) -> Option<Instant> {
    *started.wait_for(Option::is_some).await.ok()?
}

fn operation_id(number: u32) -> String {
    format!("flood-{number}")
}

fn number_of(operation_id: &str) -> Option<u32> {
    operation_id.strip_prefix("flood-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_due_at_an_even_rate_from_the_first_number_on() {
        let pace = Pace { first: 700, per_second: 100, seconds: 5 };
        let start = Instant::now();
        assert_eq!(pace.end(), 1_200);
        assert_eq!(pace.due(start, 700), start);
        assert_eq!(pace.due(start, 850) - start, Duration::from_millis(1_500));
    }

    #[test]
    fn an_edit_is_known_by_its_operation_id() {
        assert_eq!(number_of(&operation_id(17)), Some(17));
        assert_eq!([number_of("bench-17"), number_of("flood-"), number_of("")], [None; 3]);
    }
}
