//! What an edit came to that its client has sent before: its first result, which is not kept but told again.
//!
//! Of an edit that was accepted the log has the entry. One that changed nothing has none, so it is noted beside the log before it
//! is answered: whoever sends it again, after others have changed what it found, is told that it changed nothing, and undoes
//! nothing of theirs.

use std::sync::Arc;

use mille_core::replica::Ticket;
use mille_core::{Applied, Plan, Refusal};
use mille_shared::Revision;
use mille_shared::log::OperationKey;

use super::{Done, Jobs, OpenPlan};
use crate::backend::{self, Noted};
use crate::metrics::EditResult;
use crate::project::command::{Accepted, Rejection};
use crate::project::handle::READ_AT_PATIENCE;
use crate::project::replay;

impl OpenPlan {
    /// An operation changes nothing of the plan; `repeat`: its key, if it may be a repeat.
    pub(super) fn changes_nothing(
        &mut self,
        ticket: Ticket,
        plan: Arc<Plan>,
        repeat: Option<OperationKey>,
        jobs: &mut Jobs,
    ) {
        let found = plan.head();
        let accepted = Accepted { revision: found.revision, applied: None, plan, is_repeat: false };
        let Some(key) = repeat else { return self.acknowledge(EditResult::Unchanged, ticket, accepted, jobs) };
        let (plan, log) = (self.id, Arc::clone(&self.context.backend.log));
        self.spawn(jobs, async move {
            let noted = log.note_unchanged(plan, &key, found).await;
            Done::Noted { ticket, accepted: Box::new(accepted), noted }
        });
    }

    pub(super) fn noted(&mut self, ticket: Ticket, accepted: Accepted, noted: backend::Result<Noted>, jobs: &mut Jobs) {
        match noted {
            Ok(Noted::New) => self.acknowledge(EditResult::Unchanged, ticket, accepted, jobs),
            Ok(Noted::Known(revision)) => self.tell_repeated(ticket, revision, jobs),
            // The log has lost what it found, or the store does not answer: sent again, it is judged again.
            Ok(Noted::Elsewhere) | Err(_) => self.answer(ticket, Err(Rejection::Unavailable)),
        }
    }

    /// Looks up an operation that would be refused: it may only look wrong because it already happened.
    pub(super) fn look_up(&mut self, ticket: Ticket, key: OperationKey, refusal: Box<Refusal>, jobs: &mut Jobs) {
        let (plan, log) = (self.id, Arc::clone(&self.context.backend.log));
        self.spawn(jobs, async move {
            let found = log.find(plan, &key).await;
            Done::Found { ticket, found, otherwise: Rejection::Refused(refusal) }
        });
    }

    pub(super) fn found(
        &mut self,
        ticket: Ticket,
        found: backend::Result<Option<Revision>>,
        otherwise: Rejection,
        jobs: &mut Jobs,
    ) {
        match found {
            Ok(Some(revision)) => self.tell_repeated(ticket, revision, jobs),
            Ok(None) => self.answer(ticket, Err(otherwise)),
            Err(_) => self.answer(ticket, Err(Rejection::Unavailable)),
        }
    }

    /// Answers a repeat with its first result.
    pub(super) fn tell_repeated(&mut self, ticket: Ticket, revision: Revision, jobs: &mut Jobs) {
        if let Some(applied) = self.replica.recent(revision) {
            let applied = Some(Arc::clone(applied));
            return self.told(ticket, revision, Ok(applied), jobs);
        }
        let (plan, room, backend) = (self.id, self.context.past_room.clone(), self.context.backend.clone());
        self.spawn(jobs, async move {
            let reading = replay::change_at(backend, plan, revision);
            let applied = room.in_turn(READ_AT_PATIENCE, reading).await;
            Done::Told { ticket, revision, applied }
        });
    }

    /// The change at a repeat's place is known, or can't be told any more.
    pub(super) fn told(
        &mut self,
        ticket: Ticket,
        revision: Revision,
        applied: backend::Result<Option<Arc<Applied>>>,
        jobs: &mut Jobs,
    ) {
        let Ok(applied) = applied else { return self.answer(ticket, Err(Rejection::Unavailable)) };
        // Another's change is what the operation found, and changed nothing of.
        let own = |applied: &Arc<Applied>| {
            self.tickets.get(&ticket).is_some_and(|waiting| waiting.key == applied.operation_key())
        };
        let applied = applied.filter(own);
        let plan = Arc::clone(self.replica.plan());
        let accepted = Accepted { revision, applied, plan, is_repeat: true };
        self.acknowledge(EditResult::Repeated, ticket, accepted, jobs);
    }
}
