//! What other nodes say, what the store says, and how a lost word of either is made good.
//!
//! Every node says now and then how many connections it has, with sums over them ([`super::digest`]). Who counts otherwise
//! asks it for everyone. A node whose people are here but that says nothing is looked up in the store, where
//! its table ends with its life.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use indexmap::IndexMap;
use mille_shared::presence::{Body, CursorMove, DocumentId, NodeMessage, Place, Record, Version};
use mille_shared::{CloseCode, ConnectionId, ErrorCode, NodeId};

use super::effects::{Effect, Expiry, Moment};
use super::roster::{Entry, Hold};
use super::{Presence, Timer};

/// Digests that a node sends after its last connection left, in case that leave was lost.
pub(super) const FAREWELLS: u8 = 3;
/// Digests of a node that may be missed before the store is asked whether it lives.
const SILENT_DIGESTS: u32 = 3;

/// How long the first who ask for the roster wait for what other nodes know. A little more than [`Presence::answer`] may
/// put an answer off.
const ANSWERS_WITHIN: Duration = Duration::from_millis(400);

/// What is known of the other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) known: IndexMap<NodeId, Peer>,
    /// Nodes that are gone, and until when whatever still comes from them is not believed.
    pub(super) gone: BTreeMap<NodeId, Duration>,
    /// A load under way: since when, and who told everything meanwhile and so knows better than the store.
    pub(super) loading: Option<(Duration, BTreeSet<NodeId>)>,
    ready: bool,
    /// Nodes that were asked for everyone because somebody here is about to look, and until when they are waited for: what
    /// they have is newer, above all where people are and when they last did something.
    unheard: Option<(Duration, BTreeSet<NodeId>)>,
    /// When messages may last have been lost.
    interrupted_at: Duration,
    /// Whether another load is due with the next digest: the last one failed, or came too early to judge by.
    pub(super) reload: bool,
    /// Whether the last load failed.
    load_failed: bool,
    /// When a full answer was last given, and when the next is due to somebody who asked since.
    answered_at: Option<Duration>,
    pub(super) answer_at: Option<Duration>,
    /// Somebody asked before the store was read.
    asked_early: bool,
    pub(super) farewells: u8,
    pub(super) digest_at: Duration,
    /// Whether somebody at this node watches without being present.
    pub(super) watching: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    stamp: u64,
    /// Its stamp when it said that it goes. What it said before counts no more; what it says after, it says anew.
    departed_at: u64,
    pub(super) heard_at: Duration,
    watching: bool,
}

impl Peers {
    pub(super) fn new(digest_at: Duration) -> Self {
        Self {
            known: IndexMap::new(),
            gone: BTreeMap::new(),
            loading: None,
            ready: false,
            unheard: None,
            interrupted_at: Duration::ZERO,
            reload: false,
            load_failed: false,
            answered_at: None,
            answer_at: None,
            asked_early: false,
            farewells: 0,
            digest_at,
            watching: false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.unheard.is_none()
    }

    /// When nodes that do not answer are waited for no longer.
    pub(super) fn patience_ends(&self) -> Option<Duration> {
        self.unheard.as_ref().map(|(until, _)| *until)
    }

    pub(super) fn stop_waiting(&mut self) {
        self.unheard = None;
    }

    /// What the machine's next life may go on with: whatever was under way is asked for again.
    pub(super) fn carried(&self) -> Self {
        Self {
            known: self.known.clone(),
            gone: self.gone.clone(),
            loading: None,
            ready: self.ready,
            unheard: self.unheard.clone(),
            interrupted_at: self.interrupted_at,
            reload: self.reload || self.loading.is_some(),
            load_failed: self.load_failed,
            answered_at: None,
            answer_at: self.answer_at,
            asked_early: self.asked_early,
            farewells: FAREWELLS,
            digest_at: self.digest_at,
            watching: self.watching,
        }
    }
}

impl Presence {
    /// A message of another node. Our own and those of the dead are not heard.
    pub fn heard(&mut self, now: Moment, message: NodeMessage) -> Vec<Effect> {
        let NodeMessage { from, stamp, body } = message;
        if from == self.node || self.is_gone(now, &from) {
            return Vec::new();
        }
        let was_alone = !self.somebody_elsewhere(now);
        let peer = self.peers.known.entry(from.clone()).or_insert(Peer {
            stamp: 0,
            departed_at: 0,
            heard_at: now.at,
            watching: false,
        });
        if stamp <= peer.departed_at {
            return Vec::new();
        }
        let is_newest = stamp > peer.stamp;
        peer.stamp = peer.stamp.max(stamp);
        peer.heard_at = now.at;
        match body {
            Body::Here(record) if record.version.node == from => {
                let entered = self.merge(now, *record, stamp);
                entered.iter().for_each(|document| self.settle_type(now, document));
            }
            Body::Left { connection, version } if version.node == from => self.hear_left(now, &connection, version),
            Body::Cursors { moves } => moves.into_iter().for_each(|moved| self.hear_move(now, &from, moved)),
            Body::Digest { connections, sum, watching, active, acted } => {
                if is_newest {
                    peer.watching = watching;
                }
                acted.into_iter().for_each(|acted| self.hear_acted(&from, &acted));
                if is_newest && !self.sums_of(&from).are(connections, sum, active) {
                    self.publish(Body::Ask { node: from });
                }
            }
            Body::Ask { node } if node == self.node => self.answer(now),
            Body::Everyone(records) => self.hear_everyone(now, &from, records, stamp),
            Body::Departing => self.hear_departing(now, &from, stamp),
            Body::Here(_) | Body::Left { .. } | Body::Ask { .. } => {}
        }
        if was_alone && self.somebody_elsewhere(now) {
            self.tell_untold_moves();
        }
        self.effects()
    }

    /// What the store has: all tables of the project, or `None` when it can't be read. Records of this node that are not
    /// known here are those of its actor's earlier life; they get the grace. Those that are known here and not there were
    /// lost with the store, or with a table that ended while it could not be renewed, and are put there again.
    pub fn loaded(&mut self, now: Moment, tables: Option<Vec<(NodeId, Vec<Record>)>>) -> Vec<Effect> {
        let (since, told) = self.peers.loading.take().unwrap_or_default();
        let is_first = !std::mem::replace(&mut self.peers.ready, true);
        self.peers.reload = tables.is_none();
        let was_failing = std::mem::replace(&mut self.peers.load_failed, tables.is_none());
        let Some(tables) = tables else { return Vec::new() };
        if was_failing {
            // The store is back, and the word that it was gone may still be under way.
            self.peers.interrupted_at = now.at;
        }
        let (mut owners, mut entered, mut asked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut stored = BTreeSet::new();
        for (node, records) in tables {
            owners.insert(node.clone());
            if node == self.node {
                stored.extend(records.iter().map(|record| record.connection.clone()));
                records.into_iter().for_each(|record| self.adopt(now, record));
            } else if !told.contains(&node) && !self.is_gone(now, &node) {
                let theirs = records.into_iter().filter(|record| record.version.node == node);
                entered.extend(theirs.filter_map(|record| self.merge(now, record, 0)));
                // Positions in the store are those of the last other change; the node itself knows better.
                self.publish(Body::Ask { node: node.clone() });
                asked.insert(node);
            }
        }
        if !self.departed {
            self.store_own(|record| !stored.contains(&record.connection));
        }
        if is_first && !asked.is_empty() {
            self.peers.unheard = Some((now.at + ANSWERS_WITHIN, asked));
        }
        let heard = |peers: &Peers, node: &NodeId| peers.known.get(node).is_some_and(|peer| peer.heard_at >= since);
        // After an outage of the store, tables may have ended that their nodes could not renew: they get the time to.
        let is_early = self.peers.interrupted_at + self.silence() > now.at;
        for node in self.owners_elsewhere() {
            if !owners.contains(&node) && !heard(&self.peers, &node) {
                if is_early {
                    self.peers.reload = true;
                } else {
                    self.drop_node(&node);
                }
            }
        }
        entered.iter().for_each(|document| self.settle_type(now, document));
        if std::mem::take(&mut self.peers.asked_early) {
            self.answer(now);
        }
        self.effects()
    }

    /// Somebody here is about to look at everyone. Of nodes without onlookers others tell no moves, so what such a node
    /// knows may be as old as its last onlooker: it asks those who have people, and is [ready](Self::is_ready) when they have
    /// answered, or soon anyhow.
    pub fn look(&mut self, now: Moment) -> Vec<Effect> {
        let owners = self.owners_elsewhere();
        if !self.has_onlookers() && self.peers.is_ready() && !owners.is_empty() {
            for node in &owners {
                self.publish(Body::Ask { node: node.clone() });
            }
            self.peers.unheard = Some((now.at + ANSWERS_WITHIN, owners));
        }
        self.effects()
    }

    /// Messages may have been lost: the store is read again.
    pub fn interrupted(&mut self, now: Moment) -> Vec<Effect> {
        self.peers.interrupted_at = now.at;
        self.load(now);
        self.effects()
    }

    /// Nodes whose lease ended. Their people are gone, except those a departing node handed over.
    pub fn nodes_gone(&mut self, now: Moment, nodes: &[NodeId]) -> Vec<Effect> {
        for node in nodes {
            if *node == self.node {
                continue;
            }
            self.peers.gone.insert(node.clone(), now.at + self.settings.grace);
            self.drop_node(node);
            self.peers.known.swap_remove(node);
        }
        self.effects()
    }

    /// Nodes that were on their way out when their lease ended. Their people keep their places for the grace, as they do if
    /// the node's own word that it goes arrives.
    pub fn nodes_departed(&mut self, now: Moment, nodes: &[NodeId]) -> Vec<Effect> {
        nodes.iter().for_each(|node| self.hand_over(now, node, u64::MAX));
        self.nodes_gone(now, nodes)
    }

    /// Whether somebody at this node watches the project without being present; then others send their cursors here too.
    pub fn set_watching(&mut self, now: Moment, watching: bool) -> Vec<Effect> {
        if self.peers.watching != watching {
            self.peers.watching = watching;
            self.renew_farewells();
            self.digest(now);
        }
        self.effects()
    }

    /// This node, or the project on it, stops. Its sockets are closed with the hint to come back; others keep its people
    /// for the grace.
    pub fn depart(&mut self) -> Vec<Effect> {
        if !self.departed {
            self.departed = true;
            if self.roster.own() > 0 {
                self.publish(Body::Departing);
            }
            let seats: Vec<_> = self.roster.seats().collect();
            for seat in seats {
                self.close(seat, CloseCode::ServiceRestart, "drain");
            }
        }
        self.effects()
    }

    /// Everyone this node has, to be stored again when the store lost its table.
    pub fn store_all(&mut self) -> Vec<Effect> {
        self.store_own(|_| true);
        self.effects()
    }

    /// Nodes that are back although their lease had ended: they were not dead but stopped, or cut off. They are believed
    /// again.
    pub fn nodes_back(&mut self, nodes: &[NodeId]) {
        self.peers.gone.retain(|node, _| !nodes.contains(node));
    }

    // ---- used by the rest of the machine ---------------------------------------------------------------------------

    /// How long a node may say nothing before the store is asked whether it lives.
    pub(super) fn silence(&self) -> Duration {
        self.settings.digest_interval * SILENT_DIGESTS
    }

    pub(super) fn load(&mut self, now: Moment) {
        // A load under way may be older than what was lost, so another one is asked for all the same.
        self.peers.loading = Some((now.at, BTreeSet::new()));
        self.out.push(Effect::Load);
    }

    /// Something of ours changed: others are to be sure of it, also if it was the last.
    pub(super) fn renew_farewells(&mut self) {
        self.peers.farewells = FAREWELLS;
    }

    pub(super) fn somebody_elsewhere(&self, now: Moment) -> bool {
        let silence = self.silence();
        self.roster.len() > self.roster.own()
            || self.peers.known.values().any(|peer| peer.watching && peer.heard_at + silence >= now.at)
    }

    fn store_own(&mut self, is_meant: impl Fn(&Record) -> bool) {
        let own = self.roster.entries().filter(|entry| entry.hold.is_own() && is_meant(&entry.record));
        let store = |entry: &Entry| Effect::Store {
            connection: entry.record.connection.clone(),
            record: Box::new(entry.record.clone()),
        };
        self.out.extend(own.map(store));
    }

    // ---- the single words ------------------------------------------------------------------------------------------

    fn is_gone(&self, now: Moment, node: &NodeId) -> bool {
        self.peers.gone.get(node).is_some_and(|until| *until > now.at)
    }

    /// Takes another node's record unless what we have is newer, or it is of somebody who left. Answers the document they
    /// are in, if it was taken.
    fn merge(&mut self, now: Moment, mut record: Record, stamp: u64) -> Option<DocumentId> {
        let connection = record.connection.clone();
        let grave = self.buried.get(&connection).map(|(last, _)| last.clone());
        if let Some(last) = grave.filter(|last| record.version <= *last) {
            // They left here, and were let in again by a node that has not heard of it: it must. If they left at a node that
            // is dead, nobody can tell it any more, and they are where they are.
            if last.node == self.node && record.version.node != self.node {
                self.publish(Body::Left { connection: connection.clone(), version: last.clone() });
            }
            if last.node == record.version.node || !self.is_gone(now, &last.node) {
                return None;
            }
            self.buried.remove(&connection);
        }
        let mut moved = record.place.as_ref().is_some_and(|place| place.position.is_some());
        if let Some(entry) = self.roster.get_mut(&connection) {
            let known = &entry.record;
            if known.user != record.user || known.version > record.version {
                return None;
            }
            // Stamps of different nodes can't be compared.
            entry.stamp = if known.version.node == record.version.node { entry.stamp.max(stamp) } else { stamp };
            if known.version == record.version && known.moves >= record.moves {
                // The same as far as it is counted; when they last did something is not.
                let known = &mut entry.record;
                known.last_active = known.last_active.max(record.last_active);
                return None;
            }
            let known = entry.record.clone();
            let same_hand =
                known.version.node == record.version.node && known.version.generation == record.version.generation;
            if same_hand {
                record.last_active = record.last_active.max(known.last_active);
            }
            if same_hand && known.moves > record.moves {
                // A move in another document is not one in this: with its number alone, nobody would miss its place.
                if let (Some(new), Some(old)) = (&mut record.place, known.place.clone())
                    && new.document == old.document
                {
                    record.moves = known.moves;
                    (new.position, new.selected) = (old.position, old.selected);
                    (new.viewport, new.moved_at_ms) = (old.viewport, old.moved_at_ms);
                    new.last_active = new.last_active.max(old.last_active);
                }
            }
            moved = moved && record.place.as_ref().map(|p| &p.position) != known.place.as_ref().map(|p| &p.position);
            let (hold, stamp) = (entry.hold, entry.stamp);
            if let Hold::Seated(seat) = hold {
                self.close(seat, CloseCode::Normal, "resumed elsewhere");
            }
            if hold.is_own() {
                self.out.push(Effect::Forget { node: self.node.clone(), connection: connection.clone() });
            }
            self.put(elsewhere(record, stamp), None);
        } else {
            self.put(elsewhere(record, stamp), None);
        }
        let place = self.roster.get(&connection)?.record.place.as_ref()?;
        let document = place.document.clone();
        if moved && self.has_onlookers() {
            self.cursors.mark(now, &document, &connection);
        }
        Some(document)
    }

    /// Two nodes may have let people into one document as two types at once. The first who said one keeps it; ours who said
    /// another leave, and those who said none go with it.
    pub(super) fn settle_type(&mut self, now: Moment, document: &DocumentId) {
        let Some((kind, said_at)) = self.roster.opening(document).map(|opened| (opened.kind, opened.said_at)) else {
            return;
        };
        let is_settled = |place: &&Place| place.kind == kind && (place.said_at.is_some() || said_at.is_none());
        let ours = self.roster.in_document(document).filter(|entry| entry.hold.is_own());
        let others = ours.filter_map(|entry| {
            let place = entry.record.place.as_ref().filter(|place| !is_settled(place))?;
            Some((entry.record.connection.clone(), entry.hold, place.said_at.is_some()))
        });
        for (connection, hold, has_said) in others.collect::<Vec<_>>() {
            self.change(&connection, |entry| match &mut entry.record.place {
                Some(place) if !has_said => place.become_of(kind, said_at),
                place => {
                    *place = None;
                    entry.record.last_active = entry.record.last_active.max(now.wall);
                }
            });
            if let Hold::Seated(seat) = hold
                && has_said
            {
                let message = format!("the document {document} was opened as {kind} by somebody else first");
                self.refuse(seat, ErrorCode::DocumentTypeMismatch, message);
            }
        }
    }

    fn hear_left(&mut self, now: Moment, connection: &ConnectionId, version: Version) {
        match self.roster.get(connection).map(|entry| (&entry.record.version, entry.hold)) {
            Some((known, _)) if *known > version => {}
            Some((_, hold)) => {
                if let Hold::Seated(seat) = hold {
                    self.close(seat, CloseCode::Normal, "left elsewhere");
                }
                if hold.is_own() {
                    self.out.push(Effect::Forget { node: self.node.clone(), connection: connection.clone() });
                }
                self.remove(now, connection, version);
            }
            None => self.bury(now, connection, version),
        }
    }

    fn hear_move(&mut self, now: Moment, from: &NodeId, moved: CursorMove) {
        let Some(entry) = self.roster.get_mut(&moved.connection) else { return };
        let record = &mut entry.record;
        let is_current = record.version.node == *from && record.version.generation == moved.generation;
        if !is_current || moved.moves <= record.moves {
            return;
        }
        let Some(place) = record.place.as_mut().filter(|place| place.document == moved.document) else { return };
        place.position = moved.position;
        place.selected = moved.selected;
        place.viewport = moved.viewport;
        place.moved_at_ms = moved.moved_at_ms;
        place.last_active = place.last_active.max(moved.at);
        record.moves = moved.moves;
        record.last_active = record.last_active.max(moved.at);
        if self.has_onlookers() {
            self.cursors.mark(now, &moved.document, &moved.connection);
        }
    }

    fn hear_everyone(&mut self, now: Moment, from: &NodeId, records: Vec<Record>, stamp: u64) {
        if let Some((_, told)) = &mut self.peers.loading {
            told.insert(from.clone());
        }
        self.peers.unheard.take_if(|(_, nodes)| {
            nodes.remove(from);
            nodes.is_empty()
        });
        let listed: BTreeSet<ConnectionId> = records.iter().map(|record| record.connection.clone()).collect();
        let theirs = records.into_iter().filter(|record| record.version.node == *from);
        let entered: BTreeSet<_> = theirs.filter_map(|record| self.merge(now, record, stamp)).collect();
        entered.iter().for_each(|document| self.settle_type(now, document));
        let missing = |entry: &&Entry| {
            let record = &entry.record;
            record.version.node == *from && entry.stamp < stamp && !listed.contains(&record.connection)
        };
        let missing: Vec<_> =
            self.roster.entries().filter(missing).map(|entry| entry.record.connection.clone()).collect();
        missing.iter().for_each(|connection| self.strike(connection, Expiry::Missed));
    }

    fn hear_departing(&mut self, now: Moment, from: &NodeId, stamp: u64) {
        // Who was told of later is back already, on the node's next life in the project.
        self.hand_over(now, from, stamp);
        if let Some(peer) = self.peers.known.get_mut(from) {
            (peer.departed_at, peer.watching) = (peer.departed_at.max(stamp), false);
        }
    }

    /// Whoever a node told of before this stamp has the grace to come back elsewhere.
    fn hand_over(&mut self, now: Moment, node: &NodeId, before: u64) {
        let until = now.at + self.settings.grace;
        let theirs = self.roster.entries().filter(|entry| {
            entry.record.version.node == *node && entry.hold == Hold::Elsewhere && entry.stamp < before
        });
        let theirs: Vec<_> = theirs.map(|entry| entry.record.connection.clone()).collect();
        for connection in theirs {
            if let Some(entry) = self.roster.get_mut(&connection) {
                entry.hold = Hold::Orphan { until };
                self.timers.insert((until, Timer::Grace(connection)));
            }
        }
    }

    pub(super) fn answer(&mut self, now: Moment) {
        if self.departed {
            self.peers.answer_at = None;
            return;
        }
        if !self.peers.ready {
            // What the table has may be missing here.
            self.peers.asked_early = true;
            return;
        }
        // Many ask at once after an interruption; one answer is for all who ask until then.
        let next = self.peers.answered_at.map(|at| at + self.settings.digest_interval / 10);
        if let Some(next) = next.filter(|next| *next > now.at) {
            self.peers.answer_at = Some(next);
            return;
        }
        (self.peers.answered_at, self.peers.answer_at) = (Some(now.at), None);
        let own: Vec<_> =
            self.roster.entries().filter(|entry| entry.hold.is_own()).map(|entry| entry.record.clone()).collect();
        for record in &own {
            if let Some(entry) = self.roster.get_mut(&record.connection) {
                (entry.told_moves, entry.told_active) = (record.moves, record.last_active);
            }
        }
        self.publish(Body::Everyone(own));
    }

    fn adopt(&mut self, now: Moment, record: Record) {
        let connection = record.connection.clone();
        if self.roster.get(&connection).is_some_and(|known| known.hold.is_own()) {
            return;
        }
        let is_over = self.buried.get(&connection).is_some_and(|(last, _)| record.version <= *last);
        if is_over || record.version.node != self.node || self.roster.get(&connection).is_some() {
            // They left, or are at another node, and the table was not told.
            self.out.push(Effect::Forget { node: self.node.clone(), connection });
            return;
        }
        let until = now.at + self.settings.grace;
        let (told_moves, told_active) = (record.moves, record.last_active);
        let hold = Hold::Grace { until };
        let entry = Entry { record, hold, stamp: 0, told_moves, told_active, active_at: now.at, idle_armed: false };
        self.put(entry, None);
        self.timers.insert((until, Timer::Grace(connection)));
    }

    fn drop_node(&mut self, node: &NodeId) {
        let theirs =
            self.roster.entries().filter(|entry| entry.record.version.node == *node && entry.hold == Hold::Elsewhere);
        let theirs: Vec<_> = theirs.map(|entry| entry.record.connection.clone()).collect();
        theirs.iter().for_each(|connection| self.strike(connection, Expiry::NodeGone));
    }

    pub(super) fn owners_elsewhere(&self) -> BTreeSet<NodeId> {
        let elsewhere = self.roster.entries().filter(|entry| entry.hold == Hold::Elsewhere);
        elsewhere.map(|entry| entry.record.version.node.clone()).collect()
    }
}

fn elsewhere(record: Record, stamp: u64) -> Entry {
    let (told_moves, told_active) = (record.moves, record.last_active);
    let hold = Hold::Elsewhere;
    Entry { record, hold, stamp, told_moves, told_active, active_at: Duration::ZERO, idle_armed: false }
}
