//! From a handshake to a conversation.
//!
//! A handshake always upgrades; what is wrong with it is said with a close code, since browsers can't read HTTP
//! errors of a handshake.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::Executor;
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mille_shared::CloseCode;
use tokio::time::Instant;

use super::conversation::Conversation;
use super::frames::Dialect;
use super::{Transport, TransportObserver, Via};
use crate::gateway::auth::{BearerToken, offered_subprotocols};
use crate::gateway::listener::{BytesTaken, Wire};
use crate::gateway::shedding;
use crate::gateway::strangers::Introduction;
use crate::metrics::CloseReason;

/// Bytes that are read at once: several frames of a client, which are small for the most part. Every idle socket has that room;
/// the library's own is a hundred times as large.
pub(in crate::gateway) const READ_BUFFER_BYTES: usize = 1024;
/// Bytes that are written at once, if so many wait.
pub(in crate::gateway) const WRITE_BUFFER_BYTES: usize = 4096;
/// Bytes that may wait in a socket: one message above the buffer. Large enough for a SNAPSHOT of the largest plan.
const WRITE_BUFFER_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Upgrades to a GraphQL socket.
pub async fn upgrade<E: Executor>(
    State(transport): State<Transport<E>>,
    taken: Option<Extension<BytesTaken>>,
    wire: Option<Extension<Wire>>,
    introduction: Option<Extension<Introduction>>,
    headers: HeaderMap,
    uri: Uri,
    upgrade: WebSocketUpgrade,
) -> Response {
    let token = BearerToken::from_handshake(&headers, uri.query());
    let dialect = Dialect::choose(offered_subprotocols(&headers));
    let bytes_max = transport.limits.request_bytes_max;
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    let tasks = transport.tasks.clone();
    let Some(dialect) = dialect else {
        // A client that offered something takes no socket that names nothing, and would never see the close code.
        let offered = offered_subprotocols(&headers).find(|entry| is_plain_name(entry)).map(str::to_owned);
        let (why, code) = (CloseReason::Subprotocol, CloseCode::SubprotocolNotAcceptable);
        let refused = refuse(Arc::clone(&transport.observer), why, code, "Subprotocol not acceptable");
        return upgrade.protocols(offered).on_upgrade(move |socket| tasks.track_future(refused(socket)));
    };
    if transport.shedding.refuses_socket() {
        let (why, code) = (CloseReason::Pressure, CloseCode::TryAgainLater);
        let refused = refuse(Arc::clone(&transport.observer), why, code, shedding::REASON);
        return upgrade
            .protocols([dialect.subprotocol()])
            .on_upgrade(move |socket| tasks.track_future(refused(socket)));
    }
    let taken = taken.map(|Extension(taken)| taken).unwrap_or_default();
    let wire = wire.map(|Extension(wire)| wire);
    let introduction = introduction.map(|Extension(introduction)| introduction).unwrap_or_default();
    // In boxes: a task reserves all that it ever captures for as long as it runs.
    let captured = Box::new((transport, token, wire, introduction));
    upgrade.protocols([dialect.subprotocol()]).on_upgrade(move |socket| {
        let (transport, token, wire, introduction) = *captured;
        let observer = Arc::clone(&transport.observer);
        let opened_at = Instant::now();
        observer.opened(Via::WebSocket);
        let conversation = Box::new(Conversation::new(socket, dialect, token, taken, wire, introduction, transport));
        // Without a span: it would be kept for as long as the socket is, with that of the handshake, and most say nothing.
        tasks.track_future(async move {
            let ending = conversation.run().await;
            observer.closed(Via::WebSocket, ending.why(), ending.code(), opened_at.elapsed());
        })
    })
}

/// Whether this is a language's name, and not a token in its place, which is never repeated.
fn is_plain_name(entry: &str) -> bool {
    !entry.is_empty() && !entry.starts_with("bearer.")
}

/// Closes a socket that is not talked to, and counts it all the same.
fn refuse(
    observer: Arc<dyn TransportObserver>,
    why: CloseReason,
    code: CloseCode,
    reason: &'static str,
) -> impl FnOnce(WebSocket) -> BoxFuture<'static, ()> + Send {
    move |socket| {
        async move {
            let opened_at = Instant::now();
            observer.opened(Via::WebSocket);
            close(socket, code, reason).await;
            observer.closed(Via::WebSocket, why, code.as_u16(), opened_at.elapsed());
        }
        .boxed()
    }
}

/// Closes a socket and waits a moment for the client's answer: an early end of the connection could take the close frame with it.
pub(in crate::gateway) async fn close(mut socket: WebSocket, code: CloseCode, reason: &str) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let frame = CloseFrame { code: code.as_u16(), reason: reason.into() };
    let _ = tokio::time::timeout(PATIENCE, async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    })
    .await;
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
