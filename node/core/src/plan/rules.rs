//! The rules that keep a plan a DAG, each written once.
//!
//! The same functions judge one new edge against a plan, and a whole document at once. They look at a [`Graph`]: plan
//! nodes by id and type, edges by their ends. Bounds on sizes and numbers stand here too, since a document is judged by
//! the same ones.

use std::collections::{HashMap, HashSet};

use mille_shared::change::Fact;
use mille_shared::operation::{NewDocument, NewEdge, NewNode};
use mille_shared::plan::{EdgeDataType, EdgeMetadata, NodeMetadata, PlanEdge, PlanNodeType, Position};
use mille_shared::{EdgeId, LimitName, PlanNodeId};

use super::{Plan, PlanBounds};
use crate::refusal::{Problem, ProblemKind, Refusal};

/// What a document's check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Rules it breaks: it can't become a plan.
    pub errors: Vec<Problem>,
    /// What looks unfinished.
    pub warnings: Vec<Problem>,
}

/// Judges a whole document: everything that is wrong with it, not just the first.
#[must_use]
pub fn check_document(document: &NewDocument, bounds: &PlanBounds) -> Findings {
    let mut findings = Findings::default();
    let errors = &mut findings.errors;
    for (count, limit, what) in counts(document, bounds) {
        if count > limit {
            let message = format!("a plan holds at most {limit} {}, this one has {count}", what.in_words());
            errors.push(Problem::of_plan(ProblemKind::TooMany, message));
        }
    }
    if !errors.is_empty() {
        return findings;
    }
    let mut graph = Graph::default();
    for node in &document.nodes {
        if graph.types.contains_key(&node.id) {
            errors.push(Problem::of_node(
                &node.id,
                ProblemKind::DuplicateId,
                format!("plan node '{}' is there twice", node.id),
            ));
            continue;
        }
        if let Err(refusal) = check_node(node, bounds) {
            errors.push(as_problem(refusal, Some(&node.id), None));
        }
        graph.types.insert(node.id.clone(), node.node_type);
    }
    let mut edge_ids = HashSet::new();
    for edge in &document.edges {
        if !edge_ids.insert(&edge.id) {
            errors.push(Problem::of_edge(
                &edge.id,
                ProblemKind::DuplicateId,
                format!("edge '{}' is there twice", edge.id),
            ));
            continue;
        }
        if let Err(refusal) = check_edge_itself(edge, bounds) {
            errors.push(as_problem(refusal, None, Some(&edge.id)));
        }
        match graph.check_edge(edge) {
            Ok(()) => graph.add(End::from(edge)),
            Err(problem) => errors.push(problem),
        }
    }
    if let Err(refusal) =
        check_metadata_texts([&document.name, &document.description, &document.author, &document.created], bounds)
    {
        errors.push(as_problem(refusal, None, None));
    }
    findings.warnings = graph.warnings(document.nodes.iter().map(|node| &node.id));
    findings
}

/// Judges how large a document and its parts are: the refusals that are not about what a plan may be.
pub(super) fn check_sizes(document: &NewDocument, bounds: &PlanBounds) -> Result<(), Refusal> {
    for (count, limit, what) in counts(document, bounds) {
        if count > limit {
            return Err(Refusal::TooMany { what, limit });
        }
    }
    for node in &document.nodes {
        check_node_metadata(&node.metadata, bounds)?;
        check_config(&node.config, bounds)?;
    }
    document.edges.iter().try_for_each(|edge| check_edge_metadata(&edge.metadata, bounds))?;
    check_metadata_texts([&document.name, &document.description, &document.author, &document.created], bounds)
}

/// How many there are of what is bounded, and the bound.
fn counts(document: &NewDocument, bounds: &PlanBounds) -> [(usize, usize, LimitName); 2] {
    [
        (document.nodes.len(), bounds.nodes_max, LimitName::PlanNodes),
        (document.edges.len(), bounds.edges_max, LimitName::PlanEdges),
    ]
}

/// Judges a new plan node by itself.
pub(super) fn check_node(node: &NewNode, bounds: &PlanBounds) -> Result<(), Refusal> {
    if let Err(why) = PlanNodeId::parse(node.id.as_str()) {
        return Err(Refusal::Invalid(Problem::of_node(&node.id, ProblemKind::InvalidId, why.to_string())));
    }
    check_position(&node.id, node.position, bounds)?;
    check_node_metadata(&node.metadata, bounds)?;
    check_config(&node.config, bounds)
}

/// Judges a position.
pub(super) fn check_position(id: &PlanNodeId, position: Position, bounds: &PlanBounds) -> Result<(), Refusal> {
    let max = bounds.coordinate_abs_max;
    if [position.x, position.y].iter().all(|c| c.is_finite() && c.abs() <= max) {
        return Ok(());
    }
    let message = format!("x and y of plan node '{id}' must lie between -{max} and {max}");
    Err(Refusal::Invalid(Problem::of_node(id, ProblemKind::OutOfRange, message)))
}

/// Judges a config.
pub(super) fn check_config(config: &str, bounds: &PlanBounds) -> Result<(), Refusal> {
    at_most(config.len(), bounds.config_bytes_max, LimitName::ConfigBytes)
}

/// Judges a plan node's metadata.
pub(super) fn check_node_metadata(metadata: &NodeMetadata, bounds: &PlanBounds) -> Result<(), Refusal> {
    let bytes = metadata.label.len() + metadata.description.as_ref().map_or(0, String::len);
    at_most(bytes, bounds.metadata_bytes_max, LimitName::MetadataBytes)
}

/// Judges a new edge by itself.
pub(super) fn check_edge_itself(edge: &NewEdge, bounds: &PlanBounds) -> Result<(), Refusal> {
    if let Err(why) = EdgeId::parse(edge.id.as_str()) {
        return Err(Refusal::Invalid(Problem::of_edge(&edge.id, ProblemKind::InvalidId, why.to_string())));
    }
    check_edge_metadata(&edge.metadata, bounds)
}

/// Judges an edge's metadata.
pub(super) fn check_edge_metadata(metadata: &EdgeMetadata, bounds: &PlanBounds) -> Result<(), Refusal> {
    at_most(metadata.label.as_ref().map_or(0, String::len), bounds.metadata_bytes_max, LimitName::MetadataBytes)
}

/// Judges the texts of a plan's metadata.
pub(super) fn check_metadata_texts<'a>(
    texts: impl IntoIterator<Item = &'a Option<String>>,
    bounds: &PlanBounds,
) -> Result<(), Refusal> {
    let bytes = texts.into_iter().flatten().map(String::len).sum();
    at_most(bytes, bounds.metadata_bytes_max, LimitName::MetadataBytes)
}

fn at_most(bytes: usize, limit: usize, what: LimitName) -> Result<(), Refusal> {
    if bytes <= limit { Ok(()) } else { Err(Refusal::TooLarge { what, limit }) }
}

fn as_problem(refusal: Refusal, node: Option<&PlanNodeId>, edge: Option<&EdgeId>) -> Problem {
    match refusal {
        Refusal::Invalid(problem) => problem,
        other => Problem {
            node_id: node.cloned(),
            edge_id: edge.cloned(),
            kind: ProblemKind::TooLarge,
            message: other.to_string(),
        },
    }
}

/// The ends of an edge and what flows along it: all that the rules look at.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) id: EdgeId,
    pub(super) source: PlanNodeId,
    pub(super) target: PlanNodeId,
    pub(super) data_type: EdgeDataType,
}

impl From<&NewEdge> for End {
    fn from(edge: &NewEdge) -> Self {
        let NewEdge { id, source, target, metadata } = edge.clone();
        Self { id, source, target, data_type: metadata.data_type }
    }
}

impl From<&PlanEdge> for End {
    fn from(edge: &PlanEdge) -> Self {
        let (id, source, target) = (edge.id.clone(), edge.source.clone(), edge.target.clone());
        Self { id, source, target, data_type: edge.metadata.data_type }
    }
}

/// A plan as the rules see it. It owns its ids (a counter each), so that it can follow a plan that changes.
#[derive(Debug, Default)]
pub(super) struct Graph {
    types: HashMap<PlanNodeId, PlanNodeType>,
    outputs: HashMap<PlanNodeId, Vec<End>>,
    inputs: HashMap<PlanNodeId, usize>,
}

impl Graph {
    /// The graph of a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        let types = plan.nodes.values().map(|record| (record.node.id.clone(), record.node.node_type)).collect();
        let mut graph = Self { types, ..Self::default() };
        for record in plan.edges.values() {
            graph.add(End::from(&record.edge));
        }
        graph
    }

    /// Goes with the plan where that is cheap. `false`: it does not know the plan any more.
    pub(super) fn follow(&mut self, facts: &[Fact]) -> bool {
        facts.iter().all(|fact| match fact {
            Fact::NodeAdded { node } => {
                self.types.insert(node.id.clone(), node.node_type);
                true
            }
            Fact::EdgeAdded { edge } => {
                self.add(End::from(edge));
                true
            }
            Fact::NodeUpdated { .. } | Fact::MetadataUpdated { .. } | Fact::ExecutionChanged { .. } => true,
            Fact::Created { .. }
            | Fact::NodeRemoved { .. }
            | Fact::EdgeUpdated { .. }
            | Fact::EdgeRemoved { .. }
            | Fact::Replaced { .. } => false,
        })
    }

    /// Takes an edge in, without judging it.
    pub(super) fn add(&mut self, end: End) {
        *self.inputs.entry(end.target.clone()).or_default() += 1;
        self.outputs.entry(end.source.clone()).or_default().push(end);
    }

    /// Judges an edge that would be added.
    pub(super) fn check_edge(&self, edge: &NewEdge) -> Result<(), Problem> {
        let (source, target) = (&edge.source, &edge.target);
        let wrong = |kind, message| Err(Problem::of_edge(&edge.id, kind, message));
        let type_of = |id: &PlanNodeId| {
            let missing = || {
                let message = format!("edge '{}' needs plan node '{id}', which does not exist", edge.id);
                Problem { node_id: Some(id.clone()), ..Problem::of_edge(&edge.id, ProblemKind::MissingNode, message) }
            };
            self.types.get(id).copied().ok_or_else(missing)
        };
        let (source_type, target_type) = (type_of(source)?, type_of(target)?);
        if source == target {
            return wrong(ProblemKind::SelfLoop, format!("an edge can't lead from plan node '{source}' to itself"));
        }
        if source_type == PlanNodeType::OutputNode {
            return wrong(ProblemKind::InvalidConnection, format!("'{source}' is an OutputNode and has no output"));
        }
        if target_type == PlanNodeType::DataSourceNode {
            return wrong(ProblemKind::InvalidConnection, format!("'{target}' is a DataSourceNode and takes no input"));
        }
        if self.twin(&End::from(edge)).is_some() {
            let message = format!("there is already an edge from '{source}' to '{target}' with this data type");
            return wrong(ProblemKind::DuplicateEdge, message);
        }
        if target_type != PlanNodeType::MergeNode && self.inputs.get(target).is_some_and(|count| *count > 0) {
            let message = format!("'{target}' has an input already; only a MergeNode takes several");
            return wrong(ProblemKind::InvalidConnection, message);
        }
        if self.reaches(target, source) {
            let message = format!("an edge from '{source}' to '{target}' would close a cycle");
            return wrong(ProblemKind::Cycle, message);
        }
        Ok(())
    }

    /// Another edge between the same pair with the same data type.
    pub(super) fn twin(&self, edge: &End) -> Option<&EdgeId> {
        let same = |end: &&End| end.id != edge.id && end.target == edge.target && end.data_type == edge.data_type;
        self.outputs.get(&edge.source)?.iter().find(same).map(|end| &end.id)
    }

    /// Whether a path leads from one plan node to another. Linear in the edges it passes.
    fn reaches(&self, from: &PlanNodeId, to: &PlanNodeId) -> bool {
        let mut seen = HashSet::from([from]);
        let mut open = vec![from];
        while let Some(id) = open.pop() {
            if id == to {
                return true;
            }
            for end in self.outputs.get(id).into_iter().flatten() {
                if seen.insert(&end.target) {
                    open.push(&end.target);
                }
            }
        }
        false
    }

    fn warnings<'a>(&self, nodes: impl Iterator<Item = &'a PlanNodeId>) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for id in nodes {
            let inputs = self.inputs.get(id).copied().unwrap_or(0);
            let outputs = self.outputs.get(id).map_or(0, Vec::len);
            match self.types.get(id) {
                _ if inputs + outputs == 0 => {
                    let message = format!("plan node '{id}' is not connected to anything");
                    warnings.push(Problem::of_node(id, ProblemKind::Unconnected, message));
                }
                Some(PlanNodeType::OutputNode) if inputs == 0 => {
                    let message = format!("OutputNode '{id}' has no input");
                    warnings.push(Problem::of_node(id, ProblemKind::MissingInput, message));
                }
                Some(PlanNodeType::MergeNode) if inputs < 2 => {
                    let message = format!("MergeNode '{id}' has fewer than two inputs");
                    warnings.push(Problem::of_node(id, ProblemKind::MissingInput, message));
                }
                _ => {}
            }
        }
        warnings
    }
}
