//! How long each life of the store is known here.
//!
//! When the store begins a new life, nodes find their way back to it one after the other, and each may have something to
//! give back that the store lost. A life is *settled* once it is known for so long that all of them had the time.

use std::collections::HashMap;

use mille_shared::limits;
use mille_shared::log::StoreLife;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Lives that are remembered: one per server of a cluster, and a few that ended. Beyond it all are forgotten, and those
/// that go on settle anew.
const LIVES_MAX: usize = 256;

/// When each life was seen first.
#[derive(Debug, Default)]
pub(super) struct Lives {
    since: Mutex<HashMap<StoreLife, Instant>>,
}

impl Lives {
    /// Notes that a life was seen, and says whether it is settled.
    pub(super) fn see(&self, life: &StoreLife) -> bool {
        let now = Instant::now();
        let mut since = self.since.lock();
        if let Some(since) = since.get(life) {
            return now.duration_since(*since) >= limits::STORE_SETTLES_AFTER;
        }
        if since.len() >= LIVES_MAX {
            since.clear();
        }
        since.insert(life.clone(), now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_life_settles_with_time_and_each_for_itself() {
        let lives = Lives::default();
        let (one, two) = (StoreLife::new("one"), StoreLife::new("two"));
        assert!(!lives.see(&one));
        tokio::time::advance(limits::STORE_SETTLES_AFTER).await;
        assert!(lives.see(&one) && !lives.see(&two));
    }

    #[test]
    fn lives_do_not_pile_up() {
        let lives = Lives::default();
        for number in 0..10 * LIVES_MAX {
            lives.see(&StoreLife::new(number.to_string()));
        }
        assert!(lives.since.lock().len() <= LIVES_MAX);
    }
}
