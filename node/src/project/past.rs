//! The past of a plan, read once for all who come back at the time.
//!
//! After a node's death, or a break in the network, many listeners ask for much the same changes, older than memory. One
//! job reads them from the log, from the oldest place asked for up to our head, and all are told from what it read. It is
//! kept for a moment, for those who come a little later. What is too large to be held is not shared: each then reads its
//! own, page by page.

use std::sync::Arc;
use std::time::Duration;

use mille_core::Applied;
use mille_core::replay::Unreachable;
use mille_shared::log::Head;
use mille_shared::{PlanId, Revision};

use super::replay::{LogReplay, ReplayError};
use crate::backend::Backend;

/// Changes of a past that is shared.
const CHANGES_MAX: usize = 20_000;
/// Bytes of them.
const BYTES_MAX: usize = 40 * 1024 * 1024;
/// How long it is kept after it was read.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(5);

/// Changes that follow each other without a hole.
#[derive(Debug)]
pub(super) struct Past {
    after: Revision,
    changes: Vec<Arc<Applied>>,
}

impl Past {
    /// Reads the changes after a place up to another.
    ///
    /// # Errors
    /// [`ReplayError`] as when it is read for one; [`Unreachable`] also if it is too large to be shared.
    pub(super) async fn read(
        backend: Backend,
        plan: PlanId,
        after: Revision,
        until: Revision,
    ) -> Result<Self, ReplayError> {
        let mut replay = LogReplay::new(backend, plan, after, until);
        let (mut changes, mut bytes) = (Vec::new(), 0);
        loop {
            let page = replay.next_page().await?;
            if page.is_empty() {
                return Ok(Self { after, changes });
            }
            bytes += page.iter().map(|applied| applied.weight_bytes()).sum::<usize>();
            changes.extend(page);
            if changes.len() > CHANGES_MAX || bytes > BYTES_MAX {
                return Err(Unreachable { after }.into());
            }
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
