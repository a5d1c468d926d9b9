//! The mutations that edit a plan.
//!
//! Each takes, beside its own arguments, `planId` (the project's first plan if left out), `operationId` (at most 64
//! bytes, the client's own: a repeat within the retention returns the first result and changes nothing) and
//! `expectedRevision` (`CONFLICT` if what the edit touches changed after it; without it the last writer wins). The
//! answer comes when the change is in the log.

use async_graphql::{Context, MaybeUndefined, Name, Object, SimpleObject, Value};
use async_graphql_value::Value as Written;
use mille_shared::operation::Edit;
use mille_shared::{EdgeId, PlanNodeId};

use super::inputs::{
    self, NodePositionInput, PlanDagChangeInput, PlanDagEdgeInput, PlanDagEdgeUpdateInput, PlanDagInput,
    PlanDagNodeInput, PlanDagNodeUpdateInput, PositionInput, UpdateMetadataChangeInput,
};
use super::nullable::{Nullable, nullable};
use super::operation::{self, EditArguments, Editing};
use super::types::{PlanDag, PlanDagEdge, PlanDagNode};
use super::weights::WRITE;
use crate::gateway::errors::ApiError;
use crate::project::Accepted;

/// Edits of a plan.
#[derive(Default)]
pub(super) struct EditMutations;

#[Object]
#[expect(clippy::too_many_arguments, reason = "they are the arguments of the contract")]
impl EditMutations {
    /// Adds a plan node. `LIMIT_EXCEEDED` when the plan is full.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn add_plan_dag_node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan node to be.")] node: PlanDagNodeInput,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagNode> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let accepted = edit(ctx, arguments, Edit::AddNode(node.into())).await?;
            Ok(PlanDagNode(operation::added_node(&accepted)?))
        })
        .await
    }

    /// Changes fields of a plan node; what is left out stays. `NOT_FOUND` if it does not exist (any more).
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn update_plan_dag_node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan node.")] node_id: String,
        #[graphql(desc = "The new values.")] updates: PlanDagNodeUpdateInput,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagNode> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let id = PlanNodeId::new(node_id.as_str());
            let accepted = edit(ctx, arguments, inputs::update_node(node_id, updates)).await?;
            Ok(PlanDagNode(operation::updated_node(&accepted, &id)?))
        })
        .await
    }

    /// Moves a plan node. `NOT_FOUND` if it does not exist (any more).
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn move_plan_dag_node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan node.")] node_id: String,
        #[graphql(desc = "Where to.")] position: PositionInput,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagNode> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let id = PlanNodeId::new(node_id.as_str());
            let accepted = edit(ctx, arguments, inputs::move_node(node_id, position)).await?;
            Ok(PlanDagNode(operation::updated_node(&accepted, &id)?))
        })
        .await
    }

    /// Moves plan nodes, all or none, in one delta. At most 1,000. Returns them in the order of the argument.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn batch_move_plan_dag_nodes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan nodes and where to.")] node_positions: Vec<NodePositionInput>,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Result<Vec<PlanDagNode>, ApiError> {
        let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
        let edits: Vec<Edit> = node_positions.into_iter().map(Edit::from).collect();
        let moved = |edit: &Edit| match edit {
            Edit::UpdateNode { id, .. } => Some(id.clone()),
            _ => None,
        };
        let ids: Vec<PlanNodeId> = edits.iter().filter_map(moved).collect();
        // Those that the batch did not change are answered too.
        let accepted = Editing::begin(ctx, arguments).await?.submit_for_plan(edits).await?;
        Ok(ids.iter().filter_map(|id| operation::node_after(&accepted, id)).map(PlanDagNode).collect())
    }

    /// Deletes a plan node and its edges, in one delta. Returns what was deleted.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn delete_plan_dag_node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan node.")] node_id: String,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagNode> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let accepted = edit(ctx, arguments, Edit::DeleteNode { id: PlanNodeId::new(node_id) }).await?;
            Ok(PlanDagNode(operation::removed_node(&accepted)?))
        })
        .await
    }

    /// Adds an edge. `VALIDATION_FAILED` if an end is missing, it would close a cycle, or its ends do not take it.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn add_plan_dag_edge(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The edge to be.")] edge: PlanDagEdgeInput,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagEdge> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let accepted = self::edit(ctx, arguments, Edit::AddEdge(edge.into())).await?;
            Ok(PlanDagEdge(operation::added_edge(&accepted)?))
        })
        .await
    }

    /// Changes an edge's label and data type. `NOT_FOUND` if it does not exist (any more).
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn update_plan_dag_edge(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The edge.")] edge_id: String,
        #[graphql(desc = "The new values.")] updates: PlanDagEdgeUpdateInput,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagEdge> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let id = EdgeId::new(edge_id.as_str());
            let accepted = edit(ctx, arguments, inputs::update_edge(edge_id, updates)).await?;
            Ok(PlanDagEdge(operation::updated_edge(&accepted, &id)?))
        })
        .await
    }

    /// Deletes an edge. Returns what was deleted.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn delete_plan_dag_edge(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The edge.")] edge_id: String,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDagEdge> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let accepted = edit(ctx, arguments, Edit::DeleteEdge { id: EdgeId::new(edge_id) }).await?;
            Ok(PlanDagEdge(operation::removed_edge(&accepted)?))
        })
        .await
    }

    /// Changes what the plan says of itself. What is left out stays; null takes it away.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn update_plan_dag_metadata(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan's name.")] name: MaybeUndefined<String>,
        #[graphql(desc = "What it is for.")] description: MaybeUndefined<String>,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDag> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let mut change = UpdateMetadataChangeInput { name, description };
            change.keep(|field| is_given(ctx, argument(ctx, field)));
            let edits = vec![PlanDagChangeInput::UpdateMetadata(change).into()];
            Ok(PlanDag(Editing::begin(ctx, arguments).await?.submit_for_plan(edits).await?.plan))
        })
        .await
    }

    /// Puts another document in the plan's place, in one delta. Elements that keep their id keep their age and
    /// execution.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn update_plan_dag(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The document to be.")] plan_dag: PlanDagInput,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Nullable<PlanDag> {
        nullable(async {
            let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
            let edits = vec![Edit::Replace(plan_dag.into())];
            Ok(PlanDag(Editing::begin(ctx, arguments).await?.submit_for_plan(edits).await?.plan))
        })
        .await
    }

    /// Makes several edits, all or none, in one delta. At most 1,000, else `LIMIT_EXCEEDED`.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn apply_plan_dag_changes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "What to do, in order.")] mut changes: Vec<PlanDagChangeInput>,
        #[graphql(desc = "Makes a repeat recognisable.")] operation_id: Option<String>,
        #[graphql(desc = "The revision this edit was made on.")] expected_revision: Option<String>,
    ) -> Result<PlanDagChangeResult, ApiError> {
        let arguments = EditArguments { project_id, plan_id, operation_id, expected_revision };
        leave_out_unset(ctx, &mut changes);
        let edits = changes.into_iter().map(Edit::from).collect();
        let accepted = Editing::begin(ctx, arguments).await?.submit_for_plan(edits).await?;
        Ok(PlanDagChangeResult { revision: accepted.revision.to_string(), plan_dag: PlanDag(accepted.plan) })
    }
}

/// What several edits came to.
#[derive(SimpleObject)]
struct PlanDagChangeResult {
    /// Where their change stands in the log; the plan's revision if they changed nothing.
    revision: String,
    /// The plan with them, and perhaps with what came right after.
    plan_dag: PlanDag,
}

async fn edit(ctx: &Context<'_>, arguments: EditArguments, edit: Edit) -> Result<Accepted, ApiError> {
    Editing::begin(ctx, arguments).await?.submit(vec![edit]).await
}

/// An argument as the request has it.
fn argument<'a>(ctx: &'a Context<'_>, name: &str) -> Option<&'a Written> {
    ctx.item.node.get_argument(name).map(|value| &value.node)
}

/// Takes out of changes that stand in the request itself what [`is_given`] says was not given.
fn leave_out_unset(ctx: &Context<'_>, changes: &mut [PlanDagChangeInput]) {
    let written = match argument(ctx, "changes") {
        Some(Written::List(written)) => written.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => return,
    };
    for (change, written) in changes.iter_mut().zip(written) {
        if let (PlanDagChangeInput::UpdateMetadata(change), Written::Object(written)) = (change, written)
            && let Some(Written::Object(written)) = written.get("updateMetadata")
        {
            change.keep(|field| is_given(ctx, written.get(field)));
        }
    }
}

/// Whether a value was given at all. A variable that the client did not set counts as left out, as GraphQL has it; the
/// library would make it null.
fn is_given(ctx: &Context<'_>, value: Option<&Written>) -> bool {
    let Some(value) = value else { return false };
    let definitions = &ctx.query_env.operation.node.variable_definitions;
    let is_set = |variable: Name| {
        let mut defaults = definitions.iter().filter(|one| one.node.default_value.is_some());
        let set = ctx.query_env.variables.contains_key(&variable) || defaults.any(|one| one.node.name.node == variable);
        if set { Ok(Value::Null) } else { Err(()) }
    };
    value.clone().into_const_with(is_set).is_ok()
}

#[cfg(test)]
mod tests {
    use async_graphql::{EmptyMutation, EmptySubscription, Request, Schema, Variables};
    use serde_json::json;

    use super::*;

    struct Query;

    #[Object]
    impl Query {
        async fn given(&self, ctx: &Context<'_>, text: MaybeUndefined<String>) -> bool {
            let _ = text;
            is_given(ctx, argument(ctx, "text"))
        }
    }

    #[tokio::test]
    async fn a_variable_that_was_not_set_is_an_argument_left_out() {
        let schema = Schema::new(Query, EmptyMutation, EmptySubscription);
        for (query, variables, expected) in [
            ("{ given }", json!({}), false),
            ("{ given(text: null) }", json!({}), true),
            ("{ given(text: \"x\") }", json!({}), true),
            ("query ($x: String) { given(text: $x) }", json!({}), false),
            ("query ($x: String) { given(text: $x) }", json!({"x": null}), true),
            ("query ($x: String) { given(text: $x) }", json!({"x": "y"}), true),
            ("query ($x: String = \"y\") { given(text: $x) }", json!({}), true),
        ] {
            let request = Request::new(query).variables(Variables::from_json(variables.clone()));
            let response = schema.execute(request).await;
            let data = response.data.into_json().expect("data is JSON");
            assert_eq!(data, json!({"given": expected}), "{query} with {variables}: {:?}", response.errors);
        }
    }
}
