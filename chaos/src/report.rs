//! What came out, for people and for machines. The seed comes first: with it the run can be repeated.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::checkers::Verdict;
use crate::history::{Event, History};

/// Findings of one checker that are printed; the rest is counted.
const FINDINGS_MAX: usize = 10;

/// The outcome of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Repeats the run.
    pub seed: u64,
    /// The scenario's name.
    pub scenario: String,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// What each checker found.
    pub verdicts: Vec<Verdict>,
    /// What they looked at.
    pub history: History,
}

impl Report {
    /// Whether every promise was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.broken.is_empty())
    }

    /// The report for machines, without the events of a run that passed.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut report = json!({
            "seed": self.seed,
            "scenario": self.scenario,
            "nodes": self.nodes,
            "passed": self.passed(),
            "verdicts": self.verdicts,
            "counts": {
                "acknowledged": self.count(|event| matches!(event, Event::Acknowledged { .. })),
                "repeated": self.count(|event| matches!(event, Event::Acknowledged { attempts: 2.., .. })),
                "attempts in vain": self.count(|event| matches!(event, Event::Repeated { .. })),
                "refused": self.count(|event| matches!(event, Event::Refused { .. })),
                "unanswered": self.count(|event| matches!(event, Event::Unknown { .. })),
                "blows": self.count(|event| matches!(event, Event::Struck { .. })),
                "reconnects": self.count(|event| matches!(event, Event::Lost { .. })),
                "deliveries": self.count(|event| matches!(event, Event::Saw { .. })),
                "snapshots": self.count(|event| matches!(event, Event::SawSnapshot { .. })),
                "changes": self.history.log.len(),
            },
        });
        if !self.passed() {
            report["history"] = json!(self.history);
        }
        report
    }

    fn count(&self, counts: impl Fn(&Event) -> bool) -> usize {
        self.history.events().filter(|event| counts(event)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} · {} · {} nodes", self.seed, self.scenario, self.nodes)?;
        let counts = self.json()["counts"].take();
        for (name, count) in counts.as_object().into_iter().flatten() {
            writeln!(f, "  {name}: {count}")?;
        }
        for entry in &self.history.entries {
            match &entry.event {
                Event::Struck { blow } => writeln!(f, "  {} ms: {blow}", entry.at_ms)?,
                Event::Left { watcher } => writeln!(f, "  {} ms: watcher {watcher} leaves", entry.at_ms)?,
                Event::Returned { watcher } => writeln!(f, "  {} ms: watcher {watcher} is back", entry.at_ms)?,
                Event::Measured { what, value, at_most: None } => writeln!(f, "  {what}: {value}")?,
                Event::Measured { what, value, at_most: Some(most) } => {
                    writeln!(f, "  {what}: {value} (at most {most})")?;
                }
                _ => {}
            }
        }
        for verdict in &self.verdicts {
            let mark = if verdict.broken.is_empty() { "kept  " } else { "BROKEN" };
            writeln!(f, "{mark} {}", verdict.promise)?;
            for finding in verdict.broken.iter().take(FINDINGS_MAX) {
                writeln!(f, "       - {finding}")?;
            }
            if verdict.broken.len() > FINDINGS_MAX {
                writeln!(f, "       - and {} more", verdict.broken.len() - FINDINGS_MAX)?;
            }
        }
        write!(f, "{}", if self.passed() { "passed" } else { "FAILED" })
    }
}
