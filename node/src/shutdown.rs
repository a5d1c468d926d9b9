//! The order of leaving.
//!
//! 1. Not ready: load balancers send nobody new.
//! 2. Sockets are told to come back elsewhere, and close.
//! 3. Projects answer the edits that are under way, and stop; the listeners close.
//! 4. The lease is given back: nobody may think us gone while we still say goodbye.
//! 5. The connections to the store close, which everything before may still have needed.
//!
//! Each step ends by itself; together they have a deadline, after which the process ends anyway.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The steps of leaving, as tokens that each part of a node watches its own of.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: sockets close, no new ones come.
    pub drain: CancellationToken,
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

impl Shutdown {
    /// Leaves in order; `farewell` comes when nothing of the node's is left but its connections to the store. `false`:
    /// something did not end in time.
    pub async fn leave(&self, deadline: Duration, farewell: impl Future<Output = ()>) -> bool {
        self.drain.cancel();
        self.sockets.close();
        let steps = async {
            // Half of the time for sockets at most, so that edits under way keep theirs.
            if tokio::time::timeout(deadline / 2, self.sockets.wait()).await.is_err() {
                tracing::warn!(sockets = self.sockets.len(), "sockets did not close in time");
            }
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            farewell.await;
            self.close.cancel();
            self.connections.close();
            self.connections.wait().await;
        };
        tokio::time::timeout(deadline, steps).await.is_ok()
    }
}

/// Waits for the signal to stop: SIGTERM from an operator, SIGINT from a keyboard.
///
/// # Errors
/// If the signals can't be listened to.
pub async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}
