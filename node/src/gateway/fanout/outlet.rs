//! What a connection is told by groups: straight to its socket, or by way of a queue that its own task empties.
//!
//! Straight is for a socket that keeps up: nothing of a group waits for it and the system takes what is written. From the
//! first event that does not go out so, all go to the queue, until the task has flushed the last of them. The queue is
//! bounded, but for a word per subscription that ends or is let go; a subscription that does not fit any more is let go by its
//! group, and its task brings it up to date.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use mille_shared::limits;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::render::Rendered;
use crate::gateway::listener::{Sent, Wire};
use crate::pressure::Backlog;
use crate::project::{Ended, Place};
use crate::traces::Traced;

/// An event on its way to a group's subscribers.
#[derive(Debug)]
pub struct Delivery {
    /// What they are sent.
    pub rendered: Arc<Rendered>,
    /// When it was learnt. `None`: it is of the past.
    pub learnt: Option<Instant>,
    /// The fan-out it is a part of, if that is traced. It ends with the last of its deliveries.
    pub(super) _fan_out: Option<Arc<Traced>>,
}

impl Delivery {
    /// An event that nobody just learnt of.
    #[must_use]
    pub fn of_the_past(rendered: Arc<Rendered>) -> Self {
        Self { rendered, learnt: None, _fan_out: None }
    }
}

/// What waits for a connection's task.
#[derive(Debug)]
pub enum Waiting {
    /// Tell a subscription this.
    Delivery(u64, Arc<Delivery>),
    /// The group has let go of a subscription, which was told everything up to this place.
    Behind(u64, Place),
    /// A subscription is over.
    Ended(u64, Ended),
}

/// What became of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// The system has it.
    Sent,
    /// It waits for the connection's task.
    Queued,
    /// There was no room for it: the group has let go of the subscription.
    LetGo,
    /// The subscription has left.
    Gone,
}

/// More than this is not written past the task, which would have to hold what the system does not take of it.
pub(super) const STRAIGHT_BYTES_MAX: usize = 64 * 1024;

/// The end of a connection that groups know.
pub struct Outlet {
    state: Mutex<State>,
    /// Absent where only the task may write.
    wire: Option<Wire>,
    /// Of the task.
    waker: AtomicWaker,
    /// How many revocations there had been when the task last looked whether one is meant for it.
    looked: AtomicU64,
}

struct State {
    /// The subscriptions that groups may tell something: most sockets have one.
    joined: SmallVec<[u64; 1]>,
    queue: VecDeque<(Waiting, Place)>,
    backlog: Backlog,
    is_direct: bool,
    must_flush: bool,
}

impl Outlet {
    /// The outlet of a connection, over its wire if others than its task may write there. `backlog` counts the queue.
    #[must_use]
    pub fn new(wire: Option<Wire>, backlog: Backlog) -> Arc<Self> {
        let state = State {
            joined: SmallVec::new(),
            queue: VecDeque::new(),
            backlog,
            is_direct: wire.is_some(),
            must_flush: false,
        };
        Arc::new(Self { state: Mutex::new(state), wire, waker: AtomicWaker::new(), looked: AtomicU64::new(0) })
    }

    // ---- for the connection's task -----------------------------------------------------------------------------------

    /// To be woken when something waits.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The task has looked at so many revocations, and none is meant for it.
    pub fn looked_at(&self, revocations: u64) {
        self.looked.store(revocations, Ordering::Release);
    }

    /// What waits longest. `None`: nothing does.
    pub fn next(&self) -> Option<Waiting> {
        let mut state = self.state.lock();
        let (waiting, _) = state.queue.pop_front()?;
        if let Waiting::Delivery(_, delivery) = &waiting {
            state.backlog.remove(delivery.rendered.bytes());
        }
        if state.queue.is_empty() {
            // Most sockets never need it.
            state.queue.shrink_to_fit();
        }
        Some(waiting)
    }

    /// Whether the socket holds a part of what was written straight to it.
    pub fn must_flush(&self) -> bool {
        self.state.lock().must_flush
    }

    /// The task has flushed all it had. `knew_of_it`: also the rest of what was written straight to the socket, as far as the
    /// task had seen that there was one. If nothing waits, what comes next goes straight to the socket.
    pub fn flushed(&self, knew_of_it: bool) {
        let mut state = self.state.lock();
        if state.must_flush && !knew_of_it {
            return; // The task was woken.
        }
        state.must_flush = false;
        state.is_direct = self.wire.is_some() && state.queue.is_empty();
    }

    /// A subscription may be told something by a group.
    pub fn join(&self, serial: u64) {
        self.state.lock().joined.push(serial);
    }

    /// A subscription is told nothing more.
    pub fn leave(&self, serial: u64) {
        self.state.lock().leave(serial);
    }

    /// Nobody is told anything more.
    pub fn close(&self) {
        let mut state = self.state.lock();
        (state.joined, state.queue, state.is_direct) = (SmallVec::new(), VecDeque::new(), false);
        state.backlog.set(0, 0);
    }

    // ---- for groups --------------------------------------------------------------------------------------------------

    /// Whether others than the task may ever write.
    pub(super) fn may_be_direct(&self) -> bool {
        self.wire.is_some()
    }

    /// Whether a subscription is still to be told something.
    pub(super) fn has(&self, serial: u64) -> bool {
        self.state.lock().joined.contains(&serial)
    }

    /// Hands over deliveries to a subscription that was told everything up to `place`. `frames` are all of them as they go
    /// over a wire; none, if they must go by way of the task. `revocations`: how many there have been; who has not looked at the
    /// last one is told nothing past its task.
    pub(super) fn hand_over(
        &self,
        serial: u64,
        place: Place,
        deliveries: &[Arc<Delivery>],
        frames: Option<&[u8]>,
        revocations: u64,
    ) -> Handed {
        let mut state = self.state.lock();
        if !state.joined.contains(&serial) {
            return Handed::Gone;
        }
        let straight = frames.filter(|frames| frames.len() <= STRAIGHT_BYTES_MAX).zip(self.wire.as_ref());
        if let Some((frames, wire)) = straight
            && state.is_direct
            && self.looked.load(Ordering::Acquire) == revocations
        {
            match wire.send(frames) {
                Sent::Whole => return Handed::Sent,
                Sent::Begun => {
                    (state.must_flush, state.is_direct) = (true, false);
                    drop(state);
                    self.waker.wake();
                    return Handed::Sent;
                }
                Sent::Not => {}
            }
        }
        state.is_direct = false;
        let handed = state.queue(serial, place, deliveries);
        drop(state);
        self.waker.wake();
        handed
    }

    /// Lets go of a subscription that was told everything up to `place`.
    pub(super) fn let_go(&self, serial: u64, place: Place) {
        self.note(serial, |state| state.let_go(serial, place));
    }

    /// Ends a subscription, after what waits for it; but who may know nothing more is told nothing of that.
    pub(super) fn end(&self, serial: u64, ended: Ended, place: Place) {
        self.note(serial, |state| {
            if ended == Ended::Forbidden {
                state.leave(serial);
            }
            state.queue.push_back((Waiting::Ended(serial, ended), place));
        });
    }

    fn note(&self, serial: u64, note: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        if state.joined.contains(&serial) {
            note(&mut state);
            state.joined.retain(|joined| *joined != serial);
            state.is_direct = false;
            drop(state);
            self.waker.wake();
        }
    }
}

impl State {
    fn queue(&mut self, serial: u64, mut place: Place, deliveries: &[Arc<Delivery>]) -> Handed {
        for delivery in deliveries {
            let bytes = delivery.rendered.bytes();
            let has_room = self.queue.is_empty()
                || self.queue.len() < limits::OUTBOX_MESSAGES_MAX
                    && self.backlog.bytes().saturating_add(bytes) <= limits::OUTBOX_BYTES_MAX;
            if !has_room {
                self.let_go(serial, place);
                return Handed::LetGo;
            }
            self.backlog.add(bytes);
            self.queue.push_back((Waiting::Delivery(serial, Arc::clone(delivery)), place));
            place = delivery.rendered.head.into();
        }
        Handed::Queued
    }

    /// Frees what waits for a subscription: its task goes on from where the first of it begins.
    fn let_go(&mut self, serial: u64, place: Place) {
        let is_its = |waiting: &Waiting| matches!(waiting, Waiting::Delivery(of, _) if *of == serial);
        let first = self.queue.iter().find(|(waiting, _)| is_its(waiting));
        let place = first.map_or(place, |(_, before)| *before);
        self.leave(serial);
        self.queue.push_back((Waiting::Behind(serial, place), place));
    }

    fn leave(&mut self, serial: u64) {
        self.joined.retain(|joined| *joined != serial);
        let Self { queue, backlog, .. } = self;
        queue.retain(|(waiting, _)| match waiting {
            Waiting::Delivery(of, delivery) if *of == serial => {
                backlog.remove(delivery.rendered.bytes());
                false
            }
            Waiting::Delivery(..) => true,
            Waiting::Behind(of, _) | Waiting::Ended(of, _) => *of != serial,
        });
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::Revision;
    use mille_shared::log::{ChainHash, Head};

    use super::*;
    use crate::pressure::Pressure;

    #[test]
    fn whoever_may_know_nothing_more_is_not_told_what_waits() {
        let pressure = Pressure::default();
        let outlet = Outlet::new(None, pressure.backlog());
        let head = Head { revision: Revision { epoch: 1, seq: 1 }, hash: ChainHash::ROOT };
        let rendered = Rendered { head, is_change: true, payloads: vec!["{}".into()], failure: None };
        let (told, place) = ([Arc::new(Delivery::of_the_past(Arc::new(rendered)))], Place::from(head));
        for serial in [1, 2] {
            outlet.join(serial);
            assert_eq!(outlet.hand_over(serial, place, &told, None, 0), Handed::Queued);
        }
        outlet.end(1, Ended::Forbidden, place);
        outlet.end(2, Ended::Gone, place);
        assert!(matches!(outlet.next(), Some(Waiting::Delivery(2, _))));
        assert!(matches!(outlet.next(), Some(Waiting::Ended(1, Ended::Forbidden))));
        assert!(matches!(outlet.next(), Some(Waiting::Ended(2, Ended::Gone))));
        assert!(outlet.next().is_none() && pressure.queued_bytes() == 0);
    }
}
