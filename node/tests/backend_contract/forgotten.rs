//! A server of a cluster comes back with nothing. For a cluster alone.

use crate::kit::is_chosen;
use crate::shards::{Bench, HOME, log_of};
use crate::topologies::Cluster;

/// What nodes know of its plans is put back where the rest of the cluster knows whose they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_whose_server_forgot_everything_is_put_back() {
    if !is_chosen("cluster") {
        return;
    }
    let cluster = Cluster::start(0).await;
    let reader = cluster.connect().await;
    let bench = Bench::begin(cluster.connect().await, cluster.connect().await).await;
    let project = bench.project.id();
    let elsewhere =
        [HOME.to_owned(), format!("mille:{{project:{project}}}:record")].map(|key| cluster.primary_of(&key));
    let forgotten = bench.plan_with(|plan| !elsewhere.contains(&cluster.primary_of(&log_of(plan)))).await;
    let mut goes_on = bench.traffic(forgotten).await;
    // Until the lives of all servers are settled, as they are unless a node has just begun.
    goes_on.goes_on(100).await;
    let server = &cluster.servers[cluster.primary_of(&log_of(forgotten))];
    assert_eq!(server.say("FLUSHALL").expect("an answer"), "+OK\r\n");
    goes_on.goes_on(100).await;
    goes_on.ends().await;
    let found = reader.directory.plan(forgotten).await.expect("an answer");
    assert_eq!(found.map(|plan| plan.project_id), Some(project), "it is found by its id");
}
