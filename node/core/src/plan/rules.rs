//! The rules that keep a plan a DAG, each written once.
//!
//! The same functions judge one new edge against a plan, and a whole document at once. What an edge may join is asked of a
//! [`Graph`]. Bounds on sizes and numbers stand here too, since a document is judged by the same ones.

use std::collections::HashSet;

use mille_shared::operation::{NewDocument, NewEdge, NewNode};
use mille_shared::plan::{EdgeMetadata, NodeMetadata, Position};
use mille_shared::{EdgeId, LimitName, PlanNodeId};

use super::PlanBounds;
use super::graph::{End, Graph};
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
        if graph.has_node(&node.id) {
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
        graph.add_node(&node.id, node.node_type);
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
