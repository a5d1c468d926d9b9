//! What a change does to a plan: its new state, its delta and the elements it touched, made in one pass.
//!
//! Applying decides nothing: the facts were accepted on this very state. A fact that does not fit is proof that the
//! history is not ours, and says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use mille_shared::change::{Change, Fact};
use mille_shared::delta::{JsonText, PatchOperation};
use mille_shared::execution::ExecutionState;
use mille_shared::log::{ChainHash, Head, LogEntry};
use mille_shared::plan::{PlanEdge, PlanMetadata, PlanNode};
use mille_shared::{PlanNodeId, Revision, RunId, Timestamp, limits};
use serde::Serialize;

use super::elements::Elements;
use super::graph::{End, Graph};
use super::{EdgeRecord, NodeRecord, Plan};
use crate::applied::{Applied, Touch};
use crate::chain;

/// Why an entry is not the next change of this plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is not the one right behind the plan's head.
    #[error("after {head} comes no {revision}")]
    OutOfOrder {
        /// The plan's head.
        head: Revision,
        /// The entry's place.
        revision: Revision,
    },
    /// Its number fits and its hash does not: it belongs to another history.
    #[error("{revision} belongs to another history")]
    Fork {
        /// The entry's place.
        revision: Revision,
    },
    /// It is no change, or one of something that is not there.
    #[error("{revision} can't be read: {why}")]
    Corrupt {
        /// The entry's place.
        revision: Revision,
        /// What is wrong with it.
        why: String,
    },
}

impl Plan {
    /// The plan that a log's first entry begins.
    ///
    /// # Errors
    /// [`ApplyError`] unless the entry has `seq` 0, its hash follows [`ChainHash::ROOT`], and it creates a plan.
    pub fn begin(entry: &LogEntry) -> Result<Self, ApplyError> {
        let revision = entry.revision;
        let corrupt = |why: String| ApplyError::Corrupt { revision, why };
        if revision.seq != 0 {
            return Err(corrupt("a plan begins with seq 0".to_owned()));
        }
        if chain::link(ChainHash::ROOT, revision, &entry.payload) != entry.hash {
            return Err(ApplyError::Fork { revision });
        }
        let change: Change = serde_json::from_str(&entry.payload).map_err(|e| corrupt(e.to_string()))?;
        let [Fact::Created { metadata }] = change.facts.as_slice() else {
            return Err(corrupt("a plan begins with its creation".to_owned()));
        };
        let mut plan = Self {
            head: Head { revision, hash: entry.hash },
            epoch_began: Some(revision.seq),
            nodes: Elements::default(),
            edges: Elements::default(),
            graph: Graph::default(),
            bytes: 0,
            metadata: Arc::new(metadata.clone()),
            metadata_revision: revision,
            last_modified: change.at,
        };
        plan.bytes = plan.count_bytes();
        Ok(plan)
    }

    /// Applies the next entry of the log.
    ///
    /// # Errors
    /// [`ApplyError`]; the plan is then as it was.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<Applied, ApplyError> {
        let revision = entry.revision;
        if !self.head.revision.precedes(revision) {
            return Err(ApplyError::OutOfOrder { head: self.head.revision, revision });
        }
        if chain::link(self.head.hash, revision, &entry.payload) != entry.hash {
            return Err(ApplyError::Fork { revision });
        }
        let change: Change =
            serde_json::from_str(&entry.payload).map_err(|e| ApplyError::Corrupt { revision, why: e.to_string() })?;
        // A fact that does not fit changes nothing; of several, those before it already have.
        let before = (change.facts.len() > 1).then(|| self.clone());
        let head = Head { revision, hash: entry.hash };
        let applied = self.apply_change(change, Arc::clone(&entry.payload), head);
        if let (Err(_), Some(before)) = (&applied, before) {
            *self = before;
        }
        applied
    }

    /// Applies a change that was accepted on this state, as the one right behind its head.
    pub(crate) fn apply_change(
        &mut self,
        mut change: Change,
        payload: Arc<str>,
        head: Head,
    ) -> Result<Applied, ApplyError> {
        let previous = self.head.revision;
        let Steps { mut patch, mut touches } = self.apply_facts(&change.facts, head, change.at)?;
        // They are kept for long, and most changes are of one fact.
        change.facts.shrink_to_fit();
        patch.shrink_to_fit();
        touches.shrink_to_fit();
        Ok(Applied { head, previous, change, payload, patch, touches })
    }

    /// Applies facts that together make the plan what it is at `head`.
    pub(super) fn apply_facts(&mut self, facts: &[Fact], head: Head, at: Timestamp) -> Result<Steps, ApplyError> {
        let mut steps = Steps::default();
        for fact in facts {
            let (added, removed) = self.growth(fact);
            self.apply_fact(fact, head.revision, at, &mut steps)
                .map_err(|why| ApplyError::Corrupt { revision: head.revision, why: why.to_owned() })?;
            self.bytes = self.bytes + added - removed;
        }
        if head.revision.epoch != self.head.revision.epoch {
            self.epoch_began = Some(head.revision.seq);
        }
        self.head = head;
        self.last_modified = at;
        Ok(steps)
    }

    fn apply_fact(
        &mut self,
        fact: &Fact,
        revision: Revision,
        at: Timestamp,
        steps: &mut Steps,
    ) -> Result<(), &'static str> {
        match fact {
            Fact::Created { .. } => return Err("a plan is created once"),
            Fact::NodeAdded { node } => {
                if self.nodes.contains_key(&node.id) {
                    return Err("a plan node is added twice");
                }
                let record = Arc::new(NodeRecord { node: (**node).clone(), revision, runs: Vec::new() });
                steps.patch.push(PatchOperation::add("/nodes/-", text_of(&record.node)));
                steps.touches.push(Touch::NodeAdded(Arc::clone(&record)));
                self.graph.add_node(&node.id, node.node_type);
                self.nodes.push(node.id.clone(), record);
            }
            Fact::NodeUpdated { id, position, source_position, target_position, metadata, config } => {
                let (path, shared) = self.node_to_change(id)?;
                let record = Arc::make_mut(shared);
                let node = &mut record.node;
                if let Some(position) = position {
                    steps.replace(&path, "position", position);
                    node.position = *position;
                }
                for (name, new, field) in [
                    ("sourcePosition", source_position, &mut node.source_position),
                    ("targetPosition", target_position, &mut node.target_position),
                ] {
                    if new.is_some() {
                        steps.replace(&path, name, new);
                        field.clone_from(new);
                    }
                }
                if let Some(metadata) = metadata {
                    steps.replace(&path, "metadata", metadata);
                    node.metadata.clone_from(metadata);
                }
                if let Some(config) = config {
                    steps.replace(&path, "config", config);
                    node.config.clone_from(config);
                }
                steps.touched(&path, &mut node.updated_at, at);
                record.revision = revision;
                steps.touches.push(Touch::NodeUpdated(Arc::clone(shared)));
            }
            Fact::NodeRemoved { id } => {
                let (index, record) = self.nodes.remove(id).ok_or(MISSING_NODE)?;
                self.graph.remove_node(id);
                steps.patch.push(PatchOperation::remove(format!("/nodes/{index}")));
                steps.touches.push(Touch::NodeRemoved(record));
            }
            Fact::EdgeAdded { edge } => {
                if self.edges.contains_key(&edge.id) {
                    return Err("an edge is added twice");
                }
                let record = Arc::new(EdgeRecord { edge: edge.clone(), revision });
                steps.patch.push(PatchOperation::add("/edges/-", text_of(edge)));
                steps.touches.push(Touch::EdgeAdded(Arc::clone(&record)));
                self.graph.add(End::from(edge));
                self.edges.push(edge.id.clone(), record);
            }
            Fact::EdgeUpdated { id, metadata } => {
                let (index, record) = self.edges.get_full_mut(id).ok_or(MISSING_EDGE)?;
                let path = format!("/edges/{index}");
                let changed = Arc::make_mut(record);
                steps.replace(&path, "metadata", metadata);
                changed.edge.metadata.clone_from(metadata);
                self.graph.change_data_type(End::from(&changed.edge));
                steps.touched(&path, &mut changed.edge.updated_at, at);
                changed.revision = revision;
                steps.touches.push(Touch::EdgeUpdated(Arc::clone(record)));
            }
            Fact::EdgeRemoved { id } => {
                let (index, record) = self.edges.remove(id).ok_or(MISSING_EDGE)?;
                self.graph.remove(End::from(&record.edge));
                steps.patch.push(PatchOperation::remove(format!("/edges/{index}")));
                steps.touches.push(Touch::EdgeRemoved(record));
            }
            Fact::MetadataUpdated { metadata } => self.set_metadata(metadata, revision, steps),
            Fact::Replaced { nodes, edges, metadata } => {
                if has_twins(nodes.iter().map(|node| &node.id)) || has_twins(edges.iter().map(|edge| &edge.id)) {
                    return Err("a document holds an element twice");
                }
                self.replace(nodes, edges, metadata, revision, steps);
            }
            Fact::ExecutionChanged { id, run_id, state, datasource, graph } => {
                let (path, shared) = self.node_to_change(id)?;
                let record = Arc::make_mut(shared);
                if datasource.is_some() {
                    steps.replace(&path, "datasourceExecution", datasource);
                    record.node.datasource_execution.clone_from(datasource);
                }
                if graph.is_some() {
                    steps.replace(&path, "graphExecution", graph);
                    record.node.graph_execution.clone_from(graph);
                }
                steps.touched(&path, &mut record.node.updated_at, at);
                record.revision = revision;
                remember_run(&mut record.runs, run_id, *state);
                let record = Arc::clone(shared);
                steps.touches.push(Touch::ExecutionChanged { record, run_id: run_id.clone(), state: *state });
            }
        }
        Ok(())
    }

    fn node_to_change(&mut self, id: &PlanNodeId) -> Result<(String, &mut Arc<NodeRecord>), &'static str> {
        let (index, record) = self.nodes.get_full_mut(id).ok_or(MISSING_NODE)?;
        Ok((format!("/nodes/{index}"), record))
    }

    fn set_metadata(&mut self, metadata: &PlanMetadata, revision: Revision, steps: &mut Steps) {
        let old = &self.metadata;
        for (name, before, after) in [
            ("name", &old.name, &metadata.name),
            ("description", &old.description, &metadata.description),
            ("author", &old.author, &metadata.author),
            ("created", &old.created, &metadata.created),
        ] {
            if before != after {
                steps.replace("/metadata", name, after);
            }
        }
        self.metadata = Arc::new(metadata.clone());
        self.metadata_revision = revision;
        steps.touches.push(Touch::MetadataUpdated(metadata.clone()));
    }

    /// The whole document at once. Typed listeners hear of the elements that differ, edges leaving before their plan
    /// nodes and coming after them.
    fn replace(
        &mut self,
        nodes: &[PlanNode],
        edges: &[PlanEdge],
        metadata: &PlanMetadata,
        revision: Revision,
        steps: &mut Steps,
    ) {
        let old_nodes = std::mem::take(&mut self.nodes);
        let old_edges = std::mem::take(&mut self.edges);
        for node in nodes {
            let record = match old_nodes.get(&node.id) {
                Some(old) if old.node == *node => Arc::clone(old),
                Some(old) if old.node.node_type == node.node_type => {
                    Arc::new(NodeRecord { node: node.clone(), revision, runs: old.runs.clone() })
                }
                // Of another type it is executed anew.
                Some(_) | None => Arc::new(NodeRecord { node: node.clone(), revision, runs: Vec::new() }),
            };
            self.nodes.push(node.id.clone(), record);
        }
        for edge in edges {
            let record = match old_edges.get(&edge.id) {
                Some(old) if old.edge == *edge => Arc::clone(old),
                _ => Arc::new(EdgeRecord { edge: edge.clone(), revision }),
            };
            self.edges.push(edge.id.clone(), record);
        }
        self.graph = self.drawn_graph();
        let touches = &mut steps.touches;
        let gone_edges = old_edges.values().filter(|old| !self.edges.contains_key(&old.edge.id));
        touches.extend(gone_edges.map(|old| Touch::EdgeRemoved(Arc::clone(old))));
        let gone_nodes = old_nodes.values().filter(|old| !self.nodes.contains_key(&old.node.id));
        touches.extend(gone_nodes.map(|old| Touch::NodeRemoved(Arc::clone(old))));
        for record in self.nodes.values().filter(|record| record.revision == revision) {
            let known = old_nodes.contains_key(&record.node.id);
            let touch = if known { Touch::NodeUpdated } else { Touch::NodeAdded };
            touches.push(touch(Arc::clone(record)));
        }
        for record in self.edges.values().filter(|record| record.revision == revision) {
            let known = old_edges.contains_key(&record.edge.id);
            let touch = if known { Touch::EdgeUpdated } else { Touch::EdgeAdded };
            touches.push(touch(Arc::clone(record)));
        }
        steps.patch.push(PatchOperation::replace("/nodes", text_of(nodes)));
        steps.patch.push(PatchOperation::replace("/edges", text_of(edges)));
        if *metadata != *self.metadata {
            self.set_metadata(metadata, revision, steps);
        }
    }
}

/// Whether something is there more than once.
fn has_twins<T: Ord>(mut things: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    !things.all(|thing| seen.insert(thing))
}

/// What applying a change left behind for its listeners.
#[derive(Debug, Default)]
pub(super) struct Steps {
    patch: Vec<PatchOperation>,
    touches: Vec<Touch>,
}

impl Steps {
    fn replace(&mut self, element: &str, field: &str, new: &(impl Serialize + ?Sized)) {
        self.patch.push(PatchOperation::replace([element, "/", field].concat(), text_of(new)));
    }

    fn touched(&mut self, element: &str, updated_at: &mut Timestamp, at: Timestamp) {
        *updated_at = at;
        self.replace(element, "updatedAt", &at);
    }
}

const MISSING_NODE: &str = "it changes a plan node that is not there";
const MISSING_EDGE: &str = "it changes an edge that is not there";

fn remember_run(runs: &mut Vec<(RunId, ExecutionState)>, run_id: &RunId, state: ExecutionState) {
    match runs.last_mut() {
        Some((last, reached)) if last == run_id => *reached = state,
        _ => {
            if runs.len() >= limits::RUNS_REMEMBERED_MAX {
                runs.remove(0);
            }
            runs.push((run_id.clone(), state));
        }
    }
}

#[expect(clippy::expect_used, reason = "only a bug can bring a document that is no JSON")]
fn text_of(document: &(impl Serialize + ?Sized)) -> JsonText {
    JsonText::of(document).expect("a plan's elements are JSON")
}

#[cfg(test)]
mod tests {
    use mille_shared::{ClientId, OperationId, UserId};

    use super::*;

    fn entry(head: Option<Head>, facts: Vec<Fact>) -> LogEntry {
        let change = Change {
            operation_id: OperationId::new("op"),
            user_id: UserId::new("ada"),
            client_id: ClientId::none(),
            at: Timestamp::from_unix_ms(0),
            facts,
        };
        let payload: Arc<str> = serde_json::to_string(&change).unwrap().into();
        let revision = head.map_or(Revision { epoch: 1, seq: 0 }, |head| head.revision.next());
        let before = head.map_or(ChainHash::ROOT, |head| head.hash);
        LogEntry { revision, hash: chain::link(before, revision, &payload), payload }
    }

    #[test]
    fn an_entry_that_can_not_be_applied_leaves_the_plan_as_it_was() {
        let metadata = PlanMetadata { name: None, description: None, author: None, created: None };
        let mut plan = Plan::begin(&entry(None, vec![Fact::Created { metadata: metadata.clone() }])).unwrap();
        let before = plan.clone();
        let renamed = Fact::MetadataUpdated { metadata: PlanMetadata { name: Some("half".to_owned()), ..metadata } };
        let removed = Fact::NodeRemoved { id: PlanNodeId::new("nobody") };
        let error = plan.apply(&entry(Some(plan.head()), vec![renamed, removed])).unwrap_err();
        assert!(matches!(error, ApplyError::Corrupt { .. }), "{error}");
        assert_eq!(plan, before);
    }
}
