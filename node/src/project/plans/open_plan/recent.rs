//! What the open plans of a node remember of their past, all together.
//!
//! Each plan keeps its last changes in memory, for those who come back and for a log that lost its end. What is bounded per
//! plan is not bounded with many of them, so all of them have a bound too: beyond it each gives up its oldest, in
//! proportion to what it has, down to the few that every plan keeps ([`mille_shared::limits::RING_CHANGES_MIN`]). Whoever needs older
//! ones reads the log. A plan looks when it has changed, and now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;

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
    /// So many bytes are remembered now. Answers how many may be, if that is fewer.
    pub(super) fn set(&mut self, bytes: usize) -> Option<usize> {
        let Shared { max, held, told } = &*self.all.0;
        if bytes != self.bytes {
            // Wraps where it shrinks.
            let change = bytes.wrapping_sub(self.bytes);
            told.set(held.fetch_add(change, Ordering::Relaxed).wrapping_add(change) as f64);
            self.bytes = bytes;
        }
        let held = held.load(Ordering::Relaxed);
        // An eighth below the bound, so that not each change has its plan give up another.
        (held > *max).then(|| (bytes as f64 * (*max as f64 / held as f64) * 0.875) as usize)
    }
}

impl Drop for RecentPart {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(max: usize) -> RecentBytes {
        RecentBytes::at_most(max, Gauge::noop())
    }

    #[test]
    fn who_remembers_more_gives_up_more_and_all_come_below_the_bound() {
        let all = all(1_000);
        let [mut small, mut large] = [(); 2].map(|()| all.part());
        assert_eq!(small.set(200), None);
        assert_eq!(large.set(800), None, "as many as there may be");
        let allowed = large.set(1_800).expect("too many");
        assert_eq!(allowed, 787);
        assert_eq!(large.set(allowed), None);
        assert_eq!(small.set(200), None, "now there is room");
        assert_eq!(small.set(250), Some(210));
    }

    #[test]
    fn what_is_gone_is_counted_no_longer() {
        let all = all(100);
        let mut one = all.part();
        let mut gone = all.part();
        gone.set(90);
        assert!(one.set(50).is_some());
        drop(gone);
        assert_eq!(one.set(60), None);
    }
}
