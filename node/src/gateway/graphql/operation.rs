//! From a mutation's arguments to a change in the log, and from there to the mutation's result.
//!
//! All plan edits go this way: the caller is let in, the operation gets its id, the project brings it into the log. The
//! result is what the change left behind, taken from the change itself: another edit may already have followed, and a
//! repeated operation is answered with what its first try did.

use std::sync::Arc;

use async_graphql::Context;
use mille_core::{EdgeRecord, NodeRecord, Touch};
use mille_shared::directory::Role;
use mille_shared::operation::{Edit, Operation};
use mille_shared::{ClientId, EdgeId, OperationId, PlanId, PlanNodeId, Revision};

use super::{codes, guard};
use crate::clock;
use crate::gateway::errors::ApiError;
use crate::project::{Accepted, Access};

/// The arguments that every plan edit has.
pub(super) struct EditArguments {
    pub(super) project_id: i32,
    pub(super) plan_id: Option<i32>,
    pub(super) operation_id: Option<String>,
    pub(super) expected_revision: Option<String>,
}

/// An edit that may be made: who, where, under which id.
pub(super) struct Editing {
    access: Access,
    plan: PlanId,
    client_id: ClientId,
    operation_id: OperationId,
    /// Whether the id is the client's own, so that the operation may be a repeat.
    repeatable: bool,
    expected_revision: Option<Revision>,
}

impl Editing {
    /// Lets an editor in and reads the arguments.
    ///
    /// # Errors
    /// Those of [`guard::plan`]; `VALIDATION_FAILED` for an operation id or revision that can't be one.
    pub(super) async fn begin(ctx: &Context<'_>, arguments: EditArguments) -> Result<Self, ApiError> {
        let EditArguments { project_id, plan_id, operation_id, expected_revision } = arguments;
        let (access, plan) = guard::plan(ctx, project_id, plan_id, Role::Editor).await?;
        let mut editing = Self::unnamed(ctx, access, plan)?;
        editing.expected_revision = expected_revision.as_deref().map(str::parse).transpose()?;
        if let Some(id) = operation_id {
            editing.operation_id = OperationId::parse(&id)?;
            editing.repeatable = true;
        }
        Ok(editing)
    }

    /// An edit that is no repeat of another and expects nothing.
    pub(super) fn unnamed(ctx: &Context<'_>, access: Access, plan: PlanId) -> Result<Self, ApiError> {
        Ok(Self {
            access,
            plan,
            client_id: guard::session(ctx)?.client_id().clone(),
            operation_id: OperationId::new(uuid::Uuid::new_v4().to_string()),
            repeatable: false,
            expected_revision: None,
        })
    }

    /// Brings the edits into the log, all or none, and waits until they are there. The plan that is answered has them and perhaps
    /// more; of a repeat that changed nothing, it is what its first try found.
    ///
    /// # Errors
    /// Whatever the plan refuses; `OVERLOADED`; `UNAVAILABLE` and `DRAINING`, after which it may have happened.
    pub(super) async fn submit(self, edits: Vec<Edit>) -> Result<Accepted, ApiError> {
        self.submit_and_look_back(edits, |accepted| accepted.applied.is_none()).await
    }

    /// As [`Self::submit`], where what is answered is the plan. That of a repeat is the plan as its first try left it, as long as
    /// the log reaches back so far, and then the plan as it is.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub(super) async fn submit_for_plan(self, edits: Vec<Edit>) -> Result<Accepted, ApiError> {
        self.submit_and_look_back(edits, |_| true).await
    }

    /// Submits, and reads the plan as it was for a repeat that needs it.
    async fn submit_and_look_back(
        self,
        edits: Vec<Edit>,
        needs_plan: impl FnOnce(&Accepted) -> bool,
    ) -> Result<Accepted, ApiError> {
        let (project, plan) = (self.access.project, self.plan);
        let operation = Operation {
            id: self.operation_id,
            user_id: self.access.user_id,
            client_id: self.client_id,
            at: clock::now(),
            expected_revision: self.expected_revision,
            edits,
        };
        let mut accepted = project.submit(plan, operation, self.repeatable).await?;
        if accepted.is_repeat
            && accepted.plan.revision() != accepted.revision
            && needs_plan(&accepted)
            && let Some(first) = project.read_at(plan, accepted.revision).await?
        {
            accepted.plan = first;
        }
        Ok(accepted)
    }
}

/// The plan node that the edit added. Found by what was done, not by id: a repeat brings another made id.
pub(super) fn added_node(accepted: &Accepted) -> Result<Arc<NodeRecord>, ApiError> {
    touched(accepted, |touch| match touch {
        Touch::NodeAdded(record) => Some(record),
        _ => None,
    })
}

/// The plan node as the edit left it.
pub(super) fn updated_node(accepted: &Accepted, id: &PlanNodeId) -> Result<Arc<NodeRecord>, ApiError> {
    if accepted.applied.is_none() {
        return accepted.plan.node(id).cloned().ok_or_else(another_operation);
    }
    touched(accepted, |touch| match touch {
        Touch::NodeUpdated(record) => Some(record),
        _ => None,
    })
}

/// A plan node as a batch left it, or as it is if the batch did not change it.
pub(super) fn node_after(accepted: &Accepted, id: &PlanNodeId) -> Option<Arc<NodeRecord>> {
    let touches = accepted.applied.iter().flat_map(|applied| applied.touches.iter().rev());
    let mut touched = touches.filter_map(|touch| match touch {
        Touch::NodeUpdated(record) if record.node.id == *id => Some(record),
        _ => None,
    });
    touched.next().or_else(|| accepted.plan.node(id)).cloned()
}

/// The plan node that the edit deleted, as it was.
pub(super) fn removed_node(accepted: &Accepted) -> Result<Arc<NodeRecord>, ApiError> {
    touched(accepted, |touch| match touch {
        Touch::NodeRemoved(record) => Some(record),
        _ => None,
    })
}

/// The edge that the edit added.
pub(super) fn added_edge(accepted: &Accepted) -> Result<Arc<EdgeRecord>, ApiError> {
    touched(accepted, |touch| match touch {
        Touch::EdgeAdded(record) => Some(record),
        _ => None,
    })
}

/// The edge as the edit left it.
pub(super) fn updated_edge(accepted: &Accepted, id: &EdgeId) -> Result<Arc<EdgeRecord>, ApiError> {
    if accepted.applied.is_none() {
        return accepted.plan.edge(id).cloned().ok_or_else(another_operation);
    }
    touched(accepted, |touch| match touch {
        Touch::EdgeUpdated(record) => Some(record),
        _ => None,
    })
}

/// The edge that the edit deleted, as it was.
pub(super) fn removed_edge(accepted: &Accepted) -> Result<Arc<EdgeRecord>, ApiError> {
    touched(accepted, |touch| match touch {
        Touch::EdgeRemoved(record) => Some(record),
        _ => None,
    })
}

fn touched<T>(accepted: &Accepted, of_kind: impl Fn(&Touch) -> Option<&Arc<T>>) -> Result<Arc<T>, ApiError> {
    let mut touches = accepted.applied.iter().flat_map(|applied| &applied.touches);
    touches.find_map(of_kind).cloned().ok_or_else(another_operation)
}

/// The accepted change did not do what was asked, so it is the first result of an operation of the same id that asked
/// for something else.
fn another_operation() -> ApiError {
    codes::invalid("this operationId was used before, for another kind of edit")
}
