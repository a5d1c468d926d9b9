//! When an operation that is in the log, or rests on what is there, is answered: at once, or when enough of the store's
//! replicas have it.
//!
//! The plan does not wait meanwhile: the change is told to everyone, and the next ones are committed behind it.

use std::sync::Arc;

use mille_core::replica::Ticket;

use super::{Done, Jobs, OpenPlan};
use crate::backend;
use crate::metrics::EditResult;
use crate::project::command::{Accepted, Rejection};

impl OpenPlan {
    /// Answers an operation that is in the log or changes nothing, when it is as safe there as an acknowledgement promises.
    pub(super) fn acknowledge(&mut self, result: EditResult, ticket: Ticket, accepted: Accepted, jobs: &mut Jobs) {
        let Some(key) = self.tickets.get(&ticket).and_then(|waiting| waiting.key.clone()) else {
            return self.answer_as(result, ticket, Ok(accepted));
        };
        // What changes nothing has no entry; what it found must be as safe.
        let key = (!matches!(result, EditResult::Unchanged)).then_some(key);
        let (plan, log) = (self.id, Arc::clone(&self.context.backend.log));
        self.spawn(jobs, async move {
            let confirmed = log.confirm(plan, accepted.revision, key.as_ref()).await;
            Done::Confirmed { ticket, result, accepted: Box::new(accepted), confirmed }
        });
    }

    /// Answers an operation that adds nothing to the log: refused, or fine as it is.
    pub(super) fn answer_unless_unsafe(
        &mut self,
        ticket: Ticket,
        answer: Result<Accepted, Rejection>,
        jobs: &mut Jobs,
    ) {
        match answer {
            Ok(accepted) => self.acknowledge(EditResult::Unchanged, ticket, accepted, jobs),
            refused => self.answer(ticket, refused),
        }
    }

    pub(super) fn confirmed(
        &mut self,
        ticket: Ticket,
        result: EditResult,
        accepted: Accepted,
        confirmed: backend::Result<bool>,
    ) {
        if matches!(confirmed, Ok(true)) {
            return self.answer_as(result, ticket, Ok(accepted));
        }
        tracing::warn!(plan.id = %self.id, revision = %accepted.revision, ?confirmed, "an edit is applied, and too few replicas have it");
        self.answer_as(EditResult::Unconfirmed, ticket, Err(Rejection::Unconfirmed));
    }
}
