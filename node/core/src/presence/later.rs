//! Changes of people that can wait: who is idle now, who is active again; and under pressure, who opened what.
//!
//! A change of one user is a frame for everyone, so a thousand who become idle together would be a million frames at once.
//! Such changes are told as fast as a budget of frames allows, the oldest first. Under pressure, everything but who comes
//! and goes waits for a few seconds, and several changes of one user meanwhile are told as one. What is told is how the user
//! is by then; nothing that waits is dropped, except that the user left, which is told at once.

use std::time::Duration;

use indexmap::IndexSet;
use mille_shared::UserId;
use mille_shared::presence::ServerFrame;

use super::effects::{Moment, To};
use super::roster::Shown;
use super::{Level, Presence};

/// Frames per second and project that a node spends on what can wait: some tenth of a core, and a thousand who become idle
/// before three hundred here are told of in a quarter of a minute.
const FRAMES_PER_SECOND: usize = 20_000;
/// Frames it may spend at once, after a while without any: so in any but a crowd nothing waits.
const FRAMES_AT_ONCE: usize = 20_000;
/// Time between two batches of what waits for the budget.
const BATCH_INTERVAL: Duration = Duration::from_millis(50);
/// The same under pressure, also between two lists of one document.
pub(super) const THIN_INTERVAL: Duration = Duration::from_secs(3);

/// Whose changes wait, and for what.
#[derive(Debug)]
pub(super) struct Later {
    /// Bounded by the roster: who leaves waits no longer.
    waiting: IndexSet<UserId>,
    is_thin: bool,
    allowance: usize,
    refilled_at: Duration,
    not_before: Duration,
    put_off: u64,
}

impl Default for Later {
    fn default() -> Self {
        Self {
            waiting: IndexSet::new(),
            is_thin: false,
            allowance: FRAMES_AT_ONCE,
            refilled_at: Duration::ZERO,
            not_before: Duration::ZERO,
            put_off: 0,
        }
    }
}

impl Later {
    /// Whether everything waits that can.
    pub(super) fn is_thin(&self) -> bool {
        self.is_thin
    }

    pub(super) fn due(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(self.not_before)
    }

    /// Whose changes wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &UserId> {
        self.waiting.iter()
    }

    /// A change of this user waits.
    pub(super) fn wait(&mut self, user: &UserId) {
        self.put_off += 1;
        self.waiting.insert(user.clone());
    }

    /// The user is told of now, or is gone.
    pub(super) fn told(&mut self, user: &UserId) {
        self.waiting.shift_remove(user);
    }

    /// Whether a change from `before` to `after` is to wait.
    pub(super) fn must_wait(&self, before: &Shown, after: &Shown) -> bool {
        let can_always_wait = before.documents == after.documents && before.name == after.name;
        self.is_thin || can_always_wait && (self.allowance == 0 || !self.waiting.is_empty())
    }

    fn spend(&mut self, frames: usize) {
        self.allowance = self.allowance.saturating_sub(frames);
    }

    /// Time gives the budget back.
    pub(super) fn refill(&mut self, now: Duration) {
        let elapsed_ms = now.saturating_sub(self.refilled_at).as_millis().min(1_000);
        let frames = usize::try_from(elapsed_ms).unwrap_or_default() * FRAMES_PER_SECOND / 1_000;
        self.allowance = (self.allowance + frames).min(FRAMES_AT_ONCE);
        self.refilled_at = now;
    }
}

impl Presence {
    /// Fits what is told, and how often, to the pressure that the node is under.
    pub fn press(&mut self, now: Moment, level: Level) -> Vec<super::Effect> {
        let is_thin = level >= Level::ThinPresence;
        if self.later.is_thin && !is_thin {
            self.later.not_before = now.at;
            self.lists.hurry(now);
        }
        self.later.is_thin = is_thin;
        if self.cursors.press(level >= Level::WidenCursors) {
            self.adapt_pace();
        }
        self.effects()
    }

    /// Changes that were told later than they happened, since this was last asked.
    pub fn take_put_off(&mut self) -> u64 {
        std::mem::take(&mut self.later.put_off)
    }

    /// Tells everyone here of a change of a user, now or later.
    pub(super) fn tell_change(&mut self, user: &UserId, before: &Shown, after: &Shown) {
        if self.later.must_wait(before, after) {
            self.later.wait(user);
        } else {
            self.tell_now(user);
        }
    }

    /// Tells what waits, as far as the budget reaches.
    pub(super) fn tell_later(&mut self, now: Moment) {
        self.later.not_before = now.at + if self.later.is_thin { THIN_INTERVAL } else { BATCH_INTERVAL };
        let each = self.roster.seated_count().max(1);
        let count = self.later.allowance.div_ceil(each).min(self.later.waiting.len());
        let batch: Vec<UserId> = self.later.waiting.drain(..count).collect();
        batch.iter().for_each(|user| self.tell_now(user));
    }

    fn tell_now(&mut self, user: &UserId) {
        self.later.told(user);
        self.later.spend(self.roster.seated_count());
        if let Some(data) = self.roster.presence(user) {
            self.send(To::EveryoneBut(None), &ServerFrame::UserPresence { data });
        }
    }
}
