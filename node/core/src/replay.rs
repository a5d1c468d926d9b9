//! The past told again: changes that memory no longer holds, from a snapshot and the log.
//!
//! A change's delta needs the document before it, so a replay starts at a snapshot at or before the place asked for,
//! applies what lies between in silence, and tells the rest. What it tells equals what was told live.

use std::sync::Arc;

use mille_shared::Revision;
use mille_shared::log::{LogEntry, StoredSnapshot};

use crate::applied::Applied;
use crate::plan::{ApplyError, Plan};

/// The past between two revisions, while it is being read.
#[derive(Debug)]
pub struct Replay {
    plan: Option<Plan>,
    after: Revision,
    until: Revision,
}

/// The log no longer reaches back, or is no longer the history it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log does not reach back to {after}")]
pub struct Unreachable {
    /// The place asked for.
    pub after: Revision,
}

impl Replay {
    /// A replay of the changes after `after` up to `until`, from the newest snapshot at or before `after`, or from the
    /// beginning of the log if there is none.
    ///
    /// # Errors
    /// [`Unreachable`] if the snapshot is behind the place asked for, of another epoch, or can't be read.
    pub fn new(base: Option<&StoredSnapshot>, after: Revision, until: Revision) -> Result<Self, Unreachable> {
        let unreachable = Unreachable { after };
        let plan = match base {
            None => None,
            Some(base) if base.head.revision.epoch == after.epoch && base.head.revision <= after => {
                let plan = Plan::from_snapshot(base.head, &base.payload).map_err(|_| unreachable.clone())?;
                Some(plan)
            }
            Some(_) => return Err(unreachable),
        };
        Ok(Self { plan, after, until })
    }

    /// The place after which the log must be read next.
    #[must_use]
    pub fn position(&self) -> Option<Revision> {
        self.plan.as_ref().map(Plan::revision)
    }

    /// Whether everything up to `until` was told.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.revision() >= self.until)
    }

    /// The plan at the place the replay has reached.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Takes the entries that follow [`Self::position`] and tells the changes among them that were asked for.
    ///
    /// # Errors
    /// [`Unreachable`] if they do not follow: the log was trimmed or replaced meanwhile.
    pub fn feed(&mut self, entries: &[LogEntry]) -> Result<Vec<Arc<Applied>>, Unreachable> {
        let unreachable = |_: ApplyError| Unreachable { after: self.after };
        let mut told = Vec::new();
        for entry in entries {
            if entry.revision.epoch != self.until.epoch {
                return Err(Unreachable { after: self.after });
            }
            if entry.revision > self.until {
                break;
            }
            match &mut self.plan {
                None => self.plan = Some(Plan::begin(entry).map_err(unreachable)?),
                Some(plan) => {
                    let applied = plan.apply(entry).map_err(unreachable)?;
                    if entry.revision > self.after {
                        told.push(Arc::new(applied));
                    }
                }
            }
        }
        Ok(told)
    }
}
