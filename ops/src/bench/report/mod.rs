//! What a bench found, for people and for programs.
//!
//! The two forms come from the same values. A promise is told with its bound and what was measured, kept or
//! not, or not judged because the run was too small for it; everything else is a figure without a verdict, because what is good depends on the machine.

pub(crate) mod compare;
pub(crate) mod summary;

use std::borrow::Cow;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::cluster::usage::Cost;
use crate::output::Output;
use crate::state::Node;
use crate::status::table;

/// Longest time that is told apart; anything longer counts as this.
const LONGEST: Duration = Duration::from_secs(600);

/// Times in milliseconds, to three digits; none when nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Quantiles {
    /// How many times they stand for. A p99 of fewer than some hundreds is little more than the maximum.
    pub(crate) count: u64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
}

impl Quantiles {
    /// Of nothing.
    pub(crate) const NONE: Self = Self { count: 0, p50_ms: None, p99_ms: None, max_ms: None };

    /// Sums them up.
    ///
    /// # Errors
    /// Never in fact: the bounds of the histogram are constants.
    pub(crate) fn of(times: impl IntoIterator<Item = Duration>) -> Result<Self> {
        let mut histogram = histogram()?;
        for time in times {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        Ok(Self::of_histogram(&histogram))
    }

    /// Of times that are in a [`histogram`] already.
    pub(crate) fn of_histogram(histogram: &Histogram<u64>) -> Self {
        let ms = |micros: u64| (!histogram.is_empty()).then_some(micros as f64 / 1_000.0);
        Self {
            count: histogram.len(),
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }

    /// Cells of a row that begins with `title`.
    pub(crate) fn row(&self, title: &str) -> Vec<String> {
        let times =
            [self.p50_ms, self.p99_ms, self.max_ms].map(|ms| ms.map_or("-".to_owned(), |ms| format!("{ms:.1}")));
        [title.to_owned(), self.count.to_string()].into_iter().chain(times).collect()
    }

    /// The titles above such rows.
    pub(crate) fn titles(what: &str) -> Vec<String> {
        [what, "COUNT", "P50 ms", "P99 ms", "MAX ms"].map(str::to_owned).to_vec()
    }
}

/// For times in microseconds, to three digits.
///
/// # Errors
/// Never in fact: its bounds are constants.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
    Ok(Histogram::new_with_bounds(1, longest, 3)?)
}

/// Faults that subscribers saw, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) snapshots: u64,
}

impl Faults {
    /// What every stream promises.
    pub(crate) fn promises(self) -> [Promise; 2] {
        [
            Promise::new("0 lost", self.lost == 0, self.lost.to_string()),
            Promise::new("0 duplicates", self.duplicates == 0, self.duplicates.to_string()),
        ]
    }
}

impl std::ops::Add for Faults {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            duplicates: self.duplicates + other.duplicates,
            snapshots: self.snapshots + other.snapshots,
        }
    }
}

impl std::iter::Sum for Faults {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost {}, duplicates {}, snapshots {}", self.lost, self.duplicates, self.snapshots)
    }
}

/// What some time of a bench cost, and what for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bill {
    /// Events that reached subscribers.
    pub(crate) deliveries: u64,
    costs: Vec<Cost>,
    /// Processor time of the nodes; Redis and the generator are not in it. None without deliveries.
    #[serde(rename = "cpu_seconds_per_million_deliveries")]
    nodes_cpu_seconds_per_million: Option<f64>,
}

impl Bill {
    pub(crate) fn new(costs: Vec<Cost>, nodes: &[Node], deliveries: u64) -> Self {
        let is_node = |cost: &&Cost| nodes.iter().any(|node| node.name == cost.name);
        let seconds: f64 = costs.iter().filter(is_node).map(|cost| cost.cpu_seconds).sum();
        let nodes_cpu_seconds_per_million = (deliveries > 0).then(|| seconds * 1e6 / deliveries as f64);
        Self { deliveries, costs, nodes_cpu_seconds_per_million }
    }

    /// The figure on a line.
    pub(crate) fn price(&self) -> String {
        let price = match self.nodes_cpu_seconds_per_million {
            Some(low) if low < 1.0 => format!("{low:.3}"),
            price => show(price),
        };
        format!("deliveries {}, cpu_seconds_per_million_deliveries {price}", self.deliveries)
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", costs_table(&self.costs), self.price())
    }
}

/// A row for each process.
pub(crate) fn costs_table(costs: &[Cost]) -> String {
    let mut rows = vec![["PROCESS", "CPU s", "RSS MiB"].map(str::to_owned).to_vec()];
    rows.extend(costs.iter().map(|cost| {
        let mebibytes = cost.rss_bytes as f64 / f64::from(1 << 20);
        vec![cost.name.clone(), format!("{:.2}", cost.cpu_seconds), format!("{mebibytes:.0}")]
    }));
    table(&rows)
}

/// A figure with one digit after the point, or a dash.
pub(crate) fn show(figure: Option<f64>) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{figure:.1}"))
}

/// What was promised and what came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Promise {
    pub(crate) promise: Cow<'static, str>,
    /// None when it was not judged: it speaks of a run of another size, or of a machine that does nothing else.
    pub(crate) kept: Option<bool>,
    /// What was measured; of what was not judged, why not.
    pub(crate) measured: String,
}

impl Promise {
    pub(crate) fn new(promise: impl Into<Cow<'static, str>>, kept: bool, measured: impl Into<String>) -> Self {
        Self { promise: promise.into(), kept: Some(kept), measured: measured.into() }
    }

    /// One that this run says nothing about, and what it would need.
    pub(crate) fn not_judged(promise: impl Into<Cow<'static, str>>, needs: &str) -> Self {
        Self { promise: promise.into(), kept: None, measured: format!("needs {needs}") }
    }

    /// What is told of it beside the words: the same in reports and in tables of them.
    pub(crate) fn verdict(kept: Option<bool>) -> &'static str {
        match kept {
            Some(true) => "kept",
            Some(false) => "BROKEN",
            None => "not judged",
        }
    }
}

/// Prints the report in the form asked for; the exit code says whether no promise was broken.
pub(crate) fn conclude(output: Output, report: &impl Serialize, text: &str, promises: &[Promise]) -> Result<ExitCode> {
    let kept = promises.iter().all(|promise| promise.kept != Some(false));
    if output.is_json() {
        let mut report = serde_json::to_value(report)?;
        report["promises"] = serde_json::to_value(promises)?;
        report["kept"] = kept.into();
        output.value(&report);
    } else {
        output.line(text);
        output.line("");
        for promise in promises {
            let verdict = Promise::verdict(promise.kept);
            output.line(format_args!("{verdict:<10}  {}: {}", promise.promise, promise.measured));
        }
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_measured() {
        let quantiles = Quantiles::of((1..=1_000).map(Duration::from_millis)).expect("constant bounds");
        let near = |value: Option<f64>, wanted: f64| value.is_some_and(|value| (value / wanted - 1.0).abs() < 0.002);
        assert_eq!(quantiles.count, 1_000);
        assert!(near(quantiles.p50_ms, 500.0) && near(quantiles.p99_ms, 990.0), "{quantiles:?}");
        assert!(near(quantiles.max_ms, 1_000.0), "{quantiles:?}");
    }

    #[test]
    fn of_nothing_there_are_no_quantiles_and_the_row_says_so() {
        let quantiles = Quantiles::of([]).expect("constant bounds");
        assert_eq!(quantiles.p99_ms, None);
        assert_eq!(quantiles.row("edits"), ["edits", "0", "-", "-", "-"]);
    }

    #[test]
    fn what_took_longer_than_can_be_told_is_not_left_out() {
        let quantiles = Quantiles::of([LONGEST * 10]).expect("constant bounds");
        assert!(quantiles.count == 1 && quantiles.max_ms >= Some(599_000.0), "{quantiles:?}");
    }

    #[test]
    fn only_nodes_count_for_the_price_of_a_delivery() {
        let node = Node { name: "node1".into(), url: String::new(), admin_url: String::new(), pid: 1 };
        let cost = |name: &str, cpu_seconds| Cost { name: name.into(), cpu_seconds, rss_bytes: 0 };
        let costs = [cost("node1", 2.0), cost("redis", 50.0)];
        let price = |deliveries| Bill::new(costs.to_vec(), std::slice::from_ref(&node), deliveries);
        assert_eq!(price(500_000).price(), "deliveries 500000, cpu_seconds_per_million_deliveries 4.0");
        assert!(price(8_000_000).price().ends_with(" 0.250"));
        assert_eq!(price(0).nodes_cpu_seconds_per_million, None);
    }

    #[test]
    fn one_broken_promise_fails_the_bench_and_one_that_was_not_judged_does_not() {
        let kept = Promise::new("a", true, "1");
        let broken = Promise::new("b", false, "2");
        let code = |promises: &[Promise]| {
            let code = conclude(Output::new(true), &serde_json::json!({}), "", promises).expect("it serializes");
            format!("{code:?}")
        };
        assert_eq!(code(std::slice::from_ref(&kept)), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(&[kept.clone(), broken]), format!("{:?}", ExitCode::FAILURE));
        let open = Promise::not_judged("c", "more");
        assert_eq!(open.measured, "needs more");
        assert_eq!(code(&[kept, open]), format!("{:?}", ExitCode::SUCCESS));
    }
}
