//! The promise: whatever the subscription loses, a node's listeners miss nothing, and it costs one read per open plan.
//!
//! Two nodes of one Redis: one writes, the other listens and can be cut from what is published. How often logs were read is
//! told by the server.

use std::sync::Arc;
use std::time::Duration;

use mille_core::PlanBounds;
use mille_node::backend::redis::RedisSettings;
use mille_node::backend::{Backend, Channel, Retention, Shard};
use mille_node::bridge::Bridge;
use mille_node::clock;
use mille_node::metrics::Metrics;
use mille_node::project::presence::PresenceSettings;
use mille_node::project::{Following, PlanEvent, PlanSettings, ProjectHandle, Projects, ProjectsConfig, Start};
use mille_shared::directory::Role;
use mille_shared::operation::{Edit, Operation};
use mille_shared::{ClientId, NodeId, OperationId, PlanId, UserId, limits};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kit::{PATIENCE, Proxy, Server, eventually};

/// Open plans.
const PLANS: usize = 3;
/// How long the outage lasts.
const OUTAGE: Duration = Duration::from_secs(3);
/// Time between two changes of a plan: together a hundred a second. What is missed must fit a listener's queue, or it
/// resumes, which is another story.
pub(crate) const PACE: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_subscription_costs_one_read_per_plan() {
    let server = Server::start().await;
    let proxy = Proxy::to(&server).await;
    let stop = CancellationToken::new();
    let (writing, _) = node("writing", server.connect().await, &stop).await;
    let behind_proxy = server.connect_with(RedisSettings::at(proxy.url())).await;
    let (listening, metrics) = node("listening", behind_proxy, &stop).await;

    let access = writing.create_project("p", None, &ada()).await.expect("a project");
    let mut plans = vec![access.project.plan_id(None).await.expect("its first plan")];
    for _ in 1..PLANS {
        plans.push(writing.create_plan(&access, "another").await.expect("a plan").id);
    }
    let there = listening.access(access.project.id(), &ada(), Role::Owner).await.expect("access").project;
    let mut listeners = Vec::new();
    for plan in &plans {
        let following = there.follow(*plan, &ada(), Start::Next, false).await.expect("followed");
        let heard = watch::Sender::new(0);
        listeners.push(heard.subscribe());
        tokio::spawn(listen(following, heard));
    }

    let writing_on = CancellationToken::new();
    let writers: Vec<_> =
        plans.iter().map(|plan| tokio::spawn(write(access.project.clone(), *plan, writing_on.clone()))).collect();
    hears(&mut listeners, 10).await;
    let reads = reads(&server);
    proxy.close_to_subscriptions(true);
    // What is on its way still comes; then nothing, however often the node tries to connect.
    let began = *listeners[0].borrow();
    assert!(timeout(OUTAGE, hears(&mut listeners, began + 20)).await.is_err(), "the outage was none");
    proxy.close_to_subscriptions(false);
    hears(&mut listeners, began + 90).await;

    writing_on.cancel();
    for writer in writers {
        writer.await.expect("it wrote");
    }
    for (plan, heard) in plans.iter().zip(&mut listeners) {
        let last = access.project.read(*plan).await.expect("the plan").revision().seq;
        hears(std::slice::from_mut(heard), last).await;
    }
    let reads = self::reads(&server) - reads;
    assert!(reads <= PLANS, "{reads} reads of {PLANS} plans\n{}", metrics.render());
    stop.cancel();
}

/// Nothing follows the message that was lost, so no hole shows it: the head checks do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_last_message_is_repaired_within_two_seconds() {
    let server = Server::start().await;
    let stop = CancellationToken::new();
    let (writing, _) = node("writing", server.connect().await, &stop).await;
    let backend = server.connect().await;
    let (listening, _) = node("listening", backend.clone(), &stop).await;
    let access = writing.create_project("p", None, &ada()).await.expect("a project");
    let plan = access.project.plan_id(None).await.expect("its first plan");
    let there = listening.access(access.project.id(), &ada(), Role::Owner).await.expect("access").project;
    let following = there.follow(plan, &ada(), Start::Next, false).await.expect("followed");
    let heard = watch::Sender::new(0);
    let mut listener = [heard.subscribe()];
    tokio::spawn(listen(following, heard));

    backend.pubsub.unsubscribe(Channel::Plan(plan)).await.expect("deaf for this plan");
    for seq in 1..=3 {
        access.project.submit(plan, rename(plan, seq), true).await.expect("an edit");
        let lost = Instant::now();
        hears(&mut listener, seq).await;
        // A busy machine gets a little more.
        assert!(lost.elapsed() < Duration::from_millis(2_300), "{:?}", lost.elapsed());
    }
    stop.cancel();
}

/// The connection lives and answers, and what this node sends itself does not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_lost_its_channels_is_made_anew() {
    let server = Server::start().await;
    let (stop, metrics) = (CancellationToken::new(), Arc::new(Metrics::new()));
    let backend = server.connect_observed(RedisSettings::at(server.url()), metrics.clone()).await;
    let (_listening, bridge_metrics) = node("listening", backend.clone(), &stop).await;
    let told = "bridge_interruptions_total 1\n";
    eventually("it is told of", async || {
        // Also if it begins to listen only now.
        backend.pubsub.unsubscribe(Channel::Probe(Shard::ONLY)).await.expect("deaf");
        bridge_metrics.render().contains(told).then_some(())
    })
    .await;
    assert!(
        metrics.render().contains("redis_reconnects_total{connection=\"subscription\"} 1\n"),
        "{}",
        metrics.render()
    );
    stop.cancel();
}

/// A node without a gateway.
pub(crate) async fn node(name: &str, backend: Backend, stop: &CancellationToken) -> (Projects, Arc<Metrics>) {
    let (tasks, metrics) = (TaskTracker::new(), Arc::new(Metrics::new()));
    let (bridge, controls) = Bridge::start(backend.clone(), metrics.clone(), &tasks, stop).await.expect("a bridge");
    let retention = Retention { changes: 100_000, age: Duration::ZERO, changes_max: u64::MAX };
    let config = ProjectsConfig {
        node: NodeId::of(name, "1"),
        backend,
        bridge,
        metrics: metrics.clone(),
        plans: PlanSettings {
            bounds: PlanBounds::default(),
            snapshot_every: 100_000,
            retention,
            commit_moment_max: limits::COMMIT_MOMENT,
            recent_bytes_max: limits::RECENT_CHANGES_BYTES_MAX,
        },
        presence: PresenceSettings::default(),
        idle_timeout: Duration::from_secs(3_600),
        lifetime: Duration::from_secs(3_600),
        sweep: Duration::from_secs(60),
    };
    let projects = Projects::new(config, tasks.clone(), stop.clone());
    tasks.spawn(projects.clone().serve_control(controls));
    (projects, metrics)
}

pub(crate) fn ada() -> UserId {
    UserId::new("ada")
}

/// Changes a plan at a steady pace.
async fn write(project: ProjectHandle, plan: PlanId, stop: CancellationToken) {
    let mut pace = interval(PACE);
    for number in 0_u64.. {
        if stop.run_until_cancelled(pace.tick()).await.is_none() {
            return;
        }
        project.submit(plan, rename(plan, number), true).await.expect("an edit");
    }
}

pub(crate) fn rename(plan: PlanId, number: u64) -> Operation {
    Operation {
        id: OperationId::new(format!("{plan}-{number}")),
        user_id: ada(),
        client_id: ClientId::none(),
        at: clock::now(),
        expected_revision: None,
        edits: vec![Edit::UpdateMetadata { name: Some(Some(number.to_string())), description: None }],
    }
}

/// Tells the number of the last change heard. Ends at whatever is no change, or does not follow.
pub(crate) async fn listen(mut following: Following, heard: watch::Sender<u64>) {
    while let Ok(PlanEvent::Changed(applied)) = following.next().await {
        let follows = applied.previous.seq == *heard.borrow() && applied.revision().seq == applied.previous.seq + 1;
        if !follows || heard.send(applied.revision().seq).is_err() {
            return;
        }
    }
}

/// Waits until every listener has heard of the change with this number.
pub(crate) async fn hears(listeners: &mut [watch::Receiver<u64>], seq: u64) {
    for heard in listeners {
        let heard = timeout(PATIENCE, heard.wait_for(|heard| *heard >= seq)).await;
        heard.expect("in time").expect("each change follows the one before");
    }
}

/// How many pages of logs the server read so far.
fn reads(server: &Server) -> usize {
    let stats = server.say("INFO commandstats").expect("an answer");
    let calls = stats.split("cmdstat_xrange:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}
