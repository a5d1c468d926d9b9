//! Many plans at once: what scenarios are played on whose blow falls on a part of Redis.
//!
//! Each plan has one who edits, some who watch, and a history of its own, since revisions are a plan's; all histories go
//! by one clock. They are judged one by one and told as one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use mille_tests::{Builder, Client, Cluster, Project, Replica, Revision, eventually, patience};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::checkers::{Promise, Verdict, judge};
use crate::history::{Entry, Event, History, Logged, Recorder, whole_at_ms};
use crate::nemesis::{Blow, strike};
use crate::stage::{Order, SETTLED_SECONDS, watcher_name, writer_name};
use crate::watchers::{Memory, Seat, Watcher};
use crate::workload::{Manner, PLAN_NODES_MAX, Writer};

/// Time between two edits of one writer: with 30 plans that is 100 edits a second.
const PACE: Duration = Duration::from_millis(300);
/// Who watches a plan. The first keeps the document, the others their place; they are spread over the nodes.
const WATCHERS: usize = 5;

/// A running scenario.
#[derive(Debug)]
pub struct Fleet {
    /// The cluster, to be broken.
    pub cluster: Cluster,
    order: Order,
    /// Blows and numbers.
    recorder: Recorder,
    desks: Vec<Desk>,
    stop: watch::Sender<bool>,
    began: Instant,
}

/// One plan, and who is at it.
#[derive(Debug)]
struct Desk {
    project: Project,
    recorder: Recorder,
    end: watch::Sender<Option<Revision>>,
    watchers: Vec<JoinHandle<Result<Option<Value>>>>,
    writer: Option<JoinHandle<()>>,
}

/// What became of all plans.
#[derive(Debug)]
pub struct Told {
    /// One history per plan, in order.
    pub plans: Vec<History>,
    /// Blows, and numbers that hold for all.
    pub all: History,
}

impl Fleet {
    /// Starts a cluster and waits until everyone watches. Must be called in a `LocalSet`.
    ///
    /// # Errors
    /// When the cluster does not start, or does not take everyone in.
    pub async fn set(order: Order, cluster: Builder) -> Result<Self> {
        ensure!(order.nodes >= 2, "with one node there is nowhere to go on");
        let cluster = cluster.quiet().start().await.context("the cluster does not start")?;
        let recorder = Recorder::begin();
        let mut desks = Vec::with_capacity(order.plans);
        for plan in 0..order.plans {
            let owner = cluster.user(plan % order.nodes, "owner");
            let project = owner.create_project(&format!("chaos-{plan}")).await?;
            for person in [writer_name(plan), watcher_name(plan)] {
                owner.share(&project, &person, "EDITOR").await?;
            }
            let (recorder, end) = (recorder.beside(), watch::Sender::new(None));
            desks.push(Desk { project, recorder, end, watchers: Vec::new(), writer: None });
        }
        let (stop, began) = (watch::Sender::new(false), Instant::now());
        let mut fleet = Self { cluster, order, recorder, desks, stop, began };
        fleet.take_seats();
        fleet.all_watch().await?;
        Ok(fleet)
    }

    /// Lets people edit, from now until [`Fleet::close`].
    pub fn work(&mut self) {
        self.began = Instant::now();
        for plan in 0..self.desks.len() {
            let desk = &self.desks[plan];
            let (name, nodes) = (writer_name(plan), self.person(&writer_name(plan), plan));
            let (recorder, seed) = (desk.recorder.clone(), self.order.seed.wrapping_add(plan as u64));
            let writer = Writer::new(&name, nodes, desk.project, recorder, seed, PLAN_NODES_MAX, Manner::Wild);
            self.desks[plan].writer = Some(spawn_local(writer.work(PACE, self.stop.subscribe())));
        }
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

    /// Milliseconds since the histories began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.recorder.now_ms()
    }

    /// Breaks something or puts it in order, and brings the time when that was done.
    ///
    /// # Errors
    /// When it can't be done.
    pub async fn strike(&mut self, blow: Blow) -> Result<u64> {
        strike(&mut self.cluster, &self.recorder, blow).await
    }

    /// The key of a plan's log in Redis.
    #[must_use]
    pub fn log_key(&self, plan: usize) -> String {
        format!("mille:{{plan:{}}}:log", self.desks[plan].project.plan)
    }

    /// The Redis server that serves each plan.
    ///
    /// # Errors
    /// When servers do not agree.
    pub async fn servers(&self) -> Result<Vec<usize>> {
        let keys: Vec<String> = (0..self.desks.len()).map(|plan| self.log_key(plan)).collect();
        let store = self.cluster.store();
        let mut servers = Vec::with_capacity(keys.len());
        for key in keys {
            servers.push(store.number_of(&key).await?);
        }
        Ok(servers)
    }

    /// One of the servers that serve plans, by the seed.
    ///
    /// # Errors
    /// When servers do not agree.
    pub async fn victim(&self) -> Result<usize> {
        let mut servers = self.servers().await?;
        servers.sort_unstable();
        servers.dedup();
        let chosen = usize::try_from(self.order.seed % servers.len() as u64)?;
        Ok(servers[chosen])
    }

    /// Ends everything and brings the histories.
    ///
    /// # Errors
    /// When a log can't be read. Who does not agree with the others is the checkers' finding.
    pub async fn close(mut self) -> Result<Told> {
        self.stop.send_replace(true);
        for desk in &mut self.desks {
            if let Some(writer) = desk.writer.take() {
                writer.await.context("a writer died")?;
            }
        }
        let servers = self.servers().await?;
        let settled = try_join_all((0..self.desks.len()).map(|plan| self.settle(plan, servers[plan]))).await?;
        let mut plans = Vec::with_capacity(self.desks.len());
        for (plan, (end, mut documents)) in settled.into_iter().enumerate() {
            let key = self.log_key(plan);
            let desk = &mut self.desks[plan];
            desk.end.send_replace(Some(end));
            let deadline = Instant::now() + patience(SETTLED_SECONDS);
            for (watcher, watching) in std::mem::take(&mut desk.watchers).into_iter().enumerate() {
                // A watcher that did not arrive is the checkers' finding: its last revision is in the history.
                if let Ok(Ok(Ok(Some(document)))) = timeout_at(deadline, watching).await {
                    documents.push((format!("watcher {watcher}"), document));
                }
            }
            let entries = desk.recorder.entries();
            let log = Logged::all(self.cluster.store().server(servers[plan])?, &key).await?;
            plans.push(History {
                entries,
                watchers: WATCHERS,
                log,
                is_trimmed: false,
                end: end.to_string(),
                documents,
            });
        }
        let all = History { entries: self.recorder.entries(), ..History::default() };
        Ok(Told { plans, all })
    }

    /// One person at all nodes, beginning with the one of that number.
    fn person(&self, name: &str, first: usize) -> Vec<Client> {
        (0..self.order.nodes).map(|step| self.cluster.user((first + step) % self.order.nodes, name)).collect()
    }

    fn take_seats(&mut self) {
        let never = watch::Sender::new(false);
        for plan in 0..self.desks.len() {
            let seats: Vec<_> = (0..WATCHERS).map(|index| self.person(&watcher_name(plan), plan + index)).collect();
            let desk = &mut self.desks[plan];
            for (index, nodes) in seats.into_iter().enumerate() {
                let (recorder, end) = (desk.recorder.clone(), desk.end.subscribe());
                let seat = Seat { index, project: desk.project, recorder, end };
                let memory = if index == 0 { Memory::Document(Box::default()) } else { Memory::Place(None) };
                desk.watchers.push(spawn_local(Watcher::new(seat, nodes, never.subscribe(), memory).watch()));
            }
        }
    }

    /// Waits until everyone has their first event, so that all of them see the whole story.
    async fn all_watch(&self) -> Result<()> {
        let everyone: Vec<usize> = (0..WATCHERS).collect();
        for (plan, desk) in self.desks.iter().enumerate() {
            let owner = self.cluster.user(plan % self.order.nodes, "owner");
            let start = owner.revision(&desk.project).await?.to_string();
            eventually(patience(SETTLED_SECONDS), async || {
                let at_ms = desk.recorder.read(|entries| whole_at_ms(entries, &everyone, &start));
                at_ms.map(drop).with_context(|| format!("not everyone is let in to plan {plan}"))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until Redis and all nodes agree on the end of a plan, and brings it with the nodes' documents. Where they do
    /// not, their documents or the log will show it.
    async fn settle(&self, plan: usize, server: usize) -> Result<(Revision, Vec<(String, Value)>)> {
        let (project, key) = (self.desks[plan].project, self.log_key(plan));
        let redis = self.cluster.store().server(server)?;
        let mut seen = None;
        let agreed = eventually(patience(SETTLED_SECONDS), async || {
            let head = Revision::of(&json!(redis.last_entry(&key).await?.id))?;
            let (mut documents, mut late) = (Vec::new(), Vec::new());
            for node in 0..self.order.nodes {
                let found = self.cluster.user(node, "owner").plan(&project).await?;
                if Revision::of(&found["revision"])? != head {
                    late.push(node);
                }
                documents.push((format!("node {node}"), Replica::document_of(&found)));
            }
            seen = Some((head, documents));
            ensure!(late.is_empty(), "nodes {late:?} are not at {head}");
            Ok(())
        })
        .await;
        match (agreed, seen) {
            (_, Some(seen)) => Ok(seen),
            (agreed, None) => {
                Err(agreed.err().context("nobody was asked")?.context(format!("after the storm over plan {plan}")))
            }
        }
    }
}

impl Told {
    /// The largest of what a measure brings for each of some plans.
    pub fn worst(&self, plans: impl IntoIterator<Item = usize>, measure: impl Fn(&History) -> u64) -> u64 {
        plans.into_iter().map(|plan| measure(&self.plans[plan])).max().unwrap_or(0)
    }

    /// Holds every plan against what always holds and `further` promises, and the numbers against their bounds; and brings
    /// all histories as one.
    #[must_use]
    pub fn judged(self, further: &[Promise]) -> (Vec<Verdict>, History) {
        let numbers = judge(&self.all, &[]).into_iter().filter(|verdict| verdict.promise == crate::checkers::BOUNDS.0);
        let mut verdicts: Vec<Verdict> = numbers.collect();
        for (plan, history) in self.plans.iter().enumerate() {
            for found in judge(history, further) {
                let broken = found.broken.into_iter().map(|broken| format!("plan {plan}: {broken}"));
                match verdicts.iter_mut().find(|verdict| verdict.promise == found.promise) {
                    Some(verdict) => verdict.broken.extend(broken),
                    None => verdicts.push(Verdict { promise: found.promise, broken: broken.collect() }),
                }
            }
        }
        let mut all = self.all;
        let numbers = all.entries.split_off(all.entries.iter().take_while(|entry| !is_number(entry)).count());
        for (plan, history) in self.plans.into_iter().enumerate() {
            let first = plan * WATCHERS;
            all.entries.extend(history.entries.into_iter().map(|entry| seated_from(first, entry)));
            all.watchers += history.watchers;
            all.log.extend(history.log);
        }
        all.entries.sort_by_key(|entry| entry.at_ms);
        all.entries.extend(numbers);
        (verdicts, all)
    }
}

fn is_number(entry: &Entry) -> bool {
    matches!(entry.event, Event::Measured { .. })
}

/// The same, with watchers counted on from `first`.
fn seated_from(first: usize, mut entry: Entry) -> Entry {
    if let Event::Saw { watcher, .. }
    | Event::SawSnapshot { watcher, .. }
    | Event::SawNonsense { watcher, .. }
    | Event::Lost { watcher, .. } = &mut entry.event
    {
        *watcher += first;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::STREAMS_HELD;

    fn history(operation: &str, is_kept: bool) -> History {
        let (operation, revision) = (operation.to_owned(), "7-1".to_owned());
        let lost = Event::Lost { watcher: 1, reason: "gone".to_owned() };
        let told =
            Event::Acknowledged { operation: operation.clone(), attempts: 1, revision: revision.clone(), after_ms: 1 };
        let entries = vec![Entry { at_ms: 4, event: told }, Entry { at_ms: 9, event: lost }];
        let operation = is_kept.then_some(operation);
        History { entries, watchers: WATCHERS, log: vec![Logged { revision, operation }], ..History::default() }
    }

    #[test]
    fn what_one_plan_lost_is_found_among_many_and_named() {
        let mut all = History { entries: vec![], ..History::default() };
        all.measure("a number", 3, 2);
        let told = Told { plans: vec![history("a", true), history("b", false)], all };
        assert_eq!(told.worst([0, 1], |plan| plan.slowest_answer_ms(0)), 1);
        let (verdicts, all) = told.judged(&[STREAMS_HELD]);
        let broken = |promise: &str| {
            verdicts.iter().find(|verdict| verdict.promise.starts_with(promise)).map(|verdict| verdict.broken.clone())
        };
        let lost = broken("every acknowledged edit").unwrap_or_default();
        assert!(lost.len() == 1 && lost[0].starts_with("plan 1: b "), "{lost:?}");
        assert_eq!(broken("every measured number").map(|found| found.len()), Some(1));
        assert_eq!(broken("no watcher had to").map(|found| found.len()), Some(2));
        assert_eq!((all.watchers, all.log.len(), all.measured("a number")), (2 * WATCHERS, 2, Some(3)));
        let lost = all.events().filter_map(|event| match event {
            Event::Lost { watcher, .. } => Some(*watcher),
            _ => None,
        });
        assert_eq!(lost.collect::<Vec<_>>(), [1, 1 + WATCHERS]);
    }
}
