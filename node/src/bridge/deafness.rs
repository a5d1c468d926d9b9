//! Whether the subscription is deaf: a machine without I/O; time and chance are its parameters.
//!
//! A connection can be open and deliver nothing: a subscription that a server lost, a slot that moved. Nothing says so but
//! the messages that this node sends itself. If they are taken by the store and do not come back, the connection is to be
//! made anew; and not again at once, because if that does not help, the fault lies elsewhere.

use std::time::Duration;

use mille_shared::limits::{PROBE_DEAF_AFTER, PROBE_RECONNECT_PAUSE, PROBE_RECONNECT_PAUSE_MAX};
use tokio::time::Instant;

/// Probes that must be missing. One alone may be on its way, and after a pause of ours there is one only.
const PROBES_MISSING_MIN: u32 = 3;

/// What is known of a node's probes.
#[derive(Debug, Default)]
pub(super) struct Deafness {
    /// How many came back so far.
    heard: u64,
    /// How many were taken by the store since the last came back.
    missing: u32,
    /// When the first of those was taken.
    missing_since: Option<Instant>,
    /// Until when nothing is done about it, and how long the next pause is.
    patience: Option<(Instant, Duration)>,
}

impl Deafness {
    /// The store took a probe.
    pub(super) fn sent(&mut self, now: Instant) {
        self.missing = self.missing.saturating_add(1);
        self.missing_since.get_or_insert(now);
    }

    /// Messages are not expected now: what is missing says nothing.
    pub(super) fn excused(&mut self) {
        (self.missing, self.missing_since) = (0, None);
    }

    /// Looks at how many came back so far, and says whether to make the connection anew now. `chance`, from 0 to 1, keeps
    /// nodes apart that became deaf together.
    pub(super) fn must_act(&mut self, now: Instant, heard: u64, chance: f64) -> bool {
        if heard != self.heard {
            *self = Self { heard, ..Self::default() };
            return false;
        }
        let is_deaf = self.missing >= PROBES_MISSING_MIN
            && self.missing_since.is_some_and(|since| now.duration_since(since) >= PROBE_DEAF_AFTER);
        if !is_deaf || self.patience.is_some_and(|(until, _)| now < until) {
            return false;
        }
        let pause = self.patience.map_or(PROBE_RECONNECT_PAUSE, |(_, pause)| pause);
        let next = (2 * pause).min(PROBE_RECONNECT_PAUSE_MAX);
        self.patience = Some((now + pause.mul_f64(1.0 + chance / 2.0), next));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which it acts, when a probe is sent each second and `heard` came back by then.
    fn acts(deafness: &mut Deafness, began: Instant, seconds: u64, heard: impl Fn(u64) -> u64) -> Vec<u64> {
        let mut acts = Vec::new();
        for second in 0..seconds {
            let now = began + Duration::from_secs(second);
            if deafness.must_act(now, heard(second), 0.0) {
                acts.push(second);
            }
            deafness.sent(now);
        }
        acts
    }

    #[test]
    fn whoever_hears_is_left_alone() {
        assert!(acts(&mut Deafness::default(), Instant::now(), 100, |second| second / 2).is_empty());
    }

    #[test]
    fn the_deaf_are_connected_anew_ever_more_seldom() {
        assert_eq!(acts(&mut Deafness::default(), Instant::now(), 80, |_| 0), [3, 8, 18, 38, 78]);
    }

    #[test]
    fn whoever_hears_again_begins_anew() {
        let heard = |second| u64::from(second >= 20);
        assert_eq!(acts(&mut Deafness::default(), Instant::now(), 30, heard), [3, 8, 18, 23, 28]);
    }

    #[test]
    fn a_pause_of_ours_is_no_deafness() {
        let (mut deafness, began) = (Deafness::default(), Instant::now());
        deafness.sent(began);
        assert!(!deafness.must_act(began + Duration::from_secs(60), 0, 0.0));
    }

    #[test]
    fn what_was_sent_while_the_connection_was_down_does_not_count() {
        let (mut deafness, began) = (Deafness::default(), Instant::now());
        assert!(acts(&mut deafness, began, 3, |_| 0).is_empty());
        deafness.excused();
        assert!(!deafness.must_act(began + Duration::from_secs(9), 0, 0.0));
    }

    #[test]
    fn chance_keeps_nodes_apart() {
        let again = |chance| {
            let (mut deafness, began) = (Deafness::default(), Instant::now());
            (0..60_u64)
                .filter(|half| {
                    let now = began + Duration::from_millis(500 * half);
                    deafness.sent(now);
                    deafness.must_act(now, 0, chance)
                })
                .nth(1)
        };
        assert!(again(1.0) > again(0.0));
    }
}
