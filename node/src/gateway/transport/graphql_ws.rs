//! The words of `graphql-transport-ws`.

use axum::extract::ws::Utf8Bytes;
use serde_json::Value;

use super::frames::{ClientFrame, Envelope, FrameError, ServerFrame, around, written};

/// The type of a result.
pub(super) const NEXT: &str = "next";

pub(super) fn decode(frame: Envelope<'_>) -> Result<ClientFrame, FrameError> {
    match &*frame.kind {
        "connection_init" => frame.init(),
        "ping" => Ok(ClientFrame::Ping(frame.payload()?)),
        "pong" => Ok(ClientFrame::Pong),
        "subscribe" => frame.subscribe(),
        "complete" => Ok(ClientFrame::Complete { id: frame.id()? }),
        _ => Err(FrameError::UnknownType),
    }
}

pub(super) fn encode(frame: &ServerFrame<'_>) -> Option<Utf8Bytes> {
    const NOTHING: Option<&Value> = None;
    Some(match frame {
        ServerFrame::Ack => written("connection_ack", None, NOTHING),
        // The dialect has no such frame: the close code says it.
        ServerFrame::InitRefused { .. } => return None,
        ServerFrame::Ping(payload) => written("ping", None, *payload),
        ServerFrame::Pong(payload) => written("pong", None, *payload),
        ServerFrame::Next { id, response } => written(NEXT, Some(id), Some(response)),
        ServerFrame::Written { id, payload } => around(NEXT, id, payload),
        ServerFrame::Error { id, errors } => written("error", Some(id), Some(errors)),
        ServerFrame::Complete { id } => written("complete", Some(id), NOTHING),
    })
}
