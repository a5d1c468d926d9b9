//! A plan as it is opened: a snapshot, and the entries of the log behind it.
//!
//! What was read on the way is kept as recent changes, so that a copy that was just opened can already serve resumes,
//! and give back to a log what it loses.

use std::sync::Arc;

use mille_shared::Revision;
use mille_shared::log::{LogEntry, StoredSnapshot};

use crate::plan::{ApplyError, MalformedState, Plan};
use crate::ring::Ring;

/// A plan and the changes that were read while it was opened.
#[derive(Debug)]
pub struct Opened {
    pub(crate) plan: Plan,
    pub(crate) ring: Ring,
}

impl Opened {
    /// The plan at a snapshot.
    ///
    /// # Errors
    /// [`MalformedState`] if the snapshot can't be read.
    pub fn from_snapshot(stored: &StoredSnapshot) -> Result<Self, MalformedState> {
        Plan::from_snapshot(stored.head, &stored.payload).map(Self::from)
    }

    /// The plan at a log's first entry.
    ///
    /// # Errors
    /// [`ApplyError`] as [`Plan::begin`].
    pub fn begin(entry: &LogEntry) -> Result<Self, ApplyError> {
        Plan::begin(entry).map(Self::from)
    }

    /// Goes one entry further.
    ///
    /// # Errors
    /// [`ApplyError`] as [`Plan::apply`].
    pub fn apply(&mut self, entry: &LogEntry) -> Result<(), ApplyError> {
        self.ring.push(Arc::new(self.plan.apply(entry)?));
        Ok(())
    }

    /// The place it has reached.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.plan.revision()
    }
}

impl From<Plan> for Opened {
    fn from(plan: Plan) -> Self {
        Self { ring: Ring::after(plan.head()), plan }
    }
}
