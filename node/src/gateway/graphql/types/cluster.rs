//! The cluster, as an operator sees it.

use async_graphql::{Enum, SimpleObject};

use crate::backend::StoreStatus;
use crate::cluster::{ClusterView, NodeView};

/// The nodes that are alive and the store they share.
#[derive(SimpleObject)]
pub(crate) struct ClusterStatus {
    /// Every node whose lease holds, ordered by id.
    nodes: Vec<ClusterNode>,
    /// The store, as the asked node sees it.
    redis: RedisStatus,
}

impl From<ClusterView> for ClusterStatus {
    fn from(view: ClusterView) -> Self {
        Self { nodes: view.nodes.into_iter().map(ClusterNode::from).collect(), redis: view.redis.into() }
    }
}

/// One process of the cluster.
#[derive(SimpleObject)]
struct ClusterNode {
    /// Name and incarnation: a restarted node is a new one.
    id: String,
    /// Where its listener is.
    address: String,
    /// The version of its program.
    version: String,
    /// When it started, RFC 3339 UTC.
    started_at: String,
    /// Whether it takes connections.
    state: NodeState,
    /// Sockets it has.
    connections: i32,
    /// Subscriptions that run on them.
    subscriptions: i32,
    /// Plans it has open.
    plans: i32,
    /// How long the store last took to answer it, in milliseconds: changes reach it no sooner.
    lag_ms: f64,
}

impl From<NodeView> for ClusterNode {
    fn from(node: NodeView) -> Self {
        Self {
            id: node.id.to_string(),
            address: node.address,
            version: node.version,
            started_at: node.started_at.to_string(),
            state: node.state.into(),
            connections: node.load.connections,
            subscriptions: node.load.subscriptions,
            plans: node.load.plans,
            lag_ms: node.lag_ms,
        }
    }
}

/// Whether a node takes connections.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "crate::cluster::NodeState")]
enum NodeState {
    /// It serves.
    Up,
    /// It has missed heartbeats and is gone soon unless it is heard again.
    Suspect,
    /// It is being taken out: it ends what it has and takes nothing new.
    Draining,
}

/// The store that the nodes share.
#[derive(SimpleObject)]
struct RedisStatus {
    /// `embedded`, `standalone`, `sentinel` or `cluster`.
    mode: String,
    /// The server's version.
    version: String,
    /// `master` or `replica`.
    role: String,
    /// Whether it answers.
    connected: bool,
    /// How long it takes to answer, in milliseconds. Absent while it does not.
    latency_ms: Option<f64>,
}

impl From<StoreStatus> for RedisStatus {
    fn from(status: StoreStatus) -> Self {
        Self {
            mode: status.mode,
            version: status.version,
            role: status.role,
            connected: status.connected,
            latency_ms: status.latency_ms,
        }
    }
}
