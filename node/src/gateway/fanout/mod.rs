//! Telling many the same: one execution per event and group, one walk over the sockets.
//!
//! Subscriptions that ask the same of a plan differ in nothing but the operation's id and where they begin. So each begins
//! alone ([`alone`]) and then joins its [`Group`], which executes the selection ([`render`]) once per event ([`press`]), and
//! writes it to every socket that keeps up ([`walk`]); who does not is told by way of a bounded queue ([`outlet`]).

mod group;
mod outlet;
mod press;
mod render;
mod selection;
mod walk;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mille_shared::{PlanId, ProjectId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use group::{Alone, Group, Subscriber, alone};
pub use outlet::{Delivery, Outlet, Waiting};
pub use render::{Execution, RenderFeed, Rendered, Rendering, Writer};
pub use selection::Selection;
#[doc(hidden)]
pub use walk::put_together;

use super::auth::RevokedTokens;
use super::transport::TransportObserver;
use crate::project::Following;

/// Subscriptions of one group: one task walks over them. With more there are several groups.
const GROUP_MAX: usize = 1_024;

/// Keys that are not worth a sweep.
const SWEEP_AT_LEAST: usize = 64;

/// The groups of a node. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    known: Arc<Mutex<Known>>,
    common: Arc<Common>,
}

#[derive(Default)]
struct Known {
    groups: HashMap<Key, Vec<Weak<Group>>>,
    /// At so many keys, those are forgotten whose groups are over.
    sweep_at: usize,
}

/// What all groups need.
pub(super) struct Common {
    pub(super) revoked: RevokedTokens,
    pub(super) observer: Arc<dyn TransportObserver>,
    pub(super) moment_max: Duration,
    pub(super) tasks: TaskTracker,
}

impl Common {
    /// So many sockets took what was learnt then.
    fn told(&self, learnt: Option<Instant>, sockets: usize) {
        if let Some(learnt) = learnt.filter(|_| sockets > 0) {
            self.observer.told(learnt.elapsed(), sockets);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    project: ProjectId,
    plan: PlanId,
    selection: Selection,
}

/// What a resolver leaves here instead of giving out events: the transport gets them from the subscription's group.
pub struct Deposit {
    /// The plan.
    pub plan: PlanId,
    /// What the subscription lacks, and what comes then.
    pub following: Following,
    /// What writes its answers, if its selection need not be executed.
    pub writer: Option<Writer>,
}

/// Where a resolver leaves it. In the data of a subscription that can be shared.
#[derive(Clone)]
pub struct Sharing {
    /// Nothing in its document says that parts of it are left out.
    pub is_plain: bool,
    deposit: Arc<Mutex<Option<Deposit>>>,
}

impl Sharing {
    /// For a subscription that asks for this.
    #[must_use]
    pub fn of(selection: &Selection) -> Self {
        Self { is_plain: !selection.may_have_directives(), deposit: Arc::default() }
    }

    /// Leaves what the subscription's events come from.
    pub fn leave(&self, deposit: Deposit) {
        *self.deposit.lock() = Some(deposit);
    }

    /// What was left.
    #[must_use]
    pub fn take(&self) -> Option<Deposit> {
        self.deposit.lock().take()
    }
}

impl Groups {
    /// None yet. `moment_max`: how long a group waits at most for more, after it has told something. A group's task is one of
    /// `tasks` and ends with the group's last subscription.
    #[must_use]
    pub fn new(
        revoked: RevokedTokens,
        observer: Arc<dyn TransportObserver>,
        moment_max: Duration,
        tasks: TaskTracker,
    ) -> Self {
        Self { known: Arc::default(), common: Arc::new(Common { revoked, observer, moment_max, tasks }) }
    }

    /// The group of those who ask the same.
    #[must_use]
    pub fn of(&self, selection: &Selection, deposit: &Deposit, rendering: Rendering) -> Arc<Group> {
        let project = deposit.following.project().id();
        let key = Key { project, plan: deposit.plan, selection: selection.clone() };
        let mut known = self.known.lock();
        let same = known.groups.get(&key).into_iter().flatten().filter_map(Weak::upgrade);
        // Its subscribers hold it, and its task; who catches up holds it twice.
        let has_room = |group: &Arc<Group>| Arc::strong_count(group) <= GROUP_MAX + 2 && !group.is_broken();
        if let Some(group) = same.into_iter().find(has_room) {
            group.note_handle(deposit.following.project());
            return group;
        }
        known.sweep();
        let group = Group::new(deposit, rendering, Arc::clone(&self.common));
        let of_key = known.groups.entry(key).or_default();
        of_key.retain(|group| group.strong_count() > 0);
        of_key.push(Arc::downgrade(&group));
        group
    }
}

impl Known {
    /// Forgets groups that are over, each time that there are twice as many as were left the last time.
    fn sweep(&mut self) {
        if self.groups.len() < self.sweep_at {
            return;
        }
        self.groups.retain(|_, groups| {
            groups.retain(|group| group.strong_count() > 0);
            !groups.is_empty()
        });
        self.sweep_at = 2 * self.groups.len() + SWEEP_AT_LEAST;
    }
}
