//! What goes wrong, and when: a schedule made from the seed before anything starts.

use std::time::Duration;

use anyhow::Result;
use mille_tests::Cluster;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep_until};

use crate::history::{Event, Recorder};

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9`.
    Kill(usize),
    /// Started again on its old ports.
    Restart(usize),
}

/// Kills one node at 30 % of the time and one, perhaps another, at 60 %; each is back 15 % later.
#[must_use]
pub fn kill_twice(nodes: usize, length: Duration, seed: u64) -> Vec<(Duration, Blow)> {
    let mut random = SmallRng::seed_from_u64(seed);
    let (first, second) = (random.random_range(0..nodes), random.random_range(0..nodes));
    vec![
        (length.mul_f64(0.30), Blow::Kill(first)),
        (length.mul_f64(0.45), Blow::Restart(first)),
        (length.mul_f64(0.60), Blow::Kill(second)),
        (length.mul_f64(0.75), Blow::Restart(second)),
    ]
}

/// Carries a schedule out.
///
/// # Errors
/// When a node does not come back.
pub async fn strike(
    cluster: &mut Cluster,
    schedule: Vec<(Duration, Blow)>,
    began: Instant,
    recorder: &Recorder,
) -> Result<()> {
    for (at, blow) in schedule {
        sleep_until(began + at).await;
        match blow {
            Blow::Kill(node) => {
                // Written down first: what the node does from here on is not to be relied upon.
                recorder.note(Event::Killed { node });
                cluster.kill_9(node)?;
            }
            Blow::Restart(node) => {
                cluster.restart(node).await?;
                recorder.note(Event::Restarted { node });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_every_kill_is_followed_by_a_restart() {
        let length = Duration::from_secs(20);
        for seed in 0..50 {
            let schedule = kill_twice(3, length, seed);
            assert_eq!(schedule, kill_twice(3, length, seed));
            let blows: Vec<Blow> = schedule.iter().map(|(_, blow)| *blow).collect();
            let [Blow::Kill(a), Blow::Restart(b), Blow::Kill(c), Blow::Restart(d)] = blows[..] else {
                panic!("{blows:?}");
            };
            assert!(a == b && c == d && a < 3 && c < 3);
            assert!(schedule.is_sorted_by_key(|(at, _)| *at) && schedule[3].0 < length);
        }
    }
}
