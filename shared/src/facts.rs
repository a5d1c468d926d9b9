//! What a node tells an operator of itself and of the Redis it sees: the body of `GET /admin/facts`.
//!
//! Facts only: whether one is good is judged by who can compare all nodes. Never a secret, nor anything that a secret could be
//! found from: keys are told by their kind, and whether two nodes have the same ones is found out by showing both one token.
//! What could not be learned is told as such, with the reason. A field that is absent is one that this version does not tell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// All that a node tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// Who it is, and where.
    pub node: NodeFacts,
    /// Its clock when it answered, in milliseconds since 1970.
    pub now_ms: i64,
    /// Whether it should get new connections.
    pub ready: bool,
    /// The checks behind that, and what is only told.
    pub checks: Vec<CheckFact>,
    /// What it thinks of the token that came with the question; absent if none came.
    pub token: Option<TokenFact>,
    /// How it judges tokens.
    pub keys: KeyFacts,
    /// The ids of the nodes whose lease it sees, its own included; absent while the store does not answer.
    pub sees: Option<Vec<String>>,
    /// Settings in force that should be the same on all nodes, by their environment variables.
    pub settings: BTreeMap<String, String>,
    /// What the system gives it.
    pub resources: Resources,
    /// What waits in it.
    pub queues: Queues,
    /// The Redis it uses; absent for the embedded store.
    pub redis: Option<RedisFacts>,
}

/// Who a node is, and where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFacts {
    /// This life of it.
    pub id: String,
    /// Its name, which outlives a restart.
    pub name: String,
    /// The version it runs.
    pub version: String,
    /// Where it listens for clients, `address:port`.
    pub listen: String,
    /// Where it listens for operators.
    pub admin_listen: String,
    /// Where others are told to find it.
    pub advertise: String,
    /// Whether it runs with `--dev`.
    pub is_dev: bool,
    /// Its certificate; absent: plain HTTP.
    pub tls: Option<TlsFact>,
}

/// The certificate of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsFact {
    /// When the first of its chain expires; absent: that could not be read.
    pub expires_at: Option<Timestamp>,
}

/// One check of a node's readiness.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckFact {
    /// Its name.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What an operator should know about it.
    pub detail: String,
}

/// What a node thinks of a token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenFact {
    /// Whether it takes it.
    pub taken: bool,
    /// Why not, in words that hold nothing of the token.
    pub why: Option<String>,
}

/// How a node judges tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyFacts {
    /// The setting the keys come from.
    pub source: String,
    /// Whether a shared secret is shorter than the hash it is used with, so that it is the weaker part.
    pub is_short: bool,
    /// Whether a second secret is taken as well.
    pub has_next: bool,
}

/// What the system gives a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Files and sockets it may have open.
    pub file_descriptors_max: Option<u64>,
    /// Connections it would take.
    pub connections_max: u64,
    /// Bytes of memory its group may use; absent: no limit is set, or it could not be read.
    pub memory_max_bytes: Option<u64>,
    /// Bytes of memory it holds.
    pub memory_bytes: Option<u64>,
}

/// What waits in a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Queues {
    /// Bytes that wait for sockets to take them.
    pub send_bytes: u64,
    /// Projects that run there, each an actor.
    pub actors: u64,
    /// Commands that wait in their mailboxes, in all.
    pub mailbox_commands: u64,
    /// Commands in the fullest one.
    pub mailbox_fullest: u64,
}

/// A Redis as a node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisFacts {
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: String,
    /// The number of the database.
    pub database: u8,
    /// The function library that this node calls.
    pub library: String,
    /// How long an answer took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// By how much its clock is ahead of the node's, in milliseconds, as far as `latency_ms` lets that be known.
    pub clock_ahead_ms: Option<f64>,
    /// What `INFO` says, by the names there: a closed list of those that matter.
    pub info: BTreeMap<String, String>,
    /// What `CONFIG GET` says, likewise.
    pub config: BTreeMap<String, String>,
    /// What could not be learned.
    pub unknown: Vec<Unknown>,
    /// Where the server is, `host:port`.
    pub address: String,
    /// Slots of a cluster that it serves; 0 where there are none.
    pub slots: u32,
    /// Slots that no server is known to serve: told of the first server alone.
    pub uncovered_slots: u32,
    /// The other servers of a cluster. The first is the one that has the nodes' leases.
    pub others: Vec<RedisFacts>,
}

/// Something that could not be learned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unknown {
    /// What: `info`, `config` or `clock`.
    pub what: String,
    /// Why.
    pub because: String,
}
