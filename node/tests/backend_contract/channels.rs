//! Promises of the channels.

use std::collections::HashSet;

use bytes::Bytes;
use mille_node::backend::{Backend, Channel, INCOMING_MESSAGES_MAX, Incoming, Interruption, Lane, envelope};
use mille_shared::log::{Head, LogEntry};
use mille_shared::{PlanId, ProjectId, TraceParent};
use tokio::sync::mpsc;

use crate::kit::{Store, Writer, assert_chained, eventually, new_changes, next};

const PLAN: PlanId = PlanId(7);

pub(crate) async fn commits_are_heard_in_the_order_of_the_log(store: Store) {
    let nodes = [store.connect().await, store.connect().await];
    for node in &nodes {
        node.pubsub.subscribe(Channel::Plan(PLAN)).await.expect("subscribed");
    }
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    for count in [1, 3, 2, 40, 1] {
        writer.write_many(count).await;
    }
    // A refused commit is not heard.
    let stale = mille_shared::log::Head { revision: writer.head.revision.next(), ..writer.head };
    let batch = crate::kit::batch(stale.hash, &["x"]);
    writer.backend.log.commit(PLAN, stale, &batch, &new_changes()).await.expect("an answer");
    writer.write_many(1).await;

    let log = writer.read().await;
    for node in &nodes {
        let mut incoming = node.pubsub.incoming().expect("the queue");
        let mut heard: Vec<LogEntry> = Vec::new();
        while heard.len() < log.len() - 1 {
            let (channel, payload) = message(next(&mut incoming).await);
            assert_eq!(channel, Channel::Plan(PLAN));
            heard.extend(envelope::decode(&payload).expect("a batch"));
        }
        assert_chained(&heard);
        assert_eq!(heard, log[1..]);
    }
}

pub(crate) async fn a_trace_is_told_beside_its_entry_and_kept_nowhere(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    there.pubsub.subscribe(Channel::Plan(PLAN)).await.expect("subscribed");
    let mut incoming = queue(&there);
    let writer = Writer::begin(&here, PLAN).await;
    let place = TraceParent { trace_id: [7; 16], span_id: [8; 8], is_sampled: true };
    let mut batch = crate::kit::batch(writer.head.hash, &["a", "b", "c"]);
    batch[1].trace = Some(place);
    here.log.commit(PLAN, writer.head, &batch, &new_changes()).await.expect("a commit");

    let (_, payload) = message(next(&mut incoming).await);
    assert_eq!(envelope::traces(&payload), [None, Some(place), None]);
    let told = envelope::decode(&payload).expect("a batch");
    let kept = here.log.range(PLAN, Some(writer.head.revision), 10, Lane::Repair).await.expect("the log").entries;
    assert_eq!((told.len(), &told), (3, &kept));
    assert_chained(&kept);

    // Of a batch that nobody traces, nothing is told but the entries.
    let head = Head { revision: kept[2].revision, hash: kept[2].hash };
    here.log.commit(PLAN, head, &crate::kit::batch(head.hash, &["d"]), &new_changes()).await.expect("a commit");
    let (_, payload) = message(next(&mut incoming).await);
    let first = payload.split(|byte| *byte == b'\n').next().unwrap_or_default();
    assert!(!first.windows(7).any(|word| word == b"traces="), "{payload:?}");
}

pub(crate) async fn a_message_reaches_whoever_listens(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let mut incoming = queue(&there);
    assert!(there.pubsub.incoming().is_none(), "the queue can be taken once");

    let bytes = Bytes::from_static(b"\xff\x00 not a text");
    for channel in [Channel::Project(ProjectId(1)), Channel::Plan(PlanId(1)), Channel::Control] {
        here.pubsub.publish(channel, Bytes::from_static(b"nobody hears it")).await.expect("published");
        there.pubsub.subscribe(channel).await.expect("subscribed");
        here.pubsub.publish(channel, bytes.clone()).await.expect("published");
        assert_eq!(message(next(&mut incoming).await), (channel, bytes.clone()));
    }
    there.pubsub.unsubscribe(Channel::Control).await.expect("unsubscribed");
    here.pubsub.publish(Channel::Control, bytes.clone()).await.expect("published");
    there.pubsub.publish(Channel::Plan(PlanId(1)), bytes.clone()).await.expect("published");
    assert_eq!(
        message(next(&mut incoming).await),
        (Channel::Plan(PlanId(1)), bytes),
        "what it says itself it hears too"
    );
    assert!(queue(&here).try_recv().is_err(), "who does not listen hears nothing");
}

pub(crate) async fn a_probe_is_heard_by_its_own_node(store: Store) {
    let nodes = [store.connect().await, store.connect().await];
    let mut queues = [queue(&nodes[0]), queue(&nodes[1])];
    let shards = nodes[0].pubsub.shards();
    assert!(!shards.is_empty());
    for probe in shards.into_iter().map(Channel::Probe) {
        for node in &nodes {
            node.pubsub.subscribe(probe).await.expect("subscribed");
        }
        for (node, name) in nodes.iter().zip(["one", "two"]) {
            node.pubsub.publish(probe, Bytes::from(name)).await.expect("published");
        }
        for (incoming, name) in queues.iter_mut().zip(["one", "two"]) {
            assert_eq!(message(next(incoming).await), (probe, Bytes::from(name)));
        }
    }
}

/// Nobody takes messages; the queue fills up. Its owner finds what fitted, an interruption, and then what comes later.
pub(crate) async fn what_does_not_fit_is_told(store: Store) {
    const SENT: usize = INCOMING_MESSAGES_MAX + 200;
    let node = store.connect().await;
    node.pubsub.subscribe(Channel::Control).await.expect("subscribed");
    let mut incoming = queue(&node);
    for some in (0..SENT).collect::<Vec<_>>().chunks(200) {
        let publishing = some.iter().map(|n| node.pubsub.publish(Channel::Control, Bytes::from(n.to_string())));
        futures_util::future::try_join_all(publishing).await.expect("published");
    }
    eventually("the queue is full", async || (incoming.len() == INCOMING_MESSAGES_MAX).then_some(())).await;
    let mut fitted = HashSet::new();
    loop {
        match next(&mut incoming).await {
            Incoming::Message { payload, .. } => assert!(fitted.insert(payload), "each comes once"),
            Incoming::Interrupted { why, .. } => break assert_eq!(why, Interruption::Lagged),
        }
    }
    assert_eq!(fitted.len(), INCOMING_MESSAGES_MAX - 1);
    node.pubsub.publish(Channel::Control, Bytes::from_static(b"last")).await.expect("published");
    // Those that were on their way when we began to read may come in before it, or be missing and told so.
    for _ in 0..=2 * (SENT - fitted.len()) {
        if matches!(next(&mut incoming).await, Incoming::Message { payload, .. } if payload == "last") {
            return;
        }
    }
    panic!("what was published after the interruption did not come in");
}

/// Whoever thinks the connection deaf gets a new one, is told when it is in force, and hears again.
pub(crate) async fn a_connection_made_anew_says_so_and_delivers(store: Store) {
    let node = store.connect().await;
    let mut incoming = queue(&node);
    for shard in node.pubsub.shards() {
        let probe = Channel::Probe(shard);
        node.pubsub.subscribe(probe).await.expect("subscribed");
        for _ in 0..2 {
            node.pubsub.reconnect(shard).await;
            match next(&mut incoming).await {
                Incoming::Interrupted { why, reach } => {
                    assert_eq!(why, Interruption::Probe);
                    assert!(reach.holds(probe));
                }
                Incoming::Message { channel, .. } => panic!("nothing was published on {channel:?}"),
            }
            assert!(node.pubsub.is_in_force(shard));
            node.pubsub.publish(probe, Bytes::from_static(b"again")).await.expect("published");
            assert_eq!(message(next(&mut incoming).await).1, "again");
        }
    }
}

pub(crate) fn queue(node: &Backend) -> mpsc::Receiver<Incoming> {
    node.pubsub.incoming().expect("the queue was not taken before")
}

pub(crate) fn message(incoming: Incoming) -> (Channel, Bytes) {
    match incoming {
        Incoming::Message { channel, payload } => (channel, payload),
        Incoming::Interrupted { why, .. } => panic!("nothing interrupts here: {why:?}"),
    }
}
