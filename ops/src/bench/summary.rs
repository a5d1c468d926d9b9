//! `mille bench summary`: one table of what many benches promised, and what only several of them together show.
//!
//! Each report's promises come as they are. Reports named `flat-WHAT-N` were taken of N of something, all else alike: they
//! promise that a delivery costs the same whatever N is. Of `flat-subscribers` that is the price of one more subscriber, from
//! each N to the next, because the edit itself is paid once however many hear of it; of everything else it is the price of
//! a delivery as it is. And they promise that an edit is one commit and one message to each node in Redis, and no more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::compare::read;
use super::report::Promise;
use crate::output::Output;
use crate::status::table;

/// By how much the dearest may exceed the cheapest.
const FLAT_WITHIN: f64 = 0.15;

/// By how much an edit may ask more of Redis than a commit and a message to each node: now and then one is tried again.
const CALLS_WITHIN: f64 = 0.1;

/// What commits and messages are to Redis.
const CALLS: [&str; 3] = ["fcall", "publish", "spublish"];

/// `mille bench summary`
#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    /// Reports: what `mille bench --json` printed, one in each file.
    #[arg(value_name = "REPORT.json", required = true)]
    reports: Vec<PathBuf>,
}

/// One line of the table.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    report: String,
    target: String,
    measured: String,
    /// None when it was not judged.
    kept: Option<bool>,
}

/// Prints it; the exit code says whether nothing was broken.
pub(crate) fn run(args: &SummaryArgs, output: Output) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut flat: BTreeMap<String, BTreeMap<u64, Value>> = BTreeMap::new();
    for path in &args.reports {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match read(path) {
            Ok(report) => {
                let size = size_of(path);
                // Of many reports of one kind only what is broken is worth a line.
                rows.extend(
                    promises(&name, &report).into_iter().filter(|row| size.is_none() || row.kept == Some(false)),
                );
                if let Some((what, size)) = size {
                    flat.entry(what).or_default().insert(size, report);
                }
            }
            // A bench that failed wrote nothing.
            Err(_) => {
                rows.push(Row { report: name, target: "a report".into(), measured: "none".into(), kept: Some(false) })
            }
        }
    }
    for (what, reports) in &flat {
        rows.extend(flatness(what, reports));
    }
    let kept = rows.iter().all(|row| row.kept != Some(false));
    if output.is_json() {
        output.value(&serde_json::json!({ "rows": rows, "kept": kept }));
    } else {
        let mut cells = vec![["REPORT", "TARGET", "MEASURED", ""].map(str::to_owned).to_vec()];
        cells.extend(
            rows.into_iter()
                .map(|row| vec![row.report, row.target, row.measured, Promise::verdict(row.kept).to_owned()]),
        );
        output.line(table(&cells));
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn promises(name: &str, report: &Value) -> Vec<Row> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let promises = report["promises"].as_array().into_iter().flatten();
    promises
        .map(|promise| Row {
            report: name.to_owned(),
            target: text(&promise["promise"]),
            measured: text(&promise["measured"]),
            kept: promise["kept"].as_bool(),
        })
        .collect()
}

/// `flat-nodes-4.json` is of 4 nodes.
fn size_of(path: &Path) -> Option<(String, u64)> {
    let name = path.file_stem()?.to_str()?;
    let (what, size) = name.strip_prefix("flat-")?.rsplit_once('-')?;
    Some((what.to_owned(), size.parse().ok()?))
}

/// What the reports of one kind promise together.
fn flatness(what: &str, reports: &BTreeMap<u64, Value>) -> Vec<Row> {
    let figure = |name: &str| -> Vec<(u64, f64)> {
        let figures = reports.iter().filter_map(|(&size, report)| Some((size, report.pointer(name)?.as_f64()?)));
        figures.collect()
    };
    let prices: Vec<f64> = if what == "subscribers" {
        let edits = figure("/ours/cpuMicrosPerEdit/median");
        let more = edits.windows(2).map(|pair| (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0) as f64);
        more.collect()
    } else {
        figure("/ours/cpu_seconds_per_million_deliveries/median").into_iter().map(|(_, price)| price).collect()
    };
    let sizes: Vec<String> = reports.keys().map(u64::to_string).collect();
    let report = format!("flat-{what} {}", sizes.join(", "));
    let (min, max) = bounds(&prices);
    let spread = max / min - 1.0;
    let flat = Row {
        report: report.clone(),
        target: format!("CPU µs of a delivery flat within {:.0} %", FLAT_WITHIN * 100.0),
        measured: format!("{min:.2} to {max:.2}, {:.0} %", spread * 100.0),
        // Also when a price below nothing was measured, or too few of them.
        kept: Some(prices.len() > 1 && min > 0.0 && spread <= FLAT_WITHIN),
    };
    let calls = |report: &Value| -> f64 {
        let calls = &report["ours"]["redisCallsPerEdit"];
        CALLS.iter().filter_map(|name| calls[name].as_f64()).sum()
    };
    let all: Vec<f64> = reports.values().map(calls).collect();
    let due = |report: &Value| (1.0 + report["nodes"].as_f64().unwrap_or_default()) * (1.0 + CALLS_WITHIN);
    let (min, max) = bounds(&all);
    let few = Row {
        report,
        target: "commits and messages in Redis per edit: 1 and 1 per node".to_owned(),
        measured: format!("{min:.2} to {max:.2}"),
        kept: Some(reports.values().all(|report| calls(report) > 0.0 && calls(report) <= due(report))),
    };
    vec![flat, few]
}

fn bounds(figures: &[f64]) -> (f64, f64) {
    figures.iter().fold((f64::MAX, f64::MIN), |(min, max), &figure| (min.min(figure), max.max(figure)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(what: &str, figures: &[(u64, f64, f64)]) -> Vec<bool> {
        kept_with(4.0, what, figures)
    }

    fn kept_with(calls: f64, what: &str, figures: &[(u64, f64, f64)]) -> Vec<bool> {
        let reports = figures.iter().map(|&(size, price, per_edit)| {
            let ours = json!({
                "cpu_seconds_per_million_deliveries": { "median": price },
                "cpuMicrosPerEdit": { "median": per_edit },
                "redisCallsPerEdit": { "all": 9.0, "fcall": 1.0, "publish": calls - 1.0, "xadd": 1.0 },
            });
            (size, json!({ "nodes": 3, "ours": ours }))
        });
        flatness(what, &reports.collect()).into_iter().map(|row| row.kept == Some(true)).collect()
    }

    #[test]
    fn an_edit_that_is_paid_once_does_not_make_few_subscribers_dearer() {
        // 300 µs for the edit and 6 µs for each who hears of it.
        let figures = [(10, 36.0, 360.0), (100, 9.0, 900.0), (1_000, 6.3, 6_300.0)];
        assert_eq!(kept("subscribers", &figures), [true, true]);
        assert_eq!(kept("plans", &figures), [false, true]);
    }

    #[test]
    fn a_price_that_grows_is_not_flat_and_one_figure_alone_says_nothing() {
        assert_eq!(kept("subscribers", &[(10, 0.0, 360.0), (100, 0.0, 900.0), (1_000, 0.0, 8_000.0)]), [false, true]);
        assert_eq!(kept("nodes", &[(1, 6.0, 0.0), (4, 6.8, 0.0)]), [true, true]);
        assert_eq!(kept("nodes", &[(1, 6.0, 0.0), (4, 7.0, 0.0)]), [false, true]);
        assert_eq!(kept("nodes", &[(1, 6.0, 0.0)]), [false, true]);
    }

    #[test]
    fn an_edit_that_asks_redis_more_than_a_commit_and_a_message_to_each_node_is_seen() {
        let figures = [(1, 6.0, 0.0), (4, 6.0, 0.0)];
        assert_eq!(kept_with(4.3, "nodes", &figures), [true, true]);
        assert_eq!(kept_with(4.5, "nodes", &figures), [true, false]);
    }

    #[test]
    fn a_report_is_of_so_many_by_its_name() {
        assert_eq!(size_of(Path::new("a/flat-nodes-4.json")), Some(("nodes".to_owned(), 4)));
        assert_eq!(size_of(Path::new("a/steady.json")), None);
    }
}
