//! Reports of progress: a few per second and plan node are told, and of those that come too soon the newest, later.
//!
//! Nothing of it is in the log, so two things must be seen to here: that who reports and then says no more is heard to the
//! end, and that a report which the run has left behind is not told any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mille_shared::execution::ExecutionState;
use mille_shared::{PlanNodeId, RunId};
use tokio::time::{Instant, sleep_until};

use super::super::Jobs;
use super::{Done, OpenPlan};
use crate::backend::Channel;
use crate::project::command::Progress;

/// Two reports of a plan node's progress are told at least so far apart.
const INTERVAL: Duration = Duration::from_millis(250);
/// Plan nodes whose last report is remembered. Beyond it a report is told at once: it is one more than a few per second.
const REMEMBERED_MAX: usize = 4_096;

/// When each plan node's progress was told last, and what was reported since.
#[derive(Default)]
pub(super) struct Reports(HashMap<PlanNodeId, Told>);

struct Told {
    at: Instant,
    held: Option<Box<Progress>>,
}

/// What becomes of a report.
#[derive(Debug, PartialEq)]
enum Next {
    Tell(Box<Progress>),
    /// It waits until then, unless a newer one takes its place.
    Wait(Instant),
    /// It has taken the place of one that waits.
    Held,
}

impl Reports {
    fn note(&mut self, report: Box<Progress>, now: Instant) -> Next {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, told| told.held.is_some() || now < told.at + INTERVAL);
        }
        match self.0.get_mut(&report.node_id) {
            Some(told) if now < told.at + INTERVAL => {
                if told.held.replace(report).is_some() {
                    Next::Held
                } else {
                    Next::Wait(told.at + INTERVAL)
                }
            }
            Some(told) => {
                *told = Told { at: now, held: None };
                Next::Tell(report)
            }
            None => {
                if self.0.len() < REMEMBERED_MAX {
                    self.0.insert(report.node_id.clone(), Told { at: now, held: None });
                }
                Next::Tell(report)
            }
        }
    }

    /// The report of this plan node that waited.
    fn take(&mut self, of: &PlanNodeId, now: Instant) -> Option<Box<Progress>> {
        let told = self.0.get_mut(of)?;
        let report = told.held.take()?;
        told.at = now;
        Some(report)
    }

    /// One was told, perhaps by another node: what waits and is older has nothing to say any more.
    pub(super) fn heard(&mut self, told: &Progress) {
        if let Some(waits) = self.0.get_mut(&told.node_id) {
            waits.held.take_if(|held| held.at < told.at);
        }
    }

    /// Whether one waits.
    pub(super) fn holds_any(&self) -> bool {
        self.0.values().any(|told| told.held.is_some())
    }
}

impl Progress {
    /// Whether its run has gone on from what it says, or was followed by another. `runs`: those of its plan node, the latest last.
    pub(crate) fn is_overtaken(&self, runs: &[(RunId, ExecutionState)]) -> bool {
        let place = runs.iter().position(|(run, _)| *run == self.run_id);
        place.is_some_and(|place| place + 1 < runs.len() || runs[place].1 > self.state)
    }
}

impl OpenPlan {
    /// An executor reported progress.
    pub(super) fn report(&mut self, report: Box<Progress>, jobs: &mut Jobs) {
        match self.reports.note(report.clone(), Instant::now()) {
            Next::Tell(report) => self.publish(&report, jobs),
            Next::Held => {}
            Next::Wait(until) => {
                self.spawn(jobs, async move {
                    sleep_until(until).await;
                    Done::ProgressDue(report.node_id)
                });
            }
        }
    }

    /// What waited may be told now.
    pub(super) fn progress_due(&mut self, of: &PlanNodeId, jobs: &mut Jobs) {
        if let Some(report) = self.reports.take(of, Instant::now()) {
            self.publish(&report, jobs);
        }
    }

    fn publish(&self, report: &Progress, jobs: &mut Jobs) {
        if self.replica.plan().node(&report.node_id).is_none_or(|record| report.is_overtaken(&record.runs)) {
            return;
        }
        let Ok(message) = serde_json::to_vec(report) else { return };
        let (plan, pubsub) = (self.id, Arc::clone(&self.context.backend.pubsub));
        self.spawn(jobs, async move {
            if let Err(error) = pubsub.publish(Channel::Plan(plan), message.into()).await {
                tracing::debug!(plan.id = %plan, %error, "a report of progress was not told");
            }
            Done::Closed
        });
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::{Revision, Timestamp};

    use super::*;

    fn report(of: &str, progress: f64) -> Box<Progress> {
        Box::new(Progress {
            node_id: PlanNodeId::new(of),
            run_id: RunId::parse("r").expect("an id"),
            state: ExecutionState::Processing,
            progress: Some(progress),
            message: None,
            at: Timestamp::from_unix_ms(1),
            revision: Revision { epoch: 1, seq: 1 },
        })
    }

    #[test]
    fn of_reports_that_come_too_soon_the_newest_is_told_when_it_may_be() {
        let (mut reports, began) = (Reports::default(), Instant::now());
        let after = |ms| began + Duration::from_millis(ms);
        assert_eq!(reports.note(report("a", 0.1), began), Next::Tell(report("a", 0.1)));
        assert_eq!(reports.note(report("b", 0.1), after(10)), Next::Tell(report("b", 0.1)), "another plan node");
        assert_eq!(reports.note(report("a", 0.2), after(20)), Next::Wait(after(250)));
        assert_eq!(reports.note(report("a", 0.9), after(240)), Next::Held);
        assert!(reports.holds_any());
        let a = PlanNodeId::new("a");
        assert_eq!(reports.take(&a, after(250)), Some(report("a", 0.9)));
        assert_eq!(reports.take(&a, after(250)), None);
        assert!(!reports.holds_any());
        assert_eq!(
            reports.note(report("a", 1.0), after(300)),
            Next::Wait(after(500)),
            "it counts from the last that was told"
        );
        assert_eq!(reports.note(report("b", 1.0), after(300)), Next::Tell(report("b", 1.0)));
    }

    #[test]
    fn what_waits_says_nothing_behind_a_newer_one_of_another_node() {
        let (mut reports, now, a) = (Reports::default(), Instant::now(), PlanNodeId::new("a"));
        let at = |ms, progress| Box::new(Progress { at: Timestamp::from_unix_ms(ms), ..*report("a", progress) });
        reports.note(at(1, 0.1), now);
        reports.note(at(2, 0.5), now);
        reports.heard(&at(1, 0.1));
        assert!(reports.holds_any(), "its own last");
        reports.heard(&at(3, 1.0));
        assert_eq!(reports.take(&a, now), None);
    }

    #[test]
    fn it_is_overtaken_by_a_later_state_of_its_run_and_by_a_later_run() {
        use ExecutionState::{Completed, Pending, Processing};
        let run = |name| RunId::parse(name).expect("an id");
        for (runs, is_overtaken) in [
            (vec![], false),
            (vec![(run("r"), Pending)], false),
            (vec![(run("r"), Processing)], false),
            (vec![(run("r"), Completed)], true),
            (vec![(run("r"), Processing), (run("later"), Pending)], true),
            (vec![(run("before"), Completed), (run("r"), Processing)], false),
            (vec![(run("other"), Completed)], false),
        ] {
            assert_eq!(report("a", 0.5).is_overtaken(&runs), is_overtaken, "{runs:?}");
        }
    }

    #[test]
    fn with_very_many_plan_nodes_nothing_is_forgotten_that_waits() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        for number in 0..2 * REMEMBERED_MAX {
            let first = report(&format!("n{number}"), 0.1);
            assert_eq!(reports.note(first.clone(), now), Next::Tell(first));
        }
        assert_eq!(reports.0.len(), REMEMBERED_MAX);
        assert_eq!(reports.note(report("n7", 0.9), now), Next::Wait(now + INTERVAL));
        let later = now + INTERVAL;
        assert_eq!(reports.note(report("z", 0.1), later), Next::Tell(report("z", 0.1)));
        assert_eq!(reports.0.len(), 2, "those whose time is over are forgotten");
        assert_eq!(reports.take(&PlanNodeId::new("n7"), later), Some(report("n7", 0.9)));
    }
}
