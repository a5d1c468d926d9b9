//! Plans at rest: nothing happened to them since their head was checked.
//!
//! Most open plans are at rest most of the time. Telling their actors at each check that the log ends where it ended would
//! wake every one of them for nothing. So an actor notes what it was told last, and while that is still so, the check is noted
//! here and nobody is woken.

use std::collections::HashMap;

use mille_shared::PlanId;
use mille_shared::log::LogState;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The plans of an actor that are at rest.
#[derive(Debug, Default)]
pub struct Rests(Mutex<HashMap<PlanId, Rest>>);

#[derive(Debug)]
struct Rest {
    /// What the actor was told, and would be told for nothing.
    state: LogState,
    is_settled: bool,
    /// When that was last seen to be so.
    seen: Instant,
}

impl Rests {
    /// Notes that a plan's copy and its log are one, as the actor was just told.
    pub fn begin(&self, plan: PlanId, state: LogState, is_settled: bool) {
        self.0.lock().insert(plan, Rest { state, is_settled, seen: Instant::now() });
    }

    /// Notes that something happened to a plan, or that it is not open any more. Answers when it was last seen to be as its
    /// actor knows it, if it was at rest.
    pub fn end(&self, plan: PlanId) -> Option<Instant> {
        self.0.lock().remove(&plan).map(|rest| rest.seen)
    }

    /// Notes that something may have happened to any of them.
    pub(super) fn end_all(&self) {
        self.0.lock().clear();
    }

    /// Whether a check says of a plan at rest what its actor knows; then it is noted.
    pub(super) fn is_known(&self, plan: PlanId, state: &LogState, is_settled: bool) -> bool {
        match self.0.lock().get_mut(&plan) {
            Some(rest) if rest.state == *state && rest.is_settled == is_settled => {
                rest.seen = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// When a plan at rest was last seen to be as its actor knows it.
    #[must_use]
    pub fn seen(&self, plan: PlanId) -> Option<Instant> {
        self.0.lock().get(&plan).map(|rest| rest.seen)
    }
}
