//! How old the newest known positions were, weighted by time.
//!
//! Between two updates the age of what a viewer knows grows evenly, so a position that was known for 150 ms had each
//! age on the way for one millisecond. That needs no samples: where the ages begin one more is held, where they end one
//! less (a difference array), and one sum over all buckets gives the exact distribution over everyone and the whole
//! time. Times are whole milliseconds of one clock, so a single age may be off by one.

use serde::Serialize;

/// Ages that are told apart, in milliseconds. Time spent with an older position counts, but only the oldest is told.
const AGES: usize = 60_000;

/// The time that is measured, in milliseconds of the bench's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

impl Window {
    pub(crate) fn seconds(self) -> f64 {
        (self.to_ms - self.from_ms) as f64 / 1_000.0
    }

    pub(crate) fn contains(self, at_ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&at_ms)
    }

    /// What of a time is in the window: when it begins and ends.
    pub(crate) fn cut(self, begin_ms: i64, end_ms: i64) -> (i64, i64) {
        (begin_ms.max(self.from_ms), end_ms.min(self.to_ms))
    }
}

/// The time that was spent with positions of each age.
#[derive(Debug, Clone)]
pub(crate) struct Staleness {
    /// At each age, how much more is held there than one millisecond younger.
    steps: Vec<i64>,
    /// Milliseconds with positions older than [`AGES`].
    beyond_ms: u64,
    oldest_ms: u64,
}

impl Staleness {
    pub(crate) fn new() -> Self {
        Self { steps: vec![0; AGES + 1], beyond_ms: 0, oldest_ms: 0 }
    }

    /// A position sent at `sent_ms` was the newest known from `begin_ms` until `end_ms`.
    pub(crate) fn hold(&mut self, sent_ms: i64, begin_ms: i64, end_ms: i64) {
        let age = |at_ms: i64| usize::try_from(at_ms - sent_ms).unwrap_or_default();
        let (young, old) = (age(begin_ms), age(end_ms));
        if old <= young {
            return;
        }
        self.steps[young.min(AGES)] += 1;
        self.steps[old.min(AGES)] -= 1;
        self.beyond_ms += old.saturating_sub(young.max(AGES)) as u64;
        self.oldest_ms = self.oldest_ms.max(old as u64);
    }

    /// Adds what another one holds.
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps.iter_mut().zip(&other.steps).for_each(|(step, more)| *step += more);
        self.beyond_ms += other.beyond_ms;
        self.oldest_ms = self.oldest_ms.max(other.oldest_ms);
    }

    /// Sums it up.
    pub(crate) fn ages(&self) -> Ages {
        let mut held = 0;
        let times: Vec<u64> = self.steps[..AGES]
            .iter()
            .map(|step| {
                held += step;
                u64::try_from(held).unwrap_or_default()
            })
            .collect();
        let total_ms = times.iter().sum::<u64>() + self.beyond_ms;
        let quantile = |percent: u64| {
            let mut younger = 0;
            let mut reaches = |(age, time): (usize, &u64)| {
                younger += time;
                // An age lasts until the next one begins.
                (younger * 100 >= total_ms * percent).then_some(age as u64 + 1)
            };
            let found = times.iter().enumerate().find_map(&mut reaches);
            (total_ms > 0).then(|| found.unwrap_or(self.oldest_ms))
        };
        Ages {
            p50_ms: quantile(50),
            p90_ms: quantile(90),
            p99_ms: quantile(99),
            max_ms: (total_ms > 0).then_some(self.oldest_ms),
        }
    }
}

/// Ages that were not exceeded for so much of the time; none when nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ages {
    pub(crate) p50_ms: Option<u64>,
    pub(crate) p90_ms: Option<u64>,
    pub(crate) p99_ms: Option<u64>,
    pub(crate) max_ms: Option<u64>,
}

impl Ages {
    /// Cells of a row that begins with `title`.
    pub(crate) fn row(&self, title: &str) -> Vec<String> {
        let ages = [self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms];
        let cells = ages.map(|ms| ms.map_or("-".to_owned(), |ms| ms.to_string()));
        [title.to_owned()].into_iter().chain(cells).collect()
    }

    /// The titles above such rows.
    pub(crate) fn titles(what: &str) -> Vec<String> {
        [what, "P50 ms", "P90 ms", "P99 ms", "MAX ms"].map(str::to_owned).to_vec()
    }
}

/// The newest position a viewer knows of each mover.
#[derive(Debug)]
pub(crate) struct Known {
    newest: Vec<Option<Sighting>>,
    unknown: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sighting {
    sent_ms: i64,
    learned_ms: i64,
}

/// What a position was to a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Newer than what was known, or the first.
    Newer,
    /// What was known already.
    Same,
    /// Older than what was known: the cursor jumps back.
    Older,
}

impl Known {
    pub(crate) fn new(movers: usize) -> Self {
        Self { newest: vec![None; movers], unknown: movers }
    }

    /// Movers of which nothing is known yet.
    pub(crate) fn unknown(&self) -> usize {
        self.unknown
    }

    /// Takes a position in; how long the one before was the newest goes into `staleness`, as far as it was in the
    /// window.
    pub(crate) fn see(
        &mut self,
        mover: usize,
        sent_ms: i64,
        now_ms: i64,
        window: Option<Window>,
        staleness: &mut Staleness,
    ) -> News {
        let sighting = Sighting { sent_ms, learned_ms: now_ms };
        let Some(before) = self.newest[mover].replace(sighting) else {
            self.unknown -= 1;
            return News::Newer;
        };
        if sent_ms <= before.sent_ms {
            self.newest[mover] = Some(before);
            return if sent_ms == before.sent_ms { News::Same } else { News::Older };
        }
        before.end(now_ms, window, staleness);
        News::Newer
    }

    /// The window is over: what is known of a mover was the newest until its end.
    pub(crate) fn close(&self, mover: usize, window: Window, staleness: &mut Staleness) {
        if let Some(last) = self.newest[mover] {
            last.end(window.to_ms, Some(window), staleness);
        }
    }
}

impl Sighting {
    fn end(self, now_ms: i64, window: Option<Window>, staleness: &mut Staleness) {
        if let Some(window) = window {
            let (begin_ms, end_ms) = window.cut(self.learned_ms, now_ms);
            staleness.hold(self.sent_ms, begin_ms, end_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn ages(p50: u64, p90: u64, p99: u64, max: u64) -> Ages {
        Ages { p50_ms: Some(p50), p90_ms: Some(p90), p99_ms: Some(p99), max_ms: Some(max) }
    }

    #[test]
    fn a_position_has_each_age_on_the_way_for_a_millisecond() {
        let mut staleness = Staleness::new();
        staleness.hold(1_000, 1_000, 1_100);
        assert_eq!(staleness.ages(), ages(50, 90, 99, 100));
        // As long again, but young all the time, so half of the time is younger than 50 ms and half of the rest too.
        staleness.hold(5_000, 5_000, 5_050);
        staleness.hold(5_050, 5_050, 5_100);
        assert_eq!(staleness.ages(), ages(34, 80, 98, 100));
    }

    #[test]
    fn what_comes_late_is_never_young() {
        let mut staleness = Staleness::new();
        staleness.hold(0, 40, 50);
        assert_eq!(staleness.ages(), ages(45, 49, 50, 50));
    }

    #[test]
    fn of_no_time_there_are_no_ages_and_the_row_says_so() {
        let mut staleness = Staleness::new();
        staleness.hold(10, 20, 20);
        staleness.hold(10, 20, 15);
        assert_eq!(staleness.ages().p99_ms, None);
        assert_eq!(staleness.ages().row("all"), ["all", "-", "-", "-", "-"]);
    }

    #[test]
    fn an_age_beyond_all_buckets_is_not_left_out() {
        let far = i64::try_from(AGES).expect("small") + 100;
        let mut staleness = Staleness::new();
        staleness.hold(0, far, far + 50);
        staleness.hold(0, 0, 50);
        assert_eq!(staleness.ages(), ages(50, far as u64 + 50, far as u64 + 50, far as u64 + 50));
        let mut across = Staleness::new();
        across.hold(0, 0, far);
        assert_eq!((across.beyond_ms, across.ages().p50_ms), (100, Some(far as u64 / 2)));
    }

    #[test]
    fn of_what_comes_in_the_wrong_order_the_newest_stays() {
        let window = Window { from_ms: 0, to_ms: 100 };
        let mut staleness = Staleness::new();
        let mut known = Known::new(2);
        let mut see = |known: &mut Known, sent, now| known.see(0, sent, now, Some(window), &mut staleness);
        assert_eq!(see(&mut known, 10, 10), News::Newer);
        assert_eq!(see(&mut known, 5, 20), News::Older);
        assert_eq!(see(&mut known, 10, 30), News::Same);
        assert_eq!(known.unknown(), 1);
        (0..2).for_each(|mover| known.close(mover, window, &mut staleness));
        assert_eq!(staleness.ages(), ages(45, 81, 90, 90));
    }

    /// Looks at every millisecond what was the newest, and how old it was when that millisecond was over.
    fn sampled(updates: &[(usize, i64, i64)], movers: usize, window: Window) -> Ages {
        let mut seen: Vec<u64> = Vec::new();
        for now in window.from_ms..window.to_ms {
            for mover in 0..movers {
                let heard = updates.iter().filter(|(who, _, learned)| *who == mover && *learned <= now);
                if let Some(newest) = heard.map(|(_, sent, _)| sent).max() {
                    seen.push((now - newest + 1).try_into().expect("nothing is known before it was sent"));
                }
            }
        }
        seen.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (seen.len() * percent).div_ceil(100).max(1);
            seen.get(rank - 1).copied()
        };
        Ages { p50_ms: quantile(50), p90_ms: quantile(90), p99_ms: quantile(99), max_ms: seen.last().copied() }
    }

    proptest! {
        /// However positions come, late or in the wrong order, the two additions say what looking all the time would.
        #[test]
        fn it_is_what_a_sampler_sees(
            moves in vec((0usize..3, 0i64..40, 0i64..60), 0..60),
            from_ms in 0i64..200,
            length in 1i64..300,
        ) {
            let window = Window { from_ms, to_ms: from_ms + length };
            let mut learned = 0;
            let mut updates = Vec::new();
            for (mover, pause, way) in moves {
                learned += pause;
                updates.push((mover, (learned - way).max(0), learned));
            }
            let mut staleness = Staleness::new();
            let mut known = Known::new(3);
            for &(mover, sent, learned) in &updates {
                known.see(mover, sent, learned, Some(window), &mut staleness);
            }
            (0..3).for_each(|mover| known.close(mover, window, &mut staleness));
            let mut sum = Staleness::new();
            sum.add(&staleness);
            prop_assert_eq!(sum.ages(), sampled(&updates, 3, window));
        }
    }
}
