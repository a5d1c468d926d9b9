//! A group's task: follows the plan, and walks over the members with what is new.
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

use super::group::{Group, Member};
use super::outlet::{Delivery, Handed};
use super::render::Rendered;
use crate::gateway::transport::Via;
use crate::project::{Ended, Following, Place, PlanEvent, Telling};

/// Events that go out with one walk, and their bytes: what a socket's frames are put together from is held once per group.
const WALK_EVENTS_MAX: usize = 256;
const WALK_BYTES_MAX: usize = 256 * 1024;
/// Events that are remembered for those who join a little behind, and their bytes.
const RECENT_MAX: usize = 256;
const RECENT_BYTES_MAX: usize = 256 * 1024;
/// How many times as long as the walk was the moment is that is let pass behind it.
const MOMENT_PER_WALK: u32 = 8;
/// Members that are told before other tasks of the node have their turn.
const MEMBERS_PER_TURN: usize = 64;

/// The task's own.
pub(super) struct Walker {
    group: Arc<Group>,
    members: Vec<Member>,
    /// How far the group is.
    place: Place,
    /// The last events, each with the place before it.
    recent: VecDeque<(Place, Arc<Rendered>)>,
    recent_bytes: usize,
    /// What goes out with the next walk.
    deliveries: Vec<Arc<Delivery>>,
    bytes: usize,
    members_changed: bool,
    /// The moment is over then.
    not_before: Instant,
    /// A socket's frames, while they are put together.
    frames: Vec<u8>,
}

impl Walker {
    pub(super) fn new(group: Arc<Group>, place: Place) -> Self {
        Self {
            group,
            members: Vec::new(),
            place,
            recent: VecDeque::new(),
            recent_bytes: 0,
            deliveries: Vec::new(),
            bytes: 0,
            members_changed: false,
            not_before: Instant::now(),
            frames: Vec::new(),
        }
    }

    /// Tells the members until there are none.
    pub(super) async fn run(&mut self) {
        let group = Arc::clone(&self.group);
        let mut following = Following::for_many(group.project.clone(), group.plan, self.place);
        loop {
            self.admit(&following);
            if self.is_alone() && group.stop() {
                return;
            }
            let told = tokio::select! {
                biased;
                told = following.tell() => told,
                () = group.news.notified() => continue,
            };
            let mut over = self.take(told);
            if over.is_none() && Instant::now() < self.not_before {
                tokio::time::sleep_until(self.not_before).await;
            }
            while over.is_none() && self.has_room() {
                let Some(told) = following.tell().now_or_never() else { break };
                over = self.take(told);
            }
            self.walk().await;
            if std::mem::take(&mut self.members_changed) {
                self.check_rights(&following);
            }
            if let Some(ended) = over {
                return self.end(ended);
            }
        }
    }

    /// Ends all subscriptions, and the task.
    pub(super) fn end(&mut self, ended: Ended) {
        loop {
            for member in self.members.drain(..).chain(self.group.joining()) {
                member.outlet.end(member.serial, ended, member.place);
            }
            if self.group.stop() {
                return;
            }
        }
    }

    /// Takes note of what is told. Answers why nothing more will be.
    fn take(&mut self, told: Result<Telling, Ended>) -> Option<Ended> {
        let Telling { event, learnt, fan_out } = match told {
            Ok(telling) => telling,
            Err(ended) => return Some(ended),
        };
        if matches!(event, PlanEvent::MembersChanged) {
            self.members_changed = true;
        }
        if let Some(rendered) = self.group.render(&event) {
            self.bytes += rendered.bytes();
            self.deliveries.push(Arc::new(Delivery { rendered, learnt, _fan_out: fan_out }));
        }
        None
    }

    fn has_room(&self) -> bool {
        self.deliveries.len() < WALK_EVENTS_MAX && self.bytes < WALK_BYTES_MAX && !self.members_changed
    }

    /// Tells everybody what is new.
    async fn walk(&mut self) {
        let began = Instant::now();
        let deliveries = std::mem::take(&mut self.deliveries);
        let Some(last) = deliveries.last() else { return };
        let (before, after) = (self.place, Place::from(last.rendered.head));
        let learnt = deliveries.iter().filter_map(|delivery| delivery.learnt).min();
        let common = Arc::clone(&self.group.common);
        let revocations = common.revoked.times();
        let (mut sent, mut sockets) = (0, 0);
        for (index, member) in self.members.iter_mut().enumerate() {
            let fresh = match fresh_for(member.place, before, &deliveries) {
                Ok(from) => &deliveries[from..],
                Err(OtherHistory) => {
                    member.outlet.let_go(member.serial, member.place);
                    continue;
                }
            };
            let messages = fresh.iter().map(|delivery| delivery.rendered.payloads.len()).sum::<usize>();
            if messages > 0 {
                put_together(&mut self.frames, &member.opening, fresh);
                let handed = member.outlet.hand_over(member.serial, member.place, fresh, &self.frames, revocations);
                if handed == Handed::Sent {
                    sent += messages;
                    sockets += 1;
                }
            } else if fresh.iter().any(|delivery| delivery.rendered.failure.is_some()) {
                member.outlet.hand_over(member.serial, member.place, fresh, &[], u64::MAX);
            }
            if !fresh.is_empty() {
                member.place = after;
            }
            if index % MEMBERS_PER_TURN == MEMBERS_PER_TURN - 1 {
                common.told(learnt, std::mem::take(&mut sockets));
                tokio::task::yield_now().await;
            }
        }
        common.told(learnt, sockets);
        common.observer.sent(Via::WebSocket, sent as u64);
        self.remember(before, &deliveries);
        (self.place, self.bytes) = (after, 0);
        let now = Instant::now();
        self.not_before = now + ((now - began) * MOMENT_PER_WALK).min(common.moment_max);
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
    fn admit(&mut self, following: &Following) {
        let joining = self.group.joining();
        if joining.is_empty() {
            return;
        }
        let members = following.project().members();
        for mut member in joining {
            if !member.is_allowed(|user| members.role_of(user).is_some()) {
                member.outlet.end(member.serial, Ended::Forbidden, member.place);
                continue;
            }
            let Some(missed) = self.missed(member.place) else {
                member.outlet.let_go(member.serial, member.place);
                continue;
            };
            if !missed.is_empty() {
                put_together(&mut self.frames, &member.opening, &missed);
                let revocations = self.group.common.revoked.times();
                member.outlet.hand_over(member.serial, member.place, &missed, &self.frames, revocations);
                member.place = self.place;
            }
            self.members.push(member);
        }
    }

    /// What came behind a place. `None`: that is not known any more, or the place is of another history.
    fn missed(&self, place: Place) -> Option<Vec<Arc<Delivery>>> {
        if place.revision > self.place.revision || is_same(place, self.place) {
            return Some(Vec::new());
        }
        let from = self.recent.iter().position(|(before, _)| is_same(place, *before))?;
        let rendered = self.recent.range(from..).map(|(_, rendered)| Arc::clone(rendered));
        Some(rendered.map(|rendered| Arc::new(Delivery { rendered, learnt: None, _fan_out: None })).collect())
    }

    /// Ends the subscriptions of those who may no longer listen.
    fn check_rights(&mut self, following: &Following) {
        let members = following.project().members();
        self.members.retain(|member| {
            let is_allowed = member.is_allowed(|user| members.role_of(user).is_some());
            if !is_allowed {
                member.outlet.end(member.serial, Ended::Forbidden, member.place);
            }
            is_allowed
        });
    }

    /// Forgets those who left, if they are many. Answers whether nobody is left.
    fn is_alone(&mut self) -> bool {
        let left = self.group.left.load(Ordering::Relaxed);
        // Each look is at all of them.
        if left > 0 && left >= self.members.len() / 8 {
            self.group.left.store(0, Ordering::Relaxed);
            self.members.retain(|member| member.outlet.has(member.serial));
        }
        self.members.is_empty()
    }
}

/// The place of a subscription is in another history than the group's.
struct OtherHistory;

/// Which of the deliveries behind `before` is the first that somebody at `place` lacks.
fn fresh_for(place: Place, before: Place, deliveries: &[Arc<Delivery>]) -> Result<usize, OtherHistory> {
    if is_same(place, before) {
        return Ok(0);
    }
    for (index, delivery) in deliveries.iter().enumerate() {
        let (is_change, head) = (delivery.rendered.is_change, Place::from(delivery.rendered.head));
        if !is_change || head.revision > place.revision {
            return Ok(index);
        }
        if head.revision == place.revision && !is_same(place, head) {
            return Err(OtherHistory);
        }
    }
    Ok(deliveries.len())
}

/// Whether two places are one. Where only the client's word is known, it is believed.
fn is_same(one: Place, other: Place) -> bool {
    one.revision == other.revision && (one.known == other.known || one.known.is_none() || other.known.is_none())
}

/// Writes the frames of one subscription, one after the other: RFC 6455, 5.2.
fn put_together(frames: &mut Vec<u8>, opening: &[u8], deliveries: &[Arc<Delivery>]) {
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
