//! From a port to requests.
//!
//! Our own accept loop, because it keeps what axum's does not: a time limit for a request's head and for a peer that
//! takes nothing, a bound on connections, and an orderly end. A connection counts until its socket is closed, upgraded
//! or not. Ending the conversations over upgraded sockets is their own affair: they watch the drain.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use mille_shared::{ErrorCode, LimitName, limits};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tower::util::ServiceExt;

use super::errors::ApiError;
use super::strangers::{Introduction, Strangers};
use super::tls::Tls;
use crate::drain::{Drain, Phase};

mod wire;

pub use wire::{BytesTaken, Sent, Wire};

/// Connections that may wait to be accepted; the system has a bound of its own (`net.core.somaxconn`). Those of a node that
/// dies come to the others all at once: one for whom there is no room is not answered, and knocks again after a second, then
/// after two, then four.
const BACKLOG: u32 = 65_535;

/// Bytes of a connection that the system takes beyond those that are on their way to the peer. With as much as it would take by
/// itself, some megabytes, a slow peer looks like one that takes nothing for as long as it needs for a third of that; and what
/// the system holds for it, nobody counts.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Takes a port, for [`serve`].
///
/// # Errors
/// When it can't be had.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Also while the system still remembers the connections of who had it before.
    socket.set_reuseaddr(true)?;
    // Connections have it from the port.
    #[cfg(target_os = "linux")]
    SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The bounds of a listener, and how it is spoken to.
#[derive(Clone)]
pub struct ListenerSettings {
    /// Connections at a time. Some more are answered by `crowded`; the others are told 503 and closed.
    pub connections_max: usize,
    /// What answers those for whom there is no place, one request each.
    pub crowded: Option<Router>,
    /// How long the head of a request may take, also the first on a connection and the next on an idle one.
    pub header_read_timeout: Duration,
    /// How long the peer may take nothing of what is written. Longer than any transport's own patience, which can
    /// still say why it closes.
    pub write_timeout: Duration,
    /// Where those are counted who have not shown a good token; absent: nobody counts them.
    pub strangers: Option<Arc<Strangers>>,
    /// The certificate of a listener that speaks TLS. Without one it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Once the node leaves, no connection is kept for a next request.
    pub drain: Drain,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            connections_max: 50_000,
            crowded: None,
            header_read_timeout: Duration::from_secs(30),
            write_timeout: 2 * limits::STALL_TIMEOUT,
            strangers: None,
            tls: None,
            drain: Drain::default(),
        }
    }
}

/// Serves `router` on `listener` until `stop`: then takes no more connections and lets requests end. Returns when it
/// accepts no more; the connections are on `tasks`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: ListenerSettings,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(settings.connections_max));
    let farewells = Arc::new(Semaphore::new(FAREWELLS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    // A frame is small and somebody waits for it.
                    let _ = stream.set_nodelay(true);
                    let (router, settings, stop) = (router.clone(), settings.clone(), stop.clone());
                    let places = Arc::clone(&places);
                    tasks.spawn(async move {
                        if let Some(introduction) = introduced(&stream, &settings).await {
                            let connection = Connection::new(stream, place, introduction, &settings);
                            let (taken, introduction) = (connection.wire.taken(), connection.introduction.clone());
                            let wire = settings.tls.is_none().then(|| connection.wire.clone());
                            let known = Known { taken, wire, introduction, peer, places };
                            serve_connection(connection, known, router, settings, stop).await;
                        }
                    });
                }
                Err(_) => {
                    if let Some(strangers) = &settings.strangers {
                        strangers.node_is_full();
                    }
                    let farewell = Arc::clone(&farewells).try_acquire_owned().ok().zip(settings.crowded.clone());
                    if let Some((place, crowded)) = farewell {
                        let (settings, places) = (settings.clone(), Arc::clone(&places));
                        tasks.spawn(say_why(stream, peer, place, places, crowded, settings, stop.clone()));
                    } else {
                        turn_away(&stream, &settings, LimitName::NodeConnections, settings.connections_max);
                    }
                }
            },
            Err(error) => {
                // Usually out of file descriptors: what helps is that connections end.
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How long to wait when nothing can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections at a time that are told, in words which a browser understands, why there is no place for them. Beyond it they get
/// the bare answer, so that a crowd takes no more room than this.
const FAREWELLS_MAX: usize = 64;
/// How long such a connection may take for its request, and for its answer.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

async fn say_why(
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    places: Arc<Semaphore>,
    crowded: Router,
    settings: ListenerSettings,
    stop: CancellationToken,
) {
    let settings = ListenerSettings { header_read_timeout: FAREWELL_WITHIN, strangers: None, ..settings };
    let connection = Connection::new(stream, place, Introduction::default(), &settings);
    let (taken, introduction) = (connection.wire.taken(), connection.introduction.clone());
    let known = Known { taken, wire: None, introduction, peer, places };
    let serving = serve_connection(connection, known, crowded, settings, stop);
    let _ = tokio::time::timeout(2 * FAREWELL_WITHIN, serving).await;
}

/// Finds a place for somebody who is not known yet, or turns them away.
async fn introduced(stream: &TcpStream, settings: &ListenerSettings) -> Option<Introduction> {
    let Some(strangers) = &settings.strangers else { return Some(Introduction::default()) };
    let introduction = strangers.admit().await;
    if introduction.is_none() {
        turn_away(stream, settings, LimitName::UnauthenticatedConnections, strangers.max());
    }
    introduction
}

/// A handshake is part of the connection: it has the connection's place, and nobody else waits for it.
async fn serve_connection(
    connection: Connection,
    known: Known,
    router: Router,
    settings: ListenerSettings,
    stop: CancellationToken,
) {
    match &settings.tls {
        None => serve_http(connection, known, router, &settings, stop).await,
        // In a box: else every connection, also one without TLS, would reserve what this needs.
        Some(tls) => {
            let serving = async {
                if let Some(Some(stream)) = stop.run_until_cancelled(tls.handshake(connection)).await {
                    serve_http(stream, known, router, &settings, stop.clone()).await;
                }
            };
            Box::pin(serving).await;
        }
    }
}

/// What is known of a connection: every request is told most of it.
struct Known {
    taken: BytesTaken,
    /// Past TLS nobody can write.
    wire: Option<Wire>,
    introduction: Introduction,
    peer: SocketAddr,
    /// Those of the listener.
    places: Arc<Semaphore>,
}

/// How long the last answer of a connection may take once the node stops.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// From here on a connection is not kept for a next request, which may never come: one place of so many is left. Nor is that
/// of a stranger who has sent much: a load balancer would send the next user's request over it.
const FEW_PLACES_ARE_ONE_IN: usize = 10;

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    known: Known,
    router: Router,
    settings: &ListenerSettings,
    stop: CancellationToken,
) {
    let few = settings.connections_max.div_ceil(FEW_PLACES_ARE_ONE_IN);
    let drain = settings.drain.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        known.introduction.asked();
        request.extensions_mut().insert(known.introduction.clone());
        request.extensions_mut().insert(known.taken.clone());
        if let Some(wire) = &known.wire {
            request.extensions_mut().insert(wire.clone());
        }
        request.extensions_mut().insert(axum::extract::ConnectInfo(known.peer));
        let answered = router.clone().oneshot(request.map(Body::new));
        let (places, introduction, drain) = (Arc::clone(&known.places), known.introduction.clone(), drain.clone());
        async move {
            let mut response = answered.await?;
            let is_leaving = drain.phase() > Phase::Serving;
            let is_last = is_leaving || places.available_permits() < few || introduction.has_sent_much();
            if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    // HTTP/1 only: it is what WebSockets are upgraded from, and waiting to see which version comes has no time limit.
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(settings.header_read_timeout);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // Whoever takes nothing must not keep the node.
            match tokio::time::timeout(LAST_ANSWER_TIMEOUT, serving).await {
                Ok(served) => served,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Tells a peer that there is no place for it, unless it speaks TLS: it would not understand us before a handshake, and for
/// that there is no place.
fn turn_away(stream: &TcpStream, settings: &ListenerSettings, name: LimitName, limit: usize) {
    if settings.tls.is_none() {
        // To who hears at once: nobody waits for it.
        let _ = stream.try_write(no_place(ApiError::met(ErrorCode::Overloaded, name, limit)).as_bytes());
    }
}

/// Why there is no place for somebody, and when they may come again.
pub fn is_full(connections_max: usize) -> ApiError {
    ApiError::met(ErrorCode::Overloaded, LimitName::NodeConnections, connections_max).retry_after(TURNED_AWAY_FOR)
}

/// The answer to somebody for whom there is no place.
fn no_place(error: ApiError) -> String {
    let error = error.retry_after(TURNED_AWAY_FOR);
    let body = serde_json::json!({"errors": [error.to_server_error()]}).to_string();
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close";
    let (seconds, bytes) = (TURNED_AWAY_FOR.as_secs(), body.len());
    format!("{head}\r\nretry-after: {seconds}\r\ncontent-length: {bytes}\r\n\r\n{body}")
}

/// When somebody who was turned away may come again.
const TURNED_AWAY_FOR: Duration = Duration::from_secs(5);

/// A TCP connection that counts what is taken, gives up on a peer that takes nothing, and frees its place at its end.
struct Connection {
    read: OwnedReadHalf,
    wire: Wire,
    write_timeout: Duration,
    /// Runs while something can't be written.
    patience: Option<Pin<Box<Sleep>>>,
    /// Runs until the first byte comes: the time limit of a request's head begins with it. For a stranger, until the head
    /// has come.
    silence: Option<Pin<Box<Sleep>>>,
    introduction: Introduction,
    /// Whether it speaks HTTP without TLS.
    is_plain: bool,
    /// Ready when a stranger's place is wanted by others.
    superseded: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        introduction: Introduction,
        settings: &ListenerSettings,
    ) -> Self {
        let first_head = match introduction.is_to_ask() {
            true => limits::FIRST_HEAD_TIMEOUT.min(settings.header_read_timeout),
            false => settings.header_read_timeout,
        };
        let (read, write) = stream.into_split();
        Self {
            read,
            wire: Wire::new(write),
            write_timeout: settings.write_timeout,
            patience: None,
            silence: Some(Box::pin(tokio::time::sleep(first_head))),
            is_plain: settings.tls.is_none(),
            superseded: introduction.superseded().map(Box::pin),
            introduction,
            _place: place,
        }
    }

    /// Whether others want the place of this stranger. To be asked wherever nothing moves: who asks and takes no answer is
    /// not read. Leaves a waker. Who has asked nothing yet is told why; a socket says it itself, by its close.
    fn poll_superseded(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.introduction.is_stranger() {
            self.superseded = None;
        }
        let is_superseded = self.superseded.as_mut().is_some_and(|superseded| superseded.as_mut().poll(cx).is_ready());
        if is_superseded && self.is_plain && self.introduction.is_to_ask() {
            let _ = self.wire.send(no_place(self.introduction.too_many()).as_bytes());
        }
        is_superseded
    }

    /// Gives up on a peer that takes nothing for too long.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        if self.poll_superseded(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.write_timeout)));
        patience.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.read).poll_read(cx, buf);
        if read.is_ready() {
            if !self.introduction.may_send(buf.filled().len() - before) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if !self.introduction.is_to_ask() {
                self.silence = None;
            }
            return read;
        }
        if self.poll_superseded(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.silence.is_some() && self.introduction.has_asked() {
            self.silence = None;
        }
        match &mut self.silence {
            Some(silence) => silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wire.close();
        self.introduction.gone();
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.wire.poll_write(cx, bufs);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.wire.poll_flush(cx);
        self.wrote(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
