//! The order of leaving.
//!
//! 1. Not ready: load balancers send nobody new, and get the time to notice.
//! 2. Sockets are told to come back elsewhere, and close, spread over a window.
//! 3. Projects answer the edits that are under way, tell the other nodes to keep their people's places, and stop; the
//!    listeners close.
//! 4. The lease is given back: nobody may think us gone while we still say goodbye.
//! 5. The connections to the store close, which everything before may still have needed.
//!
//! Each step ends by itself; together they have a deadline, after which the process ends anyway.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::drain::{Drain, Phase};

/// The steps of leaving, as tokens that each part of a node watches its own of.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Tells who is to go when.
    pub drain: Drain,
    /// Cancelled when the sockets are closed: projects, bridge and listeners stop.
    pub stop: CancellationToken,
    /// Cancelled last: the connections to the store close.
    pub close: CancellationToken,
    /// Sockets and event streams.
    pub sockets: TaskTracker,
    /// Projects, bridge, listeners, and whatever else runs.
    pub tasks: TaskTracker,
    /// The connections to the store.
    pub connections: TaskTracker,
}

/// How long a socket may take to go once it was told. Longer than its own patience with operations and with the peer.
pub(crate) const SOCKET_PATIENCE: Duration = Duration::from_secs(6);

/// What is kept of the deadline for the lease and the connections to the store: longer than one command may take.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(3);

impl Shutdown {
    /// For a node that leaves as `drain` says.
    #[must_use]
    pub fn of(drain: Drain) -> Self {
        Self { drain, ..Self::default() }
    }

    /// Leaves in order; `farewell` comes when nothing of the node's is left but its connections to the store. `false`:
    /// something did not end in time; the farewell is said all the same.
    pub async fn leave(&self, farewell: impl Future<Output = ()>) -> bool {
        let settings = self.drain.settings();
        let steps = async {
            self.drain.enter(Phase::Unready);
            self.drain.noticed().await;
            self.drain.enter(Phase::Closing);
            self.sockets.close();
            if tokio::time::timeout(settings.window + SOCKET_PATIENCE, self.sockets.wait()).await.is_err() {
                tracing::warn!(sockets = self.sockets.len(), "sockets did not close in time");
            }
            self.drain.enter(Phase::Stopping);
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        };
        let in_time = tokio::time::timeout(settings.deadline.saturating_sub(FAREWELL_PATIENCE), steps).await.is_ok();
        // For whoever has not come to it.
        self.stop.cancel();
        let last = async {
            farewell.await;
            self.close.cancel();
            self.connections.close();
            self.connections.wait().await;
        };
        tokio::time::timeout(FAREWELL_PATIENCE, last).await.is_ok() && in_time
    }
}

/// The signals to stop.
pub struct Signals {
    term: Signal,
    int: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, from who starts and stops services: with all the time that leaving takes.
    Drain,
    /// SIGINT, from a keyboard: in order, but without waiting for load balancers and windows.
    Hurry,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::Drain,
            _ = self.int.recv() => Asked::Hurry,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::time::Instant;

    use super::*;
    use crate::drain::DrainSettings;

    /// How long a node takes that leaves, whether all ended in time, and whether it said farewell.
    async fn left(hold_up: impl FnOnce(&Shutdown)) -> (Duration, bool, bool) {
        let settings = DrainSettings { notice: Duration::from_secs(5), ..DrainSettings::default() };
        let shutdown = Shutdown::of(Drain::new(settings, metrics::Gauge::noop(), metrics::Counter::noop()));
        hold_up(&shutdown);
        let (began, is_said) = (Instant::now(), AtomicBool::new(false));
        let in_time = shutdown.leave(async { is_said.store(true, Ordering::Relaxed) }).await;
        assert!(shutdown.stop.is_cancelled() && shutdown.close.is_cancelled(), "everybody is told");
        (began.elapsed(), in_time, is_said.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_or_a_task_that_never_ends_keeps_neither_the_node_nor_its_lease() {
        let deadline = DrainSettings::default().deadline;
        let (took, in_time, is_said) = left(|_| {}).await;
        assert!(took.as_secs() == 5 && in_time && is_said, "only load balancers are waited for: {took:?}");
        let (took, in_time, is_said) =
            left(|shutdown| drop(shutdown.sockets.spawn(std::future::pending::<()>()))).await;
        assert!(took.as_secs() == 5 + SOCKET_PATIENCE.as_secs() && in_time && is_said, "{took:?}");
        let (took, in_time, is_said) = left(|shutdown| drop(shutdown.tasks.spawn(std::future::pending::<()>()))).await;
        assert!(took <= deadline && !in_time && is_said, "{took:?}");
    }
}
