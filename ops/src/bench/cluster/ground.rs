//! The place where a bench happens: a local cluster, and a project of the bench's own in it.
//!
//! Local, because a bench kills processes and reads what they cost, and because it signs tokens for as many
//! users as the limit of connections per user asks for. Its project is deleted afterwards; one that a bench
//! left behind harms nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use mille_shared::Revision;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{self, Client};
use crate::output::{Output, refused};
use crate::state::{Node, State, find_dir};
use crate::target::Target;
use crate::token::Claims;

/// Subscribers that share a user. A user may have 250 connections, and old ones of a node that died may
/// still be counted when their successors come.
pub(crate) const SUBSCRIBERS_PER_USER: usize = 120;

/// How long nodes that were pressed are waited for. From the highest level it is twelve seconds until all are left.
const LET_IN_WITHIN: Duration = Duration::from_secs(15);

/// Time between two looks whether they let people in.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Users being made members at once. Each is a write that Redis brings to disk.
const ADMITTED_AT_ONCE: usize = 32;

/// Life of the tokens: longer than any bench.
pub(crate) const TOKEN_TTL: Duration = Duration::from_secs(2 * 3600);

/// Plan nodes that are moved about.
const PLAN_NODES: usize = 50;

/// Who makes the project and edits it.
const OWNER: &str = "bench-owner";

/// A cluster and the bench's project in it.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The cluster.
    pub(crate) state: State,
    /// Where its state is.
    pub(crate) dir: PathBuf,
    /// The project's number.
    pub(crate) project: i32,
    /// Its plan's number.
    pub(crate) plan: i32,
    /// Ids of plan nodes to move.
    pub(crate) plan_nodes: Vec<String>,
    /// The plan's revision before the bench.
    pub(crate) start: Revision,
    tokens: Vec<Arc<str>>,
    owner: Client,
}

impl Ground {
    /// Makes a project with room for so many subscribers.
    ///
    /// # Errors
    /// A refusal when there is no local cluster of at least two living nodes; else what the cluster refused.
    pub(crate) async fn prepare(dir: Option<&Path>, subscribers: usize) -> Result<Self> {
        Self::prepare_on(dir, subscribers, 2).await
    }

    /// As [`Self::prepare`], on a cluster of at least so many nodes.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn prepare_on(dir: Option<&Path>, subscribers: usize, nodes_min: usize) -> Result<Self> {
        let (state, dir) = cluster(dir, nodes_min)?;
        let_in_again(&state).await?;
        let owner = Client::new(Target::local(&state, OWNER, None), "mille-bench")?;
        let (project, plan) = make_project(&owner).await?;
        let plan_nodes: Vec<String> = (0..PLAN_NODES).map(|number| format!("bench-{number}")).collect();
        let start = fill(&owner, project, plan, &plan_nodes).await?;
        let mut ground = Self { state, dir, project, plan, plan_nodes, start, tokens: Vec::new(), owner };
        let readers = (0..subscribers.div_ceil(SUBSCRIBERS_PER_USER)).map(|number| format!("bench-reader-{number}"));
        ground.tokens = ground.admit(readers).await?;
        Ok(ground)
    }

    /// Makes users members who may look, and answers their tokens in the same order.
    ///
    /// # Errors
    /// What the cluster refused.
    pub(crate) async fn admit(&self, users: impl IntoIterator<Item = String>) -> Result<Vec<Arc<str>>> {
        self.admit_as("VIEWER", users).await
    }

    /// As [`Self::admit`], in a role of their own.
    ///
    /// # Errors
    /// What the cluster refused.
    pub(crate) async fn admit_as(
        &self,
        role: &'static str,
        users: impl IntoIterator<Item = String>,
    ) -> Result<Vec<Arc<str>>> {
        self.admit_to(self.project, role, users).await
    }

    /// As [`Self::admit_as`], to a project that is not the first.
    ///
    /// # Errors
    /// What the cluster refused.
    pub(crate) async fn admit_to(
        &self,
        project: i32,
        role: &'static str,
        users: impl IntoIterator<Item = String>,
    ) -> Result<Vec<Arc<str>>> {
        let mutation = "mutation Bench($projectId: Int!, $userId: String!, $role: ProjectRole!) {
            setCollaborator(projectId: $projectId, userId: $userId, role: $role) { userId }
        }";
        let admitted = users.into_iter().map(|user| async move {
            let token = self.sign(&user)?;
            let variables = json!({ "projectId": project, "userId": user, "role": role });
            self.owner.ask(mutation, variables).await?;
            anyhow::Ok(token)
        });
        stream::iter(admitted).buffered(ADMITTED_AT_ONCE).try_collect().await
    }

    /// A token for somebody who is a member already, or will be.
    ///
    /// # Errors
    /// When it can't be signed.
    pub(crate) fn sign(&self, user: &str) -> Result<Arc<str>> {
        Ok(Claims::new(user, TOKEN_TTL).sign(&self.state.jwt_secret)?.into())
    }

    /// The token of the subscriber with this number.
    ///
    /// # Panics
    /// When the ground was prepared for nobody.
    pub(crate) fn token(&self, subscriber: usize) -> Arc<str> {
        Arc::clone(&self.tokens[subscriber % self.tokens.len()])
    }

    /// A client for edits at one node. The client id is the same at all, so a repeat is known at any.
    ///
    /// # Errors
    /// When the TLS library can't start.
    pub(crate) fn editor(&self, node: &Node) -> Result<Client> {
        Client::new(Target::node(&self.state, &node.url, OWNER), "mille-bench")
    }

    /// The place of the node with this name in the cluster's list; without a name the last one.
    ///
    /// # Errors
    /// A refusal when there is none.
    pub(crate) fn node_index(&self, name: Option<&str>) -> Result<usize> {
        node_index(&self.state, &self.dir, name)
    }

    /// Where each node listens.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.state.nodes.iter().map(|node| node.url.clone()).collect()
    }

    /// Makes one more project, with a plan like the first's: their numbers, and the plan's revision. To be cleared by
    /// [`Self::clear_of`].
    ///
    /// # Errors
    /// What the cluster refused.
    pub(crate) async fn another(&self) -> Result<(i32, i32, Revision)> {
        let (project, plan) = make_project(&self.owner).await?;
        let start = fill(&self.owner, project, plan, &self.plan_nodes).await?;
        Ok((project, plan, start))
    }

    /// Deletes the project. What can't be deleted stays, and is said.
    pub(crate) async fn clear(&self, output: Output) {
        self.clear_of(self.project, output).await;
    }

    /// As [`Self::clear`], of another project.
    pub(crate) async fn clear_of(&self, project: i32, output: Output) {
        if let Err(error) = delete_project(&self.owner, project).await {
            output.note(format_args!("mille: the bench's project {project} could not be deleted: {error:#}"));
        }
    }
}

/// The local cluster in this directory, whole, with at least so many nodes.
///
/// # Errors
/// A refusal when there is none.
pub(crate) fn cluster(dir: Option<&Path>, nodes_min: usize) -> Result<(State, PathBuf)> {
    let dir = find_dir(dir);
    let Some(state) = State::load(&dir)? else {
        return Err(refused(format!(
            "no cluster in {}; start one with ops/up, or name another with --state",
            dir.display()
        )));
    };
    for node in &state.nodes {
        if !node.identity().is_alive() {
            return Err(refused(format!("{} does not run; {}", node.name, start_again(&dir))));
        }
    }
    if state.nodes.len() < nodes_min {
        return Err(refused(format!("the bench needs at least {nodes_min} nodes; start the cluster with --nodes 3")));
    }
    Ok((state, dir))
}

/// Waits until every node lets people in, as long as it may take: one that was pressed, by the bench before this one say, goes
/// back a level every three seconds. Whoever still refuses then says so itself.
async fn let_in_again(state: &State) -> Result<()> {
    let http = client::http(true, LOOK_TIMEOUT)?;
    let deadline = Instant::now() + LET_IN_WITHIN;
    for node in &state.nodes {
        let url = format!("{}/readyz", node.admin_url);
        let lets_in = async || http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200);
        while !lets_in().await && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// The place of the node with this name; without a name the last one.
///
/// # Errors
/// A refusal when there is none.
pub(crate) fn node_index(state: &State, dir: &Path, name: Option<&str>) -> Result<usize> {
    let nodes = &state.nodes;
    let Some(name) = name else { return Ok(nodes.len() - 1) };
    nodes.iter().position(|node| node.name == name).ok_or_else(|| {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        refused(format!("no node {name} in {}; there are {}", dir.display(), names.join(", ")))
    })
}

/// How to get a whole cluster again.
pub(crate) fn start_again(dir: &Path) -> String {
    format!(
        "stop the cluster with `mille down --state {0}` and start it with `ops/up --detach --state {0}`",
        dir.display()
    )
}

/// Makes a project with a plan: their numbers.
///
/// # Errors
/// What the cluster refused.
pub(crate) async fn make_project(owner: &Client) -> Result<(i32, i32)> {
    let mutation = "mutation Bench($name: String!) { createProject(name: $name) { id plans { id } } }";
    let data = owner.ask(mutation, json!({ "name": "Bench" })).await?;
    let project = &data["createProject"];
    let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
    number(&project["id"]).zip(number(&project["plans"][0]["id"])).context("the cluster made a project without a plan")
}

/// Deletes a project.
///
/// # Errors
/// What the cluster refused.
pub(crate) async fn delete_project(owner: &Client, project: i32) -> Result<()> {
    let mutation = "mutation Bench($projectId: Int!) { deleteProject(projectId: $projectId) }";
    owner.ask(mutation, json!({ "projectId": project })).await.map(drop)
}

async fn fill(owner: &Client, project: i32, plan: i32, ids: &[String]) -> Result<Revision> {
    let mutation = "mutation Bench($projectId: Int!, $planId: Int, $changes: [PlanDagChangeInput!]!) {
        applyPlanDagChanges(projectId: $projectId, planId: $planId, changes: $changes) { revision }
    }";
    let change = |id: &String| {
        let position = json!({ "x": 0, "y": 0 });
        json!({ "addNode": { "node": {
            "id": id, "nodeType": "MergeNode", "position": position, "metadata": { "label": id }, "config": "{}",
        } } })
    };
    let changes: Vec<Value> = ids.iter().map(change).collect();
    let data = owner.ask(mutation, json!({ "projectId": project, "planId": plan, "changes": changes })).await?;
    let revision = data["applyPlanDagChanges"]["revision"].as_str().unwrap_or_default();
    ensure!(!revision.is_empty(), "the cluster filled the plan without a revision");
    Ok(revision.parse()?)
}
