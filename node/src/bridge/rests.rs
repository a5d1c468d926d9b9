//! Plans at rest: their copies would learn nothing from a check that finds the log where they end.
//!
//! Nearly all checks find that. Telling the actors each time would wake every one of them for nothing. So an actor notes what
//! it expects, with each change anew, and a check that finds it is noted here and nobody is woken.

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
    /// What the actor expects, and would be told for nothing.
    state: LogState,
    is_settled: bool,
    /// When the log was last seen to be where it was expected.
    seen: Instant,
}

impl Rests {
    /// Notes where a plan's log is expected to end, and when it last was where it was expected.
    pub fn begin(&self, plan: PlanId, state: LogState, is_settled: bool, seen: Instant) {
        self.0.lock().insert(plan, Rest { state, is_settled, seen });
    }

    /// Notes that something happens to a plan, or that it is not open any more. Answers when its log was last seen where it was
    /// expected, if it was at rest.
    pub fn end(&self, plan: PlanId) -> Option<Instant> {
        self.0.lock().remove(&plan).map(|rest| rest.seen)
    }

    /// Notes that something may have happened to any of them. An actor may begin a rest all the same, before it comes to what
    /// happened: a check that finds the log where it then expects it shows that nothing was missed.
    pub(super) fn end_all(&self) {
        self.0.lock().clear();
    }

    /// Notes a check that finds a plan at rest as its actor expects. `false`: it does not.
    pub(super) fn note_if_expected(&self, plan: PlanId, state: &LogState, is_settled: bool) -> bool {
        match self.0.lock().get_mut(&plan) {
            Some(rest) if rest.state == *state && rest.is_settled == is_settled => {
                rest.seen = Instant::now();
                true
            }
            _ => false,
        }
    }

    #[cfg(test)]
    pub(crate) fn expected(&self, plan: PlanId) -> Option<mille_shared::log::Head> {
        self.0.lock().get(&plan).and_then(|rest| rest.state.head)
    }

    /// When the log of a plan at rest was last seen where it was expected.
    #[must_use]
    pub fn seen(&self, plan: PlanId) -> Option<Instant> {
        self.0.lock().get(&plan).map(|rest| rest.seen)
    }
}
