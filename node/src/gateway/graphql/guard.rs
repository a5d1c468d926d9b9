//! The one door of every field that names a project or a plan.
//!
//! It finds out who asks and what they may do there, and gives an [`Access`] or the refusal. The identity is read each
//! time: a socket lives longer than a token. Who is no member learns nothing, not even whether the project exists.

use std::sync::Arc;

use async_graphql::Context;
use mille_shared::directory::Role;
use mille_shared::{ErrorCode, PlanId, ProjectId};

use super::codes;
use crate::gateway::auth::Identity;
use crate::gateway::errors::ApiError;
use crate::gateway::transport::Session;
use crate::metrics::NotAllowed;
use crate::project::{Access, Projects};

/// The caller's socket or request.
pub(super) fn session<'c>(ctx: &Context<'c>) -> Result<&'c Arc<Session>, ApiError> {
    let missing = || ApiError::new(ErrorCode::Unauthenticated, "nobody is known to have asked this");
    ctx.data_opt::<Arc<Session>>().ok_or_else(missing)
}

/// Who asks, by their newest token.
pub(super) fn identity(ctx: &Context<'_>) -> Result<Arc<Identity>, ApiError> {
    Ok(session(ctx)?.identity())
}

/// The projects of this node.
pub(super) fn projects<'c>(ctx: &Context<'c>) -> Result<&'c Projects, ApiError> {
    let missing = || ApiError::new(ErrorCode::InternalError, "the schema was built without projects");
    ctx.data_opt::<Projects>().ok_or_else(missing)
}

/// Entry to a project for a member with at least the role `needed`.
///
/// # Errors
/// `NOT_FOUND` for who is no member, `FORBIDDEN` for a lower role, `UNAVAILABLE`, `DRAINING`.
pub(super) async fn project(ctx: &Context<'_>, id: i32, needed: Role) -> Result<Access, ApiError> {
    let user = identity(ctx)?.user_id.clone();
    Ok(projects(ctx)?.access(ProjectId(id), &user, needed).await?)
}

/// The same, with the plan that is meant: the named one, or the project's first.
pub(super) async fn plan(
    ctx: &Context<'_>,
    project_id: i32,
    plan_id: Option<i32>,
    needed: Role,
) -> Result<(Access, PlanId), ApiError> {
    let access = project(ctx, project_id, needed).await?;
    let plan = access.project.plan_id(plan_id.map(PlanId)).await?;
    Ok((access, plan))
}

/// The same for a plan that is named alone, as text. A text that is no plan's id names no plan.
pub(super) async fn plan_alone(ctx: &Context<'_>, plan_id: &str, needed: Role) -> Result<(Access, PlanId), ApiError> {
    let user = identity(ctx)?.user_id.clone();
    let Ok(plan) = plan_id.parse().map(PlanId) else { return Err(codes::no_such_plan()) };
    let access = projects(ctx)?.access_by_plan(plan, &user, needed).await?;
    let plan = access.project.plan_id(Some(plan)).await?;
    Ok((access, plan))
}

/// Entry for who reports executions: an editor, or any member whose token has the scope `executor`.
pub(super) async fn execution(
    ctx: &Context<'_>,
    project_id: i32,
    plan_id: Option<i32>,
) -> Result<(Access, PlanId), ApiError> {
    let needed = if identity(ctx)?.scopes.executor { Role::Viewer } else { Role::Editor };
    plan(ctx, project_id, plan_id, needed).await
}

/// Entry to what concerns the whole cluster.
///
/// # Errors
/// `FORBIDDEN` without the scope `admin`.
pub(super) fn admin(ctx: &Context<'_>) -> Result<(), ApiError> {
    if identity(ctx)?.scopes.admin {
        Ok(())
    } else {
        projects(ctx)?.metrics().rights.refused(NotAllowed::Scope);
        Err(codes::forbidden("this needs a token with the scope 'admin'"))
    }
}
