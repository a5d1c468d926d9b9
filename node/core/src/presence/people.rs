//! What the people of this node do: join, open documents, change status, leave, vanish.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::presence::client::Secret;
use mille_shared::presence::record::{Place, Record};
use mille_shared::presence::server::{Limits, Throttle, Welcome};
use mille_shared::presence::{DocumentId, DocumentType, ServerFrame, Status, Version};
use mille_shared::{CloseCode, ConnectionId, ErrorCode, LimitName, NodeId, UserId, limits};

use super::effects::{Effect, Moment, SeatId, To};
use super::roster::{Entry, Hold};
use super::token::Token;
use super::{Presence, Timer, token};

/// Somebody wants to be present.
#[derive(Debug, Clone)]
pub struct Join {
    /// Where frames for them go.
    pub seat: SeatId,
    /// The connection's id, unless an earlier one is resumed. Never used before.
    pub connection: ConnectionId,
    /// Who they are, as the token says.
    pub user: UserId,
    /// Their name.
    pub name: Arc<str>,
    /// Their colour.
    pub color: Arc<str>,
    /// Whether they are a program.
    pub agent: bool,
    /// A document to open at once.
    pub document: Option<DocumentId>,
    /// The token of an earlier connection.
    pub resume: Option<Secret>,
    /// Random bytes for the new connection's token.
    pub secret: [u8; token::SECRET_BYTES],
    /// Whether they were sent [`welcome`] for this connection and secret before they joined.
    pub is_welcomed: bool,
}

/// How often cursors are shown from now on.
pub(super) fn throttle(interval: Duration) -> ServerFrame {
    ServerFrame::Throttle { data: Throttle { cursor_interval_ms: milliseconds(interval) } }
}

/// What a socket is told of the connection it begins: its id, and the token that takes its place back.
#[must_use]
pub fn welcome(
    node: &NodeId,
    connection: &ConnectionId,
    secret: &[u8; token::SECRET_BYTES],
    cursor_interval: Duration,
) -> ServerFrame {
    let token = token::write(connection, 0, &token::hex(secret));
    welcome_frame(node, connection, token, cursor_interval)
}

fn welcome_frame(
    node: &NodeId,
    connection: &ConnectionId,
    resume_token: String,
    cursor_interval: Duration,
) -> ServerFrame {
    ServerFrame::Welcome {
        data: Welcome {
            connection_id: connection.clone(),
            node_id: node.clone(),
            resume_token,
            heartbeat_ms: milliseconds(limits::PING_INTERVAL),
            cursor_interval_ms: milliseconds(cursor_interval),
            limits: Limits {
                frame_bytes: limits::PRESENCE_FRAME_BYTES_MAX,
                frames_per_second: limits::PRESENCE_FRAMES_PER_SECOND,
            },
        },
    }
}

impl Presence {
    /// Lets somebody in: the place of an earlier connection if they hold its token, else a new one. They get `welcome`
    /// (unless they have it, and it still holds; then `throttle`, if it is no longer true of the tick) and `bulk_presence`,
    /// in this order and before anything else.
    pub fn join(&mut self, now: Moment, join: Join) -> Vec<Effect> {
        if self.roster.seated(join.seat).is_some() {
            return self.join_again(now, &join);
        }
        let resumed = join.resume.as_ref().and_then(|token| self.resumable(token, &join.user));
        let resumes = resumed.is_some();
        let quiet = Some(join.seat);
        let (connection, resume_token) = match resumed {
            Some(Token { connection, generation, secret }) => {
                let generation = self.take_over(now, &join, &connection, generation);
                let resume_token = token::write(&connection, generation, secret);
                (connection, resume_token)
            }
            None => {
                let secret = token::hex(&join.secret);
                let record = self.new_record(now, &join, &secret);
                self.put(entry_at(now, record, join.seat), quiet);
                self.announce(&join.connection);
                (join.connection.clone(), token::write(&join.connection, 0, &secret))
            }
        };
        self.arm_idle(&connection);
        let consequences = self.effects();

        let interval = self.cursors.interval();
        if resumes || !join.is_welcomed {
            let frame = welcome_frame(&self.node, &connection, resume_token, interval);
            self.reply(join.seat, &frame);
        } else if interval != limits::CURSOR_INTERVAL {
            self.reply(join.seat, &throttle(interval));
        }
        // Opening the document comes before the roster, which is to show it, but its frames come after.
        let roster_at = self.out.len();
        let resumed_in = self.document_of(&connection).filter(|_| resumes);
        if let Some(document) = &join.document {
            self.enter(now, join.seat, &connection, document, None);
        }
        if let Some(document) = resumed_in.filter(|document| self.document_of(&connection).as_ref() == Some(document)) {
            // To others they never left it; they themselves may be a new page that knows nothing.
            self.send_activity(To::One(join.seat), &document);
        }
        let (mut picture, mut entering) = (vec![self.bulk()], Vec::new());
        for effect in self.out.split_off(roster_at) {
            match effect {
                // The list of their document, which nobody else is sent now.
                Effect::Send { to: To::One(seat), frame } if seat == join.seat => picture.push(frame),
                effect => entering.push(effect),
            }
        }
        self.out.push(Effect::Picture { seat: join.seat, frames: picture });
        self.out.extend(consequences);
        self.out.extend(entering);
        self.effects()
    }

    /// Opens a document and leaves the one before. A repetition changes and sends nothing.
    pub fn switch_document(
        &mut self,
        now: Moment,
        seat: SeatId,
        document: &DocumentId,
        kind: DocumentType,
    ) -> Vec<Effect> {
        let place = self.roster.seated(seat).and_then(|connection| self.place_of(connection));
        // Old clients answer each other's switches by repeating theirs. That nobody did, so nobody is active by it.
        let is_repeat = place.is_some_and(|place| place.document == *document && is_settled(place, Some(kind)));
        if !is_repeat && let Some(connection) = self.acting(now, seat) {
            self.enter(now, seat, &connection, document, Some(kind));
        }
        self.effects()
    }

    /// Says how present somebody is. `active` gives the choice back: from then on it follows their activity. The others say
    /// that nothing is done: it may be a client's timer that says so.
    pub fn update_status(&mut self, now: Moment, seat: SeatId, status: Status) -> Vec<Effect> {
        let chosen = status != Status::Active;
        let connection = if chosen { self.connection_of(seat) } else { self.acting(now, seat) };
        if let Some(connection) = connection {
            let record = self.roster.get(&connection).map(|entry| (entry.record.status, entry.record.chosen));
            if record != Some((status, chosen)) {
                self.change(&connection, |entry| {
                    entry.record.status = status;
                    entry.record.chosen = chosen;
                });
            }
            self.arm_idle(&connection);
        }
        self.effects()
    }

    /// A user did something here otherwise than through their presence: edited a plan, say. Whoever of them is present here
    /// is active.
    pub fn acted(&mut self, now: Moment, user: &UserId) -> Vec<Effect> {
        let seats = self.roster.of_user(user).filter_map(|entry| match entry.hold {
            Hold::Seated(seat) => Some(seat),
            _ => None,
        });
        for seat in seats.collect::<Vec<_>>() {
            self.acting(now, seat);
        }
        self.effects()
    }

    /// Somebody goes, at once. The seat may join again.
    pub fn leave(&mut self, now: Moment, seat: SeatId) -> Vec<Effect> {
        match self.roster.seated(seat).cloned() {
            Some(connection) => self.let_go(now, &connection),
            None => self.refuse(seat, ErrorCode::NotJoined, "there is no session to leave"),
        }
        self.effects()
    }

    /// A seat's socket is gone. Its connection keeps its place for the grace; a seat that was superseded, or never
    /// joined, is nobody's.
    pub fn lose(&mut self, now: Moment, seat: SeatId) -> Vec<Effect> {
        if let Some(connection) = self.roster.seated(seat).cloned()
            && let Some(mut entry) = self.roster.get(&connection).cloned()
        {
            let until = now.at + self.settings.grace;
            entry.hold = Hold::Grace { until };
            self.put(entry, None);
            self.timers.insert((until, Timer::Grace(connection)));
        }
        self.effects()
    }

    /// A user may be here no more: their sockets at this node are closed and they leave at once.
    pub fn expel(&mut self, now: Moment, user: &UserId) -> Vec<Effect> {
        let own = self.roster.of_user(user).filter(|entry| entry.hold.is_own());
        let own: Vec<(ConnectionId, Hold)> = own.map(|entry| (entry.record.connection.clone(), entry.hold)).collect();
        for (connection, hold) in own {
            if let Hold::Seated(seat) = hold {
                self.close(seat, CloseCode::Forbidden, "no longer a member of this project");
            }
            self.let_go(now, &connection);
        }
        self.effects()
    }

    /// The whole picture again, for a seat that was too slow for the changes.
    pub fn refresh(&mut self, seat: SeatId) -> Vec<Effect> {
        if self.roster.seated(seat).is_some() {
            self.show_everything([seat]);
        }
        self.effects()
    }

    /// Everyone with a seat at this node, each once.
    pub fn seated_users(&self) -> impl Iterator<Item = &UserId> {
        self.roster.users().filter(|user| self.roster.of_user(user).any(|entry| entry.hold.is_own()))
    }

    /// As [`Self::connection_of`], marked as active now.
    pub(super) fn acting(&mut self, now: Moment, seat: SeatId) -> Option<ConnectionId> {
        let connection = self.connection_of(seat)?;
        let entry = self.roster.get_mut(&connection)?;
        entry.active_at = now.at;
        entry.record.last_active = entry.record.last_active.max(now.wall);
        if entry.record.status == Status::Idle && !entry.record.chosen {
            self.change(&connection, |entry| entry.record.status = Status::Active);
            self.arm_idle(&connection);
        }
        Some(connection)
    }

    /// The connection of a seat. An error is sent when the seat has none.
    fn connection_of(&mut self, seat: SeatId) -> Option<ConnectionId> {
        let connection = self.roster.seated(seat).cloned();
        if connection.is_none() {
            self.refuse(seat, ErrorCode::NotJoined, "send join_session first");
        }
        connection
    }

    /// Puts a connection into a document, of the type they said, if they did. Answers whether it is in it.
    pub(super) fn enter(
        &mut self,
        now: Moment,
        seat: SeatId,
        connection: &ConnectionId,
        document: &DocumentId,
        said: Option<DocumentType>,
    ) -> bool {
        let Some(entry) = self.roster.get(connection) else { return false };
        let place = entry.record.place.as_ref().filter(|place| place.document == *document);
        let is_there = place.is_some();
        let is_repeat = place.is_some_and(|place| is_settled(place, said));
        let known = self.roster.opening(document).map(|opened| (opened.kind, opened.said_at));
        if let (Some(said), Some((known, Some(_)))) = (said, known)
            && said != known
        {
            let message = format!("the document {document} is open as {known}, not as {said}");
            self.refuse(seat, ErrorCode::DocumentTypeMismatch, message);
            return false;
        }
        if is_repeat {
            return true;
        }
        if known.is_none() && self.roster.documents() >= limits::DOCUMENTS_PER_PROJECT_MAX {
            let (name, limit) = (LimitName::ProjectDocuments, limits::DOCUMENTS_PER_PROJECT_MAX);
            self.reply(seat, &ServerFrame::limited(ErrorCode::LimitExceeded, name, limit, None));
            return false;
        }
        let kind = said.or(known.map(|(kind, _)| kind)).unwrap_or(DocumentType::Canvas);
        let said_at = said.map(|_| now.wall).or(known.and_then(|(_, said_at)| said_at));
        self.change(connection, |entry| match &mut entry.record.place {
            Some(place) if is_there => place.become_of(kind, said_at),
            place => *place = Some(Place { said_at, ..new_place(now, document, kind) }),
        });
        // Whoever enters gets the list, also if it is not due for all, or did not change by it.
        if !is_there && !self.lists.is_due(now, document) {
            self.send_activity(To::One(seat), document);
        }
        self.settle_type(now, document);
        true
    }

    pub(super) fn place_of(&self, connection: &ConnectionId) -> Option<&Place> {
        self.roster.get(connection)?.record.place.as_ref()
    }

    pub(super) fn document_of(&self, connection: &ConnectionId) -> Option<DocumentId> {
        Some(self.place_of(connection)?.document.clone())
    }

    pub(super) fn arm_idle(&mut self, connection: &ConnectionId) {
        let idle_after = self.settings.idle_after;
        if let Some(entry) = self.roster.get_mut(connection)
            && !entry.idle_armed
            && !entry.record.chosen
        {
            entry.idle_armed = true;
            self.timers.insert((entry.active_at + idle_after, Timer::Idle(connection.clone())));
        }
    }

    /// A second `join_session` on one seat: the same connection, perhaps under another name or in another document.
    fn join_again(&mut self, now: Moment, join: &Join) -> Vec<Effect> {
        if let Some(connection) = self.acting(now, join.seat) {
            let renamed = self.roster.get(&connection).is_some_and(|entry| {
                let record = &entry.record;
                (&record.name, &record.color, record.agent) != (&join.name, &join.color, join.agent)
            });
            if renamed {
                self.change(&connection, |entry| rename(&mut entry.record, join));
            }
            if let Some(document) = &join.document {
                self.enter(now, join.seat, &connection, document, None);
            }
            // What it makes void may have told them of the tick and of their document.
            self.show_everything([join.seat]);
        }
        self.effects()
    }

    fn resumable<'a>(&self, resume: &'a Secret, user: &UserId) -> Option<Token<'a>> {
        let token = token::read(resume)?;
        let record = &self.roster.get(&token.connection)?.record;
        let hash = token::hash(self.project, user, &token.connection, token.secret);
        (record.user == *user && *record.resume_hash == *hash).then_some(token)
    }

    /// Seats somebody in an earlier connection's place. Answers its generation.
    fn take_over(&mut self, now: Moment, join: &Join, connection: &ConnectionId, heard: u64) -> u64 {
        let Some(mut entry) = self.roster.get(connection).cloned() else { return heard };
        if let Hold::Seated(superseded) = entry.hold {
            self.close(superseded, CloseCode::Normal, "resumed elsewhere");
        }
        let former = entry.record.version.clone();
        entry.record.version = former.taken_over(self.node.clone(), now.wall, heard);
        let generation = entry.record.version.generation;
        rename(&mut entry.record, join);
        // To come back is nothing that others see: whoever was idle is so still, until they do something.
        let idle_ms = now.wall.unix_ms.saturating_sub(entry.record.last_active.unix_ms);
        let idle = Duration::from_millis(u64::try_from(idle_ms).unwrap_or_default());
        // Of a node that died, only old times may be known. Who is called active then has a minute to show it.
        let active_at = now.at.saturating_sub(if idle < self.settings.idle_after { idle } else { Duration::ZERO });
        let seated = entry_at(now, entry.record, join.seat);
        self.put(Entry { idle_armed: entry.idle_armed, active_at, ..seated }, Some(join.seat));
        self.announce(connection);
        if former.node != self.node {
            self.out.push(Effect::Forget { node: former.node, connection: connection.clone() });
        }
        generation
    }

    fn new_record(&self, now: Moment, join: &Join, secret: &str) -> Record {
        Record {
            connection: join.connection.clone(),
            version: Version::first(self.node.clone()),
            user: join.user.clone(),
            name: join.name.clone(),
            color: join.color.clone(),
            agent: join.agent,
            joined: now.wall,
            status: Status::Active,
            chosen: false,
            last_active: now.wall,
            resume_hash: token::hash(self.project, &join.user, &join.connection, secret).into(),
            moves: 0,
            place: None,
        }
    }
}

fn rename(record: &mut Record, join: &Join) {
    record.name = join.name.clone();
    record.color = join.color.clone();
    record.agent = join.agent;
}

fn entry_at(now: Moment, record: Record, seat: SeatId) -> Entry {
    let (told_moves, told_active) = (record.moves, record.last_active);
    let hold = Hold::Seated(seat);
    Entry { record, hold, stamp: 0, told_moves, told_active, active_at: now.at, idle_armed: false }
}

/// Whether nothing is new if somebody who is in this place says that its document is of this type.
fn is_settled(place: &Place, said: Option<DocumentType>) -> bool {
    said.is_none_or(|said| said == place.kind && place.said_at.is_some())
}

fn new_place(now: Moment, document: &DocumentId, kind: DocumentType) -> Place {
    Place {
        document: document.clone(),
        kind,
        said_at: None,
        entered: now.wall,
        last_active: now.wall,
        position: None,
        selected: None,
        viewport: None,
        moved_at_ms: 0,
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
