//! The watch: compares the heads of all open plans with the log, and probes the subscription.
//!
//! Pub/sub loses messages without a word. A hole shows at the next message; a message that was the last shows only here.
//! After an interruption the heads are compared at once. While the subscription is known to be down they are not: every plan
//! would be read at each check, and all of it once more when messages come again.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use mille_shared::log::LogState;
use mille_shared::{PlanId, limits};
use tokio::time::{Instant, MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;

use super::deafness::Deafness;
use super::{Bridge, FeedSender};
use crate::backend::Channel;
use crate::vigil::{Part, Pulse};

/// Heads per call: Redis serves nobody else meanwhile.
const HEADS_PER_CALL_MAX: usize = 500;

/// Since when the subscription is known to be down.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// Whether heads are not to be told now.
    fn holds_heads(&mut self, now: Instant, is_in_force: bool) -> bool {
        if is_in_force {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) < limits::HEADS_HELD_MAX
    }
}

impl Bridge {
    pub(super) async fn watch(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(limits::HEAD_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut outage, mut deafness) = (Outage::default(), Deafness::default());
        let pulse = self.inner.metrics.vigil.pulse(Part::Watch);
        loop {
            pulse.beat();
            let is_tick = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inner.interrupted.notified() => {
                    sleep(limits::HEAD_CHECK_JITTER.mul_f64(rand::random())).await;
                    false
                }
                _ = ticks.tick() => true,
            };
            let is_down = self.holds_heads(&mut outage);
            let probed = async {
                if is_tick {
                    self.probe(&mut deafness, is_down).await;
                }
            };
            tokio::join!(probed, self.check_heads(&mut outage, &pulse));
        }
    }

    /// Sends a message to ourselves, and has the connection made anew if such messages do not come back. Not while it is
    /// known to be down, for then that is being done; but if it is down for long, who does it may have failed.
    async fn probe(&self, deafness: &mut Deafness, is_down: bool) {
        let pubsub = &self.inner.backend.pubsub;
        if is_down {
            deafness.excused();
        }
        let heard = self.inner.probes_heard.load(Ordering::Relaxed);
        if deafness.must_act(Instant::now(), heard, rand::random()) {
            tracing::warn!("messages to ourselves do not come back; the subscription is made anew");
            pubsub.reconnect().await;
        }
        match pubsub.publish(Channel::Probe, Bytes::from_static(b"probe")).await {
            Ok(()) => deafness.sent(Instant::now()),
            Err(error) => tracing::debug!(%error, "the probe was not taken"),
        }
    }

    async fn check_heads(&self, outage: &mut Outage, pulse: &Pulse) {
        let plans = self.inner.interests.plans();
        if plans.is_empty() {
            // So that a plan that opens later need not wait for this life to settle.
            if let Ok(life) = self.inner.backend.log.life().await {
                self.see_life(&life);
            }
        }
        for part in plans.chunks(HEADS_PER_CALL_MAX) {
            // With very many plans, and a Redis that takes its time, a round may be long.
            pulse.beat();
            if self.holds_heads(outage) {
                return;
            }
            let asked_at = *self.inner.interruptions.lock();
            let ids: Vec<PlanId> = part.iter().map(|(plan, ..)| *plan).collect();
            let drops: Vec<u64> = part.iter().map(|(_, feed, _)| feed.drops()).collect();
            match self.inner.backend.log.heads(&ids).await {
                Ok(heads) if !self.holds_heads(outage) => self.tell_heads(part, &drops, heads, asked_at),
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, plans = ids.len(), "the heads of open plans are unknown for now"),
            }
        }
    }

    fn holds_heads(&self, outage: &mut Outage) -> bool {
        outage.holds_heads(Instant::now(), self.inner.backend.pubsub.is_in_force())
    }

    /// Tells heads, unless the subscription was interrupted since they were asked for: there is another check then.
    fn tell_heads(&self, plans: &[(PlanId, FeedSender, usize)], drops: &[u64], heads: Vec<LogState>, asked_at: u64) {
        let interruptions = self.inner.interruptions.lock();
        if *interruptions == asked_at {
            for (((plan, feed, _), drops), state) in plans.iter().zip(drops).zip(heads) {
                let is_settled = self.see_life(&state.life);
                feed.offer_head(*plan, state, is_settled, *drops);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn heads_are_held_for_a_while_and_again_in_the_next_outage() {
        let (mut outage, began) = (Outage::default(), Instant::now());
        assert!(!outage.holds_heads(began, true));
        for (seconds, is_in_force, holds) in [(1, false, true), (5, false, true), (6, false, false), (90, false, false)]
        {
            assert_eq!(outage.holds_heads(began + Duration::from_secs(seconds), is_in_force), holds, "{seconds} s");
        }
        assert!(!outage.holds_heads(began + Duration::from_secs(91), true));
        assert!(outage.holds_heads(began + Duration::from_secs(92), false));
    }
}
