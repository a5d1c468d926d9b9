//! Who is here, as a machine without I/O: frames, messages and time go in, effects come out.
//!
//! The roster is keyed by connection. A connection belongs to one node, which alone changes its record; every other node
//! holds a copy. Clients see users: what a user's connections come to together. A frame is sent to others exactly when
//! that sum changes in what it shows ([`roster::Shown`]), so a second tab, a reload or a repeated frame sends nothing.
//!
//! Rules this keeps, whatever is lost, doubled or reordered between nodes:
//! - an older record never replaces a newer one ([`mille_shared::presence::Version`]), and what left does not come back;
//! - a lost message is found by the next digest and repaired by asking its sender for everyone it has;
//! - a dropped connection keeps its place for the grace, and whoever shows its token takes it back, on any node.
//!
//! `document_activity` goes to those who are in the document, as clients of old expect: they take each one they get for
//! the document they show. A list may lag behind cursors; positions in it are those at the moment of the change.
//!
//! It leaves to others: the clock, random bytes, encoding for the channel, the store, and slow sockets.

mod cursors;
mod digest;
mod effects;
mod kept;
mod later;
mod lists;
mod pace;
mod people;
mod repair;
mod roster;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mille_shared::presence::record::{Place, Record};
use mille_shared::presence::{Body, DocumentId, NodeMessage, ServerFrame, Status, UserPresence, Version};
use mille_shared::{CloseCode, ConnectionId, ErrorCode, NodeId, ProjectId, UserId, limits};

use cursors::Cursors;
pub use effects::{CursorFrame, Effect, Event, Expiry, Moment, SeatId, To};
pub use kept::Kept;
use later::Later;
use lists::Lists;
use people::throttle;
pub use people::{Join, welcome};
use repair::Peers;
use roster::{Entry, Hold, Roster, Shown};

use crate::pressure::Level;

/// How long it is remembered that a connection or node is gone, so that a late message can't bring it back.
const GONE_FOR: Duration = Duration::from_secs(60);

/// What an operator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a dropped connection keeps its place.
    pub grace: Duration,
    /// Inactivity after which a user is shown as idle.
    pub idle_after: Duration,
    /// Time between two cursor frames in a small room.
    pub cursor_interval: Duration,
    /// Time between two digests: how long a lost message stays unnoticed.
    pub digest_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: limits::PRESENCE_GRACE,
            idle_after: limits::IDLE_AFTER,
            cursor_interval: limits::CURSOR_INTERVAL,
            digest_interval: Duration::from_secs(2),
        }
    }
}

/// How many are present in a project, by the node that has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Over all nodes.
    pub total: Count,
    /// The same per node, in the order of their ids.
    pub nodes: BTreeMap<NodeId, Count>,
}

/// How many are present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Users.
    pub users: usize,
    /// Connections, those in their grace included.
    pub connections: usize,
    /// Documents with somebody in them.
    pub documents: usize,
}

/// One node's view of a project's people.
#[derive(Debug)]
pub struct Presence {
    project: ProjectId,
    node: NodeId,
    settings: Settings,
    roster: Roster,
    cursors: Cursors,
    lists: Lists,
    later: Later,
    peers: Peers,
    /// Connections that left, with their last version, until when they are remembered.
    buried: BTreeMap<ConnectionId, (Version, Duration)>,
    timers: BTreeSet<(Duration, Timer)>,
    stamp: u64,
    departed: bool,
    out: Vec<Effect>,
}

/// What a moment was noted for. A timer that no longer applies when it fires does nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A connection's grace ends.
    Grace(ConnectionId),
    /// A connection may have become idle.
    Idle(ConnectionId),
    /// A buried connection may be forgotten.
    Forget(ConnectionId),
}

impl Presence {
    /// An empty roster. Nothing is known of other nodes until [`loaded`](Self::loaded) brings what the store has; the
    /// first effects ask for it.
    #[must_use]
    pub fn open(now: Moment, project: ProjectId, node: NodeId, settings: Settings) -> (Self, Vec<Effect>) {
        let mut presence = Self::new(now, project, node, settings);
        let effects = presence.interrupted(now);
        (presence, effects)
    }

    fn new(now: Moment, project: ProjectId, node: NodeId, settings: Settings) -> Self {
        Self {
            project,
            node,
            settings,
            roster: Roster::default(),
            cursors: Cursors::new(settings.cursor_interval),
            lists: Lists::default(),
            later: Later::default(),
            peers: Peers::new(now.at + settings.digest_interval),
            buried: BTreeMap::new(),
            timers: BTreeSet::new(),
            // Above every stamp of this node's earlier life in this project: it can't have said a million things a second.
            stamp: now.wall.unix_ms.max(0).unsigned_abs() << 20,
            departed: false,
            out: Vec::new(),
        }
    }

    /// Does what time has made due.
    pub fn wake(&mut self, now: Moment) -> Vec<Effect> {
        self.later.refill(now.at);
        while let Some((due, timer)) = self.timers.first().cloned() {
            if due > now.at {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Grace(connection) => self.end_grace(now, &connection),
                Timer::Idle(connection) => self.judge_idle(now, &connection),
                Timer::Forget(connection) => {
                    if self.buried.get(&connection).is_some_and(|(_, until)| *until <= now.at) {
                        self.buried.remove(&connection);
                    }
                }
            }
        }
        if self.peers.digest_at <= now.at {
            self.digest(now);
            self.adapt_pace();
        }
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= now.at);
        if is_due(self.peers.patience_ends()) {
            self.peers.stop_waiting();
        }
        if is_due(self.peers.answer_at) {
            self.answer(now);
        }
        if is_due(self.lists.due()) {
            self.send_lists(now);
        }
        if is_due(self.later.due()) {
            self.tell_later(now);
        }
        if is_due(self.cursors.tell_due()) {
            self.tell_cursors(now);
        }
        if is_due(self.cursors.show_due()) {
            self.show_cursors(now);
        }
        self.effects()
    }

    /// When [`wake`](Self::wake) has something to do, on the clock of [`Moment::at`].
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(due, _)| *due);
        let digest = self.wants_digest().then_some(self.peers.digest_at);
        let ticks = [self.lists.due(), self.later.due(), self.cursors.tell_due(), self.cursors.show_due()];
        [timer, digest, self.peers.answer_at, self.peers.patience_ends()].into_iter().chain(ticks).flatten().min()
    }

    /// Everyone present, in the order of their ids.
    #[must_use]
    pub fn users(&self) -> Vec<UserPresence> {
        let mut users: Vec<_> = self.roster.users().filter_map(|user| self.roster.presence(user)).collect();
        users.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        users
    }

    /// How many are present where.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut total = (BTreeSet::new(), 0, BTreeSet::new());
        let mut nodes: BTreeMap<NodeId, (BTreeSet<&UserId>, usize, BTreeSet<&DocumentId>)> = BTreeMap::new();
        for Entry { record, .. } in self.roster.entries() {
            for tally in [&mut total, nodes.entry(record.version.node.clone()).or_default()] {
                tally.0.insert(&record.user);
                tally.1 += 1;
                tally.2.extend(record.place.as_ref().map(|place| &place.document));
            }
        }
        let count = |(users, connections, documents): &(BTreeSet<_>, usize, BTreeSet<_>)| Count {
            users: users.len(),
            connections: *connections,
            documents: documents.len(),
        };
        Census { total: count(&total), nodes: nodes.iter().map(|(node, tally)| (node.clone(), count(tally))).collect() }
    }

    /// Whether the machine knows what the store and the other nodes knew when the project was opened. Before, a roster would
    /// be too short, or old.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.peers.is_ready()
    }

    /// Whether this node has neither connections nor listeners, so that nobody would miss this machine.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.has_onlookers()
    }

    /// Whether somebody at this node watches without being present.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.peers.watching
    }

    /// Connections this node has, those in their grace included.
    #[must_use]
    pub fn own_connections(&self) -> usize {
        self.roster.own()
    }

    /// Connections that left and are remembered, so that no late word brings them back.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.buried.len()
    }

    /// Time between two cursor frames.
    #[must_use]
    pub fn cursor_interval(&self) -> Duration {
        self.cursors.interval()
    }

    /// Moves that were shown together with a later one of the same person, since this was last asked.
    pub fn take_conflated(&mut self) -> u64 {
        self.cursors.take_conflated()
    }

    /// The seats a frame is for.
    pub fn receivers<'a>(&'a self, to: &'a To) -> Box<dyn Iterator<Item = SeatId> + 'a> {
        match to {
            To::One(seat) => Box::new(std::iter::once(*seat)),
            To::EveryoneBut(but) => Box::new(self.roster.seats().filter(move |seat| Some(*seat) != *but)),
            To::Viewers(document) => Box::new(self.roster.viewers(document)),
        }
    }

    // ---- what every part of the machine does -----------------------------------------------------------------------

    /// Puts an entry in the roster and tells clients what that changed, except `quiet`, who is told otherwise.
    fn put(&mut self, entry: Entry, quiet: Option<SeatId>) {
        let user = entry.record.user.clone();
        let before = self.roster.shown(&user);
        self.hide_cursor(&entry.record.connection, entry.record.place.as_ref());
        self.roster.put(entry);
        self.tell(&user, before, quiet, None);
    }

    /// Takes out of the roster who is known to be gone, so that no late message brings them back.
    fn remove(&mut self, now: Moment, connection: &ConnectionId, last: Version) {
        self.bury(now, connection, last);
        self.take_out(connection);
    }

    /// Takes out of the roster who is thought to be gone, and tells clients what that changed. Whoever has them may
    /// bring them back as they are.
    fn strike(&mut self, connection: &ConnectionId, why: Expiry) {
        self.out.push(Effect::Expired(why));
        self.take_out(connection);
    }

    fn take_out(&mut self, connection: &ConnectionId) {
        let before = self.roster.get(connection).and_then(|entry| self.roster.shown(&entry.record.user));
        self.hide_cursor(connection, None);
        if let Some(entry) = self.roster.remove(connection) {
            self.keep_activity(&entry.record);
            self.tell(&entry.record.user, before, None, Some(&entry.record));
        }
    }

    /// A connection is about to go where it is next, perhaps out of the document its cursor is in.
    fn hide_cursor(&mut self, connection: &ConnectionId, next: Option<&Place>) {
        let Some(place) = self.place_of(connection) else { return };
        let has_cursor = place.position.is_some() || place.viewport.is_some();
        if has_cursor && next.is_none_or(|next| next.document != place.document) {
            let document = place.document.clone();
            self.out.push(Effect::Hide { document, connection: connection.clone() });
        }
    }

    /// When a user was active last stays known though the connection they were active on is gone: their others here have it
    /// from now on, and other nodes hear so.
    fn keep_activity(&mut self, gone: &Record) {
        let is_heir = |entry: &&Entry| entry.hold.is_own() && entry.record.last_active < gone.last_active;
        let heirs = self.roster.of_user(&gone.user).filter(is_heir).map(|entry| entry.record.connection.clone());
        for heir in heirs.collect::<Vec<_>>() {
            if let Some(entry) = self.roster.get_mut(&heir) {
                entry.record.last_active = gone.last_active;
            }
        }
    }

    fn tell(&mut self, user: &UserId, before: Option<Shown>, quiet: Option<SeatId>, last: Option<&Record>) {
        let after = self.roster.shown(user);
        if before == after {
            return;
        }
        match (&before, &after) {
            (Some(before), Some(after)) if quiet.is_none() => self.tell_change(user, before, after),
            _ => self.tell_at_once(user, before.is_some(), after.is_some(), quiet, last),
        }
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let left = before.documents.keys().filter(|document| !after.documents.contains_key(*document));
        let entered = after.documents.keys().filter(|document| !before.documents.contains_key(*document));
        if self.has_onlookers() {
            left.chain(entered).for_each(|document| self.lists.mark(document));
        }
    }

    /// Tells clients that a user came or went, or what does not wait.
    fn tell_at_once(
        &mut self,
        user: &UserId,
        was_here: bool,
        is_here: bool,
        quiet: Option<SeatId>,
        last: Option<&Record>,
    ) {
        self.later.told(user);
        let Some(presence) = self.roster.presence(user).or_else(|| last.map(roster::offline)) else { return };
        let event = match (was_here, is_here) {
            (false, true) => Some(Event::Joined {
                user: user.clone(),
                name: presence.user_name.clone(),
                color: presence.avatar_color.clone(),
            }),
            (true, false) => Some(Event::Left {
                user: user.clone(),
                name: presence.user_name.clone(),
                color: presence.avatar_color.clone(),
            }),
            _ => None,
        };
        self.out.extend(event.map(Effect::Happened));
        self.send(To::EveryoneBut(quiet), &ServerFrame::UserPresence { data: presence });
    }

    /// Changes the record of a connection of this node, and tells clients, nodes and the store.
    fn change(&mut self, connection: &ConnectionId, change: impl FnOnce(&mut Entry)) {
        let Some(mut entry) = self.roster.get(connection).cloned() else { return };
        change(&mut entry);
        entry.record.version = entry.record.version.changed();
        self.put(entry, None);
        self.announce(connection);
    }

    /// Tells nodes and the store about a connection of this node.
    fn announce(&mut self, connection: &ConnectionId) {
        let Some(entry) = self.roster.get_mut(connection) else { return };
        entry.told_moves = entry.record.moves;
        entry.told_active = entry.record.last_active;
        let record = entry.record.clone();
        self.renew_farewells();
        self.out.push(Effect::Store { connection: connection.clone(), record: Box::new(record.clone()) });
        self.publish(Body::Here(Box::new(record)));
    }

    fn publish(&mut self, body: Body) {
        self.stamp += 1;
        self.out.push(Effect::Publish(NodeMessage { from: self.node.clone(), stamp: self.stamp, body }));
    }

    fn send(&mut self, to: To, frame: &ServerFrame) {
        self.out.push(Effect::Send { to, frame: frame.encode() });
    }

    fn send_activity(&mut self, to: To, document: &DocumentId) {
        let frame = self.list(document);
        self.out.push(Effect::Send { to, frame });
    }

    /// The `document_activity` frame of a document.
    fn list(&self, document: &DocumentId) -> Arc<str> {
        ServerFrame::DocumentActivity { data: self.roster.activity(document) }.encode()
    }

    /// Shows these seats the whole picture. What is the same for several is encoded once.
    fn show_everything(&mut self, seats: impl IntoIterator<Item = SeatId>) {
        let shared = [self.bulk(), throttle(self.cursors.interval()).encode()];
        let mut lists: BTreeMap<DocumentId, Arc<str>> = BTreeMap::new();
        for seat in seats {
            let document = self.roster.seated(seat).and_then(|connection| self.document_of(connection));
            let list = document
                .map(|document| Arc::clone(lists.entry(document).or_insert_with_key(|document| self.list(document))));
            let frames = shared.iter().cloned().chain(list).collect();
            self.out.push(Effect::Picture { seat, frames });
        }
    }

    fn reply(&mut self, seat: SeatId, frame: &ServerFrame) {
        self.out.push(Effect::Reply { seat, frame: frame.encode() });
    }

    fn refuse(&mut self, seat: SeatId, code: ErrorCode, message: impl Into<String>) {
        self.reply(seat, &ServerFrame::error(code, message));
    }

    /// Whether anybody at this node is to be shown what happens.
    fn has_onlookers(&self) -> bool {
        self.roster.own() > 0 || self.peers.watching
    }

    fn close(&mut self, seat: SeatId, code: CloseCode, reason: &'static str) {
        self.out.push(Effect::Close { seat, code, reason });
    }

    fn bury(&mut self, now: Moment, connection: &ConnectionId, last: Version) {
        let until = now.at + GONE_FOR;
        let grave = self.buried.entry(connection.clone()).or_insert_with(|| (last.clone(), until));
        *grave = (last.max(grave.0.clone()), until);
        self.timers.insert((until, Timer::Forget(connection.clone())));
    }

    fn adapt_pace(&mut self) {
        if let Some(interval) = self.cursors.adapt(self.roster.people_in_the_fullest()) {
            self.send(To::EveryoneBut(None), &throttle(interval));
        }
    }

    fn bulk(&mut self) -> Arc<str> {
        self.roster.bulk()
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    fn judge_idle(&mut self, now: Moment, connection: &ConnectionId) {
        let idle_after = self.settings.idle_after;
        let Some(entry) = self.roster.get_mut(connection) else { return };
        if !matches!(entry.hold, Hold::Seated(_)) || entry.record.chosen || entry.record.status != Status::Active {
            entry.idle_armed = false;
        } else if entry.active_at + idle_after > now.at {
            self.timers.insert((entry.active_at + idle_after, Timer::Idle(connection.clone())));
        } else {
            self.change(connection, |entry| {
                entry.idle_armed = false;
                entry.record.status = Status::Idle;
            });
        }
    }

    fn end_grace(&mut self, now: Moment, connection: &ConnectionId) {
        let Some(entry) = self.roster.get(connection) else { return };
        match entry.hold {
            Hold::Grace { until } if until <= now.at => {
                self.out.push(Effect::Expired(Expiry::Grace));
                self.let_go(now, connection);
            }
            // Whoever has them now may still say so.
            Hold::Orphan { until } if until <= now.at => self.strike(connection, Expiry::Grace),
            _ => {}
        }
    }

    /// Ends a connection of this node for good.
    fn let_go(&mut self, now: Moment, connection: &ConnectionId) {
        let Some(entry) = self.roster.get(connection) else { return };
        let version = entry.record.version.changed();
        self.remove(now, connection, version.clone());
        if !self.departed {
            self.out.push(Effect::Forget { node: self.node.clone(), connection: connection.clone() });
            self.publish(Body::Left { connection: connection.clone(), version });
        }
    }
}
