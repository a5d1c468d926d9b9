//! What a project's actor asks of the store: plain futures that run beside it and come back as inputs.

use mille_core::Plan;
use mille_core::plan::ApplyError;
use mille_shared::log::{CommitOutcome, Head, Proposal};
use mille_shared::{PlanId, limits};

use crate::backend::{self, Backend, Channel, Lane};
use crate::bridge::{Bridge, FeedSender};

/// Why a plan can't be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum OpenFailure {
    /// It has no log.
    #[error("the plan has no log")]
    NoLog,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] backend::Error),
    /// Its log or snapshot can't be read.
    #[error("the plan can't be read: {0}")]
    Corrupt(String),
}

/// How often a plan is read again because it was trimmed while being read.
const OPEN_ATTEMPTS_MAX: u32 = 3;

/// Subscribes first, reads second: whatever happens in between is heard.
pub(super) async fn open(
    bridge: Bridge,
    backend: Backend,
    plan: PlanId,
    feed: FeedSender,
) -> Result<Plan, OpenFailure> {
    bridge.listen(Channel::Plan(plan), &feed).await?;
    let opened = load(backend, plan).await;
    if opened.is_err() {
        bridge.forget(Channel::Plan(plan), &feed).await;
    }
    opened
}

/// The plan at its log's head: the newest snapshot and every entry since.
pub(super) async fn load(backend: Backend, id: PlanId) -> Result<Plan, OpenFailure> {
    let mut attempt = 1;
    loop {
        match load_once(&backend, id).await {
            Err(OpenFailure::Corrupt(why)) if attempt < OPEN_ATTEMPTS_MAX => {
                tracing::debug!(plan.id = %id, why, "a plan is read again");
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn load_once(backend: &Backend, id: PlanId) -> Result<Plan, OpenFailure> {
    let corrupt = |error: ApplyError| OpenFailure::Corrupt(error.to_string());
    let mut plan = match backend.snapshots.load(id, None, Lane::Repair).await? {
        Some(stored) => {
            let plan = Plan::from_snapshot(stored.head, &stored.payload);
            Some(plan.map_err(|error| OpenFailure::Corrupt(error.to_string()))?)
        }
        None => None,
    };
    loop {
        let after = plan.as_ref().map(Plan::revision);
        let page = backend.log.range(id, after, limits::LOG_PAGE_ENTRIES, Lane::Repair).await?;
        for entry in &page.entries {
            match &mut plan {
                None => plan = Some(Plan::begin(entry).map_err(corrupt)?),
                Some(plan) => {
                    plan.apply(entry).map_err(corrupt)?;
                }
            }
        }
        if !page.has_more {
            return plan.ok_or(OpenFailure::NoLog);
        }
    }
}

/// Offers a batch; an empty one only compares the head.
pub(super) async fn commit(
    backend: Backend,
    plan: PlanId,
    expected: Head,
    batch: Vec<Proposal>,
) -> backend::Result<CommitOutcome> {
    if !batch.is_empty() {
        return backend.log.commit(plan, expected, &batch).await;
    }
    let head = head(backend, plan).await?;
    Ok(if head == Some(expected) { CommitOutcome::Committed } else { CommitOutcome::Moved { head } })
}

/// A plan's head.
pub(super) async fn head(backend: Backend, plan: PlanId) -> backend::Result<Option<Head>> {
    Ok(backend.log.heads(&[plan]).await?.into_iter().next().flatten())
}
