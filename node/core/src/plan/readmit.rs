//! A change whose place in the log was lost, wished for again.
//!
//! When a log lost its end and others have built on what was left, the lost changes are judged again on the new state, as
//! the operations they were, under the same operation ids. What the log kept of them are facts; this is the way back
//! from facts to wishes. Two things do not come back: which revision the user expected (the last writer wins, as without
//! it), and when an element was made.

use mille_shared::change::Fact;
use mille_shared::execution::{DataSourceExecution, GraphExecution};
use mille_shared::operation::{
    DataSourceReport, Edit, ExecutionReport, GraphReport, NewDocument, NewEdge, NewNode, NodeUpdate, Operation,
};
use mille_shared::plan::{PlanEdge, PlanMetadata, PlanNode};

use super::Plan;
use crate::applied::Applied;

impl Plan {
    /// The operation that a lost change was, as far as this plan still lacks it: what it deleted and is gone already is
    /// left out.
    #[must_use]
    pub fn readmit(&self, lost: &Applied) -> Operation {
        let change = &lost.change;
        let is_wanted = |(place, fact): &(usize, &Fact)| {
            !self.is_gone(fact) || change.facts[..*place].iter().any(|earlier| undoes(fact, earlier))
        };
        let wanted = change.facts.iter().enumerate().filter(is_wanted);
        Operation {
            id: change.operation_id.clone(),
            user_id: change.user_id.clone(),
            client_id: change.client_id.clone(),
            at: change.at,
            expected_revision: None,
            edits: wanted.flat_map(|(_, fact)| edits_of(fact, lost)).collect(),
        }
    }

    fn is_gone(&self, fact: &Fact) -> bool {
        match fact {
            Fact::NodeRemoved { id } => self.node(id).is_none(),
            Fact::EdgeRemoved { id } => self.edge(id).is_none(),
            _ => false,
        }
    }
}

/// Whether a removal takes away what an earlier fact added.
fn undoes(removal: &Fact, earlier: &Fact) -> bool {
    match (removal, earlier) {
        (Fact::NodeRemoved { id }, Fact::NodeAdded { node }) => node.id == *id,
        (Fact::NodeRemoved { id }, Fact::Replaced { nodes, .. }) => nodes.iter().any(|node| node.id == *id),
        (Fact::EdgeRemoved { id }, Fact::EdgeAdded { edge }) => edge.id == *id,
        (Fact::EdgeRemoved { id }, Fact::Replaced { edges, .. }) => edges.iter().any(|edge| edge.id == *id),
        _ => false,
    }
}

fn edits_of(fact: &Fact, lost: &Applied) -> Vec<Edit> {
    match fact.clone() {
        // A log begins once; what is left of one never lacks its beginning.
        Fact::Created { .. } => Vec::new(),
        Fact::NodeAdded { node } => {
            let sides = NodeUpdate {
                source_position: node.source_position.clone(),
                target_position: node.target_position.clone(),
                ..NodeUpdate::default()
            };
            let has_sides = sides != NodeUpdate::default();
            let update = has_sides.then(|| Edit::UpdateNode { id: node.id.clone(), update: sides });
            [Edit::AddNode(new_node(*node))].into_iter().chain(update).collect()
        }
        Fact::NodeUpdated { id, position, source_position, target_position, metadata, config } => {
            let update = NodeUpdate { position, source_position, target_position, metadata, config };
            vec![Edit::UpdateNode { id, update }]
        }
        Fact::NodeRemoved { id } => vec![Edit::DeleteNode { id }],
        Fact::EdgeAdded { edge } => vec![Edit::AddEdge(new_edge(edge))],
        Fact::EdgeUpdated { id, metadata } => vec![Edit::UpdateEdge { id, metadata: Some(metadata) }],
        Fact::EdgeRemoved { id } => vec![Edit::DeleteEdge { id }],
        // The fact holds all of it, the patch what was changed: the rest may be somebody else's by now.
        Fact::MetadataUpdated { metadata: PlanMetadata { name, description, .. } } => {
            let is_changed = |field: &str| lost.patch.iter().any(|step| step.path == field);
            let name = is_changed("/metadata/name").then_some(name);
            vec![Edit::UpdateMetadata { name, description: is_changed("/metadata/description").then_some(description) }]
        }
        Fact::Replaced { nodes, edges, metadata } => {
            let PlanMetadata { name, description, author, created } = metadata;
            let nodes = nodes.into_iter().map(new_node).collect();
            let edges = edges.into_iter().map(new_edge).collect();
            vec![Edit::Replace(NewDocument { nodes, edges, name, description, author, created })]
        }
        Fact::ExecutionChanged { id, run_id, state, datasource, graph } => {
            let message = datasource.as_ref().and_then(|told| told.error_message.clone());
            let message = message.or_else(|| graph.as_ref().and_then(|told| told.error_message.clone()));
            let (datasource, graph) = (datasource.map(datasource_report), graph.map(graph_report));
            vec![Edit::ReportExecution(ExecutionReport { id, run_id, state, message, datasource, graph })]
        }
    }
}

fn new_node(node: PlanNode) -> NewNode {
    let PlanNode { id, node_type, position, metadata, config, .. } = node;
    NewNode { id, node_type, position, metadata, config }
}

fn new_edge(edge: PlanEdge) -> NewEdge {
    let PlanEdge { id, source, target, metadata, .. } = edge;
    NewEdge { id, source, target, metadata }
}

fn datasource_report(told: DataSourceExecution) -> DataSourceReport {
    let DataSourceExecution { data_source_id, filename, status, processed_at, .. } = told;
    DataSourceReport { data_source_id, filename, status, processed_at }
}

fn graph_report(told: GraphExecution) -> GraphReport {
    let GraphExecution { graph_id, node_count, edge_count, computed_date, .. } = told;
    GraphReport { graph_id, node_count, edge_count, computed_date }
}
