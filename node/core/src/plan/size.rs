//! How large a plan is as a whole. Each of its texts has a bound, but there are thousands of them, and whoever opens the plan
//! is given all: so they are bounded together too.

use mille_shared::LimitName;
use mille_shared::change::Fact;
use mille_shared::execution::{DataSourceExecution, GraphExecution};
use mille_shared::plan::{EdgeMetadata, NodeMetadata, PlanEdge, PlanMetadata, PlanNode};

use super::Plan;
use crate::refusal::Refusal;

impl Plan {
    /// Refuses facts that make the plan larger and leave its texts with more than `max` bytes. What makes it smaller is never
    /// refused, so a plan from before a smaller bound can be mended.
    pub(super) fn check_size(&self, facts: &[Fact], max: usize) -> Result<(), Refusal> {
        let (mut added, mut removed) = (0, 0);
        let existing = |id| self.nodes.get(id).map(|record| &record.node);
        for fact in facts {
            match fact {
                Fact::NodeAdded { node } => added += of_node(node),
                Fact::EdgeAdded { edge } => added += of_edge(edge),
                Fact::NodeUpdated { id, metadata, config, .. } => {
                    let old = existing(id);
                    if let Some(new) = metadata {
                        added += of_node_metadata(new);
                        removed += old.map_or(0, |node| of_node_metadata(&node.metadata));
                    }
                    if let Some(new) = config {
                        added += new.len();
                        removed += old.map_or(0, |node| node.config.len());
                    }
                }
                Fact::EdgeUpdated { id, metadata } => {
                    added += of_edge_metadata(metadata);
                    removed += self.edges.get(id).map_or(0, |record| of_edge_metadata(&record.edge.metadata));
                }
                Fact::ExecutionChanged { id, datasource, graph, .. } => {
                    added += of_executions(datasource.as_ref(), graph.as_ref());
                    removed += existing(id).map_or(0, |node| {
                        let replaced = datasource.as_ref().and(node.datasource_execution.as_ref());
                        of_executions(replaced, graph.as_ref().and(node.graph_execution.as_ref()))
                    });
                }
                Fact::MetadataUpdated { metadata } | Fact::Created { metadata } => {
                    added += of_metadata(metadata);
                    removed += of_metadata(&self.metadata);
                }
                Fact::Replaced { nodes, edges, metadata } => {
                    let (nodes, edges) = (nodes.iter().map(of_node), edges.iter().map(of_edge));
                    added += nodes.chain(edges).sum::<usize>() + of_metadata(metadata);
                    removed += self.bytes();
                }
                Fact::NodeRemoved { id } => removed += existing(id).map_or(0, of_node),
                Fact::EdgeRemoved { id } => removed += self.edges.get(id).map_or(0, |record| of_edge(&record.edge)),
            }
        }
        // Only what grows is weighed, since that looks at the whole plan.
        if added <= removed || self.bytes() + added <= max + removed {
            return Ok(());
        }
        Err(Refusal::TooLarge { what: LimitName::PlanBytes, limit: max })
    }

    /// Bytes of all its texts.
    fn bytes(&self) -> usize {
        let nodes = self.nodes.values().map(|record| of_node(&record.node));
        let edges = self.edges.values().map(|record| of_edge(&record.edge));
        nodes.chain(edges).sum::<usize>() + of_metadata(&self.metadata)
    }
}

fn of_node(node: &PlanNode) -> usize {
    let executions = of_executions(node.datasource_execution.as_ref(), node.graph_execution.as_ref());
    node.id.as_str().len() + of_node_metadata(&node.metadata) + node.config.len() + executions
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
