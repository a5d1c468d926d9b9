//! Frames of a presence socket: read as they are meant, or refused with a reason, within their bounds.

use mille_shared::limits;
use mille_shared::presence::client::{ClientFrame, FrameError};
use mille_shared::presence::{DocumentId, Position};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::again;

/// Bytes of a refusal beyond what it repeats of the frame.
const REASON_BYTES_MAX: usize = 1_000;
/// Beyond it a number of JSON is no longer every whole number.
const EXACT_MS_MAX: i64 = 1 << 53;

pub(crate) fn check(bytes: &[u8]) {
    // A socket takes text only.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match ClientFrame::decode(text) {
        Ok(frame) => {
            within_bounds(&frame);
            let written = written(&frame).to_string();
            assert_eq!(ClientFrame::decode(&written).as_ref().map(rounded), Ok(rounded(&frame)), "{written}");
        }
        Err(FrameError::Malformed) => assert!(!is_json, "JSON ends no socket"),
        Err(FrameError::Refused { message, .. }) => {
            assert!(is_json, "what is no JSON ends the socket");
            assert!(message.len() <= 4 * text.len() + REASON_BYTES_MAX, "{} bytes of reason", message.len());
        }
    }
}

fn within_bounds(frame: &ClientFrame) {
    let document_is_short = |document: &DocumentId| {
        let length = document.as_str().len();
        assert!((1..=limits::DOCUMENT_ID_BYTES_MAX).contains(&length), "a document's id of {length} bytes");
    };
    match frame {
        ClientFrame::JoinSession(join) => {
            assert!(!join.user_name.trim().is_empty() && join.user_name.len() <= limits::USER_NAME_BYTES_MAX);
            assert!(join.avatar_color.as_ref().is_none_or(|color| color.len() <= limits::USER_NAME_BYTES_MAX));
            join.document.iter().for_each(document_is_short);
        }
        ClientFrame::CursorUpdate(cursor) => {
            document_is_short(&cursor.document);
            is_somewhere(&cursor.position);
            assert_eq!(cursor.kind, cursor.position.document_type());
            assert!(cursor.selected.as_ref().is_none_or(|id| id.len() <= limits::DOCUMENT_ID_BYTES_MAX));
        }
        ClientFrame::SwitchDocument { document, .. } => document_is_short(document),
        ClientFrame::UpdateViewport { document, viewport } => {
            document_is_short(document);
            assert!(viewport.check().is_ok());
            assert_eq!(again(viewport), *viewport);
        }
        ClientFrame::LeaveSession
        | ClientFrame::Ping
        | ClientFrame::Authenticate { .. }
        | ClientFrame::UpdateStatus { .. } => {}
    }
}

fn is_somewhere(position: &Position) {
    assert!(position.check().is_ok());
    assert_eq!(again(position), *position);
}

/// The same frame as its client would write it.
fn written(frame: &ClientFrame) -> Value {
    match frame {
        ClientFrame::JoinSession(join) => json!({"type": "join_session", "data": {
            "userId": join.user_id, "userName": join.user_name, "avatarColor": join.avatar_color,
            "documentId": join.document.as_ref().map(DocumentId::as_str), "isAgent": join.is_agent,
            "resumeToken": join.resume_token.as_ref().map(|token| token.reveal()),
        }}),
        ClientFrame::CursorUpdate(cursor) => json!({"type": "cursor_update", "data": {
            "documentId": cursor.document.as_str(), "documentType": cursor.kind, "position": cursor.position,
            "selectedNodeId": cursor.selected, "timestamp": cursor.timestamp_ms,
        }}),
        ClientFrame::SwitchDocument { document, kind } => {
            json!({"type": "switch_document", "data": {"documentId": document.as_str(), "documentType": kind}})
        }
        ClientFrame::LeaveSession => json!({"type": "leave_session"}),
        ClientFrame::Ping => json!({"type": "ping"}),
        ClientFrame::Authenticate { token } => json!({"type": "authenticate", "data": {"token": token.reveal()}}),
        ClientFrame::UpdateStatus { status } => json!({"type": "update_status", "data": {"status": status}}),
        ClientFrame::UpdateViewport { document, viewport } => {
            let mut data = serde_json::to_value(viewport).expect("a viewport is JSON");
            data["documentId"] = json!(document.as_str());
            json!({"type": "update_viewport", "data": data})
        }
    }
}

/// Without a time that JSON can't hold to the millisecond.
fn rounded(frame: &ClientFrame) -> ClientFrame {
    let mut frame = frame.clone();
    if let ClientFrame::CursorUpdate(cursor) = &mut frame
        && cursor.timestamp_ms.checked_abs().is_none_or(|ms| ms >= EXACT_MS_MAX)
    {
        cursor.timestamp_ms = 0;
    }
    frame
}
