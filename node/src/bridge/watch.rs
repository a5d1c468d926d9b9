//! The watch: compares the heads of all open plans with the log, and probes the subscription.
//!
//! Pub/sub loses messages without a word. A hole shows at the next message; a message that was the last shows only here.

use bytes::Bytes;
use mille_shared::{PlanId, limits};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Bridge, Heard};
use crate::backend::Channel;

/// Heads per call: Redis serves nobody else meanwhile.
const HEADS_PER_CALL_MAX: usize = 500;

impl Bridge {
    pub(super) async fn watch(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(limits::HEAD_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.probe().await;
            self.check_heads().await;
        }
    }

    async fn probe(&self) {
        if let Err(error) = self.inner.backend.pubsub.publish(Channel::Probe, Bytes::from_static(b"probe")).await {
            tracing::debug!(%error, "the probe was not taken");
        }
    }

    async fn check_heads(&self) {
        let plans = self.plans();
        if plans.is_empty() {
            // So that a plan that opens later need not wait for this life to settle.
            if let Ok(life) = self.inner.backend.log.life().await {
                self.see_life(&life);
            }
        }
        for part in plans.chunks(HEADS_PER_CALL_MAX) {
            let ids: Vec<PlanId> = part.iter().map(|(plan, _)| *plan).collect();
            match self.inner.backend.log.heads(&ids).await {
                Ok(heads) => {
                    for ((plan, feed), state) in part.iter().zip(heads) {
                        let is_settled = self.see_life(&state.life);
                        feed.offer(Heard::Head { plan: *plan, state, is_settled });
                    }
                }
                Err(error) => tracing::debug!(%error, plans = ids.len(), "the heads of open plans are unknown for now"),
            }
        }
    }
}
