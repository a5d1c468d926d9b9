//! The presence socket as a bench's client has it: what it says, and of what it hears only what a bench needs.
//!
//! A cursor frame is the dear one: large, often, and the same for many. So it is told apart by its first bytes, and its
//! reading is left to whoever can share it ([`sightings`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tokio_websockets::Message;

use crate::socket::{Ended, Link};

/// Patience until the node has said welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// What every frame of the node begins with; it writes the type first.
const BEFORE_TYPE: &str = r#"{"type":""#;

/// What a node said on the presence socket.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Cursors moved. The text is the whole frame, for [`sightings`].
    Cursors(Message),
    /// How often cursors are sent from now on.
    Throttle(u64),
    /// Everyone who is present.
    Roster,
    /// Something was refused.
    Refusal(String),
    /// Anything else.
    Other,
}

/// A presence socket that was welcomed.
#[derive(Debug)]
pub(crate) struct PresenceSocket {
    link: Link,
    /// The connection's id in cursor frames.
    pub(crate) connection: String,
    /// How often cursors are sent, as it was told last.
    pub(crate) tick_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Frame<T> {
    data: T,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Welcome {
    connection_id: String,
    cursor_interval_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Throttle {
    cursor_interval_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    cursors: Vec<Cursor<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cursor<'a> {
    #[serde(borrow)]
    connection_id: Cow<'a, str>,
    timestamp: i64,
}

/// A position in a cursor frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Whose, by the number that the bench gave.
    pub(crate) mover: usize,
    /// The mover's own time when it was sent, in milliseconds.
    pub(crate) sent_ms: i64,
}

impl PresenceSocket {
    /// Connects to `url` (http://…), shows `token`, and waits for the welcome.
    ///
    /// # Errors
    /// [`Ended`] with what the node said or what kept us from it.
    pub(crate) async fn open(url: &str, project: i32, token: &str) -> Result<Self, Ended> {
        let bearer = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Ended::Lost("the token can't stand in a header".into()))?;
        let path = format!("/ws/collaboration?project_id={project}");
        let mut link = Link::open(url, &path, (AUTHORIZATION, bearer)).await?;
        let message = match timeout(WELCOME_TIMEOUT, link.receive()).await {
            Ok(received) => received?,
            Err(_) => return Err(Ended::Lost("the node says no welcome".into())),
        };
        let text = message.as_text().unwrap_or_default();
        let Welcome { connection_id, cursor_interval_ms } = read(text)?;
        Ok(Self { link, connection: connection_id, tick_ms: cursor_interval_ms })
    }

    /// Joins as `user` with this document open. The roster comes behind it, when the node has come that far.
    ///
    /// # Errors
    /// [`Ended`] when the socket is gone.
    pub(crate) async fn join(&mut self, user: &str, document: &str) -> Result<(), Ended> {
        let data = json!({ "userId": user, "userName": user, "avatarColor": "#607d8b", "documentId": document });
        self.link.send(json!({ "type": "join_session", "data": data }).to_string()).await
    }

    /// Moves the cursor on a canvas. `sent_ms` is our own time.
    ///
    /// # Errors
    /// [`Ended`] when the socket is gone.
    pub(crate) async fn move_cursor(&mut self, document: &str, (x, y): (f64, f64), sent_ms: i64) -> Result<(), Ended> {
        let position = json!({ "type": "canvas", "x": x, "y": y, "zoom": 1.0 });
        let data = json!({
            "documentId": document, "documentType": "canvas", "position": position, "timestamp": sent_ms,
        });
        self.link.send(json!({ "type": "cursor_update", "data": data }).to_string()).await
    }

    /// The next thing the node says. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Ended`]; there will be no more.
    pub(crate) async fn next(&mut self) -> Result<Heard, Ended> {
        let message = self.link.receive().await?;
        let text = message.as_text().unwrap_or_default();
        Ok(match type_of(text) {
            "cursor_update" => Heard::Cursors(message),
            "bulk_presence" => Heard::Roster,
            "throttle" => {
                let Throttle { cursor_interval_ms } = read(text)?;
                self.tick_ms = cursor_interval_ms;
                Heard::Throttle(cursor_interval_ms)
            }
            "error" => Heard::Refusal(text.to_owned()),
            _ => Heard::Other,
        })
    }

    /// The plain socket below it.
    pub(crate) fn into_link(self) -> Link {
        self.link
    }

    /// Closes; a node that does not answer is not waited for.
    pub(crate) async fn close(self) {
        self.link.close().await;
    }
}

/// The positions in a cursor frame of those who are known by their connection; others may be in it too.
///
/// # Errors
/// [`Ended::Lost`] when it can't be read.
pub(crate) fn sightings(text: &str, movers: &HashMap<String, usize>) -> Result<Vec<Sighting>, Ended> {
    let batch: Batch<'_> = read(text)?;
    let sighting = |cursor: &Cursor<'_>| {
        let mover = *movers.get(cursor.connection_id.as_ref())?;
        Some(Sighting { mover, sent_ms: cursor.timestamp })
    };
    Ok(batch.cursors.iter().filter_map(sighting).collect())
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Ended> {
    let unreadable = |error| Ended::Lost(format!("the node sent a frame we can't read ({error}): {text:.120}"));
    serde_json::from_str(text).map(|Frame { data }| data).map_err(unreadable)
}

/// The type of a frame; empty when it does not begin as the node's frames do.
fn type_of(text: &str) -> &str {
    let behind = text.strip_prefix(BEFORE_TYPE).and_then(|rest| rest.split_once('"'));
    behind.map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURSORS: &str = r#"{"type":"cursor_update","data":{"documentId":"7","cursors":[
        {"connectionId":"a","userId":"u","position":{"type":"canvas","x":1,"y":2},"selectedNodeId":null,"timestamp":12},
        {"connectionId":"somebody","userId":"v","position":{"type":"canvas","x":0.0,"y":0.0},"timestamp":13},
        {"connectionId":"b\u0062","userId":"w","position":{"type":"canvas","x":0.0,"y":0.0},"timestamp":14}]}}"#;

    #[test]
    fn of_a_cursor_frame_it_is_read_who_moved_and_when() {
        let movers = HashMap::from([("a".to_owned(), 0), ("bb".to_owned(), 1)]);
        let wanted = [Sighting { mover: 0, sent_ms: 12 }, Sighting { mover: 1, sent_ms: 14 }];
        assert_eq!(sightings(CURSORS, &movers).expect("a frame"), wanted);
        sightings(r#"{"type":"cursor_update","data":{}}"#, &movers).expect_err("no cursors");
    }

    #[test]
    fn a_frame_is_told_by_its_first_bytes() {
        assert_eq!(type_of(CURSORS), "cursor_update");
        assert_eq!(type_of(r#"{"type":"pong"}"#), "pong");
        assert_eq!([type_of(""), type_of("[]"), type_of(r#"{"type":"cut"#)], ["", "", ""]);
    }

    #[test]
    fn a_welcome_says_who_we_are_and_how_often_cursors_come() {
        let text = r#"{"type":"welcome","data":{"connectionId":"c","nodeId":"n","cursorIntervalMs":50,"limits":{}}}"#;
        let welcome: Welcome = read(text).expect("a welcome");
        assert_eq!((welcome.connection_id.as_str(), welcome.cursor_interval_ms), ("c", 50));
        assert!(matches!(read::<Welcome>(r#"{"type":"error","message":"m"}"#), Err(Ended::Lost(_))));
    }
}
