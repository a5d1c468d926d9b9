//! What a plan accepts: from an operation (a wish) to facts (what will stand in the log).
//!
//! Judged against one state of the plan. Whether that state is still the log's head is the commit's to check; if it
//! moved, the operation is judged again. Facts that would change nothing are left out, so an operation may be accepted
//! and come to nothing.

use std::sync::Arc;

use mille_shared::change::{Change, Fact};
use mille_shared::execution::{DataSourceExecution, ExecutionState, GraphExecution};
use mille_shared::log::Head;
use mille_shared::operation::{Edit, ExecutionReport, NewDocument, NewEdge, NewNode, NodeUpdate, Operation};
use mille_shared::plan::{EdgeMetadata, PlanEdge, PlanMetadata, PlanNode, PlanNodeType};
use mille_shared::{EdgeId, LimitName, PlanNodeId, Revision, RunId, Timestamp};

use super::graph::End;
use super::{NodeRecord, Plan, PlanBounds, rules};
use crate::refusal::{Element, ElementId, Problem, ProblemKind, Refusal};

impl Plan {
    /// Judges an operation against this state. `None`: it is fine and changes nothing.
    ///
    /// # Errors
    /// [`Refusal`] with the first rule it breaks; then none of its edits count.
    pub fn accept(&self, operation: &Operation, bounds: &PlanBounds) -> Result<Option<Change>, Refusal> {
        if operation.edits.len() > bounds.changes_max {
            return Err(Refusal::TooMany { what: LimitName::OperationChanges, limit: bounds.changes_max });
        }
        if let Some(expected) = operation.expected_revision {
            self.check_expected(expected, &operation.edits)?;
        }
        let (facts, bytes) = match operation.edits.as_slice() {
            [edit] => {
                let facts = self.judge(edit, operation.at, bounds)?;
                let bytes = self.bytes_with(&facts);
                (facts, bytes)
            }
            edits => self.judge_all(edits, operation.at, bounds)?,
        };
        self.check_size(bytes, bounds.plan_bytes_max)?;
        Ok((!facts.is_empty()).then(|| Change {
            operation_id: operation.id.clone(),
            user_id: operation.user_id.clone(),
            client_id: operation.client_id.clone(),
            at: operation.at,
            facts,
        }))
    }

    /// Judges edits one after the other, each against what the ones before it leave. With the facts it answers how many bytes
    /// of texts the plan has behind the last.
    fn judge_all(&self, edits: &[Edit], at: Timestamp, bounds: &PlanBounds) -> Result<(Vec<Fact>, usize), Refusal> {
        let mut draft = self.clone();
        let next = Head { revision: self.head.revision.next(), hash: self.head.hash };
        let mut facts = Vec::new();
        for edit in edits {
            let step = draft.judge(edit, at, bounds)?;
            #[expect(clippy::expect_used, reason = "facts are made from the very state they are applied to")]
            draft.apply_facts(&step, next, at).expect("judged facts apply");
            facts.extend(step);
        }
        Ok((facts, draft.bytes))
    }

    fn judge(&self, edit: &Edit, at: Timestamp, bounds: &PlanBounds) -> Result<Vec<Fact>, Refusal> {
        match edit {
            Edit::AddNode(node) => self.judge_add_node(node, at, bounds),
            Edit::UpdateNode { id, update } => self.judge_update_node(id, update, bounds),
            Edit::DeleteNode { id } => self.judge_delete_node(id),
            Edit::AddEdge(edge) => self.judge_add_edge(edge, at, bounds),
            Edit::UpdateEdge { id, metadata } => self.judge_update_edge(id, metadata.as_ref(), bounds),
            Edit::DeleteEdge { id } => {
                self.existing_edge(id)?;
                Ok(vec![Fact::EdgeRemoved { id: id.clone() }])
            }
            Edit::UpdateMetadata { name, description } => {
                let mut metadata = PlanMetadata::clone(&self.metadata);
                set(&mut metadata.name, name.as_ref());
                set(&mut metadata.description, description.as_ref());
                self.judge_metadata(metadata, bounds)
            }
            Edit::Replace(document) => self.judge_replace(document, at, bounds),
            Edit::ReportExecution(report) => self.judge_execution(report, bounds),
        }
    }

    fn judge_add_node(&self, node: &NewNode, at: Timestamp, bounds: &PlanBounds) -> Result<Vec<Fact>, Refusal> {
        if self.nodes.contains_key(&node.id) {
            let message = format!("there is already a plan node '{}'", node.id);
            return Err(Refusal::Invalid(Problem::of_node(&node.id, ProblemKind::DuplicateId, message)));
        }
        if self.nodes.len() >= bounds.nodes_max {
            return Err(Refusal::TooMany { what: LimitName::PlanNodes, limit: bounds.nodes_max });
        }
        rules::check_node(node, bounds)?;
        Ok(vec![Fact::NodeAdded { node: Box::new(new_node(node, at)) }])
    }

    fn judge_update_node(
        &self,
        id: &PlanNodeId,
        update: &NodeUpdate,
        bounds: &PlanBounds,
    ) -> Result<Vec<Fact>, Refusal> {
        let node = &self.existing_node(id)?.node;
        if let Some(position) = update.position {
            rules::check_position(id, position, bounds)?;
        }
        if let Some(metadata) = &update.metadata {
            rules::check_node_metadata(metadata, bounds)?;
        }
        if let Some(config) = &update.config {
            rules::check_config(config, bounds)?;
        }
        if update.source_position.is_some() || update.target_position.is_some() {
            // Both as they will be, since an edit may set one of them only.
            let source = newer(&update.source_position, &node.source_position);
            let target = newer(&update.target_position, &node.target_position);
            rules::check_metadata_texts([source, target], bounds)?;
        }

        let position = update.position.filter(|new| *new != node.position);
        let source_position = update.source_position.clone().filter(|new| node.source_position.as_ref() != Some(new));
        let target_position = update.target_position.clone().filter(|new| node.target_position.as_ref() != Some(new));
        let metadata = update.metadata.clone().filter(|new| *new != node.metadata);
        let config = update.config.clone().filter(|new| *new != node.config);
        let changes_nothing = position.is_none()
            && source_position.is_none()
            && target_position.is_none()
            && metadata.is_none()
            && config.is_none();
        if changes_nothing {
            return Ok(Vec::new());
        }
        Ok(vec![Fact::NodeUpdated { id: id.clone(), position, source_position, target_position, metadata, config }])
    }

    fn judge_delete_node(&self, id: &PlanNodeId) -> Result<Vec<Fact>, Refusal> {
        self.existing_node(id)?;
        let edges = self.edges_at(id).into_iter().map(|record| Fact::EdgeRemoved { id: record.edge.id.clone() });
        Ok(edges.chain([Fact::NodeRemoved { id: id.clone() }]).collect())
    }

    fn judge_add_edge(&self, edge: &NewEdge, at: Timestamp, bounds: &PlanBounds) -> Result<Vec<Fact>, Refusal> {
        if self.edges.contains_key(&edge.id) {
            let message = format!("there is already an edge '{}'", edge.id);
            return Err(Refusal::Invalid(Problem::of_edge(&edge.id, ProblemKind::DuplicateId, message)));
        }
        if self.edges.len() >= bounds.edges_max {
            return Err(Refusal::TooMany { what: LimitName::PlanEdges, limit: bounds.edges_max });
        }
        rules::check_edge_itself(edge, bounds)?;
        self.graph.check_edge(edge).map_err(Refusal::Invalid)?;
        Ok(vec![Fact::EdgeAdded { edge: new_edge(edge, at) }])
    }

    fn judge_update_edge(
        &self,
        id: &EdgeId,
        metadata: Option<&EdgeMetadata>,
        bounds: &PlanBounds,
    ) -> Result<Vec<Fact>, Refusal> {
        let edge = &self.existing_edge(id)?.edge;
        let Some(metadata) = metadata.filter(|new| **new != edge.metadata) else { return Ok(Vec::new()) };
        rules::check_edge_metadata(metadata, bounds)?;
        let end = End { data_type: metadata.data_type, ..End::from(edge) };
        if let Some(twin) = self.graph.twin(end) {
            let message =
                format!("edge '{twin}' already joins '{}' and '{}' with this data type", edge.source, edge.target);
            return Err(Refusal::Invalid(Problem::of_edge(id, ProblemKind::DuplicateEdge, message)));
        }
        Ok(vec![Fact::EdgeUpdated { id: id.clone(), metadata: metadata.clone() }])
    }

    fn judge_metadata(&self, metadata: PlanMetadata, bounds: &PlanBounds) -> Result<Vec<Fact>, Refusal> {
        rules::check_metadata_texts([&metadata.name, &metadata.description], bounds)?;
        let changed = metadata != *self.metadata;
        Ok(changed.then_some(Fact::MetadataUpdated { metadata }).into_iter().collect())
    }

    /// A whole document: elements that stay keep their age, their execution unless their type changes, and their
    /// `updatedAt` unless anything does.
    fn judge_replace(&self, document: &NewDocument, at: Timestamp, bounds: &PlanBounds) -> Result<Vec<Fact>, Refusal> {
        rules::check_sizes(document, bounds)?;
        if let Some(problem) = rules::check_document(document, bounds).errors.into_iter().next() {
            return Err(Refusal::Invalid(problem));
        }
        let nodes: Vec<_> = document.nodes.iter().map(|node| self.succeed_node(node, at)).collect();
        let edges: Vec<_> = document.edges.iter().map(|edge| self.succeed_edge(edge, at)).collect();
        let metadata = PlanMetadata {
            name: document.name.clone(),
            description: document.description.clone(),
            author: document.author.clone().or_else(|| self.metadata.author.clone()),
            created: document.created.clone().or_else(|| self.metadata.created.clone()),
        };
        let same = metadata == *self.metadata
            && nodes.iter().eq(self.nodes.values().map(|record| &record.node))
            && edges.iter().eq(self.edges.values().map(|record| &record.edge));
        Ok(if same { Vec::new() } else { vec![Fact::Replaced { nodes, edges, metadata }] })
    }

    fn succeed_node(&self, new: &NewNode, at: Timestamp) -> PlanNode {
        let Some(old) = self.nodes.get(&new.id).map(|record| &record.node) else { return new_node(new, at) };
        let mut node = PlanNode {
            position: new.position,
            metadata: new.metadata.clone(),
            config: new.config.clone(),
            node_type: new.node_type,
            ..old.clone()
        };
        if node.node_type != old.node_type {
            // What was executed was another kind of thing.
            (node.datasource_execution, node.graph_execution) = (None, None);
        }
        if node != *old {
            node.updated_at = at;
        }
        node
    }

    fn succeed_edge(&self, new: &NewEdge, at: Timestamp) -> PlanEdge {
        let Some(old) = self.edges.get(&new.id).map(|record| &record.edge) else { return new_edge(new, at) };
        let mut edge = PlanEdge {
            source: new.source.clone(),
            target: new.target.clone(),
            metadata: new.metadata.clone(),
            ..old.clone()
        };
        if edge != *old {
            edge.updated_at = at;
        }
        edge
    }

    fn judge_execution(&self, report: &ExecutionReport, bounds: &PlanBounds) -> Result<Vec<Fact>, Refusal> {
        let record = self.existing_node(&report.id)?;
        rules::check_metadata_texts([&report.message], bounds)?;
        if let Some(told) = &report.datasource {
            rules::check_metadata_texts([&told.filename, &told.status, &told.processed_at], bounds)?;
        }
        if let Some(told) = &report.graph {
            rules::check_metadata_texts([&told.computed_date], bounds)?;
        }
        check_transition(record, &report.run_id, report.state).map_err(Refusal::Invalid)?;
        let node = &record.node;
        let is_new_run = record.runs.last().is_none_or(|(run, _)| *run != report.run_id);
        let (datasource, graph) = if node.node_type == PlanNodeType::DataSourceNode {
            let before = node.datasource_execution.as_ref().filter(|_| !is_new_run);
            (Some(datasource_execution(report, before)), None)
        } else {
            let before = node.graph_execution.as_ref().filter(|_| !is_new_run);
            (None, Some(graph_execution(report, before)))
        };
        let same = !is_new_run
            && datasource.as_ref().is_none_or(|new| node.datasource_execution.as_ref() == Some(new))
            && graph.as_ref().is_none_or(|new| node.graph_execution.as_ref() == Some(new));
        if same {
            return Ok(Vec::new());
        }
        let (id, run_id) = (report.id.clone(), report.run_id.clone());
        Ok(vec![Fact::ExecutionChanged { id, run_id, state: report.state, datasource, graph }])
    }

    /// With an expected revision, whatever the edits touch must not have changed after it. A revision that the log does not
    /// have is one of a history that was lost: everything may have changed since.
    fn check_expected(&self, expected: Revision, edits: &[Edit]) -> Result<(), Refusal> {
        let is_lost = expected > self.head.revision || self.is_of_lost_end(expected);
        let check = |revision: Revision, current: &dyn Fn() -> Element| {
            let is_as_expected = revision <= expected && !is_lost;
            if is_as_expected { Ok(()) } else { Err(Refusal::Conflict { expected, current: current(), revision }) }
        };
        let check_node = |id: &PlanNodeId| {
            self.nodes.get(id).map_or(Ok(()), |record| check(record.revision, &|| Element::Node(Arc::clone(record))))
        };
        let check_edge = |id: &EdgeId| {
            self.edges.get(id).map_or(Ok(()), |record| check(record.revision, &|| Element::Edge(Arc::clone(record))))
        };
        let metadata = || Element::Metadata(Box::new(PlanMetadata::clone(&self.metadata)));
        for edit in edits {
            match edit {
                Edit::AddNode(_) | Edit::AddEdge(_) => {}
                Edit::UpdateNode { id, .. } | Edit::ReportExecution(ExecutionReport { id, .. }) => check_node(id)?,
                Edit::DeleteNode { id } => {
                    check_node(id)?;
                    self.edges_at(id).into_iter().try_for_each(|record| check_edge(&record.edge.id))?;
                }
                Edit::UpdateEdge { id, .. } | Edit::DeleteEdge { id } => check_edge(id)?,
                Edit::UpdateMetadata { .. } => check(self.metadata_revision, &metadata)?,
                Edit::Replace(_) => {
                    self.nodes.values().try_for_each(|record| check_node(&record.node.id))?;
                    self.edges.values().try_for_each(|record| check_edge(&record.edge.id))?;
                    // What was deleted since has no element to show: the plan itself is what changed.
                    check(self.head.revision, &metadata)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a revision of an earlier epoch has a number with which the log has gone on in the present one.
    fn is_of_lost_end(&self, revision: Revision) -> bool {
        revision.epoch < self.head.revision.epoch && self.epoch_began.is_some_and(|began| revision.seq >= began)
    }

    fn existing_node(&self, id: &PlanNodeId) -> Result<&Arc<NodeRecord>, Refusal> {
        self.nodes.get(id).ok_or_else(|| Refusal::NotFound(ElementId::Node(id.clone())))
    }

    fn existing_edge(&self, id: &EdgeId) -> Result<&Arc<super::EdgeRecord>, Refusal> {
        self.edges.get(id).ok_or_else(|| Refusal::NotFound(ElementId::Edge(id.clone())))
    }
}

/// A run goes forward or stays; an earlier run has no say once a later one began.
fn check_transition(record: &NodeRecord, run_id: &RunId, state: ExecutionState) -> Result<(), Problem> {
    let id = &record.node.id;
    let wrong = |message| Err(Problem::of_node(id, ProblemKind::InvalidTransition, message));
    let Some(place) = record.runs.iter().position(|(run, _)| run == run_id) else { return Ok(()) };
    if place + 1 < record.runs.len() {
        return wrong(format!("run '{run_id}' of plan node '{id}' was followed by another"));
    }
    let before = record.runs[place].1;
    if state < before || (before.is_final() && state != before) {
        let (from, to) = (before.as_str(), state.as_str());
        return wrong(format!("run '{run_id}' of plan node '{id}' is {from} and can't become {to}"));
    }
    Ok(())
}

fn datasource_execution(report: &ExecutionReport, before: Option<&DataSourceExecution>) -> DataSourceExecution {
    let told = report.datasource.clone().unwrap_or_default();
    DataSourceExecution {
        data_source_id: told.data_source_id.or_else(|| before?.data_source_id),
        filename: told.filename.or_else(|| before?.filename.clone()),
        status: told.status.or_else(|| before?.status.clone()),
        processed_at: told.processed_at.or_else(|| before?.processed_at.clone()),
        execution_state: report.state,
        error_message: error_message(report),
    }
}

fn graph_execution(report: &ExecutionReport, before: Option<&GraphExecution>) -> GraphExecution {
    let told = report.graph.clone().unwrap_or_default();
    GraphExecution {
        graph_id: told.graph_id.or_else(|| before?.graph_id),
        node_count: told.node_count.or_else(|| before?.node_count),
        edge_count: told.edge_count.or_else(|| before?.edge_count),
        execution_state: report.state,
        computed_date: told.computed_date.or_else(|| before?.computed_date.clone()),
        error_message: error_message(report),
    }
}

/// A message is kept where it explains a failure; elsewhere it accompanies progress and is not part of the plan.
fn error_message(report: &ExecutionReport) -> Option<String> {
    report.message.clone().filter(|_| report.state == ExecutionState::Error)
}

fn new_node(node: &NewNode, at: Timestamp) -> PlanNode {
    PlanNode {
        id: node.id.clone(),
        node_type: node.node_type,
        position: node.position,
        source_position: None,
        target_position: None,
        metadata: node.metadata.clone(),
        config: node.config.clone(),
        created_at: at,
        updated_at: at,
        datasource_execution: None,
        graph_execution: None,
    }
}

fn new_edge(edge: &NewEdge, at: Timestamp) -> PlanEdge {
    PlanEdge {
        id: edge.id.clone(),
        source: edge.source.clone(),
        target: edge.target.clone(),
        metadata: edge.metadata.clone(),
        created_at: at,
        updated_at: at,
    }
}

fn newer<'a, T>(new: &'a Option<T>, old: &'a Option<T>) -> &'a Option<T> {
    if new.is_some() { new } else { old }
}

fn set<T: Clone>(field: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        field.clone_from(new);
    }
}
