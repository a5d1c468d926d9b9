//! The matrix: what each field asks of its caller, and what each caller has.

use anyhow::Result;
use mille_tests::{Client, Project, documents as d, edge_input, node_input};
use serde_json::{Value, json};

/// What an operation asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A good token.
    Login,
    /// The scope `admin`.
    Admin,
    /// Any role in the project.
    Viewer,
    /// Editor or owner, or any role with the scope `executor`.
    Reporter,
    /// Editor or owner.
    Editor,
    /// Owner.
    Owner,
}

/// One field with which an operation begins. The variables are made for a project as [`furnished`] leaves it.
pub(crate) struct Door {
    pub(crate) field: &'static str,
    pub(crate) document: &'static str,
    pub(crate) needs: Needs,
    pub(crate) variables: Value,
}

/// Somebody with a good token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user: &'static str,
    /// In the project that is asked for.
    pub(crate) role: Option<&'static str>,
    pub(crate) scope: &'static str,
}

pub(crate) const CALLERS: [Caller; 9] = [
    Caller { user: "otto", role: None, scope: "" },
    Caller { user: "otis", role: None, scope: "admin executor" },
    Caller { user: "vera", role: Some("VIEWER"), scope: "" },
    Caller { user: "vito", role: Some("VIEWER"), scope: "executor" },
    Caller { user: "vada", role: Some("VIEWER"), scope: "admin" },
    Caller { user: "edda", role: Some("EDITOR"), scope: "" },
    Caller { user: "egon", role: Some("EDITOR"), scope: "admin executor" },
    Caller { user: "olga", role: Some("OWNER"), scope: "" },
    Caller { user: "oleg", role: Some("OWNER"), scope: "admin executor" },
];

impl Needs {
    /// The code with which such a caller is refused. `None`: let in.
    pub(crate) fn refuse(self, caller: &Caller) -> Option<&'static str> {
        let has_scope = |scope: &str| caller.scope.split(' ').any(|one| one == scope);
        let is_one_of = |roles: &[&str]| caller.role.is_some_and(|role| roles.contains(&role));
        let is_in = match self {
            Self::Login => return None,
            Self::Admin => return (!has_scope("admin")).then_some("FORBIDDEN"),
            Self::Viewer => caller.role.is_some(),
            Self::Reporter => is_one_of(&["EDITOR", "OWNER"]) || caller.role.is_some() && has_scope("executor"),
            Self::Editor => is_one_of(&["EDITOR", "OWNER"]),
            Self::Owner => is_one_of(&["OWNER"]),
        };
        // Who is no member is never told that there is something to be a member of.
        (!is_in).then_some(if caller.role.is_some() { "FORBIDDEN" } else { "NOT_FOUND" })
    }

    /// Whether it is about a project.
    pub(crate) fn is_of_a_project(self) -> bool {
        !matches!(self, Self::Login | Self::Admin)
    }
}

/// A project with four plan nodes and an edge, for the variables of [`operations`].
pub(crate) async fn furnished(owner: &Client) -> Result<Project> {
    let project = owner.create_project("harbour").await?;
    for id in ["a", "b", "c", "doomed"] {
        owner.add_node_as(&project, id, "TransformNode").await?;
    }
    let edge = json!({"p": project.id, "edge": edge_input(Some("ab"), "a", "b")});
    owner.run(d::ADD_EDGE, edge).await?;
    Ok(project)
}

/// Every query and mutation, in an order in which each finds what it needs.
#[rustfmt::skip]
pub(crate) fn operations(project: &Project, after: &Value) -> Vec<Door> {
    let p = project.id;
    let dag = json!({"version": "1", "nodes": [], "edges": [], "metadata": {"name": "empty"}});
    let moved = json!([{"nodeId": "a", "position": {"x": 5.0, "y": 6.0}}]);
    let door = |field, document, needs, variables| Door { field, document, needs, variables };
    vec![
        door("Query.me", d::ME, Needs::Login, json!({})),
        door("Query.projects", d::PROJECTS, Needs::Login, json!({})),
        door("Query.validatePlanDag", d::VALIDATE, Needs::Login, json!({"dag": dag})),
        door("Query.cluster", d::CLUSTER, Needs::Admin, json!({})),
        door("Mutation.revokeTokens", d::REVOKE_TOKENS, Needs::Admin, json!({"token": "a token that nobody has"})),
        door("Mutation.createProject", d::CREATE_PROJECT, Needs::Login, json!({"name": "another"})),
        door("Mutation.refreshAuth", d::REFRESH_AUTH, Needs::Login, json!({"token": "filled in by who runs it"})),
        door("Query.project", d::PROJECT, Needs::Viewer, json!({"p": p})),
        door("Query.getPlanDag", d::GET_PLAN, Needs::Viewer, json!({"p": p})),
        door("Query.planDagDeltas", d::DELTAS, Needs::Viewer, json!({"p": p, "after": after})),
        door("Query.projectCollaborators", d::COLLABORATORS, Needs::Viewer, json!({"p": p})),
        door("Query.projectPresence", d::PRESENCE, Needs::Viewer, json!({"p": p})),
        door("Query.projectHealth", d::HEALTH, Needs::Viewer, json!({"p": p})),
        door("Mutation.joinProjectCollaboration", d::JOIN, Needs::Viewer, json!({"p": p})),
        door("Mutation.leaveProjectCollaboration", d::LEAVE, Needs::Viewer, json!({"p": p})),
        door("Mutation.addPlanDagNode", d::ADD_NODE, Needs::Editor, json!({"p": p, "node": node_input(None, "GraphNode", "new")})),
        door("Mutation.updatePlanDagNode", d::UPDATE_NODE, Needs::Editor, json!({"p": p, "id": "a", "updates": {"config": "{\"n\":1}"}})),
        door("Mutation.movePlanDagNode", d::MOVE_NODE, Needs::Editor, json!({"p": p, "id": "b", "to": {"x": 1.0, "y": 2.0}})),
        door("Mutation.batchMovePlanDagNodes", d::BATCH_MOVE, Needs::Editor, json!({"p": p, "moves": moved})),
        door("Mutation.deletePlanDagNode", d::DELETE_NODE, Needs::Editor, json!({"p": p, "id": "doomed"})),
        door("Mutation.addPlanDagEdge", d::ADD_EDGE, Needs::Editor, json!({"p": p, "edge": edge_input(None, "b", "c")})),
        door("Mutation.updatePlanDagEdge", d::UPDATE_EDGE, Needs::Editor, json!({"p": p, "id": "ab", "updates": {"metadata": {"label": "x"}}})),
        door("Mutation.deletePlanDagEdge", d::DELETE_EDGE, Needs::Editor, json!({"p": p, "id": "ab"})),
        door("Mutation.updatePlanDagMetadata", d::UPDATE_METADATA, Needs::Editor, json!({"p": p, "name": "renamed"})),
        door("Mutation.applyPlanDagChanges", d::APPLY, Needs::Editor, json!({"p": p, "changes": [{"deleteNode": {"nodeId": "c"}}]})),
        door("Mutation.reportNodeExecution", d::REPORT, Needs::Reporter, json!({"p": p, "id": "a", "run": "r1", "state": "pending"})),
        door("Mutation.updatePlanDag", d::REPLACE_PLAN, Needs::Editor, json!({"p": p, "dag": dag})),
        door("Mutation.createPlan", d::CREATE_PLAN, Needs::Editor, json!({"p": p, "name": "second"})),
        door("Mutation.setCollaborator", d::SET_COLLABORATOR, Needs::Owner, json!({"p": p, "user": "guest", "role": "VIEWER"})),
        door("Mutation.removeCollaborator", d::REMOVE_COLLABORATOR, Needs::Owner, json!({"p": p, "user": "guest"})),
        door("Mutation.deleteProject", d::DELETE_PROJECT, Needs::Owner, json!({"p": p})),
    ]
}

/// Every subscription.
pub(crate) fn streams(project: &Project, after: &Value) -> Vec<Door> {
    let (p, id) = (project.id, project.plan.to_string());
    let door = |field, document, variables| Door { field, document, needs: Needs::Viewer, variables };
    vec![
        door("Subscription.planDagDeltaChanged", d::FOLLOW, json!({"p": p, "after": after})),
        door("Subscription.planDagUpdated", d::UPDATED, json!({"plan": id, "after": after})),
        door("Subscription.nodeExecutionStatusChanged", d::STATUS, json!({"p": p, "after": after})),
        door("Subscription.collaborationEvents", d::COLLABORATION, json!({"plan": id})),
    ]
}

/// Both, the streams first: they need the project that the last operation deletes.
pub(crate) fn doors(project: &Project, after: &Value) -> Vec<Door> {
    streams(project, after).into_iter().chain(operations(project, after)).collect()
}
