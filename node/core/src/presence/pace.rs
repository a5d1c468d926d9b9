//! How often cursors are shown: seldom enough for the room, and for the load.
//!
//! The room sets the least: with more people each frame goes to more of them. Load widens it further. Its measure is how
//! late frames are: a node with more to do than it can comes to its timers late, whatever it is that it does. Lateness is
//! judged over many frames, and the way back begins lower than the way up, so that the pace does not swing. And while the
//! node as a whole is under pressure (`pressure`), whatever of it this project notices, the interval is wider by a factor.

use std::time::Duration;

/// Cursors are never shown less often, whatever the room and the load.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Frames that are late by more than this part of the interval, on average, widen it by half its least.
const STRAINED_ABOVE: u32 = 4;
/// Frames that are late by less than this part of it let it narrow again, by as much.
const RELAXED_BELOW: u32 = 16;

/// Under pressure the room's interval is so many times as long.
const PRESSED_FACTOR: u32 = 4;

/// The interval, and what it was judged by.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    narrowest: Duration,
    /// The interval that the room alone asks for, and the pressure that the node is under.
    least: Duration,
    is_pressed: bool,
    /// Halves of [`least`](Self::least) that load has added.
    strain: u32,
    interval: Duration,
    /// How late frames were since the last judgement, in all.
    lateness: Duration,
    frames: u32,
}

impl Pace {
    pub(super) fn new(narrowest: Duration) -> Self {
        let (least, interval, lateness) = (narrowest, narrowest, Duration::ZERO);
        Self { narrowest, least, is_pressed: false, strain: 0, interval, lateness, frames: 0 }
    }

    /// Time between two frames for viewers.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Time between two messages to other nodes.
    pub(super) fn tell_interval(&self) -> Duration {
        (self.interval / 2).max(self.narrowest)
    }

    /// Whether the node is under pressure, from the next judgement on. Answers whether that is new.
    pub(super) fn press(&mut self, is_pressed: bool) -> bool {
        std::mem::replace(&mut self.is_pressed, is_pressed) != is_pressed
    }

    /// A frame went out so long after it was due.
    pub(super) fn note_lateness(&mut self, late: Duration) {
        self.lateness += late;
        self.frames += 1;
    }

    /// Judges the room and the lateness since the last time. Answers the new interval if it is another.
    pub(super) fn adapt(&mut self, people: usize) -> Option<Duration> {
        let factor = match people {
            0..=200 => 1,
            201..=1_500 => 2,
            1_501..=5_000 => 4,
            _ => 10,
        };
        let factor = if self.is_pressed { factor * PRESSED_FACTOR } else { factor };
        self.least = (self.narrowest * factor).min(INTERVAL_MAX.max(self.narrowest));
        // In a room that grew, the same interval takes fewer halves.
        let half_us = (self.least / 2).as_micros().max(1);
        let halves = INTERVAL_MAX.saturating_sub(self.least).as_micros().div_ceil(half_us);
        self.strain = self.strain.min(u32::try_from(halves).unwrap_or(u32::MAX));
        let late = self.lateness.checked_div(self.frames).unwrap_or_default();
        (self.lateness, self.frames) = (Duration::ZERO, 0);
        let is_widest = self.interval >= INTERVAL_MAX;
        if late > self.interval / STRAINED_ABOVE && !is_widest {
            self.strain += 1;
        } else if late < self.interval / RELAXED_BELOW {
            self.strain = self.strain.saturating_sub(1);
        }
        let interval = (self.least + self.least / 2 * self.strain).min(INTERVAL_MAX.max(self.narrowest));
        (interval != self.interval).then(|| {
            self.interval = interval;
            interval
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NARROWEST: Duration = Duration::from_millis(50);

    /// So many frames, each late by so much.
    fn judged(pace: &mut Pace, people: usize, late: Duration) -> Duration {
        for _ in 0..20 {
            pace.note_lateness(late);
        }
        pace.adapt(people);
        pace.interval()
    }

    #[test]
    fn the_room_sets_the_least_and_load_widens_it_up_to_a_second() {
        let mut pace = Pace::new(NARROWEST);
        assert_eq!(judged(&mut pace, 10, Duration::ZERO), NARROWEST);
        assert_eq!(judged(&mut pace, 1_000, Duration::ZERO), 2 * NARROWEST);
        assert_eq!(judged(&mut pace, 1_000, Duration::from_millis(30)), 3 * NARROWEST);
        for _ in 0..100 {
            judged(&mut pace, 1_000, Duration::from_secs(2));
        }
        assert_eq!(pace.interval(), INTERVAL_MAX);
        let calmer = judged(&mut pace, 1_000, Duration::ZERO);
        assert!(calmer < INTERVAL_MAX, "it narrows with the first calm: {calmer:?}");
    }

    #[test]
    fn a_room_that_grew_is_shown_at_what_it_asks_for_once_it_is_calm() {
        let mut pace = Pace::new(NARROWEST);
        for _ in 0..100 {
            judged(&mut pace, 10, Duration::from_secs(2));
        }
        judged(&mut pace, 6_000, Duration::ZERO);
        assert!(judged(&mut pace, 6_000, Duration::ZERO) < INTERVAL_MAX);
    }

    #[test]
    fn between_strained_and_relaxed_nothing_changes() {
        let mut pace = Pace::new(NARROWEST);
        judged(&mut pace, 10, Duration::from_millis(40));
        let wide = pace.interval();
        assert!(wide > NARROWEST);
        assert_eq!(judged(&mut pace, 10, wide / 8), wide);
        assert_eq!(judged(&mut pace, 10, Duration::ZERO), NARROWEST);
    }

    #[test]
    fn under_pressure_it_is_wider_at_once_and_afterwards_as_before() {
        let mut pace = Pace::new(NARROWEST);
        judged(&mut pace, 1_000, Duration::ZERO);
        assert!(pace.press(true) && !pace.press(true));
        assert_eq!(judged(&mut pace, 1_000, Duration::ZERO), 8 * NARROWEST);
        assert_eq!(judged(&mut pace, 20_000, Duration::ZERO), INTERVAL_MAX);
        assert!(pace.press(false));
        assert_eq!(judged(&mut pace, 1_000, Duration::ZERO), 2 * NARROWEST);
    }

    proptest! {
        /// Whatever the room and the lateness: never narrower than the narrowest, never wider than a second, and calm
        /// brings it back to what the room asks for.
        #[test]
        fn the_interval_keeps_its_bounds_and_comes_back(
            steps in prop::collection::vec((0..20_000usize, 0..3_000u64), 0..50),
            people in 0..20_000usize,
        ) {
            let mut pace = Pace::new(NARROWEST);
            for (people, late) in steps {
                let interval = judged(&mut pace, people, Duration::from_millis(late));
                prop_assert!(interval >= NARROWEST && interval <= INTERVAL_MAX);
                prop_assert!(pace.tell_interval() <= interval && pace.tell_interval() >= NARROWEST);
            }
            for _ in 0..64 {
                judged(&mut pace, people, Duration::ZERO);
            }
            let fresh = judged(&mut Pace::new(NARROWEST), people, Duration::ZERO);
            prop_assert_eq!(pace.interval(), fresh);
        }
    }
}
