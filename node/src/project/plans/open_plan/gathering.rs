//! How long edits wait for more of them, where other nodes edit the plan too.
//!
//! Behind a commit a node lets three times as long pass as the commit took. In the second half of that, news from another
//! node end it: a copy that has just heard is as fresh as it gets. Where many are told, it lets at least as long pass as those
//! who tell them do behind each telling, since most of all who are told would hear of it no sooner. All counts from the last
//! commit, so edits that are further apart wait for nothing. A moment ends with a tick of the runtime's clock, up to a
//! millisecond late.

use std::time::Duration;

use mille_core::replica::Input;
use tokio::time::Instant;

use super::{Done, Jobs, OpenPlan};
use crate::project::command::Audience;

/// How many times as long as the commit was the moment is.
const PAUSE_PER_COMMIT: u32 = 3;

/// The moment that edits gather in.
#[derive(Debug)]
pub(super) struct Moment {
    /// The longest it may be.
    max: Duration,
    /// When the last batch was offered.
    offered: Instant,
    /// How long its commit took, and when that was over.
    took: Duration,
    answered: Instant,
    /// While it passes.
    passing: Option<Passing>,
}

#[derive(Debug, Clone, Copy)]
struct Passing {
    /// It ends with the first message that is heard from then on.
    from: Instant,
    /// It ends then.
    until: Instant,
}

impl Moment {
    pub(super) fn new(max: Duration, now: Instant) -> Self {
        Self { max, offered: now, took: Duration::ZERO, answered: now, passing: None }
    }

    /// A batch is offered.
    pub(super) fn offered(&mut self, now: Instant) {
        self.offered = now;
    }

    /// The log has spoken.
    pub(super) fn answered(&mut self, now: Instant) {
        (self.took, self.answered) = (now - self.offered, now);
    }

    /// Begins; `pace`: that of those who tell many. Answers when it ends, or `None` if that is past.
    fn begin(&mut self, now: Instant, pace: Duration) -> Option<Instant> {
        let pause = self.took * PAUSE_PER_COMMIT;
        let after = |pause: Duration| self.answered + pause.min(self.max);
        let passing = Passing { from: after(pace.max(pause / 2)), until: after(pace.max(pause)) };
        self.passing = (now < passing.until).then_some(passing);
        self.passing.map(|passing| passing.until)
    }

    /// Ends it, if it is the one that was to end at `until`.
    fn end_at(&mut self, until: Instant) -> bool {
        self.passing.take_if(|passing| passing.until == until).is_some()
    }

    /// Ends it because of a message, if that does.
    fn end_by_news(&mut self, now: Instant) -> bool {
        self.passing.take_if(|passing| passing.from <= now).is_some()
    }
}

impl OpenPlan {
    /// Lets edits gather for a moment.
    pub(super) fn gather(&mut self, jobs: &mut Jobs) {
        let pace = self.listeners.iter().filter_map(|listener| match &listener.audience {
            Audience::Many(pace) => Some(pace.get()),
            Audience::User(_) => None,
        });
        match self.moment.begin(Instant::now(), pace.max().unwrap_or_default()) {
            None => self.gathered(jobs),
            Some(until) => {
                // Not stopped if news end the moment: a job that is stopped looks like one that failed.
                self.spawn(jobs, async move {
                    tokio::time::sleep_until(until).await;
                    Done::Gathered { until }
                });
            }
        }
    }

    /// A moment's end has come.
    pub(super) fn gathered_until(&mut self, until: Instant, jobs: &mut Jobs) {
        if self.moment.end_at(until) {
            self.gathered(jobs);
        }
    }

    /// A message with changes was heard.
    pub(in crate::project) fn gathered_by_news(&mut self, jobs: &mut Jobs) {
        if self.moment.end_by_news(Instant::now()) {
            self.gathered(jobs);
        }
    }

    /// Not by way of [`Self::learn`]: a moment that has passed tells nothing about the log.
    fn gathered(&mut self, jobs: &mut Jobs) {
        for effect in self.replica.handle(Input::Gathered) {
            self.perform(effect, jobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MAX: Duration = Duration::from_millis(5);

    /// A commit that took so long has just been answered.
    fn after_a_commit_of(took: Duration) -> (Moment, Instant) {
        let began = Instant::now();
        let mut moment = Moment::new(MAX, began);
        moment.offered(began);
        moment.answered(began + took);
        (moment, began + took)
    }

    #[test]
    fn it_is_three_times_as_long_as_the_commit_was_and_news_end_its_second_half() {
        let (mut moment, answered) = after_a_commit_of(MS);
        assert_eq!(moment.begin(answered + MS, Duration::ZERO), Some(answered + 3 * MS));
        assert!(!moment.end_by_news(answered + MS), "the first half");
        assert!(!moment.end_at(answered + MS), "another's end");
        assert!(moment.end_by_news(answered + 2 * MS));
        assert!(!moment.end_at(answered + 3 * MS), "it has ended");
        assert_eq!(moment.begin(answered + 3 * MS, Duration::ZERO), None, "as long ago as that");
    }

    #[test]
    fn where_many_are_told_news_do_not_end_it_before_more_could_be_told() {
        let (mut moment, answered) = after_a_commit_of(MS);
        assert_eq!(moment.begin(answered, 4 * MS), Some(answered + 4 * MS));
        assert!(!moment.end_by_news(answered + 3 * MS));
        assert!(moment.end_at(answered + 4 * MS));
    }

    #[test]
    fn it_is_never_longer_than_it_may_be() {
        let (mut moment, answered) = after_a_commit_of(70 * MS);
        assert_eq!(moment.begin(answered, 90 * MS), Some(answered + MAX));
        let mut never = Moment { max: Duration::ZERO, ..moment };
        assert_eq!(never.begin(answered, 90 * MS), None);
    }
}
