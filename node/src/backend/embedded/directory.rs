//! Projects, plans and members in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use mille_shared::directory::{Member, Plan, Project, Role};
use mille_shared::{PlanId, ProjectId, Timestamp, UserId};

use super::{Store, lock};
use crate::backend::{Contents, Directory, MemberChange, Result};

/// Everything there is to find.
#[derive(Default)]
pub(super) struct Projects {
    projects: BTreeMap<ProjectId, Entry>,
    plans: BTreeMap<PlanId, Plan>,
    projects_numbered: i32,
    plans_numbered: i32,
}

struct Entry {
    project: Project,
    members: BTreeMap<UserId, Member>,
}

impl Entry {
    fn is_last_owner(&self, user: &UserId) -> bool {
        let mut owners = self.members.values().filter(|member| member.role == Role::Owner);
        owners.next().is_some_and(|owner| owner.user_id == *user) && owners.next().is_none()
    }
}

impl Projects {
    fn contents(&self, id: ProjectId) -> Option<Contents> {
        let Entry { project, members } = self.projects.get(&id)?;
        let plans = self.plans.values().filter(|plan| plan.project_id == id).cloned().collect();
        Some(Contents { project: project.clone(), plans, members: members.values().cloned().collect() })
    }
}

#[async_trait]
impl Directory for Store {
    async fn create_project(
        &self,
        name: &str,
        description: Option<&str>,
        owner: &UserId,
        at: Timestamp,
    ) -> Result<Project> {
        let mut all = lock(&self.projects);
        all.projects_numbered += 1;
        let project = Project {
            id: ProjectId(all.projects_numbered),
            name: name.to_owned(),
            description: description.map(str::to_owned),
            created_at: at,
            updated_at: at,
        };
        let member = Member { user_id: owner.clone(), role: Role::Owner, added_at: at };
        let members = BTreeMap::from([(owner.clone(), member)]);
        all.projects.insert(project.id, Entry { project: project.clone(), members });
        Ok(project)
    }

    fn contents<'a>(&'a self, projects: &'a [ProjectId]) -> BoxStream<'a, (ProjectId, Result<Option<Contents>>)> {
        stream::iter(projects).map(|id| (*id, Ok(lock(&self.projects).contents(*id)))).boxed()
    }

    async fn projects_of(&self, user: &UserId) -> Result<Vec<Project>> {
        let all = lock(&self.projects);
        let theirs = all.projects.values().filter(|entry| entry.members.contains_key(user));
        Ok(theirs.map(|entry| entry.project.clone()).collect())
    }

    async fn delete_project(&self, id: ProjectId) -> Result<Option<Vec<PlanId>>> {
        let mut all = lock(&self.projects);
        if all.projects.remove(&id).is_none() {
            return Ok(None);
        }
        let gone: Vec<_> = all.plans.values().filter(|plan| plan.project_id == id).map(|plan| plan.id).collect();
        for plan in &gone {
            all.plans.remove(plan);
        }
        Ok(Some(gone))
    }

    async fn reserve_plan(&self, _taken: u32) -> Result<PlanId> {
        // What is counted here is not lost.
        let mut all = lock(&self.projects);
        all.plans_numbered += 1;
        Ok(PlanId(all.plans_numbered))
    }

    async fn add_plan(&self, plan: &Plan) -> Result<bool> {
        let mut all = lock(&self.projects);
        let Some(entry) = all.projects.get_mut(&plan.project_id) else { return Ok(false) };
        entry.project.updated_at = plan.created_at;
        all.plans.insert(plan.id, plan.clone());
        Ok(true)
    }

    async fn plan(&self, id: PlanId) -> Result<Option<Plan>> {
        Ok(lock(&self.projects).plans.get(&id).cloned())
    }

    async fn reclaim_plan(&self, project: ProjectId, plan: PlanId) -> Result<bool> {
        Ok(self.plan(plan).await?.is_some_and(|found| found.project_id == project))
    }

    async fn members(&self, project: ProjectId) -> Result<Vec<Member>> {
        let all = lock(&self.projects);
        Ok(all.projects.get(&project).map(|entry| entry.members.values().cloned().collect()).unwrap_or_default())
    }

    async fn set_member(
        &self,
        project: ProjectId,
        user: &UserId,
        role: Role,
        at: Timestamp,
    ) -> Result<MemberChange<Member>> {
        let mut all = lock(&self.projects);
        let Some(entry) = all.projects.get_mut(&project) else { return Ok(MemberChange::NotFound) };
        if role != Role::Owner && entry.is_last_owner(user) {
            return Ok(MemberChange::LastOwner);
        }
        let member = entry.members.entry(user.clone()).or_insert(Member { user_id: user.clone(), role, added_at: at });
        member.role = role;
        let member = member.clone();
        entry.project.updated_at = at;
        Ok(MemberChange::Done(member))
    }

    async fn remove_member(&self, project: ProjectId, user: &UserId, at: Timestamp) -> Result<MemberChange<()>> {
        let mut all = lock(&self.projects);
        let Some(entry) = all.projects.get_mut(&project) else { return Ok(MemberChange::NotFound) };
        if entry.is_last_owner(user) {
            return Ok(MemberChange::LastOwner);
        }
        if entry.members.remove(user).is_none() {
            return Ok(MemberChange::NotFound);
        }
        entry.project.updated_at = at;
        Ok(MemberChange::Done(()))
    }
}
