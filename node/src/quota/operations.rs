//! Operations: may this one begin?

use std::sync::Arc;
use std::time::Duration;

use mille_core::allowance::{Granted, Operations, Outcome, Verdict};
use mille_shared::{LimitName, UserId, limits};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::{Admission, Excess, UserQuotas};
use crate::backend::OperationsLease;
use crate::metrics::LeaseOutcome;

/// One user's operations here.
pub(super) struct Entry {
    machine: Operations,
    /// Told when the store has answered.
    answered: Arc<Notify>,
}

impl Entry {
    pub(super) fn is_idle(&self, now: Duration) -> bool {
        self.machine.is_idle(now)
    }
}

/// What is known at once.
enum Look {
    Known(Result<(), Excess>),
    After(OwnedNotified),
}

impl UserQuotas {
    /// One more operation of a user. Never waits.
    #[must_use]
    pub fn operation(&self, user: &UserId) -> Admission {
        match self.look(user) {
            Look::Known(known) => Admission::Known(known),
            Look::After(answered) => {
                let (this, user) = (self.clone(), user.clone());
                Admission::Asked(Box::pin(async move {
                    let patience = this.inner.settings.patience;
                    // A store that is this slow must not hold up anybody: as if it had not answered.
                    tokio::time::timeout(patience, this.come_again(user, answered)).await.unwrap_or(Ok(()))
                }))
            }
        }
    }

    /// The same for who may wait for the store.
    ///
    /// # Errors
    /// [`Excess`] if the user has begun too many.
    pub async fn begin_operation(&self, user: &UserId) -> Result<(), Excess> {
        match self.operation(user) {
            Admission::Known(known) => known,
            Admission::Asked(soon) => soon.await,
        }
    }

    async fn come_again(&self, user: UserId, mut answered: OwnedNotified) -> Result<(), Excess> {
        loop {
            answered.await;
            match self.look(&user) {
                Look::Known(known) => return known,
                // Others have taken what came.
                Look::After(next) => answered = next,
            }
        }
    }

    fn look(&self, user: &UserId) -> Look {
        let rate = self.inner.settings.operations;
        let mut table = self.inner.operations.lock();
        let new = |_: &_| Entry { machine: Operations::new(rate, limits::USER_FREE_SHARE), answered: Arc::default() };
        let Some(entry) = self.entry(&mut table, user, new) else { return Look::Known(Ok(())) };
        let Outcome { verdict, ask } = entry.machine.take(self.now());
        // Made under the lock: an answer that comes now is not missed.
        let answered = Arc::clone(&entry.answered).notified_owned();
        drop(table);
        if let Some(asked) = ask {
            self.inner.tasks.spawn(self.clone().lease(user.clone(), asked));
        }
        match verdict {
            Verdict::Taken => Look::Known(Ok(())),
            Verdict::Refused { retry_after } => {
                let excess = self.refuse(LimitName::UserOperations, rate.per_second, retry_after);
                Look::Known(Err(excess))
            }
            Verdict::Wait => Look::After(answered),
        }
    }

    async fn lease(self, user: UserId, asked: u32) {
        let rate = self.inner.settings.operations;
        let (granted, outcome) =
            match self.inner.store.lease_operations(&user, rate.per_second, rate.burst, asked).await {
                Ok(OperationsLease::Some(count)) => (Granted::Some(count), LeaseOutcome::Granted),
                Ok(OperationsLease::None { retry_after }) => (Granted::None { retry_after }, LeaseOutcome::Refused),
                Err(error) => {
                    tracing::debug!(%error, "a user's operations were not leased");
                    (Granted::Unanswered, LeaseOutcome::Unanswered)
                }
            };
        self.inner.metrics.limits.leased(outcome);
        if let Some(entry) = self.inner.operations.lock().get_mut(&user) {
            entry.machine.answered(self.now(), granted);
            entry.answered.notify_waiters();
        }
    }
}
