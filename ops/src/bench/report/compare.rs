//! `mille bench compare`: two reports of one bench, figure by figure, and whether the later one is worse.
//!
//! Only figures that carry over between machines of one kind can fail it: ratios within one run, calls of Redis per edit,
//! memory per connection, faults. Seconds and milliseconds are told beside them, unless they are named with `--figure`. A
//! figure that is not there any more fails it like one that is worse, and so does a promise that was kept before and is
//! not now. Reports that were made in different ways are not compared at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::output::{Output, refused};
use crate::status::table;

/// How a report was made, at its top. What differs in one of them measured something else.
const SETTINGS: [&str; 26] = [
    "bench",
    "nodes",
    "seconds",
    "rounds",
    "appendfsync",
    "saturate",
    "subscribers",
    "plans",
    "burst",
    "editsPerSecond",
    "writers",
    "sockets",
    "oneNode",
    "inFlight",
    "rate",
    "connections",
    "kind",
    "perRoom",
    "movers",
    "hz",
    "viewersPerUser",
    "clients",
    "behind",
    "editors",
    "framesPerSecond",
    "silent",
];

/// Figures that may fail it unless others are named, by bench; one that ends with a point stands for all below it. What a bench
/// says beyond them is in its promises.
const JUDGED: [(&str, &[&str]); 7] = [
    (
        "fanout",
        &[
            "timesTheYardstick.median",
            "stockTimesOurs.median",
            "saturationTimesTheStocks.median",
            "ours.redisCallsPerEditBeyondRest.all",
            "ours.faults.",
            "ours.refused",
            "ours.unanswered",
        ],
    ),
    ("edits", &["served.fcallsPerEdit", "served.messagesPerCommit", "faults.", "unanswered"]),
    ("idle", &["idleBytesPerConnection", "toldBytesPerConnection", "ended"]),
    ("cursors", &["frames.maxOfAllowed", "redisCommandsPerSecond", "olderPositions", "cursorsDropped", "knowing"]),
    ("resume", &["faults.", "whole", "atTheNode.resumesBySnapshot"]),
    ("storm", &["faults.", "whole", "edits.unanswered", "edits.surplus", "otherCloses"]),
    ("flood", &[]),
];

/// Figures of which more is better, by the last part of their names. Of all others less is.
const MORE_IS_BETTER: [&str; 11] = [
    "stockTimesOurs",
    "saturationTimesTheStocks",
    "highestDeliveriesPerSecond",
    "deliveries",
    "accepted",
    "acceptedPerSecond",
    "whole",
    "resumesByReplay",
    "knowing",
    "movesPerSecond",
    "told",
];

/// Parts of a figure of several rounds.
const OF_ROUNDS: [&str; 3] = ["median", "min", "max"];

/// Parts of reports that are no single figure.
const LISTS: [&str; 5] = ["promises", "costs", "beside", "climbs", "parts"];

/// `mille bench compare`
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The report to be compared with: what `mille bench --json` printed.
    #[arg(value_name = "BEFORE.json")]
    before: PathBuf,
    /// The later report.
    #[arg(value_name = "AFTER.json")]
    after: PathBuf,
    /// By how much a figure may be worse: 0.15 is 15 %.
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    tolerance: f64,
    /// Judges these figures instead; each name stands for all that contain it.
    #[arg(long = "figure", value_name = "NAME")]
    figures: Vec<String>,
}

/// One figure of both.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    figure: String,
    before: f64,
    /// None when it is not there any more.
    after: Option<f64>,
    /// By how much it is more: -0.5 is half; none where it was 0 and is not.
    more_by: Option<f64>,
    /// Whether it may fail the comparison.
    judged: bool,
    worse: bool,
}

/// Compares them; the exit code says whether the later one is no worse.
pub(crate) fn run(args: &CompareArgs, output: Output) -> Result<ExitCode> {
    ensure!(args.tolerance >= 0.0, "a tolerance below 0");
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    for setting in same_settings(&before, &after)? {
        output.note(format_args!("mille: only one of them says its {setting}; it is taken to be the same"));
    }
    let judged = Judged::of(&before, &args.figures)?;
    let differences = differences(&before, &after, &judged, args.tolerance);
    let broken = no_longer_kept(&before, &after);
    if !differences.iter().any(|difference| difference.judged) && kept_promises(&before).next().is_none() {
        return Err(refused("there is nothing to judge in BEFORE; name figures with --figure"));
    }
    let kept = broken.is_empty() && !differences.iter().any(|difference| difference.worse);
    if output.is_json() {
        output.value(&serde_json::json!({ "differences": differences, "newlyBroken": broken, "kept": kept }));
    } else {
        output.line(text(&differences));
        for promise in &broken {
            output.line(format_args!("BROKEN  {promise}"));
        }
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Settings that only one of them tells, as reports of an earlier version do not.
///
/// # Errors
/// A refusal when one differs.
fn same_settings(before: &Value, after: &Value) -> Result<Vec<&'static str>> {
    let mut told_once = Vec::new();
    for setting in SETTINGS {
        match (before.get(setting), after.get(setting)) {
            (Some(one), Some(other)) if one != other => {
                return Err(refused(format!("they measured different things: {setting} is {one} and {other}")));
            }
            (Some(_), None) | (None, Some(_)) => told_once.push(setting),
            _ => {}
        }
    }
    Ok(told_once)
}

/// Which figures may fail it.
#[derive(Debug)]
enum Judged<'a> {
    /// Those of the bench.
    Usual(&'a [&'a str]),
    /// All whose names contain one of these.
    Named(&'a [String]),
}

impl<'a> Judged<'a> {
    /// Those that are named, else those of the bench that made the report.
    ///
    /// # Errors
    /// A refusal when one is named that the report has not.
    fn of(before: &Value, named: &'a [String]) -> Result<Self> {
        if named.is_empty() {
            let bench = JUDGED.iter().find(|(bench, _)| before["bench"] == *bench);
            return Ok(Self::Usual(bench.map_or(&[][..], |&(_, figures)| figures)));
        }
        let figures = figures(before);
        match named.iter().find(|name| !figures.keys().any(|figure| figure.contains(name.as_str()))) {
            Some(unknown) => Err(refused(format!("no figure like {unknown} in BEFORE"))),
            None => Ok(Self::Named(named)),
        }
    }

    fn holds(&self, figure: &str) -> bool {
        match self {
            Self::Usual(names) => {
                names.iter().any(|name| figure == *name || name.ends_with('.') && figure.starts_with(name))
            }
            Self::Named(names) => names.iter().any(|name| figure.contains(name.as_str())),
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).map_err(|error| refused(format!("can't read {}: {error}", path.display())))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report in JSON", path.display()))
}

fn differences(before: &Value, after: &Value, judged: &Judged<'_>, tolerance: f64) -> Vec<Difference> {
    let (old, new) = (figures(before), figures(after));
    let each = old.into_iter().map(|(figure, before)| (new.get(&figure).copied(), before, figure));
    each.map(|(after, before, figure)| {
        let judged = judged.holds(&figure);
        let more_by = after
            .and_then(|after| if before == after { Some(0.0) } else { (before != 0.0).then(|| after / before - 1.0) });
        let is_worse = match after {
            // What can't be seen any more may be anything.
            None => true,
            // Nothing divided by nothing is no difference.
            Some(after) if before == after => false,
            Some(after) if is_better_up(&figure) => before / after - 1.0 > tolerance,
            Some(_) => more_by.unwrap_or(f64::INFINITY) > tolerance,
        };
        Difference { figure, before, after, more_by, judged, worse: judged && is_worse }
    })
    .collect()
}

/// By the last part of its name; of a figure of several rounds, by the one before.
fn is_better_up(figure: &str) -> bool {
    let mut parts = figure.rsplit('.').skip_while(|part| OF_ROUNDS.contains(part));
    parts.next().is_some_and(|name| MORE_IS_BETTER.contains(&name))
}

/// Every number that was found, by where it stands.
fn figures(report: &Value) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    collect("", report, &mut figures);
    figures.retain(|figure, _| !SETTINGS.contains(&figure.as_str()));
    figures
}

/// Every number in it, by where it stands.
fn collect(place: &str, value: &Value, figures: &mut BTreeMap<String, f64>) {
    match value {
        Value::Number(number) => {
            figures.extend(number.as_f64().map(|number| (place.to_owned(), number)));
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !LISTS.contains(&name.as_str())) {
                let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                collect(&place, value, figures);
            }
        }
        _ => {}
    }
}

/// Promises that were kept before and are not now: broken, not judged, or not told at all.
fn no_longer_kept(before: &Value, after: &Value) -> Vec<String> {
    let now: BTreeMap<&str, &Value> = promises(after).collect();
    let lost = kept_promises(before).filter_map(|promise| match now.get(promise) {
        Some(Value::Bool(true)) => None,
        Some(Value::Bool(false)) => Some(promise.to_owned()),
        Some(_) => Some(format!("{promise} (not judged any more)")),
        None => Some(format!("{promise} (not told any more)")),
    });
    lost.collect()
}

fn kept_promises(report: &Value) -> impl Iterator<Item = &str> {
    promises(report).filter(|(_, kept)| **kept == true).map(|(promise, _)| promise)
}

fn promises(report: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let promises = report["promises"].as_array().into_iter().flatten();
    promises.filter_map(|promise| Some((promise["promise"].as_str()?, &promise["kept"])))
}

fn text(differences: &[Difference]) -> String {
    let mut rows = vec![["FIGURE", "BEFORE", "AFTER", "MORE BY", ""].map(str::to_owned).to_vec()];
    rows.extend(differences.iter().map(|difference| {
        let more_by = difference.more_by.map_or("-".to_owned(), |share| format!("{:+.1} %", share * 100.0));
        let verdict = match difference {
            Difference { judged: true, after: None, .. } => "MISSING",
            Difference { after: None, .. } => "missing",
            Difference { worse: true, .. } => "WORSE",
            Difference { judged: true, .. } => "ok",
            _ => "",
        };
        let number = |number: f64| if number.fract() == 0.0 { format!("{number}") } else { format!("{number:.3}") };
        vec![
            difference.figure.clone(),
            number(difference.before),
            difference.after.map_or("-".to_owned(), number),
            more_by,
            verdict.to_owned(),
        ]
    }));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(times: f64, stock: f64, lost: u32) -> Value {
        json!({
            "bench": "fanout",
            "timesTheYardstick": { "median": times, "min": 0.1, "max": 9.9 },
            "stockTimesOurs": { "median": stock },
            "ours": { "faults": { "lost": lost }, "costs": [{ "cpuSeconds": 1 }] },
            "promises": [{ "promise": "0 lost", "kept": lost == 0 }],
        })
    }

    fn worse(before: &Value, after: &Value) -> Vec<String> {
        worse_of(before, after, &[])
    }

    fn worse_of(before: &Value, after: &Value, named: &[&str]) -> Vec<String> {
        let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
        let judged = Judged::of(before, &named).expect("all are there");
        let differences = differences(before, after, &judged, 0.15);
        differences.into_iter().filter(|difference| difference.worse).map(|difference| difference.figure).collect()
    }

    #[test]
    fn what_is_within_the_tolerance_is_no_worse_and_what_is_better_never_is() {
        let before = report(1.0, 4.0, 0);
        assert_eq!(worse(&before, &report(1.14, 3.6, 0)), [""; 0]);
        assert_eq!(worse(&before, &report(0.2, 40.0, 0)), [""; 0]);
    }

    #[test]
    fn what_is_beyond_the_tolerance_is_worse_in_its_own_direction() {
        let before = report(1.0, 4.0, 0);
        assert_eq!(worse(&before, &report(1.16, 4.0, 0)), ["timesTheYardstick.median"]);
        assert_eq!(worse(&before, &report(1.0, 3.4, 0)), ["stockTimesOurs.median"]);
        assert_eq!(worse(&before, &report(1.0, 0.0, 0)), ["stockTimesOurs.median"]);
    }

    #[test]
    fn more_per_second_is_better_only_of_what_is_meant_to_be_much() {
        for (figure, better_up) in [
            ("acceptedPerSecond", true),
            ("saturation.highestDeliveriesPerSecond.median", true),
            ("stockTimesOurs.min", true),
            ("nodesCpuPerSecond", false),
            ("cpuSecondsPerSecondIdle", false),
            ("redisCommandsPerSecond", false),
            ("frames.bytesPerSecond", false),
            ("redisCallsPerSecondAtRest.publish", false),
            ("timesTheYardstick.median", false),
            ("whole_since_reconnect.max", false),
        ] {
            let report = |value: f64| {
                let parts: Vec<&str> = figure.split('.').collect();
                parts.iter().rev().fold(json!(value), |inner, &part| json!({ part: inner }))
            };
            assert_eq!(worse_of(&report(10.0), &report(20.0), &[figure]).is_empty(), better_up, "{figure}");
            assert_eq!(worse_of(&report(20.0), &report(10.0), &[figure]).is_empty(), !better_up, "{figure}");
        }
    }

    #[test]
    fn where_there_was_nothing_anything_is_too_much() {
        let (before, after) = (report(1.0, 4.0, 0), report(1.0, 4.0, 1));
        assert_eq!(worse(&before, &after), ["ours.faults.lost"]);
        assert_eq!(no_longer_kept(&before, &after), ["0 lost"]);
        assert_eq!(no_longer_kept(&after, &after), [""; 0]);
    }

    #[test]
    fn what_is_not_told_any_more_is_no_better_than_what_is_worse() {
        let before = report(1.0, 4.0, 0);
        let mut after = report(1.0, 4.0, 0);
        after["stockTimesOurs"] = Value::Null;
        after["timesTheYardstick"]["min"] = Value::Null;
        assert_eq!(worse(&before, &after), ["stockTimesOurs.median"], "the least of the rounds is not judged");
        let table = text(&differences(&before, &after, &Judged::of(&before, &[]).expect("usual"), 0.15));
        assert!(table.contains("MISSING") && table.contains("missing"), "{table}");
        after["promises"][0]["kept"] = Value::Null;
        assert_eq!(no_longer_kept(&before, &after), ["0 lost (not judged any more)"]);
        after["promises"] = json!([]);
        assert_eq!(no_longer_kept(&before, &after), ["0 lost (not told any more)"]);
        Judged::of(&after, &["stockTimesOurs".to_owned()]).expect_err("not in this one");
    }

    #[test]
    fn what_was_made_in_different_ways_is_not_compared() {
        let report = |rate: Value| json!({ "bench": "edits", "rate": rate, "seconds": 10 });
        assert_eq!(same_settings(&report(json!(200)), &report(json!(200))).expect("alike"), [""; 0]);
        let error = same_settings(&report(Value::Null), &report(json!(200))).expect_err("no rate and a rate");
        assert!(error.to_string().contains("rate is null and 200"), "{error}");
        // An earlier version did not say how its Redis was set.
        let mut later = report(json!(200));
        later["appendfsync"] = json!("always");
        assert_eq!(same_settings(&report(json!(200)), &later).expect("maybe alike"), ["appendfsync"]);
    }

    #[test]
    fn every_bench_has_figures_of_its_own_or_is_judged_by_its_promises() {
        let report = json!({ "bench": "idle", "idleBytesPerConnection": 9_000.0, "rssIdleBytes": 100, "seconds": 20 });
        let mut larger = report.clone();
        larger["idleBytesPerConnection"] = json!(11_000.0);
        larger["rssIdleBytes"] = json!(900);
        assert_eq!(worse(&report, &larger), ["idleBytesPerConnection"]);
        assert!(!figures(&report).contains_key("seconds"), "a setting is no figure");
    }

    #[test]
    fn a_list_of_processes_is_no_figure() {
        let figures = figures(&report(1.0, 4.0, 0));
        assert_eq!(figures.len(), 5, "{figures:?}");
    }
}
