//! How many frames a connection may send. Cursor moves are not counted: they replace each other before they cost anything.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use mille_shared::limits;

/// One connection's allowance.
pub(super) struct FrameLimiter {
    frames: DefaultDirectRateLimiter,
    errors: DefaultDirectRateLimiter,
}

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Follow it.
    Take,
    /// Drop it and say so.
    Refuse,
    /// Drop it; it was said a moment ago.
    Ignore,
}

impl FrameLimiter {
    pub(super) fn new() -> Self {
        let per_second = NonZeroU32::new(limits::PRESENCE_FRAMES_PER_SECOND).unwrap_or(NonZeroU32::MIN);
        Self {
            frames: RateLimiter::direct(Quota::per_second(per_second)),
            errors: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN)),
        }
    }

    pub(super) fn judge(&self) -> Verdict {
        if self.frames.check().is_ok() {
            Verdict::Take
        } else if self.errors.check().is_ok() {
            Verdict::Refuse
        } else {
            Verdict::Ignore
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excess_of_a_second_is_refused_once() {
        let limiter = FrameLimiter::new();
        let verdicts: Vec<_> = (0..500).map(|_| limiter.judge()).collect();
        let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert!(count(Verdict::Take) >= 20 && count(Verdict::Take) < 40);
        assert_eq!(count(Verdict::Refuse), 1);
    }
}
