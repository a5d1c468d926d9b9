//! One GraphQL socket, from the handshake to the close.
//!
//! A single task owns the socket, the operations on it and the clock of the session; nothing is spawned and nothing
//! queues without bound. One thing goes past it: while all is flushed, the groups of its subscriptions write what they have
//! straight to the connection ([`Outlet`]). In each turn, in this order: the token's revocation, its farewell, what goes out, the clock,
//! what comes in.
//! What goes out is handed over until nothing is ready and then flushed once. While the socket takes nothing, its
//! subscriptions are not polled and, once a few answers wait, nothing more is read either; a socket that takes nothing
//! for too long is closed. How frames are written is [`super::frames`]' affair, what runs is [`super::operations`]'.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_graphql::Executor;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Sink, SinkExt, Stream, StreamExt};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use mille_shared::{ClientId, CloseCode, limits};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::Instrument as _;

use super::Transport;
use super::ending::{Ending, clipped, init_timeout, unreadable};
use super::expiry::Expiry;
use super::frames::{ClientFrame, Dialect, ServerFrame};
use super::operations::Operations;
use super::session::{Session, Via};
use crate::beat;
use crate::drain::Farewell;
use crate::gateway::auth::{BearerToken, RevocationWatch, RevokedToken, TokenRefused, unix_seconds};
use crate::gateway::fanout::Outlet;
use crate::gateway::intake::Intake;
use crate::gateway::listener::{BytesTaken, Wire};
use crate::gateway::stall::Stall;
use crate::gateway::strangers::Introduction;
use crate::metrics::CloseReason;
use crate::pressure::Backlog;
use crate::quiet::Quiet;
use crate::quota::{Excess, Place};

mod asked;
mod outbound;

use asked::Asked;

/// How long operations may still end when the socket is sent away, so that their answers reach the client.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// How long the close frame may take to be written.
const CLOSE_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the peer may take to answer it. Without this wait a peer that still sends could lose the frame.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// What a socket must be able to do: axum's does, and so does a pair of channels.
pub(super) trait Socket:
    Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin + Send
{
}

impl<S> Socket for S where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin + Send
{
}

/// What a turn brings.
enum Event {
    Revoked(RevokedToken),
    Superseded,
    Farewell(Farewell),
    Clock,
    Admitted(Result<(), Excess>),
    Inbound(Option<Result<Message, axum::Error>>),
    Broken,
}

/// One socket and all that goes on over it.
pub(super) struct Conversation<S, E> {
    socket: S,
    transport: Transport<E>,
    dialect: Dialect,
    /// A token the handshake carried. One in `connection_init` beats it.
    handshake_token: Option<BearerToken>,
    /// Absent until `connection_init` was accepted.
    session: Option<Arc<Session>>,
    operations: Operations,
    /// Where groups tell subscriptions of this socket.
    outlet: Arc<Outlet>,
    operation_rate: DefaultDirectRateLimiter,
    /// The user's place; held as long as the session.
    place: Option<Place>,
    /// Ready when others want the place of a stranger. None once a good token was shown.
    superseded: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    introduction: Introduction,
    /// An operation of which the store is asked whether the user may have it. Until then nothing more is read, so that
    /// operations begin in the order in which they came.
    admission: Option<(Asked, BoxFuture<'static, Result<(), Excess>>)>,
    intake: Intake,
    /// Answers to what came in, and results of queries and mutations: they go before events. Bounded by not reading.
    replies: VecDeque<Message>,
    unflushed: bool,
    /// When the oldest change that was handed over and is not flushed was learnt.
    learnt: Option<Instant>,
    revocations: RevocationWatch,
    /// Bytes of the replies, and of what was handed over and is not flushed.
    backlog: Backlog,
    /// Ready when the node is taken out and it is this socket's turn, or when it has grown old.
    farewell: Quiet<BoxFuture<'static, Farewell>>,
    clock: Pin<Box<Sleep>>,
    init_by: Instant,
    ping_at: Instant,
    heard_at: Instant,
    expiry: Expiry,
    stall: Stall,
}

impl<S: Socket, E: Executor> Conversation<S, E> {
    /// A conversation that begins now. `taken` counts the bytes the peer's side has taken, if anybody counts; over `wire`
    /// others may write to the socket, if they may; `introduction` is told when a good token was shown.
    pub(super) fn new(
        socket: S,
        dialect: Dialect,
        handshake_token: Option<BearerToken>,
        taken: BytesTaken,
        wire: Option<Wire>,
        introduction: Introduction,
        transport: Transport<E>,
    ) -> Self {
        let now = Instant::now();
        let outlet = Outlet::new(wire, transport.shedding.backlog());
        let operations =
            Operations::new(Arc::clone(&transport.observer), transport.groups.clone(), Arc::clone(&outlet), dialect);
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(transport.limits.operations_per_second))
            .allow_burst(at_least_one(transport.limits.operations_burst));
        Self {
            socket,
            dialect,
            handshake_token,
            session: None,
            operations,
            outlet,
            operation_rate: RateLimiter::direct(quota),
            place: None,
            superseded: introduction.superseded().map(Box::pin),
            introduction,
            admission: None,
            // Who is refused for longer than twice the burst of a second is not listened to for the rest of it.
            intake: Intake::new(limits::SOCKET_BYTES_PER_SECOND, transport.limits.operations_burst.saturating_mul(2)),
            replies: VecDeque::new(),
            unflushed: false,
            learnt: None,
            revocations: transport.authenticator.revoked().watch(),
            backlog: transport.shedding.backlog(),
            farewell: transport.drain.farewell(),
            clock: Box::pin(tokio::time::sleep_until(now)),
            init_by: now + transport.limits.init_timeout,
            ping_at: beat::within(transport.limits.ping_interval),
            heard_at: now,
            expiry: Expiry::default(),
            stall: Stall::new(taken),
            transport,
        }
    }

    /// Talks until the end and closes the socket. What happens once in a socket's life waits in a box of its own, and is not
    /// reserved for as long as it lives.
    pub(super) async fn run(mut self: Box<Self>) -> Ending {
        let ending = loop {
            let event = std::future::poll_fn(|cx| self.poll_event(cx)).await;
            let flow = match event {
                Event::Revoked(revoked) => ControlFlow::Break(self.revoked(revoked)),
                Event::Superseded => ControlFlow::Break(self.superseded()),
                Event::Farewell(farewell) => ControlFlow::Break(Box::pin(self.sent_away(farewell)).await),
                Event::Clock => self.on_clock(),
                Event::Broken => ControlFlow::Break(Ending::Broken),
                Event::Admitted(admitted) => self.on_admitted(admitted),
                Event::Inbound(message) => self.on_inbound(message).await,
            };
            if let ControlFlow::Break(ending) = flow {
                break ending;
            }
        };
        Box::pin(self.finish(&ending)).await;
        ending
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(revoked) = self.poll_revoked(cx) {
            return Poll::Ready(Event::Revoked(revoked));
        }
        if self.superseded.as_mut().is_some_and(|wanted| wanted.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Event::Superseded);
        }
        if let Poll::Ready(farewell) = self.farewell.poll_unpin(cx) {
            return Poll::Ready(Event::Farewell(farewell));
        }
        if self.poll_outbound(cx).is_err() {
            return Poll::Ready(Event::Broken);
        }
        // After what goes out, since that may change what is due: a stall begins, a fresh token is taken.
        self.set_clock();
        if self.clock.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Clock);
        }
        if let Some((_, admitted)) = &mut self.admission {
            return admitted.poll_unpin(cx).map(Event::Admitted);
        }
        if self.wants_input() { self.socket.poll_next_unpin(cx).map(Event::Inbound) } else { Poll::Pending }
    }

    // ---- what comes in -------------------------------------------------------------------------------------------

    /// Whether there is room for what a frame may cause. Nothing that waits here is unbounded, since this stops it.
    fn wants_input(&self) -> bool {
        self.replies.len() < limits::OUTBOX_MESSAGES_MAX
            && self.backlog.bytes() < limits::OUTBOX_BYTES_MAX
            && self.operations.has_room()
            && self.admission.is_none()
            && self.intake.opens_at().is_none()
    }

    async fn on_inbound(&mut self, message: Option<Result<Message, axum::Error>>) -> ControlFlow<Ending> {
        self.heard_at = Instant::now();
        let ending = match message {
            Some(Ok(Message::Text(text))) => return self.on_text(&text).await,
            // The library answers pings; a pong has done its work by being heard.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                self.intake.took(0);
                return ControlFlow::Continue(());
            }
            Some(Ok(Message::Binary(_))) => {
                Ending::close(CloseReason::Protocol, CloseCode::BadRequest, "frames are text")
            }
            Some(Ok(Message::Close(frame))) => Ending::Closed(frame.map(|frame| frame.code)),
            Some(Err(error)) => unreadable(&error),
            None => Ending::Broken,
        };
        ControlFlow::Break(ending)
    }

    async fn on_text(&mut self, text: &Utf8Bytes) -> ControlFlow<Ending> {
        self.intake.took(text.len());
        let frame = match self.dialect.decode(text) {
            Ok(frame) => frame,
            Err(error) => {
                return ControlFlow::Break(Ending::close(
                    CloseReason::Protocol,
                    CloseCode::BadRequest,
                    error.to_string(),
                ));
            }
        };
        match frame {
            ClientFrame::Init(payload) => {
                let span = tracing::info_span!("socket", dialect = self.dialect.subprotocol());
                return Box::pin(self.on_init(&payload).instrument(span)).await;
            }
            ClientFrame::Subscribe { id, request } => {
                return self.on_subscribe(Asked { id, request, bytes: text.len() });
            }
            ClientFrame::Ping(payload) => self.say(&ServerFrame::Pong(payload.as_ref())),
            ClientFrame::Pong => {}
            ClientFrame::Complete { id } => {
                // Only the legacy dialect answers a stop.
                if self.operations.stop(&id) && self.dialect == Dialect::Legacy {
                    self.say(&ServerFrame::Complete { id: &id });
                }
            }
            ClientFrame::Terminate => {
                return ControlFlow::Break(Ending::close(CloseReason::Client, CloseCode::Normal, "terminated"));
            }
        }
        ControlFlow::Continue(())
    }

    async fn on_init(&mut self, payload: &Map<String, Value>) -> ControlFlow<Ending> {
        if self.session.is_some() {
            let reason = "Too many initialisation requests";
            return ControlFlow::Break(Ending::close(
                CloseReason::SecondInit,
                CloseCode::TooManyInitialisationRequests,
                reason,
            ));
        }
        let client_id = match ClientId::parse(payload.get("clientId").and_then(Value::as_str).unwrap_or_default()) {
            Ok(client_id) => client_id,
            Err(error) => {
                return ControlFlow::Break(Ending::close(
                    CloseReason::Protocol,
                    CloseCode::BadRequest,
                    format!("clientId: {error}"),
                ));
            }
        };
        let token = BearerToken::from_init_payload(payload).or_else(|| self.handshake_token.take());
        let judged = self.transport.authenticator.require(token.as_ref());
        let identity = match tokio::time::timeout_at(self.init_by, judged).await {
            Err(_) => return ControlFlow::Break(init_timeout()),
            Ok(Err(refusal)) => {
                tracing::info!(%refusal, "a socket is refused");
                let message = refusal.to_string();
                self.say(&ServerFrame::InitRefused { message: &message });
                let (why, code) = refusal.closes();
                return ControlFlow::Break(Ending::close(why, code, message));
            }
            Ok(Ok(identity)) => identity,
        };
        self.introduction.known();
        self.superseded = None;
        match self.transport.quotas.connection(&identity.user_id).await {
            Ok(place) => self.place = Some(place),
            Err(excess) => {
                let message = excess.in_words();
                self.say(&ServerFrame::InitRefused { message: &message });
                return ControlFlow::Break(Ending::close(CloseReason::TooMany, CloseCode::TryAgainLater, message));
            }
        }
        let session = Session::new(identity, client_id, Via::WebSocket, self.transport.authenticator.clone());
        self.session = Some(Arc::new(session));
        self.say(&ServerFrame::Ack);
        if self.dialect == Dialect::Legacy {
            // Its clients start to watch for signs of life with the first one.
            self.say(&ServerFrame::Ping(None));
        }
        ControlFlow::Continue(())
    }

    // ---- the clock -----------------------------------------------------------------------------------------------

    /// Winds the clock to the next thing that is due. It may ring early: a later time is set when it has rung.
    fn set_clock(&mut self) {
        if let Some(session) = &self.session {
            self.expiry.follow(session.identity().expires_at, self.transport.authenticator.leeway());
        }
        let limits = &self.transport.limits;
        let mut due = self.ping_at.min(self.heard_at + limits.idle_timeout);
        if self.session.is_none() {
            due = due.min(self.init_by);
        }
        if let Some(since) = self.stall.since() {
            due = due.min(since + limits.stall_timeout);
        }
        due = self.expiry.due().into_iter().chain(self.intake.opens_at()).fold(due, Instant::min);
        if due < self.clock.deadline() || self.clock.is_elapsed() {
            self.clock.as_mut().reset(due);
        }
    }

    fn on_clock(&mut self) -> ControlFlow<Ending> {
        let now = Instant::now();
        let limits = self.transport.limits.clone();
        if self.session.is_none() && now >= self.init_by {
            return ControlFlow::Break(init_timeout());
        }
        if self.expiry.ends_at.is_some_and(|end| now >= end) {
            return ControlFlow::Break(Ending::close(
                CloseReason::TokenExpired,
                CloseCode::Forbidden,
                "the token has expired",
            ));
        }
        if self.stall.since().is_some_and(|since| now >= since + limits.stall_timeout) {
            let reason = "the connection takes nothing";
            return ControlFlow::Break(Ending::close(CloseReason::Slow, CloseCode::TryAgainLater, reason));
        }
        if !self.wants_input() || self.stall.since().is_some() {
            // Who is not listened to, or not reached, can't be called silent.
            self.heard_at = now;
        } else if now >= self.heard_at + limits.idle_timeout {
            return ControlFlow::Break(Ending::close(
                CloseReason::Silent,
                CloseCode::Timeout,
                "the connection is silent",
            ));
        }
        if self.session.is_some() && self.expiry.warn_at.is_some_and(|at| now >= at) {
            self.expiry.warn_at = None;
            let left = self.expiry.expires_at.unwrap_or_default().saturating_sub(unix_seconds());
            let notice = json!({"type": "token_expiring", "inMs": left.saturating_mul(1_000)});
            self.say(&ServerFrame::Ping(Some(&notice)));
        }
        if now >= self.ping_at {
            self.ping_at = beat::within(limits.ping_interval);
            self.ping();
        }
        ControlFlow::Continue(())
    }

    fn ping(&mut self) {
        // While answers wait, the peer shows by taking them whether it is there.
        if !self.wants_input() {
            return;
        }
        // Before the ack there is no frame for it. The legacy frame needs no answer, so the peer could be gone
        // unnoticed: the WebSocket's own ping is answered by any client.
        if self.session.is_some() {
            self.say(&ServerFrame::Ping(None));
        }
        if self.session.is_none() || self.dialect == Dialect::Legacy {
            self.replies.push_back(Message::Ping(bytes::Bytes::new()));
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<RevokedToken> {
        let identity = self.session.as_ref().map(|session| session.identity());
        let times = self.transport.authenticator.revoked().times();
        let revoked = self.revocations.poll(cx, identity.as_deref());
        if revoked.is_pending() {
            self.outlet.looked_at(times);
        }
        revoked
    }

    /// Whatever waits is not for this client any more.
    fn revoked(&mut self, revoked: RevokedToken) -> Ending {
        self.replies.clear();
        self.transport.observer.revoked(revoked);
        Ending::close(CloseReason::TokenRevoked, CloseCode::Forbidden, TokenRefused::Revoked.to_string())
    }

    /// Makes room for others before it says so, since they do not wait for long.
    fn superseded(&self) -> Ending {
        self.introduction.gone();
        Ending::close(CloseReason::Superseded, CloseCode::TryAgainLater, self.introduction.too_many().to_string())
    }

    /// Lets what was begun end, so that nobody has to guess whether an edit was taken.
    async fn sent_away(&mut self, farewell: Farewell) -> Ending {
        let answered = std::future::poll_fn(|cx| {
            if let Poll::Ready(revoked) = self.poll_revoked(cx) {
                return Poll::Ready(Some(revoked));
            }
            match self.poll_outbound(cx) {
                Ok(()) if self.operations.singles() > 0 || !self.replies.is_empty() || self.unflushed => Poll::Pending,
                _ => Poll::Ready(None),
            }
        });
        // Out of time: the client repeats with the same operation id.
        if let Ok(Some(revoked)) = tokio::time::timeout(DRAIN_GRACE, answered).await {
            return self.revoked(revoked);
        }
        let (reason, min, max) = (farewell.reason.as_str(), farewell.min_ms(), farewell.max_ms());
        let said = json!({"r": reason, "min": min, "max": max}).to_string();
        Ending::close(farewell.reason.into(), CloseCode::ServiceRestart, said)
    }

    async fn finish(&mut self, ending: &Ending) {
        // Nothing of this session may run on while the close takes its time.
        self.operations.end_all();
        (self.admission, self.place) = (None, None);
        let session = self.session.take();
        if let Some(session) = &session {
            session.ended().cancel();
        }
        match ending {
            Ending::Broken => {}
            Ending::Closed(_) => {
                let _ = tokio::time::timeout(CLOSE_WRITE_TIMEOUT, self.socket.close()).await;
            }
            Ending::Close(_, code, reason) => {
                let frame = CloseFrame { code: code.as_u16(), reason: clipped(reason).into() };
                let waiting: Vec<Message> = self.replies.drain(..).collect();
                let said = tokio::time::timeout(CLOSE_WRITE_TIMEOUT, async {
                    for message in waiting {
                        self.socket.feed(message).await?;
                    }
                    self.socket.send(Message::Close(Some(frame))).await
                });
                if matches!(said.await, Ok(Ok(()))) {
                    let _ = tokio::time::timeout(CLOSE_LINGER, self.farewell()).await;
                }
            }
        }
        let connection = session.as_ref().map(|session| session.connection_id().as_str());
        tracing::debug!(connection.id = connection, dialect = self.dialect.subprotocol(), ?ending, "socket closed");
    }

    /// Waits for the peer's close. After an oversized frame the socket gives nothing more: then just waits.
    async fn farewell(&mut self) {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
                Some(Err(_)) => return,
                None => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
#[path = "conversation_kit.rs"]
mod kit;
#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
