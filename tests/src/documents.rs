//! The GraphQL documents of the tests, and the words of the contract they are checked against.
//!
//! A document asks for everything the type has, so a field that goes missing is noticed. Documents are named
//! after their field. Every plan edit takes `$p` (project), `$plan`, `$op` (operation id) and `$rev`
//! (expected revision), all but the first optional.

/// Every value of `extensions.code`.
pub const CODES: [&str; 13] = [
    "UNAUTHENTICATED",
    "FORBIDDEN",
    "NOT_FOUND",
    "VALIDATION_FAILED",
    "CONFLICT",
    "UNRECOVERABLE_REVISION",
    "RATE_LIMITED",
    "LIMIT_EXCEEDED",
    "PAYLOAD_TOO_LARGE",
    "OVERLOADED",
    "DRAINING",
    "UNAVAILABLE",
    "INTERNAL_ERROR",
];

/// Every kind of plan node.
pub const NODE_TYPES: [&str; 7] =
    ["DataSourceNode", "GraphNode", "TransformNode", "FilterNode", "MergeNode", "CopyNode", "OutputNode"];

/// Makes a document at compile time out of the shared selections.
macro_rules! document {
    ($(#[$doc:meta])* $name:ident = $($part:expr),+ $(,)?) => {
        $(#[$doc])*
        pub const $name: &str = concat!($($part),+);
    };
}
macro_rules! node_fields {
    () => {
        "{ id nodeType position { x y } sourcePosition targetPosition \
    metadata { label description } config createdAt updatedAt revision \
    datasourceExecution { dataSourceId filename status processedAt executionState errorMessage } \
    graphExecution { graphId nodeCount edgeCount executionState computedDate errorMessage } }"
    };
}
macro_rules! edge_fields {
    () => {
        "{ id source target metadata { label dataType } createdAt updatedAt revision }"
    };
}
macro_rules! plan_fields {
    () => {
        concat!(
            "{ version revision nodes ",
            node_fields!(),
            " edges ",
            edge_fields!(),
            " metadata { version name description created lastModified author } }"
        )
    };
}
macro_rules! delta_fields {
    () => {
        "{ projectId planId kind version revision previousRevision userId clientId \
    operationId timestamp reason operations { op path value from } }"
    };
}
macro_rules! status_fields {
    () => {
        "{ projectId planId nodeId nodeType runId state progress message timestamp revision \
    datasourceExecution { dataSourceId filename status processedAt executionState errorMessage } \
    graphExecution { graphId nodeCount edgeCount executionState computedDate errorMessage } }"
    };
}
macro_rules! project_fields {
    () => {
        "{ id name description createdAt updatedAt role plans { id projectId name revision createdAt updatedAt } }"
    };
}
macro_rules! edit_variables {
    () => {
        "$p: Int!, $plan: Int, $op: String, $rev: String"
    };
}
macro_rules! edit_arguments {
    () => {
        "projectId: $p, planId: $plan, operationId: $op, expectedRevision: $rev"
    };
}

document!(
    #[doc = "`me`"]
    ME = "query { me { id name scopes } }"
);
document!(
    #[doc = "`projects`"]
    PROJECTS = "query { projects ",
    project_fields!(),
    " }"
);
document!(
    #[doc = "`project`"]
    PROJECT = "query ($p: Int!) { project(id: $p) ",
    project_fields!(),
    " }"
);
document!(
    #[doc = "`getPlanDag`"]
    GET_PLAN = "query ($p: Int!, $plan: Int) { getPlanDag(projectId: $p, planId: $plan) ",
    plan_fields!(),
    " }"
);
document!(
    #[doc = "`planDagDeltas`"]
    DELTAS = "query ($p: Int!, $plan: Int, $after: String!, $limit: Int) { \
    planDagDeltas(projectId: $p, planId: $plan, after: $after, limit: $limit) { endRevision hasMore events ",
    delta_fields!(),
    " } }"
);
document!(
    #[doc = "`validatePlanDag`"]
    VALIDATE = "query ($dag: PlanDagInput!) { validatePlanDag(planDag: $dag) { isValid \
    errors { nodeId edgeId errorType message } warnings { nodeId edgeId errorType message } } }"
);
document!(
    #[doc = "`projectCollaborators`"]
    COLLABORATORS = "query ($p: Int!) { projectCollaborators(projectId: $p) { userId role addedAt } }"
);
document!(
    #[doc = "`projectPresence`"]
    PRESENCE = "query ($p: Int!) { projectPresence(projectId: $p) { userId userName avatarColor isOnline isAgent status lastActive connections documents } }"
);
document!(
    #[doc = "`projectHealth`"]
    HEALTH = "query ($p: Int!) { projectHealth(projectId: $p) { projectId activeUsers activeConnections activeDocuments \
    nodes { nodeId activeUsers activeConnections activeDocuments } } }"
);
document!(
    #[doc = "`cluster`"]
    CLUSTER = "query { cluster { nodes { id address version startedAt state connections subscriptions plans lagMs } redis { mode version role connected latencyMs } } }"
);

document!(
    #[doc = "`createProject`"]
    CREATE_PROJECT = "mutation ($name: String!) { createProject(name: $name) ",
    project_fields!(),
    " }"
);
document!(
    #[doc = "`createPlan`"]
    CREATE_PLAN = "mutation ($p: Int!, $name: String!) { createPlan(projectId: $p, name: $name) { id projectId name revision createdAt updatedAt } }"
);
document!(
    #[doc = "`deleteProject`"]
    DELETE_PROJECT = "mutation ($p: Int!) { deleteProject(projectId: $p) }"
);
document!(
    #[doc = "`setCollaborator`"]
    SET_COLLABORATOR = "mutation ($p: Int!, $user: String!, $role: ProjectRole!) { setCollaborator(projectId: $p, userId: $user, role: $role) { userId role addedAt } }"
);
document!(
    #[doc = "`removeCollaborator`"]
    REMOVE_COLLABORATOR = "mutation ($p: Int!, $user: String!) { removeCollaborator(projectId: $p, userId: $user) }"
);
document!(
    #[doc = "`refreshAuth`"]
    REFRESH_AUTH = "mutation ($token: String!) { refreshAuth(token: $token) { id name scopes } }"
);
document!(
    #[doc = "`revokeTokens`"]
    REVOKE_TOKENS = "mutation ($user: String, $token: String, $until: String) { revokeTokens(userId: $user, tokenId: $token, expiresAt: $until) }"
);
document!(
    #[doc = "`joinProjectCollaboration`"]
    JOIN = "mutation ($p: Int!) { joinProjectCollaboration(projectId: $p) }"
);
document!(
    #[doc = "`leaveProjectCollaboration`"]
    LEAVE = "mutation ($p: Int!) { leaveProjectCollaboration(projectId: $p) }"
);

document!(
    #[doc = "`addPlanDagNode`"]
    ADD_NODE = "mutation (",
    edit_variables!(),
    ", $node: PlanDagNodeInput!) { addPlanDagNode(",
    edit_arguments!(),
    ", node: $node) ",
    node_fields!(),
    " }"
);
document!(
    #[doc = "`updatePlanDagNode`"]
    UPDATE_NODE = "mutation (",
    edit_variables!(),
    ", $id: String!, $updates: PlanDagNodeUpdateInput!) { updatePlanDagNode(",
    edit_arguments!(),
    ", nodeId: $id, updates: $updates) ",
    node_fields!(),
    " }"
);
document!(
    #[doc = "`movePlanDagNode`"]
    MOVE_NODE = "mutation (",
    edit_variables!(),
    ", $id: String!, $to: PositionInput!) { movePlanDagNode(",
    edit_arguments!(),
    ", nodeId: $id, position: $to) ",
    node_fields!(),
    " }"
);
document!(
    #[doc = "`batchMovePlanDagNodes`"]
    BATCH_MOVE = "mutation (",
    edit_variables!(),
    ", $moves: [NodePositionInput!]!) { batchMovePlanDagNodes(",
    edit_arguments!(),
    ", nodePositions: $moves) ",
    node_fields!(),
    " }"
);
document!(
    #[doc = "`deletePlanDagNode`"]
    DELETE_NODE = "mutation (",
    edit_variables!(),
    ", $id: String!) { deletePlanDagNode(",
    edit_arguments!(),
    ", nodeId: $id) ",
    node_fields!(),
    " }"
);
document!(
    #[doc = "`addPlanDagEdge`"]
    ADD_EDGE = "mutation (",
    edit_variables!(),
    ", $edge: PlanDagEdgeInput!) { addPlanDagEdge(",
    edit_arguments!(),
    ", edge: $edge) ",
    edge_fields!(),
    " }"
);
document!(
    #[doc = "`updatePlanDagEdge`"]
    UPDATE_EDGE = "mutation (",
    edit_variables!(),
    ", $id: String!, $updates: PlanDagEdgeUpdateInput!) { updatePlanDagEdge(",
    edit_arguments!(),
    ", edgeId: $id, updates: $updates) ",
    edge_fields!(),
    " }"
);
document!(
    #[doc = "`deletePlanDagEdge`"]
    DELETE_EDGE = "mutation (",
    edit_variables!(),
    ", $id: String!) { deletePlanDagEdge(",
    edit_arguments!(),
    ", edgeId: $id) ",
    edge_fields!(),
    " }"
);
document!(
    #[doc = "`updatePlanDagMetadata`"]
    UPDATE_METADATA = "mutation (",
    edit_variables!(),
    ", $name: String, $description: String) { updatePlanDagMetadata(",
    edit_arguments!(),
    ", name: $name, description: $description) ",
    plan_fields!(),
    " }"
);
document!(
    #[doc = "`updatePlanDag`"]
    REPLACE_PLAN = "mutation (",
    edit_variables!(),
    ", $dag: PlanDagInput!) { updatePlanDag(",
    edit_arguments!(),
    ", planDag: $dag) ",
    plan_fields!(),
    " }"
);
document!(
    #[doc = "`applyPlanDagChanges`"]
    APPLY = "mutation (",
    edit_variables!(),
    ", $changes: [PlanDagChangeInput!]!) { applyPlanDagChanges(",
    edit_arguments!(),
    ", changes: $changes) { revision planDag ",
    plan_fields!(),
    " } }"
);
document!(
    #[doc = "`applyPlanDagChanges`, asking only where the change stands in the log"]
    APPLY_BRIEFLY = "mutation (",
    edit_variables!(),
    ", $changes: [PlanDagChangeInput!]!) { applyPlanDagChanges(",
    edit_arguments!(),
    ", changes: $changes) { revision } }"
);
document!(
    #[doc = "`reportNodeExecution`"]
    REPORT = "mutation ($p: Int!, $plan: Int, $id: String!, $run: String!, $state: String!, $progress: Float, $message: String, $datasource: JSON, $graph: JSON) { \
    reportNodeExecution(projectId: $p, planId: $plan, nodeId: $id, runId: $run, state: $state, progress: $progress, message: $message, datasource: $datasource, graph: $graph) ",
    status_fields!(),
    " }"
);

document!(
    #[doc = "`planDagDeltaChanged`"]
    FOLLOW = "subscription ($p: Int!, $plan: Int, $after: String, $snapshot: Boolean) { \
    planDagDeltaChanged(projectId: $p, planId: $plan, after: $after, snapshot: $snapshot) ",
    delta_fields!(),
    " }"
);
document!(
    #[doc = "`planDagDeltaChanged`, asking only for places in the log: many can listen to that"]
    FOLLOW_BRIEFLY = "subscription ($p: Int!, $plan: Int, $after: String, $snapshot: Boolean) { \
    planDagDeltaChanged(projectId: $p, planId: $plan, after: $after, snapshot: $snapshot) \
    { kind revision previousRevision operationId reason } }"
);
document!(
    #[doc = "`planDagUpdated`"]
    UPDATED = "subscription ($plan: String!, $after: String) { planDagUpdated(planId: $plan, after: $after) { planId updateType userId timestamp revision \
    data { node { id metadata { label } } edge { id source target } metadata { name description } } } }"
);
document!(
    #[doc = "`nodeExecutionStatusChanged`"]
    STATUS = "subscription ($p: Int!, $plan: Int, $after: String) { nodeExecutionStatusChanged(projectId: $p, planId: $plan, after: $after) ",
    status_fields!(),
    " }"
);
document!(
    #[doc = "`collaborationEvents`"]
    COLLABORATION = "subscription ($plan: String!) { collaborationEvents(planId: $plan) { eventId planId userId eventType timestamp \
    data { nodeEvent { node { id } } edgeEvent { edge { id } } userEvent { userId userName avatarColor } \
    cursorEvent { userId userName avatarColor positionX positionY selectedNodeId } } } }"
);
