//! Who may go on, after the members of the project have changed.

use mille_shared::UserId;
use mille_shared::directory::Role;
use tokio::time::Instant;

use super::OpenPlan;
use crate::project::access;
use crate::project::command::{Audience, PlanEvent, Queued};
use crate::project::plans::Jobs;

impl OpenPlan {
    /// Lets go of listeners who may no longer listen, and refuses edits that wait of those who may no longer edit.
    pub(in crate::project::plans) fn check_access(
        &mut self,
        role_of: impl Fn(&UserId) -> Option<Role>,
        jobs: &mut Jobs,
    ) {
        // A listener that is let go attaches again, and is refused there; or looks for itself who may still be told.
        let pressure = &self.context.metrics.pressure;
        let changed = || Queued::new(PlanEvent::MembersChanged, Instant::now(), None, pressure);
        self.listeners.retain(|listener| match &listener.audience {
            Audience::User(user) => role_of(user).is_some(),
            Audience::Many(_) => listener.events.try_send(changed()).is_ok(),
        });
        for effect in self.replica.withdraw(|operation| access::may_submit(operation, &role_of)) {
            self.perform(effect, jobs);
        }
    }
}
