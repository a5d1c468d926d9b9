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
    /// The place asked for was reached.
    is_telling: bool,
    /// The last change, told or not.
    last: Option<Arc<Applied>>,
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
    /// [`Unreachable`] if the snapshot is behind the place asked for or can't be read, or if the two places are of two
    /// epochs: between them is what nobody can tell change by change.
    pub fn new(base: Option<&StoredSnapshot>, after: Revision, until: Revision) -> Result<Self, Unreachable> {
        let unreachable = Unreachable { after };
        if after.epoch != until.epoch {
            return Err(unreachable);
        }
        let plan = match base {
            None => None,
            Some(base) if base.head.revision <= after => {
                let plan = Plan::from_snapshot(base.head, &base.payload).map_err(|_| unreachable.clone())?;
                Some(plan)
            }
            Some(_) => return Err(unreachable),
        };
        Ok(Self { plan, after, until, is_telling: false, last: None })
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
    pub fn into_plan(self) -> Option<Plan> {
        self.plan
    }

    /// The change that led to the place the replay has reached, unless that is where it began.
    #[must_use]
    pub fn into_last(self) -> Option<Arc<Applied>> {
        self.last
    }

    /// Takes the entries that follow [`Self::position`] and tells the changes among them that were asked for.
    ///
    /// # Errors
    /// [`Unreachable`] if they do not follow, or lead past the places asked for: the log was trimmed or is another
    /// history by now, or the place to begin at was never one, since its epoch began behind it.
    pub fn feed(&mut self, entries: &[LogEntry]) -> Result<Vec<Arc<Applied>>, Unreachable> {
        let unreachable = Unreachable { after: self.after };
        let mut told: Vec<Arc<Applied>> = Vec::new();
        for entry in entries {
            if self.is_done() {
                break;
            }
            if entry.revision > self.until {
                return Err(unreachable);
            }
            let lost = |_: ApplyError| unreachable.clone();
            match &mut self.plan {
                None => self.plan = Some(Plan::begin(entry).map_err(lost)?),
                Some(plan) => {
                    let at = plan.revision();
                    let applied = Arc::new(plan.apply(entry).map_err(lost)?);
                    self.last = Some(Arc::clone(&applied));
                    let begins_epoch = at.epoch < entry.revision.epoch && entry.revision.epoch == self.after.epoch;
                    if at == self.after || self.is_telling {
                        self.is_telling = true;
                        told.push(applied);
                    } else if at > self.after || (begins_epoch && at.seq >= self.after.seq) {
                        return Err(unreachable);
                    }
                }
            }
        }
        Ok(told)
    }
}
