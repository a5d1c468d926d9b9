//! `mille bench compare`: two reports of one bench, figure by figure, and whether the later one is worse.
//!
//! Only figures that carry over from machine to machine can fail it: ratios within one run, calls of Redis per edit, faults.
//! Seconds, milliseconds and memory are told beside them, unless they are named with `--figure`. A promise that was kept
//! before and is not now fails it too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::output::{Output, refused};
use crate::status::table;

/// Figures that may fail it unless others are named: a figure's name begins or goes on like this.
const JUDGED: [&str; 4] =
    ["timesTheYardstick.median", "stockTimesOurs.median", "ours.redisCallsPerEdit.all", "ours.faults."];

/// Figures of which more is better.
const MORE_IS_BETTER: [&str; 3] = ["stockTimesOurs", "PerSecond", "per_second"];

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
    /// Judges these figures instead; each name stands for all that begin or go on like it.
    #[arg(long = "figure", value_name = "NAME")]
    figures: Vec<String>,
}

/// One figure of both.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    figure: String,
    before: f64,
    after: f64,
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
    for key in ["bench", "nodes", "subscribers", "plans", "burst", "editsPerSecond"] {
        let (one, other) = (&before[key], &after[key]);
        if one != other {
            return Err(refused(format!("they measured different things: {key} is {one} and {other}")));
        }
    }
    let judged: Vec<&str> =
        if args.figures.is_empty() { JUDGED.to_vec() } else { args.figures.iter().map(String::as_str).collect() };
    let differences = differences(&before, &after, &judged, args.tolerance);
    if !differences.iter().any(|difference| difference.judged) {
        return Err(refused(format!("no figure like {} in both reports", judged.join(" or "))));
    }
    let broken = newly_broken(&before, &after);
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

pub(super) fn read(path: &Path) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).map_err(|error| refused(format!("can't read {}: {error}", path.display())))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report in JSON", path.display()))
}

fn differences(before: &Value, after: &Value, judged: &[&str], tolerance: f64) -> Vec<Difference> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    collect("", before, &mut old);
    collect("", after, &mut new);
    let both = old.into_iter().filter_map(|(figure, before)| Some((before, *new.get(&figure)?, figure)));
    both.map(|(before, after, figure)| {
        let more_by = if before == after { Some(0.0) } else { (before != 0.0).then(|| after / before - 1.0) };
        let judged = judged.iter().any(|name| figure.contains(name));
        let better_up = MORE_IS_BETTER.iter().any(|name| figure.contains(name));
        let worse_by = if better_up { before / after - 1.0 } else { more_by.unwrap_or(f64::INFINITY) };
        // Nothing divided by nothing is no difference.
        let worse = judged && before != after && worse_by > tolerance;
        Difference { figure, before, after, more_by, judged, worse }
    })
    .collect()
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

/// Promises that were kept before and are not now.
fn newly_broken(before: &Value, after: &Value) -> Vec<String> {
    let promises = |report: &Value, kept: bool| -> Vec<String> {
        let promises = report["promises"].as_array().into_iter().flatten();
        let told = promises.filter(|promise| promise["kept"] == kept);
        told.filter_map(|promise| promise["promise"].as_str().map(str::to_owned)).collect()
    };
    let kept = promises(before, true);
    promises(after, false).into_iter().filter(|promise| kept.contains(promise)).collect()
}

fn text(differences: &[Difference]) -> String {
    let mut rows = vec![["FIGURE", "BEFORE", "AFTER", "MORE BY", ""].map(str::to_owned).to_vec()];
    rows.extend(differences.iter().map(|difference| {
        let more_by = difference.more_by.map_or("-".to_owned(), |share| format!("{:+.1} %", share * 100.0));
        let verdict = match difference {
            Difference { worse: true, .. } => "WORSE",
            Difference { judged: true, .. } => "ok",
            _ => "",
        };
        let number = |number: f64| if number.fract() == 0.0 { format!("{number}") } else { format!("{number:.3}") };
        vec![
            difference.figure.clone(),
            number(difference.before),
            number(difference.after),
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
        let differences = differences(before, after, &JUDGED, 0.15);
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
    fn where_there_was_nothing_anything_is_too_much() {
        let (before, after) = (report(1.0, 4.0, 0), report(1.0, 4.0, 1));
        assert_eq!(worse(&before, &after), ["ours.faults.lost"]);
        assert_eq!(newly_broken(&before, &after), ["0 lost"]);
        assert_eq!(newly_broken(&after, &after), [""; 0]);
    }

    #[test]
    fn a_list_of_processes_is_no_figure() {
        let mut figures = BTreeMap::new();
        collect("", &report(1.0, 4.0, 0), &mut figures);
        assert_eq!(figures.len(), 5, "{figures:?}");
    }
}
