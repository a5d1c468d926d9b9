//! What concerns every node: membership, plans and deletions, and tokens that were revoked.
//!
//! A message either says that something changed, which is then read from the directory, or says all there is to know. So a
//! lost or doubled message does no harm beyond delay.

use bytes::Bytes;
use mille_shared::revocation::Revocation;
use mille_shared::{ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

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
    /// Tokens count no more.
    TokensRevoked {
        /// Which.
        revocation: Revocation,
        /// When they have expired, so that it can be forgotten.
        until: Timestamp,
    },
}

/// What one who acts on control messages hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A node told something.
    Told(ControlMessage),
    /// Some may have been lost.
    Interrupted,
}

/// The line of one who acts on control messages.
#[derive(Debug)]
pub struct Controls(broadcast::Receiver<Control>);

impl Controls {
    pub(super) fn new(line: broadcast::Receiver<Control>) -> Self {
        Self(line)
    }

    /// The next one; `None` when the node stops. Who is too slow is told that some were lost.
    pub async fn next(&mut self) -> Option<Control> {
        match self.0.recv().await {
            Ok(control) => Some(control),
            Err(RecvError::Lagged(_)) => Some(Control::Interrupted),
            Err(RecvError::Closed) => None,
        }
    }

    /// The line of another one, from here on.
    #[must_use]
    pub fn another(&self) -> Self {
        Self(self.0.resubscribe())
    }
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
