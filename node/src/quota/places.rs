//! Connections: is there a place for this one?

use std::sync::Arc;

use mille_core::allowance::{Outcome, Places, Verdict};
use mille_shared::{LimitName, UserId, limits};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::{Excess, UserQuotas};
use crate::backend::PlacesClaim;
use crate::metrics::{ConnectionRefused, LeaseOutcome};

/// One user's connections here.
pub(super) struct Entry {
    machine: Places,
    /// Told when the store has answered.
    answered: Arc<Notify>,
}

impl Entry {
    pub(super) fn is_idle(&self) -> bool {
        self.machine.is_idle()
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> u32 {
        self.machine.waiting()
    }
}

/// A place of a user's connection. Dropping it gives it back.
pub struct Place {
    /// Absent if the user is not counted.
    of: Option<(UserQuotas, UserId)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((quotas, user)) = self.of.take() else { return };
        quotas.tell(&user, |machine| machine.closed());
    }
}

/// Somebody who waits. Whoever is dropped while waiting waits no more.
struct Waiting<'q> {
    quotas: &'q UserQuotas,
    user: &'q UserId,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.quotas.with(self.user, Places::give_up);
        }
    }
}

/// What is known at once.
enum Look {
    Taken(Place),
    Refused,
    After(OwnedNotified),
}

impl UserQuotas {
    /// A place for one more connection of a user. Waits for the store if it must, but not for long: without its word the
    /// connection is let in.
    ///
    /// # Errors
    /// [`Excess`] if the user has too many.
    pub async fn connection(&self, user: &UserId) -> Result<Place, Excess> {
        let answered = match self.look_for_place(user, Places::open) {
            Look::Taken(place) => return Ok(place),
            Look::Refused => return Err(self.too_many_connections()),
            Look::After(answered) => answered,
        };
        let mut waiting = Waiting { quotas: self, user, is_over: false };
        let place = tokio::time::timeout(self.inner.settings.patience, self.come_for_place(&mut waiting, answered));
        match place.await {
            Ok(Some(place)) => Ok(place),
            Ok(None) => Err(self.too_many_connections()),
            Err(_) if self.with(user, Places::let_in) == Some(false) => Err(self.too_many_connections()),
            Err(_) => Ok(self.place(user)),
        }
    }

    async fn come_for_place(&self, waiting: &mut Waiting<'_>, mut answered: OwnedNotified) -> Option<Place> {
        loop {
            answered.await;
            waiting.is_over = true;
            match self.look_for_place(waiting.user, Places::come_again) {
                Look::Taken(place) => return Some(place),
                Look::Refused => return None,
                Look::After(next) => answered = next,
            }
            waiting.is_over = false;
        }
    }

    fn look_for_place(&self, user: &UserId, step: impl FnOnce(&mut Places, std::time::Duration) -> Outcome) -> Look {
        let mut table = self.inner.places.lock();
        let max = self.inner.settings.connections_max;
        let new = |_: &_| Entry { machine: Places::new(max, limits::USER_FREE_SHARE), answered: Arc::default() };
        let Some(entry) = self.entry(&mut table, user, new) else { return Look::Taken(Place { of: None }) };
        let Outcome { verdict, ask } = step(&mut entry.machine, self.now());
        // Made under the lock: an answer that comes now is not missed.
        let answered = Arc::clone(&entry.answered).notified_owned();
        let kept = entry.machine.kept();
        drop(table);
        if let Some(wanted) = ask {
            self.inner.tasks.spawn(self.clone().hold(user.clone(), wanted, kept));
        }
        match verdict {
            Verdict::Taken => Look::Taken(self.place(user)),
            Verdict::Refused { .. } => Look::Refused,
            Verdict::Wait => Look::After(answered),
        }
    }

    fn place(&self, user: &UserId) -> Place {
        Place { of: Some((self.clone(), user.clone())) }
    }

    fn too_many_connections(&self) -> Excess {
        self.inner.metrics.limits.refused(ConnectionRefused::User);
        self.refuse(LimitName::UserConnections, self.inner.settings.connections_max, std::time::Duration::ZERO)
    }

    /// Which users' places are to be told to the store again, how many, and how many of them are in use.
    pub(super) fn renewals(&self) -> Vec<(UserId, u32, u32)> {
        let mut table = self.inner.places.lock();
        let due = table.iter_mut().filter_map(|(user, entry)| {
            let wanted = entry.machine.renewal()?;
            Some((user.clone(), wanted, entry.machine.kept()))
        });
        due.collect()
    }

    /// Tells the store how many places this node wants for a user, and once more if that has changed meanwhile.
    pub(super) async fn hold(self, user: UserId, wanted: u32, kept: u32) {
        let (mut wanted, mut kept) = (wanted, kept);
        loop {
            let held = self.ask_for_places(&user, wanted, kept.min(wanted)).await;
            let mut table = self.inner.places.lock();
            let Some(entry) = table.get_mut(&user) else { return };
            let next = entry.machine.answered(self.now(), held);
            entry.answered.notify_waiters();
            let Some(next) = next else { return };
            (wanted, kept) = (next, entry.machine.kept());
        }
    }

    async fn ask_for_places(&self, user: &UserId, wanted: u32, kept: u32) -> Option<u32> {
        let settings = &self.inner.settings;
        let claim = PlacesClaim { wanted, kept, max: settings.connections_max, ttl: settings.places_ttl };
        let asked = self.inner.store.hold_places(user, &self.inner.node, claim);
        let (held, outcome) = match asked.await {
            Ok(held) if held < wanted => (Some(held), LeaseOutcome::Refused),
            Ok(held) => (Some(held), LeaseOutcome::Granted),
            Err(error) => {
                tracing::debug!(%error, "a user's places were not told");
                (None, LeaseOutcome::Unanswered)
            }
        };
        self.inner.metrics.limits.leased(outcome);
        held
    }

    fn with<T>(&self, user: &UserId, step: impl FnOnce(&mut Places) -> T) -> Option<T> {
        self.inner.places.lock().get_mut(user).map(|entry| step(&mut entry.machine))
    }

    /// Changes a user's places and tells the store if it must know.
    fn tell(&self, user: &UserId, step: impl FnOnce(&mut Places) -> Option<u32>) {
        let told = self.with(user, |machine| step(machine).map(|wanted| (wanted, machine.kept())));
        let Some((wanted, kept)) = told.flatten() else { return };
        // When the runtime ends there is nobody left to tell; what the store holds for us runs out.
        if let Ok(runtime) = Handle::try_current() {
            self.inner.tasks.spawn_on(self.clone().hold(user.clone(), wanted, kept), &runtime);
        }
    }
}
