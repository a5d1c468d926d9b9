//! What is declared, in the order in which it is told, and how Prometheus reads it.
//!
//! A family is a name with its help; it has one series per combination of labels, and all of them are made at the start.
//! So a series that never moved is told too, at zero, and nobody can add one for a user or a plan later. The handles that
//! are given out are those of the crate `metrics`; an addition is an atomic one.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram};

use super::histogram::{Buckets, Scale};

/// A label and its value, both from closed sets.
pub(super) type Label = (&'static str, &'static str);

/// Everything that was declared.
#[derive(Default)]
pub(super) struct Registry {
    families: Vec<Family>,
}

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    series: Vec<(Vec<Label>, Value)>,
}

enum Value {
    Counter(Arc<AtomicU64>),
    /// The bits of a float.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

impl Registry {
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
        let count = Arc::new(AtomicU64::new(0));
        self.add(name, help, "counter", labels, Value::Counter(Arc::clone(&count)));
        Counter::from_arc(count)
    }

    /// Something that rises and falls.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        let bits = Arc::new(AtomicU64::new(0));
        self.add(name, help, "gauge", &[], Value::Gauge(Arc::clone(&bits)));
        Gauge::from_arc(bits)
    }

    /// How often something was how large.
    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str, scale: Scale) -> Histogram {
        self.histogram_with(name, help, scale, &[])
    }

    /// One histogram per value of a label.
    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        scale: Scale,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Histogram; N] {
        values.map(|value| self.histogram_with(name, help, scale, &[(label, value)]))
    }

    fn histogram_with(&mut self, name: &'static str, help: &'static str, scale: Scale, labels: &[Label]) -> Histogram {
        let buckets = Arc::new(Buckets::new(scale));
        self.add(name, help, "histogram", labels, Value::Histogram(Arc::clone(&buckets)));
        Histogram::from_arc(buckets)
    }

    fn add(&mut self, name: &'static str, help: &'static str, kind: &'static str, labels: &[Label], value: Value) {
        let labels = labels.to_vec();
        match self.families.iter_mut().find(|family| family.name == name) {
            Some(family) => {
                let is_new = family.series.iter().all(|(known, _)| *known != labels);
                debug_assert!(is_new && family.kind == kind, "{name} is declared twice with {labels:?}");
                family.series.push((labels, value));
            }
            None => self.families.push(Family { name, help, kind, series: vec![(labels, value)] }),
        }
    }

    /// The text that Prometheus reads, version 0.0.4.
    pub(super) fn render(&self) -> String {
        let mut text = String::with_capacity(64 * 1024);
        for Family { name, help, kind, series } in &self.families {
            line(&mut text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
            for (labels, value) in series {
                match value {
                    Value::Counter(count) => {
                        let count = count.load(Ordering::Relaxed);
                        line(&mut text, format_args!("{name}{} {count}", braces(labels, None)));
                    }
                    Value::Gauge(bits) => {
                        let value = number(f64::from_bits(bits.load(Ordering::Relaxed)));
                        line(&mut text, format_args!("{name}{} {value}", braces(labels, None)));
                    }
                    Value::Histogram(buckets) => render_histogram(&mut text, name, labels, buckets),
                }
            }
            text.push('\n');
        }
        text
    }
}

fn render_histogram(text: &mut String, name: &str, labels: &[Label], buckets: &Buckets) {
    let seen = buckets.read();
    let mut so_far = 0;
    for (bound, count) in seen.counts {
        so_far += count;
        line(text, format_args!("{name}_bucket{} {so_far}", braces(labels, Some(bound))));
    }
    line(text, format_args!("{name}_sum{} {}", braces(labels, None), number(seen.sum)));
    line(text, format_args!("{name}_count{} {so_far}", braces(labels, None)));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = writeln!(text, "{line}");
}

/// Labels as they are told. Their values are words of ours, in which nothing needs to be escaped.
fn braces(labels: &[Label], bound: Option<f64>) -> String {
    let mut all: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    all.extend(bound.map(|bound| format!("le=\"{}\"", number(bound))));
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

/// A number as Prometheus writes it.
fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_from_the_start_in_the_order_of_its_declaration() {
        let mut registry = Registry::default();
        let [_, lost] = registry.counters("messages_total", "Messages.", "fate", ["told", "lost"]);
        let level = registry.gauge("level", "How high.");
        let waits = registry.histogram("waits", "How many wait.", Scale::Items(&[1.0, 4.0]));
        lost.increment(2);
        level.set(f64::INFINITY);
        waits.record(0.0);
        waits.record(4.0);
        waits.record(5.0);
        assert_eq!(
            registry.render(),
            "# HELP messages_total Messages.\n# TYPE messages_total counter\n\
             messages_total{fate=\"told\"} 0\nmessages_total{fate=\"lost\"} 2\n\n\
             # HELP level How high.\n# TYPE level gauge\nlevel +Inf\n\n\
             # HELP waits How many wait.\n# TYPE waits histogram\n\
             waits_bucket{le=\"1\"} 1\nwaits_bucket{le=\"4\"} 2\nwaits_bucket{le=\"+Inf\"} 3\n\
             waits_sum 9\nwaits_count 3\n\n"
        );
    }
}
