//! Subscribers of the bench's plan: one socket and one small task each.
//!
//! A subscriber checks all it sees, and does what a good client does when its socket ends: it waits a
//! moment by chance, then goes to another node with `after`. It is *whole* again when it has seen the
//! revision that was the newest known to any of us when its new subscription was sent; if it had missed
//! none, with the first event that comes, since only that proves that the subscription stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::sequence::{Event, Sequence};
use crate::bench::cluster::ground::Ground;
use crate::bench::report::Faults;
use crate::socket::{Ended, Subscription};

/// Sockets being opened at once, before the bench begins. What comes back in it comes all at once.
const OPENING_MAX: usize = 64;

/// Longest pause by chance before a subscriber comes back.
const JITTER_MAX: Duration = Duration::from_millis(200);

/// Attempts of one return; then the subscriber is given up.
const ATTEMPTS_MAX: u32 = 10;

/// Pause after an attempt that failed.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// Returns of one subscriber that are kept; one that is closed more often is given up.
const RETURNS_MAX: usize = 16;

/// What a client asks for that keeps the document and knows its own operations.
pub(crate) const DELTAS: &str = "subscription Bench($projectId: Int!, $planId: Int, $after: String) {
  event: planDagDeltaChanged(projectId: $projectId, planId: $planId, after: $after) {
    kind revision previousRevision operationId operations { op path value }
  }
}";

/// Everything there is.
pub(crate) const DELTAS_WHOLE: &str = "subscription Bench($projectId: Int!, $planId: Int, $after: String) {
  event: planDagDeltaChanged(projectId: $projectId, planId: $planId, after: $after) {
    projectId planId kind version revision previousRevision userId clientId operationId timestamp
    operations { op path value from } reason
  }
}";

#[derive(Debug, Deserialize)]
struct Data {
    event: Event,
}

/// What is known of all of them together, while they run.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The number of the newest revision that anyone has seen or got as an answer.
    head: AtomicU64,
    /// Events that were delivered.
    deliveries: AtomicU64,
    /// Subscribers that have seen an event.
    begun: AtomicUsize,
}

impl Progress {
    /// Nothing was seen beyond `start`.
    pub(crate) fn new(start: u64) -> Self {
        Self { head: AtomicU64::new(start), deliveries: AtomicU64::new(0), begun: AtomicUsize::new(0) }
    }

    /// Someone knows the revision with this number.
    pub(crate) fn note_head(&self, seq: u64) {
        self.head.fetch_max(seq, Ordering::Relaxed);
    }

    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Until when subscribers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// The end is not known yet.
    Open,
    /// Until the revision with this number was seen.
    Until(u64),
    /// No longer.
    Now,
}

/// How a subscriber came back after its socket had ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Return {
    /// When the first attempt began, the pause by chance behind it.
    pub(crate) began: Instant,
    /// When it had what it had missed; none if it never had.
    pub(crate) whole: Option<Instant>,
    /// Attempts it took.
    pub(crate) attempts: u32,
    /// Changes it did not have when its new subscription was sent.
    pub(crate) missed: u64,
    /// What makes it whole.
    target: u64,
}

/// One subscriber, and after the bench what it has to tell.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// The node it was at first, by its place in the cluster's list.
    pub(crate) home: usize,
    /// What it saw.
    pub(crate) sequence: Sequence,
    /// The times it came back.
    pub(crate) returns: Vec<Return>,
    /// Why it was given up, if it was.
    pub(crate) failure: Option<String>,
    number: usize,
    node: usize,
    token: Arc<str>,
    course: Arc<Course>,
}

/// What all of them need to connect.
#[derive(Debug)]
struct Course {
    urls: Vec<String>,
    project: i32,
    plan: i32,
    query: &'static str,
    progress: Arc<Progress>,
}

/// Listening subscribers.
#[derive(Debug)]
pub(crate) struct Crowd {
    tasks: JoinSet<Subscriber>,
    goal: watch::Sender<Goal>,
}

impl Crowd {
    /// Opens `count` subscriptions from the plan's beginning on, spread over the nodes with these places.
    ///
    /// # Errors
    /// When one can't be opened: a bench with fewer would measure something else.
    pub(crate) async fn open(
        ground: &Ground,
        progress: &Arc<Progress>,
        count: usize,
        nodes: &[usize],
        query: &'static str,
    ) -> Result<Self> {
        let mut crowd = Self { tasks: JoinSet::new(), goal: watch::channel(Goal::Open).0 };
        let course = Arc::new(Course {
            urls: ground.urls(),
            project: ground.project,
            plan: ground.plan,
            query,
            progress: Arc::clone(progress),
        });
        let opened = (0..count).map(|number| {
            let home = nodes[number % nodes.len()];
            let subscriber = Subscriber {
                home,
                sequence: Sequence::new(ground.start),
                returns: Vec::new(),
                failure: None,
                number,
                node: home,
                token: ground.token(number),
                course: Arc::clone(&course),
            };
            async move {
                let subscription = subscriber.subscribe().await;
                subscription.map(|subscription| (subscriber, subscription))
            }
        });
        let mut opened = stream::iter(opened).buffer_unordered(OPENING_MAX);
        while let Some(result) = opened.next().await {
            let (subscriber, subscription) =
                result.map_err(|ended| anyhow!("a subscriber could not subscribe: {ended:?}"))?;
            crowd.tasks.spawn(subscriber.follow(subscription, crowd.goal.subscribe()));
        }
        Ok(crowd)
    }

    /// Brings subscribers back at once, each at the node with this place.
    pub(crate) fn bring_back(subscribers: Vec<Subscriber>, node: usize) -> Self {
        let mut crowd = Self { tasks: JoinSet::new(), goal: watch::channel(Goal::Open).0 };
        for mut subscriber in subscribers {
            let goal = crowd.goal.subscribe();
            crowd.tasks.spawn(async move {
                match subscriber.come_back(|_| node).await {
                    Some(subscription) => subscriber.follow(subscription, goal).await,
                    None => subscriber,
                }
            });
        }
        crowd
    }

    /// Ends each subscriber when it has seen the revision number `head`, and all of them after `patience`.
    ///
    /// # Errors
    /// When a subscriber panicked.
    pub(crate) async fn finish(mut self, head: u64, patience: Duration) -> Result<Vec<Subscriber>> {
        let mut subscribers = Vec::with_capacity(self.tasks.len());
        self.goal.send_replace(Goal::Until(head));
        let gathering = async {
            while let Some(ended) = self.tasks.join_next().await {
                subscribers.push(ended?);
            }
            anyhow::Ok(())
        };
        if let Ok(gathered) = timeout(patience, gathering).await {
            gathered?;
        }
        self.goal.send_replace(Goal::Now);
        while let Some(ended) = self.tasks.join_next().await {
            subscribers.push(ended?);
        }
        Ok(subscribers)
    }
}

impl Subscriber {
    /// Listens, comes back when it must, and ends at the goal.
    async fn follow(mut self, mut subscription: Subscription, mut goal: watch::Receiver<Goal>) -> Self {
        loop {
            let wanted = *goal.borrow_and_update();
            match wanted {
                Goal::Until(head) if self.sequence.last.seq >= head => break,
                Goal::Now => break,
                Goal::Until(_) | Goal::Open => {}
            }
            let ended = tokio::select! {
                event = subscription.next_as::<Data>() => match event {
                    Ok(data) => {
                        self.note(&data.event);
                        continue;
                    }
                    Err(ended) => ended,
                },
                changed = goal.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    continue;
                }
            };
            if self.returns.len() >= RETURNS_MAX {
                self.failure = Some(format!("closed {RETURNS_MAX} times, the last time: {ended:?}"));
                return self;
            }
            let (left, nodes) = (self.node, self.course.urls.len());
            let number = self.number;
            sleep(JITTER_MAX.mul_f64(rand::random())).await;
            match self.come_back(|attempt| other_node(left, number + attempt as usize, nodes)).await {
                Some(again) => subscription = again,
                None => return self,
            }
        }
        subscription.close().await;
        self
    }

    /// Subscribes anew at the node that `choose` names for each attempt; none when it is given up.
    async fn come_back(&mut self, choose: impl Fn(u32) -> usize) -> Option<Subscription> {
        let began = Instant::now();
        for attempt in 0..ATTEMPTS_MAX {
            self.node = choose(attempt);
            match self.subscribe().await {
                Ok(subscription) => {
                    let target = self.course.progress.head();
                    let missed = self.sequence.missing_until(target);
                    self.returns.push(Return { began, whole: None, attempts: attempt + 1, missed, target });
                    return Some(subscription);
                }
                Err(ended) => self.failure = Some(format!("could not come back: {ended:?}")),
            }
            sleep(ATTEMPT_PAUSE).await;
        }
        let missed = self.sequence.missing_until(self.course.progress.head());
        self.returns.push(Return { began, whole: None, attempts: ATTEMPTS_MAX, missed, target: u64::MAX });
        None
    }

    async fn subscribe(&self) -> Result<Subscription, Ended> {
        let course = &self.course;
        let after = self.sequence.last.to_string();
        let variables = json!({ "projectId": course.project, "planId": course.plan, "after": after });
        Subscription::open(&course.urls[self.node], &self.token, course.query, variables).await
    }

    fn note(&mut self, event: &Event) {
        let progress = &self.course.progress;
        if self.sequence.events == 0 {
            progress.begun.fetch_add(1, Ordering::Relaxed);
        }
        self.sequence.note(event);
        progress.deliveries.fetch_add(1, Ordering::Relaxed);
        progress.note_head(self.sequence.last.seq);
        if let Some(back) = self.returns.last_mut().filter(|back| back.whole.is_none()) {
            // It is back for good, whatever became of earlier attempts.
            self.failure = None;
            if self.sequence.last.seq >= back.target {
                back.whole = Some(Instant::now());
            }
        }
    }
}

/// The faults of all their streams, when the last change was number `head`.
pub(crate) fn faults(subscribers: &[Subscriber], head: u64) -> Faults {
    subscribers.iter().map(|subscriber| subscriber.sequence.faults(head)).sum()
}

/// A node other than the one that was left; which one changes with `turn`.
fn other_node(left: usize, turn: usize, nodes: usize) -> usize {
    (left + 1 + turn % (nodes - 1)) % nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_back_to_the_node_that_was_left_and_all_others_take_their_share() {
        for left in 0..3 {
            let mut counts = [0; 3];
            for turn in 0..100 {
                counts[other_node(left, turn, 3)] += 1;
            }
            assert_eq!(counts[left], 0);
            assert_eq!(counts.iter().filter(|&&count| count == 50).count(), 2, "{counts:?}");
        }
        assert_eq!(other_node(1, 7, 2), 0);
    }

    #[test]
    fn the_head_only_grows() {
        let progress = Progress::new(5);
        progress.note_head(9);
        progress.note_head(7);
        assert_eq!(progress.head(), 9);
    }
}
