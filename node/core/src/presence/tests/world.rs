//! Three nodes, the messages between them, and every socket there ever was: whatever happens, rosters end at the truth.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

mod cases;

const NODES: usize = 3;
/// How long a dead node's table and lease hold.
const LEASE_MS: u64 = 10_000;
/// Until the others see that a node gave its lease back.
const NOTICED_MS: u64 = 1_000;
/// What the promise allows: the grace, and a digest with its answer.
const RIGHT_WITHIN_TENTHS: u64 = 120;
/// What it allows beyond that where the node is under pressure.
const LATER_TENTHS: u64 = 31;

#[derive(Debug, Clone)]
enum Step {
    Join {
        node: usize,
        user: u8,
    },
    /// Joins with a document's name alone.
    JoinIn {
        node: usize,
        user: u8,
        document: u8,
    },
    Resume {
        node: usize,
        which: usize,
    },
    Lose {
        which: usize,
    },
    Leave {
        which: usize,
    },
    Switch {
        which: usize,
        document: u8,
        kind: bool,
    },
    Move {
        which: usize,
        document: u8,
        x: i16,
    },
    Status {
        which: usize,
        away: bool,
    },
    /// Looks at another part of their document.
    Look {
        which: usize,
        document: u8,
        x: i16,
    },
    /// Does something otherwise than through their presence.
    Act {
        which: usize,
    },
    /// Time passes, in tenths of a second.
    Wait {
        tenths: u8,
    },
    /// A message under way arrives, is lost, or arrives and stays to arrive again.
    Deliver {
        which: usize,
    },
    Drop {
        which: usize,
    },
    Double {
        which: usize,
    },
    /// A node is told that it may have missed messages.
    Interrupt {
        node: usize,
    },
    /// A node dies without a word and starts again at once, under another incarnation.
    Kill {
        node: usize,
    },
    /// A node is taken out in order, and starts again at once, under another incarnation.
    Depart {
        node: usize,
    },
    /// A node comes under pressure, or the pressure eases.
    Press {
        node: usize,
        level: usize,
    },
    /// A node's machine begins anew in order.
    Recycle {
        node: usize,
    },
    /// A node's machine fails in the middle of a step, so that nothing the step should cause is done, and begins anew.
    Fail {
        step: Box<Step>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let plain = prop_oneof![
        3 => (0..NODES, 0..4u8).prop_map(|(node, user)| Step::Join { node, user }),
        1 => (0..NODES, 0..4u8, 0..3u8).prop_map(|(node, user, document)| Step::JoinIn { node, user, document }),
        3 => (0..NODES, any::<usize>()).prop_map(|(node, which)| Step::Resume { node, which }),
        2 => any::<usize>().prop_map(|which| Step::Lose { which }),
        2 => any::<usize>().prop_map(|which| Step::Leave { which }),
        3 => (any::<usize>(), 0..3u8, prop::bool::weighted(0.9)).prop_map(|(which, document, kind)| Step::Switch { which, document, kind }),
        4 => (any::<usize>(), 0..3u8, any::<i16>()).prop_map(|(which, document, x)| Step::Move { which, document, x }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, away)| Step::Status { which, away }),
        1 => (any::<usize>(), 0..3u8, any::<i16>()).prop_map(|(which, document, x)| Step::Look { which, document, x }),
        1 => any::<usize>().prop_map(|which| Step::Act { which }),
    ];
    prop_oneof![
        18 => plain.clone(),
        2 => (1..40u8).prop_map(|tenths| Step::Wait { tenths }),
        10 => any::<usize>().prop_map(|which| Step::Deliver { which }),
        2 => any::<usize>().prop_map(|which| Step::Drop { which }),
        1 => any::<usize>().prop_map(|which| Step::Double { which }),
        1 => (0..NODES).prop_map(|node| Step::Interrupt { node }),
        1 => (0..NODES).prop_map(|node| Step::Kill { node }),
        1 => (0..NODES).prop_map(|node| Step::Depart { node }),
        1 => (0..NODES, 0..5usize).prop_map(|(node, level)| Step::Press { node, level }),
        1 => (0..NODES).prop_map(|node| Step::Recycle { node }),
        1 => plain.prop_map(|step| Step::Fail { step: Box::new(step) }),
    ]
}

struct World {
    nodes: Vec<Presence>,
    now: u64,
    wire: Vec<(usize, NodeMessage)>,
    /// Live sockets: seat to node.
    seats: BTreeMap<u64, usize>,
    /// What the client of each live socket was told: its users, and the list of its document.
    screens: BTreeMap<u64, Screen>,
    tokens: Vec<(String, u8)>,
    /// The store's tables.
    tables: BTreeMap<NodeId, BTreeMap<ConnectionId, Record>>,
    /// When the leases of dead nodes end, and those of nodes that gave them back are missed.
    dying: Vec<(u64, NodeId, End)>,
    next: u64,
    incarnation: u32,
}

/// How a node ends in the store, as the others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its lease, and its table with it.
    Lease,
    /// Its lease, which it gave back.
    Returned,
    /// Its table alone.
    Table,
}

/// What a client knows, from the frames it got.
#[derive(Debug, Default)]
struct Screen {
    users: BTreeMap<String, Value>,
    activity: BTreeMap<String, Value>,
}

impl Screen {
    fn take(&mut self, frame: &Value) {
        let data = &frame["data"];
        let id = |user: &Value| user["userId"].as_str().unwrap().to_owned();
        match frame["type"].as_str().unwrap() {
            "bulk_presence" => {
                self.users = data.as_array().unwrap().iter().map(|user| (id(user), user.clone())).collect();
            }
            "user_presence" if data["isOnline"] == true => drop(self.users.insert(id(data), data.clone())),
            "user_presence" => drop(self.users.remove(&id(data))),
            "document_activity" => {
                let users = data["activeUsers"].as_array().unwrap().iter().map(|user| user["userId"].clone());
                let document = data["documentId"].as_str().unwrap().to_owned();
                self.activity.insert(document, Value::Array(users.collect()));
            }
            _ => {}
        }
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            now: 1,
            wire: Vec::new(),
            seats: BTreeMap::new(),
            screens: BTreeMap::new(),
            tokens: Vec::new(),
            tables: BTreeMap::new(),
            dying: Vec::new(),
            next: 1,
            incarnation: 0,
        };
        for node in 0..NODES {
            let (presence, effects) = world.opened(node);
            world.nodes.push(presence);
            world.perform(node, effects);
        }
        world
    }

    fn opened(&mut self, node: usize) -> (Presence, Vec<Effect>) {
        self.incarnation += 1;
        let id = NodeId::of(["a", "b", "c"][node], &self.incarnation.to_string());
        Presence::open(at(self.now), ProjectId(1), id, Settings::default())
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        let mut read = Vec::new();
        for effect in effects {
            match effect {
                Effect::Publish(message) => {
                    let others = (0..NODES).filter(|other| *other != node);
                    self.wire.extend(others.map(|other| (other, message.clone())));
                }
                Effect::Close { seat, .. } => self.close(seat.0),
                Effect::Load => {
                    let tables = self.tables.iter().filter(|(_, table)| !table.is_empty());
                    read.push(tables.map(|(node, table)| (node.clone(), table.values().cloned().collect())).collect());
                }
                Effect::Store { connection, record } => {
                    let table = self.tables.entry(self.nodes[node].node.clone()).or_default();
                    table.insert(connection, *record);
                }
                Effect::Forget { node, connection } => {
                    self.tables.entry(node).or_default().remove(&connection);
                }
                Effect::Send { to, frame } => {
                    let frame = serde_json::from_str(&frame).unwrap();
                    for seat in self.nodes[node].receivers(&to) {
                        if let Some(screen) = self.screens.get_mut(&seat.0) {
                            screen.take(&frame);
                        }
                    }
                }
                Effect::Picture { seat, frames } => {
                    for frame in frames {
                        let frame = serde_json::from_str(&frame).unwrap();
                        self.screens.get_mut(&seat.0).into_iter().for_each(|screen| screen.take(&frame));
                    }
                }
                Effect::Reply { .. }
                | Effect::Cursors(_)
                | Effect::Hide { .. }
                | Effect::Happened(_)
                | Effect::Expired(_) => {}
            }
        }
        // The store's answer comes when everything else was done: what it causes never overtakes what was told before.
        for tables in read {
            let effects = self.nodes[node].loaded(at(self.now), Some(tables));
            self.perform(node, effects);
        }
    }

    fn close(&mut self, seat: u64) {
        self.seats.remove(&seat);
        self.screens.remove(&seat);
    }

    fn deliver(&mut self, index: usize) {
        let (to, message) = self.wire.remove(index);
        let effects = self.nodes[to].heard(at(self.now), message);
        self.perform(to, effects);
    }

    /// Somebody of a node asks for a seat, and holds the token they are given, if any comes back.
    fn admit(&mut self, node: usize, user: u8, token: Option<String>, document: Option<u8>) -> Vec<Effect> {
        let seat = self.next;
        self.next += 1;
        let name = format!("user{user}");
        let document = document.map(|document| doc(&format!("d{document}")));
        let ask = Join { resume: token.map(Secret::new), document, ..join(seat, &name) };
        self.seats.insert(seat, node);
        self.screens.insert(seat, Screen::default());
        let effects = self.nodes[node].join(at(self.now), ask);
        self.tokens.push((super::token(&self.nodes[node], seat, &effects), user));
        effects
    }

    fn some_seat(&self, which: usize) -> Option<(u64, usize)> {
        let count = self.seats.len();
        (count > 0).then(|| self.seats.iter().nth(which % count).map(|(seat, node)| (*seat, *node))).flatten()
    }

    /// Time passes. A machine is woken when it asked to be, and not otherwise.
    fn wait(&mut self, tenths: u64) {
        let until = self.now + 100 * tenths;
        loop {
            let due = self.nodes.iter().filter_map(Presence::deadline).min();
            let due = due.map_or(until, |due| u64::try_from(due.as_millis()).unwrap()).max(self.now);
            let death = self.dying.iter().map(|(due, ..)| *due).min().unwrap_or(until);
            self.now = until.min(due).min(death.max(self.now));
            self.bury_the_dead();
            let now = at(self.now);
            let due = |presence: &Presence| presence.deadline().is_some_and(|due| due <= now.at);
            for node in (0..NODES).filter(|node| due(&self.nodes[*node])).collect::<Vec<_>>() {
                let effects = self.nodes[node].wake(now);
                assert!(!due(&self.nodes[node]), "a machine asks to be woken for nothing");
                self.perform(node, effects);
            }
            if self.now >= until {
                return;
            }
        }
    }

    fn bury_the_dead(&mut self) {
        let now = self.now;
        let dead: Vec<(u64, NodeId, End)> = self.dying.extract_if(.., |(due, ..)| *due <= now).collect();
        for (_, gone, end) in dead {
            if end != End::Returned {
                self.tables.remove(&gone);
            }
            for node in (0..NODES).filter(|_| end != End::Table) {
                let gone = std::slice::from_ref(&gone);
                let effects = match end {
                    End::Returned => self.nodes[node].nodes_departed(at(now), gone),
                    _ => self.nodes[node].nodes_gone(at(now), gone),
                };
                self.perform(node, effects);
            }
        }
    }

    fn kill(&mut self, node: usize) {
        self.dying.push((self.now + LEASE_MS, self.nodes[node].node.clone(), End::Lease));
        self.start_again(node);
    }

    fn depart(&mut self, node: usize) {
        let effects = self.nodes[node].depart();
        self.perform(node, effects);
        let id = self.nodes[node].node.clone();
        self.dying.extend([(self.now + NOTICED_MS, id.clone(), End::Returned), (self.now + LEASE_MS, id, End::Table)]);
        self.start_again(node);
    }

    fn start_again(&mut self, node: usize) {
        let theirs: Vec<u64> = self.seats.iter().filter(|(_, at)| **at == node).map(|(seat, _)| *seat).collect();
        theirs.into_iter().for_each(|seat| self.close(seat));
        let (presence, effects) = self.opened(node);
        self.nodes[node] = presence;
        // Redis tells a message only to who is subscribed when it comes. That one of a dead node lies in a stalled server
        // until this one has subscribed is not simulated: what it buries heals when it is forgotten, not within the promise.
        let living: BTreeSet<NodeId> = self.nodes.iter().map(|presence| presence.node.clone()).collect();
        self.wire.retain(|(to, message)| *to != node || living.contains(&message.from));
        self.perform(node, effects);
    }

    /// The machine's next life, as the part around it begins it.
    fn begin_anew(&mut self, node: usize, failed: bool) {
        let old = &self.nodes[node];
        let (project, id, settings) = (old.project, old.node.clone(), old.settings);
        let (presence, effects) = Presence::reopen(at(self.now), project, id, settings, old.keep());
        self.nodes[node] = presence;
        self.perform(node, effects);
        let seated: BTreeSet<u64> = self.nodes[node].seats().map(|seat| seat.0).collect();
        let live: BTreeSet<u64> = self.seats.iter().filter(|(_, at)| **at == node).map(|(seat, _)| *seat).collect();
        live.difference(&seated).for_each(|seat| self.close(*seat));
        for seat in seated.difference(&live) {
            let effects = self.nodes[node].lose(at(self.now), SeatId(*seat));
            self.perform(node, effects);
        }
        if failed {
            let effects = self.nodes[node].refresh_all(at(self.now));
            self.perform(node, effects);
        }
    }

    /// Takes a step at the node it concerns, without what it causes.
    fn step_alone(&mut self, step: Step) -> Option<(usize, Vec<Effect>)> {
        let now = at(self.now);
        match step {
            Step::Join { node, user } => Some((node, self.admit(node, user, None, None))),
            Step::JoinIn { node, user, document } => Some((node, self.admit(node, user, None, Some(document)))),
            Step::Resume { node, which } => {
                let (token, user) = self.tokens.get(which.checked_rem(self.tokens.len())?)?.clone();
                Some((node, self.admit(node, user, Some(token), None)))
            }
            Step::Lose { which }
            | Step::Leave { which }
            | Step::Switch { which, .. }
            | Step::Move { which, .. }
            | Step::Look { which, .. }
            | Step::Act { which }
            | Step::Status { which, .. } => {
                let (seat, node) = self.some_seat(which)?;
                if matches!(step, Step::Lose { .. } | Step::Leave { .. }) {
                    self.close(seat);
                }
                let (presence, seat) = (&mut self.nodes[node], SeatId(seat));
                let effects = match step {
                    Step::Lose { .. } => presence.lose(now, seat),
                    Step::Leave { .. } => presence.leave(now, seat),
                    Step::Switch { document, kind, .. } => {
                        let kind = if kind { DocumentType::Canvas } else { DocumentType::Timeline };
                        presence.switch_document(now, seat, &doc(&format!("d{document}")), kind)
                    }
                    Step::Move { document, x, .. } => {
                        presence.move_cursor(now, seat, cursor(&format!("d{document}"), x.into()))
                    }
                    Step::Look { document, x, .. } => {
                        let viewport = Viewport { x: x.into(), y: 0.0, zoom: 1.0 };
                        presence.move_viewport(now, seat, &doc(&format!("d{document}")), viewport)
                    }
                    Step::Act { .. } => {
                        let connection = presence.roster.seated(seat).and_then(|id| presence.roster.get(id));
                        let user = connection.map(|entry| entry.record.user.clone())?;
                        presence.acted(now, &user)
                    }
                    Step::Status { away, .. } => {
                        presence.update_status(now, seat, if away { Status::Away } else { Status::Active })
                    }
                    _ => Vec::new(),
                };
                Some((node, effects))
            }
            _ => None,
        }
    }

    fn take(&mut self, step: Step) {
        // Nothing a client does follows another thing of theirs in the same millisecond.
        self.now += 1;
        match step {
            Step::Wait { tenths } => self.wait(tenths.into()),
            Step::Deliver { which } if !self.wire.is_empty() => self.deliver(which % self.wire.len()),
            Step::Drop { which } if !self.wire.is_empty() => drop(self.wire.remove(which % self.wire.len())),
            Step::Double { which } if !self.wire.is_empty() => {
                let copy = self.wire[which % self.wire.len()].clone();
                self.wire.push(copy);
            }
            Step::Interrupt { node } => {
                let effects = self.nodes[node].interrupted(at(self.now));
                self.perform(node, effects);
            }
            Step::Kill { node } => self.kill(node),
            Step::Depart { node } => self.depart(node),
            Step::Press { node, level } => {
                let effects = self.nodes[node].press(at(self.now), Level::at(level));
                self.perform(node, effects);
            }
            Step::Recycle { node } => self.begin_anew(node, false),
            Step::Fail { step } => {
                if let Some((node, _)) = self.step_alone(*step) {
                    self.begin_anew(node, true);
                }
            }
            step => {
                if let Some((node, effects)) = self.step_alone(step) {
                    self.perform(node, effects);
                }
            }
        }
    }

    /// From here on nothing is lost, until the promise is due.
    fn calm(&mut self) {
        let is_pressed = self.nodes.iter().any(|node| node.later.is_thin());
        let is_leaving = self.dying.iter().any(|(.., end)| *end == End::Returned);
        let later = if is_pressed { LATER_TENTHS } else { 0 } + if is_leaving { NOTICED_MS / 100 } else { 0 };
        for _ in 0..RIGHT_WITHIN_TENTHS + later {
            self.deliver_all();
            self.wait(1);
        }
        self.deliver_all();
    }

    /// Somebody looks at every node, and whoever is asked for it may put the answer off.
    fn look_everywhere(&mut self) {
        for node in 0..NODES {
            let effects = self.nodes[node].look(at(self.now));
            self.perform(node, effects);
        }
        for _ in 0..3 {
            self.deliver_all();
            self.wait(1);
        }
        assert!(self.nodes.iter().all(Presence::is_ready), "all have answered");
    }

    fn deliver_all(&mut self) {
        while !self.wire.is_empty() {
            self.deliver(0);
        }
    }
}

/// Takes the steps, lets everything come to rest, and compares every roster, and every client's screen, with the live
/// sockets.
fn rosters_agree(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for step in steps {
        world.take(step);
    }
    world.calm();
    for (index, presence) in world.nodes.iter().enumerate() {
        let expected: Vec<u64> =
            world.seats.iter().filter(|(_, node)| **node == index).map(|(seat, _)| *seat).collect();
        let seated: Vec<u64> = presence.roster.seats().map(|seat| seat.0).collect();
        prop_assert_eq!(seated, expected, "the seats of node {}", index);
        prop_assert_eq!(presence.roster.len(), world.seats.len(), "the roster of node {}", index);
    }
    // Where nobody is, positions and times are asked for when somebody looks.
    world.look_everywhere();
    for other in &world.nodes[1..] {
        prop_assert_eq!(world.nodes[0].users(), other.users());
    }
    for (seat, screen) in &world.screens {
        let presence = &world.nodes[world.seats[seat]];
        let shown: Vec<Value> = screen.users.values().map(of_screen).collect();
        let truth: Vec<Value> =
            presence.users().iter().map(|user| of_screen(&serde_json::to_value(user).unwrap())).collect();
        prop_assert_eq!(shown, truth, "the screen of seat {}", seat);
        let mine = presence.roster.seated(SeatId(*seat)).and_then(|connection| presence.roster.get(connection));
        if let Some(place) = mine.and_then(|entry| entry.record.place.as_ref()) {
            let list = presence.roster.activity(&place.document);
            let truth: Vec<Value> = list.active_users.iter().map(|user| user.user_id.as_str().into()).collect();
            let shown = screen.activity.get(place.document.as_str());
            prop_assert_eq!(shown, Some(&Value::Array(truth)), "the list of seat {}", seat);
        }
    }
    Ok(())
}

/// What of a user is told whenever it changes.
fn of_screen(user: &Value) -> Value {
    let documents = user["documents"].as_object().unwrap();
    let documents: Vec<Value> =
        documents.iter().map(|(id, place)| serde_json::json!([id, place["documentType"]])).collect();
    serde_json::json!([user["userId"], user["status"], documents])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    /// Whatever is joined, resumed, lost, left, opened, moved, delivered late, twice or never, whichever node dies or
    /// begins anew, whatever pressure comes: within the grace and a digest (and, under pressure, a while) all rosters are the live sockets and say the same of everyone, and every
    /// client was told so.
    #[test]
    fn rosters_end_at_the_live_sockets_on_every_node(steps in prop::collection::vec(step(), 0..80)) {
        rosters_agree(steps)?;
    }

    /// A resumed connection is one connection: nobody ever has more of them than sockets and graces.
    #[test]
    fn a_roster_is_never_larger_than_the_sockets_ever_opened(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            let opened = usize::try_from(world.next - 1).unwrap();
            prop_assert!(world.nodes.iter().all(|node| node.roster.len() <= opened));
        }
    }
}
