//! A plan as the rules see it: plan nodes by type, edges by their ends.
//!
//! It goes with its plan from change to change, so that an edge is judged by its neighbours and by the paths it would close,
//! not by everything there is. Like the plan's elements it is shared by copies. It decides what an edge may join; what else a
//! plan may be is in `rules`.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::HashMap;
use mille_shared::operation::NewEdge;
use mille_shared::plan::{EdgeDataType, PlanEdge, PlanNodeType};
use mille_shared::{EdgeId, PlanNodeId};

use crate::refusal::{Problem, ProblemKind};

/// The ends of an edge and what flows along it: all that the rules look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) id: &'a EdgeId,
    pub(super) source: &'a PlanNodeId,
    pub(super) target: &'a PlanNodeId,
    pub(super) data_type: EdgeDataType,
}

impl<'a> From<&'a NewEdge> for End<'a> {
    fn from(NewEdge { id, source, target, metadata }: &'a NewEdge) -> Self {
        Self { id, source, target, data_type: metadata.data_type }
    }
}

impl<'a> From<&'a PlanEdge> for End<'a> {
    fn from(PlanEdge { id, source, target, metadata, .. }: &'a PlanEdge) -> Self {
        Self { id, source, target, data_type: metadata.data_type }
    }
}

/// The problem of an edge whose target has a path to its source.
pub(super) fn closes_cycle(edge: &NewEdge) -> Problem {
    let message = format!("an edge from '{}' to '{}' would close a cycle", edge.source, edge.target);
    Problem::of_edge(&edge.id, ProblemKind::Cycle, message)
}

/// Plan nodes and edges, as far as the rules look at them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Graph {
    vertices: HashMap<PlanNodeId, Arc<Vertex>>,
}

/// A plan node and its edges, each side in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq)]
struct Vertex {
    /// None for one that only edges name.
    node_type: Option<PlanNodeType>,
    outputs: Vec<Output>,
    inputs: Vec<EdgeId>,
}

#[derive(Debug, Clone, PartialEq)]
struct Output {
    id: EdgeId,
    target: PlanNodeId,
    data_type: EdgeDataType,
}

impl Graph {
    /// Whether there is such a plan node.
    pub(super) fn has_node(&self, id: &PlanNodeId) -> bool {
        self.type_of(id).is_some()
    }

    /// Takes a plan node in, without judging it.
    pub(super) fn add_node(&mut self, id: &PlanNodeId, node_type: PlanNodeType) {
        self.vertex(id).node_type = Some(node_type);
    }

    /// Lets a plan node go. Its edges went before it.
    pub(super) fn remove_node(&mut self, id: &PlanNodeId) {
        self.change(id, |vertex| vertex.node_type = None);
    }

    /// Takes an edge in, without judging it.
    pub(super) fn add(&mut self, End { id, source, target, data_type }: End<'_>) {
        let output = Output { id: id.clone(), target: target.clone(), data_type };
        self.vertex(source).outputs.push(output);
        self.vertex(target).inputs.push(id.clone());
    }

    /// Lets an edge go.
    pub(super) fn remove(&mut self, End { id, source, target, .. }: End<'_>) {
        self.change(source, |vertex| vertex.outputs.retain(|output| output.id != *id));
        self.change(target, |vertex| vertex.inputs.retain(|input| input != id));
    }

    /// Notes that something else flows along an edge.
    pub(super) fn change_data_type(&mut self, edge: End<'_>) {
        self.change(edge.source, |vertex| {
            if let Some(output) = vertex.outputs.iter_mut().find(|output| output.id == *edge.id) {
                output.data_type = edge.data_type;
            }
        });
    }

    /// The edges that begin or end at a plan node, those that begin there first.
    pub(super) fn edges_at<'a>(&'a self, id: &PlanNodeId) -> impl Iterator<Item = &'a EdgeId> {
        let vertex = self.vertices.get(id).into_iter();
        vertex.flat_map(|vertex| vertex.outputs.iter().map(|output| &output.id).chain(&vertex.inputs))
    }

    /// Judges an edge that would be added.
    pub(super) fn check_edge(&self, edge: &NewEdge) -> Result<(), Problem> {
        self.check_ends(edge)?;
        if self.reaches(&edge.target, &edge.source) { Err(closes_cycle(edge)) } else { Ok(()) }
    }

    /// Judges an edge that would be added by its ends and their edges alone: it may still close a cycle.
    pub(super) fn check_ends(&self, edge: &NewEdge) -> Result<(), Problem> {
        let (source, target) = (&edge.source, &edge.target);
        let wrong = |kind, message| Err(Problem::of_edge(&edge.id, kind, message));
        let type_of = |id: &PlanNodeId| {
            let missing = || {
                let message = format!("edge '{}' needs plan node '{id}', which does not exist", edge.id);
                Problem { node_id: Some(id.clone()), ..Problem::of_edge(&edge.id, ProblemKind::MissingNode, message) }
            };
            self.type_of(id).ok_or_else(missing)
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
        if self.twin(End::from(edge)).is_some() {
            let message = format!("there is already an edge from '{source}' to '{target}' with this data type");
            return wrong(ProblemKind::DuplicateEdge, message);
        }
        if target_type != PlanNodeType::MergeNode && self.inputs_of(target) > 0 {
            let message = format!("'{target}' has an input already; only a MergeNode takes several");
            return wrong(ProblemKind::InvalidConnection, message);
        }
        Ok(())
    }

    /// Another edge between the same pair with the same data type.
    pub(super) fn twin(&self, edge: End<'_>) -> Option<&EdgeId> {
        let same =
            |other: &&Output| other.id != *edge.id && other.target == *edge.target && other.data_type == edge.data_type;
        self.vertices.get(edge.source)?.outputs.iter().find(same).map(|output| &output.id)
    }

    /// What looks unfinished, in the order of the plan nodes.
    pub(super) fn warnings<'a>(&self, nodes: impl Iterator<Item = &'a PlanNodeId>) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for id in nodes {
            let (inputs, outputs) =
                (self.inputs_of(id), self.vertices.get(id).map_or(0, |vertex| vertex.outputs.len()));
            match self.type_of(id) {
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

    /// Whether a path leads from one plan node to another. Linear in the edges it passes.
    fn reaches(&self, from: &PlanNodeId, to: &PlanNodeId) -> bool {
        let mut seen = HashSet::from([from]);
        let mut open = vec![from];
        while let Some(id) = open.pop() {
            if id == to {
                return true;
            }
            for output in self.vertices.get(id).into_iter().flat_map(|vertex| &vertex.outputs) {
                if seen.insert(&output.target) {
                    open.push(&output.target);
                }
            }
        }
        false
    }

    fn type_of(&self, id: &PlanNodeId) -> Option<PlanNodeType> {
        self.vertices.get(id)?.node_type
    }

    fn inputs_of(&self, id: &PlanNodeId) -> usize {
        self.vertices.get(id).map_or(0, |vertex| vertex.inputs.len())
    }

    fn vertex(&mut self, id: &PlanNodeId) -> &mut Vertex {
        Arc::make_mut(self.vertices.entry(id.clone()).or_default())
    }

    /// Changes a vertex that is there, and forgets one of which nothing is left.
    fn change(&mut self, id: &PlanNodeId, change: impl FnOnce(&mut Vertex)) {
        let Some(vertex) = self.vertices.get_mut(id) else { return };
        let vertex = Arc::make_mut(vertex);
        change(vertex);
        if *vertex == Vertex::default() {
            self.vertices.remove(id);
        }
    }
}
