//! From rows to a plan: what of two tables can be kept under a plan's rules.
//!
//! A row that can't be kept is rejected with its reason and costs nothing else; a row that can be kept with
//! a small change is adapted, and the change is told. The cluster has the last word on everything: these
//! rules only spare it what it would refuse, and say so per row.

use std::collections::{HashMap, HashSet};

use mille_shared::limits::{
    CONFIG_BYTES_MAX, COORDINATE_ABS_MAX, ELEMENT_ID_BYTES_MAX, METADATA_BYTES_MAX, PLAN_EDGES_MAX, PLAN_NODES_MAX,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::csv::{Column, Row, Table};
use super::layout;

pub(crate) const ID: Column = &["id", "node_id", "edge_id", "key"];
pub(crate) const SOURCE: Column = &["source", "from", "source_id"];
pub(crate) const TARGET: Column = &["target", "to", "target_id"];
const LABEL: Column = &["label", "name", "title"];
const EDGE_LABEL: Column = &["label", "name", "title", "relationship"];
const TYPE: Column = &["type", "node_type"];
const X: Column = &["x", "position_x"];
const Y: Column = &["y", "position_y"];
const DESCRIPTION: Column = &["description", "comment"];
const CONFIG: Column = &["config"];
const DATA_TYPE: Column = &["data_type"];

const NODE_COLUMNS: [Column; 7] = [ID, LABEL, TYPE, X, Y, DESCRIPTION, CONFIG];

const DATA_SOURCE: &str = "DataSourceNode";
const MERGE: &str = "MergeNode";
const OUTPUT: &str = "OutputNode";

/// The public names of plan node types.
const NODE_TYPES: [&str; 7] = [DATA_SOURCE, "GraphNode", "TransformNode", "FilterNode", MERGE, "CopyNode", OUTPUT];

/// Which of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum File {
    Nodes,
    Edges,
}

/// A row that was rejected or adapted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Remark {
    pub(crate) file: File,
    /// 1 is the header.
    pub(crate) line: u64,
    pub(crate) id: String,
    pub(crate) reason: String,
}

/// A plan node to add.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewNode {
    pub(crate) line: u64,
    pub(crate) id: String,
    pub(crate) node_type: &'static str,
    pub(crate) label: String,
    pub(crate) description: Option<String>,
    pub(crate) config: String,
    pub(crate) position: (f64, f64),
}

/// An edge to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewEdge {
    pub(crate) line: u64,
    pub(crate) id: Option<String>,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) label: Option<String>,
    pub(crate) data_type: &'static str,
}

/// What is in the plan already.
#[derive(Debug, Clone, Default)]
pub(crate) struct Existing {
    /// Id and type of each plan node.
    pub(crate) nodes: Vec<(String, String)>,
    /// Id, source, target and data type of each edge.
    pub(crate) edges: Vec<(String, String, String, String)>,
}

/// What is to be added, and what was said about the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Draft {
    pub(crate) nodes: Vec<NewNode>,
    pub(crate) edges: Vec<NewEdge>,
    pub(crate) rejected: Vec<Remark>,
    pub(crate) adapted: Vec<Remark>,
}

/// Decides about every row.
pub(crate) fn draft(nodes: &Table, edges: &Table, existing: &Existing) -> Draft {
    let mut drafting = Drafting::new(existing);
    for row in &nodes.rows {
        drafting.node(nodes, row);
    }
    for row in &edges.rows {
        drafting.edge(edges, row);
    }
    drafting.finish()
}

/// A plan node of the graph we keep the rules on, old or new.
#[derive(Debug)]
struct Vertex {
    id: String,
    /// None: decided at the end, from its edges.
    node_type: Option<String>,
    inputs: usize,
    outputs: Vec<usize>,
}

#[derive(Debug, Default)]
struct Drafting {
    draft: Draft,
    vertices: Vec<Vertex>,
    /// New plan nodes are the vertices from here on.
    existing_count: usize,
    /// From an id as a file or the plan has it to the vertex.
    by_id: HashMap<String, usize>,
    edge_ids: HashSet<String>,
    pairs: HashSet<(usize, usize, String)>,
    /// Given positions of new plan nodes.
    positions: Vec<Option<(f64, f64)>>,
}

impl Drafting {
    fn new(existing: &Existing) -> Self {
        let mut drafting = Self { existing_count: existing.nodes.len(), ..Self::default() };
        for (id, node_type) in &existing.nodes {
            drafting.add_vertex(id, id, Some(node_type.clone()));
        }
        for (id, source, target, data_type) in &existing.edges {
            drafting.edge_ids.insert(id.clone());
            if let (Some(&source), Some(&target)) = (drafting.by_id.get(source), drafting.by_id.get(target)) {
                drafting.connect(source, target, data_type);
            }
        }
        drafting
    }

    fn node(&mut self, table: &Table, row: &Row) {
        let Some(raw_id) = table.cell(row, ID) else {
            return self.reject(File::Nodes, row, "", "it has no id");
        };
        let id = usable_id(raw_id);
        if self.by_id.contains_key(raw_id) || self.vertices.iter().any(|vertex| vertex.id == id) {
            return self.reject(File::Nodes, row, raw_id, &format!("there already is a plan node `{id}`"));
        }
        if self.vertices.len() >= PLAN_NODES_MAX {
            return self.reject(File::Nodes, row, raw_id, &format!("a plan holds at most {PLAN_NODES_MAX} plan nodes"));
        }
        let label = table.cell(row, LABEL).unwrap_or(raw_id);
        let description = table.cell(row, DESCRIPTION);
        if label.len() + description.map_or(0, str::len) > METADATA_BYTES_MAX {
            return self.reject(
                File::Nodes,
                row,
                raw_id,
                &format!("label and description have over {METADATA_BYTES_MAX} bytes"),
            );
        }
        let config = match config(table, row) {
            Ok(config) => config,
            Err(reason) => return self.reject(File::Nodes, row, raw_id, &reason),
        };
        if id != raw_id {
            self.adapt(
                File::Nodes,
                row,
                raw_id,
                &format!("its id became `{id}`: letters, digits, _ and - are allowed"),
            );
        }
        let position = self.position(table, row, raw_id);
        let node_type = table.cell(row, TYPE).and_then(known_type);
        self.add_vertex(raw_id, &id, node_type.map(str::to_owned));
        self.positions.push(position);
        self.draft.nodes.push(NewNode {
            line: row.line,
            id,
            node_type: node_type.unwrap_or(DATA_SOURCE),
            label: label.to_owned(),
            description: description.map(str::to_owned),
            config,
            position: (0.0, 0.0),
        });
    }

    fn edge(&mut self, table: &Table, row: &Row) {
        let (source_id, target_id) =
            (table.cell(row, SOURCE).unwrap_or_default(), table.cell(row, TARGET).unwrap_or_default());
        let raw_id = table.cell(row, ID);
        let shown = raw_id.map_or_else(|| format!("{source_id} -> {target_id}"), str::to_owned);
        let id = raw_id.map(usable_id);
        let data_type = data_type(table.cell(row, DATA_TYPE));
        let label = table.cell(row, EDGE_LABEL);
        let (source, target) = match self.check_edge(source_id, target_id, id.as_deref(), label, data_type) {
            Ok(pair) => pair,
            Err(reason) => return self.reject(File::Edges, row, &shown, &reason),
        };
        if let (Some(raw_id), Some(id)) = (raw_id, &id)
            && raw_id != id
        {
            self.adapt(
                File::Edges,
                row,
                raw_id,
                &format!("its id became `{id}`: letters, digits, _ and - are allowed"),
            );
        }
        self.connect(source, target, data_type);
        self.edge_ids.extend(id.clone());
        self.draft.edges.push(NewEdge {
            line: row.line,
            id,
            source: self.vertices[source].id.clone(),
            target: self.vertices[target].id.clone(),
            label: label.map(str::to_owned),
            data_type,
        });
    }

    /// The two ends of an edge that keeps every rule, or the rule it breaks.
    fn check_edge(
        &self,
        source_id: &str,
        target_id: &str,
        id: Option<&str>,
        label: Option<&str>,
        data_type: &str,
    ) -> Result<(usize, usize), String> {
        let end = |id: &str, name: &str| match self.by_id.get(id) {
            Some(&vertex) => Ok(vertex),
            None if id.is_empty() => Err(format!("it has no {name}")),
            None => Err(format!("its {name} `{id}` is no plan node")),
        };
        let (source, target) = (end(source_id, "source")?, end(target_id, "target")?);
        if source == target {
            return Err("it leads from a plan node to itself".to_owned());
        }
        if let Some(id) = id.filter(|&id| self.edge_ids.contains(id)) {
            return Err(format!("there already is an edge `{id}`"));
        }
        if self.pairs.contains(&(source, target, data_type.to_owned())) {
            return Err(format!("there already is an edge from `{source_id}` to `{target_id}` with {data_type}"));
        }
        if self.pairs.len() >= PLAN_EDGES_MAX {
            return Err(format!("a plan holds at most {PLAN_EDGES_MAX} edges"));
        }
        if label.is_some_and(|label| label.len() > METADATA_BYTES_MAX) {
            return Err(format!("its label has over {METADATA_BYTES_MAX} bytes"));
        }
        if self.vertices[source].node_type.as_deref() == Some(OUTPUT) {
            return Err(format!("`{source_id}` is an OutputNode and has no outputs"));
        }
        match self.vertices[target].node_type.as_deref() {
            Some(DATA_SOURCE) => return Err(format!("`{target_id}` is a DataSourceNode and takes no input")),
            Some(other) if other != MERGE && self.vertices[target].inputs > 0 => {
                return Err(format!(
                    "`{target_id}` is a {other} and has its one input; only a MergeNode takes several"
                ));
            }
            _ => {}
        }
        if self.leads_to(target, source) {
            return Err(format!("it would close a cycle: `{target_id}` already leads to `{source_id}`"));
        }
        Ok((source, target))
    }

    /// Types and places what was left open.
    fn finish(mut self) -> Draft {
        for (node, vertex) in self.draft.nodes.iter_mut().zip(&self.vertices[self.existing_count..]) {
            if vertex.node_type.is_none() {
                node.node_type = match (vertex.inputs, vertex.outputs.len()) {
                    (0, _) => DATA_SOURCE,
                    // What comes out of the whole plan is a graph; what stands between changes one.
                    (1, 0) => "GraphNode",
                    (1, _) => "TransformNode",
                    _ => MERGE,
                };
            }
        }
        let new = |vertex: usize| vertex.checked_sub(self.existing_count);
        let edges: Vec<(usize, usize)> =
            self.pairs.iter().filter_map(|&(source, target, _)| Some((new(source)?, new(target)?))).collect();
        let places = layout::place(self.draft.nodes.len(), &edges);
        for ((node, given), place) in self.draft.nodes.iter_mut().zip(&self.positions).zip(places) {
            node.position = given.unwrap_or(place);
        }
        self.draft
    }

    fn position(&mut self, table: &Table, row: &Row, id: &str) -> Option<(f64, f64)> {
        let (x, y) = (table.cell(row, X), table.cell(row, Y));
        if x.is_none() && y.is_none() {
            return None;
        }
        let number = |cell: Option<&str>| cell?.parse::<f64>().ok().filter(|number| number.abs() <= COORDINATE_ABS_MAX);
        let position = number(x).zip(number(y));
        if position.is_none() {
            let given = format!("{}, {}", x.unwrap_or("nothing"), y.unwrap_or("nothing"));
            self.adapt(File::Nodes, row, id, &format!("it was placed by layout: {given} is no place on the canvas"));
        }
        position
    }

    fn add_vertex(&mut self, raw_id: &str, id: &str, node_type: Option<String>) {
        self.by_id.insert(raw_id.to_owned(), self.vertices.len());
        self.vertices.push(Vertex { id: id.to_owned(), node_type, inputs: 0, outputs: Vec::new() });
    }

    fn connect(&mut self, source: usize, target: usize, data_type: &str) {
        self.pairs.insert((source, target, data_type.to_owned()));
        self.vertices[source].outputs.push(target);
        self.vertices[target].inputs += 1;
    }

    fn leads_to(&self, from: usize, to: usize) -> bool {
        let mut seen = HashSet::from([from]);
        let mut open = vec![from];
        while let Some(vertex) = open.pop() {
            if vertex == to {
                return true;
            }
            open.extend(self.vertices[vertex].outputs.iter().filter(|&&next| seen.insert(next)));
        }
        false
    }

    fn reject(&mut self, file: File, row: &Row, id: &str, reason: &str) {
        self.draft.rejected.push(Remark { file, line: row.line, id: id.to_owned(), reason: reason.to_owned() });
    }

    fn adapt(&mut self, file: File, row: &Row, id: &str, reason: &str) {
        self.draft.adapted.push(Remark { file, line: row.line, id: id.to_owned(), reason: reason.to_owned() });
    }
}

/// The id with what is not allowed replaced, cut to length. All that may remain is ASCII.
fn usable_id(raw: &str) -> String {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    raw.chars().map(|letter| if allowed(letter) { letter } else { '_' }).take(ELEMENT_ID_BYTES_MAX).collect()
}

/// `DataSourceNode`, however written: `data_source`, `DATASOURCE`. Other words are foreign.
fn known_type(text: &str) -> Option<&'static str> {
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    let wanted = plain(text);
    NODE_TYPES.into_iter().find(|name| {
        let name = plain(name);
        name == wanted || name.strip_suffix("node") == Some(&wanted)
    })
}

fn data_type(cell: Option<&str>) -> &'static str {
    match cell.map(str::to_ascii_uppercase).as_deref() {
        Some("GRAPH_REFERENCE" | "REFERENCE") => "GRAPH_REFERENCE",
        _ => "GRAPH_DATA",
    }
}

/// The column `config`, which must be JSON; without it, whatever else the row says, so that nothing is lost.
fn config(table: &Table, row: &Row) -> Result<String, String> {
    let config = match table.cell(row, CONFIG) {
        Some(text) => {
            serde_json::from_str::<Value>(text).map_err(|error| format!("its config is no JSON: {error}"))?;
            text.to_owned()
        }
        None => {
            let mut others: Map<String, Value> = Map::new();
            if let Some(foreign) = table.cell(row, TYPE).filter(|text| known_type(text).is_none()) {
                others.insert("type".to_owned(), foreign.into());
            }
            for (header, cell) in table.other_cells(row, &NODE_COLUMNS) {
                others.insert(header.to_owned(), cell.into());
            }
            Value::Object(others).to_string()
        }
    };
    if config.len() > CONFIG_BYTES_MAX {
        return Err(format!("its config has over {CONFIG_BYTES_MAX} bytes"));
    }
    Ok(config)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
