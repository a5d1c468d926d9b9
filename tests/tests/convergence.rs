//! The promise: however many people edit through however many nodes, everyone sees one history.
//!
//! Six writers on three nodes make 500 edits, some of which contradict each other on purpose. Two subscribers
//! per node must see the same revisions without a hole, each of them a plan in order, and end with the same
//! document. What was accepted is in the log once; what was refused says why, and is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Client, Cluster, Failure, Project, Replica, Revision, broken_rules, documents as d, edge_input, node_input,
    same_value, seed,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const NODES: usize = 3;
const WRITERS: usize = 6;
const EDITS: usize = 500;
/// Contradictions made on purpose: half of them move against delete, half of them close a cycle. Each writer has as
/// many of both.
const DUELS: usize = 4 * WRITERS;
/// Edits in the two kinds of duel: what is set up, and what then meets.
const DUEL_EDITS: [usize; 2] = [3, 4];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_edits_through_three_nodes_are_one_history() -> Result<()> {
    let seed = seed();
    let cluster = Cluster::of(NODES).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    for writer in 0..WRITERS {
        ada.share(&project, &name_of(writer), "EDITOR").await?;
    }
    let ids = SharedIds::default();
    for (index, kind) in d::NODE_TYPES.iter().cycle().take(14).enumerate() {
        let id = format!("start-{index}");
        ada.add_node_as(&project, &id, kind).await?;
        ids.lock().nodes.push(id);
    }

    let mut followers = Vec::new();
    for index in 0..2 * NODES {
        let socket = cluster.user(index % NODES, &name_of(index)).socket().await?;
        let mut deltas = socket.follow(&project, None).await?;
        let mut replica = Replica::new();
        replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
        followers.push((socket, deltas, replica));
    }

    let random_edits = EDITS - DUELS / 2 * (DUEL_EDITS[0] + DUEL_EDITS[1]);
    let mut writers = Vec::new();
    for index in 0..WRITERS {
        let writer = Writer {
            here: cluster.user(index % NODES, &name_of(index)),
            elsewhere: cluster.user((index + 1) % NODES, &name_of(index)),
            project,
            ids: ids.clone(),
            random: SmallRng::seed_from_u64(seed.wrapping_add(index as u64)),
            name: name_of(index),
            count: 0,
            record: Vec::new(),
        };
        let (edits, duels) = (share_of(random_edits, index), share_of(DUELS, index));
        writers.push(tokio::spawn(writer.work(edits, duels)));
    }
    let mut record = Vec::new();
    for writer in writers {
        record.extend(writer.await??);
    }
    ensure!(record.len() == EDITS, "{} edits were made", record.len());

    let plan = ada.plan(&project).await?;
    let end = Revision::of(&plan["revision"])?;
    let mut histories = Vec::new();
    for (_, deltas, replica) in &mut followers {
        let mut history = Vec::new();
        while replica.revision() != Some(end) {
            let event = deltas.value("planDagDeltaChanged").await?;
            replica.apply(&event)?;
            let broken = broken_rules(replica.document());
            ensure!(broken.is_empty(), "at {}: {broken:?}", event["revision"]);
            history.push(event);
        }
        ensure!(replica.snapshots() == 1, "a follower that kept up needs no second SNAPSHOT");
        histories.push(history);
    }
    for history in &histories {
        ensure!(*history == histories[0], "two followers saw different events");
    }
    for node in 0..NODES {
        let document = Replica::document_of(&cluster.user(node, "ada").plan(&project).await?);
        for (_, _, replica) in &followers {
            ensure!(
                same_value(replica.document(), &document),
                "node {node} holds {document}\na follower holds {}",
                replica.document()
            );
        }
    }
    let log = ada.deltas_after(&project, &end.start().to_string()).await?;
    the_log_holds_what_was_accepted(&log, &record, end)?;
    let live = &histories[0];
    ensure!(log[log.len() - live.len()..] == live[..], "a replayed event differs from the live one");
    let accepted = record.iter().filter(|edit| edit.refusal.is_none()).count();
    ensure!(accepted > EDITS / 4, "only {accepted} of {EDITS} edits were accepted: this run shows little");
    Ok(())
}

/// Every accepted edit once, no refused one, and a revision for every number.
fn the_log_holds_what_was_accepted(log: &[Value], record: &[Edit], end: Revision) -> Result<()> {
    let mut revision = end.start();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for event in log {
        revision = revision.next();
        ensure!(Revision::of(&event["revision"])? == revision, "the log has no {revision}: {event}");
        if let Some(id) = event["operationId"].as_str() {
            *times.entry(id).or_default() += 1;
        }
    }
    ensure!(revision == end, "the log ends at {revision}, the plan at {end}");
    for edit in record {
        let found = times.get(edit.operation.as_str()).copied().unwrap_or(0);
        match &edit.refusal {
            None => ensure!(found == 1, "{} was accepted and is in the log {found} times", edit.operation),
            Some(code) => {
                ensure!(found == 0, "{} was refused ({code}) and is in the log", edit.operation);
                ensure!(d::CODES.contains(&code.as_str()), "{} was refused with {code:?}", edit.operation);
                ensure!(code != "INTERNAL_ERROR", "{} met a bug of the node", edit.operation);
            }
        }
    }
    Ok(())
}

/// One edit and what became of it.
#[derive(Debug)]
struct Edit {
    operation: String,
    refusal: Option<String>,
}

/// Ids that writers have seen, some of which others have deleted since.
#[derive(Debug, Default)]
struct Ids {
    nodes: Vec<String>,
    edges: Vec<String>,
}

#[derive(Debug, Default, Clone)]
struct SharedIds(Arc<Mutex<Ids>>);

impl SharedIds {
    fn lock(&self) -> MutexGuard<'_, Ids> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    here: Client,
    elsewhere: Client,
    project: Project,
    ids: SharedIds,
    random: SmallRng,
    name: String,
    count: u32,
    record: Vec<Edit>,
}

impl Writer {
    async fn work(mut self, edits: usize, duels: usize) -> Result<Vec<Edit>> {
        ensure!(duels <= edits, "{duels} duels have no place among {edits} edits");
        for index in 0..edits {
            self.random_edit().await?;
            if index < duels {
                if index % 2 == 0 { self.move_against_delete().await? } else { self.close_a_cycle_twice().await? }
            }
        }
        Ok(self.record)
    }

    async fn random_edit(&mut self) -> Result<()> {
        let number = self.next_number();
        let (node, other) = (self.some_node()?, self.some_node()?);
        let edge = self.some_edge();
        let id = format!("{}-{number}", self.name);
        let (document, field, variables) = match (self.random.random_range(0..100), edge) {
            (0..25, _) => {
                let kind = d::NODE_TYPES.choose(&mut self.random).context("there are kinds")?;
                (d::ADD_NODE, "addPlanDagNode", json!({"node": node_input(Some(&id), kind, &id)}))
            }
            (25..58, _) => (d::ADD_EDGE, "addPlanDagEdge", json!({"edge": edge_input(Some(&id), &node, &other)})),
            (58..72, _) => (d::MOVE_NODE, "movePlanDagNode", json!({"id": node, "to": self.place(number)})),
            (72..82, _) => {
                (d::UPDATE_NODE, "updatePlanDagNode", json!({"id": node, "updates": {"metadata": {"label": id}}}))
            }
            (82..88, _) => (d::DELETE_NODE, "deletePlanDagNode", json!({"id": node})),
            (88..95, Some(edge)) => (d::DELETE_EDGE, "deletePlanDagEdge", json!({"id": edge})),
            _ => (d::UPDATE_METADATA, "updatePlanDagMetadata", json!({"description": id})),
        };
        let client = self.here.clone();
        let made = self.edit(&client, number, document, variables).await?;
        if made.is_some() {
            let mut ids = self.ids.lock();
            match field {
                "addPlanDagNode" => ids.nodes.push(id),
                "addPlanDagEdge" => ids.edges.push(id),
                _ => {}
            }
        }
        Ok(())
    }

    /// A plan node is moved on one node of the cluster while another deletes it.
    async fn move_against_delete(&mut self) -> Result<()> {
        let (number, move_number, delete_number) = (self.next_number(), self.next_number(), self.next_number());
        let id = format!("{}-{number}", self.name);
        let (here, elsewhere) = (self.here.clone(), self.elsewhere.clone());
        let node = json!({"node": node_input(Some(&id), "TransformNode", &id)});
        self.edit(&here, number, d::ADD_NODE, node).await?.context("a fresh plan node is refused")?;
        let to = json!({"id": id, "to": self.place(number)});
        let (moved, deleted) = tokio::join!(
            here.run(d::MOVE_NODE, self.variables(move_number, to)),
            elsewhere.run(d::DELETE_NODE, self.variables(delete_number, json!({"id": id}))),
        );
        let moved = self.note(move_number, moved)?;
        let deleted = self.note(delete_number, deleted)?;
        ensure!(deleted.is_some(), "nothing speaks against deleting {id}");
        if moved.is_none() {
            let code = self.refusal_of(move_number);
            ensure!(code.as_deref() == Some("NOT_FOUND"), "moving what is deleted: {code:?}");
        }
        Ok(())
    }

    /// Two edges that are harmless alone and a cycle together, at once on two nodes: one of them stays.
    async fn close_a_cycle_twice(&mut self) -> Result<()> {
        let numbers = [self.next_number(), self.next_number(), self.next_number(), self.next_number()];
        let [left, right] = [numbers[0], numbers[1]].map(|number| format!("{}-{number}", self.name));
        let (here, elsewhere) = (self.here.clone(), self.elsewhere.clone());
        for (number, id) in [(numbers[0], &left), (numbers[1], &right)] {
            let node = json!({"node": node_input(Some(id), "MergeNode", id)});
            self.edit(&here, number, d::ADD_NODE, node).await?.context("a fresh plan node is refused")?;
        }
        let there = json!({"edge": edge_input(None, &left, &right)});
        let back = json!({"edge": edge_input(None, &right, &left)});
        let (there, back) = tokio::join!(
            here.run(d::ADD_EDGE, self.variables(numbers[2], there)),
            elsewhere.run(d::ADD_EDGE, self.variables(numbers[3], back)),
        );
        let (there, back) = (self.note(numbers[2], there)?, self.note(numbers[3], back)?);
        ensure!(there.is_some() != back.is_some(), "one of {left} → {right} and back must stay: {there:?}, {back:?}");
        let loser = if there.is_some() { numbers[3] } else { numbers[2] };
        let code = self.refusal_of(loser);
        ensure!(code.as_deref() == Some("VALIDATION_FAILED"), "a cycle is refused with {code:?}");
        Ok(())
    }

    async fn edit(&mut self, client: &Client, number: u32, document: &str, variables: Value) -> Result<Option<Value>> {
        let outcome = client.run(document, self.variables(number, variables)).await;
        self.note(number, outcome)
    }

    /// Writes an edit into the record. `None`: it was refused.
    fn note(&mut self, number: u32, outcome: Result<Value, Failure>) -> Result<Option<Value>> {
        let operation = self.operation(number);
        let (data, refusal) = match outcome {
            Ok(data) => (Some(data), None),
            Err(Failure::Refused(refusal)) => (None, Some(refusal.code)),
            Err(failure) => bail!("{operation} in a healthy cluster: {failure}"),
        };
        self.record.push(Edit { operation, refusal });
        Ok(data)
    }

    fn refusal_of(&self, number: u32) -> Option<String> {
        let operation = self.operation(number);
        self.record.iter().find(|edit| edit.operation == operation).and_then(|edit| edit.refusal.clone())
    }

    fn variables(&self, number: u32, mut variables: Value) -> Value {
        variables["p"] = json!(self.project.id);
        variables["op"] = json!(self.operation(number));
        variables
    }

    fn operation(&self, number: u32) -> String {
        format!("op-{}-{number}", self.name)
    }

    fn next_number(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// A place nobody else gives, so that no move changes nothing.
    fn place(&mut self, number: u32) -> Value {
        json!({"x": f64::from(number) + 0.5, "y": self.random.random_range(-90_000.0..90_000.0_f64)})
    }

    fn some_node(&mut self) -> Result<String> {
        let ids = self.ids.lock();
        ids.nodes.choose(&mut self.random).cloned().context("there are plan nodes")
    }

    fn some_edge(&mut self) -> Option<String> {
        let ids = self.ids.lock();
        ids.edges.choose(&mut self.random).cloned()
    }
}

fn name_of(writer: usize) -> String {
    format!("writer-{writer}")
}

/// The share of `all` that a writer takes; the shares add up.
fn share_of(all: usize, writer: usize) -> usize {
    all / WRITERS + usize::from(writer < all % WRITERS)
}
