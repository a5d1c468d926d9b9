//! What only a cluster or a failover can do to us, and what we promise then: nothing is lost, nothing comes twice, the epoch
//! stays, and whoever has nothing on the sick server notices nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use mille_node::backend::redis::{AckLevel, Acknowledgement, ConnectError, RedisSettings, Sweep, connect};
use mille_node::backend::{Backend, Channel, Incoming, Interruption, Reach};
use mille_node::clock;
use mille_node::metrics::Metrics;
use mille_node::project::{ProjectHandle, Projects, Start};
use mille_shared::PlanId;
use mille_shared::directory::{Plan, Role};
use mille_shared::log::{CommitOutcome, StoreLife, Terms};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channels::{message, queue};
use crate::kit::{Writer, batch, eventually, heads, is_chosen, new_changes, next};
use crate::outage::{PACE, ada, hears, listen, node, rename};
use crate::topologies::{Cluster, Watched};

/// Where every node has its lease.
pub(crate) const HOME: &str = "mille:{nodes}:leases";
/// An edit that has nothing to do with what is sick takes less, also on a busy machine.
const UNDISTURBED: Duration = Duration::from_millis(1_500);

pub(crate) fn log_of(plan: PlanId) -> String {
    format!("mille:{{plan:{plan}}}:log")
}

/// Two nodes, of which one writes and the other listens.
pub(crate) struct Bench {
    stop: CancellationToken,
    writing: Projects,
    _listening: Projects,
    pub(crate) project: ProjectHandle,
    there: ProjectHandle,
    access: mille_node::project::Access,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A plan that is written by one node and heard by the other.
pub(crate) struct Traffic {
    project: ProjectHandle,
    plan: PlanId,
    heard: [watch::Receiver<u64>; 1],
    epoch: u64,
    over: CancellationToken,
    writer: JoinHandle<Written>,
}

/// How a plan's edits went.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Written {
    edits: u64,
    /// Times that an edit had to be sent again.
    repeats: u64,
    longest: Duration,
}

impl Bench {
    pub(crate) async fn begin(writing: Backend, listening: Backend) -> Self {
        let stop = CancellationToken::new();
        let (writing, _) = node("writing", writing, &stop).await;
        let (listening, _) = node("listening", listening, &stop).await;
        let access = writing.create_project("p", None, &ada()).await.expect("a project");
        let project = access.project.clone();
        let there = listening.access(project.id(), &ada(), Role::Owner).await.expect("access").project;
        Self { stop, writing, _listening: listening, project, there, access }
    }

    /// A plan for which this holds.
    pub(crate) async fn plan_with(&self, holds: impl Fn(PlanId) -> bool) -> PlanId {
        for _ in 0..100 {
            let plan = self.writing.create_plan(&self.access, "another").await.expect("a plan").id;
            if holds(plan) {
                return plan;
            }
        }
        panic!("of a hundred plans one must be there");
    }

    pub(crate) async fn traffic(&self, plan: PlanId) -> Traffic {
        let following = self.there.follow(plan, &ada(), Start::Next, false).await.expect("followed");
        let heard = watch::Sender::new(0);
        let receiver = heard.subscribe();
        tokio::spawn(listen(following, heard));
        let epoch = self.project.read(plan).await.expect("the plan").revision().epoch;
        let over = CancellationToken::new();
        let writer = tokio::spawn(write(self.project.clone(), plan, over.clone()));
        Traffic { project: self.project.clone(), plan, heard: [receiver], epoch, over, writer }
    }
}

/// Changes a plan at a steady pace. What is not taken is sent again, as clients do.
async fn write(project: ProjectHandle, plan: PlanId, over: CancellationToken) -> Written {
    let (mut pace, mut written) = (interval(PACE), Written::default());
    while over.run_until_cancelled(pace.tick()).await.is_some() {
        let began = Instant::now();
        while let Err(refused) = project.submit(plan, rename(plan, written.edits), true).await {
            written.repeats += 1;
            assert!(began.elapsed() < crate::kit::PATIENCE, "{plan}: {refused:?}");
            pace.tick().await;
        }
        written.edits += 1;
        written.longest = written.longest.max(began.elapsed());
    }
    written
}

impl Traffic {
    /// Waits until so many more changes have been heard.
    pub(crate) async fn goes_on(&mut self, changes: u64) {
        let now = *self.heard[0].borrow();
        hears(&mut self.heard, now + changes).await;
    }

    /// Ends it: every edit is in the plan once, was heard, and the epoch is the one it began in.
    pub(crate) async fn ends(mut self) -> Written {
        self.over.cancel();
        let written = self.writer.await.expect("it wrote");
        let revision = self.project.read(self.plan).await.expect("the plan").revision();
        assert_eq!(revision.seq, written.edits, "each edit is there, once");
        assert_eq!(revision.epoch, self.epoch, "nothing was lost for good");
        hears(&mut self.heard, revision.seq).await;
        written
    }
}

/// What belongs to a slot that moves goes on: the commands at once, the subscription with an interruption for its own
/// channels only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_under_a_listener_and_a_writer() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let metrics = Arc::new(Metrics::new());
    let bench =
        Bench::begin(cluster.connect_observed(Arc::new(())).await, cluster.connect_observed(metrics).await).await;
    let home = cluster.primary_of(HOME);
    let moving = bench.plan_with(|plan| cluster.primary_of(&log_of(plan)) != home).await;
    let staying = bench.plan_with(|plan| cluster.slot_of(&log_of(plan)) != cluster.slot_of(&log_of(moving))).await;
    let (mut moving_on, mut staying_on) = (bench.traffic(moving).await, bench.traffic(staying).await);
    // Until the lives of all servers are settled, as they are unless a node has just begun.
    moving_on.goes_on(100).await;
    let (slot, from) = (cluster.slot_of(&log_of(moving)), cluster.primary_of(&log_of(moving)));
    // There, and to a third, and back.
    for (from, to) in [(from, (from + 1) % 3), ((from + 1) % 3, (from + 2) % 3), ((from + 2) % 3, from)] {
        cluster.migrate(slot, from, to);
        moving_on.goes_on(50).await;
    }
    staying_on.goes_on(1).await;
    let (moved, stayed) = (moving_on.ends().await, staying_on.ends().await);
    assert!(moved.longest < UNDISTURBED, "{moved:?}");
    assert_eq!(stayed.repeats, 0, "{stayed:?}");
    assert!(stayed.longest < UNDISTURBED, "{stayed:?}");
}

/// Has a node listen to plans on all servers.
async fn listened_to(node: &Backend) -> Vec<Channel> {
    let channels: Vec<Channel> = (1..=40).map(|id| Channel::Plan(PlanId(id))).collect();
    for channel in &channels {
        node.pubsub.subscribe(*channel).await.expect("subscribed");
    }
    channels
}

/// Only those who hear the moved channels are told, and they hear again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interruption_by_a_moved_slot_names_its_channels() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let (here, there) = (cluster.connect().await, cluster.connect().await);
    let (mut incoming, channels) = (queue(&there), listened_to(&there).await);
    let from = cluster.primary_of(&log_of(PlanId(7)));
    cluster.migrate(cluster.slot_of(&log_of(PlanId(7))), from, (from + 1) % 3);
    match next(&mut incoming).await {
        Incoming::Interrupted { why: Interruption::Moved, reach: Reach::Only(moved) } => {
            assert_eq!(moved[..], [Channel::Plan(PlanId(7))]);
        }
        other => panic!("{other:?}"),
    }
    for channel in channels {
        here.pubsub.publish(channel, "news".into()).await.expect("published");
        assert_eq!(message(next(&mut incoming).await).0, channel);
    }
}

/// A server gives a slot away to one that does not take it. Whatever else it has is known and heard as before, also after
/// a reconnect; and so is what was in that slot once somebody has it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_nobody_takes_silences_no_other() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let (here, there) = (cluster.connect().await, cluster.connect().await);
    let mut incoming = queue(&there);
    let mut plans: Vec<PlanId> = (1..=60).map(PlanId).filter(|plan| cluster.primary_of(&log_of(*plan)) == 0).collect();
    let lost = plans.remove(plans.len() / 2);
    for plan in &plans {
        Writer::begin(&here, *plan).await;
        there.pubsub.subscribe(Channel::Plan(*plan)).await.expect("subscribed");
    }
    there.pubsub.subscribe(Channel::Plan(lost)).await.expect("subscribed");
    let slot = cluster.slot_of(&log_of(lost));
    cluster.says_that_a_slot_is_of(0, slot, 1);

    let asked: Vec<PlanId> = [&plans[..1], &[lost], &plans[1..]].concat();
    let known = there.log.heads(&asked).await.expect("heads");
    let unknown = asked.iter().zip(&known).filter(|(_, state)| state.is_none()).map(|(plan, _)| *plan);
    assert_eq!(unknown.collect::<Vec<_>>(), [lost]);
    assert!(there.log.heads(&[lost]).await.is_err());

    there.pubsub.reconnect(there.pubsub.shard_of(Channel::Plan(lost)).expect("its shard")).await;
    match next(&mut incoming).await {
        Incoming::Interrupted { why: Interruption::Probe, reach: Reach::Only(heard) } => {
            assert!(plans.iter().all(|plan| heard.contains(&Channel::Plan(*plan))), "{heard:?}");
        }
        other => panic!("{other:?}"),
    }
    for plan in plans {
        here.pubsub.publish(Channel::Plan(plan), "news".into()).await.expect("published");
        assert_eq!(message(next(&mut incoming).await).0, Channel::Plan(plan));
    }

    cluster.says_that_a_slot_is_of(0, slot, 0);
    match next(&mut incoming).await {
        Incoming::Interrupted { why: Interruption::Moved, reach: Reach::Only(back) } => {
            assert_eq!(back[..], [Channel::Plan(lost)]);
        }
        other => panic!("{other:?}"),
    }
    here.pubsub.publish(Channel::Plan(lost), "news".into()).await.expect("published");
    assert_eq!(message(next(&mut incoming).await).0, Channel::Plan(lost));
}

/// Between two servers, the new one has the key and the old one the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_written_while_its_slot_is_on_its_way() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let mut writer = Writer::begin(&cluster.connect().await, PlanId(7)).await;
    writer.write(&["a"]).await;
    let from = cluster.primary_of(&log_of(PlanId(7)));
    let to = (from + 1) % 3;
    let slot = cluster.slot_of(&log_of(PlanId(7)));
    cluster.begin_to_migrate(slot, from, to);
    // The target is another server with another life; whoever followed the log vouches for it, once that life is settled.
    let life = writer.backend.log.heads(&[PlanId(7)]).await.expect("an answer").remove(0).expect("its state").life;
    let lives: Vec<StoreLife> = writer.backend.log.lives().collect().await;
    assert!(lives.len() == 3 && lives.contains(&life));
    let known = heads(&writer.backend, &[PlanId(7)]).await.expect("asked on its way");
    assert_eq!(known, [Some(writer.head)]);
    let offered = batch(writer.head.hash, &["b"]);
    let outcome = writer.offer(&offered, &new_changes()).await;
    assert_eq!(outcome, CommitOutcome::Reborn { life: life.clone() }, "it was written in another life");
    let followed = lives.into_iter().filter(|other| *other != life).collect();
    let terms = Terms::Add { followed, settled: Some(life.clone()), lost_epoch: None, begins_epoch: None };
    assert_eq!(writer.offer(&offered, &terms).await, CommitOutcome::Committed { life });
    writer.go_on(writer.head.revision.epoch, &offered);
    assert_eq!(writer.read().await.len(), 3);
    cluster.end_migration(slot, from, to);
    assert_eq!(heads(&writer.backend, &[PlanId(7)]).await.expect("asked at the new place"), [Some(writer.head)]);
}

/// Who must have them on a replica too is told so, at whichever server the log is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_are_confirmed_while_their_slot_is_on_its_way() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(1).await;
    let level = AckLevel::Replicated(NonZeroU32::MIN);
    let acknowledgement = Acknowledgement { level, timeout: Duration::from_secs(1) };
    let writing = cluster.connect_with(RedisSettings { acknowledgement, ..RedisSettings::at(cluster.url()) }).await;
    let bench = Bench::begin(writing, cluster.connect_observed(Arc::new(())).await).await;
    let home = cluster.primary_of(HOME);
    let moving = bench.plan_with(|plan| cluster.primary_of(&log_of(plan)) != home).await;
    let mut moving_on = bench.traffic(moving).await;
    // Until the lives of all servers are settled, as they are unless a node has just begun.
    moving_on.goes_on(100).await;
    let (slot, from) = (cluster.slot_of(&log_of(moving)), cluster.primary_of(&log_of(moving)));
    let to = (from + 1) % 3;
    cluster.begin_to_migrate(slot, from, to);
    moving_on.goes_on(50).await;
    cluster.end_migration(slot, from, to);
    moving_on.goes_on(50).await;
    let moved = moving_on.ends().await;
    assert!(moved.repeats == 0 && moved.longest < UNDISTURBED, "{moved:?}");
}

/// A slot goes away and comes back before anybody looks. The server has ended its subscriptions all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slot_that_came_back_has_lost_is_heard_again() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let (here, there) = (cluster.connect().await, cluster.connect().await);
    let mut incoming = queue(&there);
    listened_to(&there).await;
    // Nodes listen to one of each server: by it they ask what is left, and not by what they may have lost.
    for shard in there.pubsub.shards() {
        there.pubsub.subscribe(Channel::Probe(shard)).await.expect("subscribed");
    }
    let (from, slot) = (cluster.primary_of(&log_of(PlanId(7))), cluster.slot_of(&log_of(PlanId(7))));
    cluster.migrate(slot, from, (from + 1) % 3);
    cluster.migrate(slot, (from + 1) % 3, from);
    match next(&mut incoming).await {
        Incoming::Interrupted { why: Interruption::Moved, reach: Reach::Only(lost) } => {
            assert!(lost.contains(&Channel::Plan(PlanId(7))), "{lost:?}");
        }
        other => panic!("{other:?}"),
    }
    here.pubsub.publish(Channel::Plan(PlanId(7)), "news".into()).await.expect("published");
    assert_eq!(message(next(&mut incoming).await).0, Channel::Plan(PlanId(7)));
}

/// One server does not answer, and others say that a slot is its. What moves between those is heard again as soon as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_holds_up_no_channels_of_the_others() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let node = cluster.connect_observed(Arc::new(())).await;
    let mut incoming = queue(&node);
    let plans = (1..=60).map(PlanId).filter(|plan| cluster.primary_of(&log_of(*plan)) == 0);
    let plans: Vec<PlanId> = plans.take(4).collect();
    for plan in &plans {
        node.pubsub.subscribe(Channel::Plan(*plan)).await.expect("subscribed");
    }
    cluster.servers[2].freeze();
    let began = Instant::now();
    assert_eq!(node.log.lives().take(2).count().await, 2);
    assert!(began.elapsed() < UNDISTURBED, "{:?}", began.elapsed());
    cluster.says_that_a_slot_is_of(0, cluster.slot_of(&log_of(plans[0])), 2);
    for plan in &plans[1..] {
        let began = Instant::now();
        cluster.migrate(cluster.slot_of(&log_of(*plan)), 0, 1);
        match next(&mut incoming).await {
            Incoming::Interrupted { why: Interruption::Moved, reach: Reach::Only(moved) } => {
                assert_eq!(moved[..], [Channel::Plan(*plan)]);
            }
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < UNDISTURBED, "{:?}", began.elapsed());
    }
}

/// Slots are given to a server that we can't reach. However many heads are unknown for that, all of it takes as long as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_heads_that_are_unknown_take_as_long_as_one() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let giver = cluster.primary_of(HOME);
    let stranger = (giver + 1) % 3;
    cluster.servers[stranger].freeze();
    let node = cluster.connect_observed(Arc::new(())).await;
    let plans: Vec<PlanId> =
        (1..).map(PlanId).filter(|plan| cluster.primary_of(&log_of(*plan)) == giver).take(250).collect();
    let known = Writer::begin(&node, plans[0]).await;
    for plan in &plans[1..] {
        let slot = cluster.slot_of(&log_of(*plan));
        if slot != cluster.slot_of(&log_of(plans[0])) {
            cluster.says_that_a_slot_is_of(giver, slot, stranger);
        }
    }
    let began = Instant::now();
    node.log.heads(&plans[1..2]).await.expect_err("nobody knows it");
    let one = began.elapsed();
    let began = Instant::now();
    let states = node.log.heads(&plans).await.expect("one is known");
    assert!(began.elapsed() < 2 * one, "{:?} and {one:?}", began.elapsed());
    let heads: Vec<_> = states.into_iter().flatten().filter_map(|state| state.head).collect();
    assert_eq!(heads, [known.head]);
}

/// Servers that have names send us on by them; those who do not may know each other by number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_sent_on_to_a_server_by_another_name_finds_it() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    cluster.announces("localhost").await;
    let mut writer = Writer::begin(&cluster.connect().await, PlanId(7)).await;
    writer.write(&["a"]).await;
    let (from, slot) = (cluster.primary_of(&log_of(PlanId(7))), cluster.slot_of(&log_of(PlanId(7))));
    cluster.begin_to_migrate(slot, from, (from + 1) % 3);
    let known = heads(&writer.backend, &[PlanId(7)]).await.expect("asked on its way");
    assert_eq!(known, [Some(writer.head)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_of_the_wrong_kind_is_told_at_once() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = RedisSettings::at(cluster.servers[0].url());
    let refused = connect(&settings, Arc::new(()), &tasks, &stop).await.err();
    assert!(matches!(&refused, Some(ConnectError::Url(why)) if why.contains("redis-cluster://")), "{refused:?}");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_primary_gets_back_the_functions_it_lost() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let node = cluster.connect().await;
    let mut writers = Vec::new();
    for id in 1..=12 {
        writers.push(Writer::begin(&node, PlanId(id)).await);
    }
    for server in &cluster.servers {
        assert_eq!(server.say("FUNCTION FLUSH").expect("an answer"), "+OK\r\n");
    }
    assert_eq!(node.log.lives().count().await, 3);
    for server in &cluster.servers {
        assert_eq!(server.say("FUNCTION FLUSH").expect("an answer"), "+OK\r\n");
    }
    for writer in &mut writers {
        writer.write(&["a"]).await;
    }
}

/// Whoever deleted a project died before its plans were gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_deleted_project_is_swept_and_nothing_else() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let sweep = Sweep { pause: Duration::from_millis(50), kept_for: Duration::ZERO };
    let node = cluster.connect_with(RedisSettings { sweep, ..RedisSettings::at(cluster.url()) }).await;
    let at = clock::now();
    let mut plans = Vec::new();
    for name in ["left", "alive"] {
        let project = node.directory.create_project(name, None, &ada(), at).await.expect("a project").id;
        for _ in 0..3 {
            let id = node.directory.reserve_plan(0).await.expect("an id");
            Writer::begin(&node, id).await;
            let plan = Plan { id, project_id: project, name: name.to_owned(), created_at: at };
            assert!(node.directory.add_plan(&plan).await.expect("an answer"));
            plans.push(id);
        }
        if name == "left" {
            for part in ["record", "members", "plans"] {
                let key = format!("mille:{{project:{project}}}:{part}");
                assert_eq!(
                    cluster.servers[cluster.primary_of(&key)].say(&format!("DEL {key}")).expect("an answer"),
                    ":1\r\n"
                );
            }
        }
    }
    let (left, alive) = plans.split_at(3);
    eventually("what is left goes, entries and logs", async || {
        let logs = heads(&node, left).await.ok()?;
        let entries = futures_util::future::join_all(left.iter().map(|plan| node.directory.plan(*plan))).await;
        let is_gone = logs.iter().all(Option::is_none) && entries.into_iter().all(|entry| matches!(entry, Ok(None)));
        is_gone.then_some(())
    })
    .await;
    assert!(heads(&node, alive).await.expect("an answer").iter().all(Option::is_some));
    for plan in alive {
        assert!(node.directory.plan(*plan).await.expect("an answer").is_some());
    }
}

/// A primary is gone for good; its replica takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_killed_is_followed_by_its_replica() {
    if !is_chosen("cluster") {
        return;
    }
    let mut cluster = Cluster::start(1).await;
    let bench =
        Bench::begin(cluster.connect_observed(Arc::new(())).await, cluster.connect_observed(Arc::new(())).await).await;
    let home = cluster.primary_of(HOME);
    let struck = bench.plan_with(|plan| cluster.primary_of(&log_of(plan)) != home).await;
    let victim = cluster.primary_of(&log_of(struck));
    let spared = bench.plan_with(|plan| cluster.primary_of(&log_of(plan)) != victim).await;
    let (mut struck_on, mut spared_on) = (bench.traffic(struck).await, bench.traffic(spared).await);
    struck_on.goes_on(30).await;
    cluster.servers[victim].kill();
    struck_on.goes_on(60).await;
    spared_on.goes_on(1).await;
    let (_, spared) = (struck_on.ends().await, spared_on.ends().await);
    assert_eq!(spared.repeats, 0, "{spared:?}");
    assert!(spared.longest < UNDISTURBED, "{spared:?}");
}

/// One server is frozen, and there is nobody to take its place. What the others have goes on: edits, messages, and the
/// heads that show what a message did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_shard_harms_only_its_own_plans() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let listening = cluster.connect_observed(Arc::new(())).await;
    let bench = Bench::begin(cluster.connect_observed(Arc::new(())).await, listening.clone()).await;
    let project_at = cluster.primary_of(&format!("mille:{{project:{}}}:record", bench.project.id()));
    let home = cluster.primary_of(HOME);
    let is_elsewhere = |plan| ![home, project_at].contains(&cluster.primary_of(&log_of(plan)));
    let frozen = bench.plan_with(is_elsewhere).await;
    let well = bench.plan_with(|plan| !is_elsewhere(plan)).await;
    let victim = cluster.primary_of(&log_of(frozen));
    let (mut frozen_on, mut well_on) = (bench.traffic(frozen).await, bench.traffic(well).await);
    frozen_on.goes_on(10).await;

    cluster.servers[victim].freeze();
    eventually("it is noticed", async || (!listening.leases.health().sick.is_empty()).then_some(())).await;
    assert!(listening.leases.health().answers, "the node itself is well");
    let deaf = Channel::Plan(well);
    listening.pubsub.unsubscribe(deaf).await.expect("deaf for this plan");
    let began = Instant::now();
    for _ in 0..3 {
        well_on.goes_on(1).await;
    }
    // Three times a check that finds the same difference twice, at 0.9 s each.
    assert!(began.elapsed() < Duration::from_millis(3 * 2_300), "{:?}", began.elapsed());
    listening.pubsub.subscribe(deaf).await.expect("heard again");

    cluster.servers[victim].thaw();
    frozen_on.goes_on(20).await;
    let (_, well) = (frozen_on.ends().await, well_on.ends().await);
    assert_eq!(well.repeats, 0, "{well:?}");
    assert!(well.longest < UNDISTURBED, "{well:?}");
}

/// How a primary that sentinels watch over goes.
enum End {
    Killed,
    Frozen,
}

async fn a_replica_takes_the_place_of_a_primary(how: End) {
    if !is_chosen("sentinel") {
        return;
    }
    let mut watched = Watched::start(1).await;
    let bench =
        Bench::begin(watched.connect_observed(Arc::new(())).await, watched.connect_observed(Arc::new(())).await).await;
    let plan = bench.project.plan_id(None).await.expect("its first plan");
    let mut traffic = bench.traffic(plan).await;
    traffic.goes_on(30).await;
    match how {
        End::Killed => watched.servers[0].kill(),
        End::Frozen => watched.servers[0].freeze(),
    }
    traffic.goes_on(60).await;
    traffic.ends().await;
    if matches!(how, End::Frozen) {
        watched.servers[0].thaw();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_followed_by_the_one_that_sentinels_name() {
    a_replica_takes_the_place_of_a_primary(End::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_primary_is_followed_by_the_one_that_sentinels_name() {
    a_replica_takes_the_place_of_a_primary(End::Frozen).await;
}
