//! A store that can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use mille_shared::log::{
    CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, StoredSnapshot, Terms,
};
use mille_shared::{ConnectionId, NodeId, PlanId, ProjectId, Revision};
use tokio::time::sleep;

use crate::backend::{self, EventLog, Lane, Noted, PresenceField, PresenceStore};

/// The store's log, which does not let itself be read when it is told so, and counts who asks for heads.
pub(super) struct Log {
    pub(super) store: Arc<dyn EventLog>,
    pub(super) is_unreadable: AtomicBool,
    /// Whoever opens a plan can't read it either; whoever reads its past can.
    pub(super) is_unopenable: AtomicBool,
    /// The next who asks for heads meets a mistake of ours.
    pub(super) is_faulty: AtomicBool,
    pub(super) heads_asked: AtomicUsize,
    pub(super) pages_read: AtomicUsize,
    /// How long a batch is on its way to the store.
    pub(super) commit_takes_ms: AtomicU64,
}

#[async_trait]
impl EventLog for Log {
    async fn create(&self, plan: PlanId, epoch: u64, first: Proposal) -> backend::Result<Head> {
        // A store is never there at once.
        tokio::task::yield_now().await;
        self.store.create(plan, epoch, first).await
    }

    async fn commit(
        &self,
        plan: PlanId,
        expected: Head,
        batch: &[Proposal],
        terms: &Terms,
    ) -> backend::Result<CommitOutcome> {
        let way = self.commit_takes_ms.load(Ordering::Relaxed);
        if way > 0 {
            sleep(Duration::from_millis(way)).await;
        }
        self.store.commit(plan, expected, batch, terms).await
    }

    fn lives(&self) -> BoxStream<'static, StoreLife> {
        self.store.lives()
    }

    async fn revive(
        &self,
        plan: PlanId,
        snapshot: StoredSnapshot,
        changes: &[(LogEntry, OperationKey)],
        known_in: Option<&StoreLife>,
    ) -> backend::Result<LogState> {
        self.store.revive(plan, snapshot, changes, known_in).await
    }

    async fn range(&self, plan: PlanId, after: Option<Revision>, limit: usize, lane: Lane) -> backend::Result<LogPage> {
        let is_unopenable = lane == Lane::Repair && self.is_unopenable.load(Ordering::Relaxed);
        if is_unopenable || self.is_unreadable.load(Ordering::Relaxed) {
            return Err(backend::Error::Busy("told so".to_owned()));
        }
        self.pages_read.fetch_add(1, Ordering::Relaxed);
        // A store is never there at once.
        tokio::task::yield_now().await;
        self.store.range(plan, after, limit, lane).await
    }

    async fn heads(&self, plans: &[PlanId]) -> backend::Result<Vec<Option<LogState>>> {
        assert!(!self.is_faulty.swap(false, Ordering::Relaxed), "told to fail");
        self.heads_asked.fetch_add(1, Ordering::Relaxed);
        // A store is never there at once: whoever asks meanwhile waits for the next question.
        sleep(Duration::from_millis(1)).await;
        self.store.heads(plans).await
    }

    async fn find(&self, plan: PlanId, key: &OperationKey) -> backend::Result<Option<Revision>> {
        self.store.find(plan, key).await
    }

    async fn note_unchanged(&self, plan: PlanId, key: &OperationKey, found: Head) -> backend::Result<Noted> {
        self.store.note_unchanged(plan, key, found).await
    }

    async fn delete(&self, plan: PlanId) -> backend::Result<()> {
        self.store.delete(plan).await
    }
}

/// The store's tables of who is present; the next who writes meets a mistake of ours when it is told so.
pub(super) struct Tables {
    pub(super) store: Arc<dyn PresenceStore>,
    pub(super) is_faulty: AtomicBool,
    /// Whoever writes gets no answer.
    pub(super) is_hung: AtomicBool,
    /// Whoever renews is told that there is none.
    pub(super) is_unrenewable: AtomicBool,
}

#[async_trait]
impl PresenceStore for Tables {
    async fn put(
        &self,
        project: ProjectId,
        node: &NodeId,
        connection: &ConnectionId,
        presence: &str,
        ttl: Duration,
    ) -> backend::Result<()> {
        assert!(!self.is_faulty.swap(false, Ordering::Relaxed), "told to fail");
        if self.is_hung.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.store.put(project, node, connection, presence, ttl).await
    }

    async fn remove(&self, project: ProjectId, node: &NodeId, connection: &ConnectionId) -> backend::Result<()> {
        self.store.remove(project, node, connection).await
    }

    async fn renew(&self, projects: &[ProjectId], node: &NodeId, ttl: Duration) -> backend::Result<Vec<ProjectId>> {
        if self.is_unrenewable.load(Ordering::Relaxed) {
            return Err(backend::Error::Unavailable("told to fail".to_owned()));
        }
        self.store.renew(projects, node, ttl).await
    }

    async fn load(&self, project: ProjectId) -> backend::Result<Vec<(NodeId, Vec<PresenceField>)>> {
        self.store.load(project).await
    }

    async fn clear(&self, project: ProjectId, node: &NodeId) -> backend::Result<()> {
        self.store.clear(project, node).await
    }
}
