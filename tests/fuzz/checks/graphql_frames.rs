//! Frames of a GraphQL socket in both dialects, and bodies of requests: read or refused, and what is read is not deeper
//! than what comes after it can take.

use mille_node::gateway::transport::Dialect;
use mille_node::gateway::transport::fuzzing::{read_frame, read_request};
use serde_json::json;

/// Bytes of an operation's id.
const ID_BYTES_MAX: usize = 200;
/// Bytes of the reason in a close frame.
const REASON_BYTES_MAX: usize = 123;

pub(crate) fn check(bytes: &[u8]) {
    let _ = read_request(bytes);
    // A socket takes text only.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for (dialect, begins, ends) in [(Dialect::TransportWs, "subscribe", "complete"), (Dialect::Legacy, "start", "stop")]
    {
        let frame = match read_frame(dialect, text) {
            Ok(frame) => frame,
            Err(reason) => {
                assert!(reason.len() <= REASON_BYTES_MAX, "{reason}");
                continue;
            }
        };
        let Some(id) = &frame.id else { continue };
        assert!((1..=ID_BYTES_MAX).contains(&id.len()), "an id of {} bytes", id.len());
        let written = match &frame.query {
            Some(query) => json!({"type": begins, "id": id, "payload": {"query": query}}),
            None => json!({"type": ends, "id": id}),
        };
        let again = read_frame(dialect, &written.to_string()).expect("what was read can be written");
        assert_eq!((&again.id, &again.query), (&frame.id, &frame.query));
    }
    // As a query, so that the fuzzer need not find the frame around it.
    let _ = read_request(json!({"query": text}).to_string().as_bytes());
}
