//! Projects as the gateway uses them, over the embedded backend: two nodes, one store, and a log that can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use mille_core::PlanBounds;
use mille_shared::directory::Role;
use mille_shared::execution::ExecutionState;
use mille_shared::log::{LogEntry, OperationKey, Proposal};
use mille_shared::operation::{Edit, Operation};
use mille_shared::{
    ClientId, ConnectionId, NodeId, OperationId, PlanId, PlanNodeId, ProjectId, Revision, RunId, UserId, limits,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::presence::PresenceSettings;
use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::{self, Backend, Channel, Lane, Retention};
use crate::bridge::Bridge;
use crate::clock;
use crate::metrics::Metrics;

mod gathering;
mod lives;
mod past;
mod reading;
mod recent;
mod repeats;
mod rights;
mod stores;

use stores::{Log, Tables};

/// How long a project stays that nobody uses, and how old one gets that somebody does.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1_800);
const LIFETIME: Duration = Duration::from_secs(14_400);
/// Changes that the log keeps.
const KEPT_CHANGES: u64 = 3_000;

/// A node without a gateway.
pub(crate) struct TestNode {
    pub(crate) projects: Projects,
    bridge: Bridge,
    backend: Backend,
    log: Arc<Log>,
    tables: Arc<Tables>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl TestNode {
    pub(crate) async fn start(store: &Embedded, name: &str) -> Self {
        Self::remembering(store, name, limits::RECENT_CHANGES_BYTES_MAX).await
    }

    /// One whose plans remember so many bytes of changes together.
    async fn remembering(store: &Embedded, name: &str, recent_bytes_max: usize) -> Self {
        Self::over(store.connect(), name, recent_bytes_max).await
    }

    async fn over(mut backend: Backend, name: &str, recent_bytes_max: usize) -> Self {
        let log = Log {
            store: Arc::clone(&backend.log),
            is_unreadable: false.into(),
            is_unopenable: false.into(),
            is_faulty: false.into(),
            heads_asked: 0.into(),
            pages_read: 0.into(),
            commit_takes_ms: 0.into(),
        };
        let log = Arc::new(log);
        backend.log = log.clone();
        let store = Arc::clone(&backend.presence);
        let (is_faulty, is_hung, is_unrenewable) = Default::default();
        let tables = Arc::new(Tables { store, is_faulty, is_hung, is_unrenewable });
        backend.presence = tables.clone();
        let (tasks, stop, metrics) = (TaskTracker::new(), CancellationToken::new(), Arc::new(Metrics::new()));
        let (bridge, controls) =
            Bridge::start(backend.clone(), Arc::clone(&metrics), &tasks, &stop).await.expect("bridge");
        let retention = Retention { changes: KEPT_CHANGES, age: Duration::ZERO, changes_max: u64::MAX };
        let config = ProjectsConfig {
            node: NodeId::of(name, "1"),
            backend: backend.clone(),
            bridge: bridge.clone(),
            metrics,
            plans: PlanSettings {
                bounds: PlanBounds::default(),
                snapshot_every: 100,
                retention,
                commit_moment_max: limits::COMMIT_MOMENT,
                recent_bytes_max,
            },
            presence: PresenceSettings::default(),
            idle_timeout: IDLE_TIMEOUT,
            lifetime: LIFETIME,
            sweep: limits::RIGHTS_SWEEP,
        };
        let projects = Projects::new(config, tasks.clone(), stop.clone());
        tasks.spawn(projects.clone().serve_control(controls));
        tasks.spawn(renew(projects.clone(), stop.clone()));
        Self { projects, bridge, backend, log, tables, tasks, stop }
    }

    async fn enter(&self, project: ProjectId) -> ProjectHandle {
        self.projects.access(project, &ada(), Role::Owner).await.expect("access").project
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(Duration::from_secs(10), self.tasks.wait()).await.expect("a node stops");
    }
}

/// Keeps a node's tables of who is present, as its heartbeat does.
async fn renew(projects: Projects, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(limits::HEARTBEAT_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // Without a store it is tried again, as by the heartbeat.
        let _ = projects.renew_presence().await;
    }
}

fn ada() -> UserId {
    UserId::new("ada")
}

fn rename(id: &str, name: &str) -> Operation {
    Operation {
        id: OperationId::new(id),
        user_id: ada(),
        client_id: ClientId::none(),
        at: clock::now(),
        expected_revision: None,
        edits: vec![Edit::UpdateMetadata { name: Some(Some(name.to_owned())), description: None }],
    }
}

/// One change after the other.
async fn rename_often(project: &ProjectHandle, plan: PlanId, word: &str, times: usize) {
    for number in 1..=times {
        let name = format!("{word}{number}");
        project.submit(plan, rename(&name, &name), true).await.expect("an edit");
    }
}

/// A report that the run of a plan node is half done.
pub(crate) fn halfway(revision: Revision) -> Progress {
    Progress {
        node_id: PlanNodeId::new("pier"),
        run_id: RunId::new("run"),
        state: ExecutionState::Processing,
        progress: Some(0.5),
        message: None,
        at: clock::now(),
        revision,
    }
}

pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if is_so().await {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("not within 200 s: {what}");
}

/// What a failover to a replica that lags leaves of a log. Answers the entry that is left.
async fn lose_all_but_the_beginning(node: &TestNode, plan: PlanId) -> LogEntry {
    // Around the log that can be told to fail.
    let log = &node.log.store;
    let first = log.range(plan, None, 1, Lane::Replay).await.expect("the log").entries.remove(0);
    log.delete(plan).await.expect("delete");
    let key = OperationKey::from_text("create");
    let again = Proposal { key, hash: first.hash, payload: Arc::clone(&first.payload), trace: None };
    log.create(plan, first.revision.epoch, again).await.expect("create");
    first
}

/// Two nodes of one store, a project with one plan, and handles to it on both.
async fn pair() -> (TestNode, TestNode, ProjectHandle, ProjectHandle, PlanId) {
    let store = Embedded::new();
    let (one, two) = (TestNode::start(&store, "one").await, TestNode::start(&store, "two").await);
    let here = one.projects.create_project("p", None, &ada()).await.expect("a project").project;
    let there = two.enter(here.id()).await;
    let plan = here.plan_id(None).await.expect("a plan");
    (one, two, here, there, plan)
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_is_told_every_change_once_also_from_the_log() {
    let (one, two, here, there, plan) = pair().await;
    let mut slow = there.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    let changes = limits::RING_CHANGES_MAX + 2 * limits::SUBSCRIPTION_QUEUE_EVENTS_MAX;
    rename_often(&here, plan, "n", changes).await;
    for seq in 1..=changes as u64 {
        match slow.next().await.expect("an event") {
            PlanEvent::Changed(applied) => assert_eq!((applied.revision().seq, applied.previous.seq), (seq, seq - 1)),
            other => panic!("a change, not {other:?}"),
        }
    }
    assert!(timeout(Duration::from_secs(5), slow.next()).await.is_err(), "nothing is told twice");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn all_who_come_back_at_the_time_share_one_reading_of_the_past() {
    const BACK: usize = 200;
    let (one, two, here, there, plan) = pair().await;
    // More than the log keeps, which is more than memory holds.
    let changes = KEPT_CHANGES as usize + 500;
    rename_often(&here, plan, "n", changes).await;
    there.read(plan).await.expect("a plan");
    let before = two.log.pages_read.load(Ordering::Relaxed);
    // Some were away longer than others, and one asks for a place that the log does not have.
    let epoch = there.read(plan).await.expect("a plan").revision().epoch;
    let user = ada();
    let from = changes as u64 - KEPT_CHANGES + 100;
    let back = (0..BACK as u64).map(|number| {
        let after = Revision { epoch, seq: from + number };
        there.follow(plan, &user, Start::After(after), false)
    });
    let lost = Start::After(Revision { epoch, seq: 5 });
    let (back, lost) = tokio::join!(futures_util::future::join_all(back), there.follow(plan, &user, lost, false));
    let told = lost.expect("follow").next().await;
    assert!(matches!(told, Ok(PlanEvent::Snapshot { .. })), "{told:?}");
    for (number, listener) in back.into_iter().enumerate() {
        let mut listener = listener.expect("follow");
        for seq in from + number as u64 + 1..=changes as u64 {
            match listener.next().await.expect("an event") {
                PlanEvent::Changed(applied) => assert_eq!(applied.revision().seq, seq),
                other => panic!("a change, not {other:?}"),
            }
        }
    }
    let read = two.log.pages_read.load(Ordering::Relaxed) - before;
    let once = changes.div_ceil(limits::LOG_PAGE_ENTRIES) + 1;
    assert!(read <= 3 * once, "{read} pages for {BACK} who came back; the past has {once}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_nobody_uses_closes_and_opens_again_in_full() {
    let (one, two, here, there, plan) = pair().await;
    rename_often(&there, plan, "n", 3).await;
    eventually("both plans are closed", async || one.bridge.open_plans() + two.bridge.open_plans() == 0).await;
    let mut events = here.follow(plan, &ada(), Start::Snapshot { reason: "asked" }, false).await.expect("follow");
    rename_often(&there, plan, "m", 2).await;
    assert!(matches!(events.next().await, Ok(PlanEvent::Snapshot { plan, .. }) if plan.revision().seq == 3));
    for seq in 4..=5 {
        assert!(matches!(events.next().await, Ok(PlanEvent::Changed(applied)) if applied.revision().seq == seq));
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_rests_from_its_first_check_on_whatever_changes_are_told() {
    let (one, two, here, there, plan) = pair().await;
    let mut events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    let feed = one.bridge.feed_of(plan).expect("it is open");
    let rest = || feed.rests().expected(plan).zip(feed.rests().seen(plan));
    eventually("it rests", async || rest().is_some()).await;
    for (editor, name) in [(&there, "a"), (&here, "b"), (&there, "c")] {
        tokio::time::advance(Duration::from_millis(10)).await;
        let (_, seen) = rest().expect("it rests");
        rename_often(editor, plan, name, 1).await;
        let Ok(PlanEvent::Changed(applied)) = events.next().await else { panic!("{name} is not told") };
        // No check is needed to know where the log must end, and none has seen it there.
        assert_eq!(rest(), Some((applied.head, seen)));
    }
    drop(events);
    eventually("it is closed", async || one.bridge.open_plans() == 0).await;
    eventually("nothing is left of its rest", async || rest().is_none()).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_hears_that_histories_parted_and_lost_changes_come_back() {
    let store = Embedded::new();
    let (one, two) = (TestNode::start(&store, "one").await, TestNode::start(&store, "two").await);
    let here = one.projects.create_project("p", None, &ada()).await.expect("a project").project;
    let plan = here.plan_id(None).await.expect("a plan");
    let mut slow = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    let told = limits::SUBSCRIPTION_QUEUE_EVENTS_MAX;
    let old = told + 10;
    rename_often(&here, plan, "old", old).await;
    // The log loses all but its beginning, and a node that knows nothing of it is the first to build on that.
    let first = lose_all_but_the_beginning(&one, plan).await;
    let there = two.enter(here.id()).await;
    rename_often(&there, plan, "new", 5).await;

    // Five of theirs, and all of ours behind them.
    let end = 5 + old as u64;
    let (mut last_of_old, mut is_told) = (0, false);
    let revision = loop {
        let revision = match slow.next().await.expect("an event") {
            PlanEvent::Changed(applied) => {
                assert!(is_told || applied.revision().epoch == first.revision.epoch, "a new epoch is told first");
                applied.revision()
            }
            PlanEvent::Snapshot { plan, .. } => {
                is_told = true;
                plan.revision()
            }
            PlanEvent::Progress(_) | PlanEvent::MembersChanged => continue,
        };
        if !is_told {
            last_of_old = revision.seq;
        } else if revision.seq == end {
            break revision;
        }
    };
    assert!(last_of_old >= told as u64, "what was queued is told before");
    assert!(revision.epoch > first.revision.epoch);
    for node in [&here, &there] {
        let has_it = async || {
            let plan = node.read(plan).await.expect("a plan");
            plan.revision() == revision && plan.metadata().name == Some(format!("old{old}"))
        };
        eventually("both nodes have it", has_it).await;
        let resumed = node.follow(plan, &ada(), Start::After(Revision { seq: 7, ..first.revision }), false).await;
        let event = resumed.expect("follow").next().await;
        assert!(matches!(event, Ok(PlanEvent::Snapshot { .. })), "7 was lost, and is another change now: {event:?}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_before_a_new_epoch_begins_is_told_the_plan_once() {
    let (one, two, here, there, plan) = pair().await;
    let _follower = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&here, plan, "old", 3).await;
    // What is lost here is offered again, which begins an epoch; the store takes its time for that.
    one.log.commit_takes_ms.store(60_000, Ordering::Relaxed);
    let first = lose_all_but_the_beginning(&one, plan).await;
    rename_often(&there, plan, "new", 1).await;
    let has_theirs = async || here.read(plan).await.expect("a plan").metadata().name.as_deref() == Some("new1");
    eventually("this node knows that histories parted", has_theirs).await;

    let start = Start::After(Revision { seq: 1, ..first.revision });
    let mut newcomer = here.follow(plan, &ada(), start, false).await.expect("follow");
    let Ok(PlanEvent::Snapshot { plan: told, .. }) = newcomer.next().await else {
        panic!("numbers are not to be trusted")
    };
    assert!(newcomer.caught_up().is_none(), "its place is good for nobody yet");
    let mut again = Following::resumed(here.clone(), plan, &ada(), Place::from(told.head()));
    assert!(timeout(Duration::from_secs(10), again.next()).await.is_err(), "it has that");
    for listener in [&mut newcomer, &mut again] {
        let event = timeout(Duration::from_secs(120), listener.next()).await.expect("the epoch begins");
        assert!(matches!(&event, Ok(PlanEvent::Snapshot { plan, .. }) if plan.revision().epoch > first.revision.epoch));
        assert!(listener.caught_up().is_some());
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_vanishes_is_put_back_and_nobody_hears_of_it() {
    let (one, two, here, there, plan) = pair().await;
    let mut events = there.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&here, plan, "n", 3).await;
    let head = there.read(plan).await.expect("a plan").head();
    one.backend.log.delete(plan).await.expect("delete");
    let is_back = async || store::state(&one.backend, plan).await.is_ok_and(|state| state.head == Some(head));
    eventually("it is put back", is_back).await;
    here.submit(plan, rename("next", "next"), true).await.expect("an edit");
    let first = here.submit(plan, rename("n2", "n2"), true).await.expect("a repeat");
    assert_eq!(first.revision.seq, 2, "its operations are remembered");
    for seq in 1..=4 {
        assert!(matches!(events.next().await, Ok(PlanEvent::Changed(applied)) if applied.revision().seq == seq));
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_newest_is_served_what_there_is_when_the_log_can_not_be_read() {
    let (one, two, here, there, plan) = pair().await;
    assert_eq!(there.read(plan).await.expect("a plan").revision().seq, 0);
    two.backend.pubsub.unsubscribe(Channel::Plan(plan)).await.expect("deaf");
    two.log.is_unreadable.store(true, Ordering::Relaxed);
    rename_often(&here, plan, "n", 2).await;
    let read = timeout(Duration::from_secs(30), there.read(plan)).await.expect("nobody hangs").expect("a plan");
    assert_eq!(read.revision().seq, 0);
    two.log.is_unreadable.store(false, Ordering::Relaxed);
    eventually("it has caught up", async || there.read(plan).await.is_ok_and(|plan| plan.revision().seq == 2)).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_the_time_share_a_question() {
    let (one, two, here, _, plan) = pair().await;
    here.read(plan).await.expect("a plan");
    let before = one.log.heads_asked.load(Ordering::Relaxed);
    let reads = (0..100).map(|_| here.read(plan));
    assert!(futures_util::future::join_all(reads).await.iter().all(Result::is_ok));
    let asked = one.log.heads_asked.load(Ordering::Relaxed) - before;
    // One under way, one for all who came meanwhile, and perhaps the regular check.
    assert!(asked <= 3, "{asked} questions");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_told_why_it_ends() {
    let (one, two, here, there, plan) = pair().await;
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    let bob = UserId::new("bob");
    one.projects.set_member(&access, &bob, Role::Viewer).await.expect("a member");
    two.projects.access(here.id(), &bob, Role::Viewer).await.expect("a member at once, everywhere");
    let mut bobs = there.follow(plan, &bob, Start::Next, false).await.expect("follow");
    let mut adas = there.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    one.projects.remove_member(&access, &bob).await.expect("removed");
    assert_eq!(timeout(Duration::from_secs(1), bobs.next()).await.expect("soon").err(), Some(Ended::Forbidden));
    one.projects.delete_project(&access).await.expect("deleted");
    assert_eq!(timeout(Duration::from_secs(3), adas.next()).await.expect("soon").err(), Some(Ended::Gone));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_no_member_wakes_no_project() {
    let store = Embedded::new();
    let (one, two) = (TestNode::start(&store, "one").await, TestNode::start(&store, "two").await);
    let project = one.projects.create_project("p", None, &ada()).await.expect("a project").project.id();
    let tasks = two.tasks.len();
    for user in ["eve", "bob"] {
        let refused = two.projects.access(project, &UserId::new(user), Role::Viewer).await.err();
        assert_eq!(refused, Some(OpenError::NotFound));
    }
    let nobody = two.projects.access(ProjectId(9_999), &ada(), Role::Viewer).await.err();
    assert_eq!((nobody, two.tasks.len()), (Some(OpenError::NotFound), tasks));
    two.enter(project).await;
    assert!(two.tasks.len() > tasks, "a member wakes it");
    let refused = two.projects.access(project, &UserId::new("eve"), Role::Viewer).await.err();
    assert_eq!(refused, Some(OpenError::NotFound), "of one that is awake as of one that sleeps");
    one.stop().await;
    two.stop().await;
}
