//! What `mille bench fanout` found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::saturate::{self, Step};
use super::side::{Round, Side};
use super::yardstick::Yardstick;
use crate::bench::cluster::redis_calls::Calls;
use crate::bench::cluster::usage::Cost;
use crate::bench::report::{Faults, Promise, Quantiles, histogram, show};
use crate::status::table;

/// What the figures are held against, if anything: promises of the one who calls.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Targets {
    /// Promises that the nodes use at most so many times what the yardstick does.
    #[arg(long, value_name = "TIMES")]
    pub(super) yardstick_at_most: Option<f64>,
    /// Promises that the stock example uses at least so many times what the nodes do.
    #[arg(long, value_name = "TIMES")]
    pub(super) stock_at_least: Option<f64>,
    /// Promises at least so many deliveries per second, with --saturate.
    #[arg(long, value_name = "N", requires = "saturate")]
    pub(super) deliveries_at_least: Option<f64>,
}

/// One turn of everybody.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) yardstick: Yardstick,
    /// What was asked of Redis meanwhile, when nobody edited.
    pub(super) at_rest: Calls,
    /// The yardstick by as many processes as there are nodes.
    pub(super) one_per_node: Yardstick,
    pub(super) ours: Round,
    pub(super) stock: Option<Round>,
}

impl Turn {
    /// Processor seconds per million deliveries: the median of the turns.
    pub(super) fn yardstick_price(turns: &[Self]) -> Option<Spread> {
        Spread::of(turns.iter().map(|turn| turn.yardstick.price()))
    }

    pub(super) fn times_the_yardstick(turns: &[Self]) -> Option<Spread> {
        Spread::of(turns.iter().filter_map(|turn| Some(turn.ours.price()? / turn.yardstick.price())))
    }

    pub(super) fn one_per_node_times_the_yardstick(turns: &[Self]) -> Option<Spread> {
        Spread::of(turns.iter().map(|turn| turn.one_per_node.price() / turn.yardstick.price()))
    }

    pub(super) fn times_one_per_node(turns: &[Self]) -> Option<Spread> {
        Spread::of(turns.iter().filter_map(|turn| Some(turn.ours.price()? / turn.one_per_node.price())))
    }

    pub(super) fn stock_times_ours(turns: &[Self]) -> Option<Spread> {
        Spread::of(turns.iter().filter_map(|turn| Some(turn.stock.as_ref()?.price()? / turn.ours.price()?)))
    }

    pub(super) fn redis_calls_per_second_at_rest(turns: &[Self]) -> BTreeMap<String, f64> {
        Calls::sum(turns.iter().map(|turn| &turn.at_rest)).per_second()
    }
}

/// A figure of several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None of nothing.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let median = f64::midpoint(figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Self { median, min, max })
    }

    fn show(spread: Option<Self>) -> String {
        spread.map_or("-".to_owned(), |Self { median, min, max }| format!("{median:.2} ({min:.2}–{max:.2})"))
    }
}

/// What one side did in all its rounds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SideFindings {
    /// Of one frame with its head.
    frame_bytes: u32,
    #[serde(rename = "cpu_seconds_per_million_deliveries")]
    price: Option<Spread>,
    /// The same for each edit with all its deliveries, in microseconds.
    cpu_micros_per_edit: Option<Spread>,
    deliveries: u64,
    edits: Quantiles,
    refused: u64,
    unanswered: u64,
    /// From when an edit was due until a subscriber had read of it.
    delivery: Quantiles,
    faults: Faults,
    /// By command; what a function calls is counted beside it.
    redis_calls_per_edit: BTreeMap<String, f64>,
    /// The same without what is asked at rest in as long a time.
    redis_calls_per_edit_beyond_rest: BTreeMap<String, f64>,
    rss_bytes_per_connection: f64,
    /// In the last round.
    costs: Vec<Cost>,
    /// Redis and the generator, in the same time.
    beside: Vec<Cost>,
    /// The first of those that were refused.
    refusal: Option<String>,
}

impl SideFindings {
    /// Sums up the rounds of `side`.
    ///
    /// # Errors
    /// When a figure is too large to be one.
    pub(super) fn of(side: &Side, turns: &[Turn], round: impl Fn(&Turn) -> Option<&Round>) -> Result<Self> {
        let rounds: Vec<&Round> = turns.iter().filter_map(round).collect();
        let (mut edits, mut delivery) = (histogram()?, histogram()?);
        for round in &rounds {
            edits.add(&round.edit_times)?;
            delivery.add(&round.delivery_times)?;
        }
        let sum = |count: fn(&Round) -> u64| rounds.iter().map(|round| count(round)).sum();
        let calls = Calls::sum(rounds.iter().map(|round| &round.redis_calls));
        let made = sum(|round| round.edits);
        let micros_per_edit = rounds.iter().map(|round| round.cpu_seconds() * 1e6 / round.edits.max(1) as f64);
        Ok(Self {
            frame_bytes: side.frame_bytes()?,
            price: Spread::of(rounds.iter().filter_map(|round| round.price())),
            cpu_micros_per_edit: Spread::of(micros_per_edit),
            deliveries: sum(|round| round.deliveries),
            edits: Quantiles::of_histogram(&edits),
            refused: sum(|round| round.refused),
            unanswered: sum(|round| round.unanswered),
            delivery: Quantiles::of_histogram(&delivery),
            faults: rounds.iter().map(|round| round.faults).sum(),
            redis_calls_per_edit: calls.per_edit(made),
            redis_calls_per_edit_beyond_rest: calls.per_edit_beyond(made, &Turn::redis_calls_per_second_at_rest(turns)),
            rss_bytes_per_connection: side.rss_bytes_per_connection.round(),
            costs: rounds.last().map(|round| round.costs.clone()).unwrap_or_default(),
            beside: rounds.last().map(|round| round.beside.clone()).unwrap_or_default(),
            refusal: side.refusal().map(str::to_owned),
        })
    }

    fn row(&self, name: &str) -> Vec<String> {
        let calls = self.redis_calls_per_edit.get("all").copied();
        vec![
            name.to_owned(),
            Spread::show(self.price),
            Spread::show(self.cpu_micros_per_edit),
            show(calls),
            format!("{:.1}", self.rss_bytes_per_connection / 1024.0),
            self.frame_bytes.to_string(),
        ]
    }
}

/// The rates that one side was asked for.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saturation {
    highest_deliveries_per_second: Option<Spread>,
    /// One list for each round.
    climbs: Vec<Vec<Step>>,
}

impl Saturation {
    pub(super) fn note(&mut self, steps: Vec<Step>) {
        self.climbs.push(steps);
        self.highest_deliveries_per_second = Spread::of(self.climbs.iter().map(|steps| saturate::highest(steps)));
    }

    /// How many times as many deliveries per second there may be as on the other side.
    pub(super) fn times(&self, other: &Self) -> Option<Spread> {
        let highest = self.climbs.iter().zip(&other.climbs).map(|(a, b)| (saturate::highest(a), saturate::highest(b)));
        Spread::of(highest.filter(|&(_, other)| other > 0.0).map(|(ours, other)| ours / other))
    }

    fn median(&self) -> f64 {
        self.highest_deliveries_per_second.map_or(0.0, |spread| spread.median)
    }
}

/// What can be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Findings {
    pub(super) bench: &'static str,
    pub(super) nodes: usize,
    pub(super) subscribers: u32,
    pub(super) plans: u32,
    pub(super) edits_per_second: u32,
    pub(super) burst: u32,
    pub(super) seconds: u32,
    pub(super) rounds: u32,
    /// Whether the rate was raised, from the one above on.
    pub(super) saturate: bool,
    /// When Redis brings changes to disk; none when it does not tell.
    pub(super) appendfsync: Option<String>,
    #[serde(rename = "yardstick_cpu_seconds_per_million_deliveries")]
    pub(super) yardstick_price: Option<Spread>,
    pub(super) times_the_yardstick: Option<Spread>,
    pub(super) one_per_node_times_the_yardstick: Option<Spread>,
    pub(super) times_one_per_node: Option<Spread>,
    pub(super) stock_times_ours: Option<Spread>,
    /// By command, of both sides together, while nobody edited.
    pub(super) redis_calls_per_second_at_rest: BTreeMap<String, f64>,
    pub(super) ours: Option<SideFindings>,
    pub(super) stock: Option<SideFindings>,
    pub(super) saturation: Option<Saturation>,
    pub(super) stock_saturation: Option<Saturation>,
    /// The nodes' highest, divided by the stock example's.
    pub(super) saturation_times_the_stocks: Option<Spread>,
}

impl Findings {
    pub(super) fn promises(&self, targets: &Targets) -> Vec<Promise> {
        let mut promises = Vec::new();
        if let Some(ours) = &self.ours {
            let (faults, missing) = (ours.faults, ours.refused + ours.unanswered);
            let said = format!("{} refused, {} unanswered", ours.refused, ours.unanswered);
            promises.extend(faults.promises());
            promises.push(Promise::new("no SNAPSHOT", faults.snapshots == 0, faults.snapshots.to_string()));
            promises.push(Promise::new("every edit made", missing == 0, said));
        }
        if let Some(bound) = targets.yardstick_at_most {
            let (times, kept) = (self.times_the_yardstick, |spread: Spread| spread.median <= bound);
            let promise = format!("at most {bound} times the yardstick");
            promises.push(Promise::new(promise, times.is_some_and(kept), Spread::show(times)));
        }
        if let Some(bound) = targets.stock_at_least {
            let (times, kept) = (self.stock_times_ours, |spread: Spread| spread.median >= bound);
            let promise = format!("the stock example costs at least {bound} times as much");
            promises.push(Promise::new(promise, times.is_some_and(kept), Spread::show(times)));
        }
        if let (Some(bound), Some(saturation)) = (targets.deliveries_at_least, &self.saturation) {
            let measured = saturation.median();
            let promise = format!("at least {bound:.0} deliveries per second, in order");
            promises.push(Promise::new(promise, measured >= bound, format!("{measured:.0}")));
        }
        promises
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} subscribers of {} plans on {} nodes, {} edits per second for {} s, {} in a row; {} rounds\n",
            self.subscribers, self.plans, self.nodes, self.edits_per_second, self.seconds, self.burst, self.rounds
        );
        // Writing to a String does not fail.
        let _ = self.write_turns(&mut text).and_then(|()| self.write_climbs(&mut text));
        text.trim_end().to_owned()
    }

    fn write_turns(&self, text: &mut String) -> std::fmt::Result {
        let sides = [("nodes", &self.ours), ("stock example", &self.stock)];
        let sides: Vec<(&str, &SideFindings)> =
            sides.into_iter().filter_map(|(name, side)| Some((name, side.as_ref()?))).collect();
        let Some((_, ours)) = sides.first() else { return Ok(()) };
        let titles =
            ["COST", "CPU s PER MILLION", "CPU µs PER EDIT", "REDIS PER EDIT", "RSS KiB PER CONNECTION", "FRAME"];
        let mut costs = vec![titles.map(str::to_owned).to_vec()];
        costs.push(vec!["yardstick".to_owned(), Spread::show(self.yardstick_price)]);
        let mut times = vec![Quantiles::titles("TIME SINCE DUE")];
        for (name, side) in &sides {
            costs.push(side.row(name));
            times.push(side.delivery.row(&format!("{name}: deliveries")));
            times.push(side.edits.row(&format!("{name}: answers")));
        }
        writeln!(text, "\n{}\n\n{}\n", table(&costs), table(&times))?;
        for (name, side) in &sides {
            let listed = |calls: &BTreeMap<String, f64>| {
                let calls: Vec<String> = calls.iter().map(|(name, n)| format!("{name} {n:.2}")).collect();
                calls.join(", ")
            };
            let beside: Vec<String> =
                side.beside.iter().map(|cost| format!("{} {:.2} s", cost.name, cost.cpu_seconds)).collect();
            writeln!(text, "{name}: {}; beside them {}", side.faults, beside.join(", "))?;
            writeln!(text, "{name}: calls of Redis per edit: {}", listed(&side.redis_calls_per_edit))?;
            let beyond = listed(&side.redis_calls_per_edit_beyond_rest);
            writeln!(text, "{name}: the same without what is asked at rest: {beyond}")?;
        }
        if let Some(refusal) = &ours.refusal {
            writeln!(text, "refused: {refusal:.300}")?;
        }
        writeln!(text, "the nodes use {} times the yardstick", Spread::show(self.times_the_yardstick))?;
        let others = Spread::show(self.one_per_node_times_the_yardstick);
        writeln!(text, "the nodes use {} times one yardstick per node", Spread::show(self.times_one_per_node))?;
        writeln!(text, "one yardstick per node uses {others} times the one")?;
        writeln!(text, "the stock example uses {} times the nodes", Spread::show(self.stock_times_ours))
    }

    fn write_climbs(&self, text: &mut String) -> std::fmt::Result {
        for (name, saturation) in [("nodes", &self.saturation), ("stock example", &self.stock_saturation)] {
            let Some(saturation) = saturation else { continue };
            let titles = ["EDITS/s", "DELIVERIES/s", "P50 ms", "P99 ms", "CPU s PER MILLION", "KEPT"];
            let mut rows = vec![titles.map(str::to_owned).to_vec()];
            rows.extend(saturation.climbs.iter().flatten().map(|step| {
                vec![
                    step.edits_per_second.to_string(),
                    format!("{:.0}", step.deliveries_per_second),
                    show(step.delivery.p50_ms),
                    show(step.delivery.p99_ms),
                    show(step.price),
                    step.why.clone().unwrap_or_else(|| "yes".to_owned()),
                ]
            }));
            let highest = saturation.median();
            writeln!(text, "\n{name}: at most {highest:.0} deliveries per second\n{}", table(&rows))?;
        }
        if let Some(times) = self.saturation_times_the_stocks {
            writeln!(text, "the nodes take {} times as many as the stock example", Spread::show(Some(times)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_median_in_the_middle() {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(of(&[3.0, 1.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(of(&[4.0, 2.0]).map(|spread| spread.median), Some(3.0));
        assert_eq!(of(&[]), None);
    }
}
