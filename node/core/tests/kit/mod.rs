//! What the core's tests share: elements by short names, a plan with its log, edits from plain numbers, and the rules of
//! plans written a second time.
//!
//! [`assert_valid`] is written from the contract alone: it knows documents, not the machine that makes them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{HashMap, HashSet};

use mille_core::{Applied, Plan, PlanBounds, Refusal, chain};
use mille_shared::change::{Change, Fact};
use mille_shared::execution::ExecutionState;
use mille_shared::log::{ChainHash, Head, LogEntry};
use mille_shared::operation::{Edit, ExecutionReport, NewDocument, NewEdge, NewNode, NodeUpdate, Operation};
use mille_shared::plan::{
    EdgeDataType, EdgeMetadata, NodeMetadata, PlanDocument, PlanMetadata, PlanNodeType, Position,
};
use mille_shared::{ClientId, EdgeId, OperationId, PlanNodeId, Revision, RunId, Timestamp, UserId};

/// Every type of plan node.
pub(crate) const TYPES: [PlanNodeType; 7] = [
    PlanNodeType::DataSourceNode,
    PlanNodeType::GraphNode,
    PlanNodeType::TransformNode,
    PlanNodeType::FilterNode,
    PlanNodeType::MergeNode,
    PlanNodeType::CopyNode,
    PlanNodeType::OutputNode,
];

pub(crate) const EPOCH: u64 = 1_700_000_000_000;

/// A plan, the log that made it, and a clock that never stands still.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) plan: Plan,
    pub(crate) log: Vec<LogEntry>,
    pub(crate) bounds: PlanBounds,
    pub(crate) now_ms: i64,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let first = creation(EPOCH);
        Self { plan: Plan::begin(&first).unwrap(), log: vec![first], bounds: PlanBounds::default(), now_ms: 1_000 }
    }

    /// A desk with these edits done.
    pub(crate) fn with(edits: Vec<Edit>) -> Self {
        let mut desk = Self::new();
        desk.edit(edits).unwrap();
        desk
    }

    /// Judges without doing.
    pub(crate) fn judge(&self, edits: Vec<Edit>) -> Result<Option<Change>, Refusal> {
        self.judge_expecting(None, edits)
    }

    pub(crate) fn judge_expecting(
        &self,
        expected: Option<Revision>,
        edits: Vec<Edit>,
    ) -> Result<Option<Change>, Refusal> {
        let id = format!("op{}", self.now_ms);
        self.plan.accept(&operation(&id, self.now_ms + 1, expected, edits), &self.bounds)
    }

    /// Judges and, if accepted, appends to the log and applies.
    pub(crate) fn edit(&mut self, edits: Vec<Edit>) -> Result<Option<Applied>, Refusal> {
        let Some(change) = self.judge(edits)? else { return Ok(None) };
        self.now_ms += 1;
        let entry = entry_after(self.plan.head(), &change);
        let applied = self.plan.apply(&entry).unwrap();
        self.log.push(entry);
        Ok(Some(applied))
    }

    /// [`Self::edit`] where it must change something.
    pub(crate) fn must(&mut self, edit: Edit) -> Applied {
        self.edit(vec![edit]).expect("accepted").expect("changes something")
    }

    /// The refusal of one edit.
    pub(crate) fn refusal(&self, edit: Edit) -> Refusal {
        self.judge(vec![edit]).expect_err("refused")
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.now_ms)
    }
}

pub(crate) fn creation(epoch: u64) -> LogEntry {
    let change = Change {
        operation_id: OperationId::new("create"),
        user_id: UserId::new("ada"),
        client_id: ClientId::none(),
        at: Timestamp::from_unix_ms(1_000),
        facts: vec![Fact::Created { metadata: PlanMetadata::default() }],
    };
    let payload = serde_json::to_string(&change).unwrap();
    let revision = Revision { epoch, seq: 0 };
    let hash = chain::link(ChainHash::ROOT, revision, &payload);
    LogEntry { revision, hash, payload: payload.into() }
}

pub(crate) fn entry_after(head: Head, change: &Change) -> LogEntry {
    entry_at(head.revision.next(), head, change)
}

/// The entry that stands at a place, which may begin an epoch.
pub(crate) fn entry_at(revision: Revision, head: Head, change: &Change) -> LogEntry {
    let payload = serde_json::to_string(change).unwrap();
    LogEntry { revision, hash: chain::link(head.hash, revision, &payload), payload: payload.into() }
}

pub(crate) fn operation(id: &str, at_ms: i64, expected: Option<Revision>, edits: Vec<Edit>) -> Operation {
    Operation {
        id: OperationId::new(id),
        user_id: UserId::new("ada"),
        client_id: ClientId::none(),
        at: Timestamp::from_unix_ms(at_ms),
        expected_revision: expected,
        edits,
    }
}

pub(crate) fn nid(id: &str) -> PlanNodeId {
    PlanNodeId::new(id)
}

pub(crate) fn eid(id: &str) -> EdgeId {
    EdgeId::new(id)
}

pub(crate) fn new_node(id: &str, node_type: PlanNodeType) -> NewNode {
    let metadata = NodeMetadata { label: id.to_owned(), description: None };
    NewNode { id: nid(id), node_type, position: Position { x: 1.0, y: 2.0 }, metadata, config: "{}".into() }
}

pub(crate) fn new_edge(id: &str, source: &str, target: &str) -> NewEdge {
    NewEdge { id: eid(id), source: nid(source), target: nid(target), metadata: carries(EdgeDataType::GraphData) }
}

pub(crate) fn carries(data_type: EdgeDataType) -> EdgeMetadata {
    EdgeMetadata { label: None, data_type }
}

/// Adds a plan node.
pub(crate) fn node(id: &str, node_type: PlanNodeType) -> Edit {
    Edit::AddNode(new_node(id, node_type))
}

/// Adds an edge named `<source>-<target>`.
pub(crate) fn edge(source: &str, target: &str) -> Edit {
    Edit::AddEdge(new_edge(&format!("{source}-{target}"), source, target))
}

pub(crate) fn update(id: &str, update: NodeUpdate) -> Edit {
    Edit::UpdateNode { id: nid(id), update }
}

pub(crate) fn moved(id: &str, x: f64, y: f64) -> Edit {
    update(id, NodeUpdate { position: Some(Position { x, y }), ..NodeUpdate::default() })
}

pub(crate) fn configured(id: &str, config: &str) -> Edit {
    update(id, NodeUpdate { config: Some(config.into()), ..NodeUpdate::default() })
}

pub(crate) fn labelled(id: &str, label: &str) -> Edit {
    let metadata = NodeMetadata { label: label.to_owned(), description: None };
    update(id, NodeUpdate { metadata: Some(metadata), ..NodeUpdate::default() })
}

pub(crate) fn delete(id: &str) -> Edit {
    Edit::DeleteNode { id: nid(id) }
}

pub(crate) fn named(name: &str) -> Edit {
    Edit::UpdateMetadata { name: Some(Some(name.to_owned())), description: None }
}

pub(crate) fn report(id: &str, run: &str, state: ExecutionState) -> ExecutionReport {
    ExecutionReport { id: nid(id), run_id: RunId::new(run), state, message: None, datasource: None, graph: None }
}

pub(crate) fn executed(id: &str, run: &str, state: ExecutionState) -> Edit {
    Edit::ReportExecution(report(id, run, state))
}

/// The wish for the document as it is.
pub(crate) fn wish(document: &PlanDocument) -> NewDocument {
    let nodes = document.nodes.iter().cloned().map(|node| NewNode {
        id: node.id,
        node_type: node.node_type,
        position: node.position,
        metadata: node.metadata,
        config: node.config,
    });
    let edges = document.edges.iter().cloned().map(|edge| NewEdge {
        id: edge.id,
        source: edge.source,
        target: edge.target,
        metadata: edge.metadata,
    });
    NewDocument {
        nodes: nodes.collect(),
        edges: edges.collect(),
        name: document.metadata.name.clone(),
        description: document.metadata.description.clone(),
        author: document.metadata.author.clone(),
        created: document.metadata.created.clone(),
    }
}

/// Four numbers that say what an edit is; few elements, so that edits meet.
pub(crate) type Dice = (u8, u8, u8, u8);

/// The edit that the numbers say. Good ones and bad ones.
pub(crate) fn edit_of((kind, a, b, value): Dice) -> Edit {
    let node_id = |n: u8| format!("n{}", n % 8);
    let edge_id = format!("e{}", b % 10);
    let number = f64::from(value);
    let data_type = if value.is_multiple_of(3) { EdgeDataType::GraphReference } else { EdgeDataType::GraphData };
    match kind % 16 {
        0..=2 => node(&node_id(a), TYPES[usize::from(value) % TYPES.len()]),
        3..=5 => {
            let ends = new_edge(&edge_id, &node_id(a), &node_id(value));
            Edit::AddEdge(NewEdge { metadata: carries(data_type), ..ends })
        }
        6 => moved(&node_id(a), number, -number),
        7 => configured(&node_id(a), &format!("{{\"v\":{value}}}")),
        8 => labelled(&node_id(a), &format!("label \"{value}\" ~/é\n")),
        9 => {
            let sides = NodeUpdate { source_position: Some(value.to_string()), ..NodeUpdate::default() };
            update(&node_id(a), NodeUpdate { target_position: Some("left".to_owned()), ..sides })
        }
        10 => delete(&node_id(a)),
        11 => Edit::UpdateEdge { id: eid(&edge_id), metadata: Some(carries(data_type)) },
        12 => Edit::DeleteEdge { id: eid(&edge_id) },
        13 => {
            let name = (!value.is_multiple_of(4)).then(|| value.to_string());
            Edit::UpdateMetadata { name: Some(name), description: None }
        }
        14 => executed(&node_id(a), &format!("r{}", b % 3), ExecutionState::ALL[usize::from(value) % 5]),
        _ => {
            // A merge of as many sources as the number says, in place of everything.
            let sources: Vec<_> = (0..a % 4).map(|n| new_node(&node_id(n), TYPES[usize::from(n) % 3])).collect();
            let edges = (0..a % 4).map(|n| new_edge(&format!("e{n}"), &node_id(n), "n7")).collect();
            let nodes = sources.into_iter().chain([new_node("n7", PlanNodeType::MergeNode)]).collect();
            let name = Some(value.to_string());
            Edit::Replace(NewDocument { nodes, edges, name, description: None, author: None, created: None })
        }
    }
}

/// Every rule of plans, from the contract.
pub(crate) fn assert_valid(document: &PlanDocument) {
    let types: HashMap<_, _> = document.nodes.iter().map(|node| (&node.id, node.node_type)).collect();
    assert_eq!(types.len(), document.nodes.len(), "a plan node's id is there twice");
    let ids: HashSet<_> = document.edges.iter().map(|edge| &edge.id).collect();
    assert_eq!(ids.len(), document.edges.len(), "an edge's id is there twice");
    let mut pairs = HashSet::new();
    let mut inputs: HashMap<_, usize> = HashMap::new();
    for edge in &document.edges {
        let source = types.get(&edge.source).expect("an edge begins at a plan node");
        let target = types.get(&edge.target).expect("an edge ends at a plan node");
        assert_ne!(edge.source, edge.target, "no self loop");
        assert_ne!(*source, PlanNodeType::OutputNode, "no output from an OutputNode");
        assert_ne!(*target, PlanNodeType::DataSourceNode, "no input into a DataSourceNode");
        assert!(pairs.insert((&edge.source, &edge.target, edge.metadata.data_type)), "a second edge like {}", edge.id);
        *inputs.entry(&edge.target).or_default() += 1;
        let several = inputs[&edge.target] > 1;
        assert!(!several || *target == PlanNodeType::MergeNode, "only a MergeNode takes several inputs");
    }
    // Take plan nodes without inputs away until nothing is left, or only a cycle.
    let mut left: HashSet<_> = types.keys().copied().collect();
    loop {
        let blocked: HashSet<_> =
            document.edges.iter().filter(|edge| left.contains(&edge.source)).map(|edge| &edge.target).collect();
        let before = left.len();
        left.retain(|id| blocked.contains(id));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "a cycle through {left:?}");
    for node in &document.nodes {
        assert!([node.position.x, node.position.y].iter().all(|c| c.is_finite() && c.abs() <= 100_000.0));
    }
}
