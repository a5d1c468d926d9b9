//! What only a server can do to us, and what we promise then. For Redis alone.

use std::time::Duration;

use bytes::Bytes;
use mille_node::backend::redis::{ConnectError, RedisSettings, connect};
use mille_node::backend::{Channel, Error, Incoming, Interruption, Lane, Retention};
use mille_shared::PlanId;
use mille_shared::log::{CommitOutcome, StoredSnapshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channels::queue;
use crate::kit::{Proxy, Server, Writer, batch, eventually, next};

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
    assert_eq!(writer.backend.snapshots.load(PLAN, None, Lane::Replay).await.expect("an answer"), Some(snapshot));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_unavailable_until_it_does() {
    let server = Server::start().await;
    let settings = RedisSettings { command_timeout: Duration::from_millis(300), ..RedisSettings::at(server.url()) };
    let mut writer = Writer::begin(&server.connect_with(settings).await, PLAN).await;
    writer.write(&["a"]).await;

    let url = server.url();
    let sleeping = std::thread::spawn(move || server.say("DEBUG SLEEP 3").map(|_| server));
    let unanswered = eventually("a command gets no answer", async || writer.backend.log.heads(&[PLAN]).await.err());
    assert!(matches!(unanswered.await, Error::Unavailable(_)));
    // Now a commit, of which nobody can know whether it was executed. Asked again, it is in the log once.
    let (expected, batch) = (writer.head, batch(writer.head.hash, &["b"]));
    let unknown = writer.backend.log.commit(PLAN, expected, &batch).await;
    assert!(matches!(unknown, Err(Error::Unavailable(_))), "{unknown:?}");
    let outcome =
        eventually("the server answers again", async || writer.backend.log.commit(PLAN, expected, &batch).await.ok());
    let outcome = outcome.await;
    let repeated = CommitOutcome::Repeated { repeats: vec![(0, expected.revision.next())] };
    assert!(outcome == CommitOutcome::Committed || outcome == repeated, "{outcome:?}");
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
    assert!(matches!(node.log.heads(&[PLAN]).await, Err(Error::Unavailable(_))));
    let heads = eventually("commands are answered again", async || node.log.heads(&[PLAN]).await.ok()).await;
    assert_eq!(heads, [Some(writer.head)]);
    eventually("large reads are answered again", async || node.log.range(PLAN, None, 9, Lane::Replay).await.ok()).await;
    assert!(matches!(next(&mut incoming).await, Incoming::Interrupted(Interruption::Reconnect)));
    node.pubsub.publish(Channel::Control, Bytes::from_static(b"again")).await.expect("published");
    assert!(matches!(next(&mut incoming).await, Incoming::Message { channel: Channel::Control, .. }));
}

/// As many clients come back as the lane of replays has connections, and none of them gets on. The node that must catch
/// up does not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_does_not_wait_for_replays() {
    let server = Server::start().await;
    let proxy = Proxy::to(&server).await;
    let node = server.connect_with(RedisSettings::at(proxy.url())).await;
    let mut writer = Writer::begin(&node, PLAN).await;
    writer.write(&["a"]).await;
    let read = |lane| node.log.range(PLAN, None, 9, lane);
    let all = || futures_util::future::join_all((0..4).map(|_| read(Lane::Replay)));
    assert!(all().await.iter().all(Result::is_ok), "each has a connection");

    proxy.freeze();
    let (hang, one_more, repair) = tokio::join!(all(), read(Lane::Replay), read(Lane::Repair));
    assert!(hang.iter().all(|read| matches!(read, Err(Error::Unavailable(_)))), "{hang:?}");
    assert!(matches!(one_more, Err(Error::Busy(_))), "{one_more:?}");
    assert_eq!(repair.expect("a page").entries.len(), 2);
    let snapshot = node.snapshots.load(PLAN, None, Lane::Repair);
    assert_eq!(snapshot.await.expect("an answer"), None);
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
    assert!(matches!(writer.backend.log.heads(&[PLAN]).await, Err(Error::Unavailable(_))));
    assert!(matches!(writer.backend.log.range(PLAN, None, 1, Lane::Replay).await, Err(Error::Unavailable(_))));
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
