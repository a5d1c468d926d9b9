//! A user's connections on one node.

use std::time::Duration;

use super::{ASK_AGAIN_AFTER, Outcome, Verdict};

/// One user's connections on one node. What the store is told is the number of all of them, so that asking twice, or once
/// more after no answer, does no harm; up to the free ones it is told nothing.
#[derive(Debug, Clone)]
pub struct Places {
    max: u32,
    free: u32,
    open: u32,
    /// Those who wait for the store's answer.
    waiting: u32,
    /// What the store has agreed to; zero: it holds nothing for us.
    held: u32,
    /// What it was asked for, while it is asked.
    asked: Option<u32>,
    /// The store agreed to no more than this; it may be asked again when someone comes after the answer.
    is_refused: bool,
    /// The store did not answer; until then nobody waits for it.
    alone_until: Duration,
}

impl Places {
    /// Of a user without connections, who may have `max` over the cluster and one in `free_share` of them, rounded up, on
    /// each node without asking.
    #[must_use]
    pub fn new(max: u32, free_share: u32) -> Self {
        Self {
            max,
            free: max.div_ceil(free_share.max(1)),
            open: 0,
            waiting: 0,
            held: 0,
            asked: None,
            is_refused: false,
            alone_until: Duration::ZERO,
        }
    }

    /// Somebody wants to connect. Told to wait, they are counted among those who wait until they
    /// [come again](Self::come_again) or [give up](Self::give_up).
    pub fn open(&mut self, now: Duration) -> Outcome {
        self.judge(now, false)
    }

    /// Somebody who waited wants to connect, after an answer of the store. They are told to wait again only if others took
    /// what it gave.
    pub fn come_again(&mut self, now: Duration) -> Outcome {
        self.waiting = self.waiting.saturating_sub(1);
        self.judge(now, true)
    }

    /// Somebody who waited does so no more.
    pub fn give_up(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// The store takes too long for somebody who waits: answers whether they have a place without its word. They
    /// [give up](Self::give_up) waiting besides.
    pub fn let_in(&mut self) -> bool {
        let has_place = self.open < self.max;
        self.open += u32::from(has_place);
        has_place
    }

    /// A connection has ended. Answers what is to be told to the store, if it is to be told now.
    pub fn closed(&mut self) -> Option<u32> {
        self.open = self.open.saturating_sub(1);
        self.is_refused = false;
        self.tell()
    }

    /// The number that the store is to be told again, so that what it holds for us does not run out.
    pub fn renewal(&mut self) -> Option<u32> {
        ((self.held > 0 || self.wanted() > 0) && self.asked.is_none()).then(|| self.ask())
    }

    /// The connections that are there: the store must hold them, whatever else is asked for.
    #[must_use]
    pub fn kept(&self) -> u32 {
        self.open
    }

    /// Those who were told to wait and still do.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// The store has answered with what it holds for us from now on; `None`: it did not answer. Whoever waits may come
    /// again. Answers what is to be told to the store at once, since others left meanwhile.
    pub fn answered(&mut self, now: Duration, held: Option<u32>) -> Option<u32> {
        let asked = self.asked.take().unwrap_or_default();
        match held {
            Some(held) => {
                self.held = held;
                self.is_refused = held < asked;
                self.tell()
            }
            None => {
                self.alone_until = now + ASK_AGAIN_AFTER;
                None
            }
        }
    }

    /// Whether it knows nothing that a new one would not know.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open == 0 && self.waiting == 0 && self.held == 0 && self.asked.is_none()
    }

    fn judge(&mut self, now: Duration, after_an_answer: bool) -> Outcome {
        if self.open < self.free.max(self.held) {
            self.open += 1;
            return Outcome { verdict: Verdict::Taken, ask: None };
        }
        let refused = Outcome { verdict: Verdict::Refused { retry_after: Duration::ZERO }, ask: None };
        if self.open >= self.max || after_an_answer && self.is_refused {
            return refused;
        }
        if now < self.alone_until {
            // The store did not answer a moment ago: it learns of this one when it is told again.
            self.open += 1;
            return Outcome { verdict: Verdict::Taken, ask: None };
        }
        self.waiting += 1;
        let ask = self.asked.is_none().then(|| self.ask());
        Outcome { verdict: Verdict::Wait, ask }
    }

    /// Tells the store when it holds more than is there, and nobody is about to take it.
    fn tell(&mut self) -> Option<u32> {
        let is_spare = self.held > self.wanted() && self.waiting == 0;
        (is_spare && self.asked.is_none()).then(|| self.ask())
    }

    fn ask(&mut self) -> u32 {
        let wanted = self.wanted();
        self.asked = Some(wanted);
        wanted
    }

    fn wanted(&self) -> u32 {
        let wanted = (self.open + self.waiting).min(self.max.max(self.open));
        if wanted <= self.free { 0 } else { wanted }
    }
}
