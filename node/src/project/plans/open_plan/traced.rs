//! What of an open plan's changes is traced: edits that wait for their answer, and entries that come in.
//!
//! Empty unless an edit's trace is recorded. The replica knows nothing of it: an edit is found again by its operation's key,
//! an entry by its revision. What is read from the log, to catch up, is of no trace.

use std::collections::HashMap;
use std::sync::Arc;

use mille_core::Applied;
use mille_core::replica::Ticket;
use mille_shared::log::{OperationKey, Proposal};
use mille_shared::operation::Operation;
use mille_shared::{PlanId, Revision, TraceParent};

use crate::project::command::{Accepted, Rejection};
use crate::traces::{self, Traced};

/// The traced changes of a plan.
#[derive(Default)]
pub(super) struct TracedChanges {
    /// Edits from here, until they are answered. Bounded with the plan's tickets.
    edits: HashMap<OperationKey, (Ticket, Traced)>,
    /// Entries of the message that is being looked at.
    heard: Vec<(Revision, Traced)>,
}

impl TracedChanges {
    pub(super) fn begin(&mut self, ticket: Ticket, operation: &Operation, edit: Traced) {
        let key = OperationKey::of(&operation.user_id, &operation.client_id, &operation.id);
        self.edits.insert(key, (ticket, edit));
    }

    /// Lets proposals say of which trace they are.
    pub(super) fn mark(&self, batch: &mut [Proposal]) {
        if self.edits.is_empty() {
            return;
        }
        for proposal in batch {
            proposal.trace = self.edits.get(&proposal.key).map(|(_, edit)| edit.place());
        }
    }

    /// Ends an edit. Without an answer, the plan stops here.
    pub(super) fn answered(&mut self, ticket: Ticket, answer: Option<&Result<Accepted, Rejection>>) {
        if self.edits.is_empty() {
            return;
        }
        for (_, (_, edit)) in self.edits.extract_if(|_, (of, _)| *of == ticket) {
            match answer {
                Some(Ok(accepted)) => edit.at(accepted.revision),
                Some(Err(Rejection::Refused(_))) => edit.failed("refused", false),
                Some(Err(Rejection::Overloaded)) => edit.failed("overloaded", true),
                Some(Err(Rejection::Unavailable)) => edit.failed("unavailable", true),
                Some(Err(Rejection::Unconfirmed)) => edit.failed("unconfirmed", true),
                Some(Err(_)) | None => edit.failed("stopping", true),
            }
        }
    }

    /// An entry comes in that may be applied.
    pub(super) fn expect(&mut self, place: TraceParent, plan: PlanId, revision: Revision) {
        self.heard.extend(traces::apply(place, plan, revision).map(|apply| (revision, apply)));
    }

    /// What came in was applied, or waits for what came before it.
    pub(super) fn applied(&mut self) {
        self.heard.clear();
    }

    /// The way of a change to so many listeners here.
    pub(super) fn fan_out(
        &self,
        plan: PlanId,
        applied: &Applied,
        listeners: impl FnOnce() -> usize,
    ) -> Option<Arc<Traced>> {
        if self.heard.is_empty() && self.edits.is_empty() {
            return None;
        }
        let revision = applied.revision();
        let heard = self.heard.iter().find(|(of, _)| *of == revision).map(|(_, apply)| apply.place());
        let place = heard.or_else(|| self.edits.get(&applied.operation_key()).map(|(_, edit)| edit.place()))?;
        traces::fan_out(place, plan, revision, listeners()).map(Arc::new)
    }
}
