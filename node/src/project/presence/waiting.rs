//! What is asked before it is known who is there.
//!
//! The order is kept. Of moves, which come many times a second from everyone, only the newest of a seat waits, and it takes no
//! room: whatever comes too often here is what the next one replaces. Everything else has a place of its own until the bound;
//! beyond it, whoever asks is sent away, since a client can come back but can't know that a word of theirs was lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mille_core::presence::{Join, SeatId};
use mille_shared::{CloseCode, limits};

use super::PresenceCommand;

/// Commands that wait.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    commands: VecDeque<PresenceCommand>,
    /// How many of them take room.
    counted: usize,
    /// Who is to be let in. Whatever is said on another seat is nobody's.
    seats: BTreeSet<SeatId>,
    /// Where a seat's newest move stands, and its newest look elsewhere, if nothing else of the seat came since.
    newest: BTreeMap<(SeatId, bool), usize>,
}

impl WaitingRoom {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Puts a command behind the others. Without room, whose it is is sent away.
    pub(super) fn push(&mut self, command: PresenceCommand) {
        let is_full = self.counted >= limits::MAILBOX_COMMANDS_MAX;
        match (command.seat(), &command) {
            (Some(_), PresenceCommand::Join { outbox, .. }) if is_full => {
                outbox.close(CloseCode::TryAgainLater, "too many join at once");
                return;
            }
            (Some(seat), PresenceCommand::Join { .. }) => {
                self.seats.insert(seat);
                self.counted += 1;
            }
            (Some(seat), _) if !self.seats.contains(&seat) => return,
            (Some(seat), moved) if moved.is_replaceable() => {
                let kind = (seat, matches!(moved, PresenceCommand::MoveViewport { .. }));
                if let Some(former) = self.newest.get(&kind).and_then(|at| self.commands.get_mut(*at)) {
                    *former = command;
                    return;
                }
                self.newest.insert(kind, self.commands.len());
            }
            // Each seat has one end.
            (Some(seat), PresenceCommand::Leave { .. } | PresenceCommand::Lost { .. }) => {
                self.seats.remove(&seat);
            }
            (Some(seat), _) if is_full => {
                self.turn_away(|join| join.seat == seat, CloseCode::TryAgainLater, "too much is asked at once");
                return;
            }
            // Who asked is told by the end of the reply's sender.
            (None, _) if is_full => return,
            (seat, _) => {
                for is_look in [false, true] {
                    seat.and_then(|seat| self.newest.remove(&(seat, is_look)));
                }
                self.counted += 1;
            }
        }
        self.commands.push_back(command);
    }

    /// Closes the outboxes of those who are not to be let in, and drops what they asked.
    pub(super) fn turn_away(&mut self, is_out: impl Fn(&Join) -> bool, code: CloseCode, reason: &'static str) {
        let mut out = BTreeSet::new();
        for command in std::mem::take(self).into_commands() {
            match command {
                PresenceCommand::Join { join, outbox } if is_out(&join) => {
                    out.insert(join.seat);
                    outbox.close(code, reason);
                }
                command if command.seat().is_some_and(|seat| out.contains(&seat)) => {}
                command => self.push(command),
            }
        }
    }

    /// All of them, in their order.
    pub(super) fn into_commands(self) -> impl Iterator<Item = PresenceCommand> {
        self.commands.into_iter()
    }
}
