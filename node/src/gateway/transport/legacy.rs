//! The words of the legacy `graphql-ws`.
//!
//! It has no ping of its own: `ka` is what its clients wait for, and it carries our notices as well since they ignore
//! its payload. An error frame holds one error, not a list.

use axum::extract::ws::Utf8Bytes;
use serde_json::{Value, json};

use super::frames::{ClientFrame, Envelope, FrameError, ServerFrame, around, written};

/// The type of a result.
pub(super) const NEXT: &str = "data";

pub(super) fn decode(frame: Envelope<'_>) -> Result<ClientFrame, FrameError> {
    match &*frame.kind {
        "connection_init" => frame.init(),
        "start" => frame.subscribe(),
        "stop" => Ok(ClientFrame::Complete { id: frame.id()? }),
        "connection_terminate" => Ok(ClientFrame::Terminate),
        _ => Err(FrameError::UnknownType),
    }
}

pub(super) fn encode(frame: &ServerFrame<'_>) -> Option<Utf8Bytes> {
    const NOTHING: Option<&Value> = None;
    Some(match frame {
        ServerFrame::Ack => written("connection_ack", None, NOTHING),
        ServerFrame::InitRefused { message } => written("connection_error", None, Some(&json!({"message": message}))),
        ServerFrame::Ping(payload) => written("ka", None, *payload),
        ServerFrame::Pong(_) => return None,
        ServerFrame::Next { id, response } => written(NEXT, Some(id), Some(response)),
        ServerFrame::Written { id, payload } => around(NEXT, id, payload),
        ServerFrame::Error { id, errors } => written("error", Some(id), errors.first().as_ref()),
        ServerFrame::Complete { id } => written("complete", Some(id), NOTHING),
    })
}
