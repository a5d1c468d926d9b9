//! How far executions are: told by executors, heard by everyone.
//!
//! A state is a change of the plan like any other. Progress between two states is not: it is passed on as it comes,
//! thinned, and lost on who is slow. An event is the same whether it tells of the one or the other.

use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::{Context, Object};
use mille_core::{Applied, NodeRecord, Plan, Touch};
use mille_shared::execution::ExecutionState;
use mille_shared::operation::{DataSourceReport, Edit, ExecutionReport, GraphReport};
use mille_shared::{PlanId, PlanNodeId, ProjectId, Revision, RunId, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::operation::Editing;
use super::types::{DataSourceExecutionMetadata, GraphExecutionMetadata, PlanDagNodeType};
use super::weights::WRITE;
use super::{codes, guard};
use crate::clock;
use crate::gateway::errors::ApiError;
use crate::project::Progress;

/// Reports of executors.
#[derive(Default)]
pub(super) struct ExecutionMutations;

#[Object]
#[expect(clippy::too_many_arguments, reason = "they are the arguments of the contract")]
impl ExecutionMutations {
    /// Tells how far the execution of a plan node is. For editors, and for members whose token has the scope `executor`.
    ///
    /// A run goes forward: `not_started`, `pending`, `processing`, then `completed` or `error`; steps may be left out.
    /// A new run may start over. Going back is `VALIDATION_FAILED`. A state is never dropped, progress is thinned.
    #[graphql(complexity = "WRITE + child_complexity")]
    async fn report_node_execution(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The plan node that runs.")] node_id: String,
        #[graphql(desc = "The run, as the executor names it: 1 to 100 bytes.")] run_id: String,
        #[graphql(desc = "The step: not_started, pending, processing, completed or error.")] state: String,
        #[graphql(desc = "How much of the step is done, from 0 to 1.")] progress: Option<f64>,
        #[graphql(desc = "In the executor's words; with the state error, why.")] message: Option<String>,
        #[graphql(desc = "Any of dataSourceId, filename, status, processedAt.")] datasource: Option<Value>,
        #[graphql(desc = "Any of graphId, nodeCount, edgeCount, computedDate.")] graph: Option<Value>,
    ) -> Result<NodeExecutionStatusEvent, ApiError> {
        let (access, plan) = guard::execution(ctx, project_id, plan_id).await?;
        let report = ExecutionReport {
            id: PlanNodeId::new(node_id),
            run_id: RunId::parse(&run_id)?,
            state: parse_state(&state)?,
            message,
            datasource: parse_report::<DataSourceReport>("datasource", datasource)?,
            graph: parse_report::<GraphReport>("graph", graph)?,
        };
        let progress = progress.map(parse_progress).transpose()?;

        let edit = Edit::ReportExecution(report.clone());
        let accepted = Editing::unnamed(ctx, access.clone(), plan)?.submit(vec![edit]).await?;
        let changed = accepted.applied.as_deref();
        let record =
            changed.and_then(|applied| executed(applied, &report.id)).or_else(|| accepted.plan.node(&report.id));
        let Some(record) = record.cloned() else {
            return Err(codes::no_such_plan()); // the plan was replaced while it was told
        };
        let at = changed.map_or_else(clock::now, |applied| applied.change.at);
        if progress.is_some() || (changed.is_none() && report.message.is_some()) {
            let told = Progress {
                node_id: report.id.clone(),
                run_id: report.run_id.clone(),
                state: report.state,
                progress,
                message: report.message.clone(),
                at,
                revision: accepted.revision,
            };
            access.project.report_progress(plan, told);
        }
        Ok(NodeExecutionStatusEvent {
            project: access.project.id(),
            plan,
            record,
            run_id: report.run_id,
            state: report.state,
            progress,
            message: report.message,
            at,
            revision: accepted.revision,
        })
    }
}

fn executed<'a>(applied: &'a Applied, id: &PlanNodeId) -> Option<&'a Arc<NodeRecord>> {
    applied.touches.iter().find_map(|touch| match touch {
        Touch::ExecutionChanged { record, .. } if record.node.id == *id => Some(record),
        _ => None,
    })
}

fn parse_state(text: &str) -> Result<ExecutionState, ApiError> {
    ExecutionState::parse(text).ok_or_else(|| {
        let known: Vec<_> = ExecutionState::ALL.into_iter().map(ExecutionState::as_str).collect();
        codes::invalid(format!("a state is one of {}", known.join(", ")))
    })
}

fn parse_progress(progress: f64) -> Result<f64, ApiError> {
    if (0.0..=1.0).contains(&progress) { Ok(progress) } else { Err(codes::invalid("progress lies between 0 and 1")) }
}

/// What our own answers have beside it and is said by other arguments is taken and has no say, so that an executor may send back
/// what it was told.
fn parse_report<T: DeserializeOwned>(argument: &str, mut value: Option<Value>) -> Result<Option<T>, ApiError> {
    if let Some(Value::Object(fields)) = &mut value {
        fields.retain(|name, _| name != "executionState" && name != "errorMessage");
    }
    let parse = |value| serde_json::from_value(value).map_err(|why| codes::invalid(format!("{argument}: {why}")));
    value.filter(|value| !value.is_null()).map(parse).transpose()
}

/// How far the execution of a plan node is, at one moment.
pub(super) struct NodeExecutionStatusEvent {
    project: ProjectId,
    plan: PlanId,
    record: Arc<NodeRecord>,
    run_id: RunId,
    state: ExecutionState,
    progress: Option<f64>,
    message: Option<String>,
    at: Timestamp,
    revision: Revision,
}

/// How far the execution of a plan node is, at one moment.
#[Object]
impl NodeExecutionStatusEvent {
    /// The project.
    async fn project_id(&self) -> i32 {
        self.project.0
    }

    /// The plan.
    async fn plan_id(&self) -> i32 {
        self.plan.0
    }

    /// The plan node that runs.
    async fn node_id(&self) -> &str {
        self.record.node.id.as_str()
    }

    /// What the plan node does.
    async fn node_type(&self) -> PlanDagNodeType {
        self.record.node.node_type.into()
    }

    /// The run, as the executor names it.
    async fn run_id(&self) -> &str {
        self.run_id.as_str()
    }

    /// The step it is at: `not_started`, `pending`, `processing`, `completed` or `error`.
    async fn state(&self) -> &'static str {
        self.state.as_str()
    }

    /// How much of the step is done, from 0 to 1, if the executor says.
    async fn progress(&self) -> Option<f64> {
        self.progress
    }

    /// What the executor says of its progress.
    async fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// What is known of the data source; of a `DataSourceNode`.
    async fn datasource_execution(&self) -> Option<DataSourceExecutionMetadata<'_>> {
        self.record.node.datasource_execution.as_ref().map(Into::into)
    }

    /// What is known of the graph; of any other plan node.
    async fn graph_execution(&self) -> Option<GraphExecutionMetadata<'_>> {
        self.record.node.graph_execution.as_ref().map(Into::into)
    }

    /// When it was reported, RFC 3339 UTC.
    async fn timestamp(&self) -> String {
        self.at.to_string()
    }

    /// The plan's revision: of the state's own change; with progress, of the plan then. Continue from it with
    /// `nodeExecutionStatusChanged(after:)`.
    async fn revision(&self) -> String {
        self.revision.to_string()
    }
}

/// Makes status events of a plan's events: keeps what a progress report does not say of its plan node.
pub(super) struct StatusTeller {
    project: ProjectId,
    plan: PlanId,
    /// The plan nodes as far as they are known; all of them once a progress report needed one.
    records: HashMap<PlanNodeId, Arc<NodeRecord>>,
}

impl StatusTeller {
    /// For one listener.
    pub(super) fn new(project: ProjectId, plan: PlanId) -> Self {
        Self { project, plan, records: HashMap::new() }
    }

    /// The states that a change tells of.
    pub(super) fn changed(&mut self, applied: &Applied) -> Vec<NodeExecutionStatusEvent> {
        let mut events = Vec::new();
        for touch in &applied.touches {
            match touch {
                Touch::NodeAdded(record) | Touch::NodeUpdated(record) => self.know(record),
                Touch::NodeRemoved(record) => {
                    self.records.remove(&record.node.id);
                }
                Touch::ExecutionChanged { record, run_id, state } => {
                    self.know(record);
                    events.push(self.event(record, run_id, *state, applied.change.at, applied.revision()));
                }
                Touch::EdgeAdded(_) | Touch::EdgeUpdated(_) | Touch::EdgeRemoved(_) | Touch::MetadataUpdated(_) => {}
            }
        }
        events
    }

    /// Where every execution is now: what a listener is told that missed the steps there.
    pub(super) fn snapshot(&mut self, plan: &Plan) -> Vec<NodeExecutionStatusEvent> {
        self.learn(plan);
        let latest = plan.nodes().filter_map(|record| record.runs.last().map(|run| (record, run)));
        latest
            .map(|(record, (run_id, state))| {
                self.event(record, run_id, *state, record.node.updated_at, plan.revision())
            })
            .collect()
    }

    /// Whether the plan node of a progress report is known. If not, [`Self::learn`] comes first.
    pub(super) fn knows(&self, progress: &Progress) -> bool {
        self.records.contains_key(&progress.node_id)
    }

    /// Takes note of every plan node.
    pub(super) fn learn(&mut self, plan: &Plan) {
        self.records = plan.nodes().map(|record| (record.node.id.clone(), Arc::clone(record))).collect();
    }

    /// What a progress report tells. `None`: its plan node is gone, or its run has gone on from there: it comes past the log, and
    /// nobody may be told of an earlier state after a later one.
    pub(super) fn progressed(&self, progress: &Progress) -> Option<NodeExecutionStatusEvent> {
        let record = self.records.get(&progress.node_id).filter(|record| !progress.is_overtaken(&record.runs))?;
        let event = self.event(record, &progress.run_id, progress.state, progress.at, progress.revision);
        Some(NodeExecutionStatusEvent { progress: progress.progress, message: progress.message.clone(), ..event })
    }

    fn know(&mut self, record: &Arc<NodeRecord>) {
        self.records.insert(record.node.id.clone(), Arc::clone(record));
    }

    fn event(
        &self,
        record: &Arc<NodeRecord>,
        run_id: &RunId,
        state: ExecutionState,
        at: Timestamp,
        revision: Revision,
    ) -> NodeExecutionStatusEvent {
        NodeExecutionStatusEvent {
            project: self.project,
            plan: self.plan,
            record: Arc::clone(record),
            run_id: run_id.clone(),
            state,
            progress: None,
            message: None,
            at,
            revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_of_an_executor_is_read_to_the_letter() {
        let read = parse_report::<GraphReport>("graph", Some(json!({"nodeCount": 3, "edgeCount": null})));
        let expected = GraphReport { node_count: Some(3), ..GraphReport::default() };
        assert_eq!(read, Ok(Some(expected)));
        let told = json!({"nodeCount": 3, "executionState": "completed", "errorMessage": null});
        assert_eq!(parse_report::<GraphReport>("graph", Some(told)), read, "as it is told");
        assert_eq!(parse_report::<GraphReport>("graph", Some(Value::Null)), Ok(None));
        assert_eq!(parse_report::<GraphReport>("graph", None), Ok(None));
        for wrong in
            [json!({"nodecount": 3}), json!({"nodeCount": "3"}), json!({"nodeCount": 1.5}), json!("x"), json!(7)]
        {
            let refusal = parse_report::<GraphReport>("graph", Some(wrong.clone())).expect_err("a wrong report");
            assert!(refusal.code.as_str() == "VALIDATION_FAILED" && refusal.message.starts_with("graph: "), "{wrong}");
        }
    }

    #[test]
    fn progress_is_a_share_and_a_state_one_of_five() {
        assert!([0.0, 0.5, 1.0].into_iter().all(|share| parse_progress(share).is_ok()));
        assert!([-0.1, 1.1, f64::NAN, f64::INFINITY].into_iter().all(|share| parse_progress(share).is_err()));
        assert_eq!(parse_state("processing"), Ok(ExecutionState::Processing));
        assert!(parse_state("PROCESSING").is_err_and(|refusal| refusal.message.contains("not_started")));
    }
}
