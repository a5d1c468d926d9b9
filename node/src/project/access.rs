//! Who may what in a project.
//!
//! The answer is read from memory. A "no" is given only after the directory was asked: someone may have been let in on
//! another node a moment ago.

use std::collections::BTreeMap;

use mille_shared::directory::{Member, Plan, Project, Role};
use mille_shared::operation::Operation;
use mille_shared::{PlanId, UserId};

use super::handle::ProjectHandle;
use crate::backend::Contents;

/// A project as the directory knew it last.
#[derive(Debug, Clone)]
pub struct Members {
    /// The project.
    pub project: Project,
    /// Its plans, the first one first.
    pub plans: Vec<Plan>,
    /// Its members.
    pub members: BTreeMap<UserId, Member>,
}

impl Members {
    /// Of what the directory has. `None`: nobody is a member, so it is no project.
    pub(super) fn of(Contents { project, plans, members }: Contents) -> Option<Self> {
        let members: BTreeMap<_, _> = members.into_iter().map(|member| (member.user_id.clone(), member)).collect();
        (!members.is_empty()).then_some(Self { project, plans, members })
    }

    /// A user's role.
    #[must_use]
    pub fn role_of(&self, user: &UserId) -> Option<Role> {
        self.members.get(user).map(|member| member.role)
    }

    /// The plan that is meant: the named one, or the first.
    #[must_use]
    pub fn plan(&self, id: Option<PlanId>) -> Option<&Plan> {
        match id {
            Some(id) => self.plans.iter().find(|plan| plan.id == id),
            None => self.plans.first(),
        }
    }
}

/// Whether the author of an operation has the role that it needs.
pub(super) fn may_submit(operation: &Operation, role_of: impl Fn(&UserId) -> Option<Role>) -> bool {
    role_of(&operation.user_id) >= Some(operation.needs())
}

/// A user in a project: proof that they are a member.
#[derive(Debug, Clone)]
pub struct Access {
    /// The project.
    pub project: ProjectHandle,
    /// Who.
    pub user_id: UserId,
    /// What they may do.
    pub role: Role,
}
