//! Cursors: the newest place of everyone who moved, once per tick.
//!
//! A move is one table look-up. Two ticks go on side by side. At one, viewers here are *shown* who moved: one frame per
//! document, shared by all of them, wherever those who moved are connected. At the other, twice as often where it can be,
//! other nodes are *told* who moved here: one message, if any of them has people. So a move waits for a node's viewers
//! once and not twice, and a message is cheap beside a frame for every viewer. The first move after a silence goes out at
//! once.
//!
//! The cost grows with frames and not with people times people; how often there is one is [`Pace`]'s.

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
use super::pace::Pace;

/// Who moved since viewers and other nodes heard of it last, and when they hear of it next.
#[derive(Debug, Clone)]
pub(super) struct Cursors {
    unseen: IndexMap<DocumentId, BTreeSet<ConnectionId>>,
    /// Since when somebody is unseen.
    unseen_since: Duration,
    /// Connections of this node.
    untold: BTreeSet<ConnectionId>,
    show_at: Duration,
    tell_at: Duration,
    pace: Pace,
    conflated: u64,
}

impl Cursors {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            unseen: IndexMap::new(),
            unseen_since: Duration::ZERO,
            untold: BTreeSet::new(),
            show_at: Duration::ZERO,
            tell_at: Duration::ZERO,
            pace: Pace::new(interval),
            conflated: 0,
        }
    }

    /// Time between two frames for viewers.
    pub(super) fn interval(&self) -> Duration {
        self.pace.interval()
    }

    pub(super) fn show_due(&self) -> Option<Duration> {
        (!self.unseen.is_empty()).then_some(self.show_at)
    }

    pub(super) fn tell_due(&self) -> Option<Duration> {
        (!self.untold.is_empty()).then_some(self.tell_at)
    }

    /// Somebody, here or elsewhere, is at another place than viewers here were shown.
    pub(super) fn mark(&mut self, now: Moment, document: &DocumentId, connection: &ConnectionId) {
        if self.unseen.is_empty() {
            self.unseen_since = now.at;
        }
        match self.unseen.get_mut(document) {
            Some(moved) if moved.contains(connection) => self.conflated += 1,
            Some(moved) => drop(moved.insert(connection.clone())),
            None => drop(self.unseen.insert(document.clone(), BTreeSet::from([connection.clone()]))),
        }
    }

    pub(super) fn take_conflated(&mut self) -> u64 {
        std::mem::take(&mut self.conflated)
    }

    /// Somebody of this node is at another place than the other nodes were told.
    pub(super) fn mark_untold(&mut self, connection: &ConnectionId) {
        self.untold.insert(connection.clone());
    }

    /// Widens the ticks because of the node's load as a whole, or no longer. Answers whether that is new.
    pub(super) fn press(&mut self, is_pressed: bool) -> bool {
        self.pace.press(is_pressed)
    }

    /// Fits the ticks to a room of so many, and to the load. Answers the new interval if it is another.
    pub(super) fn adapt(&mut self, people: usize) -> Option<Duration> {
        self.pace.adapt(people)
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
            self.cursors.mark(now, &update.document, &connection);
            self.cursors.mark_untold(&connection);
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
                    place.last_active = place.last_active.max(now.wall);
                    entry.record.moves += 1;
                    self.cursors.mark(now, document, &connection);
                    self.cursors.mark_untold(&connection);
                }
                _ => self.refuse(seat, ErrorCode::ValidationFailed, "open the document before looking around in it"),
            }
        }
        self.effects()
    }

    /// Shows viewers here who moved.
    pub(super) fn show_cursors(&mut self, now: Moment) {
        let due = self.cursors.show_at.max(self.cursors.unseen_since);
        self.cursors.pace.note_lateness(now.at.saturating_sub(due));
        self.cursors.show_at = now.at + self.cursors.interval();
        for (document, moved) in std::mem::take(&mut self.cursors.unseen) {
            let has_viewers = self.roster.viewers(&document).next().is_some();
            let mut cursors = Vec::with_capacity(moved.len());
            for connection in moved {
                // Who has left the document meanwhile has no cursor in it.
                let Some(entry) = self.roster.get(&connection) else { continue };
                let record = &entry.record;
                let Some(place) = record.place.as_ref().filter(|place| place.document == document) else { continue };
                if let Some(position) = place.position.clone().filter(|_| self.peers.watching) {
                    self.out.push(Effect::Happened(Event::CursorMoved {
                        user: record.user.clone(),
                        name: record.name.clone(),
                        color: record.color.clone(),
                        document: document.clone(),
                        position,
                        selected: place.selected.clone(),
                    }));
                }
                if !has_viewers || place.position.is_none() && place.viewport.is_none() {
                    continue;
                }
                let cursor = Cursor {
                    connection_id: connection.clone(),
                    user_id: record.user.clone(),
                    position: place.position.clone(),
                    selected_node_id: place.selected.clone(),
                    timestamp: place.moved_at_ms,
                    viewport: place.viewport,
                };
                cursors.push((connection, server::to_text(&cursor)));
            }
            if !cursors.is_empty() {
                let text = server::cursor_update(&document, cursors.iter().map(|(_, text)| &**text));
                self.out.push(Effect::Cursors(Arc::new(CursorFrame { document, text, cursors })));
            }
        }
    }

    /// Tells the other nodes who moved here, if anybody there wants to know. If not, it is told once somebody does.
    pub(super) fn tell_cursors(&mut self, now: Moment) {
        self.cursors.tell_at = now.at + self.cursors.pace.tell_interval();
        let untold = std::mem::take(&mut self.cursors.untold);
        if !self.somebody_elsewhere(now) {
            return;
        }
        let mut moves = Vec::with_capacity(untold.len());
        for connection in untold {
            let Some(entry) = self.roster.get_mut(&connection).filter(|entry| entry.hold.is_own()) else { continue };
            let Some(place) = &entry.record.place else { continue };
            let at = place.last_active;
            moves.push(CursorMove {
                connection,
                generation: entry.record.version.generation,
                moves: entry.record.moves,
                document: place.document.clone(),
                position: place.position.clone(),
                selected: place.selected.clone(),
                viewport: place.viewport,
                at,
                moved_at_ms: place.moved_at_ms,
            });
            entry.told_moves = entry.record.moves;
            entry.told_active = entry.told_active.max(at);
        }
        if !moves.is_empty() {
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
            Some(place)
                if place.document == update.document && place.kind == update.kind && place.said_at.is_some() =>
            {
                true
            }
            _ => self.enter(now, seat, connection, &update.document, Some(update.kind)),
        }
    }
}
