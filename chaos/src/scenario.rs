//! A scenario puts the parts together: a cluster, a workload, watchers, a nemesis, and then the judges.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mille_tests::{Client, Cluster, Project, Replica, Revision, eventually, patience};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::Instant;

use crate::checkers::judge;
use crate::history::{Event, History, Logged, Recorder};
use crate::nemesis;
use crate::report::Report;
use crate::watchers::Watcher;
use crate::workload::Writer;

/// People who edit.
const WRITERS: usize = 6;
/// People who watch.
const WATCHERS: usize = 6;
/// Seconds until every watcher must have seen everything, once the last edit is answered.
const SETTLED_SECONDS: f64 = 30.0;

/// `kill -9` of a node, twice, while six people edit and six watch.
#[derive(Debug, Clone, Copy)]
pub struct KillNode {
    /// How long the writers edit. At least a few seconds, or there is nothing to break.
    pub length: Duration,
    /// Decides who edits what and who is killed.
    pub seed: u64,
    /// Nodes of the cluster; at least 2.
    pub nodes: usize,
}

impl KillNode {
    /// Runs the scenario and judges what happened.
    ///
    /// # Errors
    /// When the scenario itself could not be carried out. A broken promise is no error but in the report.
    pub async fn run(self) -> Result<Report> {
        // Everyone shares one thread: the harness waits far more than it works.
        LocalSet::new().run_until(self.run_here()).await
    }

    async fn run_here(self) -> Result<Report> {
        anyhow::ensure!(self.nodes >= 2, "with one node there is nowhere to go on");
        let mut cluster = Cluster::of(self.nodes).quiet().start().await.context("the cluster does not start")?;
        let owner = cluster.user(0, "owner");
        let project = owner.create_project("chaos").await?;
        for person in (0..WRITERS).map(writer_name).chain((0..WATCHERS).map(watcher_name)) {
            owner.share(&project, &person, "EDITOR").await?;
        }

        let recorder = Recorder::begin();
        let (end_sender, end) = watch::channel(None);
        let watchers: Vec<JoinHandle<Result<Value>>> = (0..WATCHERS)
            .map(|index| {
                let nodes = everywhere(&cluster, &watcher_name(index), 0);
                spawn_local(Watcher::new(index, nodes, project, recorder.clone(), end.clone()).watch())
            })
            .collect();
        self.all_watch(&recorder).await?;
        let began = Instant::now();
        let writers: Vec<JoinHandle<()>> = (0..WRITERS)
            .map(|index| {
                let nodes = everywhere(&cluster, &writer_name(index), index);
                let seed = self.seed.wrapping_add(index as u64);
                let writer = Writer::new(&writer_name(index), nodes, project, recorder.clone(), seed);
                spawn_local(writer.work(began + self.length))
            })
            .collect();
        let schedule = nemesis::kill_twice(self.nodes, self.length, self.seed);
        nemesis::strike(&mut cluster, schedule, began, &recorder).await?;
        for writer in writers {
            writer.await.context("a writer died")?;
        }

        let last = owner.revision(&project).await.context("after the storm")?;
        end_sender.send(Some(last)).context("nobody watches any more")?;
        let mut documents = self.documents_of_nodes(&cluster, &project, last).await?;
        for (index, watcher) in watchers.into_iter().enumerate() {
            let document = tokio::time::timeout(patience(SETTLED_SECONDS), watcher).await;
            // A watcher that did not arrive is the checkers' finding: its last revision is in the history.
            if let Ok(Ok(Ok(document))) = document {
                documents.push((format!("watcher {index}"), document));
            }
        }
        let log = owner.deltas_after(&project, &last.start().to_string()).await?;
        let text = |event: &Value, name: &str| event[name].as_str().map(str::to_owned);
        let log = log
            .iter()
            .map(|event| Logged {
                revision: text(event, "revision").unwrap_or_default(),
                operation: text(event, "operationId"),
            })
            .collect();
        let history =
            History { entries: recorder.entries(), watchers: WATCHERS, log, end: last.to_string(), documents };
        let verdicts = judge(&history);
        Ok(Report { scenario: "kill-node", seed: self.seed, nodes: self.nodes, verdicts, history })
    }

    /// Waits until every watcher has its first document, so that all of them see the whole story.
    async fn all_watch(self, recorder: &Recorder) -> Result<()> {
        eventually(patience(SETTLED_SECONDS), async || {
            let entries = recorder.entries();
            let there = entries.iter().filter(|entry| matches!(entry.event, Event::SawSnapshot { .. })).count();
            anyhow::ensure!(there >= WATCHERS, "{there} of {WATCHERS} watchers have a document");
            Ok(())
        })
        .await
    }

    async fn documents_of_nodes(
        self,
        cluster: &Cluster,
        project: &Project,
        last: Revision,
    ) -> Result<Vec<(String, Value)>> {
        let mut documents = Vec::new();
        for node in 0..self.nodes {
            let owner = cluster.user(node, "owner");
            let plan = eventually(patience(SETTLED_SECONDS), async || {
                let plan = owner.plan(project).await?;
                let here = Revision::of(&plan["revision"])?;
                anyhow::ensure!(here == last, "node {node} is at {here}, not {last}");
                Ok(plan)
            })
            .await?;
            documents.push((format!("node {node}"), Replica::document_of(&plan)));
        }
        Ok(documents)
    }
}

/// One person at every node, beginning with the node `first`.
fn everywhere(cluster: &Cluster, person: &str, first: usize) -> Vec<Client> {
    let nodes = cluster.size();
    (0..nodes).map(|step| cluster.user((first + step) % nodes, person)).collect()
}

fn writer_name(index: usize) -> String {
    format!("writer-{index}")
}

fn watcher_name(index: usize) -> String {
    format!("watcher-{index}")
}
