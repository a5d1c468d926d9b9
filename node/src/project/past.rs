//! The past of a plan, read once for all who come back at the time.
//!
//! After a node's death, or a break in the network, many listeners ask for much the same changes, older than memory. One
//! job reads them from the log, from the oldest place asked for up to our head, and all are told from what it read. It is
//! kept for a moment, for those who come a little later, and for as long as somebody reads it slowly. What is too large to be
//! held is not shared: each then reads its own, page by page. How much of the past a node's listeners hold in all is bounded
//! by its [`PastRoom`].

use std::sync::Arc;
use std::time::Duration;

use mille_core::Applied;
use mille_core::replay::Unreachable;
use mille_shared::log::Head;
use mille_shared::{PlanId, Revision};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::replay::{LogReplay, ReplayError};
use crate::backend::{self, Backend};

/// Changes of a past that is shared.
const CHANGES_MAX: usize = 20_000;
/// Bytes of them.
const BYTES_MAX: usize = 40 * 1024 * 1024;
/// How long it is kept after it was read.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(5);

/// KiB of all pasts that a node shares among listeners. What is more is not shared.
const SHARED_KIB_MAX: usize = 256 * 1024;
/// Listeners of a node that read their own past at a time; each holds a plan and a page. Who gets no turn is given a SNAPSHOT.
const LISTENERS_MAX: usize = 16;
/// How long a listener waits for its turn.
pub(super) const TURN_PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks meanwhile whether it may still listen.
const TURN_LOOK: Duration = Duration::from_millis(500);
/// Plans of the past that a node holds at once, for those who repeat an operation or ask for changes.
const PLANS_MAX: usize = 8;

/// Room for the past that a node holds for whoever asks for it, over all plans. Cheap to clone. The semaphores are never closed.
#[derive(Clone)]
pub(super) struct PastRoom {
    shared_kib: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    plans: Arc<Semaphore>,
}

/// Room that is taken until this is dropped.
pub(super) type Taken = OwnedSemaphorePermit;

impl PastRoom {
    pub(super) fn new() -> Self {
        let [shared_kib, listeners, plans] =
            [SHARED_KIB_MAX, LISTENERS_MAX, PLANS_MAX].map(|room| Arc::new(Semaphore::new(room)));
        Self { shared_kib, listeners, plans }
    }

    /// Room for so many bytes that are shared, if there is so much.
    pub(super) fn share(&self, bytes: usize) -> Option<Taken> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        Arc::clone(&self.shared_kib).try_acquire_many_owned(kib).ok()
    }

    /// A listener's turn to read its own past; `None` if others have made no room yet.
    pub(super) async fn listener(&self) -> Option<Taken> {
        timeout(TURN_LOOK, Arc::clone(&self.listeners).acquire_owned()).await.ok()?.ok()
    }

    /// The turn of somebody who holds a plan of the past; waits until there is room.
    pub(super) async fn plan(&self) -> Option<Taken> {
        Arc::clone(&self.plans).acquire_owned().await.ok()
    }

    /// Reads what takes a plan of the past, in its turn; all of it within `patience`. To be polled until it is over, since others
    /// wait for the turn.
    pub(super) async fn in_turn<T, E: From<backend::Error>>(
        &self,
        patience: Duration,
        reading: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let in_turn = async {
            let _turn = self.plan().await;
            reading.await
        };
        let crowded = |_| Err(backend::Error::Busy("too many ask for the past of plans".to_owned()).into());
        timeout(patience, in_turn).await.unwrap_or_else(crowded)
    }
}

/// Changes that follow each other without a hole.
#[derive(Debug)]
pub(super) struct Past {
    after: Revision,
    changes: Vec<Arc<Applied>>,
    /// One for each page.
    _room: Vec<Taken>,
}

/// Why a past is not shared.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotShared {
    /// As when it is read for one; or it is too large from this place on.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The node holds as much as it may, whichever the place.
    #[error("there is no room for it")]
    NoRoom,
}

impl From<Unreachable> for NotShared {
    fn from(unreachable: Unreachable) -> Self {
        Self::Replay(unreachable.into())
    }
}

impl Past {
    /// Reads the changes after a place up to another.
    ///
    /// # Errors
    /// [`NotShared`].
    pub(super) async fn read(
        room: PastRoom,
        backend: Backend,
        plan: PlanId,
        after: Revision,
        until: Revision,
    ) -> Result<Self, NotShared> {
        let mut replay = LogReplay::new(backend, plan, after, until);
        let (mut changes, mut bytes, mut taken) = (Vec::new(), 0, Vec::new());
        loop {
            let page = replay.next_page().await?;
            if page.is_empty() {
                return Ok(Self { after, changes, _room: taken });
            }
            let page_bytes = page.iter().map(|applied| applied.weight_bytes()).sum();
            bytes += page_bytes;
            changes.extend(page);
            if changes.len() > CHANGES_MAX || bytes > BYTES_MAX {
                return Err(Unreachable { after }.into());
            }
            taken.push(room.share(page_bytes).ok_or(NotShared::NoRoom)?);
        }
    }

    /// The last change.
    pub(super) fn end(&self) -> Option<Head> {
        self.changes.last().map(|last| last.head)
    }

    /// Which of the changes is the first after a place, if that place is here.
    pub(super) fn index_after(&self, place: Revision) -> Option<usize> {
        if place == self.after {
            return Some(0);
        }
        let index = usize::try_from(place.seq.checked_sub(self.after.next().seq)?).ok()?;
        (self.changes.get(index)?.revision() == place).then_some(index + 1)
    }

    /// How many changes there are from this index on.
    pub(super) fn len_from(&self, index: usize) -> usize {
        self.changes.len().saturating_sub(index)
    }

    /// The change with this index.
    pub(super) fn get(&self, index: usize) -> Option<&Arc<Applied>> {
        self.changes.get(index)
    }
}
