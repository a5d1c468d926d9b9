//! What only a server can do to us, and what we promise then. For Redis alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mille_node::backend::redis::{ConnectError, Connection, RedisObserver, RedisSettings, connect};
use mille_node::backend::{Backend, Channel, Error, Incoming, Interruption, Lane, Retention, Shard};
use mille_shared::log::{CommitOutcome, StoreLife, StoredSnapshot, Terms};
use mille_shared::{PlanId, Timestamp, UserId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channels::queue;
use crate::kit::{Proxy, Server, Writer, batch, eventually, heads, new_changes, next};
use crate::outage::{ada, node};

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
        assert!(matches!(next(&mut incoming).await, Incoming::Interrupted { why: Interruption::Reconnect, .. }));
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
async fn a_counter_of_projects_that_lost_its_end_gives_no_project_away() {
    let server = Server::start().await;
    let node = server.connect().await;
    let (ada, mallory, at) = (UserId::new("ada"), UserId::new("mallory"), Timestamp::from_unix_ms(1));
    let mut adas = Vec::new();
    for name in ["one", "two", "three", "four"] {
        adas.push(node.directory.create_project(name, None, &ada, at).await.expect("a project"));
    }
    assert_eq!(server.say("DEL mille:{directory}:projects").expect("an answer"), ":1\r\n");
    let hers = node.directory.create_project("hers", None, &mallory, at).await.expect("a project");
    assert!(adas.iter().all(|project| project.id != hers.id), "{hers:?}");
    assert_eq!(node.directory.projects_of(&mallory).await.expect("her projects"), [hers]);
    assert_eq!(node.directory.projects_of(&ada).await.expect("her projects"), adas);
}

/// Plans are found again by their logs, which are elsewhere than the counter: a number whose log is there is somebody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_of_plans_that_lost_its_end_is_soon_beyond_the_plans_that_are_there() {
    let server = Server::start().await;
    let (backend, stop) = (server.connect().await, CancellationToken::new());
    let last = PlanId(1_000);
    for number in 1..=last.0 {
        Writer::begin(&backend, PlanId(number)).await;
    }
    let (projects, _) = node("one", backend, &stop).await;
    let access = projects.create_project("p", None, &ada()).await.expect("a project");
    let plan = access.project.plan_id(None).await.expect("its plan");
    assert!(plan > last, "{plan} was somebody's");
    projects.create_plan(&access, "another").await.expect("a plan");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_that_was_meddled_with_hides_no_other_that_is_read_with_it() {
    let server = Server::start().await;
    let (node, ada, at) = (server.connect().await, UserId::new("ada"), Timestamp::from_unix_ms(1));
    let mut ids = Vec::new();
    for name in ["record", "members", "plans", "whole"] {
        ids.push(node.directory.create_project(name, None, &ada, at).await.expect("a project").id);
    }
    for (id, part) in ids.iter().zip(["record", "members", "plans"]) {
        assert_eq!(server.say(&format!("SET mille:{{project:{id}}}:{part} x")).expect("an answer"), "+OK\r\n");
    }
    let told: HashMap<_, _> = node.directory.contents(&ids).collect().await;
    for id in &ids[..3] {
        assert!(matches!(told[id], Err(Error::Corrupt(_))), "{:?}", told[id]);
    }
    let whole = told[&ids[3]].as_ref().expect("an answer").as_ref().expect("a project");
    assert_eq!((&*whole.project.name, whole.members.len()), ("whole", 1));
}

async fn life(writer: &Writer) -> Option<StoreLife> {
    writer.backend.log.lives().next().await
}

/// A restart or a failover: the server is known by another replication id afterwards.
async fn begin_a_new_life(server: &Server, writer: &Writer) -> StoreLife {
    let before = life(writer).await.expect("a life");
    assert_eq!(server.say("DEBUG CHANGE-REPL-ID").expect("an answer"), "+OK\r\n");
    eventually("it has begun", async || life(writer).await.filter(|life| *life != before)).await
}

/// A backup is taken as a replica would. As it is shipped, Redis does not begin a new life because of it later on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_does_not_end_because_the_last_replica_has_gone() {
    let shipped = include_str!("../../../ops/redis.conf");
    // What Redis would do after an hour it may do at once here.
    let ttl = shipped.lines().find_map(|line| line.strip_prefix("repl-backlog-ttl ")).unwrap_or("1");
    let server = Server::start().await;
    assert_eq!(server.say(&format!("CONFIG SET repl-backlog-ttl {ttl}")).expect("an answer"), "+OK\r\n");
    let writer = Writer::begin(&server.connect().await, PLAN).await;
    let before = life(&writer).await.expect("a life");
    server.say("SYNC").expect("a copy");
    let told = |section: &str, name: &str| -> Option<u64> {
        let info = server.say(&format!("INFO {section}")).ok()?;
        info.split(name).nth(1)?.split('\r').next()?.parse().ok()
    };
    let replicas = async || told("replication", "connected_slaves:").filter(|replicas| *replicas == 0);
    eventually("the replica has gone", replicas).await;
    let began = async || life(&writer).await.filter(|life| *life != before);
    let with_copy = eventually("the first one begins a life", began).await;
    let uptime = || told("server", "uptime_in_seconds:");
    let gone_at = uptime().expect("an answer");
    eventually("Redis had the time", async || uptime().filter(|now| *now >= gone_at + 5)).await;
    assert_eq!(life(&writer).await, Some(with_copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_change_in_a_new_life_must_have_waited_and_be_vouched_for() {
    let server = Server::start().await;
    let mut writer = Writer::begin(&server.connect().await, PLAN).await;
    writer.write(&["a"]).await;
    let old = life(&writer).await.expect("a life");
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
    eventually("large reads are answered again", async || node.log.range(PLAN, None, 9, Lane::Replay).await.ok()).await;
    assert!(matches!(next(&mut incoming).await, Incoming::Interrupted { why: Interruption::Reconnect, .. }));
    node.pubsub.publish(Channel::Control, Bytes::from_static(b"again")).await.expect("published");
    assert!(matches!(next(&mut incoming).await, Incoming::Message { channel: Channel::Control, .. }));
}

/// What an observer was told.
#[derive(Default)]
struct Told {
    is_up: AtomicBool,
    is_open: AtomicBool,
    refused: AtomicUsize,
    reconnected: AtomicUsize,
    answered: AtomicUsize,
}

impl RedisObserver for Told {
    fn up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    fn breaker(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn reconnected(&self, connection: Connection) {
        if connection == Connection::Commands {
            self.reconnected.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answered(&self, _took: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self, _took: Duration) {}
}

/// Waits until the breaker is open, and asserts that commands cost nothing then.
async fn refused_at_once(node: &Backend, told: &Told) {
    eventually("the breaker opens", async || told.is_open.load(Ordering::Relaxed).then_some(())).await;
    assert!(!node.leases.health().answers, "{:?}", node.leases.health());
    let began = Instant::now();
    let asked = (0..1_000).map(|_| node.log.heads(&[PLAN]));
    let answers = futures_util::future::join_all(asked).await;
    // Half a second is far less than one timeout, and far more than a thousand refusals take.
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Unavailable(_)))));
    assert!(told.refused.load(Ordering::Relaxed) >= 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_to_a_frozen_server_are_refused_at_once_until_it_answers() {
    let server = Server::start().await;
    let told = Arc::new(Told::default());
    let node = server.connect_observed(RedisSettings::at(server.url()), told.clone()).await;
    let mut writer = Writer::begin(&node, PLAN).await;
    writer.write(&["a"]).await;
    assert!(told.is_up.load(Ordering::Relaxed) && !told.is_open.load(Ordering::Relaxed));

    server.freeze();
    refused_at_once(&node, &told).await;
    server.thaw();
    eventually("commands are answered again", async || node.log.heads(&[PLAN]).await.ok()).await;
    assert!(!told.is_open.load(Ordering::Relaxed));
    eventually("it is up again", async || told.is_up.load(Ordering::Relaxed).then_some(())).await;
    writer.write(&["b"]).await;
    assert_eq!(writer.read().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_to_a_server_that_is_gone_are_refused_at_once() {
    let mut server = Server::start().await;
    let told = Arc::new(Told::default());
    let node = server.connect_observed(RedisSettings::at(server.url()), told.clone()).await;
    node.log.heads(&[PLAN]).await.expect("an answer");
    server.kill();
    refused_at_once(&node, &told).await;
    assert!(matches!(node.pubsub.subscribe(Channel::Control).await, Err(Error::Unavailable(_))));
    assert!(matches!(node.log.range(PLAN, None, 1, Lane::Repair).await, Err(Error::Unavailable(_))));
}

/// Whose snapshot failed takes no writes, and refuses even a PING. It serves whoever reads, and is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_can_not_write_to_its_disk_is_read_all_the_same() {
    let server = Server::start().await;
    let told = Arc::new(Told::default());
    let node = server.connect_observed(RedisSettings::at(server.url()), told.clone()).await;
    let mut writer = Writer::begin(&node, PLAN).await;
    writer.write(&["a"]).await;
    server.lose_files();
    for command in [r#"CONFIG SET save "3600 1""#, "BGSAVE"] {
        assert!(server.say(command).expect("an answer").starts_with('+'), "{command}");
    }
    let refuses = async || server.say("PING").expect("an answer").starts_with("-MISCONF").then_some(());
    eventually("it refuses a PING", refuses).await;

    let before = told.answered.load(Ordering::Relaxed);
    let refused = node.log.commit(PLAN, writer.head, &batch(writer.head.hash, &["b"]), &new_changes()).await;
    assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("MISCONF")), "{refused:?}");
    // Three that count as unanswered would be the end of the connection.
    let is_seen = async || (told.answered.load(Ordering::Relaxed) >= before + 6).then_some(());
    eventually("it is seen to be there", is_seen).await;
    assert_eq!(writer.read().await.len(), 2);
    assert_eq!((told.is_open.load(Ordering::Relaxed), told.reconnected.load(Ordering::Relaxed)), (false, 0));

    assert_eq!(server.say("CONFIG SET stop-writes-on-bgsave-error no").expect("an answer"), "+OK\r\n");
    writer.write(&["b"]).await;
    assert_eq!(writer.read().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_command_connection_heals_by_itself() {
    let server = Server::start().await;
    let told = Arc::new(Told::default());
    let node = server.connect_observed(RedisSettings::at(server.url()), told.clone()).await;
    for cuts in 1..=3 {
        server.say("CLIENT KILL TYPE normal").expect("an answer");
        eventually("it is connected anew", async || (told.reconnected.load(Ordering::Relaxed) >= cuts).then_some(()))
            .await;
        eventually("commands are answered again", async || node.log.heads(&[PLAN]).await.ok()).await;
    }
    eventually("the breaker is closed", async || node.leases.health().answers.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_whether_the_subscription_is_in_force() {
    let server = Server::start().await;
    let proxy = Proxy::to(&server).await;
    let node = server.connect_with(RedisSettings::at(proxy.url())).await;
    let mut incoming = queue(&node);
    assert!(node.pubsub.is_in_force(Shard::ONLY));
    proxy.freeze();
    eventually("its silence is noticed", async || (!node.pubsub.is_in_force(Shard::ONLY)).then_some(())).await;
    assert!(matches!(next(&mut incoming).await, Incoming::Interrupted { why: Interruption::Reconnect, .. }));
    eventually("it is in force again", async || node.pubsub.is_in_force(Shard::ONLY).then_some(())).await;
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
    eventually("each has a connection", async || {
        assert!(all().await.iter().all(Result::is_ok));
        // Besides the commands', the subscription's, and the one that asks.
        server.say("INFO clients").ok()?.contains("connected_clients:7\r").then_some(())
    })
    .await;

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
    let mut writer =
        Writer::begin(&connect(&settings, Arc::new(()), &tasks, &stop).await.expect("connected"), PLAN).await;
    writer.write(&["a"]).await;
    assert_eq!(writer.read().await.len(), 2, "the pool has a connection too");
    stop.cancel();
    tasks.close();
    tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.expect("all tasks end");
    assert!(matches!(heads(&writer.backend, &[PLAN]).await, Err(Error::Unavailable(_))));
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
    let refused = connect(&RedisSettings::at(url), Arc::new(()), &tasks, &stop).await.err();
    assert!(matches!(refused, Some(ConnectError::Unreachable(_))), "{refused:?}");
    let refused = connect(&RedisSettings::at("nonsense"), Arc::new(()), &tasks, &stop).await.err();
    assert!(matches!(refused, Some(ConnectError::Url(_))), "{refused:?}");
}
