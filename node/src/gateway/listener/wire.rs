//! The writing end of a connection, which two may use: the connection's own task, and whoever tells many sockets the same.
//!
//! To wake a task for every frame of every socket costs more than the frame. So whoever has one for many writes it to each
//! socket that is idle right away. A socket that is not, because the system takes no more or its task is amid a message, is
//! left to its task. Frames are never mixed: what the system took half of is ended before anything else is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use rustix::net::{SendFlags, send};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

/// The writing end of a connection. Cheap to clone. In the extensions of the requests of a connection without TLS.
#[derive(Clone)]
pub struct Wire(Arc<Inner>);

/// How many bytes of a connection the system has taken. In the extensions of every request, so that a transport can
/// tell a large message that moves from one that is stuck.
#[derive(Clone, Default)]
pub struct BytesTaken(Arc<Inner>);

/// Small and in one place: a walk over many sockets finds it out of the processor's caches each time.
#[derive(Default)]
struct Inner {
    taken: AtomicU64,
    end: Mutex<End>,
}

#[derive(Default)]
struct End {
    /// `None` once the connection is over.
    half: Option<OwnedWriteHalf>,
    /// What the system did not take of what was sent past the task: hardly ever anything. At most what one call of
    /// [`Wire::send`] brought, and never empty.
    rest: Option<Box<Bytes>>,
    /// The task has written a part of what it has, or was told to wait.
    is_amid: bool,
}

impl Inner {
    fn note(&self, taken: usize) {
        self.taken.fetch_add(taken as u64, Ordering::Relaxed);
    }
}

impl BytesTaken {
    /// So many until now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// The system has taken more.
    #[cfg(test)]
    pub(crate) fn add(&self, bytes: usize) {
        self.0.note(bytes);
    }
}

/// What became of bytes that were sent past a connection's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The system has them.
    Whole,
    /// The system has some of them. The connection's task must flush, or the rest stays where it is.
    Begun,
    /// Not one: the task is amid a message, the system takes nothing, or the connection is over.
    Not,
}

impl Wire {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self(Arc::new(Inner { taken: AtomicU64::new(0), end: Mutex::new(End { half: Some(half), ..End::default() }) }))
    }

    /// What is taken of it.
    pub(super) fn taken(&self) -> BytesTaken {
        BytesTaken(Arc::clone(&self.0))
    }

    /// Writes whole frames past the connection's task, if that can be done at once. Never waits.
    pub fn send(&self, frames: &[u8]) -> Sent {
        let mut end = self.0.end.lock();
        if end.is_amid || end.rest.is_some() {
            return Sent::Not;
        }
        let Some(half) = &end.half else { return Sent::Not };
        // Past the runtime, too: whether it believes the socket to be ready is one more place to look at, and the system
        // knows better. A task that finds what is left finds out by itself that it must wait.
        let Ok(written) = send(half.as_ref(), frames, SendFlags::empty()) else { return Sent::Not };
        self.0.note(written);
        if written == frames.len() {
            return Sent::Whole;
        }
        end.rest = Some(Box::new(Bytes::copy_from_slice(&frames[written..])));
        Sent::Begun
    }

    /// The connection is over: who still holds it holds no socket.
    pub(super) fn close(&self) {
        let mut end = self.0.end.lock();
        (end.half, end.rest) = (None, None);
    }

    // ---- for the connection's task -----------------------------------------------------------------------------------

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut end = self.0.end.lock();
        // Until it has written all it has, nobody else writes.
        end.is_amid = true;
        ready!(self.poll_rest(&mut end, cx))?;
        let half = end.half.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let half = Pin::new(half);
        let written = match bufs {
            [buf] => half.poll_write(cx, buf),
            bufs => half.poll_write_vectored(cx, bufs),
        };
        let written = ready!(written)?;
        self.0.note(written);
        end.is_amid = written < bufs.iter().map(|buf| buf.len()).sum();
        Poll::Ready(Ok(written))
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_rest(&mut self.0.end.lock(), cx)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut end = self.0.end.lock();
        ready!(self.poll_rest(&mut end, cx))?;
        match &mut end.half {
            Some(half) => Pin::new(half).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_rest(&self, end: &mut End, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let End { half, rest, .. } = end;
        while let Some(bytes) = rest {
            let half = half.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let written = ready!(Pin::new(half).poll_write(cx, bytes))?;
            self.0.note(written);
            bytes.advance(written);
            if bytes.is_empty() {
                *rest = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn connected() -> (Wire, TcpStream, tokio::net::tcp::OwnedReadHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (read, write) = listener.accept().await.expect("a connection").0.into_split();
        (Wire::new(write), peer, read)
    }

    async fn write(wire: &Wire, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| wire.poll_write(cx, &[IoSlice::new(bytes)])).await
    }

    /// Sends past the task until the system takes no more, and answers what was sent.
    fn fill(wire: &Wire, frame: &[u8]) -> (usize, Sent) {
        let mut frames = 0;
        loop {
            match wire.send(frame) {
                Sent::Whole => frames += 1,
                other => return (frames, other),
            }
        }
    }

    #[tokio::test]
    async fn what_the_system_took_half_of_is_ended_before_anything_else_is_written() {
        let (wire, mut peer, _read) = connected().await;
        // Long, so that the last one is cut.
        let frame = vec![b'a'; 1_000_003];
        let (mut frames, sent) = fill(&wire, &frame);
        if sent == Sent::Begun {
            frames += 1;
            assert_eq!(wire.send(b"x"), Sent::Not, "it would be amid the other");
        }
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.expect("bytes");
            all
        });
        assert_eq!(write(&wire, b"bcd").await.expect("written"), 3);
        assert_eq!(wire.send(b"e"), Sent::Whole);
        poll_fn(|cx| wire.poll_shutdown(cx)).await.expect("shut");
        let all = reading.await.expect("no panic");
        assert_eq!(all.len(), frames * frame.len() + 4);
        assert!(all.ends_with(b"abcde") && all[..all.len() - 4].iter().all(|byte| *byte == b'a'));
        assert_eq!(wire.taken().count(), all.len() as u64);
    }

    #[tokio::test]
    async fn amid_a_message_of_the_task_nobody_else_writes() {
        let (wire, mut peer, _read) = connected().await;
        let large = vec![b'a'; 64 << 20];
        let written = write(&wire, &large).await.expect("a part");
        assert!(written < large.len(), "it is cut");
        assert_eq!(wire.send(b"x"), Sent::Not);
        assert!(poll_fn(|cx| wire.poll_write(cx, &[IoSlice::new(&large[written..])])).now_or_never().is_none());
        let mut taken = vec![0; written];
        peer.read_exact(&mut taken).await.expect("bytes");
        assert_eq!(wire.send(b"x"), Sent::Not, "it may write again, but not be interrupted");
        let reading = tokio::spawn(async move { peer.read_to_end(&mut Vec::new()).await });
        let mut at = written;
        while at < large.len() {
            at += write(&wire, &large[at..]).await.expect("a part");
        }
        assert_eq!(wire.send(b"x"), Sent::Whole);
        wire.close();
        assert_eq!(wire.send(b"x"), Sent::Not);
        let rest = reading.await.expect("no panic").expect("bytes");
        assert_eq!(rest, large.len() - written + 1);
    }
}
