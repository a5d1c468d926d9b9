//! Everyone who is present, by connection; and the same seen by user, by document and by seat.
//!
//! Only values: what a change means is decided by the machine around it. All orders are fixed, so that equal inputs give
//! equal frames.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use mille_shared::presence::record::{Place, Record};
use mille_shared::presence::server::{self, DocumentActivity, DocumentUser};
use mille_shared::presence::{DocumentId, DocumentPresence, DocumentType, Status, UserPresence};
use mille_shared::{ConnectionId, Timestamp, UserId};

use super::effects::SeatId;

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What is known of it.
    pub(super) record: Record,
    /// What holds it in the roster.
    pub(super) hold: Hold,
    /// Stamp of the newest message that told of it, if another node has it.
    pub(super) stamp: u64,
    /// Its moves as last told to other nodes, if this node has it.
    pub(super) told_moves: u64,
    /// Its last activity, if this node has it.
    pub(super) active_at: Duration,
    /// When that was, as last told to other nodes.
    pub(super) told_active: Timestamp,
    /// Whether a timer looks after its idleness.
    pub(super) idle_armed: bool,
}

/// What holds a connection in the roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// A seat of this node.
    Seated(SeatId),
    /// The grace, on this node.
    Grace {
        /// When it ends.
        until: Duration,
    },
    /// Another node.
    Elsewhere,
    /// The grace of a connection whose node said that it goes.
    Orphan {
        /// When it ends.
        until: Duration,
    },
}

impl Hold {
    pub(super) fn is_own(self) -> bool {
        matches!(self, Self::Seated(_) | Self::Grace { .. })
    }
}

/// What of a user others are told about as it changes. Positions and times are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shown {
    pub(super) name: Arc<str>,
    pub(super) color: Arc<str>,
    pub(super) is_agent: bool,
    pub(super) status: Option<Status>,
    pub(super) documents: BTreeMap<DocumentId, DocumentType>,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    entries: IndexMap<ConnectionId, Entry>,
    users: IndexMap<UserId, User>,
    documents: IndexMap<DocumentId, BTreeSet<ConnectionId>>,
    seats: BTreeMap<SeatId, ConnectionId>,
    own: usize,
}

#[derive(Debug, Default)]
struct User {
    connections: BTreeSet<ConnectionId>,
    /// The encoded presence, until something changes it.
    text: Option<Arc<str>>,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many connections this node has.
    pub(super) fn own(&self) -> usize {
        self.own
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn get(&self, connection: &ConnectionId) -> Option<&Entry> {
        self.entries.get(connection)
    }

    /// An entry, to change what is in no index: times, positions, counters. Its user is encoded anew.
    pub(super) fn get_mut(&mut self, connection: &ConnectionId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(connection)?;
        if let Some(user) = self.users.get_mut(&entry.record.user) {
            user.text = None;
        }
        Some(entry)
    }

    pub(super) fn seated(&self, seat: SeatId) -> Option<&ConnectionId> {
        self.seats.get(&seat)
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = SeatId> {
        self.seats.keys().copied()
    }

    pub(super) fn seated_count(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn users(&self) -> impl Iterator<Item = &UserId> {
        self.users.keys()
    }

    pub(super) fn of_user(&self, user: &UserId) -> impl Iterator<Item = &Entry> {
        self.users.get(user).into_iter().flat_map(|user| &user.connections).filter_map(|id| self.entries.get(id))
    }

    pub(super) fn in_document(&self, document: &DocumentId) -> impl Iterator<Item = &Entry> {
        self.documents.get(document).into_iter().flatten().filter_map(|id| self.entries.get(id))
    }

    pub(super) fn viewers(&self, document: &DocumentId) -> impl Iterator<Item = SeatId> {
        self.in_document(document).filter_map(|entry| match entry.hold {
            Hold::Seated(seat) => Some(seat),
            _ => None,
        })
    }

    pub(super) fn documents(&self) -> usize {
        self.documents.len()
    }

    /// Connections in a document, here and elsewhere.
    pub(super) fn people_in(&self, document: &DocumentId) -> usize {
        self.documents.get(document).map_or(0, BTreeSet::len)
    }

    /// Connections in the document that has the most.
    pub(super) fn people_in_the_fullest(&self) -> usize {
        self.documents.values().map(BTreeSet::len).max().unwrap_or_default()
    }

    /// The place of who opened a document that somebody is in: it says the document's type.
    pub(super) fn opening(&self, document: &DocumentId) -> Option<&Place> {
        let first = self.in_document(document).min_by_key(|entry| order_of_opening(&entry.record))?;
        first.record.place.as_ref()
    }

    pub(super) fn put(&mut self, entry: Entry) {
        let connection = entry.record.connection.clone();
        self.unlink(&connection);
        if let Some(place) = &entry.record.place {
            self.documents.entry(place.document.clone()).or_default().insert(connection.clone());
        }
        if let Hold::Seated(seat) = entry.hold {
            self.seats.insert(seat, connection.clone());
        }
        self.own += usize::from(entry.hold.is_own());
        let user = self.users.entry(entry.record.user.clone()).or_default();
        user.connections.insert(connection.clone());
        user.text = None;
        self.entries.insert(connection, entry);
    }

    pub(super) fn remove(&mut self, connection: &ConnectionId) -> Option<Entry> {
        self.unlink(connection);
        let entry = self.entries.swap_remove(connection)?;
        if let Some(user) = self.users.get_mut(&entry.record.user) {
            user.connections.remove(connection);
            user.text = None;
            if user.connections.is_empty() {
                self.users.swap_remove(&entry.record.user);
            }
        }
        Some(entry)
    }

    /// Takes an entry out of the indexes that a changed entry may not be in again.
    fn unlink(&mut self, connection: &ConnectionId) {
        let Some(entry) = self.entries.get(connection) else { return };
        if let Some(place) = &entry.record.place
            && let Some(people) = self.documents.get_mut(&place.document)
        {
            people.remove(connection);
            if people.is_empty() {
                self.documents.swap_remove(&place.document);
            }
        }
        if let Hold::Seated(seat) = entry.hold {
            self.seats.remove(&seat);
        }
        self.own -= usize::from(entry.hold.is_own());
    }

    // ---- users as clients see them ---------------------------------------------------------------------------------

    pub(super) fn shown(&self, user: &UserId) -> Option<Shown> {
        let status = self.of_user(user).map(|entry| entry.record.status).min()?;
        let newest = self.newest(user)?;
        Some(Shown {
            name: newest.name.clone(),
            color: newest.color.clone(),
            is_agent: newest.agent,
            status: Some(status),
            documents: self.documents_of(user),
        })
    }

    pub(super) fn presence(&self, user: &UserId) -> Option<UserPresence> {
        let newest = self.newest(user)?;
        let mut presence = online(newest);
        let mut acted: BTreeMap<&DocumentId, &Record> = BTreeMap::new();
        presence.connections = 0;
        for Entry { record, .. } in self.of_user(user) {
            presence.connections += 1;
            presence.status = presence.status.min(record.status);
            presence.last_active = presence.last_active.max(record.last_active);
            if let Some(place) = &record.place {
                let last = acted.entry(&place.document).or_insert(record);
                if order_in_document(record) > order_in_document(last) {
                    *last = record;
                }
            }
        }
        let kinds = self.documents_of(user);
        let places = acted.into_values().filter_map(|record| record.place.as_ref());
        let places = places.map(|place| {
            let kind = kinds.get(&place.document).copied().unwrap_or(place.kind);
            (place.document.clone(), in_document(place, kind))
        });
        presence.documents = places.collect();
        Some(presence)
    }

    /// The documents a user is in, as their first connection there opened them. Two tabs at two nodes may have opened one
    /// as two types, until one of them has lost.
    fn documents_of(&self, user: &UserId) -> BTreeMap<DocumentId, DocumentType> {
        let mut first: BTreeMap<&DocumentId, &Record> = BTreeMap::new();
        for Entry { record, .. } in self.of_user(user) {
            if let Some(place) = &record.place {
                let known = first.entry(&place.document).or_insert(record);
                if order_of_opening(record) < order_of_opening(known) {
                    *known = record;
                }
            }
        }
        let places = first.into_values().filter_map(|record| record.place.as_ref());
        places.map(|place| (place.document.clone(), place.kind)).collect()
    }

    /// Everyone in a document, in the order of their ids.
    pub(super) fn activity(&self, document: &DocumentId) -> DocumentActivity {
        let mut acted: BTreeMap<&UserId, &Record> = BTreeMap::new();
        for Entry { record, .. } in self.in_document(document) {
            let last = acted.entry(&record.user).or_insert(record);
            if order_in_document(record) > order_in_document(last) {
                *last = record;
            }
        }
        let user = |record: &&Record| {
            let newest = self.newest(&record.user).unwrap_or(record);
            DocumentUser {
                user_id: record.user.clone(),
                user_name: newest.name.clone(),
                avatar_color: newest.color.clone(),
                is_agent: newest.agent,
                position: record.place.as_ref().and_then(|place| place.position.clone()),
                selected_node_id: record.place.as_ref().and_then(|place| place.selected.clone()),
            }
        };
        DocumentActivity { document_id: document.clone(), active_users: acted.values().map(user).collect() }
    }

    /// The `bulk_presence` frame of everyone. Users who have not changed since the last one are not encoded again.
    pub(super) fn bulk(&mut self) -> Arc<str> {
        let stale: Vec<UserId> =
            self.users.iter().filter(|(_, user)| user.text.is_none()).map(|(id, _)| id.clone()).collect();
        for id in stale {
            let text = self.presence(&id).map(|presence| server::to_text(&presence));
            if let Some(user) = self.users.get_mut(&id) {
                user.text = text;
            }
        }
        server::bulk_presence(self.users.values().filter_map(|user| user.text.as_deref()))
    }

    /// The connection that says what a user is called: the one that joined last.
    fn newest(&self, user: &UserId) -> Option<&Record> {
        let records = self.of_user(user).map(|entry| &entry.record);
        records.max_by(|a, b| (a.joined, &a.connection).cmp(&(b.joined, &b.connection)))
    }
}

/// The presence of a user whose last connection is gone.
pub(super) fn offline(last: &Record) -> UserPresence {
    UserPresence { is_online: false, status: Status::Away, connections: 0, ..online(last) }
}

fn online(record: &Record) -> UserPresence {
    UserPresence {
        user_id: record.user.clone(),
        user_name: record.name.clone(),
        avatar_color: record.color.clone(),
        is_online: true,
        is_agent: record.agent,
        status: record.status,
        last_active: record.last_active,
        connections: 1,
        documents: BTreeMap::new(),
    }
}

fn in_document(place: &Place, kind: DocumentType) -> DocumentPresence {
    DocumentPresence {
        document_type: kind,
        position: place.position.clone(),
        selected_node_id: place.selected.clone(),
        last_active_in_document: place.last_active,
        viewport: place.viewport,
    }
}

/// Of a user's several connections in one document, the one that acted last says where they are.
fn order_in_document(record: &Record) -> (Option<Timestamp>, &ConnectionId) {
    (record.place.as_ref().map(|place| place.last_active), &record.connection)
}

/// Of several who opened one document as several types, the first who said a type says what it is; without any, the first.
fn order_of_opening(record: &Record) -> (Option<(bool, Timestamp)>, &ConnectionId) {
    let key = |place: &Place| (place.said_at.is_none(), place.said_at.unwrap_or(place.entered));
    (record.place.as_ref().map(key), &record.connection)
}
