//! Notices a connection that is open and dead, and tells what becomes of it.
//!
//! The client library judges a connection by its last write, so one that still takes commands and never answers looks
//! alive to it. Here it must answer: three PINGs in a row without an answer, and the connection is made anew. Whoever is
//! interested is told: the command connection's door opens and closes its breaker by it.

use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::Options;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::observer::Connection;
use super::server_code;
use crate::beat;

/// Time between two PINGs.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(300);
/// How long a PING may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// PINGs without an answer after which the connection is given up. Two may be a pause of ours, on a busy machine.
const STRIKES_MAX: u32 = 3;
/// How long the client may take to begin a new connection. It can't be asked while it is making one.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Who is told what the watchdog sees. Must not wait.
pub(super) trait Watched: Send + Sync + 'static {
    /// The connection that is watched.
    const CONNECTION: Connection;

    /// A PING was answered, after so long.
    fn answered(&self, took: Duration);
    /// A PING was not answered. The next one may be.
    fn unanswered(&self);
    /// The connection was given up, and is about to be made anew.
    fn given_up(&self);
    /// The connection was lost, or could not be made anew. The client goes on trying.
    fn lost(&self);
    /// The connection was made anew. Whether it is any good, the next PING tells, which follows at once.
    fn reconnected(&self);
}

/// Watches one connection until `stop`.
pub(super) async fn watch<W: Watched>(client: impl EventInterface, watched: Arc<W>, stop: CancellationToken) {
    let (mut errors, mut reconnects) = (client.error_rx(), client.reconnect_rx());
    let mut tick = beat::ticks(PING_INTERVAL);
    let mut strikes = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Ok(_) = errors.recv() => {
                watched.lost();
                continue;
            }
            Ok(_) = reconnects.recv() => watched.reconnected(),
            // A connection that is being made anew has nobody to answer; the client is at it already.
            _ = tick.tick() => if !client.is_connected() {
                strikes = 0;
                continue;
            }
        }
        let asked = Instant::now();
        if answers(&client).await {
            strikes = 0;
            watched.answered(asked.elapsed());
            continue;
        }
        strikes += 1;
        watched.unanswered();
        if strikes >= STRIKES_MAX && client.is_connected() {
            strikes = 0;
            tracing::warn!(connection = W::CONNECTION.as_str(), "redis does not answer; connecting anew");
            watched.given_up();
            reconnect(&client).await;
        }
    }
}

/// Has the client make its connection anew, and waits a while for it.
pub(super) async fn reconnect(client: &impl ClientLike) {
    let _ = timeout(RECONNECT_TIMEOUT, client.force_reconnection()).await;
}

async fn answers(client: &impl ClientLike) -> bool {
    let patience = Options { timeout: Some(PING_TIMEOUT), ..Options::default() };
    match client.with_options(&patience).ping::<String>(None).await {
        // Anything else is the answer to something else: whoever waits for answers there waits for the wrong ones.
        Ok(answer) => answer == "PONG",
        // It can't write to its disk, so it refuses what writes, and PING with it. Whoever reads is served.
        Err(error) => server_code(&error) == Some("MISCONF"),
    }
}
