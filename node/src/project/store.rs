//! What a project's actor asks of the store: plain futures that run beside it and come back as inputs.

use std::sync::Arc;

use mille_core::plan::ApplyError;
use mille_core::{Applied, Opened, Plan};
use mille_shared::log::{CommitOutcome, Head, LogState, Proposal, StoreLife, Terms};
use mille_shared::{PlanId, ProjectId, limits};

use super::aside::{aside, aside_if_large};
use crate::backend::{self, Backend, Channel, Lane, Retention};
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

/// A plan, and the project it is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub project: ProjectId,
    pub plan: PlanId,
}

impl Owner {
    /// A plan may have been deleted, and a failover may forget a plan and give its number to another project's.
    async fn check(self, backend: &Backend) -> Result<(), OpenFailure> {
        let is_its = backend.directory.reclaim_plan(self.project, self.plan).await?;
        if is_its { Ok(()) } else { Err(OpenFailure::NoLog) }
    }
}

/// How often a plan is read again because it was trimmed while being read.
const OPEN_ATTEMPTS_MAX: u32 = 3;

/// A plan that was opened, and where its log was seen to end after that.
pub(super) struct Opening {
    pub plan: Box<Opened>,
    pub state: LogState,
}

/// Subscribes first, reads second: whatever happens in between is heard.
pub(super) async fn open(
    bridge: Bridge,
    backend: Backend,
    plan: PlanId,
    feed: FeedSender,
) -> Result<Opening, OpenFailure> {
    bridge.listen(Channel::Plan(plan), &feed).await?;
    let opened = async {
        let opened = load(backend.clone(), plan).await?;
        Ok(Opening { plan: opened, state: state(&backend, plan).await? })
    };
    let opened = opened.await;
    if opened.is_err() {
        bridge.forget(Channel::Plan(plan), &feed).await;
    }
    opened
}

/// The plan at its log's head: the newest snapshot and every entry since.
pub(super) async fn load(backend: Backend, id: PlanId) -> Result<Box<Opened>, OpenFailure> {
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

async fn load_once(backend: &Backend, id: PlanId) -> Result<Box<Opened>, OpenFailure> {
    let corrupt = |error: ApplyError| OpenFailure::Corrupt(error.to_string());
    let mut opened = match backend.snapshots.load(id, None, Lane::Repair).await? {
        Some(stored) => {
            let opened = aside_if_large(stored.payload.len(), move || Opened::from_snapshot(&stored)).await;
            Some(opened.map_err(|error| OpenFailure::Corrupt(error.to_string()))?)
        }
        None => None,
    };
    loop {
        let after = opened.as_ref().map(Opened::revision);
        let page = backend.log.range(id, after, limits::LOG_PAGE_ENTRIES, Lane::Repair).await?;
        for entry in &page.entries {
            match &mut opened {
                None => opened = Some(Opened::begin(entry).map_err(corrupt)?),
                Some(opened) => opened.apply(entry).map_err(corrupt)?,
            }
        }
        if !page.has_more {
            return opened.map(Box::new).ok_or(OpenFailure::NoLog);
        }
    }
}

/// Offers a batch; an empty one only compares the head.
pub(super) async fn commit(
    backend: Backend,
    plan: PlanId,
    expected: Head,
    batch: Vec<Proposal>,
    terms: Terms,
) -> backend::Result<CommitOutcome> {
    if !batch.is_empty() {
        return backend.log.commit(plan, expected, &batch, &terms).await;
    }
    let LogState { head, life } = state(&backend, plan).await?;
    Ok(if head == Some(expected) { CommitOutcome::Committed { life } } else { CommitOutcome::Moved { head } })
}

/// Keeps a snapshot. A large plan takes a while to write down, so that is done where nobody waits for the thread.
pub(super) async fn keep_snapshot(backend: Backend, id: PlanId, plan: Arc<Plan>, retention: Retention) {
    let revision = plan.revision();
    let Ok(snapshot) = tokio::task::spawn_blocking(move || plan.to_snapshot()).await else {
        return tracing::error!(plan.id = %id, %revision, "a snapshot can't be written down");
    };
    match backend.snapshots.store(id, snapshot, retention).await {
        Ok(kept) => tracing::debug!(plan.id = %id, %revision, kept, "snapshot"),
        Err(error) => tracing::warn!(plan.id = %id, %error, "a snapshot was not kept; the next one will be"),
    }
}

/// Opens a plan anew whose history turned out to be another.
pub(super) async fn reload(backend: Backend, owner: Owner) -> Result<Box<Opened>, OpenFailure> {
    owner.check(&backend).await?;
    load(backend, owner.plan).await
}

/// Puts back a log that is gone whole.
pub(super) async fn revive(
    backend: Backend,
    owner: Owner,
    plan: Arc<Plan>,
    changes: Vec<Arc<Applied>>,
    known_in: Option<StoreLife>,
) -> Result<LogState, OpenFailure> {
    owner.check(&backend).await?;
    let changes: Vec<_> = changes.iter().map(|applied| (applied.entry(), applied.operation_key())).collect();
    let snapshot = aside(move || plan.to_snapshot()).await;
    Ok(backend.log.revive(owner.plan, snapshot, &changes, known_in.as_ref()).await?)
}

/// Where a plan's log ends.
pub(super) async fn state(backend: &Backend, plan: PlanId) -> backend::Result<LogState> {
    let state = backend.log.heads(&[plan]).await?.into_iter().flatten().next();
    state.ok_or_else(|| backend::Error::Corrupt("no head for a plan that was asked for".to_owned()))
}
