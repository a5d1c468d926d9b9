//! What a client asks for: whether it may, and its beginning.
//!
//! In this order, the cheapest first: whether there is a session, the rate of this socket, the pressure on the node, the rate of
//! the user over the cluster (which may have to be asked for: then nothing else is read, so that operations begin in the order
//! in which they came), and only then the query.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::Executor;
use async_graphql::parser::types::OperationType;
use governor::clock::{Clock as _, DefaultClock};
use mille_shared::{CloseCode, ErrorCode, LimitName};

use super::super::ending::Ending;
use super::super::request::OperationRequest;
use super::super::session::ResumeAfter;
use super::{Conversation, Socket};
use crate::gateway::errors::ApiError;
use crate::metrics::CloseReason;
use crate::quota::{Admission, Excess};

/// How long a socket is not read whose operation was refused while the node is under pressure. To refuse costs something
/// too: so whoever asks on and on, unasked to, is refused ten times a second, and waits in its own socket.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// An operation as it came.
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) request: OperationRequest,
    pub(super) bytes: usize,
}

impl<S: Socket, E: Executor> Conversation<S, E> {
    pub(super) fn on_subscribe(&mut self, asked: Asked) -> ControlFlow<Ending> {
        let Some(session) = &self.session else {
            return ControlFlow::Break(Ending::close(
                CloseReason::Uninitialised,
                CloseCode::Unauthorized,
                "Unauthorized",
            ));
        };
        if self.operations.is_running(&asked.id) {
            let reason = format!("Subscriber for {} already exists", asked.id);
            return ControlFlow::Break(Ending::close(
                CloseReason::DuplicateId,
                CloseCode::SubscriberAlreadyExists,
                reason,
            ));
        }
        if let Err(not_until) = self.operation_rate.check() {
            let (name, limit) = (LimitName::ConnectionOperations, self.transport.limits.operations_per_second);
            self.transport.observer.limited(name);
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let refusal = ApiError::met(ErrorCode::RateLimited, name, limit as usize).retry_after(wait);
            self.turn_away(&asked.id, &refusal);
            return ControlFlow::Continue(());
        }
        if let Some(refusal) = self.transport.shedding.refusal(asked.request.query.as_deref()) {
            self.turn_away(&asked.id, &refusal);
            return ControlFlow::Continue(());
        }
        match self.transport.quotas.operation(&session.identity().user_id) {
            Admission::Known(admitted) => self.begin(asked, admitted),
            Admission::Asked(soon) => self.admission = Some((asked, soon)),
        }
        ControlFlow::Continue(())
    }

    pub(super) fn on_admitted(&mut self, admitted: Result<(), Excess>) -> ControlFlow<Ending> {
        if let Some((asked, _)) = self.admission.take() {
            self.begin(asked, admitted);
        }
        ControlFlow::Continue(())
    }

    /// Begins an operation that its user may have, if it is one.
    fn begin(&mut self, asked: Asked, admitted: Result<(), Excess>) {
        let Asked { id, request, bytes } = asked;
        if let Err(excess) = admitted {
            return self.turn_away(&id, &excess.into());
        }
        let Some(session) = self.session.clone() else { return };
        let mut operation = match request.prepare(&self.transport.documents) {
            Ok(operation) => operation,
            Err(refusal) => return self.refuse(&id, &refusal),
        };
        if let Some(refusal) = self.transport.shedding.refusal_of(&mut operation) {
            return self.turn_away(&id, &refusal);
        }
        let subscriptions_max = self.transport.limits.subscriptions_max;
        if operation.kind == OperationType::Subscription && self.operations.subscriptions() >= subscriptions_max {
            let name = LimitName::ConnectionSubscriptions;
            self.transport.observer.limited(name);
            return self.refuse(&id, &ApiError::met(ErrorCode::LimitExceeded, name, subscriptions_max));
        }
        operation.request = operation.request.data(Arc::clone(&session)).data(ResumeAfter::default());
        self.operations.start(id, operation, bytes, session, &self.transport.executor);
    }

    /// Refuses an operation of which there are too many. Of too many refusals, and under pressure of each, the socket is not
    /// read for a while.
    fn turn_away(&mut self, id: &str, refusal: &ApiError) {
        self.refuse(id, refusal);
        self.intake.refused();
        if self.transport.shedding.is_pressed() {
            self.intake.pause(REFUSED_PAUSE);
        }
    }
}
