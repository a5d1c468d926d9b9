//! Promises of the snapshots, and of what trimming leaves.

use std::time::Duration;

use mille_node::backend::{Backend, Lane, Retention};
use mille_shared::log::{ChainHash, Head, OperationKey, StoredSnapshot};
use mille_shared::{PlanId, Revision};

use crate::kit::{Store, Writer, assert_chained};

const PLAN: PlanId = PlanId(7);
const KEEP_ALL: Retention = Retention { changes: 1_000, age: Duration::from_secs(3_600), changes_max: 10_000 };
/// Ages do not matter: everything is old.
const KEEP_FIVE: Retention = Retention { changes: 5, age: Duration::ZERO, changes_max: 10_000 };

fn snapshot(head: Head) -> StoredSnapshot {
    StoredSnapshot { head, payload: format!("state at\n{}", head.revision).into() }
}

async fn load(backend: &Backend, at_or_before: Option<Revision>) -> Option<StoredSnapshot> {
    backend.snapshots.load(PLAN, at_or_before, Lane::Replay).await.expect("an answer")
}

async fn keep(backend: &Backend, head: Head, retention: Retention) -> bool {
    backend.snapshots.store(PLAN, snapshot(head), retention).await.expect("an answer")
}

pub(crate) async fn a_snapshot_goes_only_forward_and_only_where_the_log_agrees(store: Store) {
    let backend = store.connect().await;
    let nowhere = Head { revision: Revision { epoch: 1, seq: 0 }, hash: ChainHash::ROOT };
    assert!(!keep(&backend, nowhere, KEEP_ALL).await, "there is no log");

    let mut writer = Writer::begin(&backend, PLAN).await;
    writer.write_many(3).await;
    let early = writer.head;
    writer.write_many(3).await;
    let late = writer.head;
    let ahead = Head { revision: late.revision.next(), ..late };
    let forked = Head { hash: ChainHash([9; 8]), ..late };
    let foreign = Head { revision: Revision { epoch: 1, ..late.revision }, ..late };
    for wrong in [ahead, forked, foreign] {
        assert!(!keep(&backend, wrong, KEEP_ALL).await, "{wrong:?}");
    }
    assert_eq!(load(&backend, None).await, None);
    assert!(keep(&backend, late, KEEP_ALL).await);
    assert!(!keep(&backend, late, KEEP_ALL).await, "it is there already");
    assert!(!keep(&backend, early, KEEP_ALL).await, "there is a newer one");
    assert_eq!(load(&backend, None).await, Some(snapshot(late)));
}

pub(crate) async fn a_snapshot_is_found_by_place(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    let backend = writer.backend.clone();
    assert_eq!(load(&backend, Some(writer.head.revision)).await, None);
    let mut heads = Vec::new();
    // Across 9, 10, 99 and 100: numbers are compared, not texts.
    for count in [9, 1, 89, 1] {
        writer.write_many(count).await;
        assert!(keep(&backend, writer.head, KEEP_ALL).await);
        heads.push(writer.head);
    }
    let at = |seq| Some(Revision { seq, ..writer.head.revision });
    let found = [(8, None), (9, Some(0)), (10, Some(1)), (11, Some(1)), (98, Some(1)), (99, Some(2)), (101, Some(3))];
    for (seq, index) in found {
        assert_eq!(load(&backend, at(seq)).await, index.map(|i: usize| snapshot(heads[i])), "at {seq}");
    }
    assert_eq!(load(&backend, None).await, Some(snapshot(heads[3])));

    backend.log.delete(PLAN).await.expect("deleted");
    assert_eq!(load(&backend, None).await, None);
}

pub(crate) async fn operations_are_remembered_as_long_as_their_entries(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    let backend = writer.backend.clone();
    for _ in 0..3 {
        writer.write_many(4).await;
        assert!(keep(&backend, writer.head, KEEP_FIVE).await);
    }
    // Entries 0 to 12, snapshots at 4, 8, 12: the log begins behind 4, as behind 8 are fewer than five.
    let find = async |key: &str| backend.log.find(PLAN, &OperationKey::from_text(key)).await.expect("an answer");
    let at = |seq| Revision { seq, ..writer.head.revision };
    for gone in ["first", "op-1", "op-4"] {
        assert_eq!(find(gone).await, None, "{gone}");
    }
    for seq in 5..=12 {
        assert_eq!(find(&format!("op-{seq}")).await, Some(at(seq)));
    }
    assert_eq!(writer.read().await[0].revision, at(5));
    assert_eq!(load(&backend, Some(at(4))).await.map(|kept| kept.head.revision), Some(at(4)));

    // Nothing is to stay: the head does all the same, with its operation, and writing goes on behind it.
    writer.write_many(1).await;
    assert!(keep(&backend, writer.head, Retention { changes: 0, ..KEEP_FIVE }).await);
    assert_eq!(writer.read().await.len(), 1);
    assert_eq!(find("op-12").await, None);
    assert_eq!(find("op-13").await, Some(writer.head.revision));
    writer.write(&["op-1"]).await;
    assert_eq!(writer.read().await.len(), 2);
}

/// A thousand entries in uneven steps, under retentions of all kinds. After each step every place in the log can be
/// reached from a snapshot, or from nothing if the log still has its first entry.
pub(crate) async fn trimming_leaves_a_way_to_every_place(store: Store) {
    let young = Duration::from_secs(3_600);
    let retentions = [
        (1, Retention { changes: 0, age: Duration::ZERO, changes_max: 0 }),
        (2, Retention { changes: 20, age: Duration::ZERO, changes_max: 100 }),
        (3, Retention { changes: 20, age: young, changes_max: 60 }),
        (4, Retention { changes: 50, age: young, changes_max: 50 }),
        (5, Retention { changes: 10, age: young, changes_max: 100_000 }),
    ];
    let backend = store.connect().await;
    for (plan, retention) in retentions {
        let mut writer = Writer::begin(&backend, PlanId(plan)).await;
        let (mut state, mut step_max) = (plan as u64, 0);
        for _ in 0..30 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let step = 1 + (state >> 33) % 12;
            step_max = step.max(step_max);
            writer.write_many(step).await;
            if (state >> 50).is_multiple_of(3) {
                continue;
            }
            assert!(backend.snapshots.store(writer.plan, snapshot(writer.head), retention).await.expect("an answer"));
            let length = assert_reachable(&writer).await;
            let total = writer.head.revision.seq + 1;
            assert!(length >= retention.changes.min(total), "{length} of {total} stay under {retention:?}");
        }
        let length = writer.read().await.len() as u64;
        let limit = if retention.age.is_zero() { retention.changes } else { retention.changes_max };
        // At most six steps in a row go without a snapshot (the sequence is fixed), and one entry is the head's.
        assert!(length <= limit + 6 * step_max + 1, "{length} stay under {retention:?}");
    }
}

/// Checks the log against its snapshots and returns its length.
async fn assert_reachable(writer: &Writer) -> u64 {
    let entries = writer.read().await;
    assert_chained(&entries);
    let (first, last) = (entries[0].revision, entries[entries.len() - 1].revision);
    assert_eq!(last, writer.head.revision);
    if first.seq > 0 {
        let kept = writer.backend.snapshots.load(writer.plan, Some(first), Lane::Replay).await.expect("an answer");
        let base = kept.expect("a snapshot at or before the first entry").head.revision;
        assert!(base.seq + 1 >= first.seq, "nothing is missing between the snapshot at {base} and {first}");
    }
    entries.len() as u64
}
