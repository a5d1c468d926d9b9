//! The kit that looks at a cluster from outside.
//!
//! A test describes a cluster, lets people act on it, and says what must be true in the end:
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use mille_tests::Cluster;
//!
//! let cluster = Cluster::of(3).start().await?;
//! let ada = cluster.user(0, "ada");
//! let harbour = ada.create_project("harbour").await?;
//! let mut deltas = cluster.user(2, "ada").socket().await?.follow(&harbour, None).await?;
//! ada.add_node(&harbour, "TransformNode", "clean").await?;
//! let delta = deltas.value("planDagDeltaChanged").await?;
//! assert_eq!(delta["kind"], "DELTA");
//! # Ok(())
//! # }
//! ```
//!
//! The rule it keeps: nodes and Redis are separate processes, reached as any client reaches them. The kit
//! imports no crate of the node, so a mistake there is not repeated here. It waits for states, never for a
//! while: [`eventually`] is the only place that polls. What a test breaks it breaks from outside too: a process by a
//! signal, a node's line to Redis by a [`Proxy`].
//!
//! Settings, all optional: `MILLE_NODE_BIN` (the node's binary), `MILLE_TESTS_PATIENCE` (a factor on every
//! wait, for slow machines), `MILLE_TESTS_SEED` (repeats a random run), `MILLE_TESTS_KEEP` (keeps the
//! directories with the logs), `MILLE_TEST_REDIS` (how Redis stands: see [`Topology`]).

mod client;
mod cluster;
mod collector;
mod desk;
pub mod documents;
mod load_balancer;
mod mille;
mod patience;
mod people;
mod plan_rules;
mod presence;
mod process;
mod proxy;
mod redis;
mod replica;
mod resp;
mod secured_redis;
mod socket;
mod store;
mod stream;
mod tls;
mod token;
mod wire;

pub use client::{Answer, Client, Failure, Refusal, refused};
pub use cluster::{Builder, Cluster, clean_command, last_words, mille_binary, node_binary};
pub use collector::{Collector, Mood, SpanTold};
pub use desk::Desk;
pub use load_balancer::LoadBalancer;
pub use mille::{Said, mille, mille_ok};
pub use patience::{eventually, patience, seed, soon, within};
pub use people::{Project, edge_input, node_input};
pub use plan_rules::{broken_rules, same_value};
pub use presence::{Knock, PresenceSocket};
pub use process::{Exit, Process, free_port};
pub use proxy::Proxy;
pub use redis::{
    Entry, MASTER_NAME, NODES_PASSWORD, NODES_USER, Redis, RedisCluster, RedisSentinels, Setup, ask_redis,
};
pub use replica::{Replica, Revision};
pub use resp::Reply;
pub use secured_redis::{NODE_PASSWORD, NODE_PASSWORD_IN_URL, SecuredRedis};
pub use socket::{Event, Socket, Subscription};
pub use store::{Store, Topology};
pub use stream::EventStream;
pub use tls::{Authority, Pair, Tunnel, path_text};
pub use token::{SECRET, Token};
pub use wire::{Closing, Frame, KEPT_UNREAD_BYTES_MAX, RawSocket, Upgrade};
