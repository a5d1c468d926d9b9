//! A cluster that is there already and that somebody else breaks: people edit and watch it, and the same judges say
//! afterwards whether anything was lost.
//!
//! What is different from a scenario: we reach the nodes and not Redis, so the log is what the nodes tell of it. That Redis
//! holds the same, the scenarios show.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use mille_tests::{Client, Project, Replica, Revision, Token, documents as d, eventually, patience};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout_at};

use crate::checkers::judge;
use crate::history::{History, Logged, Recorder, whole_at_ms};
use crate::report::Report;
use crate::stage::{Cast, watcher_name, writer_name};
use crate::watchers::{Memory, Seat, Watcher};
use crate::workload::{PLAN_NODES_MAX, Writer};

/// Longest run. Its changes must all be in the log at the end, which keeps at least 10,000; there are about 30 a second.
pub const LENGTH_MAX: Duration = Duration::from_secs(300);
/// Seconds until everyone must agree, once the last edit is answered: also a node that is started anew.
const SETTLED_SECONDS: f64 = 60.0;
/// What is told of nodes that are not back by then: who breaks something mends it, too.
const AWAY: &str = "nodes that were not back at the end";
/// Changes in one page of the log.
const PAGE_CHANGES: u32 = 1_000;

/// Where the cluster is, and how we get in.
#[derive(Debug, Clone)]
pub struct Given {
    /// The nodes' addresses, `http://host:port`.
    pub nodes: Vec<String>,
    /// The secret of HS256 tokens.
    pub secret: String,
}

impl Given {
    /// Lets people edit for `length`, and judges what they were told.
    ///
    /// # Errors
    /// When the run could not be carried out. A broken promise is no error but in the report.
    pub async fn run(&self, length: Duration, seed: u64) -> Result<Report> {
        ensure!(!self.nodes.is_empty(), "no node is given");
        ensure!(length <= LENGTH_MAX, "at most {} s: the log must reach back to the start", LENGTH_MAX.as_secs());
        let history = LocalSet::new().run_until(self.play(length, seed)).await?;
        let verdicts = judge(&history, &[]);
        Ok(Report { scenario: "given".to_owned(), seed, nodes: self.nodes.len(), verdicts, history })
    }

    async fn play(&self, length: Duration, seed: u64) -> Result<History> {
        let cast = Cast::USUAL;
        let owners = self.person("chaos-owner", 0);
        let owner = owners.first().context("no node is given")?;
        let project = owner.create_project("chaos").await.context("the first node takes no project")?;
        for person in (0..cast.writers).map(writer_name).chain((0..cast.watchers).map(watcher_name)) {
            owner.share(&project, &person, "EDITOR").await?;
        }
        let start = owner.revision(&project).await?;
        let recorder = Recorder::begin();
        let (end, never) = (watch::Sender::new(None), watch::Sender::new(false));
        let watchers: Vec<_> = (0..cast.watchers)
            .map(|index| {
                let seat = Seat { index, project, recorder: recorder.clone(), end: end.subscribe() };
                let nodes = self.person(&watcher_name(index), 0);
                spawn_local(Watcher::new(seat, nodes, never.subscribe(), Memory::Document(Box::default())).watch())
            })
            .collect();
        all_have_seen(&recorder, cast.watchers, &start).await.context("not everyone is let in")?;

        let stop = watch::Sender::new(false);
        let writers: Vec<_> = (0..cast.writers)
            .map(|index| {
                let (name, nodes) = (writer_name(index), self.person(&writer_name(index), index));
                let own_max = PLAN_NODES_MAX / cast.writers;
                let seed = seed.wrapping_add(index as u64);
                let writer = Writer::new(&name, nodes, project, recorder.clone(), seed, own_max, cast.manner);
                spawn_local(writer.work(cast.pace, stop.subscribe()))
            })
            .collect();
        eprintln!("people edit for {} s: break what you like, and mend it before the end", length.as_secs());
        sleep(length).await;
        stop.send_replace(true);
        for writer in writers {
            writer.await.context("a writer died")?;
        }
        eprintln!("every edit has an answer; all nodes and watchers must agree within {SETTLED_SECONDS} s");

        let Settled { head, mut documents, away } = settle(&owners, &project).await?;
        end.send_replace(Some(head));
        documents.extend(documents_of(watchers).await);
        let mut log = Err(anyhow!("no node is given"));
        for owner in &owners {
            log = log_of(owner, &project, &start).await;
            if log.is_ok() {
                break;
            }
        }
        let log = log?;
        let (entries, watchers) = (recorder.entries(), cast.watchers);
        let mut history = History { entries, watchers, log, is_trimmed: false, end: head.to_string(), documents };
        history.measure(AWAY, away as u64, 0);
        Ok(history)
    }

    /// One person at all nodes, beginning with the one of that number.
    fn person(&self, name: &str, first: usize) -> Vec<Client> {
        let lifetime = i64::try_from(2 * LENGTH_MAX.as_secs()).unwrap_or(i64::MAX);
        let token = Token::of(name).lives_secs(lifetime).sign_with(&self.secret);
        let count = self.nodes.len();
        (0..count)
            .map(|step| Client::new(&self.nodes[(first + step) % count]).with_token(name, token.clone()))
            .collect()
    }
}

async fn all_have_seen(recorder: &Recorder, watchers: usize, revision: &Revision) -> Result<()> {
    let (everyone, revision) = ((0..watchers).collect::<Vec<_>>(), revision.to_string());
    eventually(patience(SETTLED_SECONDS), async || {
        let at_ms = recorder.read(|entries| whole_at_ms(entries, &everyone, &revision));
        at_ms.map(drop).with_context(|| format!("someone has not seen {revision} yet"))
    })
    .await
}

/// Where the nodes came to rest.
struct Settled {
    head: Revision,
    /// Of each node that answers.
    documents: Vec<(String, Value)>,
    /// Nodes that do not.
    away: usize,
}

/// Waits until all nodes are at one revision, and brings it with their documents. Those that differ in the end are the
/// checkers' finding; a node that is not back is named and counted.
async fn settle(owners: &[Client], project: &Project) -> Result<Settled> {
    let mut seen = None;
    let agreed = eventually(patience(SETTLED_SECONDS), async || {
        let (mut revisions, mut documents, mut away) = (Vec::new(), Vec::new(), Vec::new());
        for owner in owners {
            match owner.plan(project).await {
                Ok(plan) => {
                    revisions.push(Revision::of(&plan["revision"])?);
                    documents.push((owner.base().to_owned(), Replica::document_of(&plan)));
                }
                Err(failure) => away.push(format!("{}: {failure}", owner.base())),
            }
        }
        let head = *revisions.iter().max().context("no node answers")?;
        let are_equal = revisions.iter().all(|revision| *revision == head);
        let is_whole = away.is_empty();
        seen = Some((head, documents, away));
        ensure!(is_whole && are_equal, "the nodes are at {revisions:?}");
        Ok(())
    })
    .await;
    match (agreed, seen) {
        (_, Some((head, documents, away))) => {
            for node in &away {
                eprintln!("not compared, since it is not back: {node}");
            }
            Ok(Settled { head, documents, away: away.len() })
        }
        (agreed, None) => Err(agreed.err().context("no node was asked")?.context("no node is back")),
    }
}

/// What those watchers hold who arrived at the end; of the others the history tells.
async fn documents_of(watchers: Vec<JoinHandle<Result<Option<Value>>>>) -> Vec<(String, Value)> {
    let deadline = Instant::now() + patience(SETTLED_SECONDS);
    let mut documents = Vec::new();
    for (index, watcher) in watchers.into_iter().enumerate() {
        if let Ok(Ok(Ok(Some(document)))) = timeout_at(deadline, watcher).await {
            documents.push((format!("watcher {index}"), document));
        }
    }
    documents
}

/// Every change after `start`, as a node tells them.
async fn log_of(owner: &Client, project: &Project, start: &Revision) -> Result<Vec<Logged>> {
    let (mut log, mut after) = (Vec::new(), start.to_string());
    loop {
        let variables = json!({"p": project.id, "plan": project.plan, "after": after, "limit": PAGE_CHANGES});
        let page = owner.ask(d::DELTAS, "planDagDeltas", variables).await.context("the log can't be read")?;
        for event in page["events"].as_array().into_iter().flatten() {
            let revision = Revision::of(&event["revision"])?.to_string();
            after.clone_from(&revision);
            log.push(Logged { revision, operation: event["operationId"].as_str().map(str::to_owned) });
        }
        if page["hasMore"] != true {
            return Ok(log);
        }
    }
}
