//! The frames of a GraphQL socket, and the two languages they are written in.
//!
//! One conversation speaks both: it knows [`ClientFrame`] and [`ServerFrame`], a [`Dialect`] knows the words.
//! Reading never trusts: whatever is not exactly a frame is a [`FrameError`], and the socket closes with 4400.

use async_graphql::{Response, ServerError};
use axum::extract::ws::Utf8Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::request::OperationRequest;
use super::{graphql_ws, legacy};

/// The language of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `graphql-transport-ws`, of the library graphql-ws.
    TransportWs,
    /// `graphql-ws`, of the library subscriptions-transport-ws. Old clients have nothing else.
    Legacy,
}

/// What a client says.
#[derive(Debug)]
pub(super) enum ClientFrame {
    Init(Map<String, Value>),
    Ping(Option<Value>),
    Pong,
    Subscribe { id: String, request: OperationRequest },
    Complete { id: String },
    Terminate,
}

/// What we say.
#[derive(Debug)]
pub(super) enum ServerFrame<'a> {
    Ack,
    /// The token was refused; the close follows.
    InitRefused {
        message: &'a str,
    },
    /// A sign of life, or the bearer of a notice.
    Ping(Option<&'a Value>),
    Pong(Option<&'a Value>),
    Next {
        id: &'a str,
        response: &'a Response,
    },
    /// A result that is JSON already.
    Written {
        id: &'a str,
        payload: &'a [u8],
    },
    /// The operation failed as a whole and is over.
    Error {
        id: &'a str,
        errors: &'a [ServerError],
    },
    Complete {
        id: &'a str,
    },
}

/// Why a text is no frame. Goes into the close reason, so it is short and repeats nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// No JSON, or no object with a `type`.
    #[error("a frame is a JSON object with a type")]
    NoFrame,
    /// A `type` that clients don't send in this dialect.
    #[error("unknown frame type")]
    UnknownType,
    /// An operation's frame without a usable id.
    #[error("the frame needs an id of 1 to 200 bytes")]
    Id,
    /// A payload of another shape than the frame's type asks for.
    #[error("the frame's payload is malformed")]
    Payload,
}

/// Bytes of an operation's id: it is repeated in every event.
const OPERATION_ID_BYTES_MAX: usize = 200;

impl Dialect {
    /// The dialect to speak with a client that offers `offered`: the present one wherever possible.
    #[must_use]
    pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut choice = None;
        for name in offered {
            if name == Self::TransportWs.subprotocol() {
                return Some(Self::TransportWs);
            }
            if name == Self::Legacy.subprotocol() {
                choice = Some(Self::Legacy);
            }
        }
        choice
    }

    /// The name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::TransportWs => "graphql-transport-ws",
            Self::Legacy => "graphql-ws",
        }
    }

    /// What stands before the payload of an operation's result in its frame. Behind it stands a brace.
    pub(super) fn opening(self, id: &str) -> String {
        match self {
            Self::TransportWs => opening(graphql_ws::NEXT, id),
            Self::Legacy => opening(legacy::NEXT, id),
        }
    }

    /// Reads a client's frame.
    pub(super) fn decode(self, text: &str) -> Result<ClientFrame, FrameError> {
        let frame: Envelope = serde_json::from_str(text).map_err(|_| FrameError::NoFrame)?;
        match self {
            Self::TransportWs => graphql_ws::decode(frame),
            Self::Legacy => legacy::decode(frame),
        }
    }

    /// Writes a frame of ours. `None` where the dialect has no word for it.
    pub(super) fn encode(self, frame: &ServerFrame<'_>) -> Option<Utf8Bytes> {
        match self {
            Self::TransportWs => graphql_ws::encode(frame),
            Self::Legacy => legacy::encode(frame),
        }
    }
}

/// A frame before its type is looked at. The payload stays raw: it may be large, and most types ignore it.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    id: Option<Value>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
}

impl Envelope<'_> {
    pub(super) fn id(&self) -> Result<String, FrameError> {
        match &self.id {
            Some(Value::String(id)) if (1..=OPERATION_ID_BYTES_MAX).contains(&id.len()) => Ok(id.clone()),
            _ => Err(FrameError::Id),
        }
    }

    pub(super) fn payload<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, FrameError> {
        self.payload.map_or(Ok(None), |raw| serde_json::from_str(raw.get()).map_err(|_| FrameError::Payload))
    }

    pub(super) fn init(&self) -> Result<ClientFrame, FrameError> {
        Ok(ClientFrame::Init(self.payload()?.unwrap_or_default()))
    }

    pub(super) fn subscribe(&self) -> Result<ClientFrame, FrameError> {
        let id = self.id()?;
        let request: OperationRequest = self.payload()?.ok_or(FrameError::Payload)?;
        if request.query.is_none() {
            return Err(FrameError::Payload);
        }
        Ok(ClientFrame::Subscribe { id, request })
    }
}

/// What stands before a payload in its frame. Behind it stands a brace.
pub(super) fn opening(kind: &str, id: &str) -> String {
    // A text always has a JSON form.
    let id = serde_json::to_string(id).unwrap_or_default();
    format!(r#"{{"type":"{kind}","id":{id},"payload":"#)
}

/// Writes `{"type":…,"id":…,"payload":…}` around a payload that is JSON already.
pub(super) fn around(kind: &str, id: &str, payload: &[u8]) -> Utf8Bytes {
    let mut frame = opening(kind, id).into_bytes();
    frame.reserve_exact(payload.len() + 1);
    frame.extend_from_slice(payload);
    frame.push(b'}');
    // JSON is text.
    Utf8Bytes::try_from(frame).unwrap_or_default()
}

/// Writes `{"type":…,"id":…,"payload":…}`.
pub(super) fn written(kind: &str, id: Option<&str>, payload: Option<&impl serde::Serialize>) -> Utf8Bytes {
    #[derive(serde::Serialize)]
    struct Frame<'a, P> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a P>,
    }
    // Maps with text keys always have a JSON form.
    serde_json::to_string(&Frame { kind, id, payload }).expect("a frame is JSON").into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIALECTS: [Dialect; 2] = [Dialect::TransportWs, Dialect::Legacy];

    #[test]
    fn the_present_dialect_wins_wherever_it_is_offered() {
        let choose = |offered: &[&str]| Dialect::choose(offered.iter().copied());
        assert_eq!(choose(&["graphql-ws", "graphql-transport-ws"]), Some(Dialect::TransportWs));
        assert_eq!(choose(&["bearer.x", "graphql-ws"]), Some(Dialect::Legacy));
        assert_eq!(choose(&["mqtt"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn what_is_no_frame_is_refused_in_both_dialects() {
        for dialect in DIALECTS {
            for (text, error) in [
                ("", FrameError::NoFrame),
                ("null", FrameError::NoFrame),
                ("[]", FrameError::NoFrame),
                ("{}", FrameError::NoFrame),
                (r#"{"type":7}"#, FrameError::NoFrame),
                (r#"{"type":"subscribe""#, FrameError::NoFrame),
                (r#"{"type":"next"}"#, FrameError::UnknownType),
                (r#"{"type":"connection_ack"}"#, FrameError::UnknownType),
                (r#"{"type":"connection_init","payload":7}"#, FrameError::Payload),
            ] {
                assert_eq!(dialect.decode(text).err(), Some(error), "{dialect:?} {text}");
            }
        }
    }

    #[test]
    fn each_dialect_has_its_own_words() {
        let subscribe = r#"{"type":"subscribe","id":"1","payload":{"query":"{a}","variables":null,"extensions":null}}"#;
        let start = r#"{"type":"start","id":"1","payload":{"query":"{a}","operationName":null,"variables":{"x":1}}}"#;
        assert!(matches!(Dialect::TransportWs.decode(subscribe), Ok(ClientFrame::Subscribe { id, .. }) if id == "1"));
        assert!(matches!(Dialect::Legacy.decode(start), Ok(ClientFrame::Subscribe { id, .. }) if id == "1"));
        assert_eq!(Dialect::Legacy.decode(subscribe).err(), Some(FrameError::UnknownType));
        assert_eq!(Dialect::TransportWs.decode(start).err(), Some(FrameError::UnknownType));
        assert!(matches!(
            Dialect::TransportWs.decode(r#"{"type":"complete","id":"1"}"#),
            Ok(ClientFrame::Complete { .. })
        ));
        assert!(matches!(Dialect::Legacy.decode(r#"{"type":"stop","id":"1"}"#), Ok(ClientFrame::Complete { .. })));
        assert!(matches!(Dialect::Legacy.decode(r#"{"type":"connection_terminate"}"#), Ok(ClientFrame::Terminate)));
    }

    #[test]
    fn an_operation_needs_an_id_and_a_query() {
        for (text, error) in [
            (r#"{"type":"subscribe","payload":{"query":"{a}"}}"#, FrameError::Id),
            (r#"{"type":"subscribe","id":1,"payload":{"query":"{a}"}}"#, FrameError::Id),
            (r#"{"type":"subscribe","id":"","payload":{"query":"{a}"}}"#, FrameError::Id),
            (r#"{"type":"subscribe","id":"1"}"#, FrameError::Payload),
            (r#"{"type":"subscribe","id":"1","payload":{}}"#, FrameError::Payload),
            (r#"{"type":"subscribe","id":"1","payload":{"query":"{a}","variables":[]}}"#, FrameError::Payload),
            (r#"{"type":"complete"}"#, FrameError::Id),
        ] {
            assert_eq!(Dialect::TransportWs.decode(text).err(), Some(error), "{text}");
        }
    }

    fn encoded(dialect: Dialect, frame: &ServerFrame<'_>) -> Value {
        let text = dialect.encode(frame).expect("the dialect has a word for it");
        serde_json::from_str(&text).expect("a frame is JSON")
    }

    #[test]
    fn events_and_errors_have_the_shape_of_their_dialect() {
        let response = Response::new(async_graphql::value!({"a": 1}));
        let next = ServerFrame::Next { id: "\"", response: &response };
        let payload = serde_json::json!({"data": {"a": 1}});
        assert_eq!(encoded(DIALECTS[0], &next), serde_json::json!({"type": "next", "id": "\"", "payload": payload}));
        assert_eq!(encoded(DIALECTS[1], &next), serde_json::json!({"type": "data", "id": "\"", "payload": payload}));
        let errors = [ServerError::new("no", None)];
        let error = ServerFrame::Error { id: "1", errors: &errors };
        let one = serde_json::json!({"message": "no"});
        assert_eq!(encoded(DIALECTS[0], &error), serde_json::json!({"type": "error", "id": "1", "payload": [one]}));
        assert_eq!(encoded(DIALECTS[1], &error), serde_json::json!({"type": "error", "id": "1", "payload": one}));
        assert_eq!(encoded(DIALECTS[0], &ServerFrame::Ping(None)), serde_json::json!({"type": "ping"}));
        assert_eq!(encoded(DIALECTS[1], &ServerFrame::Ping(None)), serde_json::json!({"type": "ka"}));
    }

    proptest! {
        /// Whatever a client sends, reading it is an answer and never a panic.
        #[test]
        fn any_text_is_read(text in any::<String>()) {
            for dialect in DIALECTS {
                let _ = dialect.decode(&text);
            }
        }

        /// The same for what looks like a frame.
        #[test]
        fn any_frame_is_read(kind in "[a-z_]{0,20}", id in any::<Option<String>>(), payload in "[\\[\\]{}\":,a-z0-9]{0,40}") {
            let id = serde_json::to_string(&id).expect("JSON");
            for kind in [kind.as_str(), "subscribe", "start", "stop", "complete", "connection_init", "ping"] {
                for dialect in DIALECTS {
                    let _ = dialect.decode(&format!(r#"{{"type":"{kind}","id":{id},"payload":{payload}}}"#));
                }
            }
        }
    }
}
