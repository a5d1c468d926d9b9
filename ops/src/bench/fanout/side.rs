//! One side of a comparison at work: its listeners, its editors, and what they see of some edits.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::time::Instant;

use super::course::Course;
use super::editors::{Editors, Made};
use super::listeners::Listeners;
use super::stage::Stage;
use crate::bench::clients::schedule::{Rhythm, Schedule};
use crate::bench::cluster::redis_calls::{Calls, Count};
use crate::bench::cluster::usage::{Cost, Meter};
use crate::bench::report::Faults;
use crate::bench::wait_until;
use crate::state::Redis;

/// Until every listener has heard something.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

/// What listeners get after an edit of the beginning, before there is another one.
const HEAR_WITHIN: Duration = Duration::from_secs(1);

/// Edits of the beginning per second: enough to open what edits need, too few to be a load.
const WARM_UP_RATE: u32 = 100;

/// From the last word of one part to the first of the next.
const SETTLE: Duration = Duration::from_millis(200);

/// One side, with everyone connected who belongs to it.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) stage: Stage,
    listeners: Listeners,
    editors: Editors,
    course: watch::Sender<Course>,
    meter: Meter,
    redis: Redis,
    /// What a listener's connection takes of the processes' memory, subscribed and told a few events.
    pub(super) rss_bytes_per_connection: f64,
}

/// What came of some edits.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) edits: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    pub(super) deliveries: u64,
    pub(super) faults: Faults,
    /// From when the first edit was due until nothing was missing, or until nobody waited any longer.
    pub(super) elapsed: Duration,
    /// From when edits were due until they were read by a subscriber.
    pub(super) delivery_times: Histogram<u64>,
    /// From when edits were due to their answers.
    pub(super) edit_times: Histogram<u64>,
    pub(super) costs: Vec<Cost>,
    /// What Redis and the generator used meanwhile.
    pub(super) beside: Vec<Cost>,
    /// From before the first edit until all was told.
    pub(super) redis_calls: Calls,
}

impl Round {
    /// Processor time of those who served.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.costs.iter().map(|cost| cost.cpu_seconds).sum()
    }

    /// The same for each million deliveries; none without deliveries.
    pub(super) fn price(&self) -> Option<f64> {
        (self.deliveries > 0).then(|| self.cpu_seconds() * 1e6 / self.deliveries as f64)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.faults == Faults::default() && self.refused == 0 && self.unanswered == 0
    }
}

impl Side {
    /// Connects everyone, and edits until everyone has heard of it.
    ///
    /// # Errors
    /// When somebody can't connect or hears nothing.
    pub(super) async fn open(stage: Stage, redis: &Redis) -> Result<Self> {
        let nothing = Course { first: stage.next_number, count: 0, schedule: schedule(Rhythm::even(1)) };
        let course = watch::channel(nothing).0;
        let editors = Editors::open(&stage, &course.subscribe()).await?;
        let mut meter = Meter::of_all(&stage.processes);
        let before = rss(&meter.read());
        let listeners = Listeners::open(&stage, &course.subscribe()).await?;
        let redis = redis.clone();
        let mut side = Self { stage, listeners, editors, course, meter, redis, rss_bytes_per_connection: 0.0 };
        side.warm_up().await?;
        let grown = rss(&side.meter.read()).saturating_sub(before);
        side.rss_bytes_per_connection = grown as f64 / side.stage.listeners() as f64;
        Ok(side)
    }

    /// The size of a frame that tells of one edit, head and all.
    pub(super) fn frame_bytes(&self) -> Result<u32> {
        Ok(u32::try_from(self.listeners.frame_bytes())?)
    }

    /// Edits for some seconds, and waits until everyone has been told of everything, `patience` at the most.
    ///
    /// # Errors
    /// When somebody has lost the connection.
    pub(super) async fn round(&mut self, rhythm: Rhythm, seconds: u32, patience: Duration) -> Result<Round> {
        let count = Count::begin(&self.redis).await?;
        let deliveries = self.listeners.deliveries();
        self.meter = Meter::of_all(&self.stage.processes);
        let ourselves = ("generator".to_owned(), std::process::id());
        let redis = self.redis.processes();
        let mut beside = Meter::of_all(&redis.into_iter().chain([ourselves]).collect::<Vec<_>>());
        let (made, start) = self.edit(rhythm, rhythm.rate * seconds, patience).await?;
        let due: u64 = (0..self.stage.listeners()).map(|listener| self.due(&made, listener)).sum();
        let told = || self.listeners.deliveries() >= deliveries + due || self.listeners.ended().is_some();
        wait_until(patience, told).await;
        let elapsed = start.elapsed();
        let (costs, beside) = (self.meter.read(), beside.read());
        let deliveries = self.listeners.deliveries() - deliveries;
        let redis_calls = count.end(&self.redis).await?;
        if let Some(why) = self.listeners.ended() {
            bail!("a subscriber of {} lost its connection: {why}", self.stage.name());
        }
        // Duplicates would be seen now.
        tokio::time::sleep(SETTLE).await;
        let numbered = self.stage.is_numbered();
        let (faults, delivery_times) = self.listeners.take(|listener| self.due(&made, listener), numbered)?;
        Ok(Round {
            edits: made.count(),
            refused: made.refused,
            unanswered: made.unanswered,
            deliveries,
            faults,
            elapsed,
            delivery_times,
            edit_times: made.times,
            costs,
            beside,
            redis_calls,
        })
    }

    /// Why the first edit that was refused was.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.editors.refusal()
    }

    /// Ends everyone's connection.
    pub(super) async fn close(self) -> Stage {
        self.listeners.close().await;
        self.editors.close().await;
        self.stage
    }

    /// Edits each plan until all have heard of it: where nothing is sent again, who subscribes late hears only later edits.
    async fn warm_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        let plans = u32::try_from(self.stage.places.len())?;
        while !self.listeners.all_have_heard() {
            ensure!(begun.elapsed() < BEGIN_WITHIN, "not every subscriber of {} hears of edits", self.stage.name());
            let (made, _) = self.edit(Rhythm::even(WARM_UP_RATE.max(plans)), plans, BEGIN_WITHIN).await?;
            if let Some(refusal) = self.refusal() {
                bail!("{} refuses edits: {refusal}", self.stage.name());
            }
            ensure!(made.unanswered == 0, "{} does not answer edits", self.stage.name());
            wait_until(HEAR_WITHIN, || self.listeners.all_have_heard()).await;
        }
        tokio::time::sleep(SETTLE).await;
        // What was missed before all had subscribed is nobody's fault where nothing is sent again.
        let (faults, _) = self.listeners.take(|_| 0, true)?;
        ensure!(faults == Faults::default(), "before the bench began: {faults}");
        Ok(())
    }

    async fn edit(&mut self, rhythm: Rhythm, count: u32, patience: Duration) -> Result<(Made, Instant)> {
        let course = Course { first: self.stage.next_number, count, schedule: schedule(rhythm) };
        self.stage.next_number += count;
        self.course.send_replace(course);
        Ok((self.editors.edit(&course, patience).await?, course.schedule.start))
    }

    fn due(&self, made: &Made, listener: usize) -> u64 {
        made.by_plan[self.stage.plan_of(listener)]
    }
}

fn schedule(rhythm: Rhythm) -> Schedule {
    Schedule { start: Instant::now() + SETTLE, rhythm }
}

fn rss(costs: &[Cost]) -> u64 {
    costs.iter().map(|cost| cost.rss_bytes).sum()
}
