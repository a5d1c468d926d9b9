//! What goes into the machine beside frames, and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::presence::record::Record;
use mille_shared::presence::{DocumentId, NodeMessage, Position};
use mille_shared::{CloseCode, ConnectionId, NodeId, Timestamp, UserId};

/// When something happens: on a clock that never goes back, for deadlines, and on the wall, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since some fixed moment of this process.
    pub at: Duration,
    /// The time of day.
    pub wall: Timestamp,
}

/// One socket of this node, or one GraphQL session that joined. A connection that is resumed keeps its id and changes its
/// seat, so what is said late on an old seat means nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(pub u64);

/// What must be done. In order, before anything else is put into the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Give a frame to seats; every one the same. It is a part of the picture: whoever was too slow for it is
    /// [refreshed](super::Presence::refresh).
    Send {
        /// To whom.
        to: To,
        /// The frame's text.
        frame: Arc<str>,
    },
    /// Give a seat the whole picture, in frames that go together. Whatever of the picture waits for it is void.
    Picture {
        /// Whose.
        seat: SeatId,
        /// The frames' texts, in order.
        frames: Vec<Arc<str>>,
    },
    /// Give a frame to a seat that nothing makes good if it is dropped.
    Reply {
        /// To whom.
        seat: SeatId,
        /// The frame's text.
        frame: Arc<str>,
    },
    /// Give cursors to everyone in their document. A newer batch may replace an older one that waits.
    Cursors(Arc<CursorFrame>),
    /// A connection's cursor is not in that document any more: nobody is to be shown it after what comes next.
    Hide {
        /// The document.
        document: DocumentId,
        /// Whose.
        connection: ConnectionId,
    },
    /// Close a seat's socket.
    Close {
        /// Which.
        seat: SeatId,
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: &'static str,
    },
    /// Tell the other nodes.
    Publish(NodeMessage),
    /// Keep a record in this node's table.
    Store {
        /// Under which field.
        connection: ConnectionId,
        /// The record.
        record: Box<Record>,
    },
    /// Take a record out of a node's table.
    Forget {
        /// Whose table.
        node: NodeId,
        /// Which field.
        connection: ConnectionId,
    },
    /// Read all tables and bring them with [`loaded`](super::Presence::loaded).
    Load,
    /// Tell those who watch the project's people.
    Happened(Event),
    /// Count a connection that went without having left.
    Expired(Expiry),
}

/// Why a connection went that did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Its socket was lost, and nobody took its place within the grace.
    Grace,
    /// Its node died.
    NodeGone,
    /// Its node does not have it any more, and the word that said so was lost.
    Missed,
}

impl Expiry {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Grace, Self::NodeGone, Self::Missed];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grace => "grace",
            Self::NodeGone => "node_gone",
            Self::Missed => "missed",
        }
    }
}

/// The seats a frame is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// That one.
    One(SeatId),
    /// Everyone who joined at this node, except at most one.
    EveryoneBut(Option<SeatId>),
    /// Everyone at this node who is in the document.
    Viewers(DocumentId),
}

/// A batch of cursors of one document: the frame for those who keep up, and its parts for those who don't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorFrame {
    /// The document.
    pub document: DocumentId,
    /// The frame, shared by all who get it.
    pub text: Arc<str>,
    /// Each cursor's own text, so that batches can be put together, newest wins. In the order of the connections.
    pub cursors: Vec<(ConnectionId, Arc<str>)>,
}

/// What happened to a project's people, for those who watch without being there.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A user came online.
    Joined {
        /// Who.
        user: UserId,
        /// Their name.
        name: Arc<str>,
        /// Their colour.
        color: Arc<str>,
    },
    /// A user went offline.
    Left {
        /// Who.
        user: UserId,
        /// Their name.
        name: Arc<str>,
        /// Their colour.
        color: Arc<str>,
    },
    /// A cursor moved. Only the newest place counts.
    CursorMoved {
        /// Who.
        user: UserId,
        /// Their name.
        name: Arc<str>,
        /// Their colour.
        color: Arc<str>,
        /// In which document.
        document: DocumentId,
        /// Where.
        position: Position,
        /// The plan node selected.
        selected: Option<Arc<str>>,
    },
}
