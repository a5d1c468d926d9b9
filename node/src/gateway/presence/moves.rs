//! Where a client is, as it said last and the project was not told yet.
//!
//! More often than cursors are sent, nobody needs to know, so of moves and of looks elsewhere only the newest waits. The last
//! one before a silence stays true for long: a project without room for it is told again.

use std::time::Duration;

use mille_core::presence::SeatId;
use mille_shared::limits;
use mille_shared::presence::client::CursorUpdate;
use mille_shared::presence::{DocumentId, Viewport};
use tokio::time::Instant;

use crate::project::presence::PresenceCommand;

/// How often a socket's moves are handed on at most. Half the narrowest tick: a client that moves once per tick is always a
/// little early or late, and must not be held back for it.
const MOVES_INTERVAL: Duration = Duration::from_millis(limits::CURSOR_INTERVAL.as_millis() as u64 / 2);

/// The newest move and the newest look elsewhere that wait.
#[derive(Debug)]
pub(super) struct Moves {
    cursor: Option<Box<CursorUpdate>>,
    viewport: Option<(DocumentId, Viewport)>,
    not_before: Instant,
}

impl Moves {
    pub(super) fn new(now: Instant) -> Self {
        Self { cursor: None, viewport: None, not_before: now }
    }

    /// The cursor moved. Answers whether an older move is void by it.
    pub(super) fn moved(&mut self, update: CursorUpdate) -> bool {
        self.cursor.replace(Box::new(update)).is_some()
    }

    /// The client looks at another part of a document.
    pub(super) fn looked(&mut self, document: DocumentId, viewport: Viewport) {
        self.viewport = Some((document, viewport));
    }

    /// When what waits is to be handed on.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.cursor.is_some() || self.viewport.is_some()).then_some(self.not_before)
    }

    /// Hands on what waits, if it is time. What comes back waits for the next time.
    pub(super) fn hand_on(
        &mut self,
        now: Instant,
        seat: SeatId,
        mut give: impl FnMut(PresenceCommand) -> Result<(), PresenceCommand>,
    ) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        for command in self.take(now, seat) {
            match give(command) {
                Err(PresenceCommand::MoveCursor { update, .. }) => self.cursor = Some(update),
                Err(PresenceCommand::MoveViewport { document, viewport, .. }) => {
                    self.viewport = Some((document, viewport));
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Takes out what waits.
    pub(super) fn take(&mut self, now: Instant, seat: SeatId) -> impl Iterator<Item = PresenceCommand> + use<> {
        if self.due().is_some() {
            self.not_before = now + MOVES_INTERVAL;
        }
        let cursor = self.cursor.take().map(|update| PresenceCommand::MoveCursor { seat, update });
        let viewport = self.viewport.take();
        let viewport = viewport.map(|(document, viewport)| PresenceCommand::MoveViewport { seat, document, viewport });
        cursor.into_iter().chain(viewport)
    }

    /// Whoever they are of is gone.
    pub(super) fn forget(&mut self) {
        (self.cursor, self.viewport) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::presence::{DocumentType, Position};

    use super::*;

    const SEAT: SeatId = SeatId(1);

    fn to(x: f64) -> CursorUpdate {
        CursorUpdate {
            document: DocumentId::new("plan"),
            kind: DocumentType::Canvas,
            position: Position::Canvas { x, y: 0.0, zoom: None },
            selected: None,
            timestamp_ms: 1,
        }
    }

    fn told(moves: &mut Moves, now: Instant, has_room: bool) -> Vec<PresenceCommand> {
        let mut told = Vec::new();
        moves.hand_on(now, SEAT, |command| {
            if !has_room {
                return Err(command);
            }
            told.push(command);
            Ok(())
        });
        told
    }

    fn is_at(command: &PresenceCommand, expected: f64) -> bool {
        match command {
            PresenceCommand::MoveCursor { update, .. } => update.position == to(expected).position,
            PresenceCommand::MoveViewport { viewport, .. } => viewport.x == expected,
            _ => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_move_of_all_arrives_though_there_was_no_room_for_it() {
        let now = Instant::now();
        let mut moves = Moves::new(now);
        moves.moved(to(1.0));
        moves.looked(DocumentId::new("plan"), Viewport { x: 1.0, y: 0.0, zoom: 1.0 });
        assert!(told(&mut moves, now, false).is_empty());
        let due = moves.due().expect("it is tried again");
        assert_eq!(due, now + MOVES_INTERVAL, "and not all the time");
        assert!(told(&mut moves, now, true).is_empty());
        let arrived = told(&mut moves, due, true);
        assert!(arrived.len() == 2 && arrived.iter().all(|command| is_at(command, 1.0)), "{arrived:?}");
        assert_eq!(moves.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_that_waits_for_room_is_void_with_the_next() {
        let now = Instant::now();
        let mut moves = Moves::new(now);
        assert!(!moves.moved(to(1.0)));
        assert!(told(&mut moves, now, false).is_empty());
        assert!(moves.moved(to(2.0)));
        let arrived = told(&mut moves, now + MOVES_INTERVAL, true);
        assert!(arrived.len() == 1 && is_at(&arrived[0], 2.0), "{arrived:?}");
    }
}
