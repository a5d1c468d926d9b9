//! What goes out over a GraphQL socket: answers first, then what groups have for it, then what it is told alone; all of it in
//! one flush.

use std::task::{Context, Poll};
use std::time::Duration;

use async_graphql::Executor;
use axum::extract::ws::Message;
use futures_util::SinkExt as _;
use mille_shared::{ErrorCode, LimitName, limits};

use super::super::frames::ServerFrame;
use super::super::operations::Outcome;
use super::super::session::Via;
use super::{Conversation, Socket};
use crate::gateway::errors::ApiError;

/// Messages handed to the socket before what comes in has its turn.
const MESSAGES_PER_TURN: usize = 64;
/// When to ask again for what was not told since too much waits already.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl<S: Socket, E: Executor> Conversation<S, E> {
    /// Hands over what is ready, then flushes. Leaves a waker wherever something is still to come.
    pub(super) fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Result<(), axum::Error> {
        self.outlet.register(cx.waker());
        while self.takes_answers()
            && let Poll::Ready(outcome) = self.operations.poll_single(cx)
        {
            self.tell(&outcome);
        }
        let is_held = !self.takes_answers();
        // Of what groups write past us, the system may not have taken all.
        let was_begun = self.outlet.must_flush();
        self.unflushed |= was_begun;
        let mut sent = 0;
        let mut blocked = false;
        while sent < MESSAGES_PER_TURN {
            match self.socket.poll_ready_unpin(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => {
                    blocked = true;
                    break;
                }
            }
            if self.replies.is_empty() {
                match self.operations.poll_subscription(cx) {
                    Poll::Ready(outcome) => self.tell(&outcome),
                    Poll::Pending => break,
                }
            }
            if let Some(message) = self.replies.pop_front() {
                self.socket.start_send_unpin(message)?;
                self.unflushed = true;
                sent += 1;
            }
        }
        if sent > 0 {
            self.transport.observer.sent(Via::WebSocket, sent as u64);
        }
        if sent == MESSAGES_PER_TURN {
            // There may be more, but what comes in has its turn first.
            cx.waker().wake_by_ref();
        }
        if self.unflushed {
            match self.socket.poll_flush_unpin(cx)? {
                Poll::Ready(()) => {
                    self.unflushed = false;
                    self.backlog.set(self.replies.len(), self.replies.iter().map(bytes_of).sum());
                    if let Some(learnt) = self.learnt.take() {
                        self.transport.observer.told(learnt.elapsed(), 1);
                    }
                    blocked = false;
                    if is_held && self.takes_answers() {
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Pending => blocked = true,
            }
        }
        if !blocked && !self.unflushed && self.replies.is_empty() {
            self.outlet.flushed(was_begun);
            self.operations.join_caught_up();
        }
        if !blocked {
            self.stall.end();
        } else if self.stall.go_on() {
            self.transport.observer.stalled();
        }
        Ok(())
    }

    /// Whether what is done may be told. Queries are refused earlier; a mutation's answer must be told, and is as large as the
    /// client wished it, so beyond this the next is not even made.
    fn takes_answers(&self) -> bool {
        self.backlog.bytes() < 2 * limits::ANSWER_BYTES_PER_CONNECTION_MAX
    }

    fn tell(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Next { id, response, learnt } => {
                // Of what one flush takes, the oldest counts.
                self.learnt = self.learnt.into_iter().chain(*learnt).min();
                self.say(&ServerFrame::Next { id, response });
            }
            Outcome::Told { id, delivery } => {
                self.learnt = self.learnt.into_iter().chain(delivery.learnt).min();
                for payload in &delivery.rendered.payloads {
                    self.say(&ServerFrame::Written { id, payload });
                }
            }
            Outcome::Last { id, is_query: true, .. }
                if self.backlog.bytes() >= limits::ANSWER_BYTES_PER_CONNECTION_MAX =>
            {
                let (name, limit) = (LimitName::AnswerBytesInFlight, limits::ANSWER_BYTES_PER_CONNECTION_MAX);
                self.transport.observer.limited(name);
                self.refuse(id, &ApiError::met(ErrorCode::RateLimited, name, limit).retry_after(ASK_AGAIN_AFTER));
            }
            Outcome::Last { id, response, .. } => {
                self.say(&ServerFrame::Next { id, response });
                self.say(&ServerFrame::Complete { id });
            }
            Outcome::Failed { id, response } => self.say(&ServerFrame::Error { id, errors: &response.errors }),
            Outcome::Complete { id } => self.say(&ServerFrame::Complete { id }),
        }
    }

    pub(super) fn say(&mut self, frame: &ServerFrame<'_>) {
        if let Some(text) = self.dialect.encode(frame) {
            self.backlog.add(text.len());
            self.replies.push_back(Message::Text(text));
        }
    }

    pub(super) fn refuse(&mut self, id: &str, refusal: &ApiError) {
        self.say(&ServerFrame::Error { id, errors: &[refusal.to_server_error()] });
    }
}

fn bytes_of(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
        Message::Close(_) => 0,
    }
}
