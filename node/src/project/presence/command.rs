//! What others ask of a project's presence.

use mille_core::presence::{Census, Join, SeatId};
use mille_shared::presence::client::CursorUpdate;
use mille_shared::presence::{DocumentId, DocumentType, Status, UserPresence, Viewport};
use tokio::sync::oneshot;

use super::outbox::PresenceOutbox;
use super::watch::PresenceWatch;

/// One request to a project's presence. Those of a seat are followed in the order in which they are sent.
#[derive(Debug)]
pub enum PresenceCommand {
    /// Lets somebody in.
    Join {
        /// Who, and where to.
        join: Box<Join>,
        /// Takes their frames; it is dropped by its reader when they are gone.
        outbox: PresenceOutbox,
    },
    /// Somebody who has a seat joins once more, perhaps under another name. Their outbox stays.
    JoinAgain {
        /// Who.
        join: Box<Join>,
    },
    /// Opens a document.
    SwitchDocument {
        /// Whose.
        seat: SeatId,
        /// Which.
        document: DocumentId,
        /// What it is.
        kind: DocumentType,
    },
    /// Moves a cursor. May be dropped when there is no room for it: the next one replaces it.
    MoveCursor {
        /// Whose.
        seat: SeatId,
        /// Where to.
        update: Box<CursorUpdate>,
    },
    /// Looks at another part of a document.
    MoveViewport {
        /// Whose.
        seat: SeatId,
        /// In which document.
        document: DocumentId,
        /// What they see.
        viewport: Viewport,
    },
    /// Says how present somebody is.
    UpdateStatus {
        /// Whose.
        seat: SeatId,
        /// How.
        status: Status,
    },
    /// Answers `pong`, after everything that earlier frames caused.
    Ping {
        /// Whose.
        seat: SeatId,
    },
    /// Sends the whole picture again.
    Refresh {
        /// To whom.
        seat: SeatId,
    },
    /// Somebody goes, at once.
    Leave {
        /// Who.
        seat: SeatId,
    },
    /// Somebody's socket is gone; they keep their place for the grace.
    Lost {
        /// Who.
        seat: SeatId,
    },
    /// Everyone present, over all nodes.
    Users {
        /// Gets them.
        reply: oneshot::Sender<Vec<UserPresence>>,
    },
    /// How many are present where.
    Census {
        /// Gets it.
        reply: oneshot::Sender<Census>,
    },
    /// Tells of joins, leaves and cursor moves from now on.
    Watch {
        /// Gets the events.
        reply: oneshot::Sender<PresenceWatch>,
    },
}

impl PresenceCommand {
    /// Whose it is, if it is that of a seat.
    #[must_use]
    pub fn seat(&self) -> Option<SeatId> {
        match self {
            Self::Join { join, .. } | Self::JoinAgain { join } => Some(join.seat),
            Self::SwitchDocument { seat, .. }
            | Self::MoveCursor { seat, .. }
            | Self::MoveViewport { seat, .. }
            | Self::UpdateStatus { seat, .. }
            | Self::Ping { seat }
            | Self::Refresh { seat }
            | Self::Leave { seat }
            | Self::Lost { seat } => Some(*seat),
            Self::Users { .. } | Self::Census { .. } | Self::Watch { .. } => None,
        }
    }

    /// Whether the next of its kind makes it void, so that it may be dropped when there is no room.
    #[must_use]
    pub fn is_replaceable(&self) -> bool {
        matches!(self, Self::MoveCursor { .. } | Self::MoveViewport { .. })
    }
}
