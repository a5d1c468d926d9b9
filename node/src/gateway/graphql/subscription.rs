//! The subscriptions: a plan's events, each stream in its own words.
//!
//! A stream repairs itself below ([`Following`]); what is decided here is where it begins and how it ends. It ends with an
//! error, never in silence: `FORBIDDEN` when the right to read is lost, `NOT_FOUND` when the plan is gone, `DRAINING` when
//! the node is.

use async_graphql::{Context, Subscription};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, future, stream};
use mille_shared::directory::Role;
use mille_shared::{PlanId, Revision};

use super::collaboration::CollaborationEvent;
use super::events::{PlanDagDeltaEvent, PlanDagUpdateEvent};
use super::execution::{NodeExecutionStatusEvent, StatusTeller};
use super::projection::Projection;
use super::weights::READ;
use super::{guard, presence};
use crate::gateway::errors::ApiError;
use crate::gateway::fanout::{Deposit, RenderFeed, Sharing, Writer};
use crate::gateway::transport::{EventRevision, ResumeAfter};
use crate::metrics::LearntAt;
use crate::project::presence::PresenceCommand;
use crate::project::{Access, Ended, Following, PlanEvent, Start};

/// Why a stream begins with a SNAPSHOT that was asked for.
const REQUESTED: &str = "requested";

/// What can be listened to.
pub struct Subscription;

#[Subscription]
impl Subscription {
    /// A plan's changes as JSON Patches, each revision once, in order, without a hole; works across reconnects and nodes.
    ///
    /// With `after` it continues behind that revision; with `snapshot` it begins with the whole document; with neither,
    /// with the next change. Where the changes can't be told one by one there is one event of kind `SNAPSHOT`.
    #[graphql(complexity = "READ + child_complexity")]
    async fn plan_dag_delta_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The last revision the client has. Beats `snapshot`.")] after: Option<String>,
        #[graphql(desc = "Begin with the whole document.", default_with = "Some(false)")] snapshot: Option<bool>,
    ) -> Result<BoxStream<'static, Result<PlanDagDeltaEvent, ApiError>>, ApiError> {
        if let Some(feed) = ctx.data_opt::<RenderFeed>() {
            let (project, plan) = (feed.project, feed.plan);
            return Ok(rendered(feed, move |event| PlanDagDeltaEvent::of(project, plan, event)));
        }
        let (access, plan) = guard::plan(ctx, project_id, plan_id, Role::Viewer).await?;
        let otherwise = if snapshot == Some(true) { Start::Snapshot { reason: REQUESTED } } else { Start::Next };
        let start = start(ctx, after, otherwise)?;
        let project = access.project.id();
        let following = access.project.follow(plan, &access.user_id, start, false).await?;
        let words = move |event| PlanDagDeltaEvent::of(project, plan, event);
        let writer = |projection: Projection| -> Writer {
            Box::new(move |event| words(event).map(|event| projection.write(&event)))
        };
        Ok(shared(ctx, plan, following, words, || Projection::of(ctx.field()).map(writer)))
    }

    /// The same changes as typed events, one per element.
    #[graphql(complexity = "READ + child_complexity")]
    async fn plan_dag_updated(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The plan.")] plan_id: String,
        #[graphql(desc = "The last revision the client has.")] after: Option<String>,
    ) -> Result<BoxStream<'static, Result<PlanDagUpdateEvent, ApiError>>, ApiError> {
        if let Some(feed) = ctx.data_opt::<RenderFeed>() {
            let plan = feed.plan;
            return Ok(rendered(feed, move |event| PlanDagUpdateEvent::of(plan, event)));
        }
        let (access, plan) = guard::plan_alone(ctx, &plan_id, Role::Viewer).await?;
        let start = start(ctx, after, Start::Next)?;
        let following = access.project.follow(plan, &access.user_id, start, false).await?;
        Ok(shared(ctx, plan, following, move |event| PlanDagUpdateEvent::of(plan, event), || None))
    }

    /// How far the executions of a plan's nodes are. States are never dropped; progress between them is thinned.
    ///
    /// Who missed states that can't be told any more is told where every execution is now.
    #[graphql(complexity = "READ + child_complexity")]
    async fn node_execution_status_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
        #[graphql(desc = "The plan; left out: the project's first.")] plan_id: Option<i32>,
        #[graphql(desc = "The last revision the client has.")] after: Option<String>,
    ) -> Result<impl Stream<Item = Result<NodeExecutionStatusEvent, ApiError>> + use<>, ApiError> {
        let (access, plan) = guard::plan(ctx, project_id, plan_id, Role::Viewer).await?;
        let following = access.project.follow(plan, &access.user_id, start(ctx, after, Start::Next)?, true).await?;
        Ok(mark(ctx, statuses(plan, noting(ctx, following))))
    }

    /// Who comes and goes, where their cursors are on the plan's canvas, and what happens to plan nodes and edges. Begins
    /// with the next event; who is slow misses old cursor places.
    #[graphql(complexity = "READ + child_complexity")]
    async fn collaboration_events(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The plan.")] plan_id: String,
    ) -> Result<impl Stream<Item = Result<CollaborationEvent, ApiError>> + use<>, ApiError> {
        let (access, plan) = guard::plan_alone(ctx, &plan_id, Role::Viewer).await?;
        let following = access.project.follow(plan, &access.user_id, Start::Next, false).await?;
        let changes = tell(events(ctx, following), move |event| CollaborationEvent::of_plan(plan, event));
        let changes = changes.map(|told| told.map(|(event, _)| event));
        Ok(until_error(stream::select(people(&access, plan).await?, changes)))
    }
}

/// Where a stream begins. What the transport knows (`Last-Event-ID`) beats the argument: a reconnecting event stream
/// repeats its old body.
fn start(ctx: &Context<'_>, after: Option<String>, otherwise: Start) -> Result<Start, ApiError> {
    let resumed = ctx.data_opt::<ResumeAfter>().and_then(|resume| resume.0.as_deref());
    match resumed.filter(|text| !text.is_empty()).or(after.as_deref()) {
        Some(text) => Ok(Start::After(text.parse::<Revision>()?)),
        None => Ok(otherwise),
    }
}

type PlanEvents = BoxStream<'static, Result<PlanEvent, ApiError>>;

/// Notes when what is told was learnt, if somebody wants to know.
fn noting(ctx: &Context<'_>, following: Following) -> Following {
    following.noting(ctx.data_opt::<LearntAt>().cloned().unwrap_or_default())
}

/// A plan's events, until the error that ends them.
fn events(ctx: &Context<'_>, following: Following) -> PlanEvents {
    let next = |following: Option<Following>| async move {
        let mut following = following?;
        Some(match following.next().await {
            Ok(event) => (Ok(event), Some(following)),
            Err(ended) => (Err(ended.into()), None),
        })
    };
    stream::unfold(Some(noting(ctx, following)), next).boxed()
}

/// A plan's events in a stream's own words: left to those who tell many the same, where there are such, with what writes
/// them down.
fn shared<T: Send + 'static, I: IntoIterator<Item = T, IntoIter: Send> + 'static>(
    ctx: &Context<'_>,
    plan: PlanId,
    following: Following,
    words: impl Fn(PlanEvent) -> I + Send + 'static,
    writer: impl FnOnce() -> Option<Writer>,
) -> BoxStream<'static, Result<T, ApiError>> {
    if let Some(sharing) = ctx.data_opt::<Sharing>() {
        let writer = sharing.is_plain.then(writer).flatten();
        sharing.leave(Deposit { plan, following, writer });
        return stream::empty().boxed();
    }
    mark(ctx, tell(events(ctx, following), words)).boxed()
}

/// The events of an execution for many, in a stream's own words.
fn rendered<T: Send + 'static, I: IntoIterator<Item = T, IntoIter: Send> + 'static>(
    feed: &RenderFeed,
    words: impl Fn(PlanEvent) -> I + Send + 'static,
) -> BoxStream<'static, Result<T, ApiError>> {
    feed.events().flat_map(move |event| stream::iter(words(event)).map(Ok)).boxed()
}

/// One of a stream's events, and the revision up to which whoever has it has everything. None: it is not the last of its
/// change, or tells of none.
type Told<T> = Result<(T, Option<Revision>), ApiError>;

/// What one of a plan's events comes to, which leads up to `revision`.
fn told<T>(words: impl IntoIterator<Item = T>, revision: Option<Revision>) -> Vec<Told<T>> {
    let mut told: Vec<_> = words.into_iter().map(|event| Ok((event, None))).collect();
    if let Some(Ok((_, reached))) = told.last_mut() {
        *reached = revision;
    }
    told
}

/// Each of a plan's events in a stream's own words.
fn tell<T, I: IntoIterator<Item = T>>(
    events: PlanEvents,
    words: impl Fn(PlanEvent) -> I,
) -> impl Stream<Item = Told<T>> {
    events.flat_map(move |event| {
        stream::iter(match event {
            Ok(event) => {
                let revision = event.revision();
                told(words(event), revision)
            }
            Err(error) => vec![Err(error)],
        })
    })
}

/// A plan's events as states of executions.
fn statuses(plan: PlanId, following: Following) -> impl Stream<Item = Told<NodeExecutionStatusEvent>> {
    let teller = StatusTeller::new(following.project().id(), plan);
    let batches = stream::unfold(Some((following, teller)), move |state| async move {
        let (mut following, mut teller) = state?;
        let batch = match following.next().await {
            Ok(PlanEvent::Changed(applied)) => told(teller.changed(&applied), Some(applied.revision())),
            Ok(PlanEvent::Snapshot { plan, .. }) => told(teller.snapshot(&plan), Some(plan.revision())),
            Ok(PlanEvent::Progress(progress)) => {
                // Asked is who told it: another actor may serve the project since the stream began. A report that can't be
                // shown is not worth the stream: the next one follows.
                if !teller.knows(&progress)
                    && let Ok(now) = following.project().read(plan).await
                {
                    teller.learn(&now);
                }
                told(teller.progressed(&progress), None)
            }
            Ok(PlanEvent::MembersChanged) => Vec::new(),
            Err(ended) => return Some((stream::iter(vec![Err(ended.into())]), None)),
        };
        Some((stream::iter(batch), Some((following, teller))))
    });
    batches.flatten()
}

/// What happens to a project's people.
async fn people(
    access: &Access,
    plan: PlanId,
) -> Result<impl Stream<Item = Result<CollaborationEvent, ApiError>> + use<>, ApiError> {
    let watch = presence::ask(&access.project, |reply| PresenceCommand::Watch { reply }).await?;
    let events = stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let event = watch.next().await;
        let rest = event.is_ok().then_some(watch);
        Some((event, rest))
    });
    let (project, user) = (access.project.clone(), access.user_id.clone());
    Ok(events.filter_map(move |event| {
        // The plan's changes end with the right; people must not be told of in the meantime.
        let told = match (event, project.members().role_of(&user)) {
            (Err(ended), _) => Some(Err(ended.into())),
            (Ok(event), Some(_)) => CollaborationEvent::of_people(plan, event).map(Ok),
            (Ok(_), None) => Some(Err(Ended::Forbidden.into())),
        };
        future::ready(told)
    }))
}

/// Tells an event stream how far each event leads right before it is given out.
fn mark<T, E>(ctx: &Context<'_>, events: E) -> impl Stream<Item = Result<T, ApiError>> + use<T, E>
where
    E: Stream<Item = Told<T>>,
{
    let id = ctx.data_opt::<EventRevision>().cloned();
    events.map(move |told| {
        let (event, reached) = told?;
        if let Some(id) = &id {
            id.set(reached);
        }
        Ok(event)
    })
}

/// The stream up to and with its first error.
fn until_error<T: Send + 'static>(
    events: impl Stream<Item = Result<T, ApiError>> + Send + 'static,
) -> impl Stream<Item = Result<T, ApiError>> {
    stream::unfold(Some(events.boxed()), |events| async move {
        let mut events = events?;
        let event = events.next().await?;
        let rest = event.is_ok().then_some(events);
        Some((event, rest))
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use mille_shared::execution::ExecutionState;
    use mille_shared::operation::{Edit, ExecutionReport, NewNode, Operation};
    use mille_shared::plan::{NodeMetadata, PlanNodeType, Position};
    use mille_shared::{ClientId, OperationId, PlanNodeId, RunId, UserId};
    use tokio::time::timeout;

    use super::*;
    use crate::backend::embedded::Embedded;
    use crate::clock;
    use crate::project::tests::{TestNode, eventually, halfway};

    fn operation(id: &str, edits: Vec<Edit>) -> Operation {
        Operation {
            id: OperationId::new(id),
            user_id: UserId::new("ada"),
            client_id: ClientId::none(),
            at: clock::now(),
            expected_revision: None,
            edits,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_also_when_another_actor_serves_the_project_since() {
        let node = TestNode::start(&Embedded::new(), "a").await;
        let ada = UserId::new("ada");
        let project = node.projects.create_project("harbour", None, &ada).await.expect("a project").project;
        let plan = project.plan_id(None).await.expect("a plan");
        let new = |id: &str| {
            Edit::AddNode(NewNode {
                id: PlanNodeId::new(id),
                node_type: PlanNodeType::DataSourceNode,
                position: Position { x: 0.0, y: 0.0 },
                metadata: NodeMetadata { label: id.to_owned(), description: None },
                config: "{}".into(),
            })
        };
        project.submit(plan, operation("new", vec![new("pier"), new("quay")]), true).await.expect("an edit");
        let following = project.follow(plan, &ada, Start::Next, true).await.expect("follow");
        let mut statuses = pin!(statuses(plan, following));
        for _ in 0..4 {
            project.fail().await;
        }
        eventually("it is given up", async || !project.is_served()).await;

        let again = node.projects.access(project.id(), &ada, Role::Editor).await.expect("access").project;
        let report = ExecutionReport {
            id: PlanNodeId::new("quay"),
            run_id: RunId::new("run"),
            state: ExecutionState::Processing,
            message: None,
            datasource: None,
            graph: None,
        };
        let edit = operation("state", vec![Edit::ReportExecution(report)]);
        let revision = again.submit(plan, edit, true).await.expect("an edit").revision;
        let state = timeout(Duration::from_secs(60), statuses.next()).await.expect("a state");
        assert!(matches!(state, Some(Ok((_, reached))) if reached == Some(revision)));
        again.report_progress(plan, halfway(revision));
        let told =
            timeout(Duration::from_secs(60), statuses.next()).await.expect("progress of a plan node not yet heard of");
        assert!(matches!(told, Some(Ok((_, None)))), "of no change");
        node.stop().await;
    }

    #[test]
    fn only_the_last_event_of_a_change_leads_to_its_revision() {
        let revision = Some(Revision { epoch: 1, seq: 7 });
        let reached = |count: u32| -> Vec<_> {
            told(0..count, revision).into_iter().filter_map(|told| told.ok().map(|(_, reached)| reached)).collect()
        };
        assert_eq!(reached(3), [None, None, revision]);
        assert_eq!(reached(1), [revision]);
        assert!(reached(0).is_empty());
    }
}
