//! When a batch waits for more operations to join it.
//!
//! Nodes that write to one plan at once cost each other: of two that offer at once one has lost, and reads, judges and
//! offers again; and each batch is a message that every node takes. So a node that finds changes of others between two of
//! its own batches lets a moment pass before it offers the next. How long is the caller's to say, who has a clock. A node
//! that writes alone does not wait: what arrives during a commit is its next batch anyway. Nor does a batch that lost its
//! race: its moment is over.

use mille_shared::{Revision, limits};

use super::{Effect, Replica};

/// Where a copy is with that.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Where our last batch ended.
    landed: Option<Revision>,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The next batch goes at once.
    #[default]
    Over,
    /// Others write too: the next batch is to wait.
    Due,
    /// The caller lets the moment pass.
    Passing,
}

impl Gathering {
    /// A batch of ours landed: it was judged on `expected`, and the log ended at `end` with it.
    pub(super) fn landed(&mut self, expected: Revision, end: Revision) {
        let has_company = self.landed.replace(end).is_some_and(|before| before != expected);
        if self.stage != Stage::Passing {
            self.stage = if has_company { Stage::Due } else { Stage::Over };
        }
    }

    /// The moment has passed.
    pub(super) fn passed(&mut self) {
        self.stage = Stage::Over;
    }
}

impl Replica {
    /// Holds the next batch back for more, if it is to wait. Not one of as many operations as a batch may have.
    pub(super) fn hold_for_more(&mut self, effects: &mut Vec<Effect>) -> bool {
        if self.gathering.stage == Stage::Over || self.pending.len() >= limits::COMMIT_BATCH_MAX {
            return false;
        }
        if self.gathering.stage == Stage::Due {
            self.gathering.stage = Stage::Passing;
            effects.push(Effect::Gather);
        }
        true
    }
}
