//! Since when a socket has taken nothing although something waits for it.
//!
//! That the library took a message into its own buffer is no progress: a peer that reads nothing would be waited for as long as
//! there is something to tell it. Progress is that all is flushed, or that the system took bytes: so a slow peer with a large
//! message is waited for. What happens to one that takes nothing is the socket's affair.

use tokio::time::Instant;

use super::listener::BytesTaken;

/// Runs while something waits.
pub(super) struct Stall {
    since: Option<Instant>,
    /// How much was taken until then.
    before: u64,
    taken: BytesTaken,
}

impl Stall {
    /// `taken` counts the bytes that the system took, if anybody counts them.
    pub(super) fn new(taken: BytesTaken) -> Self {
        Self { since: None, before: 0, taken }
    }

    /// Since when nothing was taken. `None`: nothing waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Nothing waits any more.
    pub(super) fn end(&mut self) {
        self.since = None;
    }

    /// Something waits. To be called whenever writing was tried, so that it sees what was taken when it was. Answers whether
    /// this begins now.
    pub(super) fn go_on(&mut self) -> bool {
        let (is_new, taken) = (self.since.is_none(), self.taken.count());
        if is_new || taken != self.before {
            (self.since, self.before) = (Some(Instant::now()), taken);
        }
        is_new
    }
}
