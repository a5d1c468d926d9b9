//! Two people with one project at two nodes: where most of what is promised of edits can be looked at.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{Client, Cluster, Failure, Project, Refusal, Revision, eventually, refused, soon};

/// Two people with one project, at two nodes.
pub struct Desk {
    /// Holds the processes.
    _cluster: Cluster,
    /// Owner, at the first node.
    pub ada: Client,
    /// Editor, at the second node.
    pub bob: Client,
    /// What they work on.
    pub project: Project,
}

impl Desk {
    /// Starts the nodes and lets both in.
    ///
    /// # Errors
    /// When the cluster does not start.
    pub async fn set() -> Result<Self> {
        let cluster = Cluster::of(2).start().await?;
        let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
        let project = ada.create_project("harbour").await?;
        ada.share(&project, "bob", "EDITOR").await?;
        Ok(Self { _cluster: cluster, ada, bob, project })
    }

    /// Runs an edit of this project as Ada.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub async fn edit(&self, document: &str, mut variables: Value) -> Result<Value, Failure> {
        variables["p"] = json!(self.project.id);
        self.ada.run(document, variables).await
    }

    /// Runs an edit that must be refused.
    ///
    /// # Errors
    /// When it is not.
    pub async fn refusal(&self, document: &str, variables: Value) -> Result<Refusal> {
        let text = variables.to_string();
        refused(self.edit(document, variables).await).with_context(|| text)
    }

    /// Adds plan nodes, each with its id and type.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn nodes(&self, nodes: &[(&str, &str)]) -> Result<()> {
        for (id, kind) in nodes {
            self.ada.add_node_as(&self.project, id, kind).await?;
        }
        Ok(())
    }

    /// The plan's revision, as Ada's node has it.
    ///
    /// # Errors
    /// As [`Client::revision`].
    pub async fn revision(&self) -> Result<Revision> {
        self.ada.revision(&self.project).await
    }

    /// Bob's view from the other node, once it has reached `revision`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn bobs_plan(&self, revision: Revision) -> Result<Value> {
        eventually(soon(), async || {
            let plan = self.bob.plan(&self.project).await?;
            let there = Revision::of(&plan["revision"])?;
            ensure!(there == revision, "the other node is at {there}, not {revision}");
            Ok(plan)
        })
        .await
    }
}
