//! How many deliveries per second there can be: the edit rate is raised until they come too late, or not as they should.
//!
//! A rate is kept when each edit was made and everyone was told of it, once and in order, 99 % of all deliveries no later
//! than [`LATE`] after their edit was due. The first rate that is not kept ends the climb; then the rates between it and
//! the last one that was kept are tried. After a rate that was not kept everyone connects anew, so that nobody has a backlog.
//! The generator and Redis have a share of the same cores, so this says what the machine can do with all of them.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::side::{Round, Side};
use super::stage::Stage;
use crate::bench::clients::schedule::Rhythm;
use crate::bench::cluster::usage::Cost;
use crate::bench::report::Quantiles;
use crate::output::Output;
use crate::state::Redis;

/// What the p99 must not exceed.
const LATE: Duration = Duration::from_millis(250);

/// From a rate that was kept to the next.
const STEP: f64 = 1.5;

/// Rates that are tried between the highest that was kept and the lowest that was not.
const REFINEMENTS: u32 = 3;

/// Until everybody has been told of everything; what comes later is lost for this bench.
const PATIENCE: Duration = Duration::from_secs(5);

/// No rate beyond this: editors could not send it.
const RATE_MAX: u32 = 12_000;

/// Nor below this: nothing is kept then.
const RATE_MIN: u32 = 5;

/// One rate that was tried.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) edits_per_second: u32,
    /// From when the first edit was due until the last delivery.
    pub(super) deliveries_per_second: f64,
    pub(super) delivery: Quantiles,
    pub(super) kept: bool,
    /// What was not kept.
    pub(super) why: Option<String>,
    #[serde(rename = "cpu_seconds_per_million_deliveries")]
    pub(super) price: Option<f64>,
    /// Redis and the generator, in the same time.
    beside: Vec<Cost>,
}

/// All rates that were tried, in the order of trying.
///
/// # Errors
/// When nobody can connect any more.
pub(super) async fn climb(
    mut stage: Stage,
    redis: &Redis,
    first_rate: u32,
    seconds: u32,
    output: Output,
) -> Result<(Stage, Vec<Step>)> {
    let mut steps: Vec<Step> = Vec::new();
    let mut search = Search::from(first_rate);
    while search.rate().is_some() {
        let mut side = Side::open(stage, redis).await?;
        while let Some(rate) = search.rate() {
            let step = Step::of(rate, side.round(Rhythm::even(rate), seconds, PATIENCE).await);
            output.note(format_args!(
                "mille: {}: {rate} edits per second, {:.0} deliveries per second, {}",
                side.stage.name(),
                step.deliveries_per_second,
                step.why.as_deref().unwrap_or("kept")
            ));
            let kept = step.kept;
            steps.push(step);
            search.note(rate, kept);
            if !kept {
                break;
            }
        }
        stage = side.close().await;
    }
    Ok((stage, steps))
}

impl Step {
    fn of(edits_per_second: u32, round: Result<Round>) -> Self {
        let round = match round {
            Ok(round) => round,
            Err(error) => {
                return Self {
                    edits_per_second,
                    deliveries_per_second: 0.0,
                    delivery: Quantiles::NONE,
                    kept: false,
                    why: Some(format!("{error:#}")),
                    price: None,
                    beside: Vec::new(),
                };
            }
        };
        let delivery = Quantiles::of_histogram(&round.delivery_times);
        let late = delivery.p99_ms.is_none_or(|p99| p99 > LATE.as_secs_f64() * 1_000.0);
        let why = if round.refused > 0 {
            Some(format!("{} edits refused", round.refused))
        } else if round.unanswered > 0 {
            Some(format!("{} edits unanswered", round.unanswered))
        } else if !round.is_whole() {
            Some(round.faults.to_string())
        } else {
            late.then(|| format!("p99 {} ms", delivery.p99_ms.unwrap_or_default()))
        };
        Self {
            edits_per_second,
            deliveries_per_second: round.deliveries as f64 / round.elapsed.as_secs_f64(),
            delivery,
            kept: why.is_none(),
            why,
            price: round.price(),
            beside: round.beside,
        }
    }
}

/// Which rate is next.
#[derive(Debug)]
struct Search {
    next: Option<u32>,
    kept: u32,
    broken: Option<u32>,
    refinements: u32,
}

impl Search {
    fn from(first: u32) -> Self {
        Self { next: Some(first), kept: 0, broken: None, refinements: REFINEMENTS }
    }

    fn rate(&self) -> Option<u32> {
        self.next
    }

    fn note(&mut self, rate: u32, kept: bool) {
        if kept {
            self.kept = rate;
        } else {
            self.broken = Some(rate);
        }
        self.next = match self.broken {
            None if rate >= RATE_MAX => None,
            None => Some(((f64::from(rate) * STEP) as u32).clamp(rate + 1, RATE_MAX)),
            Some(broken) => {
                let between = u32::midpoint(self.kept, broken);
                // Until one was kept it only goes down.
                let goes_on =
                    if self.kept == 0 { between >= RATE_MIN } else { self.refinements > 0 && between > self.kept };
                self.refinements = self.refinements.saturating_sub(u32::from(self.kept > 0));
                goes_on.then_some(between)
            }
        };
    }
}

/// The most deliveries per second at a rate that was kept; 0 if none was.
pub(super) fn highest(steps: &[Step]) -> f64 {
    steps.iter().filter(|step| step.kept).map(|step| step.deliveries_per_second).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(capacity: u32) -> (Vec<u32>, u32) {
        let (mut search, mut rates) = (Search::from(100), Vec::new());
        while let Some(rate) = search.rate() {
            rates.push(rate);
            search.note(rate, rate <= capacity);
        }
        (rates, search.kept)
    }

    #[test]
    fn the_rate_climbs_until_it_is_not_kept_and_then_is_narrowed_down() {
        let (rates, kept) = tried(300);
        assert_eq!(rates, [100, 150, 225, 337, 281, 309, 295]);
        assert_eq!(kept, 295);
    }

    #[test]
    fn a_first_rate_that_is_too_high_is_halved_and_a_rate_that_nobody_can_send_is_not_tried() {
        assert_eq!(tried(30), (vec![100, 50, 25, 37, 31, 28], 28));
        assert_eq!(tried(0), (vec![100, 50, 25, 12, 6], 0));
        let (rates, kept) = tried(u32::MAX);
        assert!(rates.last() == Some(&RATE_MAX) && kept == RATE_MAX, "{rates:?}");
    }

    #[test]
    fn a_subscriber_that_lost_its_connection_breaks_a_rate() {
        let step = Step::of(100, Err(anyhow::anyhow!("gone")));
        assert!(!step.kept && highest(&[step]) == 0.0);
    }
}
