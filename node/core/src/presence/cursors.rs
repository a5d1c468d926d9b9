//! Cursors: the newest place of everyone who moved, once per tick.
//!
//! A move is one table look-up. At the tick there is one frame per document for all its viewers here, and one message
//! for all other nodes, if any of them has people. The first move after a silence goes out at once. The tick widens with
//! the room, so that the cost grows with frames and not with people times people.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use mille_shared::presence::client::CursorUpdate;
use mille_shared::presence::server::{self, Cursor};
use mille_shared::presence::{Body, CursorMove, DocumentId, Viewport};
use mille_shared::{ConnectionId, ErrorCode};

use super::Presence;
use super::effects::{CursorFrame, Effect, Event, Moment, SeatId};

/// The tick is never wider, whatever the room.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Who moved since the last tick, and when the next one is.
#[derive(Debug)]
pub(super) struct Cursors {
    dirty: IndexMap<DocumentId, BTreeSet<ConnectionId>>,
    narrowest: Duration,
    interval: Duration,
    next: Duration,
}

impl Cursors {
    pub(super) fn new(interval: Duration) -> Self {
        Self { dirty: IndexMap::new(), narrowest: interval, interval, next: Duration::ZERO }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn due(&self) -> Option<Duration> {
        (!self.dirty.is_empty()).then_some(self.next)
    }

    pub(super) fn mark(&mut self, document: &DocumentId, connection: &ConnectionId) {
        match self.dirty.get_mut(document) {
            Some(moved) => drop(moved.insert(connection.clone())),
            None => drop(self.dirty.insert(document.clone(), BTreeSet::from([connection.clone()]))),
        }
    }

    /// Fits the tick to a room of so many. Answers the new interval if it is another.
    pub(super) fn adapt(&mut self, people: usize) -> Option<Duration> {
        let factor = match people {
            0..=100 => 1,
            101..=400 => 2,
            401..=1_500 => 3,
            _ => 6,
        };
        let interval = (self.narrowest * factor).min(INTERVAL_MAX.max(self.narrowest));
        (interval != self.interval).then(|| {
            self.interval = interval;
            interval
        })
    }
}

impl Presence {
    /// Somebody moved the cursor. In another document than theirs, they open it first.
    pub fn move_cursor(&mut self, now: Moment, seat: SeatId, update: CursorUpdate) -> Vec<Effect> {
        if let Some(connection) = self.acting(now, seat)
            && self.enter_if_elsewhere(now, seat, &connection, &update)
            && let Some(entry) = self.roster.get_mut(&connection)
            && let Some(place) = &mut entry.record.place
        {
            place.position = Some(update.position);
            place.selected = update.selected;
            // Who does not tell the time moved now.
            place.moved_at_ms = if update.timestamp_ms > 0 { update.timestamp_ms } else { now.wall.unix_ms };
            place.last_active = place.last_active.max(now.wall);
            entry.record.moves += 1;
            self.cursors.mark(&update.document, &connection);
        }
        self.effects()
    }

    /// Somebody looks at another part of their document. Told with the cursors.
    pub fn move_viewport(
        &mut self,
        now: Moment,
        seat: SeatId,
        document: &DocumentId,
        viewport: Viewport,
    ) -> Vec<Effect> {
        if let Some(connection) = self.acting(now, seat)
            && let Some(entry) = self.roster.get_mut(&connection)
        {
            match &mut entry.record.place {
                Some(place) if place.document == *document => {
                    place.viewport = Some(viewport);
                    entry.record.moves += 1;
                    self.cursors.mark(document, &connection);
                }
                _ => self.refuse(seat, ErrorCode::ValidationFailed, "open the document before looking around in it"),
            }
        }
        self.effects()
    }

    pub(super) fn flush_cursors(&mut self, now: Moment) {
        self.cursors.next = now.at + self.cursors.interval;
        let mut moves = Vec::new();
        for (document, moved) in std::mem::take(&mut self.cursors.dirty) {
            let mut cursors = Vec::with_capacity(moved.len());
            for connection in moved {
                // Who has left the document meanwhile has no cursor in it.
                let Some(entry) = self.roster.get(&connection) else { continue };
                let record = &entry.record;
                let Some(place) = record.place.as_ref().filter(|place| place.document == document) else { continue };
                if entry.hold.is_own() {
                    moves.push(CursorMove {
                        connection: connection.clone(),
                        generation: record.version.generation,
                        moves: record.moves,
                        document: document.clone(),
                        position: place.position.clone(),
                        selected: place.selected.clone(),
                        viewport: place.viewport,
                        at: place.last_active,
                        moved_at_ms: place.moved_at_ms,
                    });
                }
                let Some(position) = place.position.clone() else { continue };
                if self.peers.watching {
                    self.out.push(Effect::Happened(Event::CursorMoved {
                        user: record.user.clone(),
                        name: record.name.clone(),
                        color: record.color.clone(),
                        document: document.clone(),
                        position: position.clone(),
                        selected: place.selected.clone(),
                    }));
                }
                let cursor = Cursor {
                    connection_id: connection.clone(),
                    user_id: record.user.clone(),
                    position,
                    selected_node_id: place.selected.clone(),
                    timestamp: place.moved_at_ms,
                    viewport: place.viewport,
                };
                cursors.push((connection, server::to_text(&cursor)));
            }
            if !cursors.is_empty() && self.roster.viewers(&document).next().is_some() {
                let text = server::cursor_update(&document, cursors.iter().map(|(_, text)| &**text));
                self.out.push(Effect::Cursors(Arc::new(CursorFrame { document, text, cursors })));
            }
        }
        if !moves.is_empty() && self.somebody_elsewhere(now) {
            for told in &moves {
                if let Some(entry) = self.roster.get_mut(&told.connection) {
                    entry.told_moves = told.moves;
                }
            }
            self.publish(Body::Cursors { moves });
        }
    }

    fn enter_if_elsewhere(
        &mut self,
        now: Moment,
        seat: SeatId,
        connection: &ConnectionId,
        update: &CursorUpdate,
    ) -> bool {
        let place = self.roster.get(connection).and_then(|entry| entry.record.place.as_ref());
        match place {
            Some(place) if place.document == update.document && place.kind == update.kind => true,
            _ => self.enter(now, seat, connection, &update.document, update.kind),
        }
    }
}
