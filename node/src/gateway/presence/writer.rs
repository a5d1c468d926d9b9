//! What goes out of a presence socket: fed as it comes, flushed once when there is no more, so that many frames share one
//! system call.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use mille_shared::presence::ServerFrame;
use mille_shared::presence::server::Reconnect;
use mille_shared::{CloseCode, limits};
use tokio::time::Instant;

use crate::drain::{Farewell, Reason};
use crate::gateway::listener::BytesTaken;
use crate::gateway::stall::Stall;
use crate::metrics::Metrics;
use crate::pressure::Backlog;
use crate::project::presence::shared;

/// The socket's reading half.
pub(super) type Incoming = SplitStream<WebSocket>;

/// How long the last frames and the other side's close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The socket's writing half, with what waits for it.
pub(super) struct Writer<S = SplitSink<WebSocket, Message>> {
    sink: S,
    metrics: Arc<Metrics>,
    queue: VecDeque<Message>,
    /// Bytes of the queue, and of what was handed over and is not flushed.
    backlog: Backlog,
    stall: Stall,
}

impl Writer {
    /// `taken` counts the bytes that the system took of the socket, if anybody counts them.
    pub(super) fn split(socket: WebSocket, taken: BytesTaken, metrics: Arc<Metrics>) -> (Self, Incoming) {
        let (sink, incoming) = socket.split();
        (Self::new(sink, taken, metrics), incoming)
    }
}

impl<S: Sink<Message, Error = axum::Error> + Unpin> Writer<S> {
    fn new(sink: S, taken: BytesTaken, metrics: Arc<Metrics>) -> Self {
        let backlog = metrics.pressure.backlog();
        Self { sink, metrics, queue: VecDeque::new(), backlog, stall: Stall::new(taken) }
    }

    /// Whether something waits to be written or flushed. While so, nothing is taken from the outbox, which bounds itself.
    pub(super) fn is_busy(&self) -> bool {
        self.stall.since().is_some()
    }

    /// When a socket that takes nothing is to be given up.
    pub(super) fn stalled_at(&self) -> Option<Instant> {
        self.stall.since().map(|since| since + limits::STALL_TIMEOUT)
    }

    /// Queues a frame. One too many for a socket that takes nothing is dropped; only replies can come to that.
    pub(super) fn text(&mut self, frame: Bytes) {
        let bytes = frame.len();
        if self.push(text_of(frame)) {
            self.backlog.add(bytes);
        }
    }

    pub(super) fn frame(&mut self, frame: &ServerFrame) {
        self.text(shared(frame.encode()));
    }

    /// Drops what waits and was not handed to the socket.
    pub(super) fn forget(&mut self) {
        self.queue.clear();
    }

    pub(super) fn ping(&mut self) {
        self.push(Message::Ping(Default::default()));
    }

    /// Writes and flushes what waits. Cancel-safe: what was not written stays.
    pub(super) async fn drive(&mut self) -> Result<(), axum::Error> {
        poll_fn(|cx| self.poll_drive(cx)).await
    }

    /// Says the last words, closes, and waits a moment for the other side: an early end of the connection could take the
    /// close frame with it. Who is to come back is told when: as `farewell` says, or as many who go at the same time.
    pub(super) async fn close(
        mut self,
        mut incoming: Incoming,
        code: CloseCode,
        reason: &str,
        farewell: Option<Farewell>,
    ) {
        if code == CloseCode::ServiceRestart {
            let why = if reason == Reason::Drain.as_str() { Reason::Drain } else { Reason::Moved };
            let farewell = farewell.unwrap_or_else(|| Farewell::at_once(why));
            let (reason, min_ms, max_ms) = (farewell.reason.as_str(), farewell.min_ms(), farewell.max_ms());
            let hint = ServerFrame::Reconnect { data: Reconnect { reason, min_ms, max_ms } };
            // Without asking for room, as the close: it always comes before it.
            self.queue.push_back(text_of(shared(hint.encode())));
        }
        let frame = CloseFrame { code: code.as_u16(), reason: reason.into() };
        self.queue.push_back(Message::Close(Some(frame)));
        // Nothing is left to do about a socket that is gone or takes no more.
        let _ = tokio::time::timeout(CLOSE_WITHIN, async {
            self.drive().await?;
            loop {
                match incoming.next().await {
                    Some(Ok(Message::Close(_))) => return Ok::<_, axum::Error>(()),
                    Some(message) => drop(message?),
                    // So is a socket after a frame that was too large. What it did not read would end the connection at once.
                    None => std::future::pending().await,
                }
            }
        })
        .await;
    }

    /// Lets the answer to the other side's close go out: the library has made it, and sends it with the next flush.
    pub(super) async fn answer_close(mut self, mut incoming: Incoming) {
        let _ = tokio::time::timeout(CLOSE_WITHIN, async {
            let _ = self.sink.flush().await;
            while incoming.next().await.is_some_and(|message| message.is_ok()) {}
        })
        .await;
    }

    /// Answers whether there was room.
    fn push(&mut self, message: Message) -> bool {
        let has_room = self.queue.len() < limits::OUTBOX_MESSAGES_MAX;
        if has_room {
            if !self.is_busy() {
                self.stall.go_on();
            }
            self.queue.push_back(message);
        }
        has_room
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        let driven = self.poll_write(cx)?;
        match driven {
            Poll::Ready(()) => self.stall.end(),
            Poll::Pending => {
                self.stall.go_on();
            }
        }
        driven.map(Ok)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        while !self.queue.is_empty() {
            ready!(self.sink.poll_ready_unpin(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.sink.start_send_unpin(message)?;
                self.metrics.connections.messages_sent.increment(1);
            }
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        self.backlog.set(0, 0);
        Poll::Ready(Ok(()))
    }
}

/// A frame as a message: its bytes are shared and not copied.
fn text_of(frame: Bytes) -> Message {
    Message::Text(Utf8Bytes::try_from(frame).expect("frames are made of text"))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt as _;

    use super::*;

    /// A library's buffer over a system that takes nothing: there is always room, and it is never flushed.
    struct Buffer;

    impl Sink<Message> for Buffer {
        type Error = axum::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            Poll::Ready(Ok(()))
        }

        fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), axum::Error> {
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_library_took_is_no_progress_and_what_the_system_took_is() {
        let taken = BytesTaken::default();
        let mut writer = Writer::new(Buffer, taken.clone(), Arc::new(Metrics::new()));
        assert_eq!(writer.stalled_at(), None, "nothing waits");
        let mut waits_since = Instant::now();
        for seconds in 1..100 {
            writer.ping();
            assert!(writer.drive().now_or_never().is_none());
            assert_eq!(writer.stalled_at(), Some(waits_since + limits::STALL_TIMEOUT), "after {seconds} s");
            tokio::time::advance(Duration::from_secs(1)).await;
            if seconds % 30 == 0 {
                taken.add(1);
                waits_since = Instant::now();
            }
        }
    }
}
