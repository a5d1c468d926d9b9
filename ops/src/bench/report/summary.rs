//! `mille bench summary`: one table of what many benches promised, and what only several of them together show.
//!
//! Each report's promises come as they are. Reports named `flat-WHAT-N` were taken of N of something, all else alike: they
//! promise that a delivery costs the same whatever N is. Of `flat-subscribers` that is the price of one more subscriber, from
//! each N to the next, because the edit itself is paid once however many hear of it; of everything else it is the price of
//! a delivery as it is. And they promise that an edit is one commit and one message in Redis, and no more: a message is
//! one call of PUBLISH, however many nodes hear it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::compare::read;
use crate::bench::report::Promise;
use crate::output::Output;
use crate::status::table;

/// By how much the dearest may exceed the cheapest.
const FLAT_WITHIN: f64 = 0.15;

/// How many commits an edit may be, and how many messages: one each, and now and then one is tried again.
const CALLS_MAX: f64 = 1.1;

/// What they are to Redis, and the promise in words.
const CALLS: [(&[&str], &str); 2] = [
    (&["fcall"], "at most 1.1 commits (FCALL) per edit in Redis"),
    (&["publish", "spublish"], "at most 1.1 messages (PUBLISH) per edit in Redis, whoever hears them"),
];

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
    let few = CALLS.map(|(names, target)| {
        let calls: Vec<f64> = reports.values().map(|report| calls_per_edit(report, names)).collect();
        let (min, max) = bounds(&calls);
        let measured = format!("{min:.2} to {max:.2}");
        // An edit that asks for nothing was not measured.
        Row { report: report.clone(), target: target.to_owned(), measured, kept: Some(min > 0.0 && max <= CALLS_MAX) }
    });
    std::iter::once(flat).chain(few).collect()
}

/// Calls of these commands for an edit, without those that nodes make at rest. Earlier reports have only all of them.
fn calls_per_edit(report: &Value, names: &[&str]) -> f64 {
    let ours = &report["ours"];
    let calls = ours.get("redisCallsPerEditBeyondRest").unwrap_or(&ours["redisCallsPerEdit"]);
    names.iter().filter_map(|name| calls[name].as_f64()).sum()
}

fn bounds(figures: &[f64]) -> (f64, f64) {
    figures.iter().fold((f64::MAX, f64::MIN), |(min, max), &figure| (min.min(figure), max.max(figure)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(what: &str, figures: &[(u64, f64, f64)]) -> Vec<bool> {
        kept_with(1.0, 1.0, what, figures)
    }

    fn kept_with(fcall: f64, publish: f64, what: &str, figures: &[(u64, f64, f64)]) -> Vec<bool> {
        let reports = figures.iter().map(|&(size, price, per_edit)| {
            let ours = json!({
                "cpu_seconds_per_million_deliveries": { "median": price },
                "cpuMicrosPerEdit": { "median": per_edit },
                "redisCallsPerEdit": { "all": 9.0, "fcall": fcall, "publish": publish + 0.2, "xadd": 1.0 },
                "redisCallsPerEditBeyondRest": { "all": 9.0, "fcall": fcall, "publish": publish, "xadd": 1.0 },
            });
            (size, json!({ "nodes": 3, "ours": ours }))
        });
        flatness(what, &reports.collect()).into_iter().map(|row| row.kept == Some(true)).collect()
    }

    #[test]
    fn an_edit_that_is_paid_once_does_not_make_few_subscribers_dearer() {
        // 300 µs for the edit and 6 µs for each who hears of it.
        let figures = [(10, 36.0, 360.0), (100, 9.0, 900.0), (1_000, 6.3, 6_300.0)];
        assert!(kept("subscribers", &figures)[0]);
        assert!(!kept("plans", &figures)[0]);
    }

    #[test]
    fn a_price_that_grows_is_not_flat_and_one_figure_alone_says_nothing() {
        let grown = [(10, 0.0, 360.0), (100, 0.0, 900.0), (1_000, 0.0, 8_000.0)];
        assert_eq!(kept("subscribers", &grown), [false, true, true]);
        assert_eq!(kept("nodes", &[(1, 6.0, 0.0), (4, 6.8, 0.0)]), [true, true, true]);
        assert_eq!(kept("nodes", &[(1, 6.0, 0.0), (4, 7.0, 0.0)]), [false, true, true]);
        assert_eq!(kept("nodes", &[(1, 6.0, 0.0)]), [false, true, true]);
    }

    #[test]
    fn an_edit_that_asks_redis_for_more_than_a_commit_and_a_message_is_seen_however_many_nodes_there_are() {
        let figures = [(1, 6.0, 0.0), (4, 6.0, 0.0)];
        assert_eq!(kept_with(1.1, 1.1, "nodes", &figures), [true, true, true]);
        assert_eq!(kept_with(1.11, 1.0, "nodes", &figures), [true, false, true]);
        assert_eq!(kept_with(1.0, 1.11, "nodes", &figures), [true, true, false]);
        assert_eq!(kept_with(1.0, 0.0, "nodes", &figures), [true, true, false]);
    }

    #[test]
    fn an_earlier_report_has_only_all_calls_together() {
        let report = json!({ "ours": { "redisCallsPerEdit": { "fcall": 1.07, "spublish": 1.04 } } });
        assert_eq!(calls_per_edit(&report, CALLS[0].0), 1.07);
        assert_eq!(calls_per_edit(&report, CALLS[1].0), 1.04);
    }

    #[test]
    fn a_report_is_of_so_many_by_its_name() {
        assert_eq!(size_of(Path::new("a/flat-nodes-4.json")), Some(("nodes".to_owned(), 4)));
        assert_eq!(size_of(Path::new("a/steady.json")), None);
    }
}
