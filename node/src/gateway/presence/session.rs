//! One presence socket's conversation, from the handshake to the close.
//!
//! Reading and writing are one task. In each turn, in this order: the token's revocation, its farewell, what is being
//! written, the clock, what the project has for this socket, what the client says. Nothing queues without bound: while the socket is being written
//! to, its outbox keeps the newest; while the project has no room, the client is not read.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Message;
use futures_util::{FutureExt as _, StreamExt as _};
use mille_core::presence::{self, Join, SeatId};
use mille_shared::presence::client::JoinSession;
use mille_shared::presence::server::TokenExpiring;
use mille_shared::presence::{ClientFrame, DocumentId, FrameError, ServerFrame};
use mille_shared::{CloseCode, ConnectionId, ErrorCode, LimitName, limits};
use tokio::time::Instant;

use super::PresenceDoor;
use super::limiter::{FrameLimiter, Verdict};
use super::moves::Moves;
use super::token::{TokenClock, TokenState};
use super::writer::{Incoming, Writer};
use crate::beat;
use crate::clock::whole_ms;
use crate::drain::{Drain, Farewell};
use crate::gateway::auth::{Authenticator, BearerToken, Identity, RevocationWatch, RevokedToken};
use crate::gateway::intake::Intake;
use crate::gateway::transport::{TransportObserver as _, Unreadable};
use crate::metrics::{CloseReason, NotAllowed};
use crate::project::ProjectHandle;
use crate::project::presence::{OutboxReader, Outgoing, PresenceCommand, outbox};

/// Frames that are taken from the outbox before one flush.
const FRAMES_PER_FLUSH: usize = 64;
/// How soon a refresh is asked for again when the project had no room for the question.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often it is looked at whether somebody still may be here of whom the project does not know it, or can't say it.
const MEMBER_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The colour of those who give none.
const COLOR: &str = "#607d8b";
/// What an error frame begins with: frames are written with their type first.
const ERROR_BEGINS: &[u8] = br#"{"type":"error""#;
/// The code in metrics of a socket that ended without a close frame.
const ABNORMAL: u16 = 1006;
/// What a close frame without a code counts as.
const NO_CODE: u16 = 1005;

pub(super) struct Session {
    project: ProjectHandle,
    authenticator: Authenticator,
    identity: Identity,
    token: TokenClock,
    revocations: RevocationWatch,
    drain: Drain,
    writer: Writer,
    incoming: Incoming,
    seat: SeatId,
    /// The connection the client was welcomed as, until it joins.
    welcomed: Option<(ConnectionId, [u8; 32])>,
    /// What the project has for this socket, once it joined.
    outbox: Option<OutboxReader>,
    limiter: FrameLimiter,
    intake: Intake,
    /// The document the client was last heard to open, so that a move into another counts as opening it.
    document: Option<DocumentId>,
    moves: Moves,
    /// When to ask again for a refresh that the project had no room for.
    refresh_at: Option<Instant>,
    heard_at: Instant,
    ping_at: Instant,
    member_at: Instant,
}

/// Why the conversation is over.
enum End {
    Close(CloseReason, CloseCode, &'static str),
    SentAway(Farewell),
    /// The other side closed, with this code.
    Left(u16),
    Gone,
}

type Step = ControlFlow<End>;

enum Event {
    Revoked(RevokedToken),
    Farewell(Farewell),
    Written(Result<(), axum::Error>),
    Tick,
    Outgoing(Outgoing),
    Incoming(Option<Result<Message, axum::Error>>),
}

impl Session {
    pub(super) fn new(
        door: &PresenceDoor,
        project: ProjectHandle,
        identity: Identity,
        token: TokenClock,
        revocations: RevocationWatch,
        writer: Writer,
        incoming: Incoming,
    ) -> Self {
        let now = Instant::now();
        Self {
            project,
            authenticator: door.authenticator.clone(),
            identity,
            token,
            revocations,
            drain: door.drain.clone(),
            writer,
            incoming,
            // 64 random bits: no two seats of one project and node are ever the same.
            seat: SeatId(rand::random()),
            welcomed: None,
            outbox: None,
            limiter: FrameLimiter::new(),
            // The limiter has its own measure for refusals: one per second.
            intake: Intake::new(limits::PRESENCE_BYTES_PER_SECOND, u32::MAX),
            document: None,
            moves: Moves::new(now),
            refresh_at: None,
            heard_at: now,
            ping_at: beat::within(limits::PING_INTERVAL),
            member_at: now + MEMBER_CHECK_INTERVAL,
        }
    }

    /// Converses until somebody ends it. Answers why, and the close code.
    pub(super) async fn run(mut self: Box<Self>) -> (CloseReason, u16) {
        let (connection, secret) = new_connection();
        let node = self.project.node();
        self.writer.frame(&presence::welcome(node, &connection, &secret, limits::CURSOR_INTERVAL));
        self.welcomed = Some((connection, secret));
        let mut farewell = self.drain.farewell();
        // Wound to what is due, and only when that is sooner than it rings: to wind it is dearer than to let it ring early.
        let mut clock = std::pin::pin!(tokio::time::sleep_until(self.deadline()));
        let end = loop {
            let due = self.deadline();
            if due < clock.deadline() || clock.is_elapsed() {
                clock.as_mut().reset(due);
            }
            let event = tokio::select! {
                biased;
                revoked = self.revocations.revoked(&self.identity) => Event::Revoked(revoked),
                farewell = &mut farewell => Event::Farewell(farewell),
                written = self.writer.drive(), if self.writer.is_busy() => Event::Written(written),
                () = clock.as_mut() => Event::Tick,
                outgoing = next(&mut self.outbox), if !self.writer.is_busy() => Event::Outgoing(outgoing),
                message = self.incoming.next(), if self.intake.opens_at().is_none() => Event::Incoming(message),
            };
            let step = match event {
                Event::Revoked(revoked) => {
                    // Whatever waits is not for this client any more.
                    self.writer.forget();
                    self.project.metrics().revoked(revoked);
                    close(CloseReason::TokenRevoked, CloseCode::Forbidden, "the token was revoked")
                }
                Event::Farewell(farewell) => Step::Break(End::SentAway(farewell)),
                Event::Written(Ok(())) => Step::Continue(()),
                Event::Written(Err(_)) | Event::Incoming(None) => Step::Break(End::Gone),
                Event::Tick => self.tick(),
                Event::Outgoing(outgoing) => self.send(outgoing),
                Event::Incoming(Some(message)) => self.receive(message).await,
            };
            if let Step::Break(end) = step {
                break end;
            }
        };
        if self.outbox.take().is_some() {
            // Without room for it, the project notices by the outbox that nobody reads any more.
            let _ = self.project.try_presence(PresenceCommand::Lost { seat: self.seat });
        }
        let Self { writer, incoming, .. } = *self;
        match end {
            End::Close(why, code, reason) => {
                writer.close(incoming, code, reason, None).boxed().await;
                (why, code.as_u16())
            }
            End::SentAway(farewell) => {
                let code = CloseCode::ServiceRestart;
                writer.close(incoming, code, farewell.reason.as_str(), Some(farewell)).boxed().await;
                (farewell.reason.into(), code.as_u16())
            }
            End::Left(code) => {
                writer.answer_close(incoming).boxed().await;
                (CloseReason::Client, code)
            }
            End::Gone => (CloseReason::Broken, ABNORMAL),
        }
    }

    fn deadline(&self) -> Instant {
        let stalled = self.writer.stalled_at();
        let silent = self.heard_at + limits::IDLE_TIMEOUT;
        let soonest = silent.min(self.ping_at).min(self.token.deadline());
        let member = self.looks_at_members().then_some(self.member_at);
        [self.moves.due(), stalled, self.refresh_at, member, self.intake.opens_at()]
            .into_iter()
            .flatten()
            .fold(soonest, Instant::min)
    }

    fn tick(&mut self) -> Step {
        let now = Instant::now();
        if self.writer.stalled_at().is_some_and(|at| at <= now) {
            return close(CloseReason::Slow, CloseCode::TryAgainLater, "too slow");
        }
        if self.writer.is_busy() {
            // Who is not reached can't be called silent.
            self.heard_at = now;
        } else if self.heard_at + limits::IDLE_TIMEOUT <= now {
            return close(CloseReason::Silent, CloseCode::Timeout, "silent for too long");
        }
        if self.member_at <= now {
            self.member_at = now + MEMBER_CHECK_INTERVAL;
            if self.looks_at_members() && !self.is_member() {
                self.writer.forget();
                return close(CloseReason::NotAMember, CloseCode::Forbidden, "no longer a member of this project");
            }
        }
        match self.token.look(now) {
            TokenState::Good => {}
            TokenState::Expiring(left) => {
                let in_ms = whole_ms(left);
                self.writer.frame(&ServerFrame::TokenExpiring { data: TokenExpiring { in_ms } });
            }
            TokenState::Over => return close(CloseReason::TokenExpired, CloseCode::Forbidden, "the token is over"),
        }
        if self.ping_at <= now {
            self.ping_at = beat::within(limits::PING_INTERVAL);
            self.writer.ping();
        }
        self.hand_on_moves(now);
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.ask_for_refresh();
        }
        Step::Continue(())
    }

    /// Sends what the outbox has, many frames before one flush.
    fn send(&mut self, first: Outgoing) -> Step {
        let mut outgoing = first;
        for _ in 1..FRAMES_PER_FLUSH {
            self.pass_on(outgoing)?;
            match self.outbox.as_mut().and_then(OutboxReader::try_next) {
                Some(next) => outgoing = next,
                None => return Step::Continue(()),
            }
        }
        self.pass_on(outgoing)
    }

    fn pass_on(&mut self, outgoing: Outgoing) -> Step {
        let (why, code, reason) = match outgoing {
            Outgoing::Frame(frame) => {
                if frame.starts_with(ERROR_BEGINS) {
                    // It may be that the document was not opened: the next move there counts as opening it.
                    self.document = None;
                    if !self.limiter.may_err() {
                        return Step::Continue(());
                    }
                }
                self.writer.text(frame);
                return Step::Continue(());
            }
            Outgoing::Behind => {
                self.project.metrics().presence.behind.increment(1);
                self.ask_for_refresh();
                return Step::Continue(());
            }
            Outgoing::Close(code, reason) => (why_the_project_closes(code), code, reason),
            Outgoing::Ended => (CloseReason::ProjectMoved, CloseCode::ServiceRestart, "the project moved"),
        };
        self.outbox = None;
        close(why, code, reason)
    }

    fn ask_for_refresh(&mut self) {
        let asked = self.project.try_presence(PresenceCommand::Refresh { seat: self.seat });
        self.refresh_at = (!asked).then(|| Instant::now() + ASK_AGAIN_AFTER);
    }

    async fn receive(&mut self, message: Result<Message, axum::Error>) -> Step {
        self.heard_at = Instant::now();
        match message {
            Ok(Message::Text(text)) => match self.decode(&text) {
                Ok(frame) => self.follow(frame).await,
                Err(FrameError::Malformed) => {
                    close(CloseReason::Protocol, CloseCode::BadRequest, "frames are JSON objects")
                }
                Err(FrameError::Refused { code, message }) => {
                    if self.may_send() {
                        self.err(code, message);
                    }
                    Step::Continue(())
                }
            },
            Ok(Message::Binary(_)) => close(CloseReason::Protocol, CloseCode::BadRequest, "frames are texts"),
            Ok(Message::Ping(_) | Message::Pong(_)) => {
                self.intake.took(0);
                Step::Continue(())
            }
            Ok(Message::Close(frame)) => Step::Break(End::Left(frame.map_or(NO_CODE, |frame| frame.code))),
            Err(error) => broken(&error),
        }
    }

    fn decode(&mut self, text: &str) -> Result<ClientFrame, FrameError> {
        self.intake.took(text.len());
        ClientFrame::decode(text)
    }

    async fn follow(&mut self, frame: ClientFrame) -> Step {
        let moved_in = match &frame {
            ClientFrame::CursorUpdate(update) => Some(&update.document),
            ClientFrame::UpdateViewport { document, .. } => Some(document),
            _ => None,
        };
        let is_move = moved_in.is_some() && moved_in == self.document.as_ref();
        let is_taken = match moved_in {
            Some(_) => is_move || self.limiter.has_room(),
            None => self.may_send(),
        };
        if !is_taken {
            return Step::Continue(());
        }
        let seat = self.seat;
        match frame {
            ClientFrame::Authenticate { token } => {
                self.authenticate(token.reveal()).boxed().await;
                Step::Continue(())
            }
            ClientFrame::JoinSession(join) => self.join(join).boxed().await,
            ClientFrame::Ping if self.outbox.is_none() => {
                self.writer.frame(&ServerFrame::Pong);
                Step::Continue(())
            }
            _ if self.outbox.is_none() => {
                self.err(ErrorCode::NotJoined, "send join_session first");
                Step::Continue(())
            }
            ClientFrame::CursorUpdate(update) if !is_move => {
                // It opens the document: that must not be lost.
                self.document = Some(update.document.clone());
                self.ask(PresenceCommand::MoveCursor { seat, update: Box::new(update) }).await
            }
            ClientFrame::CursorUpdate(update) => {
                if self.moves.moved(update) {
                    self.project.metrics().presence.cursors_conflated.increment(1);
                }
                self.moved()
            }
            ClientFrame::SwitchDocument { document, kind } => {
                self.document = Some(document.clone());
                self.ask(PresenceCommand::SwitchDocument { seat, document, kind }).await
            }
            ClientFrame::UpdateStatus { status } => self.ask(PresenceCommand::UpdateStatus { seat, status }).await,
            ClientFrame::UpdateViewport { document, viewport } => {
                // A page that resumed says nothing else of where it is. If it is not there, the project says so.
                self.document.get_or_insert_with(|| document.clone());
                self.moves.looked(document, viewport);
                self.moved()
            }
            ClientFrame::Ping => self.ask(PresenceCommand::Ping { seat }).await,
            ClientFrame::LeaveSession => {
                let step = self.ask(PresenceCommand::Leave { seat }).await;
                (self.outbox, self.document) = (None, None);
                self.moves.forget();
                // A later join is another stay: nothing said of this one may touch it.
                self.seat = SeatId(rand::random());
                step
            }
        }
    }

    async fn join(&mut self, ask: JoinSession) -> Step {
        if ask.user_id != self.identity.user_id.as_str() {
            let message = "userId is another than the token's";
            self.project.metrics().rights.refused(NotAllowed::OtherUser);
            self.err(ErrorCode::Forbidden, message);
            return Step::Continue(());
        }
        if !self.is_member() {
            return close(CloseReason::NotAMember, CloseCode::Forbidden, "no longer a member of this project");
        }
        let color = ask.avatar_color.or_else(|| self.identity.color.as_deref().map(Arc::from));
        // A second stay on this socket is another connection, with a welcome of its own.
        let welcomed = self.welcomed.take();
        let is_welcomed = welcomed.is_some();
        let (connection, secret) = welcomed.unwrap_or_else(new_connection);
        let join = Join {
            seat: self.seat,
            connection,
            user: self.identity.user_id.clone(),
            name: ask.user_name,
            color: color.unwrap_or_else(|| COLOR.into()),
            agent: ask.is_agent || self.identity.agent,
            document: ask.document.clone(),
            resume: ask.resume_token,
            secret,
            is_welcomed,
        };
        if ask.document.is_some() {
            self.document = ask.document;
        }
        let join = Box::new(join);
        if self.outbox.is_some() {
            return self.ask(PresenceCommand::JoinAgain { join }).await;
        }
        let (outbox, reader) = outbox(&self.project.metrics().pressure);
        self.outbox = Some(reader);
        self.ask(PresenceCommand::Join { join, outbox }).await
    }

    /// Whether nobody but this socket can see that its user is no member any more: before they join, the project does not
    /// know them, and while the socket takes nothing, what the project says of it is not heard.
    fn looks_at_members(&self) -> bool {
        self.outbox.is_none() || self.writer.is_busy()
    }

    fn is_member(&self) -> bool {
        self.project.members().role_of(&self.identity.user_id).is_some()
    }

    async fn authenticate(&mut self, token: &str) {
        match self.authenticator.verify(&BearerToken::new(token)).await {
            Ok(identity) if identity.user_id == self.identity.user_id => {
                self.token = TokenClock::new(&identity, self.authenticator.leeway());
                self.identity = identity;
            }
            Ok(_) => {
                self.project.metrics().rights.refused(NotAllowed::OtherUser);
                self.err(ErrorCode::Forbidden, "the token is somebody else's");
            }
            Err(_) => self.err(ErrorCode::Unauthenticated, "the token is not good"),
        }
    }

    /// Asks the project for something that must not be lost: waits for room. A move that waits goes first, and waits for
    /// room as well: after a change of documents, it would undo that.
    async fn ask(&mut self, command: PresenceCommand) -> Step {
        for command in self.moves.take(Instant::now(), self.seat).chain([command]) {
            if self.project.presence(command).await.is_err() {
                return close(CloseReason::ProjectMoved, CloseCode::ServiceRestart, "the project moved");
            }
        }
        Step::Continue(())
    }

    /// The client moved just now: the first move after a silence does not wait.
    fn moved(&mut self) -> Step {
        self.hand_on_moves(self.heard_at);
        Step::Continue(())
    }

    fn hand_on_moves(&mut self, now: Instant) {
        let Self { moves, project, seat, .. } = self;
        moves.hand_on(now, *seat, |command| project.presence_move(command));
    }

    /// Says that something is wrong, unless that was said too often lately.
    fn err(&mut self, code: ErrorCode, message: impl Into<String>) {
        if self.limiter.may_err() {
            self.writer.frame(&ServerFrame::error(code, message));
        }
    }

    /// Whether the client may send a frame that is no cursor move; if not, it is told now and then.
    fn may_send(&mut self) -> bool {
        let verdict = self.limiter.judge();
        if verdict != Verdict::Take {
            self.project.metrics().limits.limited(LimitName::PresenceFrames);
        }
        if verdict == Verdict::Refuse && self.limiter.may_err() {
            let (name, limit) = (LimitName::PresenceFrames, limits::PRESENCE_FRAMES_PER_SECOND as usize);
            self.writer.frame(&ServerFrame::limited(ErrorCode::RateLimited, name, limit, Some(1_000)));
        }
        verdict == Verdict::Take
    }
}

/// A connection's id and the random bytes of its resume token.
fn new_connection() -> (ConnectionId, [u8; 32]) {
    (ConnectionId::new(uuid::Uuid::new_v4().simple().to_string()), rand::random())
}

fn close(why: CloseReason, code: CloseCode, reason: &'static str) -> Step {
    Step::Break(End::Close(why, code, reason))
}

/// The project says with each of these codes one thing only.
fn why_the_project_closes(code: CloseCode) -> CloseReason {
    match code {
        CloseCode::Normal => CloseReason::Resumed,
        CloseCode::Forbidden => CloseReason::NotAMember,
        CloseCode::TryAgainLater => CloseReason::Pressure,
        _ => CloseReason::Drain,
    }
}

fn broken(error: &axum::Error) -> Step {
    match Unreadable::of(error) {
        Unreadable::TooLarge => close(
            CloseReason::TooLarge,
            CloseCode::MessageTooLarge,
            "presence_frame_bytes: at most 65536 bytes in one frame",
        ),
        Unreadable::Malformed => close(CloseReason::Protocol, CloseCode::BadRequest, "that is no WebSocket frame"),
        Unreadable::Gone => Step::Break(End::Gone),
    }
}

async fn next(outbox: &mut Option<OutboxReader>) -> Outgoing {
    match outbox {
        Some(outbox) => outbox.next().await,
        None => std::future::pending().await,
    }
}
