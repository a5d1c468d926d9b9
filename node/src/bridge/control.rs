//! What concerns every node: membership, plans and deletions.
//!
//! A message only says that something changed; what it is now is read from the directory. So a lost or doubled message
//! does no harm beyond delay.

use bytes::Bytes;
use mille_shared::ProjectId;
use serde::{Deserialize, Serialize};

/// What one node tells all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ControlMessage {
    /// A project's members or plans are others now.
    ProjectChanged {
        /// Which project.
        project: ProjectId,
    },
    /// A project is gone.
    ProjectDeleted {
        /// Which project.
        project: ProjectId,
    },
}

/// What the registry hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A node told something.
    Told(ControlMessage),
    /// Some may have been lost.
    Interrupted,
}

impl ControlMessage {
    /// The message on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a message. `None`: it is of a kind this version does not know.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}
