//! The watch: compares the heads of all open plans with the log, and probes the subscription. Each shard for itself, so that
//! one that does not answer holds up no other.
//!
//! Pub/sub loses messages without a word. A hole shows at the next message; a message that was the last shows only here.
//! After an interruption the heads are compared at once. While a shard's subscription is known to be down they are not: every
//! plan would be read at each check, and all of it once more when messages come again.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mille_shared::log::LogState;
use mille_shared::{PlanId, limits};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::deafness::Deafness;
use super::{Bridge, FeedSender};
use crate::backend::{Channel, Shard};
use crate::beat;
use crate::vigil::Part;

/// Heads per call: Redis serves nobody else meanwhile.
const HEADS_PER_CALL_MAX: usize = 500;

/// An open plan, who hears it, and how often it was asked for.
type OpenPlan = (PlanId, FeedSender, usize);

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

/// What is known of one shard.
#[derive(Debug, Default)]
struct Watched {
    /// Whether its probe is listened to.
    is_probed: bool,
    outage: Outage,
    deafness: Deafness,
}

/// What ended.
enum Over {
    /// A look at a shard.
    Round(Shard, Watched),
    /// The question for the lives of all servers.
    Lives,
    /// The farewell to the probe of a shard that is gone.
    Left,
}

/// The looks that are under way: one per shard at most.
#[derive(Default)]
struct Rounds<'a> {
    running: FuturesUnordered<BoxFuture<'a, Over>>,
    /// Shards that nobody looks at now.
    idle: HashMap<Shard, Watched>,
    /// Shards that are looked at now.
    busy: HashSet<Shard>,
    /// Those of them that are to be looked at once more: something happened since.
    again: HashSet<Shard>,
    is_asking_lives: bool,
}

impl Bridge {
    pub(super) async fn watch(self, stop: CancellationToken) {
        let mut ticks = beat::ticks(limits::HEAD_CHECK_INTERVAL);
        let pulse = self.inner.metrics.vigil.pulse(Part::Watch);
        let mut rounds = Rounds::default();
        // When to look after an interruption.
        let mut due: Option<Instant> = None;
        loop {
            pulse.beat();
            let is_tick = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => true,
                Some(over) = rounds.running.next(), if !rounds.running.is_empty() => {
                    self.over(&mut rounds, over);
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    false
                }
                // However many come meanwhile, one look is for all of them.
                () = self.inner.interrupted.notified(), if due.is_none() => {
                    due = Some(Instant::now() + limits::HEAD_CHECK_JITTER.mul_f64(rand::random()));
                    continue;
                }
            };
            self.look(&mut rounds, is_tick);
        }
    }

    /// Begins a look at every shard that is not looked at already.
    fn look<'a>(&'a self, rounds: &mut Rounds<'a>, is_tick: bool) {
        let shards = self.inner.backend.pubsub.shards();
        let mut plans = self.plans_by_shard();
        // So that a plan that opens later, or comes from another server, need not wait for a life to settle.
        if is_tick && !rounds.is_asking_lives && (plans.is_empty() || shards.len() > 1) {
            rounds.is_asking_lives = true;
            rounds.running.push(Box::pin(self.see_lives()));
        }
        for shard in &shards {
            if rounds.busy.contains(shard) {
                if !is_tick {
                    rounds.again.insert(*shard);
                }
                continue;
            }
            rounds.busy.insert(*shard);
            let watched = rounds.idle.remove(shard).unwrap_or_default();
            let plans = plans.remove(shard).unwrap_or_default();
            rounds.running.push(Box::pin(self.round(*shard, watched, plans, is_tick)));
        }
        let gone: Vec<Shard> = rounds.idle.keys().filter(|shard| !shards.contains(shard)).copied().collect();
        for shard in gone {
            rounds.idle.remove(&shard);
            self.inner.probes_heard.lock().remove(&shard);
            rounds.running.push(Box::pin(self.leave(shard)));
        }
    }

    fn over<'a>(&'a self, rounds: &mut Rounds<'a>, over: Over) {
        match over {
            Over::Lives => rounds.is_asking_lives = false,
            Over::Left => {}
            Over::Round(shard, watched) if rounds.again.remove(&shard) => {
                let plans = self.plans_by_shard().remove(&shard).unwrap_or_default();
                rounds.running.push(Box::pin(self.round(shard, watched, plans, false)));
            }
            Over::Round(shard, watched) => {
                rounds.busy.remove(&shard);
                rounds.idle.insert(shard, watched);
            }
        }
    }

    /// One look at a shard: its heads, and at each tick its probe.
    async fn round(&self, shard: Shard, mut watched: Watched, plans: Vec<OpenPlan>, is_tick: bool) -> Over {
        let is_down = self.holds_heads(shard, &mut watched.outage);
        if !watched.is_probed {
            let probed = self.inner.backend.pubsub.subscribe(Channel::Probe(shard)).await;
            watched.is_probed = probed.is_ok();
        }
        let probed = async {
            if is_tick && watched.is_probed {
                self.probe(shard, &mut watched.deafness, is_down).await;
            }
        };
        tokio::join!(probed, self.check_heads(shard, &mut watched.outage, &plans));
        Over::Round(shard, watched)
    }

    async fn leave(&self, shard: Shard) -> Over {
        if let Err(error) = self.inner.backend.pubsub.unsubscribe(Channel::Probe(shard)).await {
            tracing::debug!(%error, ?shard, "could not unsubscribe");
        }
        Over::Left
    }

    async fn see_lives(&self) -> Over {
        let mut lives = self.inner.backend.log.lives();
        while let Some(life) = lives.next().await {
            self.see_life(&life);
        }
        Over::Lives
    }

    /// The open plans of each shard. Those of none, because no server is known to serve them, wait until one is.
    fn plans_by_shard(&self) -> HashMap<Shard, Vec<OpenPlan>> {
        let mut plans: HashMap<Shard, Vec<OpenPlan>> = HashMap::new();
        for plan in self.inner.interests.plans() {
            if let Some(shard) = self.inner.backend.pubsub.shard_of(Channel::Plan(plan.0)) {
                plans.entry(shard).or_default().push(plan);
            }
        }
        plans
    }

    /// Sends a message to ourselves, and has the connection made anew if such messages do not come back. Not while it is
    /// known to be down, for then that is being done; but if it is down for long, who does it may have failed.
    async fn probe(&self, shard: Shard, deafness: &mut Deafness, is_down: bool) {
        let pubsub = &self.inner.backend.pubsub;
        if is_down {
            return deafness.excused();
        }
        let heard = self.inner.probes_heard.lock().get(&shard).copied().unwrap_or_default();
        if deafness.must_act(Instant::now(), heard, rand::random()) {
            tracing::warn!(?shard, "messages to ourselves do not come back; the subscription is made anew");
            pubsub.reconnect(shard).await;
        }
        match pubsub.publish(Channel::Probe(shard), Bytes::from_static(b"probe")).await {
            Ok(()) => deafness.sent(Instant::now()),
            Err(error) => tracing::debug!(%error, ?shard, "the probe was not taken"),
        }
    }

    async fn check_heads(&self, shard: Shard, outage: &mut Outage, plans: &[OpenPlan]) {
        for part in plans.chunks(HEADS_PER_CALL_MAX) {
            if self.holds_heads(shard, outage) {
                return;
            }
            let asked_at = *self.inner.interruptions.lock();
            let ids: Vec<PlanId> = part.iter().map(|(plan, ..)| *plan).collect();
            let drops: Vec<u64> = part.iter().map(|(_, feed, _)| feed.drops()).collect();
            match self.inner.backend.log.heads(&ids).await {
                Ok(heads) if !self.holds_heads(shard, outage) => self.tell_heads(part, &drops, heads, asked_at),
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, ?shard, plans = ids.len(), "the heads of open plans are unknown for now");
                }
            }
        }
    }

    fn holds_heads(&self, shard: Shard, outage: &mut Outage) -> bool {
        outage.holds_heads(Instant::now(), self.inner.backend.pubsub.is_in_force(shard))
    }

    /// Tells heads, unless the subscription was interrupted since they were asked for: there is another check then.
    fn tell_heads(&self, plans: &[OpenPlan], drops: &[u64], heads: Vec<Option<LogState>>, asked_at: u64) {
        let interruptions = self.inner.interruptions.lock();
        if *interruptions == asked_at {
            for (((plan, feed, _), drops), state) in plans.iter().zip(drops).zip(heads) {
                // The next check asks again.
                let Some(state) = state else { continue };
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
