//! What the open plans of a node remember of their past, all together.
//!
//! Each plan keeps its last changes in memory, for those who come back and for a log that lost its end. What is bounded per
//! plan is not bounded with many of them, so all of them have a bound too. Beyond it each whose turn comes, every few
//! seconds, gives up its oldest, in proportion to what it has, until all are below the bound; whoever needs those reads the
//! log. What may not be given up, `mille_core::replica` says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;
use mille_core::replica::Allowance;
use mille_shared::limits;

use super::OpenPlan;

/// The bytes of all of them. Cheap to clone.
#[derive(Clone)]
pub(in crate::project) struct RecentBytes(Arc<Shared>);

struct Shared {
    max: usize,
    held: AtomicUsize,
    told: Gauge,
}

impl RecentBytes {
    /// Together at most `max`; `told` is told how many there are.
    pub(in crate::project) fn at_most(max: usize, told: Gauge) -> Self {
        Self(Arc::new(Shared { max, held: AtomicUsize::new(0), told }))
    }

    /// One plan's part, empty.
    pub(super) fn part(&self) -> RecentPart {
        RecentPart { all: self.clone(), bytes: 0 }
    }
}

/// What one plan remembers, counted with that of all others for as long as it is there.
pub(super) struct RecentPart {
    all: RecentBytes,
    bytes: usize,
}

impl RecentPart {
    /// So many bytes are remembered now.
    pub(super) fn note(&mut self, bytes: usize) {
        let Shared { held, told, .. } = &*self.all.0;
        if bytes != self.bytes {
            // Of a decrease the two's complement is added.
            held.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
            told.increment(bytes as f64 - self.bytes as f64);
            self.bytes = bytes;
        }
    }

    /// How many there may be, if all together are too many.
    fn bytes_max(&self) -> Option<usize> {
        let Shared { max, held, .. } = &*self.all.0;
        let held = held.load(Ordering::Relaxed);
        // An eighth below the bound, so that it is not met again at once.
        (held > *max).then(|| (self.bytes as f64 * (*max as f64 / held as f64) * 0.875) as usize)
    }
}

impl Drop for RecentPart {
    fn drop(&mut self) {
        self.note(0);
    }
}

impl OpenPlan {
    /// Forgets some of the oldest changes, if all plans together remember too many. Called every few seconds.
    pub(in crate::project::plans) fn forget_some(&mut self) {
        // So that the copy hears of checks that were told to nobody.
        self.end_rest();
        let allowed = |bytes_max| Allowance { bytes_max, changes_min: limits::RING_CHANGES_MIN };
        self.replica.end_round(self.recent.bytes_max().map(allowed));
        self.recent.note(self.replica.remembered_bytes());
        self.begin_rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_remembers_more_gives_up_more_and_all_come_below_the_bound() {
        let all = RecentBytes::at_most(1_000, Gauge::noop());
        let [mut small, mut large] = [(); 2].map(|()| all.part());
        small.note(200);
        large.note(800);
        assert_eq!((small.bytes_max(), large.bytes_max()), (None, None), "as many as there may be");
        large.note(1_800);
        assert_eq!((small.bytes_max(), large.bytes_max()), (Some(87), Some(787)));
        large.note(787);
        assert_eq!((small.bytes_max(), large.bytes_max()), (None, None), "now there is room");
    }

    #[test]
    fn what_is_gone_is_counted_no_longer() {
        let all = RecentBytes::at_most(100, Gauge::noop());
        let [mut one, mut gone] = [(); 2].map(|()| all.part());
        gone.note(90);
        one.note(50);
        assert!(one.bytes_max().is_some());
        drop(gone);
        assert_eq!(one.bytes_max(), None);
    }
}
