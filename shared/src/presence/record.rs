//! What nodes keep of one connection: in the store, and for each other.
//!
//! A connection belongs to one node at a time, and only that node changes its record, counting each change. A record
//! therefore has an order ([`Version`]): whoever holds two of them knows which is newer, however they travelled.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DocumentId, DocumentType, Position, Viewport};
use crate::{ConnectionId, NodeId, Timestamp, UserId};

/// How far the clocks of two nodes may differ, so that who resumes at one and then at the other is believed the order.
const CLOCKS_DIFFER_MS_MAX: u64 = 600_000;

/// One connection's presence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Whose presence this is.
    pub connection: ConnectionId,
    /// Which of its records this is, and which node has it.
    pub version: Version,
    /// Who is connected.
    pub user: UserId,
    /// Their name, as they gave it.
    pub name: Arc<str>,
    /// Their colour, as they gave it.
    pub color: Arc<str>,
    /// Whether they are a program.
    pub agent: bool,
    /// When they joined.
    pub joined: Timestamp,
    /// How present they are.
    pub status: Status,
    /// Whether they chose the status themselves; if not, it follows their activity.
    pub chosen: bool,
    /// When they last did something, as far as records go; cursor moves tell newer times.
    pub last_active: Timestamp,
    /// What proves the right to take this connection over: the hash of a secret that only the client has.
    pub resume_hash: Arc<str>,
    /// Cursor moves so far. Orders positions within one version's node and generation.
    pub moves: u64,
    /// The document they are in.
    pub place: Option<Place>,
}

/// Somebody's place in a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The document.
    pub document: DocumentId,
    /// Its type, as they opened it.
    pub kind: DocumentType,
    /// When somebody said that it is of this type. `None`: nobody did; they joined with the document's name alone, and
    /// nobody was in it.
    #[serde(default)]
    pub said_at: Option<Timestamp>,
    /// Since when they are in it.
    pub entered: Timestamp,
    /// When they last did something in it.
    pub last_active: Timestamp,
    /// Where their cursor is.
    pub position: Option<Position>,
    /// The plan node they have selected.
    pub selected: Option<Arc<str>>,
    /// What they look at.
    pub viewport: Option<Viewport>,
    /// The client's own time of the last move, in milliseconds.
    pub moved_at_ms: i64,
}

/// The order of a connection's records: first by when it was last taken over, then (two nodes may take it over at once)
/// by node, then by the node's own count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// When the connection was last resumed, in milliseconds since 1970, or a little later if that was not later than
    /// the time before; 0 if it never was. A count would not do: who takes a connection over may not have heard of the
    /// one before, and must win all the same.
    pub generation: u64,
    /// The node that has the connection.
    pub node: NodeId,
    /// The node's changes to the record since it has the connection.
    pub seq: u64,
}

impl Place {
    /// Somebody said that the document is of this type. What was pointed at in another type of document is nowhere in it.
    pub fn become_of(&mut self, kind: DocumentType, said_at: Option<Timestamp>) {
        if self.kind != kind {
            (self.position, self.selected, self.viewport) = (None, None, None);
        }
        (self.kind, self.said_at) = (kind, said_at);
    }
}

impl Version {
    /// Of a connection that just joined at `node`.
    #[must_use]
    pub fn first(node: NodeId) -> Self {
        Self { generation: 0, node, seq: 0 }
    }

    /// After another change by the same node.
    #[must_use]
    pub fn changed(&self) -> Self {
        Self { generation: self.generation, node: self.node.clone(), seq: self.seq + 1 }
    }

    /// After `node` took the connection over, from a client that had heard of the generation `heard`.
    #[must_use]
    pub fn taken_over(&self, node: NodeId, at: Timestamp, heard: u64) -> Self {
        let at_ms = u64::try_from(at.unix_ms).unwrap_or_default();
        // Clients may say what they like, but not that they come from the future.
        let heard = heard.min(at_ms.saturating_add(CLOCKS_DIFFER_MS_MAX));
        Self { generation: at_ms.max(self.generation.max(heard) + 1), node, seq: 0 }
    }
}

/// How present somebody is. Ordered: a user with several connections is as present as the most present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Doing things.
    Active,
    /// Silent for a while.
    Idle,
    /// Not there, by their own word.
    Away,
}

impl Status {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Away => "away",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_is_newer_than_anything_the_former_node_still_says() {
        let former = Version::first(NodeId::new("z.1"));
        let taken = former.taken_over(NodeId::new("a.1"), Timestamp::from_unix_ms(5), 0);
        assert!(taken > former.changed().changed());
        assert!(taken.changed() > taken);
    }

    #[test]
    fn of_two_takeovers_that_know_nothing_of_each_other_the_later_is_newer() {
        let joined = Version::first(NodeId::new("m.1"));
        let (sooner, later) = (Timestamp::from_unix_ms(1_000), Timestamp::from_unix_ms(2_000));
        let lost = joined.taken_over(NodeId::new("z.1"), sooner, 0);
        let taken = joined.taken_over(NodeId::new("a.1"), later, 0);
        assert!(taken > lost);
        assert!(taken.taken_over(NodeId::new("a.2"), sooner, 0) > taken, "also by a clock that is behind");
        let told = joined.taken_over(NodeId::new("a.2"), sooner, taken.generation);
        assert!(told > taken, "also if only the client knows of the one before");
        assert!(joined.taken_over(NodeId::new("a.1"), sooner, u64::MAX).generation < u64::MAX / 2);
    }
}
