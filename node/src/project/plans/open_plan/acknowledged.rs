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
        let log = &self.context.backend.log;
        let waiting = self.tickets.get(&ticket).filter(|_| log.must_confirm());
        let Some(waiting) = waiting else { return self.answer_as(result, ticket, Ok(accepted)) };
        // What changes nothing need not be known to the log; what it found must be as safe.
        let key = (!matches!(result, EditResult::Unchanged)).then(|| waiting.key.clone());
        let (plan, log) = (self.id, Arc::clone(log));
        self.spawn(jobs, async move {
            let confirmed = log.confirm(plan, accepted.revision, key.as_ref()).await;
            Done::Confirmed { ticket, result, accepted: Box::new(accepted), confirmed }
        });
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
