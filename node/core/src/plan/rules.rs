//! The rules that keep a plan a DAG, each written once.
//!
//! The same functions judge one new edge against a plan, and a whole document at once. What an edge may join is asked of a
//! [`Graph`]. Bounds on sizes and numbers stand here too, since a document is judged by the same ones.

use std::collections::HashSet;

use mille_shared::operation::{NewDocument, NewEdge, NewNode};
use mille_shared::plan::{EdgeMetadata, NodeMetadata, Position};
use mille_shared::{EdgeId, LimitName, PlanNodeId};

use super::PlanBounds;
use super::graph::{End, Graph, closes_cycle};
use super::paths::Paths;
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
    let mut drawn = Drawn::of(document, graph, bounds);
    errors.append(&mut drawn.errors);
    if let Err(refusal) =
        check_metadata_texts([&document.name, &document.description, &document.author, &document.created], bounds)
    {
        errors.push(as_problem(refusal, None, None));
    }
    findings.warnings = drawn.graph.warnings(document.nodes.iter().map(|node| &node.id));
    findings
}

/// Whether an edge of a document is asked if it closes a cycle with those before it.
#[derive(Clone, Copy, PartialEq)]
enum Cycles {
    Unasked,
    Refused,
}

/// A document's edges, each judged by those before it.
struct Drawn<'a> {
    /// With the edges that break no rule.
    graph: Graph,
    /// The same ones.
    paths: Paths<'a>,
    errors: Vec<Problem>,
}

impl<'a> Drawn<'a> {
    /// Judges the edges, and draws them into a graph of the plan nodes. Edges that close no cycle together close none one by one:
    /// only where there is one each edge is asked.
    fn of(document: &'a NewDocument, graph: Graph, bounds: &PlanBounds) -> Self {
        let drawn = Self::with(document, graph.clone(), bounds, Cycles::Unasked);
        if drawn.paths.have_cycle() { Self::with(document, graph, bounds, Cycles::Refused) } else { drawn }
    }

    fn with(document: &'a NewDocument, graph: Graph, bounds: &PlanBounds, cycles: Cycles) -> Self {
        let paths = Paths::between(document.nodes.iter().map(|node| &node.id));
        let mut drawn = Self { graph, paths, errors: Vec::new() };
        let mut ids = HashSet::new();
        for edge in &document.edges {
            if !ids.insert(&edge.id) {
                let message = format!("edge '{}' is there twice", edge.id);
                drawn.errors.push(Problem::of_edge(&edge.id, ProblemKind::DuplicateId, message));
                continue;
            }
            if let Err(refusal) = check_edge_itself(edge, bounds) {
                drawn.errors.push(as_problem(refusal, None, Some(&edge.id)));
            }
            match drawn.check(edge, cycles) {
                Ok(()) => {
                    drawn.graph.add(End::from(edge));
                    drawn.paths.add(&edge.source, &edge.target);
                }
                Err(problem) => drawn.errors.push(problem),
            }
        }
        drawn
    }

    fn check(&mut self, edge: &NewEdge, cycles: Cycles) -> Result<(), Problem> {
        self.graph.check_ends(edge)?;
        let closes = cycles == Cycles::Refused && self.paths.lead(&edge.target, &edge.source);
        if closes { Err(closes_cycle(edge)) } else { Ok(()) }
    }
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

#[cfg(test)]
mod tests {
    use mille_shared::plan::{EdgeDataType, PlanNodeType};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn node(number: usize, node_type: PlanNodeType) -> NewNode {
        let metadata = NodeMetadata { label: String::new(), description: None };
        let position = Position { x: 0.0, y: 0.0 };
        NewNode { id: id(number), node_type, position, metadata, config: "{}".into() }
    }

    fn edge(number: usize, source: usize, target: usize, data_type: EdgeDataType) -> NewEdge {
        let metadata = EdgeMetadata { label: None, data_type };
        NewEdge { id: EdgeId::new(format!("e{number}")), source: id(source), target: id(target), metadata }
    }

    fn id(number: usize) -> PlanNodeId {
        PlanNodeId::new(format!("n{number}"))
    }

    fn document(nodes: Vec<NewNode>, edges: Vec<NewEdge>) -> NewDocument {
        NewDocument { nodes, edges, name: None, description: None, author: None, created: None }
    }

    /// Mostly merges, since only they can be on many paths; ends that do not exist, ids that are there twice.
    fn documents() -> impl Strategy<Value = NewDocument> {
        let node_type = prop_oneof![
            20 => Just(PlanNodeType::MergeNode),
            1 => Just(PlanNodeType::GraphNode),
            1 => Just(PlanNodeType::DataSourceNode),
            1 => Just(PlanNodeType::OutputNode),
        ];
        let data_type = prop_oneof![3 => Just(EdgeDataType::GraphData), 1 => Just(EdgeDataType::GraphReference)];
        let nodes = vec(node_type, 6..13);
        let edges = vec((0_usize..60, 0_usize..11, 0_usize..11, data_type), 0..40);
        // From below a number edges lead upwards, so that documents without a cycle come too.
        (nodes, edges, 0_usize..6).prop_map(|(nodes, edges, upwards)| {
            let nodes = nodes.into_iter().enumerate().map(|(number, node_type)| node(number % 10, node_type)).collect();
            let edges = edges.into_iter().map(|(number, source, target, data_type)| {
                let low = source.min(target);
                let (source, target) = if low < upwards { (low, source.max(target)) } else { (source, target) };
                edge(number, source, target, data_type)
            });
            document(nodes, edges.collect())
        })
    }

    /// The rules as they are for one edge, asked of each.
    fn findings_edge_by_edge(document: &NewDocument) -> Findings {
        let without_edges = NewDocument { edges: Vec::new(), ..document.clone() };
        let mut errors = check_document(&without_edges, &PlanBounds::default()).errors;
        let mut graph = Graph::default();
        for node in &document.nodes {
            if !graph.has_node(&node.id) {
                graph.add_node(&node.id, node.node_type);
            }
        }
        let mut ids = HashSet::new();
        for edge in &document.edges {
            if !ids.insert(&edge.id) {
                let message = format!("edge '{}' is there twice", edge.id);
                errors.push(Problem::of_edge(&edge.id, ProblemKind::DuplicateId, message));
                continue;
            }
            match graph.check_edge(edge) {
                Ok(()) => graph.add(End::from(edge)),
                Err(problem) => errors.push(problem),
            }
        }
        let warnings = graph.warnings(document.nodes.iter().map(|node| &node.id));
        Findings { errors, warnings }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The same edges are refused, for the same reasons, as if they had been added one after the other.
        #[test]
        fn a_document_is_judged_as_its_edges_one_by_one(document in documents()) {
            prop_assert_eq!(check_document(&document, &PlanBounds::default()), findings_edge_by_edge(&document));
        }
    }

    /// The generator must reach both ways, or the property above says little.
    #[test]
    fn documents_come_with_and_without_cycles() {
        use proptest::strategy::ValueTree;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let (mut fine, mut refused) = (0, 0);
        for _ in 0..500 {
            let document = documents().new_tree(&mut runner).unwrap().current();
            let findings = check_document(&document, &PlanBounds::default());
            let has_cycle = findings.errors.iter().any(|problem| problem.kind == ProblemKind::Cycle);
            *(if has_cycle { &mut refused } else { &mut fine }) += 1;
        }
        assert!(fine > 80 && refused > 80, "{fine} without, {refused} with");
    }

    /// Edges behind which ever more lies: asked one by one, each would pass all of it.
    #[test]
    fn where_there_is_no_cycle_no_edge_is_asked_where_it_leads() {
        const NODES: usize = 1_000;
        let ends = (0..NODES).rev().flat_map(|from| (from + 1..=from + 5).map(move |to| (from, to)));
        let ends = ends.filter(|(_, to)| *to < NODES);
        let edges = ends.enumerate().map(|(number, (from, to))| edge(number, from, to, EdgeDataType::GraphData));
        let nodes = (0..NODES).map(|number| node(number, PlanNodeType::MergeNode)).collect();
        let mut document = document(nodes, edges.collect());
        let searches = |document: &NewDocument| {
            let mut graph = Graph::default();
            document.nodes.iter().for_each(|node| graph.add_node(&node.id, node.node_type));
            let drawn = Drawn::of(document, graph, &PlanBounds::default());
            (drawn.paths.searches(), drawn.errors.len())
        };
        assert_eq!(searches(&document), (0, 0));
        document.edges.push(edge(5 * NODES, NODES - 1, 0, EdgeDataType::GraphData));
        assert_eq!(searches(&document), (document.edges.len(), 1), "the last closes one");
    }
}
