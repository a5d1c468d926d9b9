//! People who edit over sockets, on an open schedule, and cost next to nothing.
//!
//! Each edit has its time, whatever became of those before it. All that are due at one look go to each socket in one write.
//! Answers are told apart by a few bytes: made, or refused. Nothing is sent again, unlike `load`: what was refused or not
//! answered is counted, and a bench at a rate that the cluster bears has none of either.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::course::{Course, Times};
use super::stage::{CLIENT_ID, Stage};
use super::wire::{self, Field, Inbox, Outbox, contains, number, push_text};
use crate::bench::clients::alarm::Alarm;
use crate::bench::wait_until;

/// What every edit begins with; its operation id is `bench-<number>`.
const MOVE: &str =
    "mutation Bench($projectId: Int!, $planId: Int!, $nodeId: String!, $to: PositionInput!, $id: String) {
  movePlanDagNode(projectId: $projectId, planId: $planId, nodeId: $nodeId, position: $to, operationId: $id) { revision }
}";

/// What the other side says to learn whether we are there. Who does not answer in turns without edits is not kept.
const PING: &[u8] = b"\"type\":\"ping\"";

/// Everyone who edits at one side of a comparison.
#[derive(Debug)]
pub(super) struct Editors {
    outboxes: Vec<Arc<AsyncMutex<Outbox>>>,
    answers: Arc<Answers>,
    query: String,
    plans: usize,
    /// The project and the plan of each plan.
    places: Vec<(i32, i32)>,
    plan_nodes: u32,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Answers {
    /// By plan.
    made: Vec<AtomicU64>,
    refused: AtomicU64,
    first_refusal: OnceLock<String>,
    times: Mutex<Times>,
}

/// What became of some edits.
#[derive(Debug)]
pub(super) struct Made {
    /// Edits that were answered with a revision, by plan.
    pub(super) by_plan: Vec<u64>,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    /// From when they were due to their answers.
    pub(super) times: Histogram<u64>,
}

impl Made {
    /// In all plans together.
    pub(super) fn count(&self) -> u64 {
        self.by_plan.iter().sum()
    }
}

impl Editors {
    /// Opens the sockets, spread over all nodes.
    ///
    /// # Errors
    /// When one can't be opened.
    pub(super) async fn open(stage: &Stage, course: &watch::Receiver<Course>) -> Result<Self> {
        let plans = stage.places.len();
        let answers = Arc::new(Answers {
            made: (0..plans).map(|_| AtomicU64::new(0)).collect(),
            refused: AtomicU64::new(0),
            first_refusal: OnceLock::new(),
            times: Mutex::new(Times::new()?),
        });
        let (mut outboxes, mut tasks) = (Vec::new(), JoinSet::new());
        for editor in 0..stage.editors() {
            let (inbox, outbox) = wire::open(stage.url(editor), stage.editor_token(editor), CLIENT_ID).await?;
            let outbox = Arc::new(AsyncMutex::new(outbox));
            outboxes.push(Arc::clone(&outbox));
            tasks.spawn(hear(inbox, outbox, Arc::clone(&answers), course.clone()));
        }
        let places = stage.places.iter().map(|place| (place.project, place.plan)).collect();
        let query = Value::from(MOVE).to_string();
        Ok(Self { outboxes, answers, query, plans, places, plan_nodes: stage.plan_nodes, tasks })
    }

    /// Sends the edits of `course` when they are due, and waits for their answers as long as `patience`.
    ///
    /// # Errors
    /// When a socket is gone or takes nothing.
    pub(super) async fn edit(&self, course: &Course, patience: Duration) -> Result<Made> {
        let mut frames: Vec<Vec<u8>> = vec![Vec::new(); self.outboxes.len()];
        let (mut alarm, mut turn) = (Alarm::new()?, 0);
        while turn < course.count {
            alarm.ring(course.schedule.at(turn)).await?;
            let now = Instant::now();
            while turn < course.count && course.schedule.at(turn) <= now {
                let number = course.first + turn;
                push_text(&mut frames[self.editor_of(number)], self.request(number).as_bytes());
                turn += 1;
            }
            for (outbox, frames) in self.outboxes.iter().zip(&mut frames).filter(|(_, frames)| !frames.is_empty()) {
                outbox.lock().await.send(frames).await?;
                frames.clear();
            }
        }
        let all = u64::from(course.count);
        let all_answered = || self.answers.count() >= all || self.tasks.len() < self.outboxes.len();
        wait_until(patience, all_answered).await;
        self.answers.take(all)
    }

    /// Why the first edit that was refused was.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.answers.first_refusal.get().map(String::as_str)
    }

    /// Ends them, without a word to anybody.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }

    fn plan_of(&self, number: u32) -> usize {
        number as usize % self.plans
    }

    /// One plan has all editors, of several each has one: so few rights are needed.
    fn editor_of(&self, number: u32) -> usize {
        let turn = if self.plans == 1 { number as usize } else { self.plan_of(number) };
        turn % self.outboxes.len()
    }

    /// The number gives the plan node a place where no other edit puts anything, so each is a change.
    fn request(&self, number: u32) -> String {
        let (project, plan) = self.places[self.plan_of(number)];
        let turn = number / u32::try_from(self.plans).unwrap_or(u32::MAX);
        let plan_node = turn % self.plan_nodes;
        let (x, y) = (number % 50_000 + 10_000, number / 50_000);
        format!(
            "{{\"id\":\"{number}\",\"type\":\"subscribe\",\"payload\":{{\"query\":{},\"variables\":{{\"projectId\":{project},\
             \"planId\":{plan},\"nodeId\":\"bench-{plan_node}\",\"to\":{{\"x\":{x},\"y\":{y}}},\"id\":\"bench-{number}\"}}}}}}",
            self.query
        )
    }
}

impl Answers {
    fn count(&self) -> u64 {
        let made: u64 = self.made.iter().map(|made| made.load(Ordering::Relaxed)).sum();
        made + self.refused.load(Ordering::Relaxed)
    }

    fn take(&self, sent: u64) -> Result<Made> {
        let taken = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let (by_plan, refused): (Vec<u64>, u64) = (self.made.iter().map(taken).collect(), taken(&self.refused));
        let answered = by_plan.iter().sum::<u64>() + refused;
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::replace(&mut *times, Times::new()?);
        if answered > sent {
            bail!("{answered} answers to {sent} edits: some are of earlier ones");
        }
        Ok(Made { by_plan, refused, unanswered: sent - answered, times: taken.0 })
    }

    fn note(&self, text: &[u8], id: &mut Field, course: &Course, now: Instant) {
        if contains(text, b"\"type\":\"complete\"") || contains(text, PING) {
            return;
        }
        let number = id.find(text).and_then(number).map_or(u64::MAX, |found| found.0);
        if contains(text, b"\"errors\"") || contains(text, b"\"type\":\"error\"") {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.first_refusal.get_or_init(|| String::from_utf8_lossy(text).into_owned());
            return;
        }
        // What is late from an earlier course is no answer to this one.
        let Some(lateness) = course.lateness(number, now) else { return };
        self.times.lock().unwrap_or_else(PoisonError::into_inner).note(lateness);
        let plan = usize::try_from(number).unwrap_or(usize::MAX) % self.made.len();
        self.made[plan].fetch_add(1, Ordering::Relaxed);
    }
}

async fn hear(
    mut inbox: Inbox,
    outbox: Arc<AsyncMutex<Outbox>>,
    answers: Arc<Answers>,
    course: watch::Receiver<Course>,
) {
    let mut id = Field::new(b"\"id\":\"");
    let mut texts = Vec::new();
    while inbox.read(|text| texts.push(text.to_vec())).await.is_ok() {
        let (now, course) = (Instant::now(), *course.borrow());
        let mut pongs = inbox.take_pongs();
        for text in texts.drain(..) {
            if contains(&text, PING) {
                push_text(pongs.get_or_insert_default(), b"{\"type\":\"pong\"}");
            }
            answers.note(&text, &mut id, &course, now);
        }
        if let Some(frames) = pongs {
            // Where the socket is gone, the next read says so.
            drop(outbox.lock().await.send(&frames).await);
        }
    }
}
