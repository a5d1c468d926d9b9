//! Metrics of plans: edits on their way to the log, what nodes missed and got back, and how listeners are told.

use metrics::{Counter, Gauge, Histogram};
use mille_core::replica::{Cause, Readmission};

use super::registry::Registry;

const CAUSES: [Cause; 12] = [
    Cause::Hole,
    Cause::Reconnect,
    Cause::Lagged,
    Cause::Probe,
    Cause::HeadCheck,
    Cause::Moved,
    Cause::Behind,
    Cause::Unanswered,
    Cause::Trimmed,
    Cause::Fork,
    Cause::Epoch,
    Cause::Vanished,
];
const READMISSIONS: [&str; 4] = ["accepted", "known", "unchanged", "refused"];

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditResult {
    /// It is in the log.
    Accepted,
    /// It was there already: a repeat.
    Repeated,
    /// It changes nothing.
    Unchanged,
    /// What it touches changed since the revision that it expects.
    Conflict,
    /// It breaks a rule, or what it edits is not there.
    Refused,
    /// Too many waited.
    Overloaded,
    /// The log did not answer; it may be there.
    Unavailable,
    /// It is there, and too few replicas have it.
    Unconfirmed,
    /// The project stopped on this node, or the user's right ended meanwhile.
    Stopped,
}

impl EditResult {
    const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Repeated,
        Self::Unchanged,
        Self::Conflict,
        Self::Refused,
        Self::Overloaded,
        Self::Unavailable,
        Self::Unconfirmed,
        Self::Stopped,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Repeated => "repeated",
            Self::Unchanged => "unchanged",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Unconfirmed => "unconfirmed",
            Self::Stopped => "stopped",
        }
    }
}

/// How a listener began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It was told what it missed, change by change.
    Replay,
    /// It was given the whole plan, since the changes can't be told.
    Snapshot,
    /// It missed nothing: it named no revision.
    Fresh,
}

impl Resume {
    const ALL: [Self; 3] = [Self::Replay, Self::Snapshot, Self::Fresh];

    fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Snapshot => "snapshot",
            Self::Fresh => "fresh",
        }
    }
}

/// Metrics of plans.
pub struct PlanMetrics {
    /// In the order of [`EditResult::ALL`].
    edit_seconds: [Histogram; EditResult::ALL.len()],
    /// Batches that met a log which had moved.
    pub commit_conflicts: Counter,
    /// Batches offered again.
    pub commit_retries: Counter,
    /// Answers made of an event, each for everybody who asked the same.
    pub fan_out_executions: Counter,
    /// From what a node learnt to the sockets that took it.
    pub fan_out_seconds: Histogram,
    /// Listeners that fell behind.
    pub listeners_behind: Counter,
    /// In the order of [`Resume::ALL`].
    resumes: [Counter; Resume::ALL.len()],
    /// Changes of the past that listeners were told.
    pub replayed_events: Counter,
    /// What open plans remember.
    pub recent_changes_bytes: Gauge,
    /// In the order of [`CAUSES`].
    gaps: [Counter; CAUSES.len()],
    /// Channels of plans and projects closed because nobody used them.
    pub channels_idle_cleaned: Counter,
    /// Reports of execution progress dropped because a mailbox was full.
    pub progress_dropped: Counter,
    /// Changes that the store lost and got back.
    pub changes_restored: Counter,
    /// Times others had built on a log that had lost its end.
    pub histories_parted: Counter,
    /// In the order of [`READMISSIONS`].
    readmissions: [Counter; READMISSIONS.len()],
}

impl PlanMetrics {
    pub(super) fn declare(registry: &mut Registry) -> Self {
        Self {
            edit_seconds: registry.histograms(
                "edit_seconds",
                "From an edit's arrival at its plan to its answer, in seconds, by result. Worry when the 99th percentile of 'accepted' nears 0.25, and about 'unavailable', 'overloaded' and 'unconfirmed'.",
                "result",
                EditResult::ALL.map(EditResult::as_str),
            ),
            commit_conflicts: registry.counter(
                "commit_conflicts_total",
                "Batches of edits that met a log which had moved on: another node was first. Worry when it nears the rate of edits.",
            ),
            commit_retries: registry.counter(
                "commit_retries_total",
                "Batches of edits offered again, judged anew. Worry when it nears the rate of edits.",
            ),
            fan_out_executions: registry.counter(
                "fan_out_executions_total",
                "Answers made of an event for a subscription's selection, each for everybody on this node who asked the same. Beside ws_messages_sent_total it says what sharing saves. Worry when the two are close with many subscribers: clients put what differs into the document instead of into variables.",
            ),
            fan_out_seconds: registry.histogram(
                "fan_out_seconds",
                "From the moment a node learnt of a change to the moment a GraphQL socket took it, or it was handed over to an event stream, in seconds. One observation per flush of a socket or write to it, of the oldest change in it. A slow reader shows here. Worry when the 99th percentile nears 0.1.",
            ),
            listeners_behind: registry.counter(
                "graphql_subscription_lag_total",
                "Listeners that fell behind and caught up from where they were. Harmless in small numbers.",
            ),
            resumes: registry.counters(
                "resumes_total",
                "Listeners that began, by how: told what they missed change by change, given the whole plan instead, or with nothing to miss. Worry when 'snapshot' nears 'replay': the log is too short for how long clients are away.",
                "outcome",
                Resume::ALL.map(Resume::as_str),
            ),
            replayed_events: registry.counter(
                "replayed_events_total",
                "Changes of the past told to listeners that came back. Worry when it nears the rate of messages sent.",
            ),
            recent_changes_bytes: registry.gauge(
                "recent_changes_bytes",
                "Bytes of recent changes that open plans keep in memory. Worry when it stays at its bound (MILLE_RECENT_CHANGES_BYTES_MAX) and resumes read the log often.",
            ),
            gaps: registry.counters(
                "gaps_total",
                "Times a plan was read from the log to catch up, by cause. Worry about 'fork' and 'vanished', and when one of the others goes on.",
                "cause",
                CAUSES.map(Cause::as_str),
            ),
            channels_idle_cleaned: registry.counter(
                "broadcast_channels_idle_cleaned_total",
                "Channels of plans and projects closed because nobody used them. Worry when it stays 0 for days: plans are never let go.",
            ),
            progress_dropped: registry.counter(
                "execution_progress_dropped_total",
                "Reports of execution progress dropped because a project's mailbox was full. Harmless in small numbers: the next one replaces it.",
            ),
            changes_restored: registry.counter(
                "changes_restored_total",
                "Changes that Redis lost and got back from this node. Worry: it loses what it acknowledged.",
            ),
            histories_parted: registry.counter(
                "histories_parted_total",
                "Times others had built on a log that had lost its end. Worry: Redis loses what it acknowledged.",
            ),
            readmissions: registry.counters(
                "changes_readmitted_total",
                "Lost changes that were judged again, by what became of them. Worry about 'refused': those edits are gone.",
                "outcome",
                READMISSIONS,
            ),
        }
    }

    /// How long edits took that ended like this.
    pub fn edit_seconds(&self, result: EditResult) -> &Histogram {
        &self.edit_seconds[result as usize]
    }

    /// Listeners that began like this.
    pub fn resumes(&self, outcome: Resume) -> &Counter {
        &self.resumes[outcome as usize]
    }

    /// Repairs of a plan, by cause.
    pub fn gap(&self, cause: Cause) {
        if let Some(index) = CAUSES.iter().position(|known| *known == cause) {
            self.gaps[index].increment(1);
        }
    }

    /// Notes a lost change that was judged again.
    pub fn readmitted(&self, outcome: &Readmission) {
        let index = match outcome {
            Readmission::Accepted { .. } => 0,
            Readmission::Known { .. } => 1,
            Readmission::Unchanged => 2,
            Readmission::Refused(_) => 3,
        };
        self.readmissions[index].increment(1);
    }
}
