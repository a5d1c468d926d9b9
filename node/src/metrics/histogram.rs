//! How often something was how large: counts in buckets, and a sum. Noting costs two atomic additions and no memory, so it
//! may be done for every delivery; there is nothing to condense later.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::HistogramFn;

/// Upper bounds of buckets, and what they count.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    /// Seconds; their sum is exact to a nanosecond.
    Seconds(&'static [f64]),
    /// Whole things.
    Items(&'static [f64]),
}

/// Durations of work, from half a millisecond to a minute.
pub(super) const WORK: Scale =
    Scale::Seconds(&[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0]);
/// Durations of what should be over at once, from a tenth of a millisecond to ten seconds.
pub(super) const DELIVERY: Scale =
    Scale::Seconds(&[0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]);
/// How long sockets are open: from a failed attempt to a working day.
pub(super) const LIFETIME: Scale = Scale::Seconds(&[1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0]);
/// How many wait in a queue of 1,024 places.
pub(super) const QUEUE: Scale = Scale::Items(&[0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 512.0, 1_023.0]);

impl Scale {
    fn bounds(self) -> &'static [f64] {
        match self {
            Self::Seconds(bounds) | Self::Items(bounds) => bounds,
        }
    }

    /// The sum's units in one of what is counted.
    fn units(self) -> f64 {
        match self {
            Self::Seconds(_) => 1e9,
            Self::Items(_) => 1.0,
        }
    }
}

/// The buckets of one series.
#[derive(Debug)]
pub(super) struct Buckets {
    scale: Scale,
    /// One more than there are bounds: for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What was noted so far.
pub(super) struct Seen {
    /// Upper bounds, the last one infinite, and how much lies between each and the one before.
    pub(super) counts: Vec<(f64, u64)>,
    pub(super) sum: f64,
}

impl Buckets {
    pub(super) fn new(scale: Scale) -> Self {
        let counts = (0..=scale.bounds().len()).map(|_| AtomicU64::new(0)).collect();
        Self { scale, counts, sum: AtomicU64::new(0) }
    }

    /// What was noted so far. The sum may be ahead or behind by what is being noted just now.
    pub(super) fn read(&self) -> Seen {
        let bounds = self.scale.bounds().iter().copied().chain([f64::INFINITY]);
        let counts = bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        Seen { counts, sum: self.sum.load(Ordering::Relaxed) as f64 / self.scale.units() }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        // What is negative, or no number, counts as nothing.
        let value = value.max(0.0);
        let bounds = self.scale.bounds();
        let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * self.scale.units()) as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_lies_in_its_bucket_and_in_the_sum() {
        let buckets = Buckets::new(Scale::Seconds(&[0.1, 1.0]));
        for value in [0.1, 0.25, 7.0, -3.0, f64::NAN] {
            buckets.record(value);
        }
        let Seen { counts, sum } = buckets.read();
        assert_eq!(counts, [(0.1, 3), (1.0, 1), (f64::INFINITY, 1)]);
        assert!((sum - 7.35).abs() < 1e-9, "{sum}");
    }
}
