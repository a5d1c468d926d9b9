//! What only a server can do to us, and what we promise then. For Redis alone.

use std::time::Duration;

use bytes::Bytes;
use mille_node::backend::redis::{ConnectError, RedisSettings, connect};
use mille_node::backend::{Channel, Error, Incoming, Interruption, Retention};
use mille_shared::PlanId;
use mille_shared::log::{CommitOutcome, StoreLife, StoredSnapshot, Terms};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channels::queue;
use crate::kit::{Proxy, Server, Writer, batch, eventually, heads, new_changes, next};

const PLAN: PlanId = PlanId(7);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_subscription_is_told_and_delivers_again() {
    let server = Server::start().await;
    let (node, other) = (server.connect().await, server.connect().await);
    let mut incoming = queue(&node);
    let channels: Vec<_> = (1..=600).map(|n| Channel::Plan(PlanId(n))).collect();
    let subscribing = channels.iter().map(|channel| node.pubsub.subscribe(*channel));
    futures_util::future::try_join_all(subscribing).await.expect("subscribed");
    for _ in 0..3 {
        assert_eq!(server.say("CLIENT KILL TYPE pubsub").expect("an answer"), ":1\r\n");
        assert!(matches!(next(&mut incoming).await, Incoming::Interrupted(Interruption::Reconnect)));
        for channel in [channels[0], channels[599]] {
            other.pubsub.publish(channel, Bytes::from_static(b"again")).await.expect("published");
            assert!(matches!(next(&mut incoming).await, Incoming::Message { channel: on, .. } if on == channel));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_function_library_is_loaded_again() {
    let server = Server::start().await;
    let mut writer = Writer::begin(&server.connect().await, PLAN).await;
    assert_eq!(server.say("FUNCTION FLUSH").expect("an answer"), "+OK\r\n");
    writer.write(&["a"]).await;
    assert_eq!(writer.read().await.len(), 2);

    assert_eq!(server.say("FUNCTION FLUSH").expect("an answer"), "+OK\r\n");
    let snapshot = StoredSnapshot { head: writer.head, payload: "{}".into() };
    let retention = Retention { changes: 10, age: Duration::ZERO, changes_max: 10 };
    assert!(writer.backend.snapshots.store(PLAN, snapshot.clone(), retention).await.expect("an answer"));
    assert_eq!(writer.backend.snapshots.load(PLAN, None).await.expect("an answer"), Some(snapshot));
}

/// A restart or a failover: the server is known by another replication id afterwards.
async fn begin_a_new_life(server: &Server, writer: &Writer) -> StoreLife {
    let before = writer.backend.log.life().await.expect("a life");
    assert_eq!(server.say("DEBUG CHANGE-REPL-ID").expect("an answer"), "+OK\r\n");
    eventually("it has begun", async || writer.backend.log.life().await.ok().filter(|life| *life != before)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_change_in_a_new_life_must_have_waited_and_be_vouched_for() {
    let server = Server::start().await;
    let mut writer = Writer::begin(&server.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    let old = writer.backend.log.life().await.expect("a life");
    let terms = |followed: &[&StoreLife], settled: Option<&StoreLife>| Terms::Add {
        followed: followed.iter().copied().cloned().collect(),
        settled: settled.cloned(),
        lost_epoch: None,
        begins_epoch: None,
    };

    let new = begin_a_new_life(&server, &writer).await;
    let offered = batch(writer.head.hash, &["b"]);
    for impatient in [terms(&[], None), terms(&[&old], None), terms(&[&old], Some(&old))] {
        let outcome = writer.offer(&offered, &impatient).await;
        assert_eq!(outcome, CommitOutcome::Reborn { life: new.clone() }, "{impatient:?}");
    }
    let stranger = terms(&[&new], Some(&new));
    let outcome = writer.offer(&offered, &stranger).await;
    assert!(matches!(outcome, CommitOutcome::NewEpoch { .. }), "nobody vouches for what was lost: {outcome:?}");
    let outcome = writer.offer(&offered, &terms(&[&old, &new], Some(&new))).await;
    assert_eq!(outcome, CommitOutcome::Committed { life: new.clone() }, "who followed it does");
    writer.go_on(writer.head.revision.epoch, &offered);
    writer.write(&["c"]).await;

    // In the next one nobody is left who knows. What is lost is given back all the same, by whoever has it.
    let newest = begin_a_new_life(&server, &writer).await;
    let lost = batch(writer.head.hash, &["d"]);
    let epoch = writer.head.revision.epoch;
    let outcome = writer.offer(&lost, &Terms::Restore { epoch }).await;
    assert_eq!(outcome, CommitOutcome::Committed { life: newest.clone() });
    writer.go_on(epoch, &lost);
    let offered = batch(writer.head.hash, &["e"]);
    let CommitOutcome::NewEpoch { epoch } = writer.offer(&offered, &terms(&[&newest], Some(&newest))).await else {
        panic!("restoring vouches for nothing")
    };
    let begins = Terms::Add { followed: vec![], settled: Some(newest), lost_epoch: None, begins_epoch: Some(epoch) };
    assert!(matches!(writer.offer(&offered, &begins).await, CommitOutcome::Committed { .. }));
    writer.go_on(epoch, &offered);
    writer.write(&["f"]).await;
    assert_eq!(writer.read().await.len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_unavailable_until_it_does() {
    let server = Server::start().await;
    let settings = RedisSettings { command_timeout: Duration::from_millis(300), ..RedisSettings::at(server.url()) };
    let mut writer = Writer::begin(&server.connect_with(settings).await, PLAN).await;
    writer.write(&["a"]).await;

    let url = server.url();
    let sleeping = std::thread::spawn(move || server.say("DEBUG SLEEP 3").map(|_| server));
    let unanswered = eventually("a command gets no answer", async || heads(&writer.backend, &[PLAN]).await.err());
    assert!(matches!(unanswered.await, Error::Unavailable(_)));
    // Now a commit, of which nobody can know whether it was executed. Asked again, it is in the log once.
    let (expected, batch) = (writer.head, batch(writer.head.hash, &["b"]));
    let commit = async || writer.backend.log.commit(PLAN, expected, &batch, &new_changes()).await;
    let unknown = commit().await;
    assert!(matches!(unknown, Err(Error::Unavailable(_))), "{unknown:?}");
    let outcome = eventually("the server answers again", async || commit().await.ok()).await;
    let repeated = CommitOutcome::Repeated { repeats: vec![(0, expected.revision.next())] };
    assert!(matches!(outcome, CommitOutcome::Committed { .. }) || outcome == repeated, "{outcome:?}");
    assert_eq!(writer.read().await.len(), 3);
    let server = sleeping.join().expect("the thread").expect("the server slept");
    assert_eq!(server.url(), url);
}

/// Everything of ours hangs on connections that are open and dead. Commands keep being sent, which hides it from the
/// client library; we come back all the same, on new connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_connection_is_noticed_under_traffic() {
    let server = Server::start().await;
    let proxy = Proxy::to(&server).await;
    let settings = RedisSettings { command_timeout: Duration::from_millis(300), ..RedisSettings::at(proxy.url()) };
    let node = server.connect_with(settings).await;
    let mut writer = Writer::begin(&node, PLAN).await;
    writer.write(&["a"]).await;
    assert_eq!(writer.read().await.len(), 2);
    let mut incoming = queue(&node);
    node.pubsub.subscribe(Channel::Control).await.expect("subscribed");

    proxy.freeze();
    assert!(matches!(heads(&node, &[PLAN]).await, Err(Error::Unavailable(_))));
    let found = eventually("commands are answered again", async || heads(&node, &[PLAN]).await.ok()).await;
    assert_eq!(found, [Some(writer.head)]);
    eventually("large reads are answered again", async || node.log.range(PLAN, None, 9).await.ok()).await;
    assert!(matches!(next(&mut incoming).await, Incoming::Interrupted(Interruption::Reconnect)));
    node.pubsub.publish(Channel::Control, Bytes::from_static(b"again")).await.expect("published");
    assert!(matches!(next(&mut incoming).await, Incoming::Message { channel: Channel::Control, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_when_told_to() {
    let server = Server::start().await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = RedisSettings::at(server.url());
    let mut writer = Writer::begin(&connect(&settings, &tasks, &stop).await.expect("connected"), PLAN).await;
    writer.write(&["a"]).await;
    assert_eq!(writer.read().await.len(), 2, "the pool has a connection too");
    stop.cancel();
    tasks.close();
    tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.expect("all tasks end");
    assert!(matches!(heads(&writer.backend, &[PLAN]).await, Err(Error::Unavailable(_))));
    assert!(matches!(writer.backend.log.range(PLAN, None, 1).await, Err(Error::Unavailable(_))));
    eventually("the server has only the connection that asks", async || {
        server.say("INFO clients").ok()?.contains("connected_clients:1\r").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_told_at_once() {
    let url = Server::start().await.url();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let refused = connect(&RedisSettings::at(url), &tasks, &stop).await.err();
    assert!(matches!(refused, Some(ConnectError::Unreachable(_))), "{refused:?}");
    let refused = connect(&RedisSettings::at("nonsense"), &tasks, &stop).await.err();
    assert!(matches!(refused, Some(ConnectError::Url(_))), "{refused:?}");
}
