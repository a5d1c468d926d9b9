//! A group's task: follows the plan, and walks over the subscribers with what is new.
//!
//! What came while it walked goes out with the next walk. And after a walk it lets a moment pass that is a few times as long
//! as the walk was: so that a burst shares system calls, and the sockets of one plan never take a whole core. Nothing waits
//! when the last walk is longer ago than that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::group::{Group, Subscriber};
use super::outlet::{Delivery, Handed, STRAIGHT_BYTES_MAX};
use super::render::Rendered;
use crate::gateway::transport::Via;
use crate::project::{Ended, Following, Members, Pace, Place, Telling};

/// Events that go out with one walk, and their bytes: what a socket's frames are put together from is held once per group.
const WALK_EVENTS_MAX: usize = 256;
const WALK_BYTES_MAX: usize = STRAIGHT_BYTES_MAX / 2;
/// Events that are remembered for those who join a little behind, and their bytes.
const RECENT_MAX: usize = 256;
const RECENT_BYTES_MAX: usize = 64 * 1024;
/// How many times as long as the walk was the moment is that is let pass behind it.
const MOMENT_PER_WALK: u32 = 8;
/// Subscribers that are told before other tasks of the node have their turn.
const SUBSCRIBERS_PER_TURN: usize = 64;

/// The task's own.
pub(super) struct Walker {
    group: Arc<Group>,
    subscribers: Vec<Subscriber>,
    /// How far the group is.
    place: Place,
    /// The last events, each with the place before it.
    recent: VecDeque<(Place, Arc<Rendered>)>,
    recent_bytes: usize,
    /// What goes out with the next walk.
    deliveries: Vec<Arc<Delivery>>,
    bytes: usize,
    /// By which members of the project the rights of all were judged last.
    judged_by: Option<Arc<Members>>,
    /// When the last walk was over.
    walked: Instant,
    /// How long the moment behind it is: for the walker, and for edits that would come meanwhile.
    pace: Arc<Pace>,
    /// A socket's frames, while they are put together.
    frames: Vec<u8>,
}

impl Walker {
    pub(super) fn new(group: Arc<Group>, place: Place) -> Self {
        Self {
            group,
            subscribers: Vec::new(),
            place,
            recent: VecDeque::new(),
            recent_bytes: 0,
            deliveries: Vec::new(),
            bytes: 0,
            judged_by: None,
            walked: Instant::now(),
            pace: Arc::default(),
            frames: Vec::new(),
        }
    }

    /// Tells the subscribers until there are none.
    pub(super) async fn run(&mut self) {
        let group = Arc::clone(&self.group);
        let mut following = Following::for_many(group.project(), group.plan, self.place, Arc::clone(&self.pace));
        loop {
            let Some(told) = self.wait(&group, &mut following).await else { return };
            group.note_handle(following.project());
            let mut over = self.take(told).await;
            let not_before = self.walked + self.pace.get();
            if over.is_none() && Instant::now() < not_before {
                tokio::time::sleep_until(not_before).await;
            }
            while over.is_none() && self.has_room() && following.has_at_hand() {
                let Some(told) = following.tell().now_or_never() else { break };
                over = self.take(told).await;
            }
            self.check_rights();
            self.walk().await;
            if let Some(ended) = over {
                return self.end(ended);
            }
        }
    }

    /// Lets subscribers come and go until there is something to tell. `None`: nobody is left, and the task is over.
    async fn wait(&mut self, group: &Group, following: &mut Following) -> Option<Result<Telling, Ended>> {
        // Kept while people come and go, or a plan that must be read first would never be.
        let mut telling = std::pin::pin!(following.tell());
        loop {
            self.admit();
            self.forget_leavers();
            if self.subscribers.is_empty() && group.stop() {
                return None;
            }
            tokio::select! {
                biased;
                told = &mut telling => return Some(told),
                () = group.news.notified() => {}
            }
        }
    }

    /// Ends all subscriptions, and the task.
    pub(super) fn end(&mut self, ended: Ended) {
        loop {
            for subscriber in self.subscribers.drain(..).chain(self.group.joining()) {
                subscriber.outlet.end(subscriber.serial, ended, subscriber.place);
            }
            if self.group.stop() {
                return;
            }
        }
    }

    /// Takes note of what is told. Answers why nothing more will be.
    async fn take(&mut self, told: Result<Telling, Ended>) -> Option<Ended> {
        let Telling { event, learnt, fan_out } = match told {
            Ok(telling) => telling,
            Err(ended) => return Some(ended),
        };
        if let Some(rendered) = self.group.render(&event).await {
            self.bytes += rendered.bytes();
            self.deliveries.push(Arc::new(Delivery { rendered, learnt, _fan_out: fan_out }));
        }
        None
    }

    fn has_room(&self) -> bool {
        self.deliveries.len() < WALK_EVENTS_MAX && self.bytes < WALK_BYTES_MAX
    }

    /// Tells everybody what is new.
    async fn walk(&mut self) {
        let began = Instant::now();
        let deliveries = std::mem::take(&mut self.deliveries);
        let Some(last) = deliveries.last() else { return };
        let (before, after) = (self.place, Place::from(last.rendered.head));
        let learnt = deliveries.iter().filter_map(|delivery| delivery.learnt).min();
        let common = Arc::clone(&self.group.common);
        let mut revocations = common.revoked.times();
        let all = Share::of(&deliveries);
        let (mut sent, mut sockets) = (0, 0);
        for index in 0..self.subscribers.len() {
            let subscriber = &mut self.subscribers[index];
            match fresh_for(subscriber.place, before, &deliveries) {
                Ok(from) => {
                    let fresh = if from == 0 { all } else { Share::of(&deliveries[from..]) };
                    match hand_over(&mut self.frames, subscriber, fresh, revocations) {
                        Handed::Sent => {
                            (sent, sockets) = (sent + fresh.messages, sockets + usize::from(fresh.messages > 0));
                        }
                        Handed::Queued => {}
                        Handed::LetGo => {
                            common.observer.fell_behind();
                            subscriber.is_gone = true;
                        }
                        Handed::Gone => subscriber.is_gone = true,
                    }
                    if !fresh.deliveries.is_empty() {
                        subscriber.place = after;
                    }
                }
                Err(OtherHistory) => {
                    subscriber.outlet.let_go(subscriber.serial, subscriber.place);
                    subscriber.is_gone = true;
                }
            }
            if index % SUBSCRIBERS_PER_TURN == SUBSCRIBERS_PER_TURN - 1 {
                common.told(learnt, std::mem::take(&mut sockets));
                tokio::task::yield_now().await;
                revocations = common.revoked.times();
            }
        }
        self.subscribers.retain(|subscriber| !subscriber.is_gone);
        common.told(learnt, sockets);
        common.observer.sent(Via::WebSocket, sent as u64);
        self.remember(before, &deliveries);
        (self.place, self.bytes) = (after, 0);
        self.walked = Instant::now();
        self.pace.set(((self.walked - began) * MOMENT_PER_WALK).min(common.moment_max));
    }

    fn remember(&mut self, mut before: Place, deliveries: &[Arc<Delivery>]) {
        for Delivery { rendered, .. } in deliveries.iter().map(|delivery| &**delivery) {
            self.recent_bytes += rendered.bytes();
            self.recent.push_back((before, Arc::clone(rendered)));
            before = rendered.head.into();
        }
        while self.recent.len() > RECENT_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            let oldest = self.recent.pop_front();
            self.recent_bytes -= oldest.map_or(0, |(_, rendered)| rendered.bytes());
        }
    }

    /// Lets those join who wait in line.
    fn admit(&mut self) {
        let joining = self.group.joining();
        if joining.is_empty() {
            return;
        }
        let common = Arc::clone(&self.group.common);
        let (members, revocations) = (self.group.project_members(), common.revoked.times());
        if self.judged_by.as_ref().is_some_and(|judged_by| !Arc::ptr_eq(judged_by, &members)) {
            self.judged_by = None;
        }
        for mut subscriber in joining {
            if !subscriber.is_allowed(&members) {
                subscriber.outlet.end(subscriber.serial, Ended::Forbidden, subscriber.place);
                continue;
            }
            let Some(missed) = self.missed(subscriber.place) else {
                subscriber.outlet.let_go(subscriber.serial, subscriber.place);
                continue;
            };
            let fresh = Share::of(&missed);
            match hand_over(&mut self.frames, &subscriber, fresh, revocations) {
                Handed::Sent => common.observer.sent(Via::WebSocket, fresh.messages as u64),
                Handed::Queued => {}
                Handed::LetGo => {
                    common.observer.fell_behind();
                    continue;
                }
                Handed::Gone => continue,
            }
            if !missed.is_empty() {
                subscriber.place = self.place;
            }
            self.subscribers.push(subscriber);
        }
    }

    /// What came behind a place. `None`: that is not known any more, or the place is of another history.
    fn missed(&self, place: Place) -> Option<Vec<Arc<Delivery>>> {
        if place.revision > self.place.revision || is_same(place, self.place) {
            return Some(Vec::new());
        }
        let from = self.recent.iter().position(|(before, _)| is_same(place, *before))?;
        let rendered = self.recent.range(from..).map(|(_, rendered)| Arc::clone(rendered));
        Some(rendered.map(|rendered| Arc::new(Delivery::of_the_past(rendered))).collect())
    }

    /// Ends the subscriptions of those who may no longer listen, if members changed since the last look.
    fn check_rights(&mut self) {
        let members = self.group.project_members();
        if self.judged_by.as_ref().is_some_and(|judged_by| Arc::ptr_eq(judged_by, &members)) {
            return;
        }
        self.subscribers.retain(|subscriber| {
            let is_allowed = subscriber.is_allowed(&members);
            if !is_allowed {
                subscriber.outlet.end(subscriber.serial, Ended::Forbidden, subscriber.place);
            }
            is_allowed
        });
        self.judged_by = Some(members);
    }

    /// Forgets those who left, if they are many.
    fn forget_leavers(&mut self) {
        let left = self.group.left.load(Ordering::Relaxed);
        // Each look is at all of them.
        if left > 0 && left >= self.subscribers.len() / 8 {
            self.group.left.swap(0, Ordering::AcqRel);
            self.subscribers.retain(|subscriber| subscriber.outlet.has(subscriber.serial));
        }
    }
}

/// What a subscriber is told with one walk: mostly the same as all others, so it is summed up once.
#[derive(Clone, Copy)]
struct Share<'a> {
    deliveries: &'a [Arc<Delivery>],
    messages: usize,
    bytes: usize,
    is_failure: bool,
}

impl<'a> Share<'a> {
    fn of(deliveries: &'a [Arc<Delivery>]) -> Self {
        let rendered = || deliveries.iter().map(|delivery| &delivery.rendered);
        Self {
            deliveries,
            messages: rendered().map(|rendered| rendered.payloads.len()).sum(),
            bytes: rendered().map(|rendered| rendered.bytes()).sum(),
            is_failure: rendered().any(|rendered| rendered.failure.is_some()),
        }
    }
}

/// Hands over to a subscriber what it is told: straight to its socket, unless that ends the subscription.
fn hand_over(frames: &mut Vec<u8>, subscriber: &Subscriber, fresh: Share<'_>, revocations: u64) -> Handed {
    let Share { deliveries, messages, bytes, is_failure } = fresh;
    if !is_failure && messages == 0 {
        return if subscriber.outlet.has(subscriber.serial) { Handed::Sent } else { Handed::Gone };
    }
    let straight = (!is_failure && bytes <= STRAIGHT_BYTES_MAX && subscriber.outlet.may_be_direct()).then(|| {
        put_together(frames, &subscriber.opening, deliveries);
        frames.as_slice()
    });
    subscriber.outlet.hand_over(subscriber.serial, subscriber.place, deliveries, straight, revocations)
}

/// The place of a subscription is in another history than the group's.
#[derive(Debug, PartialEq, Eq)]
struct OtherHistory;

/// Which of the deliveries behind `before` is the first that somebody at `place` lacks.
fn fresh_for(place: Place, before: Place, deliveries: &[Arc<Delivery>]) -> Result<usize, OtherHistory> {
    if is_same(place, before) {
        return Ok(0);
    }
    let heads = deliveries.iter().map(|delivery| Place::from(delivery.rendered.head));
    if let Some(index) = heads.into_iter().position(|head| is_same(place, head)) {
        return Ok(index + 1);
    }
    // Ahead of us is who was told by the actor what we have not heard yet.
    let are_changes = deliveries.iter().all(|delivery| delivery.rendered.is_change);
    let last = deliveries.last().map_or(before.revision, |delivery| delivery.rendered.head.revision);
    if are_changes && place.revision > last { Ok(deliveries.len()) } else { Err(OtherHistory) }
}

/// Whether two places are one. Where only the client's word is known, it is believed.
fn is_same(one: Place, other: Place) -> bool {
    one.revision == other.revision && (one.known == other.known || one.known.is_none() || other.known.is_none())
}

/// Writes the frames of one subscription, one after the other: RFC 6455, 5.2. Public for who times it.
pub fn put_together(frames: &mut Vec<u8>, opening: &[u8], deliveries: &[Arc<Delivery>]) {
    const CLOSING: &[u8] = b"}";
    const HEADER: FrameHeader = FrameHeader {
        is_final: true,
        rsv1: false,
        rsv2: false,
        rsv3: false,
        opcode: OpCode::Data(Data::Text),
        mask: None,
    };
    frames.clear();
    for payload in deliveries.iter().flat_map(|delivery| &delivery.rendered.payloads) {
        let bytes = opening.len() + payload.len() + CLOSING.len();
        // Writing to memory does not fail.
        let _ = HEADER.format(bytes as u64, frames);
        for part in [opening, payload, CLOSING] {
            frames.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::Revision;
    use mille_shared::log::{ChainHash, Head};

    use super::*;

    /// The place of a history at a revision: the hash says which history.
    fn at(seq: u64, history: u8) -> Place {
        Place { revision: Revision { epoch: 1, seq }, known: Some(ChainHash([history; 8])) }
    }

    fn deliveries(told: &[(u64, u8, bool)]) -> Vec<Arc<Delivery>> {
        let delivery = |&(seq, history, is_change)| {
            let head = Head { revision: at(seq, history).revision, hash: ChainHash([history; 8]) };
            let rendered = Arc::new(Rendered { head, is_change, payloads: vec!["{}".into()], failure: None });
            Arc::new(Delivery { rendered, learnt: None, _fan_out: None })
        };
        told.iter().map(delivery).collect()
    }

    #[test]
    fn a_subscriber_is_told_what_lies_behind_its_place_and_nothing_else() {
        let changes = deliveries(&[(6, 1, true), (7, 1, true), (8, 1, true)]);
        for (place, first) in [(5, 0), (6, 1), (7, 2), (8, 3), (20, 3)] {
            assert_eq!(fresh_for(at(place, 1), at(5, 1), &changes), Ok(first), "{place}");
            // Of the client's own word it is believed that it is of this history.
            let word = Place { known: None, ..at(place, 1) };
            assert_eq!(fresh_for(word, at(5, 1), &changes), Ok(first), "{place}");
        }
        assert_eq!(fresh_for(at(4, 1), at(5, 1), &changes), Err(OtherHistory), "between lies what nobody here knows");
    }

    #[test]
    fn a_subscriber_in_another_history_is_told_nothing_of_this_one() {
        let fork = deliveries(&[(8, 1, true), (7, 2, false), (8, 2, true)]);
        for (place, answer) in [
            (at(7, 1), Ok(0)),
            (at(8, 1), Ok(1)),
            (at(7, 2), Ok(2)),
            (at(8, 2), Ok(3)),
            (at(8, 3), Err(OtherHistory)),
            // Told by the actor what we have not heard: but of which of the two?
            (at(9, 1), Err(OtherHistory)),
            (at(9, 2), Err(OtherHistory)),
        ] {
            assert_eq!(fresh_for(place, at(7, 1), &fork), answer, "{place:?}");
        }
    }

    #[test]
    fn frames_stand_one_behind_the_other_with_their_lengths() {
        let (mut frames, payload) = (b"left".to_vec(), "x".repeat(200));
        let mut told = deliveries(&[(6, 1, true)]);
        let head = told[0].rendered.head;
        let rendered = Rendered { head, is_change: true, payloads: vec![payload.clone().into()], failure: None };
        told.push(Arc::new(Delivery { rendered: Arc::new(rendered), learnt: None, _fan_out: None }));
        put_together(&mut frames, br#"{"payload":"#, &told);
        let mut expected = b"\x81\x0e{\"payload\":{}}\x81\x7e\x00\xd4{\"payload\":".to_vec();
        expected.extend_from_slice(payload.as_bytes());
        expected.push(b'}');
        assert_eq!(frames, expected);
    }
}
