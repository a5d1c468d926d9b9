//! What a delivery costs apart from the system call: `cargo bench -p mille-node --bench delivery`.
//!
//! `encode`: the answer that tells of a move, made once for all who asked the same, selected as a whole. `splice`: the frames of
//! one subscriber, made of what stands before its answers and the answers that all share.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mille_core::{Applied, Plan, chain};
use mille_node::gateway::fanout::{Delivery, Rendered, put_together};
use mille_node::gateway::graphql::writer_of;
use mille_node::project::PlanEvent;
use mille_shared::change::{Change, Fact};
use mille_shared::delta::{JsonText, PatchOp, PatchOperation};
use mille_shared::log::{ChainHash, Head, LogEntry};
use mille_shared::plan::PlanMetadata;
use mille_shared::{ClientId, OperationId, PlanId, ProjectId, Revision, Timestamp, UserId};

const EVERYTHING: &str = "subscription { planDagDeltaChanged { projectId planId kind version revision previousRevision userId \
                          clientId operationId timestamp operations { op path value from } reason } }";
/// What stands before the answers of one subscriber.
const OPENING: &[u8] = b"{\"type\":\"next\",\"id\":\"1\",\"payload\":";
/// Events that go out with one walk.
const EVENTS: [usize; 3] = [1, 8, 64];

fn change(facts: Vec<Fact>) -> Change {
    Change {
        operation_id: OperationId::new("0b0a5c1e-5d44-4c6f-9a0e-6f1f6d5b8a11"),
        user_id: UserId::new("ada"),
        client_id: ClientId::new("bench"),
        at: Timestamp::from_unix_ms(1_700_000_000_123),
        facts,
    }
}

/// A plan node is moved.
fn moved() -> PlanEvent {
    let value = JsonText::of(&serde_json::json!({"x": 120.5, "y": -48.25})).expect("JSON");
    PlanEvent::Changed(Arc::new(Applied {
        head: Head { revision: Revision { epoch: 3, seq: 8 }, hash: ChainHash::ROOT },
        previous: Revision { epoch: 3, seq: 7 },
        change: change(Vec::new()),
        payload: "{}".into(),
        patch: vec![PatchOperation {
            op: PatchOp::Replace,
            path: "/nodes/17/position".to_owned(),
            value: Some(value),
            from: None,
        }],
        touches: Vec::new(),
    }))
}

fn new_plan() -> PlanEvent {
    let metadata = PlanMetadata { name: Some("Harbour".to_owned()), ..PlanMetadata::default() };
    let payload = serde_json::to_string(&change(vec![Fact::Created { metadata }])).expect("JSON");
    let revision = Revision { epoch: 3, seq: 0 };
    let hash = chain::link(ChainHash::ROOT, revision, &payload);
    let plan = Plan::begin(&LogEntry { revision, hash, payload: payload.into() }).expect("a plan");
    PlanEvent::Snapshot { plan: Arc::new(plan), reason: "requested" }
}

fn encode(criterion: &mut Criterion) {
    let write = writer_of(EVERYTHING, ProjectId(1), PlanId(1)).expect("a selection that is written");
    let mut group = criterion.benchmark_group("encode");
    for (name, event) in [("a move", moved()), ("a new plan", new_plan())] {
        group.bench_function(name, |bencher| bencher.iter(|| write(black_box(event.clone()))));
    }
    group.finish();
}

fn splice(criterion: &mut Criterion) {
    let write = writer_of(EVERYTHING, ProjectId(1), PlanId(1)).expect("a selection that is written");
    let payload = write(moved()).expect("it is told").expect("JSON");
    let head = Head { revision: Revision { epoch: 3, seq: 8 }, hash: ChainHash::ROOT };
    let rendered = Rendered { head, is_change: true, payloads: vec![payload.into()], failure: None };
    let delivery = Arc::new(Delivery::of_the_past(Arc::new(rendered)));
    let mut group = criterion.benchmark_group("splice");
    for events in EVENTS {
        let deliveries = vec![Arc::clone(&delivery); events];
        let mut frames = Vec::new();
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(BenchmarkId::new("events", events), |bencher| {
            bencher.iter(|| {
                put_together(&mut frames, black_box(OPENING), &deliveries);
                black_box(frames.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encode, splice);
criterion_main!(benches);
