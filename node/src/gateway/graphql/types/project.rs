//! Projects, their plans and members, and the caller.

use std::sync::Arc;

use async_graphql::{Context, Enum, Object, SimpleObject};
use mille_shared::directory::{self, Member, Role};
use tokio::sync::OnceCell;

use super::super::guard;
use crate::gateway::auth::Identity;
use crate::gateway::errors::ApiError;
use crate::project::Access;

/// What reading one plan's state weighs in a query: it may have to be opened from the log.
const READ_PLAN: usize = 5;

/// The caller.
#[derive(SimpleObject)]
pub(crate) struct Viewer {
    /// The token's `sub`.
    id: String,
    /// The name in the token.
    name: Option<String>,
    /// What the token allows beyond projects: of `admin`, `executor`.
    scopes: Vec<&'static str>,
}

impl From<&Identity> for Viewer {
    fn from(identity: &Identity) -> Self {
        Self { id: identity.user_id.to_string(), name: identity.name.clone(), scopes: identity.scopes.names() }
    }
}

/// A project that the caller is a member of. Opened on this node only if a field needs more than its entry.
pub(crate) struct Project {
    entry: directory::Project,
    access: OnceCell<Access>,
}

impl Project {
    /// One that is not open yet: an entry of a list.
    pub(crate) fn listed(entry: directory::Project) -> Self {
        Self { entry, access: OnceCell::new() }
    }

    /// One that the caller has entered.
    pub(crate) fn entered(access: Access) -> Self {
        Self { entry: access.project.members().project.clone(), access: OnceCell::new_with(Some(access)) }
    }

    async fn access(&self, ctx: &Context<'_>) -> Result<&Access, ApiError> {
        self.access.get_or_try_init(|| guard::project(ctx, self.entry.id.0, Role::Viewer)).await
    }
}

/// A project: a name, members, and plans.
#[Object]
impl Project {
    /// Its id, counted up from 1.
    async fn id(&self) -> i32 {
        self.entry.id.0
    }

    /// Its name, 1 to 200 bytes.
    async fn name(&self) -> &str {
        &self.entry.name
    }

    /// What it is for.
    async fn description(&self) -> Option<&str> {
        self.entry.description.as_deref()
    }

    /// When it was made, RFC 3339 UTC.
    async fn created_at(&self) -> String {
        self.entry.created_at.to_string()
    }

    /// When its name, members or list of plans last changed, RFC 3339 UTC.
    async fn updated_at(&self) -> String {
        self.entry.updated_at.to_string()
    }

    /// The caller's part in it.
    #[graphql(complexity = 2)]
    async fn role(&self, ctx: &Context<'_>) -> Result<ProjectRole, ApiError> {
        Ok(self.access(ctx).await?.role.into())
    }

    /// Its plans. The first one is meant wherever no `planId` is given.
    #[graphql(complexity = "2 + child_complexity")]
    async fn plans(&self, ctx: &Context<'_>) -> Result<Vec<Plan>, ApiError> {
        let access = self.access(ctx).await?;
        let members = access.project.members();
        Ok(members.plans.iter().map(|entry| Plan::new(entry.clone(), access.clone())).collect())
    }
}

/// A plan's entry in its project. Its document is `getPlanDag`.
pub(crate) struct Plan {
    entry: directory::Plan,
    access: Access,
    /// The document, read once for the fields that need it.
    now: OnceCell<Arc<mille_core::Plan>>,
}

impl Plan {
    pub(crate) fn new(entry: directory::Plan, access: Access) -> Self {
        Self { entry, access, now: OnceCell::new() }
    }

    async fn now(&self) -> Result<&mille_core::Plan, ApiError> {
        let read = async || self.access.project.read(self.entry.id).await;
        Ok(self.now.get_or_try_init(read).await?.as_ref())
    }
}

/// A plan's entry in its project. Its document is had by `getPlanDag`.
#[Object]
impl Plan {
    /// Its id, counted up from 1 over all projects.
    async fn id(&self) -> i32 {
        self.entry.id.0
    }

    /// The project it belongs to.
    async fn project_id(&self) -> i32 {
        self.entry.project_id.0
    }

    /// The name it was made with, 1 to 200 bytes.
    async fn name(&self) -> &str {
        &self.entry.name
    }

    /// The place of its newest change: `<epoch>-<seq>`. `<epoch>-0` for a plan that was never edited.
    #[graphql(complexity = "READ_PLAN")]
    async fn revision(&self) -> Result<String, ApiError> {
        Ok(self.now().await?.revision().to_string())
    }

    /// When it was made, RFC 3339 UTC.
    async fn created_at(&self) -> String {
        self.entry.created_at.to_string()
    }

    /// When it last changed, RFC 3339 UTC.
    #[graphql(complexity = "READ_PLAN")]
    async fn updated_at(&self) -> Result<String, ApiError> {
        Ok(self.now().await?.last_modified().to_string())
    }
}

/// A member of a project.
#[derive(SimpleObject)]
pub(crate) struct Collaborator {
    /// Who.
    user_id: String,
    /// What they may do.
    role: ProjectRole,
    /// Since when, RFC 3339 UTC.
    added_at: String,
}

impl From<&Member> for Collaborator {
    fn from(member: &Member) -> Self {
        Self { user_id: member.user_id.to_string(), role: member.role.into(), added_at: member.added_at.to_string() }
    }
}

/// What a member of a project may do. Each may all that the lower ones may.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "mille_shared::directory::Role")]
pub(crate) enum ProjectRole {
    /// Also choose members and delete the project.
    Owner,
    /// Also edit plans and report executions.
    Editor,
    /// Read, subscribe, be present.
    Viewer,
}
