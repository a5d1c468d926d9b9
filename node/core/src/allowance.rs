//! What a user may do, held to over the cluster without asking the store each time.
//!
//! Two machines, one of each per user and node. [`Operations`] spends a rate: a small free share of its own, and beyond it
//! what was leased from the user's bucket in the store, some 100 ms' worth at a time. [`Places`] holds a number of
//! connections: a few free ones, and beyond them as many as the store agrees to. Neither asks twice at a time. While the
//! store does not answer, each goes on with the whole limit for itself: a limit must not be an outage.
//!
//! What may be too much is bounded. With `n` nodes and the share 1/32, a user gets at most, over any time `t`,
//! `burst + rate·t` from the store, and from each node `(burst + rate·t) / 32` and the 100 ms' worth it had leased before;
//! and at most `max + (n - 1)·⌈max/32⌉` connections. While the store does not answer, `n` times the limit.

mod meter;
mod operations;
mod places;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use meter::{Meter, Rate};
pub use operations::{Granted, Operations};
pub use places::Places;

/// What becomes of somebody who wants an operation or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They have it.
    Taken,
    /// They can't have it for so long. Zero: nobody knows how long.
    Refused {
        /// How long.
        retry_after: Duration,
    },
    /// The store is being asked: come again when it has answered.
    Wait,
}

/// A verdict, and what is to be asked of the store, if anything. Whoever is told to ask must tell the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// How much is to be asked for.
    pub ask: Option<u32>,
}

/// How long a store that did not answer is left alone before it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
