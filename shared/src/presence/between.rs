//! What nodes tell each other on a project's channel.
//!
//! Messages may be lost, doubled and reordered; each says enough to be recognised as old. What was lost is found by
//! [`Body::Digest`] and made good by [`Body::Ask`] and [`Body::Everyone`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DocumentId, Position, Record, Version, Viewport};
use crate::{ConnectionId, NodeId, Timestamp};

/// One message of one node to all who have the project open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMessage {
    /// Who says it.
    pub from: NodeId,
    /// Grows with every message of that node in this project, also over restarts of its actor.
    pub stamp: u64,
    /// What it says.
    pub body: Body,
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "d", rename_all = "snake_case")]
pub enum Body {
    /// Somebody is here: joined, resumed, or changed.
    Here(Box<Record>),
    /// Somebody is gone.
    Left {
        /// Which connection.
        connection: ConnectionId,
        /// The version after its last: what is older counts no more.
        version: Version,
    },
    /// The newest positions of everyone who moved since the last such message.
    Cursors {
        /// Who moved where.
        moves: Vec<CursorMove>,
    },
    /// A check sum over everyone the node has, said now and then. Also an answer to "are you there".
    Digest {
        /// How many they are.
        connections: u32,
        /// Their versions and move counts, as last told.
        sum: u64,
        /// Whether the node wants cursor moves although it has no connections.
        watching: bool,
        /// A sum over when each did something last, as told with this. `None`: the node is of an earlier version.
        #[serde(default)]
        active: Option<u64>,
        /// Who did something since it was last told, and did not only move.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        acted: Vec<Activity>,
    },
    /// Asks one node for everyone it has.
    Ask {
        /// Which node.
        node: NodeId,
    },
    /// Everyone the node has. Whoever is missing is gone.
    Everyone(Vec<Record>),
    /// The node is going. Its people are on their way to others and keep their places for the grace.
    Departing,
}

/// When somebody last did something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Who.
    #[serde(rename = "c")]
    pub connection: ConnectionId,
    /// The connection's generation, so that what a former node says is known as such.
    #[serde(rename = "g")]
    pub generation: u64,
    /// When, by the node's clock.
    #[serde(rename = "a")]
    pub at: Timestamp,
}

/// One cursor's newest position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CursorMove {
    /// Whose.
    #[serde(rename = "c")]
    pub connection: ConnectionId,
    /// The connection's generation, so that a former node's moves are known as such.
    #[serde(rename = "g")]
    pub generation: u64,
    /// How many moves it made: the larger is newer.
    #[serde(rename = "n")]
    pub moves: u64,
    /// The document it is in.
    #[serde(rename = "d")]
    pub document: DocumentId,
    /// Where.
    #[serde(rename = "p")]
    pub position: Option<Position>,
    /// The plan node selected.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Arc<str>>,
    /// What they look at.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub viewport: Option<Viewport>,
    /// When it was made, by the node's clock.
    #[serde(rename = "a")]
    pub at: Timestamp,
    /// The client's own time of the move, in milliseconds.
    #[serde(rename = "t")]
    pub moved_at_ms: i64,
}
