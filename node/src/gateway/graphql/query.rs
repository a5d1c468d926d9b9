//! The queries.

use async_graphql::{Context, Object};
use mille_core::plan::check_document;
use mille_shared::directory::Role;
use mille_shared::operation::NewDocument;
use mille_shared::{ErrorCode, Revision};

use super::events::{PlanDagDeltaEvent, PlanDagDeltaPage};
use super::inputs::PlanDagInput;
use super::nullable::{Nullable, nullable};
use super::presence::{self, ProjectHealthReport, UserPresence};
use super::types::{ClusterStatus, Collaborator, PlanDag, Project, ValidationResult, Viewer};
use super::weights::{JUDGE, READ};
use super::{codes, guard};
use crate::cluster::Cluster;
use crate::gateway::errors::ApiError;

/// Changes in one page of `planDagDeltas` unless fewer are asked for; also the most there are.
const DELTAS_PER_PAGE_MAX: i32 = 1_000;

/// What can be read.
pub struct Query;

#[Object]
impl Query {
    /// The caller, by their newest token.
    async fn me(&self, ctx: &Context<'_>) -> Result<Viewer, ApiError> {
        Ok(Viewer::from(&*guard::identity(ctx)?))
    }

    /// The projects that the caller is a member of, in the order of their ids.
    #[graphql(complexity = "READ + child_complexity")]
    async fn projects(&self, ctx: &Context<'_>) -> Result<Vec<Project>, ApiError> {
        let user = guard::identity(ctx)?.user_id.clone();
        let listed = guard::projects(ctx)?.projects_of(&user).await?;
        Ok(listed.into_iter().map(Project::listed).collect())
    }

    /// A project that the caller is a member of, else `NOT_FOUND`.
    #[graphql(complexity = "READ + child_complexity")]
    async fn project(&self, ctx: &Context<'_>, #[graphql(desc = "The project.")] id: i32) -> Nullable<Project> {
        nullable(async { Ok(Project::entered(guard::project(ctx, id, Role::Viewer).await?)) }).await
    }

    /// A whole plan as it is now: not older than any change whose reply anyone has.
    #[graphql(complexity = "READ + child_complexity")]
    async fn get_plan_dag(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
    ) -> Nullable<PlanDag> {
        nullable(async {
            let (access, plan) = guard::plan(ctx, project_id, plan_id, Role::Viewer).await?;
            Ok(PlanDag(access.project.read(plan).await?))
        })
        .await
    }

    /// The changes after a revision, for a client that catches up by itself. `UNRECOVERABLE_REVISION` when the log no
    /// longer reaches back to it, or never had it: read the plan then. `planDagDeltaChanged(after:)` does all that itself.
    #[graphql(complexity = "READ + child_complexity")]
    async fn plan_dag_deltas(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The last revision the client has.")] after: String,
        #[graphql(
            desc = "Changes in the page, at least 1; more than 1,000 are not given at once.",
            default_with = "Some(DELTAS_PER_PAGE_MAX)"
        )]
        limit: Option<i32>,
    ) -> Result<PlanDagDeltaPage, ApiError> {
        let (access, plan) = guard::plan(ctx, project_id, plan_id, Role::Viewer).await?;
        let after: Revision = after.parse()?;
        let limit = limit.unwrap_or(DELTAS_PER_PAGE_MAX).min(DELTAS_PER_PAGE_MAX);
        let Some(limit) = usize::try_from(limit).ok().filter(|limit| *limit > 0) else {
            return Err(codes::invalid("limit is at least 1"));
        };
        let page = access.project.deltas(plan, after, limit).await?;
        let project = access.project.id();
        let event = |applied| PlanDagDeltaEvent::of_change(project, plan, applied);
        Ok(PlanDagDeltaPage {
            events: page.changes.into_iter().map(event).collect(),
            end_revision: page.end_revision.to_string(),
            has_more: page.has_more,
        })
    }

    /// What is wrong with a document, all of it, without saving anything.
    #[graphql(complexity = "JUDGE + child_complexity")]
    async fn validate_plan_dag(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The document.")] plan_dag: PlanDagInput,
    ) -> Result<ValidationResult, ApiError> {
        guard::session(ctx)?;
        let bounds = guard::projects(ctx)?.plan_bounds();
        Ok(check_document(&NewDocument::from(plan_dag), &bounds).into())
    }

    /// The members of a project, in the order of their user ids.
    #[graphql(complexity = "READ + child_complexity")]
    async fn project_collaborators(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
    ) -> Result<Vec<Collaborator>, ApiError> {
        let access = guard::project(ctx, project_id, Role::Viewer).await?;
        // Someone may have been let in on another node a moment ago.
        access.project.refresh().await?;
        let members = access.project.members();
        // Or put out: then what follows is none of their business.
        members.role_of(&access.user_id).ok_or_else(codes::no_such_project)?;
        Ok(members.members.values().map(Collaborator::from).collect())
    }

    /// Everyone present in a project, whichever nodes they are on, in the order of their user ids.
    #[graphql(complexity = "READ + child_complexity")]
    async fn project_presence(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
    ) -> Result<Vec<UserPresence>, ApiError> {
        presence::users(&guard::project(ctx, project_id, Role::Viewer).await?).await
    }

    /// How many are present in a project, in all and per node.
    #[graphql(complexity = "READ + child_complexity")]
    async fn project_health(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
    ) -> Result<ProjectHealthReport, ApiError> {
        presence::health(&guard::project(ctx, project_id, Role::Viewer).await?).await
    }

    /// The nodes of the cluster and the store they share; while the store does not answer, the nodes as they were seen last. Needs
    /// the scope `admin`, else `FORBIDDEN`.
    #[graphql(complexity = "READ + child_complexity")]
    async fn cluster(&self, ctx: &Context<'_>) -> Result<ClusterStatus, ApiError> {
        guard::admin(ctx)?;
        let missing = || ApiError::new(ErrorCode::InternalError, "the schema was built without a cluster");
        let cluster = ctx.data_opt::<Cluster>().ok_or_else(missing)?;
        let view = cluster.view().await;
        Ok(view.into())
    }
}
