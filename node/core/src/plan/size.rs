//! How large a plan is as a whole. Each of its texts has a bound, but there are thousands of them, and whoever opens the plan
//! is given all: so they are bounded together too.

use mille_shared::LimitName;
use mille_shared::change::Fact;
use mille_shared::execution::{DataSourceExecution, GraphExecution};
use mille_shared::plan::{EdgeMetadata, NodeMetadata, PlanEdge, PlanMetadata, PlanNode};

use super::Plan;
use crate::applied::Touch;
use crate::refusal::Refusal;

impl Plan {
    /// Refuses what makes the plan larger and leaves its texts with more than `max` bytes. What makes it smaller is never
    /// refused, so a plan from before a smaller bound can be mended. What lies between the edits of an operation does not count.
    pub(super) fn check_size(&self, bytes: usize, max: usize) -> Result<(), Refusal> {
        if bytes <= max || bytes <= self.bytes {
            return Ok(());
        }
        Err(Refusal::TooLarge { what: LimitName::PlanBytes, limit: max })
    }

    /// Bytes of all its texts with the facts that one edit comes to: each is about another element.
    pub(super) fn bytes_with(&self, facts: &[Fact]) -> usize {
        let growth = facts.iter().map(|fact| self.growth(fact));
        growth.fold(self.bytes, |bytes, (added, removed)| bytes + added - removed)
    }

    /// Bytes of texts that a fact adds to this plan, and that it takes away.
    pub(super) fn growth(&self, fact: &Fact) -> (usize, usize) {
        let existing = |id| self.nodes.get(id).map(|record| &record.node);
        match fact {
            Fact::NodeAdded { node } => (of_node(node), 0),
            Fact::EdgeAdded { edge } => (of_edge(edge), 0),
            Fact::NodeUpdated { id, position: _, source_position, target_position, metadata, config } => {
                let added = of_texts([source_position, target_position])
                    + metadata.as_ref().map_or(0, of_node_metadata)
                    + config.as_ref().map_or(0, |config| config.len());
                let removed = existing(id).map_or(0, |node| {
                    let of_side =
                        |new: &Option<String>, old: &Option<String>| new.as_ref().map_or(0, |_| of_texts([old]));
                    of_side(source_position, &node.source_position)
                        + of_side(target_position, &node.target_position)
                        + metadata.as_ref().map_or(0, |_| of_node_metadata(&node.metadata))
                        + config.as_ref().map_or(0, |_| node.config.len())
                });
                (added, removed)
            }
            Fact::EdgeUpdated { id, metadata } => {
                let old = self.edges.get(id).map_or(0, |record| of_edge_metadata(&record.edge.metadata));
                (of_edge_metadata(metadata), old)
            }
            Fact::ExecutionChanged { id, datasource, graph, .. } => {
                let old = existing(id).map_or(0, |node| {
                    let replaced = datasource.as_ref().and(node.datasource_execution.as_ref());
                    of_executions(replaced, graph.as_ref().and(node.graph_execution.as_ref()))
                });
                (of_executions(datasource.as_ref(), graph.as_ref()), old)
            }
            Fact::MetadataUpdated { metadata } | Fact::Created { metadata } => {
                (of_metadata(metadata), of_metadata(&self.metadata))
            }
            Fact::Replaced { nodes, edges, metadata } => {
                let (nodes, edges) = (nodes.iter().map(of_node), edges.iter().map(of_edge));
                (nodes.chain(edges).sum::<usize>() + of_metadata(metadata), self.bytes)
            }
            Fact::NodeRemoved { id } => (0, existing(id).map_or(0, of_node)),
            Fact::EdgeRemoved { id } => (0, self.edges.get(id).map_or(0, |record| of_edge(&record.edge))),
        }
    }

    /// Bytes of all its texts, counted anew.
    pub(super) fn count_bytes(&self) -> usize {
        let nodes = self.nodes.values().map(|record| of_node(&record.node));
        let edges = self.edges.values().map(|record| of_edge(&record.edge));
        nodes.chain(edges).sum::<usize>() + of_metadata(&self.metadata)
    }
}

fn of_node(node: &PlanNode) -> usize {
    let executions = of_executions(node.datasource_execution.as_ref(), node.graph_execution.as_ref());
    let sides = of_texts([&node.source_position, &node.target_position]);
    node.id.as_str().len() + sides + of_node_metadata(&node.metadata) + node.config.len() + executions
}

/// Bytes of texts that are held for a touch and are not in its change: a plan node that changes is copied, but for its config,
/// and what is removed is only held by the past. A config that was replaced counts where it was set.
pub(crate) fn of_touch(touch: &Touch) -> usize {
    match touch {
        Touch::NodeUpdated(record) | Touch::ExecutionChanged { record, .. } => {
            of_node(&record.node) - record.node.config.len()
        }
        Touch::NodeRemoved(record) => of_node(&record.node),
        Touch::EdgeRemoved(record) => of_edge(&record.edge),
        Touch::NodeAdded(_) | Touch::EdgeAdded(_) | Touch::EdgeUpdated(_) | Touch::MetadataUpdated(_) => 0,
    }
}

fn of_edge(edge: &PlanEdge) -> usize {
    let ends = edge.source.as_str().len() + edge.target.as_str().len();
    edge.id.as_str().len() + ends + of_edge_metadata(&edge.metadata)
}

fn of_node_metadata(metadata: &NodeMetadata) -> usize {
    metadata.label.len() + of_texts([&metadata.description])
}

fn of_edge_metadata(metadata: &EdgeMetadata) -> usize {
    of_texts([&metadata.label])
}

fn of_metadata(metadata: &PlanMetadata) -> usize {
    of_texts([&metadata.name, &metadata.description, &metadata.author, &metadata.created])
}

fn of_executions(datasource: Option<&DataSourceExecution>, graph: Option<&GraphExecution>) -> usize {
    let datasource =
        datasource.map(|known| of_texts([&known.filename, &known.status, &known.processed_at, &known.error_message]));
    let graph = graph.map(|known| of_texts([&known.computed_date, &known.error_message]));
    datasource.unwrap_or_default() + graph.unwrap_or_default()
}

fn of_texts<const N: usize>(texts: [&Option<String>; N]) -> usize {
    texts.into_iter().flatten().map(String::len).sum()
}
