//! Promises of the logs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use mille_node::backend::{Backend, LOG_PAGE_BYTES, Lane, Noted, Retention};
use mille_shared::limits::UNCHANGED_OPERATIONS_MAX;
use mille_shared::log::{ChainHash, CommitOutcome, Head, LogEntry, OperationKey, StoredSnapshot, Terms};
use mille_shared::{PlanId, Revision};

use crate::kit::{EPOCH, Store, Writer, assert_chained, batch, heads, new_changes, proposal};

const PLAN: PlanId = PlanId(7);

pub(crate) async fn a_log_begins_once(store: Store) {
    let backend = store.connect().await;
    let first = proposal(ChainHash::ROOT, "a", "{}");
    let head = backend.log.create(PLAN, EPOCH, first.clone()).await.expect("a log begins");
    assert_eq!(head, Head { revision: Revision { epoch: EPOCH, seq: 0 }, hash: first.hash });

    let other = proposal(ChainHash::ROOT, "b", "{\"other\":1}");
    assert_eq!(backend.log.create(PLAN, EPOCH + 1, other.clone()).await.expect("it is there"), head);
    let mut writer = Writer::begin(&backend, PLAN).await;
    writer.write(&["c"]).await;
    assert_eq!(backend.log.create(PLAN, EPOCH + 1, other).await.expect("it is there"), writer.head);
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
    let outcome =
        backend.log.commit(PLAN, nowhere, &batch(ChainHash::ROOT, &["x"]), &new_changes()).await.expect("an answer");
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
        let batch = batch(expected.hash, &["x", "y"]);
        let outcome = backend.log.commit(PLAN, expected, &batch, &new_changes()).await.expect("an answer");
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
        let outcome = writer.backend.log.commit(PLAN, expected, &mixed, &new_changes()).await.expect("an answer");
        assert_eq!(outcome, CommitOutcome::Repeated { repeats: vec![(1, at(3)), (3, at(1))] });
    }
    assert_eq!(writer.read().await.len(), 4);
    assert_eq!(writer.backend.log.find(PLAN, &OperationKey::from_text("new")).await.expect("an answer"), None);
    writer.write(&["new"]).await;
    // Another plan's operations are another matter.
    Writer::begin(&writer.backend, PlanId(8)).await.write(&["a"]).await;
}

pub(crate) async fn what_changed_nothing_is_remembered_as_long_as_what_it_found(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    let (backend, found) = (writer.backend.clone(), writer.head);
    let note = async |name: &str, found: Head| {
        backend.log.note_unchanged(PLAN, &OperationKey::from_text(name), found).await.expect("an answer")
    };
    let place = async |name: &str| backend.log.find(PLAN, &OperationKey::from_text(name)).await.expect("an answer");

    assert_eq!(note("still", found).await, Noted::New);
    assert_eq!(place("still").await, Some(found.revision));
    writer.write(&["b"]).await;
    assert_eq!(note("still", writer.head).await, Noted::Known(found.revision), "the first counts");
    assert_eq!(note("b", found).await, Noted::Known(writer.head.revision), "it has changed something");
    let offered = batch(writer.head.hash, &["new", "still"]);
    let outcome = writer.offer(&offered, &new_changes()).await;
    assert_eq!(outcome, CommitOutcome::Repeated { repeats: vec![(1, found.revision)] });

    for elsewhere in
        [Head { hash: ChainHash([1; 8]), ..writer.head }, Head { revision: writer.head.revision.next(), ..writer.head }]
    {
        assert_eq!(note("lost", elsewhere).await, Noted::Elsewhere, "{elsewhere:?}");
    }
    assert_eq!(place("lost").await, None);
    let nowhere = backend.log.note_unchanged(PlanId(99), &OperationKey::from_text("still"), found).await;
    assert_eq!(nowhere.expect("an answer"), Noted::Elsewhere);

    // A log that begins behind what it found forgets it, and nothing else.
    assert_eq!(note("later", writer.head).await, Noted::New);
    let later = writer.head.revision;
    let snapshot = StoredSnapshot { head: found, payload: "{}".into() };
    writer.write(&["c", "d"]).await;
    let retention = Retention { changes: 2, age: Duration::ZERO, changes_max: u64::MAX };
    assert!(backend.snapshots.store(PLAN, snapshot, retention).await.expect("an answer"));
    assert_eq!(writer.read().await.first().map(|entry| entry.revision), Some(later));
    assert_eq!((place("still").await, place("later").await), (None, Some(later)));
    assert_eq!(place("d").await, Some(writer.head.revision));

    backend.log.delete(PLAN).await.expect("deleted");
    assert_eq!(place("later").await, None);
    let begun = Writer::begin(&backend, PLAN).await.head;
    assert_eq!(note("later", begun).await, Noted::New, "a log that begins anew knows nothing");
}

/// The oldest is forgotten first.
pub(crate) async fn so_many_are_remembered_that_changed_nothing(store: Store) {
    let writer = Writer::begin(&store.connect().await, PLAN).await;
    let log = &writer.backend.log;
    let key = |number: usize| OperationKey::from_text(format!("op-{number}"));
    let count = UNCHANGED_OPERATIONS_MAX + 2;
    let noting = stream::iter(0..count).map(|number| {
        let key = key(number);
        async move { log.note_unchanged(PLAN, &key, writer.head).await.expect("an answer") }
    });
    // The connection is one, so they come in the order they are sent.
    let noted: Vec<_> = noting.buffered(64).collect().await;
    assert!(noted.iter().all(|noted| *noted == Noted::New));
    for (number, is_known) in [(0, false), (1, false), (2, true), (count - 1, true)] {
        let place = log.find(PLAN, &key(number)).await.expect("an answer");
        assert_eq!(place.is_some(), is_known, "operation {number}");
    }
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

/// However large entries are, a page can be read in the time of a command, and leads on to the next.
pub(crate) async fn a_page_of_large_entries_ends_early_and_leads_on(store: Store) {
    const BYTES: usize = 250_000;
    const ENTRIES: usize = 50;
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    let write = async |writer: &mut Writer, key: &str, bytes: usize| {
        let offered = [proposal(writer.head.hash, key, &"x".repeat(bytes))];
        let outcome = writer.offer(&offered, &new_changes()).await;
        assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        writer.go_on(EPOCH, &offered);
    };
    for n in 1..=ENTRIES {
        write(&mut writer, &format!("op-{n}"), BYTES).await;
    }
    let log = Arc::clone(&writer.backend.log);
    let page = log.range(PLAN, None, usize::MAX, Lane::Replay).await.expect("a page");
    let bytes: usize = page.entries.iter().map(|entry| entry.payload.len()).sum();
    assert!(page.has_more);
    assert!((LOG_PAGE_BYTES..2 * LOG_PAGE_BYTES).contains(&bytes), "{bytes} bytes in {}", page.entries.len());
    let mut told = page.entries;
    loop {
        let after = told.last().map(|entry| entry.revision);
        let page = log.range(PLAN, after, usize::MAX, Lane::Repair).await.expect("a page");
        told.extend(page.entries);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(told.len(), 1 + ENTRIES, "none is lost, none is told twice");
    assert_chained(&told);

    // One that has more than a page comes all the same, and whoever knows it already is told what follows.
    let before = writer.head.revision;
    write(&mut writer, "huge", LOG_PAGE_BYTES + 1).await;
    let huge = writer.head;
    writer.write(&["small"]).await;
    for (after, known) in
        [(before, huge), (told[ENTRIES - 1].revision, Head { revision: before, hash: told[ENTRIES].hash })]
    {
        let page = log.range(PLAN, Some(after), usize::MAX, Lane::Replay).await.expect("a page");
        let heads: Vec<_> =
            page.entries.iter().map(|entry| Head { revision: entry.revision, hash: entry.hash }).collect();
        assert_eq!(heads[0], known);
        assert!(heads.len() >= 2, "what follows comes with it");
    }
    assert_chained(&writer.read().await);
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
    assert_eq!(heads(&backend, &plans).await.expect("heads"), expected);
    assert_eq!(heads(&backend, &[]).await.expect("heads"), []);
    let state = backend.log.heads(&plans[..2]).await.expect("heads").remove(0).expect("its state");
    assert!(backend.log.lives().collect::<Vec<_>>().await.contains(&state.life));
}

pub(crate) async fn a_deleted_log_leaves_nothing(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    let backend = writer.backend.clone();
    backend.log.delete(PLAN).await.expect("deleted");
    assert_eq!(heads(&backend, &[PLAN]).await.expect("heads"), [None]);
    assert_eq!(backend.log.find(PLAN, &OperationKey::from_text("a")).await.expect("an answer"), None);
    assert!(writer.read().await.is_empty());
    backend.log.delete(PLAN).await.expect("deleting again is no error");
    Writer::begin(&backend, PLAN).await.write(&["a"]).await;
}

pub(crate) async fn an_epoch_in_which_changes_were_lost_is_left(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    let lost = EPOCH + 5;
    let after_loss =
        |begins_epoch| Terms::Add { followed: Vec::new(), settled: None, lost_epoch: Some(lost), begins_epoch };
    let offered = batch(writer.head.hash, &["b", "c"]);
    let CommitOutcome::NewEpoch { epoch } = writer.offer(&offered, &after_loss(None)).await else {
        panic!("it must begin a new epoch")
    };
    assert!(epoch > lost);
    for too_early in [EPOCH, lost] {
        let outcome = writer.offer(&offered, &after_loss(Some(too_early))).await;
        assert!(matches!(outcome, CommitOutcome::NewEpoch { .. }), "{outcome:?}");
    }
    assert_eq!(writer.read().await.len(), 2, "nothing was added so far");
    let outcome = writer.offer(&offered, &after_loss(Some(epoch))).await;
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    writer.go_on(epoch, &offered);
    writer.write(&["d"]).await;

    let entries = writer.read().await;
    assert_chained(&entries);
    let places: Vec<_> = entries.iter().map(|entry| (entry.revision.epoch, entry.revision.seq)).collect();
    assert_eq!(places, [(EPOCH, 0), (EPOCH, 1), (epoch, 2), (epoch, 3), (epoch, 4)], "numbers go on");
    let page = writer.backend.log.range(PLAN, Some(entries[1].revision), 9, Lane::Replay).await.expect("a page");
    assert_eq!(page.entries, entries[2..]);
}

pub(crate) async fn what_is_restored_gets_the_numbers_it_had(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    for (epoch, keys) in [(EPOCH, ["b", "c"]), (EPOCH + 7, ["d", "e"])] {
        let lost = batch(writer.head.hash, &keys);
        let outcome = writer.offer(&lost, &Terms::Restore { epoch }).await;
        assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        let again = writer.offer(&lost, &Terms::Restore { epoch }).await;
        writer.go_on(epoch, &lost);
        assert_eq!(again, CommitOutcome::Moved { head: Some(writer.head) }, "another node was first");
        assert_eq!(heads(&writer.backend, &[PLAN]).await.expect("heads"), [Some(writer.head)]);
    }
    let entries = writer.read().await;
    assert_chained(&entries);
    let places: Vec<_> = entries[2..].iter().map(|entry| (entry.revision.epoch, entry.revision.seq)).collect();
    assert_eq!(places, [(EPOCH, 2), (EPOCH, 3), (EPOCH + 7, 4), (EPOCH + 7, 5)]);
}

pub(crate) async fn a_log_that_is_gone_is_put_back(store: Store) {
    let mut writer = Writer::begin(&store.connect().await, PLAN).await;
    let written = writer.write(&["a", "b", "c"]).await;
    let whole = writer.read().await;
    let backend = writer.backend.clone();
    let changes: Vec<(LogEntry, OperationKey)> =
        whole[2..].iter().cloned().zip(written[1..].iter().map(|proposal| proposal.key.clone())).collect();
    let snapshot = StoredSnapshot { head: writer.head, payload: "{\"state\":1}".into() };

    let life = backend.log.heads(&[PLAN]).await.expect("an answer").remove(0).expect("its state").life;
    let revive = async |snapshot: &StoredSnapshot, changes: &[_]| {
        backend.log.revive(PLAN, snapshot.clone(), changes, Some(&life)).await.expect("an answer")
    };
    let elsewhere = StoredSnapshot { head: Head { hash: ChainHash([7; 8]), ..writer.head }, ..snapshot.clone() };
    assert_eq!(revive(&elsewhere, &[]).await.head, Some(writer.head), "one that is there is left alone");

    backend.log.delete(PLAN).await.expect("gone");
    assert_eq!(revive(&snapshot, &changes).await.head, Some(writer.head));
    assert_eq!(writer.read().await, whole[2..], "the recent changes are where they were");
    assert_eq!(backend.snapshots.load(PLAN, None, Lane::Replay).await.expect("an answer"), Some(snapshot.clone()));
    let place = backend.log.find(PLAN, &written[2].key).await.expect("an answer");
    assert_eq!(place, Some(writer.head.revision), "with their operations");
    writer.write(&["d"]).await;
    assert_chained(&writer.read().await);

    backend.log.delete(PLAN).await.expect("gone");
    writer.head = snapshot.head;
    assert_eq!(revive(&snapshot, &[]).await.head, Some(writer.head), "also without any");
    writer.write(&["d"]).await;
    assert_eq!(writer.read().await.len(), 2);
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
            match backend.log.commit(PLAN, head, &batch, &new_changes()).await.expect("an answer") {
                CommitOutcome::Committed { .. } => {
                    head = Head { revision: head.revision.next(), hash: batch[0].hash };
                    break;
                }
                CommitOutcome::Moved { head: moved } => head = moved.expect("the log is there"),
                other => panic!("{key} was not offered before, and nothing was lost: {other:?}"),
            }
        }
    }
}
