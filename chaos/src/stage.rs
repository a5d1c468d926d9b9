//! What every scenario is played on: a cluster, people who edit and people who watch, and a history.
//!
//! A scenario sets a stage, lets people work, breaks something, and closes the stage, which brings the history
//! with the log and everyone's document. The log is read straight from Redis, so that no node can tell it
//! prettier than it is.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Builder, Client, Cluster, LoadBalancer, Project, Replica, Revision, eventually, patience};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::guests::Guest;
use crate::history::{Entry, Event, History, Logged, Recorder, first_acknowledged_ms, whole_at_ms};
use crate::nemesis::{Blow, strike};
use crate::watchers::{Memory, Seat, Watcher, listen};
use crate::workload::{Manner, PLAN_NODES_MAX, Writer};

/// Seconds until everyone must agree, once the last edit is answered.
pub(crate) const SETTLED_SECONDS: f64 = 30.0;
/// Listeners that share a socket.
const LISTENERS_PER_SOCKET: usize = 4;
/// What every scenario is told.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// How long people edit. At least a few seconds, or there is nothing to break.
    pub length: Duration,
    /// Decides who edits what and what breaks.
    pub seed: u64,
    /// Nodes of the cluster; at least 2.
    pub nodes: usize,
    /// Plans that are edited, where a scenario has many.
    pub plans: usize,
}

/// Who plays.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// People who edit.
    pub writers: usize,
    /// The nodes they go to, one after the other; empty: all.
    pub writers_at: &'static [usize],
    /// Time between two edits of one writer.
    pub pace: Duration,
    /// What they do.
    pub manner: Manner,
    /// People who keep the document, spread over the nodes.
    pub watchers: usize,
    /// People who only listen.
    pub listeners: usize,
    /// The node they are at.
    pub listeners_at: usize,
    /// People who keep their place, each on a socket of their own, and move when they must.
    pub followers: usize,
    /// People who are just there.
    pub guests: usize,
    /// Whether all but the listeners come through the shipped load balancer, instead of choosing a node.
    pub is_balanced: bool,
}

impl Cast {
    /// Six who make about 30 edits a second, and six who watch.
    pub const USUAL: Self = Self {
        writers: 6,
        writers_at: &[],
        pace: Duration::from_millis(200),
        manner: Manner::Wild,
        watchers: 6,
        listeners: 0,
        listeners_at: 0,
        followers: 0,
        guests: 0,
        is_balanced: false,
    };
}

/// A running scenario.
#[derive(Debug)]
pub struct Stage {
    /// The cluster, to be broken.
    pub cluster: Cluster,
    /// Where everything is written down.
    pub recorder: Recorder,
    /// Whose project it is, at the first node.
    pub owner: Client,
    /// What is edited.
    pub project: Project,
    order: Order,
    cast: Cast,
    end: watch::Sender<Option<Revision>>,
    stop: watch::Sender<bool>,
    away: watch::Sender<bool>,
    watchers: Vec<JoinHandle<Result<Option<Value>>>>,
    writers: Vec<JoinHandle<()>>,
    guests: Vec<JoinHandle<Result<()>>>,
    complete: watch::Sender<bool>,
    over: watch::Sender<bool>,
    balancer: Option<LoadBalancer>,
    began: Instant,
}

impl Stage {
    /// Starts a cluster and waits until everyone watches. Must be called in a `LocalSet`.
    ///
    /// # Errors
    /// When the cluster does not start, or does not take everyone in.
    pub async fn set(order: Order, cluster: Builder, cast: Cast) -> Result<Self> {
        ensure!(order.nodes >= 2, "with one node there is nowhere to go on");
        // What is refused under pressure is tried again here, so the nodes refuse as they do anywhere.
        let cluster = cluster.without("MILLE_PRESSURE_LAG_MS").without("MILLE_PRESSURE_REDIS_MS").quiet();
        let cluster = cluster.start().await.context("the cluster does not start")?;
        let owner = cluster.user(0, "owner");
        let project = owner.create_project("chaos").await?;
        let watchers = cast.watchers + cast.followers + usize::from(cast.listeners > 0);
        let people = (0..cast.writers).map(writer_name).chain((0..watchers).map(watcher_name));
        for person in people.chain((0..cast.guests).map(guest_name)) {
            owner.share(&project, &person, "EDITOR").await?;
        }
        let balancer = match cast.is_balanced {
            true => Some(LoadBalancer::of(&cluster).await?),
            false => None,
        };
        let mut stage = Self {
            cluster,
            recorder: Recorder::begin(),
            owner,
            project,
            order,
            cast,
            end: watch::Sender::new(None),
            stop: watch::Sender::new(false),
            away: watch::Sender::new(false),
            watchers: Vec::new(),
            writers: Vec::new(),
            guests: Vec::new(),
            complete: watch::Sender::new(false),
            over: watch::Sender::new(false),
            balancer,
            began: Instant::now(),
        };
        stage.take_seats().await?;
        stage.all_watch().await?;
        stage.let_guests_in().await?;
        Ok(stage)
    }

    /// Lets people edit, from now until [`Stage::rest`].
    pub fn work(&mut self) {
        self.began = Instant::now();
        self.writers = (0..self.cast.writers)
            .map(|index| spawn_local(self.writer(index).work(self.cast.pace, self.stop.subscribe())))
            .collect();
    }

    /// How long people have edited.
    #[must_use]
    pub fn worked(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until people have edited for so long.
    pub async fn reach(&self, at: Duration) {
        sleep_until(self.began + at).await;
    }

    /// Ends the work, and waits until every edit is answered.
    ///
    /// # Errors
    /// When a writer died.
    pub async fn rest(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        for writer in std::mem::take(&mut self.writers) {
            writer.await.context("a writer died")?;
        }
        Ok(())
    }

    /// Someone who edits only when asked, at the node `first`.
    #[must_use]
    pub fn writer_at(&self, first: usize) -> Writer {
        let name = format!("late-writer-{first}");
        let nodes = vec![self.cluster.user(first, "owner")];
        Writer::new(&name, nodes, self.project, self.recorder.clone(), self.order.seed, usize::MAX, Manner::Gentle)
    }

    /// Sends the last watcher offline, or back to another node.
    pub fn send_away(&self, is_away: bool) {
        self.away.send_replace(is_away);
    }

    /// The watchers and listeners at a node, as long as none had to move.
    #[must_use]
    pub fn watchers_at(&self, node: usize) -> Vec<usize> {
        let watchers = (0..self.cast.watchers).filter(|index| index % self.order.nodes == node);
        let listeners = if self.cast.listeners_at == node { self.cast.listeners } else { 0 };
        let first = self.cast.watchers + self.cast.followers;
        watchers.chain(first..first + listeners).collect()
    }

    /// Everyone who watches, follows or listens.
    #[must_use]
    pub fn everyone(&self) -> Vec<usize> {
        (0..self.cast.watchers + self.cast.followers + self.cast.listeners).collect()
    }

    /// Breaks something or puts it in order, and brings the time when that was done.
    ///
    /// # Errors
    /// When it can't be done.
    pub async fn strike(&mut self, blow: Blow) -> Result<u64> {
        strike(&mut self.cluster, &self.recorder, blow).await
    }

    /// The key of the plan's log in Redis.
    #[must_use]
    pub fn log_key(&self) -> String {
        format!("mille:{{plan:{}}}:log", self.project.plan)
    }

    /// The last revision in the log, straight from Redis.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn head(&mut self) -> Result<Revision> {
        let key = self.log_key();
        Revision::of(&json!(self.cluster.redis()?.last_entry(&key).await?.id))
    }

    /// Waits until all of `people` have seen everything up to `revision`, and brings the time.
    ///
    /// # Errors
    /// When someone has not for as long as settling may take.
    pub async fn whole(&self, people: &[usize], revision: &str) -> Result<u64> {
        eventually(patience(SETTLED_SECONDS), async || {
            let at_ms = self.recorder.read(|entries| whole_at_ms(entries, people, revision));
            at_ms.with_context(|| format!("someone has not seen {revision} yet"))
        })
        .await
    }

    /// Waits until an edit is acknowledged that was sent after `since_ms`.
    ///
    /// # Errors
    /// When none was within `seconds`.
    pub async fn taken(&self, since_ms: u64, seconds: f64) -> Result<()> {
        eventually(patience(seconds), async || {
            let at_ms = self.recorder.read(|entries| first_acknowledged_ms(entries, since_ms));
            at_ms.map(|_| ()).context("no edit is acknowledged")
        })
        .await
    }

    /// Ends everything and brings the history.
    ///
    /// # Errors
    /// When the log can't be read. Who does not agree with the others is the checkers' finding.
    pub async fn close(mut self, is_trimmed: bool) -> Result<History> {
        self.rest().await?;
        self.over.send_replace(true);
        for guest in std::mem::take(&mut self.guests) {
            guest.await.context("a guest died")??;
        }
        let (end, mut documents) = self.settle().await?;
        self.end.send_replace(Some(end));
        let deadline = Instant::now() + patience(SETTLED_SECONDS);
        for (index, watcher) in std::mem::take(&mut self.watchers).into_iter().enumerate() {
            // A watcher that did not arrive is the checkers' finding: its last revision is in the history.
            if let Ok(Ok(Ok(Some(document)))) = timeout_at(deadline, watcher).await {
                documents.push((format!("watcher {index}"), document));
            }
        }
        let key = self.log_key();
        let log = Logged::all(self.cluster.redis()?, &key).await?;
        let watchers = self.everyone().len();
        let entries = self.recorder.entries();
        Ok(History { entries, watchers, log, is_trimmed, end: end.to_string(), documents })
    }

    fn writer(&self, index: usize) -> Writer {
        let all: Vec<usize> = (0..self.order.nodes).collect();
        let places = if self.cast.writers_at.is_empty() { &all } else { self.cast.writers_at };
        let nodes = self.in_turn(&writer_name(index), places, index);
        let seed = self.order.seed.wrapping_add(index as u64);
        let own_max = PLAN_NODES_MAX / self.cast.writers;
        Writer::new(&writer_name(index), nodes, self.project, self.recorder.clone(), seed, own_max, self.cast.manner)
    }

    async fn take_seats(&mut self) -> Result<()> {
        let seat =
            |index| Seat { index, project: self.project, recorder: self.recorder.clone(), end: self.end.subscribe() };
        let all: Vec<usize> = (0..self.order.nodes).collect();
        let never = watch::Sender::new(false);
        let first_listener = self.cast.watchers + self.cast.followers;
        for index in 0..first_listener {
            let is_last = index + 1 == self.cast.watchers;
            let away = if is_last { self.away.subscribe() } else { never.subscribe() };
            let nodes = self.in_turn(&watcher_name(index), &all, 0);
            let memory = match index < self.cast.watchers {
                true => Memory::Document(Box::default()),
                false => Memory::Place(None),
            };
            self.watchers.push(spawn_local(Watcher::new(seat(index), nodes, away, memory).watch()));
        }
        let crowd = self.cluster.user(self.cast.listeners_at, &watcher_name(first_listener));
        for first in (0..self.cast.listeners).step_by(LISTENERS_PER_SOCKET) {
            let socket = Rc::new(crowd.socket().await?);
            for index in first..self.cast.listeners.min(first + LISTENERS_PER_SOCKET) {
                let (seat, socket) = (seat(first_listener + index), Rc::clone(&socket));
                self.watchers.push(spawn_local(async move { listen(seat, &socket).await }));
            }
        }
        Ok(())
    }

    /// Waits until every guest knows of every guest, and holds them to it from then on.
    async fn let_guests_in(&mut self) -> Result<()> {
        let guests = self.cast.guests;
        for index in 0..guests {
            let guest = Guest {
                index,
                client: self.in_turn(&guest_name(index), &[index % self.order.nodes], 0).remove(0),
                project: self.project,
                recorder: self.recorder.clone(),
                complete: self.complete.subscribe(),
                stop: self.over.subscribe(),
                online: BTreeSet::new(),
                resume_token: None,
            };
            self.guests.push(spawn_local(guest.stay()));
        }
        eventually(patience(SETTLED_SECONDS), async || {
            let know_all = self.recorder.read(|entries| guests_who_know(entries, guests));
            ensure!(know_all == guests, "{know_all} of {guests} guests know of all");
            Ok(())
        })
        .await?;
        self.complete.send_replace(true);
        Ok(())
    }

    /// One person at the load balancer; or at several nodes, beginning with the one at `first` of `places`.
    fn in_turn(&self, person: &str, places: &[usize], first: usize) -> Vec<Client> {
        let at = |step: usize| self.cluster.user(places[(first + step) % places.len()], person);
        match &self.balancer {
            Some(balancer) => vec![at(0).at(&balancer.url())],
            None => (0..places.len()).map(at).collect(),
        }
    }

    /// Waits until everyone has their first event, so that all of them see the whole story.
    async fn all_watch(&self) -> Result<()> {
        let start = self.owner.revision(&self.project).await?.to_string();
        self.whole(&self.everyone(), &start).await.context("not everyone is let in").map(drop)
    }

    /// Waits until Redis and all nodes agree on the end, and brings it with the nodes' documents.
    async fn settle(&mut self) -> Result<(Revision, Vec<(String, Value)>)> {
        let owners: Vec<Client> = (0..self.order.nodes).map(|node| self.cluster.user(node, "owner")).collect();
        let (project, key) = (self.project, self.log_key());
        let redis = self.cluster.redis()?;
        let mut seen = None;
        let agreed = eventually(patience(SETTLED_SECONDS), async || {
            let head = Revision::of(&json!(redis.last_entry(&key).await?.id))?;
            let (mut documents, mut late) = (Vec::new(), Vec::new());
            for (node, owner) in owners.iter().enumerate() {
                let plan = owner.plan(&project).await?;
                if Revision::of(&plan["revision"])? != head {
                    late.push(node);
                }
                documents.push((format!("node {node}"), Replica::document_of(&plan)));
            }
            seen = Some((head, documents.clone()));
            let now = Revision::of(&json!(redis.last_entry(&key).await?.id))?;
            ensure!(late.is_empty() && now == head, "nodes {late:?} are not at {head}");
            Ok((head, documents))
        })
        .await;
        match (agreed, seen) {
            (Ok(agreed), _) => Ok(agreed),
            // They do not agree: their documents, or the log, will show it.
            (Err(_), Some(seen)) => Ok(seen),
            (Err(error), None) => Err(error.context("after the storm")),
        }
    }
}

/// Guests who last were told of so many people.
fn guests_who_know(entries: &[Entry], people: usize) -> usize {
    let mut known = HashMap::new();
    for entry in entries {
        if let Event::Met { guest, people } = entry.event {
            known.insert(guest, people);
        }
    }
    known.values().filter(|known| **known == people).count()
}

/// The name of a writer.
pub(crate) fn writer_name(index: usize) -> String {
    format!("writer-{index}")
}

fn guest_name(index: usize) -> String {
    format!("guest-{index}")
}

/// The name of a watcher.
pub(crate) fn watcher_name(index: usize) -> String {
    format!("watcher-{index}")
}
