//! The sample project that a fresh local cluster starts with.
//!
//! Made by the same requests as anyone's project, so a cluster that is seeded has shown that it works. A
//! cluster whose Redis still has the project from last time keeps it as people left it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::client::Client;
use crate::import;
use crate::output::Output;
use crate::state::State;
use crate::target::{LOCAL_USER, Target};

/// The project's name, by which it is found again.
pub(crate) const PROJECT: &str = "Harbour renewal";

/// Who may do what there beside its owner.
const COLLABORATORS: [(&str, &str); 3] = [("alice", "EDITOR"), ("bob", "EDITOR"), ("carol", "VIEWER")];

const NODES: &str = include_str!("../samples/harbour-nodes.csv");
const EDGES: &str = include_str!("../samples/harbour-edges.csv");

/// Where the sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Its project's number.
    pub(crate) project: i32,
    /// Its plan's number.
    pub(crate) plan: i32,
}

/// Makes the sample, or finds the one of last time and completes it.
///
/// # Errors
/// When the cluster refuses any of it.
pub(crate) async fn seed(state: &State, output: &Output) -> Result<Sample> {
    let client = Client::new(Target::local(state, LOCAL_USER, None), "mille-seed")?;
    let sample = match find(&client).await? {
        Some(sample) => sample,
        None => create(&client).await?,
    };
    for (user, role) in COLLABORATORS {
        let mutation = "mutation Seed($projectId: Int!, $userId: String!, $role: ProjectRole!) {
            setCollaborator(projectId: $projectId, userId: $userId, role: $role) { userId }
        }";
        client.ask(mutation, json!({ "projectId": sample.project, "userId": user, "role": role })).await?;
    }
    if is_empty(&client, sample).await? {
        let report = import::texts(&client, sample.project, sample.plan, NODES, EDGES, output).await?;
        ensure!(report.plan_nodes > 0, "the cluster took none of the sample's rows");
    }
    Ok(sample)
}

async fn find(client: &Client) -> Result<Option<Sample>> {
    let data = client.ask("query Seeded { projects { id name plans { id } } }", json!({})).await?;
    let projects = data["projects"].as_array().map(Vec::as_slice).unwrap_or_default();
    projects.iter().find(|project| project["name"] == PROJECT).map(sample_of).transpose()
}

async fn create(client: &Client) -> Result<Sample> {
    let mutation = "mutation Seed($name: String!, $description: String) {
        createProject(name: $name, description: $description) { id plans { id } }
    }";
    let description = "A sample: renewing the quays, basins and access roads of a small harbour.";
    let data = client.ask(mutation, json!({ "name": PROJECT, "description": description })).await?;
    sample_of(&data["createProject"])
}

async fn is_empty(client: &Client, sample: Sample) -> Result<bool> {
    let query = "query Seeded($projectId: Int!, $planId: Int) {
        getPlanDag(projectId: $projectId, planId: $planId) { nodes { id } }
    }";
    let data = client.ask(query, json!({ "projectId": sample.project, "planId": sample.plan })).await?;
    Ok(data["getPlanDag"]["nodes"].as_array().is_none_or(Vec::is_empty))
}

fn sample_of(project: &Value) -> Result<Sample> {
    let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
    let sample = number(&project["id"]).zip(number(&project["plans"][0]["id"]));
    let (project, plan) = sample.context("the cluster made a project without a plan")?;
    Ok(Sample { project, plan })
}
