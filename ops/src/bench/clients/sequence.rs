//! What one subscriber has seen, and whether it is what a delta stream promises.
//!
//! Each event must continue exactly where the one before it ended. What comes twice is a duplicate, what is
//! missing is lost; a SNAPSHOT is neither, but an honest new beginning, and is counted apart.

use mille_shared::Revision;
use serde::Deserialize;

use crate::bench::report::Faults;

/// An event of the stream, as far as the order of events goes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) revision: Revision,
    pub(crate) previous_revision: Option<Revision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Kind {
    Delta,
    Snapshot,
}

impl Event {
    /// An event that was read by other means.
    pub(crate) fn of(is_snapshot: bool, revision: Revision, previous_revision: Option<Revision>) -> Self {
        Self { kind: if is_snapshot { Kind::Snapshot } else { Kind::Delta }, revision, previous_revision }
    }
}

/// The place in a stream and the faults found up to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence {
    /// The last revision seen, or where the subscriber began.
    pub(crate) last: Revision,
    /// Events of any kind.
    pub(crate) events: u64,
    /// Revisions that were passed over without a word.
    pub(crate) lost: u64,
    /// Revisions that came again.
    pub(crate) duplicates: u64,
    /// Times the stream began anew with the whole document.
    pub(crate) snapshots: u64,
}

impl Sequence {
    /// Begins after `last`.
    pub(crate) fn new(last: Revision) -> Self {
        Self { last, events: 0, lost: 0, duplicates: 0, snapshots: 0 }
    }

    /// Judges the next event.
    pub(crate) fn note(&mut self, event: &Event) {
        self.events += 1;
        let revision = event.revision;
        if event.kind == Kind::Snapshot {
            self.snapshots += 1;
        } else if revision.seq <= self.last.seq {
            // Numbers go on from epoch to epoch, so this one was seen; we stay where we are.
            self.duplicates += 1;
            return;
        } else if event.previous_revision != Some(self.last) || !self.last.precedes(revision) {
            // A wrong `previousRevision` alone is a hole too: a patch without the document it fits.
            self.lost += (revision.seq - self.last.seq - 1).max(1);
        }
        self.last = revision;
    }

    /// Revisions up to number `head` that never came.
    pub(crate) fn missing_until(&self, head: u64) -> u64 {
        head.saturating_sub(self.last.seq)
    }

    /// What should not have been, when the last change was number `head`. What never came is lost.
    pub(crate) fn faults(&self, head: u64) -> Faults {
        let lost = self.lost + self.missing_until(head);
        Faults { lost, duplicates: self.duplicates, snapshots: self.snapshots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(text: &str) -> Revision {
        text.parse().expect("a revision")
    }

    fn event(kind: Kind, at: &str, previous: Option<&str>) -> Event {
        Event { kind, revision: revision(at), previous_revision: previous.map(revision) }
    }

    fn seen(events: &[Event]) -> (u64, u64, u64, String) {
        let mut sequence = Sequence::new(revision("7-4"));
        for event in events {
            sequence.note(event);
        }
        assert_eq!(sequence.events, events.len() as u64);
        (sequence.lost, sequence.duplicates, sequence.snapshots, sequence.last.to_string())
    }

    #[test]
    fn a_stream_in_order_has_no_fault() {
        let events = [event(Kind::Delta, "7-5", Some("7-4")), event(Kind::Delta, "7-6", Some("7-5"))];
        assert_eq!(seen(&events), (0, 0, 0, "7-6".into()));
    }

    #[test]
    fn a_hole_counts_every_revision_in_it() {
        assert_eq!(seen(&[event(Kind::Delta, "7-8", Some("7-7"))]), (3, 0, 0, "7-8".into()));
    }

    #[test]
    fn a_delta_that_does_not_fit_the_one_before_is_a_hole() {
        assert_eq!(seen(&[event(Kind::Delta, "7-5", Some("6-4"))]), (1, 0, 0, "7-5".into()));
        assert_eq!(seen(&[event(Kind::Delta, "7-6", Some("7-4"))]), (1, 0, 0, "7-6".into()));
        assert_eq!(seen(&[event(Kind::Delta, "7-5", None)]), (1, 0, 0, "7-5".into()));
    }

    #[test]
    fn what_comes_again_is_a_duplicate_and_moves_nothing() {
        let events = [
            event(Kind::Delta, "7-5", Some("7-4")),
            event(Kind::Delta, "7-5", Some("7-4")),
            event(Kind::Delta, "7-6", Some("7-5")),
        ];
        assert_eq!(seen(&events), (0, 1, 0, "7-6".into()));
    }

    #[test]
    fn a_snapshot_is_a_new_beginning_and_the_next_epoch_goes_on() {
        let events = [event(Kind::Snapshot, "7-9", None), event(Kind::Delta, "8-10", Some("7-9"))];
        assert_eq!(seen(&events), (0, 0, 1, "8-10".into()));
    }

    #[test]
    fn what_never_came_is_missing_at_the_end() {
        let sequence = Sequence::new(revision("7-4"));
        assert_eq!((sequence.missing_until(9), sequence.missing_until(4), sequence.missing_until(1)), (5, 0, 0));
        assert_eq!((sequence.faults(9).lost, sequence.faults(4).lost), (sequence.lost + 5, sequence.lost));
    }

    #[test]
    fn an_event_is_read_from_what_a_node_sends() {
        let text = r#"{"kind":"SNAPSHOT","revision":"7-5","previousRevision":null,"operations":[]}"#;
        let read: Event = serde_json::from_str(text).expect("an event");
        assert_eq!((read.kind, read.revision, read.previous_revision), (Kind::Snapshot, revision("7-5"), None));
    }
}
