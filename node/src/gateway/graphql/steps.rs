//! A step of a delivery apart from all others, for who times it (`benches/delivery.rs`): nodes take it within their groups.

use std::sync::Arc;

use async_graphql::{Context, EmptyMutation, Object, Schema, Subscription};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use mille_shared::{PlanId, ProjectId};
use parking_lot::Mutex;

use super::events::PlanDagDeltaEvent;
use super::projection::Projection;
use crate::gateway::fanout::Writer;

struct Nothing;

#[Object]
impl Nothing {
    async fn is_here(&self) -> bool {
        true
    }
}

/// A stream of no events, which leaves what was selected of it.
struct Asked(Arc<Mutex<Option<Projection>>>);

#[Subscription]
impl Asked {
    async fn plan_dag_delta_changed(&self, ctx: &Context<'_>) -> impl Stream<Item = PlanDagDeltaEvent> + use<> {
        *self.0.lock() = Projection::of(ctx.field());
        stream::empty()
    }
}

/// What writes the answers to a subscription to `planDagDeltaChanged` without arguments. `None`: it is none, or must be executed.
#[must_use]
pub fn writer_of(query: &str, project: ProjectId, plan: PlanId) -> Option<Writer> {
    let selected = Arc::new(Mutex::new(None));
    let schema = Schema::build(Nothing, EmptyMutation, Asked(Arc::clone(&selected))).finish();
    let _nothing = schema.execute_stream(query).next().now_or_never();
    let projection = selected.lock().take()?;
    Some(Box::new(move |event| PlanDagDeltaEvent::of(project, plan, event).map(|event| projection.write(&event))))
}
