//! Who is present in a project, in which documents, and where they point.
//!
//! Three vocabularies, one meaning: [`client`] and [`server`] are the frames of the presence socket, letter for letter;
//! [`record`] is what nodes keep of one connection, in the store and for each other; [`between`] is what nodes tell each
//! other on a project's channel. What follows from a frame or a message is decided in `mille-core`.

pub mod between;
pub mod client;
pub mod document;
pub mod position;
pub mod record;
pub mod server;

pub use between::{Activity, Body, CursorMove, NodeMessage};
pub use client::{ClientFrame, FrameError};
pub use document::{DocumentId, DocumentType};
pub use position::{Position, Viewport};
pub use record::{Place, Record, Status, Version};
pub use server::{DocumentPresence, ServerFrame, UserPresence};
