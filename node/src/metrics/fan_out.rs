//! What `fan_out_seconds` is measured with: a note that goes along with an event from the actor to whoever writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When the event that a stream gave out last was learnt: set by who gives it out, taken by who writes it. One per stream;
/// cheap to clone, the clones share it. Neither end waits.
#[derive(Debug, Clone)]
pub struct LearntAt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    /// Nanoseconds since then, and one more; 0: nothing was given out since it was taken.
    nanos: AtomicU64,
}

impl Default for LearntAt {
    fn default() -> Self {
        Self(Arc::new(Shared { began: Instant::now(), nanos: AtomicU64::new(0) }))
    }
}

impl LearntAt {
    /// The next event that is given out was learnt then. Of what is older than the stream, its beginning counts.
    pub fn set(&self, learnt: Instant) {
        let nanos = learnt.saturating_duration_since(self.0.began).as_nanos();
        self.0.nanos.store(u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// When what was given out since the last call was learnt, if it is known.
    #[must_use]
    pub fn take(&self) -> Option<Instant> {
        // Most streams are quiet, or tell of the past: a look costs less than an exchange.
        if self.0.nanos.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let nanos = self.0.nanos.swap(0, Ordering::Relaxed).checked_sub(1)?;
        Some(self.0.began + Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_set_is_taken_once() {
        let here = LearntAt::default();
        let there = here.clone();
        assert_eq!(there.take(), None);
        tokio::time::advance(Duration::from_millis(5)).await;
        let learnt = Instant::now();
        here.set(learnt);
        assert_eq!((there.take(), there.take()), (Some(learnt), None));
    }
}
