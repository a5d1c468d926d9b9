//! What clients say on the presence socket.
//!
//! A frame that is no JSON ends the socket; JSON that we do not know, or with wrong fields, is answered with an `error`
//! and the socket goes on. Decoding also checks everything that can be checked without knowing the roster, so that a
//! [`ClientFrame`] is good as far as it goes.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{DocumentId, DocumentType, Position, Status, Viewport};
use crate::{ErrorCode, Timestamp, limits};

/// A frame from a client.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientFrame {
    /// Wants to be present.
    JoinSession(JoinSession),
    /// Moved the cursor.
    CursorUpdate(CursorUpdate),
    /// Opens a document and leaves the one before.
    SwitchDocument {
        /// Which.
        document: DocumentId,
        /// What it is.
        kind: DocumentType,
    },
    /// Is gone, at once. Whatever document it names, the whole session is meant, as ever.
    LeaveSession,
    /// Wants a `pong`.
    Ping,
    /// Has a fresh token.
    Authenticate {
        /// The token.
        token: Secret,
    },
    /// Says how present they are.
    UpdateStatus {
        /// How.
        status: Status,
    },
    /// Says what they look at.
    UpdateViewport {
        /// In which document.
        document: DocumentId,
        /// What.
        viewport: Viewport,
    },
}

/// Fields of `join_session`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinSession {
    /// Who they say they are; the token knows.
    pub user_id: String,
    /// Their name.
    pub user_name: Arc<str>,
    /// Their colour, if they have one.
    pub avatar_color: Option<Arc<str>>,
    /// A document to open at once.
    pub document: Option<DocumentId>,
    /// Whether they are a program.
    pub is_agent: bool,
    /// What takes an earlier connection's place.
    pub resume_token: Option<Secret>,
}

/// Fields of `cursor_update`.
#[derive(Debug, Clone, PartialEq)]
pub struct CursorUpdate {
    /// In which document.
    pub document: DocumentId,
    /// What it is.
    pub kind: DocumentType,
    /// Where. Of the document's type.
    pub position: Position,
    /// The plan node selected.
    pub selected: Option<Arc<str>>,
    /// The client's own time, in milliseconds since 1970; 0 if it tells none.
    pub timestamp_ms: i64,
}

/// A text that must not be shown: it has no way to be.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, to be checked and dropped.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a frame is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is no JSON: close 4400.
    #[error("frames are JSON objects")]
    Malformed,
    /// It is JSON, but not what we know: answer with an `error` of this code.
    #[error("{message}")]
    Refused {
        /// The error's code.
        code: ErrorCode,
        /// What is wrong.
        message: String,
    },
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for what is no JSON, [`FrameError::Refused`] for what is none of our frames.
    pub fn decode(text: &str) -> Result<Self, FrameError> {
        let envelope: Envelope<'_> = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(_) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() => {
                return Err(FrameError::Malformed);
            }
            Err(_) => return Err(refused("a frame is an object with a text `type`")),
        };
        let data = envelope.data.map_or("{}", RawValue::get);
        match envelope.kind.as_ref() {
            "join_session" => read::<JoinData>(data)?.check().map(Self::JoinSession),
            "cursor_update" => read::<CursorData>(data)?.check().map(Self::CursorUpdate),
            "switch_document" => {
                let DocumentData { document_id, document_type } = read(data)?;
                Ok(Self::SwitchDocument { document: document(&document_id)?, kind: document_type })
            }
            "leave_session" => Ok(Self::LeaveSession),
            "ping" => Ok(Self::Ping),
            "authenticate" => read::<TokenData>(data).map(|TokenData { token }| Self::Authenticate { token }),
            "update_status" => read::<StatusData>(data).map(|StatusData { status }| Self::UpdateStatus { status }),
            "update_viewport" => {
                let ViewportData { document_id, viewport } = read(data)?;
                viewport.check().map_err(|bad| refused(bad.to_string()))?;
                Ok(Self::UpdateViewport { document: document(&document_id)?, viewport })
            }
            unknown => {
                let shown: String = unknown.chars().filter(|c| !c.is_control()).take(40).collect();
                Err(refused(format!("there is no frame of type {shown:?}")))
            }
        }
    }
}

impl JoinData {
    fn check(self) -> Result<JoinSession, FrameError> {
        if self.user_name.trim().is_empty() {
            return Err(refused("userName must not be empty"));
        }
        let color = self.avatar_color.filter(|color| !color.is_empty());
        for (field, text) in [("userName", Some(&self.user_name)), ("avatarColor", color.as_ref())] {
            if text.is_some_and(|text| text.len() > limits::USER_NAME_BYTES_MAX) {
                return Err(refused(format!("{field} must have at most {} bytes", limits::USER_NAME_BYTES_MAX)));
            }
        }
        Ok(JoinSession {
            user_id: self.user_id,
            user_name: self.user_name.into(),
            avatar_color: color.map(Into::into),
            document: self.document_id.as_deref().map(document).transpose()?,
            is_agent: self.is_agent.unwrap_or(false),
            resume_token: self.resume_token,
        })
    }
}

impl CursorData {
    fn check(self) -> Result<CursorUpdate, FrameError> {
        self.position.check().map_err(|bad| refused(bad.to_string()))?;
        let (said, is) = (self.document_type, self.position.document_type());
        if said != is {
            let message = format!("a {is} position in a {said} document");
            return Err(FrameError::Refused { code: ErrorCode::DocumentTypeMismatch, message });
        }
        if self.selected_node_id.as_ref().is_some_and(|id| id.len() > limits::DOCUMENT_ID_BYTES_MAX) {
            return Err(refused("selectedNodeId must have at most 200 bytes"));
        }
        Ok(CursorUpdate {
            document: document(&self.document_id)?,
            kind: said,
            position: self.position,
            selected: self.selected_node_id.map(Into::into),
            timestamp_ms: self.timestamp,
        })
    }
}

fn document(text: &str) -> Result<DocumentId, FrameError> {
    DocumentId::parse(text).map_err(|error| refused(format!("documentId: {error}")))
}

fn read<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, FrameError> {
    serde_json::from_str(data).map_err(|error| refused(format!("data: {error}")))
}

fn refused(message: impl Into<String>) -> FrameError {
    FrameError::Refused { code: ErrorCode::ValidationFailed, message: message.into() }
}

/// Clients tell the time as milliseconds, some with fractions, or as RFC 3339. A cursor is not worth refusing for it: what
/// is none counts as not told.
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        Milliseconds(f64),
        Text(String),
        Else(serde::de::IgnoredAny),
    }
    Ok(match Told::deserialize(deserializer)? {
        #[allow(clippy::cast_possible_truncation)]
        Told::Milliseconds(ms) => ms as i64,
        Told::Text(text) => Timestamp::parse(&text).map_or(0, |moment| moment.unix_ms),
        Told::Else(_) => 0,
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinData {
    user_id: String,
    user_name: String,
    avatar_color: Option<String>,
    document_id: Option<String>,
    is_agent: Option<bool>,
    resume_token: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CursorData {
    document_id: String,
    document_type: DocumentType,
    position: Position,
    selected_node_id: Option<String>,
    #[serde(default, deserialize_with = "milliseconds")]
    timestamp: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentData {
    document_id: String,
    document_type: DocumentType,
}

#[derive(Deserialize)]
struct TokenData {
    token: Secret,
}

#[derive(Deserialize)]
struct StatusData {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ViewportData {
    document_id: String,
    #[serde(flatten)]
    viewport: Viewport,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code_of(text: &str) -> Option<ErrorCode> {
        match ClientFrame::decode(text) {
            Err(FrameError::Refused { code, .. }) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn the_frames_of_the_old_client_are_understood() {
        let join = r##"{"type":"join_session","data":{"userId":"u","userName":"Una","avatarColor":"#123"}}"##;
        let Ok(ClientFrame::JoinSession(join)) = ClientFrame::decode(join) else { panic!("no join") };
        assert_eq!((join.user_id.as_str(), &*join.user_name, join.is_agent), ("u", "Una", false));
        let cursor = r#"{"type":"cursor_update","data":{"documentId":"d","documentType":"canvas",
            "position":{"type":"canvas","x":1,"y":2.5},"timestamp":1700000000000.25}}"#;
        let Ok(ClientFrame::CursorUpdate(cursor)) = ClientFrame::decode(cursor) else { panic!("no cursor") };
        assert_eq!(cursor.timestamp_ms, 1_700_000_000_000);
        let leave = r#"{"type":"leave_session","data":{"documentId":"d"}}"#;
        assert_eq!(ClientFrame::decode(leave), Ok(ClientFrame::LeaveSession));
        assert_eq!(ClientFrame::decode(r#"{"type":"ping"}"#), Ok(ClientFrame::Ping));
    }

    #[test]
    fn no_json_is_the_end_and_strange_json_is_an_error() {
        for text in ["", "hello", "{", r#"{"type":"ping""#, r#"{"type":"cursor_update","data":{"x":NaN}}"#] {
            assert_eq!(ClientFrame::decode(text), Err(FrameError::Malformed), "{text}");
        }
        for text in [
            "[]",
            "7",
            "{}",
            r#"{"type":5}"#,
            r#"{"type":"dance"}"#,
            r#"{"type":"join_session"}"#,
            r#"{"type":"join_session","data":{"userId":"u","userName":"  ","avatarColor":""}}"#,
            r#"{"type":"switch_document","data":{"documentId":"","documentType":"canvas"}}"#,
            r#"{"type":"switch_document","data":{"documentId":"d","documentType":"opera"}}"#,
            r#"{"type":"update_status","data":{"status":"asleep"}}"#,
            r#"{"type":"update_viewport","data":{"documentId":"d","x":0,"y":0,"zoom":0}}"#,
            r#"{"type":"cursor_update","data":{"documentId":"d","documentType":"canvas","position":{"type":"canvas","x":1e400,"y":0}}}"#,
        ] {
            assert_eq!(code_of(text), Some(ErrorCode::ValidationFailed), "{text}");
        }
    }

    #[test]
    fn a_position_of_another_type_than_its_document_is_a_mismatch() {
        let text = r#"{"type":"cursor_update","data":{"documentId":"d","documentType":"canvas",
            "position":{"type":"spreadsheet","row":1,"column":1},"timestamp":1}}"#;
        assert_eq!(code_of(text), Some(ErrorCode::DocumentTypeMismatch));
    }

    #[test]
    fn a_secret_does_not_show() {
        let frame = ClientFrame::decode(r#"{"type":"authenticate","data":{"token":"hush"}}"#);
        assert!(!format!("{frame:?}").contains("hush"));
    }

    proptest! {
        #[test]
        fn whatever_comes_decoding_answers(text in ".{0,200}") {
            let _ = ClientFrame::decode(&text);
            let _ = ClientFrame::decode(&format!(r#"{{"type":"cursor_update","data":{text}}}"#));
        }
    }
}
