//! What waits for one presence socket. The actor puts in and never waits; the socket takes out at its own pace.
//!
//! A viewer that reads nothing costs bounded memory: frames about people queue up to a bound, beyond which the queue is
//! emptied and the whole picture asked for again once the socket takes something; of cursors only the newest of each
//! connection is kept.
//!
//! The picture itself is as large as the room, and so may be larger than the bound. It waits beside it, once at most, and
//! nothing drops it but a newer one: so who asked for it gets it, and asks again only after they took it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mille_core::presence::CursorFrame;
use mille_shared::presence::{DocumentId, server};
use mille_shared::{CloseCode, ConnectionId, limits};
use newest::Newest;
use tokio::sync::Notify;

use crate::pressure::{Backlog, Pressure};

/// The actor's end. Dropping it says that nothing more comes, whoever drops it.
#[derive(Debug)]
pub struct PresenceOutbox(Arc<Shared>);

/// The socket's end. Dropping it says that the socket is gone.
#[derive(Debug)]
pub struct OutboxReader(Arc<Shared>);

/// What a socket finds in its outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A frame to send, which is text.
    Frame(Bytes),
    /// The socket fell behind: ask the project for a refresh.
    Behind,
    /// Close the socket.
    Close(CloseCode, &'static str),
    /// The project stopped on this node without a word: close, and let the client come back.
    Ended,
}

/// Cursors as they are put into outboxes: written once, however many are shown them.
#[derive(Debug)]
pub struct CursorBatch {
    frame: Arc<CursorFrame>,
    text: Bytes,
}

impl CursorBatch {
    /// One to share.
    #[must_use]
    pub fn of(frame: Arc<CursorFrame>) -> Arc<Self> {
        let text = shared(Arc::clone(&frame.text));
        Arc::new(Self { frame, text })
    }

    fn shows(&self, document: &DocumentId, connection: &ConnectionId) -> bool {
        let CursorFrame { document: shown, cursors, .. } = &*self.frame;
        shown == document && cursors.binary_search_by(|(id, _)| id.cmp(connection)).is_ok()
    }
}

/// A frame in the form in which sockets take it: the same bytes for everyone.
#[must_use]
pub fn shared(frame: Arc<str>) -> Bytes {
    struct Text(Arc<str>);

    impl AsRef<[u8]> for Text {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    Bytes::from_owner(Text(frame))
}

/// Makes the two ends of one socket's outbox.
#[must_use]
pub fn outbox(pressure: &Pressure) -> (PresenceOutbox, OutboxReader) {
    make(false, pressure)
}

/// The outbox of somebody who is present without a presence socket: frames for them go nowhere. They are present as long
/// as the reader is held.
#[must_use]
pub fn silent_outbox() -> (PresenceOutbox, OutboxReader) {
    make(true, &Pressure::default())
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    frames: VecDeque<Waiting>,
    /// Bytes of the frames.
    backlog: Backlog,
    /// How many of them are the picture's.
    picture_bytes: usize,
    cursors: Option<WaitingCursors>,
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

/// A frame that waits.
#[derive(Debug)]
struct Waiting {
    frame: Bytes,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A change. The next picture has what it says.
    Part,
    /// One of the picture's frames.
    Picture,
    /// What no picture has.
    Reply,
}

/// Cursors of one document that wait: the shared frame while it is the only one, else the newest of each connection.
#[derive(Debug)]
enum WaitingCursors {
    One(Arc<CursorBatch>),
    Several(DocumentId, Newest),
}

impl PresenceOutbox {
    /// Puts a frame behind those that wait. It is a part of the picture: while the whole picture is still to come, it is
    /// dropped, and when there is no room, all parts are.
    pub fn frame(&self, frame: Bytes) {
        self.push(Waiting { frame, kind: Kind::Part });
    }

    /// As [`Self::frame`], for what no picture has. It stays also when all parts are dropped.
    pub fn reply(&self, frame: Bytes) {
        self.push(Waiting { frame, kind: Kind::Reply });
    }

    /// Puts in the whole picture, whatever room there is: in place of all parts that wait, and of the picture before.
    /// Frames count again.
    pub fn picture(&self, frames: impl IntoIterator<Item = Arc<str>>) {
        let mut inner = self.0.lock();
        if !inner.takes_frames() {
            return;
        }
        inner.behind = Behind::No;
        // A reply stays behind what it was to follow.
        let is_void = |waiting: &Waiting| waiting.kind != Kind::Reply;
        let first = inner.frames.iter().position(is_void).unwrap_or(inner.frames.len());
        inner.keep(|kind| kind == Kind::Reply);
        for (place, frame) in (first..).zip(frames.into_iter().map(shared)) {
            inner.backlog.add(frame.len());
            inner.picture_bytes += frame.len();
            inner.frames.insert(place, Waiting { frame, kind: Kind::Picture });
        }
        drop(inner);
        self.0.changed.notify_one();
    }

    fn push(&self, waiting: Waiting) {
        let mut inner = self.0.lock();
        let is_reply = waiting.kind == Kind::Reply;
        let is_moot = inner.behind != Behind::No && !is_reply;
        if !inner.takes_frames() || is_moot {
            return;
        }
        if !inner.has_room(&waiting) {
            inner.keep(|kind| kind != Kind::Part);
            inner.behind = Behind::Yes;
            // Who asks and asks and reads no answer gets as many answers as fit.
            if !is_reply || !inner.has_room(&waiting) {
                return;
            }
        }
        inner.append(waiting);
        drop(inner);
        self.0.changed.notify_one();
    }

    /// Puts cursors in. What waits of the same document is brought up to date, what waits of another is dropped.
    pub fn cursors(&self, batch: &Arc<CursorBatch>) {
        let frame = &batch.frame;
        let mut inner = self.0.lock();
        if !inner.takes_frames() {
            return;
        }
        inner.cursors = Some(match inner.cursors.take() {
            Some(WaitingCursors::One(old)) if old.frame.document == frame.document => {
                let mut newest = Newest::of(&old.frame.cursors);
                newest.extend(&frame.cursors);
                WaitingCursors::Several(frame.document.clone(), newest)
            }
            Some(WaitingCursors::Several(document, mut newest)) if document == frame.document => {
                newest.extend(&frame.cursors);
                WaitingCursors::Several(document, newest)
            }
            _ => WaitingCursors::One(Arc::clone(batch)),
        });
        drop(inner);
        self.0.changed.notify_one();
    }

    /// A connection's cursor is not in that document any more. It is not shown behind the frames that say so: a text that
    /// is shared goes before them as it is, since to write another for each socket would cost what sharing saves.
    pub fn hide(&self, document: &DocumentId, connection: &ConnectionId) {
        let mut inner = self.0.lock();
        match inner.cursors.take() {
            Some(WaitingCursors::One(batch)) if batch.shows(document, connection) => {
                let waiting = Waiting { frame: batch.text.clone(), kind: Kind::Part };
                if inner.behind == Behind::No && inner.has_room(&waiting) {
                    inner.append(waiting);
                } else {
                    inner.cursors = WaitingCursors::One(batch).without(connection);
                }
            }
            Some(WaitingCursors::Several(shown, newest)) if shown == *document => {
                inner.cursors = WaitingCursors::Several(shown, newest).without(connection);
            }
            waiting => inner.cursors = waiting,
        }
    }

    /// Closes the socket, after the frames that wait; they are dropped if it is one that may not have them any more.
    pub fn close(&self, code: CloseCode, reason: &'static str) {
        let mut inner = self.0.lock();
        inner.close.get_or_insert((code, reason));
        if code == CloseCode::Forbidden {
            inner.keep(|_| false);
        }
        drop(inner);
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
        if let Some(Waiting { frame, kind }) = inner.frames.pop_front() {
            inner.backlog.remove(frame.len());
            inner.picture_bytes -= if kind == Kind::Picture { frame.len() } else { 0 };
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
                WaitingCursors::One(batch) => batch.text.clone(),
                WaitingCursors::Several(document, newest) => shared(server::cursor_update(&document, newest.texts())),
            })
        })
    }
}

impl WaitingCursors {
    /// The same but for this connection's, if any are left.
    fn without(self, connection: &ConnectionId) -> Option<Self> {
        let (document, mut newest) = match self {
            Self::One(batch) => (batch.frame.document.clone(), Newest::of(&batch.frame.cursors)),
            Self::Several(document, newest) => (document, newest),
        };
        newest.remove(connection);
        (!newest.is_empty()).then_some(Self::Several(document, newest))
    }
}

impl Drop for PresenceOutbox {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl Inner {
    fn takes_frames(&self) -> bool {
        !self.silent && !self.gone && self.close.is_none()
    }

    /// Whether a frame fits beside the picture. One always does.
    fn has_room(&self, waiting: &Waiting) -> bool {
        let beside = self.backlog.bytes() - self.picture_bytes;
        let fits = beside == 0 || beside + waiting.frame.len() <= limits::OUTBOX_BYTES_MAX;
        fits && self.frames.len() < limits::OUTBOX_MESSAGES_MAX
    }

    fn append(&mut self, waiting: Waiting) {
        self.backlog.add(waiting.frame.len());
        self.frames.push_back(waiting);
    }

    /// Drops the frames that are not of these kinds.
    fn keep(&mut self, is_kept: impl Fn(Kind) -> bool) {
        self.frames.retain(|waiting| is_kept(waiting.kind));
        let bytes = |kinds: fn(Kind) -> bool| -> usize {
            self.frames.iter().filter(|waiting| kinds(waiting.kind)).map(|waiting| waiting.frame.len()).sum()
        };
        let (all, picture) = (bytes(|_| true), bytes(|kind| kind == Kind::Picture));
        self.picture_bytes = picture;
        self.backlog.set(self.frames.len(), all);
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.gone = true;
        inner.keep(|_| false);
        inner.frames.shrink_to_fit();
        inner.cursors = None;
    }
}

impl Shared {
    /// A panic while the lock was held can't leave the queue in a state that matters: it is used on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(silent: bool, pressure: &Pressure) -> (PresenceOutbox, OutboxReader) {
    let inner = Mutex::new(Inner {
        frames: VecDeque::new(),
        backlog: pressure.backlog(),
        picture_bytes: 0,
        cursors: None,
        behind: Behind::No,
        close: None,
        ended: false,
        gone: false,
        silent,
    });
    let shared = Arc::new(Shared { inner, changed: Notify::new() });
    (PresenceOutbox(Arc::clone(&shared)), OutboxReader(shared))
}

/// The newest text of each connection.
mod newest {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use mille_shared::ConnectionId;

    #[derive(Debug)]
    pub(super) struct Newest(BTreeMap<ConnectionId, Arc<str>>);

    impl Newest {
        pub(super) fn of(cursors: &[(ConnectionId, Arc<str>)]) -> Self {
            Self(cursors.iter().cloned().collect())
        }

        pub(super) fn remove(&mut self, connection: &ConnectionId) {
            self.0.remove(connection);
        }

        pub(super) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

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
    use super::*;

    fn outbox() -> (PresenceOutbox, OutboxReader) {
        super::outbox(&Pressure::default())
    }

    fn batch(cursors: &[(&str, &str)]) -> Arc<CursorBatch> {
        let cursors: Vec<(ConnectionId, Arc<str>)> =
            cursors.iter().map(|(who, text)| (ConnectionId::new(*who), Arc::from(*text))).collect();
        let document = DocumentId::new("d");
        let text = server::cursor_update(&document, cursors.iter().map(|(_, text)| &**text));
        CursorBatch::of(Arc::new(CursorFrame { document, text, cursors }))
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
        outbox.picture(["whole".into()]);
        assert_eq!(reader.try_next(), Some(Outgoing::Frame("whole".into())));
    }

    #[test]
    fn nobody_is_shown_a_cursor_after_they_were_told_that_it_went() {
        let gone = (DocumentId::new("d"), ConnectionId::new("a"));
        let told = |batches: usize, frames: usize| -> Vec<Outgoing> {
            let (outbox, mut reader) = outbox();
            (0..frames).for_each(|_| outbox.frame("x".into()));
            (0..batches).for_each(|_| outbox.cursors(&batch(&[("a", "1"), ("b", "2")])));
            outbox.hide(&DocumentId::new("another"), &gone.1);
            outbox.hide(&gone.0, &gone.1);
            outbox.frame("a left".into());
            let told = std::iter::from_fn(|| reader.try_next());
            told.filter(|told| *told != Outgoing::Frame("x".into())).collect()
        };
        let cursors = |texts: &str| {
            let frame = format!(r#"{{"type":"cursor_update","data":{{"documentId":"d","cursors":[{texts}]}}}}"#);
            Outgoing::Frame(frame.into())
        };
        let left = Outgoing::Frame("a left".into());
        assert_eq!(told(1, 0), [cursors("1,2"), left.clone()], "who keeps up has the text that all have, and before");
        assert_eq!(told(2, 0), [left, cursors("2")]);
        assert_eq!(told(1, limits::OUTBOX_MESSAGES_MAX), [Outgoing::Behind, cursors("2")], "without room for it");
    }

    #[test]
    fn viewers_who_keep_up_share_one_text() {
        let (one, other) = (outbox(), outbox());
        let cursors = batch(&[("a", "1")]);
        [&one.0, &other.0].into_iter().for_each(|outbox| outbox.cursors(&cursors));
        let told = [one.1, other.1].map(|mut reader| match reader.try_next() {
            Some(Outgoing::Frame(frame)) => frame.as_ptr(),
            told => panic!("{told:?}"),
        });
        assert_eq!(told[0], told[1]);
        assert_eq!(told[0], cursors.frame.text.as_ptr(), "and it is the text that was written first");
    }

    #[test]
    fn a_reply_is_not_dropped_with_the_picture_and_replies_are_bounded_too() {
        let (outbox, mut reader) = outbox();
        outbox.reply("welcome".into());
        (0..=limits::OUTBOX_MESSAGES_MAX).for_each(|_| outbox.frame("x".into()));
        assert_eq!(reader.try_next(), Some(Outgoing::Frame("welcome".into())));
        assert_eq!(reader.try_next(), Some(Outgoing::Behind));
        (0..2 * limits::OUTBOX_MESSAGES_MAX).for_each(|_| outbox.reply("pong".into()));
        let told = std::iter::from_fn(|| reader.try_next()).filter(|told| *told != Outgoing::Behind).count();
        assert_eq!(told, limits::OUTBOX_MESSAGES_MAX);
    }

    #[test]
    fn a_picture_of_any_size_is_taken_whole_before_another_is_asked_for() {
        let pressure = Pressure::default();
        let (outbox, mut reader) = super::outbox(&pressure);
        let huge: Arc<str> = "x".repeat(2 * limits::OUTBOX_BYTES_MAX).into();
        let picture = || [Arc::clone(&huge), Arc::from("throttle"), Arc::clone(&huge)];
        outbox.reply("welcome".into());
        outbox.picture(picture());
        outbox.frame("y".repeat(limits::OUTBOX_BYTES_MAX).into());
        outbox.frame("one too many".into());
        let told: Vec<Outgoing> = std::iter::from_fn(|| reader.try_next()).collect();
        let whole = picture().map(|frame| Outgoing::Frame(shared(frame)));
        let expected = [Outgoing::Frame("welcome".into())].into_iter().chain(whole).chain([Outgoing::Behind]);
        assert!(told.iter().eq(&expected.collect::<Vec<_>>()), "the parts are dropped, and the picture is not");
        assert_eq!(pressure.queued_bytes(), 0);
    }

    #[test]
    fn of_two_pictures_the_newer_waits_where_the_older_stood() {
        let pressure = Pressure::default();
        let (outbox, mut reader) = super::outbox(&pressure);
        outbox.reply("welcome".into());
        outbox.frame("old".into());
        outbox.picture(["older".into(), "list".into()]);
        outbox.reply("pong".into());
        outbox.frame("old".into());
        outbox.picture(["newer".into()]);
        outbox.frame("new".into());
        assert_eq!(pressure.queued_bytes(), "welcomepongnewernew".len() as u64);
        for text in ["welcome", "newer", "pong", "new"] {
            assert_eq!(reader.try_next(), Some(Outgoing::Frame(text.into())));
        }
        assert_eq!((reader.try_next(), pressure.queued_bytes()), (None, 0));
    }

    #[tokio::test]
    async fn an_outbox_that_is_dropped_ends_its_socket() {
        let (outbox, mut reader) = outbox();
        outbox.frame("last".into());
        drop(outbox);
        assert_eq!(reader.next().await, Outgoing::Frame("last".into()));
        assert_eq!(reader.next().await, Outgoing::Ended);
    }

    #[test]
    fn large_frames_fill_it_sooner_and_one_always_fits() {
        let (outbox, mut reader) = outbox();
        let large: Bytes = "x".repeat(limits::OUTBOX_BYTES_MAX / 4).into();
        let huge: Bytes = "x".repeat(2 * limits::OUTBOX_BYTES_MAX).into();
        (0..5).for_each(|_| outbox.frame(large.clone()));
        assert_eq!(reader.try_next(), Some(Outgoing::Behind), "the fifth did not fit");
        outbox.picture([]);
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
        outbox.close(CloseCode::ServiceRestart, "drain");
        outbox.frame("late".into());
        assert_eq!(reader.next().await, Outgoing::Frame("last".into()));
        assert_eq!(reader.next().await, Outgoing::Close(CloseCode::ServiceRestart, "drain"));
        drop(reader);
        assert!(outbox.is_gone());
    }

    #[test]
    fn what_waits_is_counted_until_it_is_taken_dropped_or_the_socket_is_gone() {
        let pressure = Pressure::default();
        let (outbox, mut reader) = super::outbox(&pressure);
        (0..3).for_each(|_| outbox.frame("12345".into()));
        assert_eq!(pressure.queued_bytes(), 15);
        reader.try_next();
        assert_eq!(pressure.queued_bytes(), 10);
        (0..limits::OUTBOX_MESSAGES_MAX).for_each(|_| outbox.frame("12345".into()));
        assert_eq!((reader.try_next(), pressure.queued_bytes()), (Some(Outgoing::Behind), 0));
        outbox.reply("1".into());
        assert_eq!(pressure.queued_bytes(), 1);
        drop(reader);
        assert_eq!(pressure.queued_bytes(), 0);
    }

    #[tokio::test]
    async fn who_may_be_here_no_more_is_told_nothing_of_what_waits() {
        let (outbox, mut reader) = outbox();
        outbox.frame("not for you".into());
        outbox.close(CloseCode::Forbidden, "out");
        assert_eq!(reader.next().await, Outgoing::Close(CloseCode::Forbidden, "out"));
    }
}
