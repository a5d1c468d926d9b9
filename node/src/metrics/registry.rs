//! What is declared, over the exporter of the crate `metrics`.
//!
//! A family is a name with its help; it has one series per combination of labels, and all of them are made at the start.
//! So a series that never moved is told too, at zero, and nobody can add one for a user or a plan later. A node has an
//! exporter of its own, not the process's: a test may have several nodes.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label as KeyLabel, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// A label and its value, both from closed sets.
pub(super) type Label = (&'static str, &'static str);

/// Upper bounds of the buckets of a histogram.
pub(super) type Buckets = &'static [f64];

/// Durations of work, from half a millisecond to a minute.
const WORK: Buckets = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Durations of what should be over at once, from a tenth of a millisecond to ten seconds.
const DELIVERY: Buckets =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// How long sockets are open: from a failed attempt to a working day.
const LIFETIME: Buckets = &[1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];
/// How many wait in a queue of 1,024 places.
const QUEUE: Buckets = &[0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 512.0, 1_023.0];

/// The histograms that are no durations of work. The exporter wants to know before anything is declared.
const OTHER_BUCKETS: [(&str, Buckets); 4] = [
    ("bridge_lag_seconds", DELIVERY),
    ("fan_out_seconds", DELIVERY),
    ("connection_lifetime_seconds", LIFETIME),
    ("actor_mailbox_depth", QUEUE),
];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Everything that was declared.
pub(super) struct Registry {
    recorder: PrometheusRecorder,
}

impl Registry {
    /// Nothing yet.
    ///
    /// # Panics
    /// Never: the buckets are constants and not empty.
    #[expect(clippy::expect_used, reason = "the buckets are constants and not empty")]
    pub(super) fn new() -> Self {
        let all = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), WORK);
        let all = OTHER_BUCKETS.iter().fold(all, |builder, (name, bounds)| {
            builder.and_then(|builder| builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds))
        });
        Self { recorder: all.expect("buckets are not empty").build_recorder() }
    }

    /// Tells everything, and condenses what was noted.
    pub(super) fn handle(&self) -> PrometheusHandle {
        self.recorder.handle()
    }

    /// A counter: its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.counter_with(name, help, &[])
    }

    /// One counter per value of a label.
    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Counter; N] {
        values.map(|value| self.counter_with(name, help, &[(label, value)]))
    }

    /// One series of a counter.
    pub(super) fn counter_with(&mut self, name: &'static str, help: &'static str, labels: &[Label]) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// Something that rises and falls.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_gauge(&key(name, &[]), &METADATA)
    }

    /// How often something was how large.
    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str) -> Histogram {
        self.histogram_with(name, help, &[])
    }

    /// One histogram per value of a label.
    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Histogram; N] {
        values.map(|value| self.histogram_with(name, help, &[(label, value)]))
    }

    fn histogram_with(&mut self, name: &'static str, help: &'static str, labels: &[Label]) -> Histogram {
        self.recorder.describe_histogram(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }
}

fn key(name: &'static str, labels: &[Label]) -> Key {
    Key::from_parts(name, labels.iter().map(|(label, value)| KeyLabel::new(*label, *value)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_from_the_start() {
        let mut registry = Registry::new();
        let [_, lost] = registry.counters("messages_total", "Messages.", "fate", ["told", "lost"]);
        let level = registry.gauge("level", "How high.");
        let depth = registry.histogram("actor_mailbox_depth", "How many wait.");
        let _never = registry.histogram("fan_out_seconds", "How long.");
        lost.increment(2);
        level.set(7.0);
        [0.0, 4.0, 5_000.0].into_iter().for_each(|waiting| depth.record(waiting));
        let text = registry.handle().render();
        for line in [
            "# HELP messages_total Messages.",
            "# TYPE messages_total counter",
            "messages_total{fate=\"told\"} 0",
            "messages_total{fate=\"lost\"} 2",
            "level 7",
            "# TYPE actor_mailbox_depth histogram",
            "actor_mailbox_depth_bucket{le=\"1\"} 1",
            "actor_mailbox_depth_bucket{le=\"4\"} 2",
            "actor_mailbox_depth_bucket{le=\"+Inf\"} 3",
            "actor_mailbox_depth_sum 5004",
            "fan_out_seconds_bucket{le=\"0.0001\"} 0",
            "fan_out_seconds_count 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
        }
    }
}
