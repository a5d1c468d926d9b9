//! How many frames a connection may send, and how many errors it is answered.
//!
//! Cursor moves in the open document are not counted: they replace each other before they cost anything. A move into another
//! document is, since it opens it, but its excess is dropped without a word: a client that points is never told off.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use mille_shared::limits;

/// One connection's allowance.
pub(super) struct FrameLimiter {
    frames: DefaultDirectRateLimiter,
    /// Errors that say that frames were too many.
    refusals: DefaultDirectRateLimiter,
    /// All errors, whatever they say. As many as frames are counted: each of those may have its answer.
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
            refusals: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN)),
            errors: RateLimiter::direct(Quota::per_second(per_second)),
        }
    }

    pub(super) fn judge(&self) -> Verdict {
        if self.has_room() {
            Verdict::Take
        } else if self.refusals.check().is_ok() {
            Verdict::Refuse
        } else {
            Verdict::Ignore
        }
    }

    /// Whether a frame that counts may be followed, if nothing is said of those that may not.
    pub(super) fn has_room(&self) -> bool {
        self.frames.check().is_ok()
    }

    /// Whether an error may be sent.
    pub(super) fn may_err(&self) -> bool {
        self.errors.check().is_ok()
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
        assert!((20..40).contains(&(0..500).filter(|_| limiter.may_err()).count()));
    }
}
