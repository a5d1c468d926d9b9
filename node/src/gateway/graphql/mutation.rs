//! The mutations: those of projects and members here, the others beside what they change.

use async_graphql::{Context, MergedObject, Object};
use mille_shared::UserId;
use mille_shared::directory::Role;
use mille_shared::{ErrorCode, LimitName, limits};

use super::edits::EditMutations;
use super::execution::ExecutionMutations;
use super::presence::PresenceMutations;
use super::tokens::TokenMutations;
use super::types::{Collaborator, Plan, Project, ProjectRole, Viewer};
use super::weights::WRITE;
use super::{codes, guard};
use crate::gateway::errors::ApiError;

/// Bytes of a project's or plan's name. More: `VALIDATION_FAILED`.
const NAME_BYTES_MAX: usize = 200;

/// What can be changed.
#[derive(MergedObject, Default)]
pub struct Mutation(ProjectMutations, EditMutations, ExecutionMutations, PresenceMutations, TokenMutations);

/// Changes of projects, of their members, and of the caller's own session.
#[derive(Default)]
struct ProjectMutations;

#[Object]
impl ProjectMutations {
    /// Makes a project with a first plan of the same name. The caller is its owner.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn create_project(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "1 to 200 bytes.")] name: String,
        #[graphql(desc = "What it is for. At most 50 kB.")] description: Option<String>,
    ) -> Result<Project, ApiError> {
        let owner = guard::identity(ctx)?.user_id.clone();
        check_name(&name)?;
        check_description(description.as_deref())?;
        let access = guard::projects(ctx)?.create_project(&name, description.as_deref(), &owner).await?;
        Ok(Project::entered(access))
    }

    /// Makes a further plan in a project. For editors.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn create_plan(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "1 to 200 bytes.")] name: String,
    ) -> Result<Plan, ApiError> {
        let access = guard::project(ctx, project_id, Role::Editor).await?;
        check_name(&name)?;
        let entry = guard::projects(ctx)?.create_plan(&access, &name).await?;
        Ok(Plan::new(entry, access))
    }

    /// Deletes a project with all its plans. For owners. Ends all its subscriptions and presence.
    #[graphql(complexity = "WRITE")]
    async fn delete_project(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
    ) -> Result<bool, ApiError> {
        let access = guard::project(ctx, project_id, Role::Owner).await?;
        guard::projects(ctx)?.delete_project(&access).await?;
        Ok(true)
    }

    /// Makes a user a member, or gives a member another role. For owners. The last owner can't be demoted:
    /// `VALIDATION_FAILED`.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn set_collaborator(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The user: the `sub` of their tokens.")] user_id: String,
        #[graphql(desc = "What they may do.")] role: ProjectRole,
    ) -> Result<Collaborator, ApiError> {
        let access = guard::project(ctx, project_id, Role::Owner).await?;
        let user = UserId::parse(&user_id)?;
        let member = guard::projects(ctx)?.set_member(&access, &user, role.into()).await?;
        Ok(Collaborator::from(&member))
    }

    /// Takes a member out; ends their subscriptions and presence within a second. For owners, and for who leaves of their
    /// own accord. The last owner stays: `VALIDATION_FAILED`.
    #[graphql(complexity = "WRITE")]
    async fn remove_collaborator(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The member.")] user_id: String,
    ) -> Result<bool, ApiError> {
        let leaves = guard::identity(ctx)?.user_id.as_str() == user_id;
        let needed = if leaves { Role::Viewer } else { Role::Owner };
        let access = guard::project(ctx, project_id, needed).await?;
        guard::projects(ctx)?.remove_member(&access, &UserId::parse(&user_id)?).await?;
        Ok(true)
    }

    /// Takes a fresh token of the same user for this socket, before the old one expires. `UNAUTHENTICATED` if it is not
    /// good; the old one stays in force then.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn refresh_auth(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The token, without \"Bearer\".", secret)] token: String,
    ) -> Result<Viewer, ApiError> {
        Ok(Viewer::from(&*guard::session(ctx)?.refresh(&token).await?))
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    if name.trim().is_empty() {
        return Err(codes::invalid("a name must not be empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(ApiError::met(ErrorCode::PayloadTooLarge, LimitName::NameBytes, NAME_BYTES_MAX));
    }
    Ok(())
}

fn check_description(description: Option<&str>) -> Result<(), ApiError> {
    let max = limits::METADATA_BYTES_MAX;
    if description.is_some_and(|text| text.len() > max) {
        return Err(ApiError::met(ErrorCode::PayloadTooLarge, LimitName::MetadataBytes, max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_something_and_not_too_much() {
        assert!(check_name("x").is_ok() && check_name(&"x".repeat(200)).is_ok());
        for bad in ["", "  \t"] {
            assert!(check_name(bad).is_err_and(|refusal| refusal.code == ErrorCode::ValidationFailed), "{bad:?}");
        }
        assert!(check_name(&"x".repeat(201)).is_err_and(|refusal| refusal.code == ErrorCode::PayloadTooLarge));
    }
}
