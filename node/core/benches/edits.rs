//! What an edit costs a node, apart from sockets and Redis: `cargo bench -p mille-core --bench edits`.
//!
//! Each at plans of 10, 1,000 and 10,000 plan nodes, with an edge from each to the next. What costs the same at all of them
//! does not look at the whole plan. `held` has somebody hold the plan that is changed, as answers and snapshots do.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use mille_core::plan::check_document;
use mille_core::replay::Replay;
use mille_core::replica::{Effect, Input, Replica, Ticket};
use mille_core::{Plan, PlanBounds, chain};
use mille_shared::change::{Change, Fact};
use mille_shared::log::{ChainHash, CommitOutcome, LogEntry, StoreLife};
use mille_shared::operation::{Edit, NewDocument, NewEdge, NewNode, NodeUpdate, Operation};
use mille_shared::plan::{EdgeDataType, EdgeMetadata, NodeMetadata, PlanMetadata, PlanNodeType, Position};
use mille_shared::{ClientId, EdgeId, OperationId, PlanNodeId, Revision, Timestamp, UserId};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// Changes that are told again.
const REPLAYED: u64 = 1_000;

fn bounds() -> PlanBounds {
    PlanBounds { nodes_max: 20_000, edges_max: 20_000, changes_max: usize::MAX, ..PlanBounds::default() }
}

fn id(number: usize) -> PlanNodeId {
    PlanNodeId::new(format!("plan-node-{number}"))
}

fn operation(number: u64, edits: Vec<Edit>) -> Operation {
    Operation {
        id: OperationId::new(format!("operation-{number}")),
        user_id: UserId::new("ada"),
        client_id: ClientId::new("bench"),
        at: Timestamp::from_unix_ms(i64::try_from(number).unwrap_or_default()),
        expected_revision: None,
        edits,
    }
}

fn new_node(number: usize) -> Edit {
    Edit::AddNode(NewNode {
        id: id(number),
        node_type: PlanNodeType::MergeNode,
        position: Position { x: 0.0, y: 0.0 },
        metadata: NodeMetadata { label: format!("Plan node {number}"), description: None },
        config: "{}".into(),
    })
}

fn new_edge(from: usize, to: usize) -> Edit {
    Edit::AddEdge(NewEdge {
        id: EdgeId::new(format!("edge-{from}-{to}")),
        source: id(from),
        target: id(to),
        metadata: EdgeMetadata { label: None, data_type: EdgeDataType::GraphData },
    })
}

/// Moves one of the plan nodes to where none was before.
fn a_move(size: usize, number: u64) -> Edit {
    let position = Some(Position { x: number as f64 % 90_000.0, y: 1.0 + (number / 90_000) as f64 });
    let node = usize::try_from(number).unwrap_or_default() * 7_919 % size;
    Edit::UpdateNode { id: id(node), update: NodeUpdate { position, ..NodeUpdate::default() } }
}

fn entry_after(plan: &Plan, change: &Change) -> LogEntry {
    let payload: Arc<str> = serde_json::to_string(change).expect("a change is JSON").into();
    let revision = plan.revision().next();
    LogEntry { revision, hash: chain::link(plan.head().hash, revision, &payload), payload }
}

fn plan_of(size: usize) -> Plan {
    let metadata = PlanMetadata { name: None, description: None, author: None, created: None };
    let Operation { id, user_id, client_id, at, .. } = operation(0, Vec::new());
    let first = Change { operation_id: id, user_id, client_id, at, facts: vec![Fact::Created { metadata }] };
    let payload: Arc<str> = serde_json::to_string(&first).expect("a change is JSON").into();
    let revision = Revision { epoch: 1, seq: 0 };
    let entry = LogEntry { revision, hash: chain::link(ChainHash::ROOT, revision, &payload), payload };
    let mut plan = Plan::begin(&entry).expect("a plan begins");
    let nodes = (0..size).map(new_node);
    let edges = (1..size).map(|to| new_edge(to - 1, to));
    let change =
        plan.accept(&operation(1, nodes.chain(edges).collect()), &bounds()).expect("it fits").expect("it grows");
    plan.apply(&entry_after(&plan, &change)).expect("it applies");
    plan
}

fn accept(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("accept");
    for size in SIZES {
        let (plan, bounds) = (plan_of(size), bounds());
        for (what, edit) in [
            ("move", a_move(size, 1)),
            ("add plan node", new_node(size)),
            ("add edge", new_edge(size - 2, size - 1)),
            ("delete plan node", Edit::DeleteNode { id: id(size / 2) }),
        ] {
            // The edge between the last two is there, so the new one is of the other kind.
            let edit = match edit {
                Edit::AddEdge(edge) => Edit::AddEdge(NewEdge {
                    id: EdgeId::new("new"),
                    metadata: EdgeMetadata { data_type: EdgeDataType::GraphReference, ..edge.metadata.clone() },
                    ..edge
                }),
                edit => edit,
            };
            let operation = operation(2, vec![edit]);
            group.bench_function(BenchmarkId::new(what, size), |bencher| {
                bencher.iter(|| black_box(plan.accept(&operation, &bounds).expect("it is accepted")));
            });
        }
    }
}

/// The most that a plan may hold, each plan node with an edge to the five behind it, from the last to the first: behind each
/// edge lies all that came before.
fn check(criterion: &mut Criterion) {
    const NODES: usize = 1_000;
    let new_node = |number| match new_node(number) {
        Edit::AddNode(node) => node,
        other => panic!("{other:?} is no plan node"),
    };
    let new_edge = |(from, to)| match new_edge(from, to) {
        Edit::AddEdge(edge) => edge,
        other => panic!("{other:?} is no edge"),
    };
    let ends = (0..NODES).rev().flat_map(|from| (from + 1..=from + 5).map(move |to| (from, to)));
    let ends = ends.filter(|(_, to)| *to < NODES);
    let document = NewDocument {
        nodes: (0..NODES).map(new_node).collect(),
        edges: ends.map(new_edge).collect(),
        name: None,
        description: None,
        author: None,
        created: None,
    };
    criterion.bench_function("check a document of 1,000 nodes and 5,000 edges", |bencher| {
        bencher.iter(|| {
            let findings = check_document(&document, &bounds());
            assert!(findings.errors.is_empty(), "it is a plan");
            findings
        });
    });
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply a move");
    for size in SIZES {
        for is_held in [false, true] {
            let plan = RefCell::new(plan_of(size));
            let mut number = 0;
            let name = if is_held { "held" } else { "alone" };
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_batched(
                    || {
                        number += 1;
                        let plan = plan.borrow();
                        let change = plan.accept(&operation(number, vec![a_move(size, number)]), &bounds());
                        let entry = entry_after(&plan, &change.expect("fine").expect("new"));
                        (entry, is_held.then(|| plan.clone()))
                    },
                    |(entry, held)| (plan.borrow_mut().apply(&entry).expect("it applies"), held),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

/// From a submitted move to its answer, whose plan is held until the next one: everything that the actor does for it.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit a move");
    for size in SIZES {
        let mut replica = Replica::new(plan_of(size).into(), bounds(), u64::MAX);
        let life = StoreLife::new("bench");
        let mut number = 0;
        let mut last = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                number += 1;
                let operation = operation(number, vec![a_move(size, number)]);
                let offered = replica.handle(Input::Submit { ticket: Ticket(number), operation, repeatable: true });
                assert!(matches!(offered.as_slice(), [Effect::Commit { .. }]), "it is offered");
                last = replica.handle(Input::Committed(CommitOutcome::Committed { life: life.clone() }));
            });
        });
        drop(last);
    }
}

/// A move that another node made: everything that the actor does for it.
fn sequence(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hear of a move");
    for size in SIZES {
        let replica = RefCell::new(Replica::new(plan_of(size).into(), bounds(), u64::MAX));
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || {
                    number += 1;
                    let replica = replica.borrow();
                    let operation = operation(number, vec![a_move(size, number)]);
                    let change = replica.plan().accept(&operation, &bounds()).expect("fine").expect("new");
                    entry_after(replica.plan(), &change)
                },
                |entry| replica.borrow_mut().handle(Input::Heard(vec![entry])),
                BatchSize::PerIteration,
            );
        });
    }
}

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay 1,000 moves");
    group.sample_size(20);
    for size in SIZES {
        let mut plan = plan_of(size);
        let base = plan.to_snapshot();
        let entries: Vec<LogEntry> = (1..=REPLAYED)
            .map(|number| {
                let operation = operation(number, vec![a_move(size, number)]);
                let change = plan.accept(&operation, &bounds()).expect("fine").expect("new");
                let entry = entry_after(&plan, &change);
                plan.apply(&entry).expect("it applies");
                entry
            })
            .collect();
        let (after, until) = (base.head.revision, plan.revision());
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched_ref(
                || Replay::new(Some(&base), after, until).expect("it reaches back"),
                |replay| replay.feed(&entries).expect("they follow"),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, accept, check, apply, commit, sequence, replay);
criterion_main!(benches);
