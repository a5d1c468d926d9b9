//! A project's presence on this node: the machine of `mille-core`, its clock, its outboxes and its tasks.
//!
//! The project's actor owns it and calls it; nothing here waits. What the machine wants done is done at once: frames go to
//! outboxes, writes and messages to tasks. It leaves sockets to the gateway and people's rights to the project.

pub mod command;
pub mod outbox;
mod waiting;
pub mod watch;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mille_core::presence::{Effect, Moment, Presence, SeatId, Settings, To};
use mille_shared::directory::Role;
use mille_shared::presence::server::{self, ServerFrame};
use mille_shared::presence::{Body, NodeMessage};
use mille_shared::{CloseCode, NodeId, ProjectId, UserId, limits};
use tokio::time::Instant;
use tracing::debug;

pub use command::PresenceCommand;
pub use outbox::{OutboxReader, Outgoing, PresenceOutbox, outbox, shared, silent_outbox};
pub use watch::PresenceWatch;
pub use worker::{StoreAnswer, Surroundings};

use outbox::CursorBatch;
use waiting::WaitingRoom;
use watch::Watchers;
use worker::Workers;

use crate::clock;
use crate::pressure::{Level, Shed};

/// How often seats and watchers are looked at that vanished without a word.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// After a standstill, how long it takes to notice which sockets ended meanwhile: until they are swept, at the latest.
const ENDS_NOTICED_WITHIN: Duration = SWEEP_INTERVAL.saturating_mul(2);

/// What a socket is closed with whose user is no member.
pub const NO_MEMBER: &str = "no longer a member of this project";

/// What an operator may choose.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// The machine's.
    pub rules: Settings,
    /// How long this node's table outlives it in the store.
    pub table_ttl: Duration,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self { rules: Settings::default(), table_ttl: limits::NODE_LEASE }
    }
}

/// A project's presence on this node.
pub struct PresencePart {
    project: ProjectId,
    node: NodeId,
    around: Surroundings,
    settings: PresenceSettings,
    machine: Presence,
    origin: Instant,
    outboxes: BTreeMap<SeatId, PresenceOutbox>,
    watchers: Watchers,
    workers: Workers,
    /// Commands that came before the answers of the store and of other nodes: a roster would be too short, or old.
    waiting: WaitingRoom,
    /// When they wait no longer: without a store, people see at least those of their own node.
    ready_by: Instant,
    is_open: bool,
    loads_under_way: u32,
    sweep_at: Instant,
    /// Until when a socket that is gone leaves at once: the others have shown its user out already.
    no_grace_until: Instant,
    /// The pressure that the machine knows of.
    level: Level,
    /// How many connections the metrics know of: present ones, and those that are remembered.
    counted: [usize; 2],
}

impl PresencePart {
    /// Opens a project's presence and begins to read what the store knows. The subscription to the project's channel must
    /// be in force: what is said after the store was read must not be missed.
    #[must_use]
    pub fn new(project: ProjectId, node: NodeId, around: Surroundings, settings: PresenceSettings) -> Self {
        let origin = Instant::now();
        let moment = Moment { at: Duration::ZERO, wall: clock::now() };
        let (machine, effects) = Presence::open(moment, project, node.clone(), settings.rules);
        let mut part = Self {
            project,
            workers: Workers::start(project, node.clone(), settings.table_ttl, &around),
            node,
            around,
            settings,
            machine,
            origin,
            outboxes: BTreeMap::new(),
            watchers: Watchers::default(),
            waiting: WaitingRoom::default(),
            ready_by: origin + limits::REDIS_COMMAND_TIMEOUT,
            is_open: false,
            loads_under_way: 0,
            sweep_at: origin + SWEEP_INTERVAL,
            no_grace_until: origin,
            level: Level::Calm,
            counted: [0; 2],
        };
        part.perform(effects);
        part
    }

    /// Goes on with a new machine and new tasks: the old ones are old, or one of them failed. Sockets and watchers stay and
    /// notice nothing, unless something failed: then they get the whole picture again, of which some may be missing.
    pub fn begin_anew(&mut self, failed: bool) {
        self.workers.start_anew(self.project, self.node.clone(), self.settings.table_ttl, &self.around);
        self.loads_under_way = 0;
        let kept = self.machine.keep();
        let (machine, effects) =
            Presence::reopen(self.now(), self.project, self.node.clone(), self.settings.rules, kept);
        self.machine = machine;
        self.perform(effects);
        let effects = self.machine.press(self.now(), self.level);
        self.perform(effects);
        let seated: BTreeSet<SeatId> = self.machine.seats().collect();
        for seat in seated.iter().filter(|seat| !self.outboxes.contains_key(seat)).copied().collect::<Vec<_>>() {
            self.follow(PresenceCommand::Lost { seat });
        }
        // Who was to be let in when it failed has no seat, and comes back.
        self.outboxes.retain(|seat, _| seated.contains(seat));
        if failed {
            let effects = self.machine.refresh_all(self.now());
            self.perform(effects);
            self.watchers.correct(&self.machine.users());
        }
    }

    /// Does what somebody asks.
    pub fn handle(&mut self, command: PresenceCommand) {
        self.feel_standstill(Instant::now());
        self.feel_pressure();
        if self.is_open && matches!(command, PresenceCommand::Join { .. } | PresenceCommand::Users { .. }) {
            self.look();
        }
        if self.is_open {
            self.follow(command);
        } else {
            self.waiting.push(command);
        }
    }

    /// A message on the project's channel.
    pub fn heard(&mut self, payload: &Bytes) {
        match serde_json::from_slice::<NodeMessage>(payload) {
            Ok(message) => {
                let effects = self.machine.heard(self.now(), message);
                self.perform(effects);
                self.open_if_ready();
            }
            // A newer version of the program may say what this one does not know.
            Err(error) => debug!(project.id = %self.project, %error, "a presence message makes no sense here"),
        }
    }

    /// Messages on the project's channel may have been lost.
    pub fn interrupted(&mut self) {
        let effects = self.machine.interrupted(self.now());
        self.perform(effects);
    }

    /// When [`wake`](Self::wake) has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let machine = self.machine.deadline().map(|at| self.origin + at);
        let sweep = (!self.outboxes.is_empty() || self.machine.is_watching()).then_some(self.sweep_at);
        let ready = (!self.is_open).then_some(self.ready_by);
        [machine, sweep, ready].into_iter().flatten().min()
    }

    /// Does what time has made due.
    pub fn wake(&mut self, now: Instant) {
        self.feel_standstill(now);
        if !self.is_open && now >= self.ready_by {
            self.open();
        }
        self.feel_pressure();
        let effects = self.machine.wake(self.moment(now));
        self.perform(effects);
        self.open_if_ready();
        self.around.metrics.presence.cursors_conflated.increment(self.machine.take_conflated());
        self.around.metrics.load.shed(Shed::Presence).increment(self.machine.take_put_off());
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_INTERVAL;
            self.sweep();
        }
    }

    /// A user did something here otherwise than through their presence.
    pub fn acted(&mut self, user: &UserId) {
        let effects = self.machine.acted(self.now(), user);
        self.perform(effects);
    }

    /// Nodes whose lease ended.
    pub fn nodes_gone(&mut self, nodes: &[NodeId]) {
        let effects = self.machine.nodes_gone(self.now(), nodes);
        self.perform(effects);
    }

    /// Nodes whose lease ended after they had said that they go.
    pub fn nodes_departed(&mut self, nodes: &[NodeId]) {
        let effects = self.machine.nodes_departed(self.now(), nodes);
        self.perform(effects);
    }

    /// Nodes that are back although their lease had ended.
    pub fn nodes_back(&mut self, nodes: &[NodeId]) {
        self.machine.nodes_back(nodes);
    }

    /// The project is gone: whoever is present has lost the right to be, and whoever watches hears why nothing follows.
    pub fn gone(&mut self) {
        self.membership_changed(|_| None);
        self.watchers.gone();
    }

    /// Members may have changed: who has no role any more is shown out (4403).
    pub fn membership_changed(&mut self, role: impl Fn(&UserId) -> Option<Role>) {
        let outsiders: Vec<UserId> = self.machine.seated_users().filter(|user| role(user).is_none()).cloned().collect();
        for user in outsiders {
            let effects = self.machine.expel(self.now(), &user);
            self.perform(effects);
        }
        // Those who wait to be let in have no seat yet.
        self.waiting.turn_away(|join| role(&join.user).is_none(), CloseCode::Forbidden, NO_MEMBER);
    }

    /// The store lost this node's table: everyone is put there again.
    pub fn restore(&mut self) {
        let effects = self.machine.store_all();
        self.perform(effects);
    }

    /// Whether nobody here would miss this part.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.machine.is_idle() && self.waiting.is_empty() && self.outboxes.is_empty()
    }

    /// Connections of this node in the project, those in their grace included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.machine.own_connections()
    }

    /// The node goes: sockets get the hint to come back and are closed with 1012, and other nodes keep their people for
    /// the grace, so that nobody sees them leave. The table stays in the store until it expires, for those who resume.
    pub fn drain(&mut self) {
        let effects = self.machine.depart();
        self.perform(effects);
        self.waiting.turn_away(|_| true, CloseCode::ServiceRestart, "drain");
        self.waiting = WaitingRoom::default();
    }

    /// Drains what is left and waits for what must still be written and said, but not for long.
    pub async fn shutdown(&mut self) {
        if self.machine.own_connections() > 0 || !self.waiting.is_empty() {
            self.drain();
        }
        self.workers.end().await;
    }

    /// The next answer of the store, for [`handle_answer`](Self::handle_answer). Cancel-safe.
    pub async fn answer(&mut self) -> StoreAnswer {
        self.workers.answer().await
    }

    /// Takes in what the store answered.
    pub fn handle_answer(&mut self, answer: StoreAnswer) {
        match answer {
            StoreAnswer::Tables(tables) => {
                self.loads_under_way = self.loads_under_way.saturating_sub(1);
                // Older than what was asked for last: it may miss what that was asked for.
                if self.loads_under_way == 0 {
                    let effects = self.machine.loaded(self.now(), tables);
                    self.perform(effects);
                    self.open_if_ready();
                }
            }
            StoreAnswer::Lost => self.restore(),
            // The actor begins anew before it comes to this.
            StoreAnswer::Failed => {}
        }
    }

    /// Notices that nothing was done here for a lease or longer: the process was stopped, and its people are gone for all
    /// others. Who went meanwhile is not to come back for the grace.
    fn feel_standstill(&mut self, now: Instant) {
        if !self.outboxes.is_empty() && now >= self.sweep_at + self.settings.table_ttl {
            self.no_grace_until = now + ENDS_NOTICED_WITHIN;
        }
    }

    /// Tells the machine of the node's pressure when it has changed. Somebody wakes us every second while anybody is here.
    fn feel_pressure(&mut self) {
        let level = self.around.metrics.pressure.level();
        if std::mem::replace(&mut self.level, level) != level {
            let effects = self.machine.press(self.now(), level);
            self.perform(effects);
        }
    }

    /// Somebody is about to look at everyone: what is known may be old, if nobody was here to see it.
    fn look(&mut self) {
        let effects = self.machine.look(self.now());
        self.perform(effects);
        if !self.machine.is_ready() {
            (self.is_open, self.ready_by) = (false, Instant::now() + limits::REDIS_COMMAND_TIMEOUT);
        }
    }

    fn open_if_ready(&mut self) {
        if !self.is_open && self.machine.is_ready() {
            self.open();
        }
    }

    fn open(&mut self) {
        self.is_open = true;
        for command in std::mem::take(&mut self.waiting).into_commands() {
            self.follow(command);
        }
    }

    fn follow(&mut self, command: PresenceCommand) {
        let now = self.now();
        let effects = match command {
            PresenceCommand::Join { join, outbox } => {
                if self.outboxes.is_empty() {
                    // Nobody was there to be swept.
                    self.sweep_at = Instant::now() + SWEEP_INTERVAL;
                }
                self.outboxes.insert(join.seat, outbox);
                self.machine.join(now, *join)
            }
            // Who was closed meanwhile has no outbox any more, and no seat to come.
            PresenceCommand::JoinAgain { join } if self.outboxes.contains_key(&join.seat) => {
                self.machine.join(now, *join)
            }
            PresenceCommand::JoinAgain { .. } => Vec::new(),
            PresenceCommand::SwitchDocument { seat, document, kind } => {
                self.machine.switch_document(now, seat, &document, kind)
            }
            PresenceCommand::MoveCursor { seat, update } => self.machine.move_cursor(now, seat, *update),
            PresenceCommand::MoveViewport { seat, document, viewport } => {
                self.machine.move_viewport(now, seat, &document, viewport)
            }
            PresenceCommand::UpdateStatus { seat, status } => self.machine.update_status(now, seat, status),
            PresenceCommand::Ping { seat } => {
                self.outboxes
                    .get(&seat)
                    .into_iter()
                    .for_each(|outbox| outbox.reply(shared(ServerFrame::Pong.encode())));
                Vec::new()
            }
            PresenceCommand::Refresh { seat } => self.machine.refresh(seat),
            PresenceCommand::Leave { seat } => {
                self.outboxes.remove(&seat);
                self.machine.leave(now, seat)
            }
            PresenceCommand::Lost { seat } => {
                self.outboxes.remove(&seat);
                if Instant::now() < self.no_grace_until {
                    self.machine.leave(now, seat)
                } else {
                    self.machine.lose(now, seat)
                }
            }
            PresenceCommand::Users { reply } => {
                // Who asked may be gone; so be it. The same below.
                let _ = reply.send(self.machine.users());
                Vec::new()
            }
            PresenceCommand::Census { reply } => {
                let _ = reply.send(self.machine.census());
                Vec::new()
            }
            PresenceCommand::Watch { reply } => {
                let _ = reply.send(self.watchers.add());
                self.machine.set_watching(now, self.watchers.sweep())
            }
        };
        self.perform(effects);
    }

    /// Looks for sockets that ended without a word, whatever ended them, and for watchers that went.
    fn sweep(&mut self) {
        let gone = self.outboxes.iter().filter(|(_, outbox)| outbox.is_gone()).map(|(seat, _)| *seat);
        for seat in gone.collect::<Vec<_>>() {
            self.follow(PresenceCommand::Lost { seat });
        }
        let effects = self.machine.set_watching(self.now(), self.watchers.sweep());
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { seat, frame } => {
                    self.outboxes.get(&seat).into_iter().for_each(|outbox| outbox.reply(shared(Arc::clone(&frame))));
                }
                Effect::Send { to, frame } => {
                    let frame = shared(frame);
                    let receivers = self.machine.receivers(&to).filter_map(|seat| self.outboxes.get(&seat));
                    receivers.for_each(|outbox| outbox.frame(frame.clone()));
                }
                Effect::Picture { seat, frames } => {
                    self.outboxes.get(&seat).into_iter().for_each(|outbox| outbox.picture(frames.iter().cloned()));
                }
                Effect::Cursors(frame) => {
                    let to = To::Viewers(frame.document.clone());
                    let batch = CursorBatch::of(frame);
                    let receivers = self.machine.receivers(&to).filter_map(|seat| self.outboxes.get(&seat));
                    receivers.for_each(|outbox| outbox.cursors(&batch));
                    let interval = self.machine.cursor_interval();
                    self.around.metrics.presence.cursor_interval_seconds.record(interval.as_secs_f64());
                }
                // Also from those who are elsewhere by now: they may come back before they take what waits.
                Effect::Hide { document, connection } => {
                    self.outboxes.values().for_each(|outbox| outbox.hide(&document, &connection));
                }
                Effect::Close { seat, code, reason } => {
                    if let Some(outbox) = self.outboxes.remove(&seat) {
                        outbox.close(code, reason);
                    }
                }
                Effect::Publish(message) => {
                    let is_replaceable = matches!(message.body, Body::Cursors { .. });
                    let text = server::to_text(&message);
                    if !self.workers.publish(Bytes::copy_from_slice(text.as_bytes()), is_replaceable) {
                        debug!(project.id = %self.project, "no room to publish; a digest will repair it");
                    }
                }
                Effect::Store { connection, record } => {
                    let text = server::to_text(&record);
                    self.workers.put(self.node.clone(), connection, text.as_ref().to_owned());
                }
                Effect::Forget { node, connection } => self.workers.remove(node, connection),
                Effect::Load => self.loads_under_way += u32::from(self.workers.load()),
                Effect::Happened(event) => self.watchers.tell(&event),
                Effect::Expired(why) => self.around.metrics.presence.expiries(why).increment(1),
            }
        }
        self.count([self.machine.own_connections(), self.machine.remembered()]);
    }

    /// Brings this project's part of the metrics to these numbers.
    fn count(&mut self, counts: [usize; 2]) {
        let gauges = [&self.around.metrics.presence.members, &self.around.metrics.presence.remembered];
        for ((gauge, counted), count) in gauges.into_iter().zip(&mut self.counted).zip(counts) {
            match count.checked_sub(*counted) {
                Some(more) => gauge.increment(more as f64),
                None => gauge.decrement((*counted - count) as f64),
            }
            *counted = count;
        }
    }

    fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment { at: now.saturating_duration_since(self.origin), wall: clock::now() }
    }
}

impl Drop for PresencePart {
    fn drop(&mut self) {
        self.count([0; 2]);
    }
}

#[cfg(test)]
mod tests;
