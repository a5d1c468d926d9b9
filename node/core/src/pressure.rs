//! How much pressure a node is under, and what it gives up for it, in order.
//!
//! Three things are measured, some ten times a second or, at ease, three times: how late the event loop comes to what is due,
//! how many bytes wait in send queues, how long the store takes to answer. The one that is worst says how high the level
//! should be. A level is reached one step at a time, and only by what lasts: each measure counts as the median of its last
//! samples, so that a single pause, however long, changes nothing. A store is not heard all the time, so an answer of it is
//! one sample, not one for each look until the next, and no level is reached while nothing new says so. A level is left one
//! step at a time too, and later: the measure must have been well below for seconds. So whoever is refused is not refused and
//! let in by turns.
//!
//! A store that answers late is pressure, and all levels follow from it. One that does not answer at all is an outage:
//! whoever needs it is told so by others, and what does not need it goes on. It counts as [`Level::ThinPresence`] only.

use std::time::Duration;

/// Samples of which the median counts: for a level to be reached most of them must be above it, and the newest too. That is most of
/// the last half second, or, from ease, the first three samples; of a store that is seldom asked, three answers of the last five.
const SAMPLES: usize = 5;
/// Time between two steps up.
pub const RISE_AFTER: Duration = Duration::from_millis(300);
/// How long the measures must be well below a level before it is left.
pub const FALL_AFTER: Duration = Duration::from_secs(3);
/// What is well below: this part of the threshold, in percent.
const WELL_BELOW_PERCENT: u64 = 70;

/// What a node gives up. Each level includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing.
    #[default]
    Calm,
    /// Cursors are shown less often.
    WidenCursors,
    /// Of people, only who comes and goes is told at once.
    ThinPresence,
    /// Nobody new is let in.
    RefuseConnections,
    /// Nothing new is begun. What was accepted is carried out.
    RefuseOperations,
}

impl Level {
    /// All of them, from the lowest on.
    pub const ALL: [Self; 5] =
        [Self::Calm, Self::WidenCursors, Self::ThinPresence, Self::RefuseConnections, Self::RefuseOperations];

    /// The name in logs, and for operators.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::WidenCursors => "widen_cursors",
            Self::ThinPresence => "thin_presence",
            Self::RefuseConnections => "refuse_connections",
            Self::RefuseOperations => "refuse_operations",
        }
    }

    /// The level with this place in [`Self::ALL`]; the highest for one beyond.
    #[must_use]
    pub fn at(place: usize) -> Self {
        Self::ALL.get(place).copied().unwrap_or(Self::RefuseOperations)
    }
}

/// From where on a measure asks for each level above [`Level::Calm`], in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// How late the event loop comes to what is due.
    pub lag: [Duration; 4],
    /// Bytes that wait in send queues.
    pub queued_bytes: [u64; 4],
    /// How long the store takes to answer.
    pub store: [Duration; 4],
}

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// It took so long to answer what it answered since the sample before. No time at all, where there is no store.
    Answers(Duration),
    /// It answered nothing since the sample before, and may not have been asked: what was known of it still holds.
    Unheard,
    /// It has not answered for a while.
    Silent,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// How late the event loop came to what was due.
    pub lag: Duration,
    /// Bytes that wait in send queues.
    pub queued_bytes: u64,
    /// How the store is.
    pub store: Store,
}

/// The level, and what it was judged by.
#[derive(Debug, Clone)]
pub struct Pressure {
    lag: Measure,
    queued_bytes: Measure,
    store: Measure,
    level: Level,
    rose_at: Option<Duration>,
    /// Since when everything is well below the level.
    below_since: Option<Duration>,
}

impl Pressure {
    /// A node that begins calm.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            lag: Measure::new(thresholds.lag.map(micros)),
            queued_bytes: Measure::new(thresholds.queued_bytes),
            store: Measure::new(thresholds.store.map(micros)),
            level: Level::Calm,
            rose_at: None,
            below_since: None,
        }
    }

    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether nothing is given up, and none of the last samples asks for it: then samples may come further apart.
    #[must_use]
    pub fn is_at_ease(&self) -> bool {
        self.level == Level::Calm && !self.measures().any(Measure::was_above)
    }

    /// Takes what was measured at `at`, on any clock that never goes back. Answers the new level if it is another, which is
    /// one step away.
    pub fn note(&mut self, at: Duration, sample: Sample) -> Option<Level> {
        self.lag.note(Some(micros(sample.lag)));
        self.queued_bytes.note(Some(sample.queued_bytes));
        self.store.note(match sample.store {
            Store::Answers(latency) => Some(micros(latency)),
            Store::Unheard => None,
            Store::Silent => Some(self.store.threshold(Level::ThinPresence)),
        });
        let place = self.level as usize;
        let changed = if self.measures().any(|measure| measure.asks_for() > place) {
            self.below_since = None;
            let may_rise = self.rose_at.is_none_or(|rose_at| at >= rose_at + RISE_AFTER);
            if may_rise {
                self.rose_at = Some(at);
            }
            may_rise.then(|| Level::at(place + 1))
        } else if self.level == Level::Calm || self.measures().any(|measure| measure.keeps(self.level)) {
            self.below_since = None;
            None
        } else {
            let since = *self.below_since.get_or_insert(at);
            let may_fall = at >= since + FALL_AFTER;
            if may_fall {
                self.below_since = None;
            }
            may_fall.then(|| Level::at(place - 1))
        };
        self.level = changed.unwrap_or(self.level);
        changed
    }

    fn measures(&self) -> impl Iterator<Item = &Measure> {
        [&self.lag, &self.queued_bytes, &self.store].into_iter()
    }
}

/// The last samples of one measure, in its own unit.
#[derive(Debug, Clone)]
struct Measure {
    thresholds: [u64; 4],
    samples: [u64; SAMPLES],
    next: usize,
    /// What was sampled at the last look, if anything was.
    newest: Option<u64>,
}

impl Measure {
    fn new(thresholds: [u64; 4]) -> Self {
        Self { thresholds, samples: [0; SAMPLES], next: 0, newest: None }
    }

    fn note(&mut self, sample: Option<u64>) {
        self.newest = sample;
        if let Some(sample) = sample {
            self.samples[self.next] = sample;
            self.next = (self.next + 1) % SAMPLES;
        }
    }

    fn median(&self) -> u64 {
        let mut sorted = self.samples;
        sorted.sort_unstable();
        sorted[SAMPLES / 2]
    }

    /// The place of the level it asks for: what lasts, and still holds.
    fn asks_for(&self) -> usize {
        let lasting = self.newest.map_or(0, |newest| newest.min(self.median()));
        self.thresholds.iter().take_while(|threshold| lasting >= **threshold).count()
    }

    /// Whether one of the samples alone would ask for a level.
    fn was_above(&self) -> bool {
        self.samples.iter().any(|sample| *sample >= self.threshold(Level::WidenCursors))
    }

    /// Whether it is not well below this level.
    fn keeps(&self, level: Level) -> bool {
        self.median().saturating_mul(100) >= self.threshold(level).saturating_mul(WELL_BELOW_PERCENT)
    }

    fn threshold(&self, level: Level) -> u64 {
        (level as usize).checked_sub(1).map_or(0, |place| self.thresholds[place])
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP_MS: u64 = 100;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pressure() -> Pressure {
        let times = [10, 20, 30, 40].map(ms);
        Pressure::new(Thresholds { lag: times, queued_bytes: [1_000, 2_000, 3_000, 4_000], store: times })
    }

    fn lag(lag_ms: u64) -> Sample {
        Sample { lag: ms(lag_ms), queued_bytes: 0, store: Store::Answers(Duration::ZERO) }
    }

    /// The levels after each of so many equal samples.
    fn feed(pressure: &mut Pressure, clock_ms: &mut u64, sample: Sample, count: usize) -> Vec<Level> {
        let feed = |_| {
            *clock_ms += STEP_MS;
            pressure.note(ms(*clock_ms), sample);
            pressure.level()
        };
        (0..count).map(feed).collect()
    }

    fn changes(levels: &[Level]) -> Vec<Level> {
        let mut levels = levels.to_vec();
        levels.dedup();
        levels
    }

    #[test]
    fn what_lasts_raises_it_step_by_step_and_calm_lowers_it_step_by_step() {
        let (mut pressure, mut clock) = (pressure(), 0);
        let up = feed(&mut pressure, &mut clock, lag(1_000), 20);
        assert_eq!(up[..2], [Level::Calm; 2], "two samples are not enough");
        assert_eq!(up[2], Level::WidenCursors);
        assert_eq!(changes(&up), Level::ALL);
        let down = feed(&mut pressure, &mut clock, lag(0), 140);
        let mut falling = Level::ALL.to_vec();
        falling.reverse();
        assert_eq!(changes(&down), falling);
        assert!(down[..29].iter().all(|level| *level == Level::RefuseOperations), "it falls only after seconds");
    }

    #[test]
    fn each_measure_counts_and_the_worst_decides() {
        let calm = lag(0);
        for (sample, expected) in [
            (lag(25), Level::ThinPresence),
            (Sample { queued_bytes: 3_000, ..calm }, Level::RefuseConnections),
            (Sample { store: Store::Answers(ms(10)), ..calm }, Level::WidenCursors),
            (Sample { store: Store::Answers(ms(90)), ..calm }, Level::RefuseOperations),
            (Sample { queued_bytes: 1_500, ..lag(35) }, Level::RefuseConnections),
            (Sample { queued_bytes: 999, store: Store::Answers(ms(9)), ..lag(9) }, Level::Calm),
        ] {
            let mut pressure = pressure();
            feed(&mut pressure, &mut 0, sample, 50);
            assert_eq!(pressure.level(), expected, "{sample:?}");
        }
    }

    #[test]
    fn a_store_that_says_nothing_thins_presence_and_refuses_nobody() {
        let mut pressure = pressure();
        feed(&mut pressure, &mut 0, Sample { store: Store::Silent, ..lag(0) }, 100);
        assert_eq!(pressure.level(), Level::ThinPresence);
    }

    #[test]
    fn an_answer_of_the_store_is_one_sample_however_long_no_other_is_heard() {
        let heard = |store| Sample { store, ..lag(0) };
        let (mut pressure, mut clock) = (pressure(), 0);
        for expected in [Level::Calm, Level::Calm, Level::WidenCursors, Level::ThinPresence] {
            feed(&mut pressure, &mut clock, heard(Store::Answers(ms(90))), 1);
            feed(&mut pressure, &mut clock, heard(Store::Unheard), 9);
            assert_eq!(pressure.level(), expected);
        }
        // What is over asks for no more, although most of the last samples would; and silence says neither.
        feed(&mut pressure, &mut clock, heard(Store::Answers(ms(1))), 1);
        feed(&mut pressure, &mut clock, heard(Store::Unheard), 100);
        assert_eq!(pressure.level(), Level::ThinPresence);
    }

    #[test]
    fn between_the_threshold_and_well_below_it_nothing_changes() {
        let (mut pressure, mut clock) = (pressure(), 0);
        feed(&mut pressure, &mut clock, lag(10), 10);
        let levels = feed(&mut pressure, &mut clock, lag(8), 200);
        assert_eq!(changes(&levels), [Level::WidenCursors]);
        let levels = feed(&mut pressure, &mut clock, lag(6), 50);
        assert_eq!(changes(&levels), [Level::WidenCursors, Level::Calm]);
    }

    #[test]
    fn it_is_at_ease_until_a_single_sample_asks_for_something_and_again_when_that_is_forgotten() {
        let calm = lag(9);
        for bad in [lag(10), Sample { queued_bytes: 1_000, ..calm }, Sample { store: Store::Silent, ..calm }] {
            let (mut pressure, mut clock) = (pressure(), 0);
            assert!(pressure.is_at_ease(), "it begins so");
            feed(&mut pressure, &mut clock, calm, 10);
            assert!(pressure.is_at_ease());
            feed(&mut pressure, &mut clock, bad, 1);
            assert!(!pressure.is_at_ease() && pressure.level() == Level::Calm, "{bad:?}");
            feed(&mut pressure, &mut clock, calm, SAMPLES - 1);
            assert!(!pressure.is_at_ease(), "{bad:?}");
            feed(&mut pressure, &mut clock, calm, 1);
            assert!(pressure.is_at_ease(), "{bad:?}");
        }
        let (mut pressure, mut clock) = (pressure(), 0);
        feed(&mut pressure, &mut clock, lag(10), 10);
        feed(&mut pressure, &mut clock, lag(0), 10);
        assert_eq!((pressure.level(), pressure.is_at_ease()), (Level::WidenCursors, false), "something is given up");
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let answers = (0..60u64).prop_map(|latency| Store::Answers(ms(latency)));
        let store = prop_oneof![4 => answers, 2 => Just(Store::Unheard), 1 => Just(Store::Silent)];
        (0..60u64, 0..6_000u64, store).prop_map(|(lag_ms, queued_bytes, store)| Sample {
            queued_bytes,
            store,
            ..lag(lag_ms)
        })
    }

    /// Samples with the pauses before them: around a tenth of a second or three, now and then much longer.
    fn history() -> impl Strategy<Value = Vec<(u64, Sample)>> {
        prop::collection::vec((prop_oneof![6 => 90..130u64, 3 => 290..330u64, 1 => 0..5_000u64], sample()), 0..200)
    }

    /// A sample that is at least as bad in everything.
    fn worse(sample: Sample, by: Sample) -> Sample {
        let store = match (sample.store, by.store) {
            (Store::Answers(latency), Store::Answers(more)) => Store::Answers(latency + more),
            (other, _) => other,
        };
        Sample { lag: sample.lag + by.lag, queued_bytes: sample.queued_bytes + by.queued_bytes, store }
    }

    proptest! {
        /// Whatever comes: one step at a time, steps up apart, and down only long after the last step of any kind.
        #[test]
        fn it_moves_by_single_steps_and_never_flaps(history in history()) {
            let (mut pressure, mut clock) = (pressure(), 0);
            let (mut rose_at, mut moved_at): (Option<u64>, Option<u64>) = (None, None);
            for (pause, sample) in history {
                clock += pause;
                let before = pressure.level();
                let Some(after) = pressure.note(ms(clock), sample) else {
                    prop_assert_eq!(pressure.level(), before);
                    continue;
                };
                prop_assert_eq!((before as usize).abs_diff(after as usize), 1);
                if after > before {
                    prop_assert!(rose_at.is_none_or(|rose_at| ms(clock - rose_at) >= RISE_AFTER));
                    rose_at = Some(clock);
                } else {
                    prop_assert!(moved_at.is_some_and(|moved_at| ms(clock - moved_at) >= FALL_AFTER));
                }
                moved_at = Some(clock);
            }
        }

        /// From wherever it is, calm brings it back.
        #[test]
        fn calm_brings_it_back_within_a_bound(history in history()) {
            let (mut pressure, mut clock) = (pressure(), 0);
            for (pause, sample) in history {
                clock += pause;
                pressure.note(ms(clock), sample);
            }
            let bound = SAMPLES as u64 * STEP_MS + 4 * (u64::try_from(FALL_AFTER.as_millis()).unwrap() + STEP_MS);
            feed(&mut pressure, &mut clock, lag(0), usize::try_from(bound / STEP_MS).unwrap());
            prop_assert_eq!(pressure.level(), Level::Calm);
        }

        /// A node that is worse off in everything never gives up less.
        #[test]
        fn it_is_monotone_in_what_is_measured(history in history(), more in prop::collection::vec(sample(), 200)) {
            let (mut better, mut worse_off, mut clock) = (pressure(), pressure(), 0);
            for ((pause, sample), more) in history.into_iter().zip(more) {
                clock += pause;
                better.note(ms(clock), sample);
                worse_off.note(ms(clock), worse(sample, more));
                prop_assert!(better.level() <= worse_off.level());
            }
        }

        /// One or two samples among calm ones change nothing, however bad.
        #[test]
        fn a_pause_changes_nothing(spikes in prop::collection::vec(sample(), 0..3)) {
            let (mut pressure, mut clock) = (pressure(), 0);
            feed(&mut pressure, &mut clock, lag(1), 10);
            for sample in spikes {
                feed(&mut pressure, &mut clock, sample, 1);
            }
            let levels = feed(&mut pressure, &mut clock, lag(1), 10);
            prop_assert_eq!(changes(&levels), [Level::Calm]);
        }
    }
}
