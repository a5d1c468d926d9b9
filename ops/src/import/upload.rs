//! Sends a draft to the cluster, in batches that are accepted whole or not at all.
//!
//! Each batch has an operation id: when no answer came, the same batch is sent again and happens once. When a
//! batch is refused, it is halved until the change that was refused stands alone; so one bad row (someone
//! else edits the plan meanwhile) costs itself and not its neighbours.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result};
use mille_shared::limits::REQUEST_BYTES_MAX;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::rules::{Draft, File, NewEdge, NewNode, Remark};
use crate::client::{Client, GraphqlError};

/// Changes per request. Half of what a node takes, so that no batch holds up others for long.
const BATCH_CHANGES_MAX: usize = 500;

/// Bytes of changes per request: half of the limit leaves room for everything around them.
const BATCH_BYTES_MAX: usize = REQUEST_BYTES_MAX / 2;

/// Attempts per batch while the cluster says that it may work later.
const ATTEMPTS_MAX: u32 = 8;

const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_LONGEST: Duration = Duration::from_secs(5);

const MUTATION: &str =
    "mutation Import($projectId: Int!, $planId: Int, $operationId: String, $changes: [PlanDagChangeInput!]!) {
  applyPlanDagChanges(projectId: $projectId, planId: $planId, operationId: $operationId, changes: $changes) { revision }
}";

/// What came of an upload.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Uploaded {
    /// Plan nodes that are in the plan now.
    pub(crate) plan_nodes: usize,
    /// Edges that are in the plan now.
    pub(crate) edges: usize,
    /// Of the last batch; none if none was accepted.
    pub(crate) revision: Option<String>,
    /// What the cluster refused.
    pub(crate) rejected: Vec<Remark>,
}

/// A change as it travels, and the row it came from.
#[derive(Debug, Clone)]
struct Change {
    file: File,
    line: u64,
    id: String,
    json: Value,
    bytes: usize,
}

/// Adds all of `draft` to the plan; calls `progress` with the number of changes that are settled.
///
/// # Errors
/// When the cluster stays out of reach or denies access. What was accepted before stays.
pub(crate) async fn upload(
    client: &Client,
    project: i32,
    plan: Option<i32>,
    draft: &Draft,
    mut progress: impl FnMut(usize),
) -> Result<Uploaded> {
    let run: [u8; 8] = rand::random();
    let run: String = run.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut uploaded = Uploaded::default();
    let mut batches: VecDeque<Vec<Change>> = batches(changes(draft)).into();
    let mut number = 0_u64;
    while let Some(batch) = batches.pop_front() {
        number += 1;
        let variables = json!({
            "projectId": project,
            "planId": plan,
            "operationId": format!("import-{run}-{number}"),
            "changes": batch.iter().map(|change| &change.json).collect::<Vec<_>>(),
        });
        match send(client, variables).await? {
            Ok(revision) => {
                let plan_nodes = batch.iter().filter(|change| change.file == File::Nodes).count();
                uploaded.plan_nodes += plan_nodes;
                uploaded.edges += batch.len() - plan_nodes;
                uploaded.revision = Some(revision);
                progress(batch.len());
            }
            Err(refusal) => {
                if let [change] = batch.as_slice() {
                    uploaded.rejected.push(Remark {
                        file: change.file,
                        line: change.line,
                        id: change.id.clone(),
                        reason: format!("the cluster refused it: {refusal}"),
                    });
                    progress(1);
                } else {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    batches.push_front(second.to_vec());
                    batches.push_front(first.to_vec());
                }
            }
        }
    }
    Ok(uploaded)
}

/// Sends one batch until it is answered: the revision, or why its changes were refused.
async fn send(client: &Client, variables: Value) -> Result<Result<String, GraphqlError>> {
    let mut attempt = 1;
    loop {
        let error = match client.ask(MUTATION, variables.clone()).await {
            Ok(data) => {
                let revision = data["applyPlanDagChanges"]["revision"].as_str();
                return Ok(Ok(revision
                    .context("the cluster accepted a batch without naming its revision")?
                    .to_owned()));
            }
            Err(error) => error,
        };
        let answer = error.downcast_ref::<GraphqlError>();
        if let Some(refusal) = answer.filter(|refusal| concerns_the_changes(&refusal.code)) {
            return Ok(Err(refusal.clone()));
        }
        // No answer at all may also mean that the batch landed: with its operation id it lands once.
        let may_work_later = answer.is_none_or(|refusal| refusal.retryable);
        if !may_work_later || attempt >= ATTEMPTS_MAX {
            return Err(error.context("the import stopped; what was accepted before stays"));
        }
        let wait = WAIT_FIRST.saturating_mul(1 << attempt).min(WAIT_LONGEST).mul_f64(rand::random_range(0.5..1.0));
        sleep(wait.max(answer.and_then(|refusal| refusal.retry_after).unwrap_or_default().min(WAIT_LONGEST))).await;
        attempt += 1;
    }
}

/// Codes that blame what was sent, so that a smaller batch may pass.
fn concerns_the_changes(code: &str) -> bool {
    matches!(code, "VALIDATION_FAILED" | "CONFLICT" | "LIMIT_EXCEEDED" | "PAYLOAD_TOO_LARGE")
}

/// Plan nodes first: an edge needs both of its ends.
fn changes(draft: &Draft) -> Vec<Change> {
    let change = |file, line, id: &str, json: Value| {
        let bytes = json.to_string().len() + 1;
        Change { file, line, id: id.to_owned(), json, bytes }
    };
    let nodes = draft.nodes.iter().map(|node| change(File::Nodes, node.line, &node.id, node_json(node)));
    let edges = draft.edges.iter().map(|edge| {
        let shown = edge.id.clone().unwrap_or_else(|| format!("{} -> {}", edge.source, edge.target));
        change(File::Edges, edge.line, &shown, edge_json(edge))
    });
    nodes.chain(edges).collect()
}

fn node_json(node: &NewNode) -> Value {
    json!({ "addNode": { "node": {
        "id": node.id,
        "nodeType": node.node_type,
        "position": { "x": node.position.0, "y": node.position.1 },
        "metadata": { "label": node.label, "description": node.description },
        "config": node.config,
    } } })
}

fn edge_json(edge: &NewEdge) -> Value {
    let mut json = json!({
        "source": edge.source,
        "target": edge.target,
        "metadata": { "label": edge.label, "dataType": edge.data_type },
    });
    if let Some(id) = &edge.id {
        json["id"] = id.as_str().into();
    }
    json!({ "addEdge": { "edge": json } })
}

/// Cuts where either bound would be passed. A change that passes one alone still goes, alone.
fn batches(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut batches: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_CHANGES_MAX && bytes + change.bytes <= BATCH_BYTES_MAX => {
                bytes += change.bytes;
                batch.push(change);
            }
            _ => {
                bytes = change.bytes;
                batches.push(vec![change]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize, config_bytes: usize) -> NewNode {
        NewNode {
            line: 1,
            id: format!("n{number}"),
            node_type: "DataSourceNode",
            label: "N".into(),
            description: None,
            config: "x".repeat(config_bytes),
            position: (1.0, 2.0),
        }
    }

    fn sizes(nodes: Vec<NewNode>) -> Vec<usize> {
        let draft = Draft { nodes, ..Draft::default() };
        batches(changes(&draft)).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_batch_is_bounded_in_changes_and_in_bytes() {
        assert_eq!(sizes((0..1001).map(|number| node(number, 2)).collect()), [500, 500, 1]);
        assert_eq!(sizes((0..12).map(|number| node(number, 99_000)).collect()), [5, 5, 2]);
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
    }

    #[test]
    fn plan_nodes_travel_before_edges_and_an_absent_id_is_left_out() {
        let edge =
            NewEdge { line: 2, id: None, source: "a".into(), target: "b".into(), label: None, data_type: "GRAPH_DATA" };
        let draft = Draft { nodes: vec![node(1, 2)], edges: vec![edge], ..Draft::default() };
        let changes = changes(&draft);
        assert_eq!(changes[0].json["addNode"]["node"]["position"], json!({"x": 1.0, "y": 2.0}));
        assert_eq!(
            changes[1].json,
            json!({"addEdge": {"edge": {"source": "a", "target": "b", "metadata": {"label": null, "dataType": "GRAPH_DATA"}}}})
        );
    }

    #[test]
    fn only_blame_for_the_changes_leads_to_smaller_batches() {
        assert!(concerns_the_changes("VALIDATION_FAILED"));
        for code in ["NOT_FOUND", "FORBIDDEN", "UNAVAILABLE", "UNAUTHENTICATED"] {
            assert!(!concerns_the_changes(code), "{code}");
        }
    }
}
