//! What waits for one presence socket. The actor puts in and never waits; the socket takes out at its own pace.
//!
//! A viewer that reads nothing costs bounded memory: frames about people queue up to a bound, beyond which the queue is
//! emptied and the whole picture asked for again once the socket takes something; of cursors only the newest of each
//! connection is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mille_core::presence::CursorFrame;
use mille_shared::presence::{DocumentId, server};
use mille_shared::{CloseCode, limits};
use newest::Newest;
use tokio::sync::Notify;

/// The actor's end.
#[derive(Debug, Clone)]
pub struct PresenceOutbox(Arc<Shared>);

/// The socket's end. Dropping it says that the socket is gone.
#[derive(Debug)]
pub struct OutboxReader(Arc<Shared>);

/// What a socket finds in its outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A frame to send.
    Frame(Arc<str>),
    /// The socket fell behind: ask the project for a refresh.
    Behind,
    /// Close the socket.
    Close(CloseCode, &'static str),
    /// The project stopped on this node without a word: close, and let the client come back.
    Ended,
}

/// Makes the two ends of one socket's outbox.
#[must_use]
pub fn outbox() -> (PresenceOutbox, OutboxReader) {
    make(false)
}

/// The outbox of somebody who is present without a presence socket: frames for them go nowhere. They are present as long
/// as the reader is held.
#[must_use]
pub fn silent_outbox() -> (PresenceOutbox, OutboxReader) {
    make(true)
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Arc<str>>,
    /// Bytes of the frames.
    bytes: usize,
    cursors: Option<Waiting>,
    behind: Behind,
    close: Option<(CloseCode, &'static str)>,
    ended: bool,
    gone: bool,
    silent: bool,
}

/// Whether frames were dropped, and whether the project was asked to make that good.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Behind {
    #[default]
    No,
    Yes,
    Asked,
}

/// Cursors of one document that wait: the shared frame while it is the only one, else the newest of each connection.
#[derive(Debug)]
enum Waiting {
    One(Arc<CursorFrame>),
    Several(DocumentId, Newest),
}

impl PresenceOutbox {
    /// Puts a frame behind those that wait. While the whole picture is still to come, it is dropped: that has it.
    pub fn frame(&self, frame: Arc<str>) {
        let is_behind = self.0.lock().behind != Behind::No;
        if !is_behind {
            self.reply(frame);
        }
    }

    /// As [`Self::frame`], for what is for this socket alone and in no picture.
    pub fn reply(&self, frame: Arc<str>) {
        let mut inner = self.0.lock();
        if inner.silent || inner.gone || inner.close.is_some() {
            return;
        }
        let bytes = inner.bytes + frame.len();
        let is_full = inner.frames.len() >= limits::OUTBOX_MESSAGES_MAX || bytes > limits::OUTBOX_BYTES_MAX;
        if is_full && !inner.frames.is_empty() {
            inner.frames.clear();
            (inner.bytes, inner.behind) = (0, Behind::Yes);
        } else {
            inner.frames.push_back(frame);
            inner.bytes = bytes;
        }
        drop(inner);
        self.0.changed.notify_one();
    }

    /// Puts cursors in. What waits of the same document is brought up to date, what waits of another is dropped.
    pub fn cursors(&self, frame: &Arc<CursorFrame>) {
        let mut inner = self.0.lock();
        if inner.silent || inner.gone || inner.close.is_some() {
            return;
        }
        inner.cursors = Some(match inner.cursors.take() {
            Some(Waiting::One(old)) if old.document == frame.document => {
                let mut newest = Newest::default();
                newest.extend(&old.cursors);
                newest.extend(&frame.cursors);
                Waiting::Several(frame.document.clone(), newest)
            }
            Some(Waiting::Several(document, mut newest)) if document == frame.document => {
                newest.extend(&frame.cursors);
                Waiting::Several(document, newest)
            }
            _ => Waiting::One(Arc::clone(frame)),
        });
        drop(inner);
        self.0.changed.notify_one();
    }

    /// Closes the socket, after the frames that wait.
    pub fn close(&self, code: CloseCode, reason: &'static str) {
        self.0.lock().close.get_or_insert((code, reason));
        self.0.changed.notify_one();
    }

    /// The whole picture follows: frames count again.
    pub fn rebuilt(&self) {
        self.0.lock().behind = Behind::No;
    }

    /// The actor stops. Without a close before, the socket is told that the project ended.
    pub fn end(&self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }

    /// Whether the socket is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.lock().gone
    }
}

impl OutboxReader {
    /// The next thing for the socket, when there is one. Cancel-safe.
    pub async fn next(&mut self) -> Outgoing {
        loop {
            if let Some(outgoing) = self.try_next() {
                return outgoing;
            }
            self.0.changed.notified().await;
        }
    }

    /// The next thing for the socket, if there is one now: frames first, then cursors, then the end.
    pub fn try_next(&mut self) -> Option<Outgoing> {
        let mut inner = self.0.lock();
        if let Some(frame) = inner.frames.pop_front() {
            inner.bytes -= frame.len();
            return Some(Outgoing::Frame(frame));
        }
        if let Some((code, reason)) = inner.close {
            return Some(Outgoing::Close(code, reason));
        }
        if inner.ended {
            return Some(Outgoing::Ended);
        }
        if inner.behind == Behind::Yes {
            inner.behind = Behind::Asked;
            return Some(Outgoing::Behind);
        }
        inner.cursors.take().map(|waiting| {
            Outgoing::Frame(match waiting {
                Waiting::One(frame) => Arc::clone(&frame.text),
                Waiting::Several(document, newest) => server::cursor_update(&document, newest.texts()),
            })
        })
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        *inner = Inner { gone: true, ..Inner::default() };
    }
}

impl Shared {
    /// A panic while the lock was held can't leave the queue in a state that matters: it is used on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(silent: bool) -> (PresenceOutbox, OutboxReader) {
    let inner = Mutex::new(Inner { silent, ..Inner::default() });
    let shared = Arc::new(Shared { inner, changed: Notify::new() });
    (PresenceOutbox(Arc::clone(&shared)), OutboxReader(shared))
}

/// The newest text of each connection.
mod newest {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use mille_shared::ConnectionId;

    #[derive(Debug, Default)]
    pub(super) struct Newest(BTreeMap<ConnectionId, Arc<str>>);

    impl Newest {
        pub(super) fn extend(&mut self, cursors: &[(ConnectionId, Arc<str>)]) {
            self.0.extend(cursors.iter().cloned());
        }

        pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
            self.0.values().map(|text| &**text)
        }
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::ConnectionId;

    use super::*;

    fn batch(cursors: &[(&str, &str)]) -> Arc<CursorFrame> {
        let cursors: Vec<(ConnectionId, Arc<str>)> =
            cursors.iter().map(|(who, text)| (ConnectionId::new(*who), Arc::from(*text))).collect();
        let document = DocumentId::new("d");
        let text = server::cursor_update(&document, cursors.iter().map(|(_, text)| &**text));
        Arc::new(CursorFrame { document, text, cursors })
    }

    #[test]
    fn a_socket_that_takes_nothing_finds_the_newest_cursors_and_is_told_to_ask_again() {
        let (outbox, mut reader) = outbox();
        for _ in 0..10 * limits::OUTBOX_MESSAGES_MAX {
            outbox.frame("x".into());
            outbox.cursors(&batch(&[("a", "1"), ("b", "2")]));
        }
        outbox.cursors(&batch(&[("a", "3")]));
        assert_eq!(reader.try_next(), Some(Outgoing::Behind));
        let newest = r#"{"type":"cursor_update","data":{"documentId":"d","cursors":[3,2]}}"#;
        assert_eq!(reader.try_next(), Some(Outgoing::Frame(newest.into())));
        assert_eq!(reader.try_next(), None);
        outbox.frame("lost".into());
        outbox.reply("pong".into());
        assert_eq!(reader.try_next(), Some(Outgoing::Frame("pong".into())));
        outbox.rebuilt();
        outbox.frame("whole".into());
        assert_eq!(reader.try_next(), Some(Outgoing::Frame("whole".into())));
    }

    #[test]
    fn large_frames_fill_it_sooner_and_one_always_fits() {
        let (outbox, mut reader) = outbox();
        let large: Arc<str> = "x".repeat(limits::OUTBOX_BYTES_MAX / 4).into();
        let huge: Arc<str> = "x".repeat(2 * limits::OUTBOX_BYTES_MAX).into();
        (0..5).for_each(|_| outbox.frame(large.clone()));
        assert_eq!(reader.try_next(), Some(Outgoing::Behind), "the fifth did not fit");
        outbox.rebuilt();
        outbox.frame(huge.clone());
        assert_eq!(reader.try_next(), Some(Outgoing::Frame(huge)));
        (0..8).for_each(|_| {
            outbox.frame(large.clone());
            assert_eq!(reader.try_next(), Some(Outgoing::Frame(large.clone())), "what was taken counts no more");
        });
    }

    #[tokio::test]
    async fn a_close_comes_after_what_waits_and_wakes_the_socket() {
        let (outbox, mut reader) = outbox();
        outbox.frame("last".into());
        outbox.close(CloseCode::Forbidden, "out");
        outbox.frame("late".into());
        assert_eq!(reader.next().await, Outgoing::Frame("last".into()));
        assert_eq!(reader.next().await, Outgoing::Close(CloseCode::Forbidden, "out"));
        drop(reader);
        assert!(outbox.is_gone());
    }
}
