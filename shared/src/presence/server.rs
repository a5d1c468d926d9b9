//! What the node says on the presence socket, letter for letter.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DocumentId, DocumentType, Position, Status, Viewport};
use crate::{ConnectionId, ErrorCode, LimitName, NodeId, Timestamp, UserId};

/// A user's presence, over all their connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserPresence {
    /// Who.
    pub user_id: UserId,
    /// Their name, as the newest connection gave it.
    pub user_name: Arc<str>,
    /// Their colour, as the newest connection gave it.
    pub avatar_color: Arc<str>,
    /// Whether any connection is left.
    pub is_online: bool,
    /// Whether they are a program.
    pub is_agent: bool,
    /// That of the most present connection.
    pub status: Status,
    /// When they last did something.
    pub last_active: Timestamp,
    /// How many sockets they have.
    pub connections: usize,
    /// The documents they are in.
    pub documents: BTreeMap<DocumentId, DocumentPresence>,
}

/// A user's presence in one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentPresence {
    /// The document's type.
    pub document_type: DocumentType,
    /// Where their cursor is.
    pub position: Option<Position>,
    /// The plan node they have selected.
    pub selected_node_id: Option<Arc<str>>,
    /// When they last did something in it.
    pub last_active_in_document: Timestamp,
    /// What they look at, for those who follow them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viewport: Option<Viewport>,
}

/// One user in a document's list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentUser {
    /// Who.
    pub user_id: UserId,
    /// Their name.
    pub user_name: Arc<str>,
    /// Their colour.
    pub avatar_color: Arc<str>,
    /// Whether they are a program.
    pub is_agent: bool,
    /// Where their cursor is.
    pub position: Option<Position>,
    /// The plan node they have selected.
    pub selected_node_id: Option<Arc<str>>,
}

/// One cursor in a batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// Whose socket.
    pub connection_id: ConnectionId,
    /// Whose.
    pub user_id: UserId,
    /// Where. None of somebody who only looked around so far.
    pub position: Option<Position>,
    /// The plan node selected.
    pub selected_node_id: Option<Arc<str>>,
    /// The client's own time of the move, in milliseconds.
    pub timestamp: i64,
    /// What they look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewport: Option<Viewport>,
}

/// What a connection may do, as `welcome` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Frames per second, cursor moves aside.
    pub frames_per_second: u32,
}

/// A frame to a client. Bulk presence and cursor batches are put together from parts that many frames share, so they
/// have functions of their own: [`bulk_presence`] and [`cursor_update`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// The first frame after a join.
    Welcome {
        /// Its fields.
        data: Welcome,
    },
    /// A user came, went, or changed status or documents.
    UserPresence {
        /// The user as they are now.
        data: UserPresence,
    },
    /// Who is in a document, always in full.
    DocumentActivity {
        /// Its fields.
        data: DocumentActivity,
    },
    /// Something the client asked for can't be. Unlike all others it has its fields beside its type.
    #[serde(rename_all = "camelCase")]
    Error {
        /// For people.
        message: String,
        /// For programs.
        code: &'static str,
        /// When it may be tried again.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// The limit that was met: its value.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit_name: Option<&'static str>,
    },
    /// The answer to `ping`.
    Pong,
    /// How often cursors are sent from now on.
    Throttle {
        /// Its fields.
        data: Throttle,
    },
    /// The node is going: come back, here or elsewhere, after a random time between the two.
    Reconnect {
        /// Its fields.
        data: Reconnect,
    },
    /// The token ends soon: send `authenticate` with a fresh one.
    TokenExpiring {
        /// Its fields.
        data: TokenExpiring,
    },
}

/// Fields of `welcome`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// The connection's id in cursor batches.
    pub connection_id: ConnectionId,
    /// The node it is connected to.
    pub node_id: NodeId,
    /// What takes this connection's place back after a break, on any node.
    pub resume_token: String,
    /// How often the node pings.
    pub heartbeat_ms: u64,
    /// How often cursors are sent.
    pub cursor_interval_ms: u64,
    /// What the connection may do.
    pub limits: Limits,
}

/// Fields of `document_activity`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentActivity {
    /// The document.
    pub document_id: DocumentId,
    /// Everyone in it.
    pub active_users: Vec<DocumentUser>,
}

/// Fields of `throttle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttle {
    /// How often cursors are sent.
    pub cursor_interval_ms: u64,
}

/// Fields of `reconnect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconnect {
    /// Why.
    pub reason: &'static str,
    /// Not before.
    pub min_ms: u64,
    /// Not after.
    pub max_ms: u64,
}

/// Fields of `token_expiring`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenExpiring {
    /// How long it still holds.
    pub in_ms: u64,
}

impl ServerFrame {
    /// An `error` frame.
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        let (message, code) = (message.into(), code.as_str());
        Self::Error { message, code, retry_after_ms: None, limit: None, limit_name: None }
    }

    /// An `error` frame of somebody who met a limit; `retry_after_ms` where time helps.
    #[must_use]
    pub fn limited(code: ErrorCode, name: LimitName, limit: usize, retry_after_ms: Option<u64>) -> Self {
        let message = format!("{name}: at most {limit} {}", name.in_words());
        let (code, limit, limit_name) = (code.as_str(), Some(limit), Some(name.as_str()));
        Self::Error { message, code, retry_after_ms, limit, limit_name }
    }

    /// The frame's text.
    #[must_use]
    pub fn encode(&self) -> Arc<str> {
        to_text(self)
    }
}

/// A `bulk_presence` frame of users that are encoded already ([`to_text`] of [`UserPresence`]).
pub fn bulk_presence<'a>(users: impl IntoIterator<Item = &'a str>) -> Arc<str> {
    let mut text = String::from(r#"{"type":"bulk_presence","data":["#);
    join(&mut text, users);
    text.push_str("]}");
    text.into()
}

/// A `cursor_update` frame of cursors that are encoded already ([`to_text`] of [`Cursor`]).
pub fn cursor_update<'a>(document: &DocumentId, cursors: impl IntoIterator<Item = &'a str>) -> Arc<str> {
    let mut text = String::from(r#"{"type":"cursor_update","data":{"documentId":"#);
    text.push_str(&to_text(document));
    text.push_str(r#","cursors":["#);
    join(&mut text, cursors);
    text.push_str("]}}");
    text.into()
}

/// A part of a frame, encoded once for all frames that hold it.
pub fn to_text(part: &impl Serialize) -> Arc<str> {
    // Nothing here has keys other than text, so encoding can't fail.
    serde_json::to_string(part).unwrap_or_default().into()
}

fn join<'a>(text: &mut String, parts: impl IntoIterator<Item = &'a str>) {
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_error_has_its_fields_beside_its_type() {
        let plain = ServerFrame::error(ErrorCode::NotJoined, "join first").encode();
        assert_eq!(read(&plain), json!({"type": "error", "message": "join first", "code": "NOT_JOINED"}));
        let frame = ServerFrame::limited(ErrorCode::RateLimited, LimitName::PresenceFrames, 20, Some(50)).encode();
        let frame = read(&frame);
        assert_eq!(
            (&frame["code"], &frame["limit"], &frame["limitName"], &frame["retryAfterMs"]),
            (&json!("RATE_LIMITED"), &json!(20), &json!("presence_frames"), &json!(50))
        );
        assert!(frame["message"].as_str().is_some_and(|text| text.contains("presence_frames") && text.contains("20")));
    }

    #[test]
    fn frames_put_together_from_parts_read_like_any_other() {
        let document = DocumentId::new("a \"quoted\" name");
        let empty = cursor_update(&document, []);
        assert_eq!(
            read(&empty),
            json!({"type": "cursor_update", "data": {"documentId": "a \"quoted\" name", "cursors": []}})
        );
        assert_eq!(read(&bulk_presence(["1", "2"])), json!({"type": "bulk_presence", "data": [1, 2]}));
        assert_eq!(read(&ServerFrame::Pong.encode()), json!({"type": "pong"}));
    }
}
