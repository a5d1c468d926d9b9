//! Reading the past of a plan from the log, for one listener or one query.
//!
//! Runs page by page through the store's bulkhead: a thousand resumes wait for each other, not edits for them. Nothing is held
//! but the plan at the place reached and one page; whoever reads takes turns with others ([`PastRoom`](super::past::PastRoom)).

use std::sync::Arc;
use std::time::Duration;

use mille_core::replay::{Replay, Unreachable};
use mille_core::{Applied, Plan, chain};
use mille_shared::log::ChainHash;
use mille_shared::{PlanId, Revision, limits};

use super::aside::aside_if_large;
use super::command::{DeltaPage, Rejection};
use super::handle::ProjectHandle;
use crate::backend::{self, Backend, Lane};

/// How often a store that does not answer is asked again before a reader is given a snapshot from memory instead.
const ATTEMPTS_MAX: u32 = 5;
/// How often one that is busy with other readers is. About a minute: they get done, and the log is there.
const BUSY_ATTEMPTS_MAX: u32 = 60;
/// The pause before the second attempt; it doubles with each.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const ATTEMPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long an answer is read while the store is busy with others who ask.
const PAGE_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of payload with which an answer ends: a thousand changes may be as large as a thousand requests. Whoever asked goes on
/// behind its last one.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// The changes between two revisions, read page by page.
pub(super) struct LogReplay {
    backend: Backend,
    plan: PlanId,
    after: Revision,
    until: Revision,
    /// The newest place at which it may begin to read.
    base_max: Revision,
    /// The hash at `after` that the first change must continue.
    known: Option<ChainHash>,
    replay: Option<Replay>,
}

/// Why a replay can't go on.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ReplayError {
    /// The log no longer reaches back.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] backend::Error),
}

impl ReplayError {
    /// What a listener's SNAPSHOT says instead.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "the log no longer reaches back to the revision asked for",
            Self::Store(_) => "the log does not answer",
        }
    }
}

impl LogReplay {
    pub(super) fn new(backend: Backend, plan: PlanId, after: Revision, until: Revision) -> Self {
        Self { backend, plan, after, until, base_max: after, known: None, replay: None }
    }

    /// The same, if the log is still the history with this hash; [`Unreachable`] otherwise.
    pub(super) fn behind(self, known: Option<ChainHash>) -> Self {
        Self { known, ..self }
    }

    /// Whether all was read: the next page is empty.
    pub(super) fn is_done(&self) -> bool {
        self.replay.as_ref().is_some_and(Replay::is_done)
    }

    /// The next changes, in order; empty at the end.
    ///
    /// # Errors
    /// [`ReplayError`]; the replay is over then.
    pub(super) async fn next_page(&mut self) -> Result<Vec<Arc<Applied>>, ReplayError> {
        let mut attempt = 0;
        loop {
            match self.read_page().await {
                Err(ReplayError::Store(error)) if attempt < attempts_max(&error) => {
                    tracing::debug!(%error, attempt, "a page of the log is read again");
                    let pause = ATTEMPT_PAUSE.saturating_mul(1 << attempt.min(10)).min(ATTEMPT_PAUSE_MAX);
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// All of it, for who asks where it leads and not what it tells.
    async fn run(mut self) -> Result<Option<Replay>, ReplayError> {
        while !self.next_page().await?.is_empty() {}
        Ok(self.replay)
    }

    async fn read_page(&mut self) -> Result<Vec<Arc<Applied>>, ReplayError> {
        let replay = match &mut self.replay {
            Some(replay) => replay,
            None => {
                let base = self.backend.snapshots.load(self.plan, Some(self.base_max), Lane::Replay).await?;
                let bytes = base.as_ref().map_or(0, |base| base.payload.len());
                let (after, until) = (self.after, self.until);
                let replay = aside_if_large(bytes, move || Replay::new(base.as_ref(), after, until)).await?;
                self.replay.insert(replay)
            }
        };
        while !replay.is_done() {
            let log = &self.backend.log;
            let page = log.range(self.plan, replay.position(), limits::LOG_PAGE_ENTRIES, Lane::Replay).await?;
            if page.entries.is_empty() {
                return Err(Unreachable { after: self.after }.into());
            }
            let told = replay.feed(&page.entries)?;
            if let Some(first) = told.first() {
                if self
                    .known
                    .take()
                    .is_some_and(|known| chain::link(known, first.revision(), &first.payload) != first.head.hash)
                {
                    return Err(Unreachable { after: self.after }.into());
                }
                return Ok(told);
            }
        }
        Ok(Vec::new())
    }
}

fn attempts_max(error: &backend::Error) -> u32 {
    if matches!(error, backend::Error::Busy(_)) { BUSY_ATTEMPTS_MAX } else { ATTEMPTS_MAX }
}

/// Up to `limit` changes after a revision; fewer if they are large.
pub(super) async fn page(
    project: &ProjectHandle,
    plan: PlanId,
    after: Revision,
    limit: usize,
) -> Result<DeltaPage, Rejection> {
    let head = project.read(plan).await?.revision();
    if after.epoch != head.epoch || after > head {
        return Err(Rejection::Unrecoverable { after, head });
    }
    if after == head {
        return Ok(DeltaPage { changes: Vec::new(), end_revision: head, has_more: false });
    }
    let until = Revision { seq: head.seq.min(after.seq.saturating_add(limit as u64)), ..after };
    let reading = between(project.projects.backend().clone(), plan, after, until);
    let changes = project.read_past(PAGE_PATIENCE, reading).await.map_err(|error| match error {
        ReplayError::Unreachable(_) => Rejection::Unrecoverable { after, head },
        ReplayError::Store(_) => Rejection::Unavailable,
    })?;
    let end_revision = changes.last().map_or(after, |last| last.revision());
    Ok(DeltaPage { changes, end_revision, has_more: end_revision < head })
}

/// The change with this revision, from the log. `None`: it can't be told any more.
pub(super) async fn change_at(
    backend: Backend,
    plan: PlanId,
    revision: Revision,
) -> backend::Result<Option<Arc<Applied>>> {
    let Some(base_max) = revision.previous() else { return Ok(None) };
    // All that leads to it is passed in silence: what is before it may be of another epoch.
    let replay = LogReplay { base_max, ..LogReplay::new(backend, plan, revision, revision) };
    match replay.run().await {
        Ok(replay) => Ok(replay.and_then(Replay::into_last).filter(|last| last.revision() == revision)),
        Err(ReplayError::Unreachable(_)) => Ok(None),
        Err(ReplayError::Store(error)) => Err(error),
    }
}

/// The plan as the change with this revision left it, from snapshot and log.
pub(super) async fn plan_at(backend: Backend, plan: PlanId, revision: Revision) -> Result<Arc<Plan>, ReplayError> {
    let replay = LogReplay::new(backend, plan, revision, revision).run().await?;
    let plan = replay.and_then(Replay::into_plan);
    plan.map(Arc::new).ok_or_else(|| Unreachable { after: revision }.into())
}

/// The changes between two revisions, or as many of them as one answer holds; one at least, if there is one.
async fn between(
    backend: Backend,
    plan: PlanId,
    after: Revision,
    until: Revision,
) -> Result<Vec<Arc<Applied>>, ReplayError> {
    let mut replay = LogReplay::new(backend, plan, after, until);
    let (mut changes, mut bytes) = (Vec::new(), 0);
    loop {
        let page = replay.next_page().await?;
        if page.is_empty() {
            return Ok(changes);
        }
        for applied in page {
            bytes += applied.payload.len();
            changes.push(applied);
            if bytes >= ANSWER_BYTES {
                return Ok(changes);
            }
        }
    }
}
