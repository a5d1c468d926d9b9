//! Looks whether the parts of a node go on.
//!
//! Each part that must go on, an actor or one of the tasks that a node can't do without, counts its rounds on a [`Pulse`]. Once
//! a second somebody looks which counts have moved. What is counted are looks, not seconds: a process that was stopped as a
//! whole, and goes on, was not stuck. What follows from a part that stands still is decided where the node is put together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks without a round after which a part is slow. An actor that has nothing to do makes one in five seconds.
pub const SLOW_LOOKS: u32 = 15;
/// Looks after which a part is stuck: nothing but a restart will help.
pub const STUCK_LOOKS: u32 = 60;

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A project.
    Actor,
    /// The task that renews the lease.
    Heartbeat,
    /// The task that compares heads and proves that messages come.
    Watch,
}

/// A part's count of its rounds. An actor that drops it is looked at no more; a task that drops it ended, and should not have.
#[derive(Debug)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Another round is made.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who looks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Vigil {
    watched: Arc<Mutex<Vec<Watched>>>,
}

#[derive(Debug)]
struct Watched {
    part: Part,
    rounds: Weak<AtomicU64>,
    /// Of a task, so that its end does not make it forgotten.
    _kept: Option<Arc<AtomicU64>>,
    seen: u64,
    /// Looks since the last round.
    still: u32,
}

/// What the last look found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Actors that run.
    pub actors: usize,
    /// Those that have made no round for [`SLOW_LOOKS`].
    pub slow_actors: usize,
    /// Those that have made none for [`STUCK_LOOKS`].
    pub stuck_actors: usize,
    /// Tasks of the node that have made none for so long.
    pub stuck_tasks: usize,
}

impl Vigil {
    /// Watches a part from now on.
    #[must_use]
    pub fn pulse(&self, part: Part) -> Pulse {
        let rounds = Arc::new(AtomicU64::new(0));
        let kept = (part != Part::Actor).then(|| Arc::clone(&rounds));
        self.watched.lock().push(Watched { part, rounds: Arc::downgrade(&rounds), _kept: kept, seen: 0, still: 0 });
        Pulse(rounds)
    }

    /// What the looks so far have found.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for watched in self.watched.lock().iter().filter(|watched| watched.rounds.strong_count() > 0) {
            let (is_slow, is_stuck) = (watched.still >= SLOW_LOOKS, watched.still >= STUCK_LOOKS);
            if watched.part == Part::Actor {
                findings.actors += 1;
                findings.slow_actors += usize::from(is_slow);
                findings.stuck_actors += usize::from(is_stuck);
            } else {
                findings.stuck_tasks += usize::from(is_stuck);
            }
        }
        findings
    }

    /// Looks until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look();
        }
    }

    /// Looks once.
    pub(crate) fn look(&self) {
        self.watched.lock().retain_mut(|watched| {
            let Some(rounds) = watched.rounds.upgrade() else { return false };
            let rounds = rounds.load(Ordering::Relaxed);
            let moved = std::mem::replace(&mut watched.seen, rounds) != rounds;
            watched.still = if moved { 0 } else { watched.still.saturating_add(1) };
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(vigil: &Vigil, times: u32) {
        (0..times).for_each(|_| vigil.look());
    }

    #[test]
    fn who_makes_no_round_is_slow_then_stuck_and_free_with_the_next() {
        let vigil = Vigil::default();
        let (still, busy) = (vigil.pulse(Part::Actor), vigil.pulse(Part::Actor));
        let go_on = |looks| {
            for _ in 0..looks {
                busy.beat();
                vigil.look();
            }
        };
        go_on(SLOW_LOOKS - 1);
        assert_eq!(vigil.findings(), Findings { actors: 2, ..Findings::default() });
        go_on(1);
        assert_eq!(vigil.findings(), Findings { actors: 2, slow_actors: 1, ..Findings::default() });
        go_on(STUCK_LOOKS - SLOW_LOOKS);
        assert_eq!(vigil.findings(), Findings { actors: 2, slow_actors: 1, stuck_actors: 1, stuck_tasks: 0 });
        still.beat();
        go_on(1);
        assert_eq!(vigil.findings(), Findings { actors: 2, ..Findings::default() });
    }

    #[test]
    fn a_task_that_ended_is_stuck_and_an_actor_that_ended_is_forgotten() {
        let vigil = Vigil::default();
        let actor = vigil.pulse(Part::Actor);
        drop(vigil.pulse(Part::Heartbeat));
        look(&vigil, STUCK_LOOKS + 1);
        assert_eq!(vigil.findings(), Findings { actors: 1, slow_actors: 1, stuck_actors: 1, stuck_tasks: 1 });
        drop(actor);
        assert_eq!(vigil.findings(), Findings { stuck_tasks: 1, ..Findings::default() });
        vigil.look();
        assert_eq!(vigil.watched.lock().len(), 1, "what is gone is forgotten");
    }
}
