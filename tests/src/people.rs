//! What people do in the tests, as short sentences: create, share, add, connect, look.
//!
//! Each takes one step over HTTP and brings the field's value, or the failure.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::client::{Client, Failure};
use crate::documents as d;
use crate::presence::PresenceSocket;
use crate::replica::Revision;
use crate::socket::Socket;

/// A project with its first plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// The project's id.
    pub id: i64,
    /// The id of its first plan.
    pub plan: i64,
}

impl Client {
    /// Runs a document and brings one field of its data.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn ask(&self, document: &str, field: &str, variables: Value) -> Result<Value, Failure> {
        Ok(self.run(document, variables).await?[field].take())
    }

    /// Creates a project; the caller owns it.
    ///
    /// # Errors
    /// When it is refused, or comes without a plan.
    pub async fn create_project(&self, name: &str) -> Result<Project> {
        let made = self.ask(d::CREATE_PROJECT, "createProject", json!({"name": name})).await?;
        let id = made["id"].as_i64().with_context(|| format!("a project without an id: {made}"))?;
        let plan = made["plans"][0]["id"].as_i64().with_context(|| format!("a project without a plan: {made}"))?;
        Ok(Project { id, plan })
    }

    /// Gives `user` a role: `OWNER`, `EDITOR` or `VIEWER`.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn share(&self, project: &Project, user: &str, role: &str) -> Result<Value, Failure> {
        let variables = json!({"p": project.id, "user": user, "role": role});
        self.ask(d::SET_COLLABORATOR, "setCollaborator", variables).await
    }

    /// Takes all rights from `user`.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn unshare(&self, project: &Project, user: &str) -> Result<Value, Failure> {
        let variables = json!({"p": project.id, "user": user});
        self.ask(d::REMOVE_COLLABORATOR, "removeCollaborator", variables).await
    }

    /// Revokes what tokens `user` has. The caller needs the scope `admin`.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn revoke_user(&self, user: &str) -> Result<Value, Failure> {
        self.ask(d::REVOKE_TOKENS, "revokeTokens", json!({"user": user})).await
    }

    /// Revokes one token by its id. The caller needs the scope `admin`.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn revoke_token(&self, id: &str) -> Result<Value, Failure> {
        self.ask(d::REVOKE_TOKENS, "revokeTokens", json!({"token": id})).await
    }

    /// The plan as `getPlanDag` gives it.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn plan(&self, project: &Project) -> Result<Value, Failure> {
        self.ask(d::GET_PLAN, "getPlanDag", json!({"p": project.id, "plan": project.plan})).await
    }

    /// The revision of the plan.
    ///
    /// # Errors
    /// When the plan is refused, or its revision is malformed.
    pub async fn revision(&self, project: &Project) -> Result<Revision> {
        Revision::of(&self.plan(project).await?["revision"])
    }

    /// Makes a plan node and brings it.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn add_node(&self, project: &Project, kind: &str, label: &str) -> Result<Value, Failure> {
        let variables = json!({"p": project.id, "plan": project.plan, "node": node_input(None, kind, label)});
        self.ask(d::ADD_NODE, "addPlanDagNode", variables).await
    }

    /// Makes a plan node with an id of the caller's.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn add_node_as(&self, project: &Project, id: &str, kind: &str) -> Result<Value, Failure> {
        let variables = json!({"p": project.id, "plan": project.plan, "node": node_input(Some(id), kind, id)});
        self.ask(d::ADD_NODE, "addPlanDagNode", variables).await
    }

    /// Connects two plan nodes and brings the edge.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn connect(&self, project: &Project, source: &str, target: &str) -> Result<Value, Failure> {
        let variables = json!({"p": project.id, "plan": project.plan, "edge": edge_input(None, source, target)});
        self.ask(d::ADD_EDGE, "addPlanDagEdge", variables).await
    }

    /// Moves a plan node.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn move_node(&self, project: &Project, id: &str, x: f64, y: f64) -> Result<Value, Failure> {
        let variables = json!({"p": project.id, "plan": project.plan, "id": id, "to": {"x": x, "y": y}});
        self.ask(d::MOVE_NODE, "movePlanDagNode", variables).await
    }

    /// Deletes a plan node and brings what was deleted.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn delete_node(&self, project: &Project, id: &str) -> Result<Value, Failure> {
        self.ask(d::DELETE_NODE, "deletePlanDagNode", json!({"p": project.id, "plan": project.plan, "id": id})).await
    }

    /// Every delta after `after`, page by page (`planDagDeltas`).
    ///
    /// # Errors
    /// When a page is refused, or the pages do not end.
    pub async fn deltas_after(&self, project: &Project, after: &str) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        let mut after = after.to_owned();
        for _ in 0..1_000 {
            let variables = json!({"p": project.id, "plan": project.plan, "after": after, "limit": 200});
            let page = self.ask(d::DELTAS, "planDagDeltas", variables).await?;
            events.extend(page["events"].as_array().context("a page without events")?.iter().cloned());
            after = page["endRevision"].as_str().context("a page without endRevision")?.to_owned();
            if page["hasMore"] == false {
                return Ok(events);
            }
        }
        anyhow::bail!("the pages of planDagDeltas do not end")
    }

    /// Opens a GraphQL socket at the same node with the same token.
    ///
    /// # Errors
    /// When the socket is refused.
    pub async fn socket(&self) -> Result<Socket> {
        Socket::connect(self).await
    }

    /// Opens a presence socket at the same node with the same token, and joins.
    ///
    /// # Errors
    /// When the socket or the join is refused.
    pub async fn presence(&self, project: &Project) -> Result<PresenceSocket> {
        let mut socket = PresenceSocket::connect(self, project.id).await?;
        socket.join(None).await?;
        Ok(socket)
    }
}

/// A `PlanDagNodeInput` at the origin.
#[must_use]
pub fn node_input(id: Option<&str>, kind: &str, label: &str) -> Value {
    json!({"id": id, "nodeType": kind, "position": {"x": 0.0, "y": 0.0}, "metadata": {"label": label}, "config": "{}"})
}

/// A `PlanDagEdgeInput`.
#[must_use]
pub fn edge_input(id: Option<&str>, source: &str, target: &str) -> Value {
    json!({"id": id, "source": source, "target": target, "metadata": {"dataType": "GRAPH_DATA"}})
}
