//! Projects, plans and members in Redis.
//!
//! All of a project is in one slot and changes in one step. What lies elsewhere only helps to find it, and is written so
//! that a crash in between leaves what does no harm:
//! - A user's list of projects is a hint. It is written before the membership, never shortened while the project lives,
//!   and whoever reads it asks the member list.
//! - A plan's entry by its id is written before the project's list of plans, and removed after it, together with the
//!   plan's log, which is in the same slot. An entry whose project is gone is what a crash leaves; `sweep` finds it.
//! - A plan's log begins before its entry is there. A crash in between leaves a log of one entry that nobody finds.

use std::sync::Arc;

use async_trait::async_trait;
use fred::types::Value;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use mille_shared::directory::{Member, Plan, Project, Role};
use mille_shared::{PlanId, ProjectId, Timestamp, UserId};

use super::functions::{MEMBER_REMOVE, MEMBER_SET, PLAN_ADD, PROJECT_CREATE, PROJECT_DELETE, PROJECTS_READ};
use super::log::all_keys;
use super::route::Redis;
use super::values::{corrupt, field, pairs, parse, parsed, text};
use super::{FAN_OUT_MAX, fan_out, fan_out_each, keys};
use crate::backend::{Contents, Directory, Error, MemberChange, Result};

/// Projects in one question for what they have. Redis serves nobody else meanwhile.
const PROJECTS_PER_CALL_MAX: usize = 16;
/// Numbers that are tried for a project, each twice as far ahead as the one before.
const NUMBERS_MAX: u32 = 20;

#[async_trait]
impl Directory for Redis {
    async fn create_project(
        &self,
        name: &str,
        description: Option<&str>,
        owner: &UserId,
        at: Timestamp,
    ) -> Result<Project> {
        let mut args: Vec<Value> = vec![owner.as_str().into(), at.unix_ms.to_string().into(), name.into()];
        args.extend(description.map(Value::from));
        for tries in 0..NUMBERS_MAX {
            let id = ProjectId(self.ask("incrby", keys::PROJECTS_COUNTER, [ahead(tries).into()]).await?);
            self.hint(owner, id).await?;
            let made = self.call(PROJECT_CREATE, vec![keys::record(id), keys::members(id)], args.clone()).await?;
            if made.as_i64() == Some(1) {
                let (name, description) = (name.to_owned(), description.map(str::to_owned));
                return Ok(Project { id, name, description, created_at: at, updated_at: at });
            }
            tracing::warn!(project.id = %id, "the number of a new project is taken: the counter of projects has lost its end");
        }
        Err(Error::Unavailable("no number is free for a project".to_owned()))
    }

    fn contents<'a>(&'a self, projects: &'a [ProjectId]) -> BoxStream<'a, (ProjectId, Result<Option<Contents>>)> {
        // In a cluster every project has a slot of its own, and a call is for one slot.
        let per_call = if self.context.access.is_cluster() { 1 } else { PROJECTS_PER_CALL_MAX };
        let calls = stream::iter(projects.chunks(per_call)).map(|some| self.contents_of(some));
        calls.buffer_unordered(FAN_OUT_MAX).flat_map(stream::iter).boxed()
    }

    async fn projects_of(&self, user: &UserId) -> Result<Vec<Project>> {
        let hints: Value = self.ask("smembers", keys::projects_of(user), []).await?;
        let mut ids: Vec<i32> =
            hints.into_array().iter().map(|id| parsed(id, "a project's id")).collect::<Result<_>>()?;
        ids.sort_unstable();
        let projects = fan_out(&ids, |id| {
            let id = ProjectId(*id);
            async move {
                if self.ask::<bool>("hexists", keys::members(id), [user.as_str().into()]).await? {
                    project(id, self.ask("hgetall", keys::record(id), []).await?)
                } else {
                    Ok(None)
                }
            }
        });
        Ok(projects.await?.into_iter().flatten().collect())
    }

    async fn delete_project(&self, id: ProjectId) -> Result<Option<Vec<PlanId>>> {
        let all = vec![keys::record(id), keys::members(id), keys::plans(id)];
        let answer = self.call(PROJECT_DELETE, all, Vec::new()).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let answer = answer.into_array();
        let [users, plans] = answer.as_slice() else { return Err(corrupt("what a project had")) };
        let (users, plans) = (users.clone().into_array(), plans.clone().into_array());
        let mut plans: Vec<_> =
            plans.iter().map(|plan| parsed(plan, "a plan's id").map(PlanId)).collect::<Result<_>>()?;
        plans.sort_unstable();
        // The project is gone, and must be told to be. What can't be reached now is swept later.
        for left in
            fan_out_each(&plans, FAN_OUT_MAX, |plan| self.forget_plan(*plan)).await.into_iter().filter_map(Result::err)
        {
            tracing::warn!(error = %left, project.id = %id, "a plan of a deleted project is left for now");
        }
        // Ids of projects are not used again, so nobody can become a member meanwhile.
        let users: Vec<_> = users.iter().map(|user| text(user, "a member").map(UserId::new)).collect::<Result<_>>()?;
        let hints =
            fan_out_each(&users, FAN_OUT_MAX, |user| self.ask::<Value>("srem", keys::projects_of(user), [id.0.into()]));
        if hints.await.iter().any(Result::is_err) {
            tracing::debug!(project.id = %id, "a hint of a deleted project is left: it leads nowhere");
        }
        Ok(Some(plans))
    }

    async fn reserve_plan(&self, taken: u32) -> Result<PlanId> {
        Ok(PlanId(match taken {
            // By the command that nodes of the version before need a right to.
            0 => self.ask("incr", keys::PLANS_COUNTER, []).await?,
            _ => self.ask("incrby", keys::PLANS_COUNTER, [ahead(taken).into()]).await?,
        }))
    }

    async fn add_plan(&self, plan: &Plan) -> Result<bool> {
        let entry = serde_json::to_string(plan).map_err(|_| corrupt("a plan's entry"))?;
        let by_id = keys::plan(plan.id);
        self.ask::<Value>("set", by_id.as_str(), [entry.as_str().into()]).await?;
        let args = vec![plan.id.to_string().into(), entry.into(), plan.created_at.unix_ms.to_string().into()];
        let keys = vec![keys::record(plan.project_id), keys::plans(plan.project_id)];
        let known = self.call(PLAN_ADD, keys, args).await?.as_i64() == Some(1);
        if !known {
            self.ask::<Value>("unlink", by_id, []).await?;
        }
        Ok(known)
    }

    async fn plan(&self, id: PlanId) -> Result<Option<Plan>> {
        let entry: Value = self.ask("get", keys::plan(id), []).await?;
        if entry.is_null() { Ok(None) } else { plan(&text(&entry, "a plan's entry")?).map(Some) }
    }

    async fn reclaim_plan(&self, project: ProjectId, plan: PlanId) -> Result<bool> {
        if let Some(found) = self.plan(plan).await? {
            return Ok(found.project_id == project);
        }
        let listed: Value = self.ask("hget", keys::plans(project), [plan.to_string().into()]).await?;
        if listed.is_null() {
            return Ok(false);
        }
        // Its number may be another's by now, if the counter of plans has lost its end as well: that one keeps it.
        self.ask::<Value>("set", keys::plan(plan), [listed, "NX".into()]).await?;
        Ok(self.plan(plan).await?.is_some_and(|found| found.project_id == project))
    }

    async fn members(&self, project: ProjectId) -> Result<Vec<Member>> {
        members(self.ask("hgetall", keys::members(project), []).await?)
    }

    async fn set_member(
        &self,
        project: ProjectId,
        user: &UserId,
        role: Role,
        at: Timestamp,
    ) -> Result<MemberChange<Member>> {
        // A member has the hint since it became one. So it can be given another role also when the store takes nothing more.
        if !self.ask::<bool>("hexists", keys::members(project), [user.as_str().into()]).await? {
            if !self.ask::<bool>("exists", keys::record(project), []).await? {
                return Ok(MemberChange::NotFound);
            }
            self.hint(user, project).await?;
        }
        let args = vec![user.as_str().into(), role.as_str().into(), at.unix_ms.to_string().into()];
        let keys = vec![keys::record(project), keys::members(project)];
        match change(self.call(MEMBER_SET, keys, args).await?)? {
            MemberChange::Done(Some(since)) => {
                let added_at = Timestamp::from_unix_ms(parsed(&since, "a member")?);
                Ok(MemberChange::Done(Member { user_id: user.clone(), role, added_at }))
            }
            MemberChange::Done(None) => Err(corrupt("a member")),
            MemberChange::NotFound => Ok(MemberChange::NotFound),
            MemberChange::LastOwner => Ok(MemberChange::LastOwner),
        }
    }

    async fn remove_member(&self, project: ProjectId, user: &UserId, at: Timestamp) -> Result<MemberChange<()>> {
        let args = vec![user.as_str().into(), at.unix_ms.to_string().into()];
        let keys = vec![keys::record(project), keys::members(project)];
        Ok(match change(self.call(MEMBER_REMOVE, keys, args).await?)? {
            MemberChange::Done(_) => MemberChange::Done(()),
            MemberChange::NotFound => MemberChange::NotFound,
            MemberChange::LastOwner => MemberChange::LastOwner,
        })
    }
}

impl Redis {
    /// What projects have that one call may ask for.
    async fn contents_of(&self, projects: &[ProjectId]) -> Vec<(ProjectId, Result<Option<Contents>>)> {
        let keys = projects.iter().flat_map(|id| [keys::record(*id), keys::members(*id), keys::plans(*id)]).collect();
        let answer = self.call_read_only(PROJECTS_READ, keys, Vec::new(), None).await.and_then(|answer| {
            let stored = answer.into_array();
            if stored.len() == 3 * projects.len() { Ok(stored) } else { Err(corrupt("what projects have")) }
        });
        match answer {
            Ok(stored) => {
                projects.iter().zip(stored.chunks_exact(3)).map(|(id, stored)| (*id, contents(*id, stored))).collect()
            }
            Err(error) => projects.iter().map(|id| (*id, Err(error.clone()))).collect(),
        }
    }

    /// Removes a plan's entry, its log and all that belongs to it, in one step.
    pub(super) async fn forget_plan(&self, plan: PlanId) -> Result<()> {
        let rest = all_keys(plan).into_iter().chain([keys::orphaned_since(plan)]).map(Value::from);
        self.ask::<Value>("unlink", keys::plan(plan), rest).await.map(drop)
    }

    /// Notes where a user's projects are to be looked for.
    async fn hint(&self, user: &UserId, project: ProjectId) -> Result<()> {
        self.ask::<Value>("sadd", keys::projects_of(user), [project.0.into()]).await.map(drop)
    }
}

/// How far ahead the next number is of one that is taken. Ever further: a counter that lost its end is soon beyond what is there.
fn ahead(taken: u32) -> i64 {
    1 << taken.min(NUMBERS_MAX)
}

/// A project's record, members and plans.
fn contents(id: ProjectId, stored: &[Value]) -> Result<Option<Contents>> {
    let Some(project) = project(id, stored[0].clone())? else { return Ok(None) };
    let read = |entry: &Value| plan(&text(entry, "a plan's entry")?);
    let mut plans: Vec<_> = stored[2].clone().into_array().iter().map(read).collect::<Result<_>>()?;
    plans.sort_unstable_by_key(|plan| plan.id);
    Ok(Some(Contents { project, plans, members: members(stored[1].clone())? }))
}

fn members(stored: Value) -> Result<Vec<Member>> {
    let mut members: Vec<_> =
        pairs(stored, "members")?.into_iter().map(|(user, part)| member(user, &part)).collect::<Result<_>>()?;
    members.sort_unstable_by(|a, b| a.user_id.cmp(&b.user_id));
    Ok(members)
}

fn project(id: ProjectId, record: Value) -> Result<Option<Project>> {
    let fields = pairs(record, "a project")?;
    if fields.is_empty() {
        return Ok(None);
    }
    let required = |name: &str| field(&fields, name).ok_or_else(|| corrupt("a project"));
    let time = |name: &str| Ok(Timestamp::from_unix_ms(parse(required(name)?, "a project")?));
    Ok(Some(Project {
        id,
        name: required("name")?.to_string(),
        description: field(&fields, "description").map(ToString::to_string),
        created_at: time("created")?,
        updated_at: time("updated")?,
    }))
}

pub(super) fn plan(entry: &str) -> Result<Plan> {
    serde_json::from_str(entry).map_err(|_| corrupt("a plan's entry"))
}

fn member(user: Arc<str>, part: &str) -> Result<Member> {
    let (role, since) = part.split_once(' ').ok_or_else(|| corrupt("a member"))?;
    let role = Role::parse(role).ok_or_else(|| corrupt("a member's role"))?;
    Ok(Member { user_id: UserId::new(user), role, added_at: Timestamp::from_unix_ms(parse(since, "a member")?) })
}

/// What a change of members came to, with whatever stands behind `done`.
fn change(answer: Value) -> Result<MemberChange<Option<Value>>> {
    let mut answer = answer.into_array().into_iter();
    let word = answer.next().ok_or_else(|| corrupt("a change of members"))?;
    match &*text(&word, "a change of members")? {
        "done" => Ok(MemberChange::Done(answer.next())),
        "not_found" => Ok(MemberChange::NotFound),
        "last_owner" => Ok(MemberChange::LastOwner),
        _ => Err(corrupt("a change of members")),
    }
}
