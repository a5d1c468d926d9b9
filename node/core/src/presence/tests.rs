//! The machine's promises: what clients are told in single steps, and that rosters end up right whatever happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mille_shared::presence::client::{CursorUpdate, Secret};
use mille_shared::presence::{Body, DocumentId, DocumentType, NodeMessage, Position, Record, Status};
use mille_shared::{CloseCode, ConnectionId, NodeId, ProjectId, Timestamp, UserId};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const START_MS: i64 = 1_700_000_000_000;

fn at(ms: u64) -> Moment {
    Moment { at: Duration::from_millis(ms), wall: Timestamp::from_unix_ms(START_MS + i64::try_from(ms).unwrap()) }
}

fn node(name: &str) -> Presence {
    let (mut presence, first) = Presence::open(at(0), ProjectId(1), NodeId::of(name, "1"), Settings::default());
    assert_eq!(first, [Effect::Load]);
    presence.loaded(at(0), Some(Vec::new()));
    presence
}

fn join(seat: u64, user: &str) -> Join {
    Join {
        seat: SeatId(seat),
        connection: ConnectionId::new(format!("c{seat}")),
        user: UserId::new(user),
        name: user.into(),
        color: "#123".into(),
        agent: false,
        document: None,
        resume: None,
        secret: [u8::try_from(seat % 251).unwrap(); 32],
        is_welcomed: false,
    }
}

fn resume(seat: u64, user: &str, token: &str) -> Join {
    Join { resume: Some(Secret::new(token.to_owned())), ..join(seat, user) }
}

fn cursor(document: &str, x: f64) -> CursorUpdate {
    CursorUpdate {
        document: DocumentId::new(document),
        kind: DocumentType::Canvas,
        position: Position::Canvas { x, y: 0.0, zoom: None },
        selected: None,
        timestamp_ms: 5,
    }
}

fn doc(name: &str) -> DocumentId {
    DocumentId::new(name)
}

/// The frames that a seat gets, in order.
fn frames(presence: &Presence, seat: u64, effects: &[Effect]) -> Vec<Value> {
    let mine = |to: &To| presence.receivers(to).any(|receiver| receiver == SeatId(seat));
    let text = |effect: &Effect| match effect {
        Effect::Send { to, frame } if mine(to) => Some(Arc::clone(frame)),
        Effect::Cursors(batch) if mine(&To::Viewers(batch.document.clone())) => Some(Arc::clone(&batch.text)),
        _ => None,
    };
    effects.iter().filter_map(text).map(|text| serde_json::from_str(&text).unwrap()).collect()
}

fn types(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect()
}

fn token(presence: &Presence, seat: u64, effects: &[Effect]) -> String {
    let frames = frames(presence, seat, effects);
    frames[0]["data"]["resumeToken"].as_str().unwrap().to_owned()
}

fn published(effects: &[Effect]) -> Vec<NodeMessage> {
    let message = |effect: &Effect| match effect {
        Effect::Publish(message) => Some(message.clone()),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

fn pass(effects: &[Effect], to: &mut Presence, now: Moment) -> Vec<Effect> {
    published(effects).into_iter().flat_map(|message| to.heard(now, message)).collect()
}

#[test]
fn a_joiner_gets_welcome_and_everyone_and_others_hear_of_them_once() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let effects = here.join(at(1), Join { document: Some(doc("plan")), ..join(2, "dos") });
    let mine = frames(&here, 2, &effects);
    assert_eq!(types(&mine)[..2], ["welcome", "bulk_presence"]);
    let bulk = mine[1]["data"].as_array().unwrap();
    assert_eq!(bulk.len(), 2);
    assert_eq!(bulk[1]["documents"]["plan"]["documentType"], "canvas");
    assert!(types(&mine).contains(&"document_activity"));
    assert!(types(&frames(&here, 1, &effects)).iter().all(|kind| *kind == "user_presence"));
}

#[test]
fn two_tabs_are_one_presence_and_the_second_sends_others_nothing() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), join(2, "dos"));
    let effects = here.join(at(1), join(3, "dos"));
    assert_eq!(frames(&here, 1, &effects), Vec::<Value>::new());
    assert_eq!(here.users()[0].connections, 2);
    let effects = here.leave(at(2), SeatId(3));
    assert_eq!(frames(&here, 1, &effects), Vec::<Value>::new());
    let effects = here.leave(at(3), SeatId(2));
    assert_eq!(frames(&here, 1, &effects)[0]["data"]["isOnline"], false);
}

#[test]
fn a_repeated_switch_changes_and_sends_nothing() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), join(2, "dos"));
    here.switch_document(at(1), SeatId(1), &doc("plan"), DocumentType::Canvas);
    let effects = here.switch_document(at(2), SeatId(2), &doc("plan"), DocumentType::Canvas);
    assert_eq!(types(&frames(&here, 1, &effects)), ["user_presence", "document_activity"]);
    assert_eq!(here.switch_document(at(3), SeatId(2), &doc("plan"), DocumentType::Canvas), []);
}

#[test]
fn a_document_keeps_its_type_while_anyone_is_in_it() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), join(2, "dos"));
    here.switch_document(at(1), SeatId(1), &doc("plan"), DocumentType::Timeline);
    let effects = here.switch_document(at(2), SeatId(2), &doc("plan"), DocumentType::Canvas);
    assert_eq!(frames(&here, 2, &effects)[0]["code"], "DOCUMENT_TYPE_MISMATCH");
    let effects = here.move_cursor(at(2), SeatId(2), cursor("plan", 1.0));
    assert_eq!(frames(&here, 2, &effects)[0]["code"], "DOCUMENT_TYPE_MISMATCH");
    here.leave(at(3), SeatId(1));
    let effects = here.switch_document(at(4), SeatId(2), &doc("plan"), DocumentType::Canvas);
    assert_eq!(types(&frames(&here, 2, &effects)), ["user_presence", "document_activity"]);
}

#[test]
fn a_reload_within_the_grace_is_seen_by_nobody() {
    let (mut here, mut there) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    let joined = here.join(at(0), join(2, "dos"));
    let token = token(&here, 2, &joined);
    pass(&here.digest_now(at(0)), &mut there, at(0));
    let all = here.store_all();
    there.loaded(at(0), Some(vec![(NodeId::of("a", "1"), stored(&all))]));
    there.join(at(1), join(11, "tre"));

    assert_eq!(here.lose(at(1000), SeatId(2)), []);
    let resumed = there.join(at(5000), resume(12, "dos", &token));
    assert_eq!(frames(&there, 11, &resumed), Vec::<Value>::new());
    assert_eq!(types(&frames(&there, 12, &resumed)), ["welcome", "bulk_presence"]);
    assert!(resumed.contains(&Effect::Forget { node: NodeId::of("a", "1"), connection: ConnectionId::new("c2") }));
    let heard = pass(&resumed, &mut here, at(5001));
    assert_eq!(frames(&here, 1, &heard), Vec::<Value>::new());
    assert_eq!(
        here.wake(at(20_000))
            .iter()
            .filter(|e| matches!(e, Effect::Publish(m) if matches!(m.body, Body::Left { .. })))
            .count(),
        0
    );
    assert!(here.users().iter().any(|user| user.user_id.as_str() == "dos"));
}

#[test]
fn the_grace_ends_with_a_leave() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), join(2, "dos"));
    here.lose(at(1000), SeatId(2));
    let early = here.wake(at(10_900));
    assert_eq!(frames(&here, 1, &early), Vec::<Value>::new());
    let effects = here.wake(at(11_000));
    let left: Vec<_> =
        frames(&here, 1, &effects).into_iter().filter(|frame| frame["type"] == "user_presence").collect();
    assert_eq!(left[0]["data"]["isOnline"], false);
    assert_eq!(left[0]["data"]["userName"], "dos");
}

#[test]
fn a_token_supersedes_a_socket_that_looks_alive_and_its_late_end_changes_nothing() {
    let mut here = node("a");
    let joined = here.join(at(0), join(1, "una"));
    let token = token(&here, 1, &joined);
    let resumed = here.join(at(10), resume(2, "una", &token));
    assert!(resumed.contains(&Effect::Close { seat: SeatId(1), code: CloseCode::Normal, reason: "resumed elsewhere" }));
    assert_eq!(here.lose(at(20), SeatId(1)), []);
    assert_eq!(here.users()[0].connections, 1);
    let stolen = here.join(at(30), resume(3, "eve", &token));
    assert_ne!(frames(&here, 3, &stolen)[0]["data"]["connectionId"], "c1", "another user's token takes nothing");
}

#[test]
fn moves_are_conflated_to_one_frame_per_document_and_tick() {
    let mut here = node("a");
    for (seat, user) in [(1, "una"), (2, "dos"), (3, "tre")] {
        here.join(at(0), Join { document: Some(doc("plan")), ..join(seat, user) });
    }
    here.move_cursor(at(100), SeatId(1), cursor("plan", 1.0));
    assert_eq!(here.deadline(), Some(Duration::ZERO), "the first move does not wait");
    here.wake(at(100));
    for x in 2..50 {
        here.move_cursor(at(101), SeatId(1), cursor("plan", f64::from(x)));
        here.move_cursor(at(101), SeatId(2), cursor("plan", f64::from(-x)));
    }
    assert_eq!(here.wake(at(149)), []);
    let effects = here.wake(at(150));
    let frames = frames(&here, 3, &effects);
    assert_eq!(types(&frames), ["cursor_update"]);
    assert_eq!(frames[0]["data"]["cursors"][0]["position"]["x"], 49.0);
    assert_eq!(frames[0]["data"]["cursors"][1]["position"]["x"], -49.0);
    assert_eq!(published(&effects), [], "nobody elsewhere listens");
}

#[test]
fn silence_makes_idle_and_a_move_makes_active() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), Join { document: Some(doc("plan")), ..join(2, "dos") });
    here.update_status(at(0), SeatId(1), Status::Away);
    here.wake(at(60_000));
    let status = |here: &Presence, user: usize| here.users()[user].status;
    assert_eq!((status(&here, 0), status(&here, 1)), (Status::Idle, Status::Away));
    let effects = here.move_cursor(at(70_000), SeatId(2), cursor("plan", 1.0));
    assert_eq!(frames(&here, 1, &effects)[0]["data"]["status"], "active");
    here.wake(at(129_999));
    assert_eq!(status(&here, 0), Status::Active);
    here.wake(at(130_000));
    assert_eq!(status(&here, 0), Status::Idle);
}

#[test]
fn a_dead_node_takes_its_people_with_it_and_a_departing_one_does_not() {
    let (mut here, mut dying) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    pass(&dying.join(at(0), join(11, "dos")), &mut here, at(1));
    let effects = here.nodes_gone(at(5), &[NodeId::of("b", "1")]);
    assert_eq!(frames(&here, 1, &effects)[0]["data"]["isOnline"], false);
    assert_eq!(pass(&dying.join(at(0), join(12, "dos")), &mut here, at(6)), [], "the dead are not heard");

    let mut leaving = node("c");
    pass(&leaving.join(at(10), join(21, "tre")), &mut here, at(10));
    pass(&leaving.depart(), &mut here, at(11));
    let late = leaving.join(at(0), join(29, "late"));
    assert_eq!(here.nodes_gone(at(12), &[NodeId::of("c", "1")]), []);
    assert_eq!(pass(&late, &mut here, at(13)), []);
    let effects = here.wake(at(10_011));
    assert!(frames(&here, 1, &effects).iter().any(|frame| frame["data"]["isOnline"] == false));
}

#[test]
fn two_types_at_once_are_settled_for_the_first() {
    let (mut here, mut there) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    there.join(at(0), join(11, "dos"));
    let first = here.switch_document(at(10), SeatId(1), &doc("plan"), DocumentType::Canvas);
    let second = there.switch_document(at(11), SeatId(11), &doc("plan"), DocumentType::Timeline);
    assert_eq!(pass(&second, &mut here, at(12)).iter().filter(|e| matches!(e, Effect::Close { .. })).count(), 0);
    let settled = pass(&first, &mut there, at(12));
    assert!(frames(&there, 11, &settled).iter().any(|frame| frame["code"] == "DOCUMENT_TYPE_MISMATCH"));
    pass(&settled, &mut here, at(13));
    assert_eq!(here.users().iter().filter(|user| !user.documents.is_empty()).count(), 1);
}

fn stored(effects: &[Effect]) -> Vec<Record> {
    let record = |effect: &Effect| match effect {
        Effect::Store { record, .. } => Some((**record).clone()),
        _ => None,
    };
    effects.iter().filter_map(record).collect()
}

impl Presence {
    fn digest_now(&mut self, now: Moment) -> Vec<Effect> {
        self.digest(now);
        self.effects()
    }
}

/// A user without times, which are told with other changes only, and perhaps without positions.
fn still(mut user: UserPresence, with_positions: bool) -> UserPresence {
    user.last_active = Timestamp::from_unix_ms(0);
    for presence in user.documents.values_mut() {
        presence.position = presence.position.take().filter(|_| with_positions);
        presence.last_active_in_document = Timestamp::from_unix_ms(0);
    }
    user
}

// ---- whatever happens ----------------------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Step {
    Join {
        node: usize,
        user: u8,
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
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2usize, 0..4u8).prop_map(|(node, user)| Step::Join { node, user }),
        2 => (0..2usize, any::<usize>()).prop_map(|(node, which)| Step::Resume { node, which }),
        2 => any::<usize>().prop_map(|which| Step::Lose { which }),
        2 => any::<usize>().prop_map(|which| Step::Leave { which }),
        3 => (any::<usize>(), 0..3u8, prop::bool::weighted(0.9)).prop_map(|(which, document, kind)| Step::Switch { which, document, kind }),
        4 => (any::<usize>(), 0..3u8, any::<i16>()).prop_map(|(which, document, x)| Step::Move { which, document, x }),
        2 => (1..40u8).prop_map(|tenths| Step::Wait { tenths }),
        8 => any::<usize>().prop_map(|which| Step::Deliver { which }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
        1 => any::<usize>().prop_map(|which| Step::Double { which }),
    ]
}

/// Two nodes, the messages between them, and every socket there ever was.
struct World {
    nodes: [Presence; 2],
    now: u64,
    wire: Vec<(usize, NodeMessage)>,
    /// Live sockets: seat to node.
    seats: BTreeMap<u64, usize>,
    tokens: Vec<(String, u8)>,
    /// The store's tables.
    tables: BTreeMap<NodeId, BTreeMap<ConnectionId, Record>>,
    next: u64,
}

impl World {
    fn new() -> Self {
        Self {
            nodes: [node("a"), node("b")],
            now: 1,
            wire: Vec::new(),
            seats: BTreeMap::new(),
            tokens: Vec::new(),
            tables: BTreeMap::new(),
            next: 1,
        }
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(message) => self.wire.push((1 - node, message)),
                Effect::Close { seat, .. } => drop(self.seats.remove(&seat.0)),
                Effect::Load => {
                    let tables = self.tables.iter().filter(|(_, table)| !table.is_empty());
                    let tables =
                        tables.map(|(node, table)| (node.clone(), table.values().cloned().collect())).collect();
                    let effects = self.nodes[node].loaded(at(self.now), Some(tables));
                    self.perform(node, effects);
                }
                Effect::Store { connection, record } => {
                    let table = self.tables.entry(self.nodes[node].node.clone()).or_default();
                    table.insert(connection, *record);
                }
                Effect::Forget { node, connection } => {
                    self.tables.entry(node).or_default().remove(&connection);
                }
                _ => {}
            }
        }
    }

    fn deliver(&mut self, index: usize) {
        let (to, message) = self.wire.remove(index);
        let effects = self.nodes[to].heard(at(self.now), message);
        self.perform(to, effects);
    }

    fn admit(&mut self, node: usize, user: u8, token: Option<String>) {
        let seat = self.next;
        self.next += 1;
        let name = format!("user{user}");
        let ask = Join { resume: token.map(Secret::new), ..join(seat, &name) };
        self.seats.insert(seat, node);
        let effects = self.nodes[node].join(at(self.now), ask);
        self.tokens.push((self::token(&self.nodes[node], seat, &effects), user));
        self.perform(node, effects);
    }

    fn some_seat(&self, which: usize) -> Option<(u64, usize)> {
        let count = self.seats.len();
        (count > 0).then(|| self.seats.iter().nth(which % count).map(|(seat, node)| (*seat, *node))).flatten()
    }

    fn wait(&mut self, tenths: u64) {
        for _ in 0..tenths {
            self.now += 100;
            for node in 0..2 {
                let effects = self.nodes[node].wake(at(self.now));
                self.perform(node, effects);
            }
        }
    }

    fn take(&mut self, step: Step) {
        let now = at(self.now);
        match step {
            Step::Join { node, user } => self.admit(node, user, None),
            Step::Resume { node, which } => {
                if let Some((token, user)) =
                    (!self.tokens.is_empty()).then(|| self.tokens[which % self.tokens.len()].clone())
                {
                    self.admit(node, user, Some(token));
                }
            }
            Step::Wait { tenths } => self.wait(tenths.into()),
            Step::Deliver { which } if !self.wire.is_empty() => self.deliver(which % self.wire.len()),
            Step::Drop { which } if !self.wire.is_empty() => drop(self.wire.remove(which % self.wire.len())),
            Step::Double { which } if !self.wire.is_empty() => {
                let copy = self.wire[which % self.wire.len()].clone();
                self.wire.push(copy);
            }
            Step::Lose { which } | Step::Leave { which } | Step::Switch { which, .. } | Step::Move { which, .. } => {
                let Some((seat, node)) = self.some_seat(which) else { return };
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
                    _ => Vec::new(),
                };
                if matches!(step, Step::Lose { .. } | Step::Leave { .. }) {
                    self.seats.remove(&seat.0);
                }
                self.perform(node, effects);
            }
            Step::Deliver { .. } | Step::Drop { .. } | Step::Double { .. } => {}
        }
    }

    /// From here on nothing is lost, and time passes until every grace is over and digests had their say.
    fn calm(&mut self) {
        for _ in 0..200 {
            while !self.wire.is_empty() {
                self.deliver(0);
            }
            self.wait(1);
        }
        self.wire.clear();
    }
}

/// Takes the steps, lets everything come to rest, and compares both rosters with the live sockets.
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
    // Where nobody is there to see them, positions and times are not told.
    let seen = world.nodes.iter().all(|node| node.own_connections() > 0);
    let told = |node: &Presence| node.users().into_iter().map(|user| still(user, seen)).collect::<Vec<_>>();
    for (one, other) in told(&world.nodes[0]).iter().zip(&told(&world.nodes[1])) {
        prop_assert_eq!(one, other);
    }
    Ok(())
}

#[test]
fn a_move_that_overtakes_its_document_is_told_again() {
    let steps = vec![
        Step::Join { node: 0, user: 0 },
        Step::Switch { which: 0, document: 0, kind: false },
        Step::Switch { which: 0, document: 1, kind: false },
        Step::Move { which: 0, document: 0, x: 0 },
        Step::Join { node: 1, user: 0 },
        Step::Join { node: 0, user: 0 },
        Step::Deliver { which: 17_512_555_926_330_596_059 },
        Step::Deliver { which: 5_746_893_079_571_965_278 },
        Step::Wait { tenths: 1 },
        Step::Join { node: 0, user: 0 },
        Step::Leave { which: 1_267_321_579_651_967_170 },
        Step::Deliver { which: 1_916_755_515_854_656_159 },
    ];
    rosters_agree(steps).unwrap();
}

#[test]
fn who_left_and_was_let_in_elsewhere_before_that_was_heard_has_left() {
    let steps = vec![
        Step::Join { node: 1, user: 0 },
        Step::Deliver { which: 0 },
        Step::Resume { node: 1, which: 0 },
        Step::Drop { which: 0 },
        Step::Wait { tenths: 20 },
        Step::Leave { which: 0 },
        Step::Deliver { which: 8_990_729_438_214_341_334 },
        Step::Resume { node: 0, which: 0 },
        Step::Drop { which: 3_860_799_016_651_333_509 },
    ];
    rosters_agree(steps).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is joined, resumed, lost, left, opened, moved, delivered late, twice or never: in the end both rosters are
    /// the live sockets, and say the same of everyone.
    #[test]
    fn rosters_end_at_the_live_sockets_on_both_nodes(steps in prop::collection::vec(step(), 0..80)) {
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
