//! Promises of the logs.

use std::collections::HashSet;

use mille_node::backend::{Backend, Lane};
use mille_shared::log::{ChainHash, CommitOutcome, Head, OperationKey};
use mille_shared::{PlanId, Revision, Timestamp};

use crate::kit::{Store, Writer, assert_chained, batch, proposal};

const PLAN: PlanId = PlanId(7);

pub(crate) async fn a_log_begins_once(store: Store) {
    let backend = store.connect().await;
    let before = mille_node::clock::now();
    let first = proposal(ChainHash::ROOT, "a", "{}");
    let head = backend.log.create(PLAN, first.clone()).await.expect("a log begins");
    assert_eq!((head.revision.seq, head.hash), (0, first.hash));
    let epoch = Timestamp::from_unix_ms(i64::try_from(head.revision.epoch).expect("a time"));
    assert!((epoch.unix_ms - before.unix_ms).abs() < 60_000, "the epoch is the store's time: {epoch}");

    let other = proposal(ChainHash::ROOT, "b", "{\"other\":1}");
    assert_eq!(backend.log.create(PLAN, other.clone()).await.expect("it is there"), head);
    let mut writer = Writer::begin(&backend, PLAN).await;
    writer.write(&["c"]).await;
    assert_eq!(backend.log.create(PLAN, other).await.expect("it is there"), writer.head);
    assert_eq!(backend.log.find(PLAN, &OperationKey::from_text("a")).await.expect("an answer"), Some(head.revision));
    assert_eq!(backend.log.find(PLAN, &OperationKey::from_text("b")).await.expect("an answer"), None);
}

pub(crate) async fn entries_are_numbered_without_a_hole(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    let begin = writer.head;
    let mut written = writer.write(&["a", "b", "c"]).await;
    written.extend(writer.write(&["d"]).await);

    let entries = writer.read().await;
    assert_chained(&entries);
    assert_eq!(entries[0].revision, begin.revision);
    assert_eq!(entries.len(), 5);
    for (entry, proposal) in entries[1..].iter().zip(&written) {
        assert_eq!((entry.hash, &entry.payload), (proposal.hash, &proposal.payload));
        let place = writer.backend.log.find(PLAN, &proposal.key).await.expect("an answer");
        assert_eq!(place, Some(entry.revision));
    }
}

pub(crate) async fn a_log_that_moved_takes_nothing(store: Store) {
    let backend = store.connect().await;
    let nowhere = Head { revision: Revision { epoch: 1, seq: 0 }, hash: ChainHash::ROOT };
    let outcome = backend.log.commit(PLAN, nowhere, &batch(ChainHash::ROOT, &["x"])).await.expect("an answer");
    assert_eq!(outcome, CommitOutcome::Moved { head: None });

    let mut writer = Writer::begin(&backend, PLAN).await;
    let behind = writer.head;
    writer.write(&["a", "b"]).await;
    let head = writer.head;
    let wrong = [
        behind,
        Head { hash: ChainHash([1; 8]), ..head },
        Head { revision: head.revision.next(), ..head },
        Head { revision: Revision { epoch: head.revision.epoch + 1, ..head.revision }, ..head },
    ];
    for expected in wrong {
        let outcome = backend.log.commit(PLAN, expected, &batch(expected.hash, &["x", "y"])).await.expect("an answer");
        assert_eq!(outcome, CommitOutcome::Moved { head: Some(head) }, "{expected:?}");
    }
    assert_eq!(writer.read().await.len(), 3);
    assert_eq!(backend.log.find(PLAN, &OperationKey::from_text("x")).await.expect("an answer"), None);
}

pub(crate) async fn a_repeat_is_told_and_adds_nothing(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    let behind = writer.head;
    writer.write(&["a", "b", "c"]).await;
    let at = |seq| Revision { seq, ..behind.revision };

    // Repeats are found before the head is compared: who repeats can't know the head.
    for expected in [writer.head, behind] {
        let mixed = batch(expected.hash, &["new", "c", "newer", "a"]);
        let outcome = writer.backend.log.commit(PLAN, expected, &mixed).await.expect("an answer");
        assert_eq!(outcome, CommitOutcome::Repeated { repeats: vec![(1, at(3)), (3, at(1))] });
    }
    assert_eq!(writer.read().await.len(), 4);
    assert_eq!(writer.backend.log.find(PLAN, &OperationKey::from_text("new")).await.expect("an answer"), None);
    writer.write(&["new"]).await;
    // Another plan's operations are another matter.
    Writer::begin(&writer.backend, PlanId(8)).await.write(&["a"]).await;
}

pub(crate) async fn pages_lead_through_the_whole_log(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    for _ in 0..6 {
        writer.write_many(100).await;
    }
    let log = &writer.backend.log;
    let page = log.range(PLAN, None, 3, Lane::Replay).await.expect("a page");
    assert_eq!(page.entries.iter().map(|entry| entry.revision.seq).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(page.has_more);
    let middle = page.entries[2].revision;
    let page = log.range(PLAN, Some(middle), 2, Lane::Replay).await.expect("a page");
    assert_eq!(page.entries.iter().map(|entry| entry.revision.seq).collect::<Vec<_>>(), [3, 4]);
    let page = log.range(PLAN, None, usize::MAX, Lane::Replay).await.expect("a page");
    assert_eq!(page.entries.len(), mille_shared::limits::LOG_PAGE_ENTRIES);
    assert!(page.has_more);
    let page = log.range(PLAN, Some(writer.head.revision), 10, Lane::Replay).await.expect("a page");
    assert!(page.entries.is_empty() && !page.has_more);
    let page = log.range(PlanId(99), None, 10, Lane::Replay).await.expect("a page");
    assert!(page.entries.is_empty() && !page.has_more);

    let all = writer.read().await;
    assert_eq!(all.len(), 601);
    assert_chained(&all);
}

pub(crate) async fn heads_come_in_the_order_asked_for(store: Store) {
    let backend = store.connect().await;
    let mut expected = Vec::new();
    // More than one call sends at once, every third without a log, and the last first.
    let plans: Vec<_> = (1..=150).rev().map(PlanId).collect();
    for plan in &plans {
        let head = if plan.0 % 3 == 0 { None } else { Some(Writer::begin(&backend, *plan).await.head) };
        expected.push(head);
    }
    assert_eq!(backend.log.heads(&plans).await.expect("heads"), expected);
    assert_eq!(backend.log.heads(&[]).await.expect("heads"), []);
}

pub(crate) async fn a_deleted_log_leaves_nothing(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    let backend = writer.backend.clone();
    backend.log.delete(PLAN).await.expect("deleted");
    assert_eq!(backend.log.heads(&[PLAN]).await.expect("heads"), [None]);
    assert_eq!(backend.log.find(PLAN, &OperationKey::from_text("a")).await.expect("an answer"), None);
    assert!(writer.read().await.is_empty());
    backend.log.delete(PLAN).await.expect("deleting again is no error");
    Writer::begin(&backend, PLAN).await.write(&["a"]).await;
}

pub(crate) async fn concurrent_writers_lose_nothing(store: Store) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let backend = store.connect().await;
    let start = Writer::begin(&backend, PLAN).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(write_against_others(store.connect().await, start.head, writer, EACH));
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a writer");
    }
    let entries = start.read().await;
    assert_chained(&entries);
    assert_eq!(entries.len(), 1 + WRITERS * EACH);
    let payloads: HashSet<_> = entries.iter().map(|entry| &entry.payload).collect();
    assert_eq!(payloads.len(), entries.len(), "each is there once");
}

/// Commits one after the other, catching up with the head whenever another was faster.
async fn write_against_others(backend: Backend, mut head: Head, writer: usize, count: usize) {
    for n in 0..count {
        let key = format!("{writer}/{n}");
        // Each failure means that another one's commit went in, of which there are so many.
        for _ in 0..10_000 {
            let batch = batch(head.hash, &[&key]);
            match backend.log.commit(PLAN, head, &batch).await.expect("an answer") {
                CommitOutcome::Committed => {
                    head = Head { revision: head.revision.next(), hash: batch[0].hash };
                    break;
                }
                CommitOutcome::Moved { head: moved } => head = moved.expect("the log is there"),
                CommitOutcome::Repeated { .. } => panic!("{key} was not offered before"),
            }
        }
    }
}
