//! Notices a connection that is open and dead.
//!
//! The client library judges a connection by its last write, so one that still takes commands and never answers looks
//! alive to it. Here it must answer: three PINGs in a row without an answer, and the connection is made anew.

use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::types::Value;
use fred::types::config::Options;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// Time between two PINGs.
const PING_INTERVAL: Duration = Duration::from_millis(300);
/// How long a PING may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// PINGs without an answer after which the connection is given up. Two may be a pause of ours, on a busy machine.
const STRIKES_MAX: u32 = 3;
/// How long the client may take to begin a new connection. It can't be asked while it is making one.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Watches one connection until `stop`; `connection` is its name in the log.
pub(super) async fn watch(client: impl ClientLike, connection: &'static str, stop: CancellationToken) {
    let mut tick = interval(PING_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut strikes = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        // A connection that is being made anew has nobody to answer; the client is at it already.
        if !client.is_connected() || answers(&client).await {
            strikes = 0;
            continue;
        }
        strikes += 1;
        if strikes >= STRIKES_MAX && client.is_connected() {
            strikes = 0;
            tracing::warn!(connection, "redis does not answer; connecting anew");
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
    client.with_options(&patience).ping::<Value>(None).await.is_ok()
}
