//! The machine's promises in single steps; [`world`] has those that hold whatever happens.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::presence::client::{CursorUpdate, Secret};
use mille_shared::presence::{Body, DocumentId, DocumentType, NodeMessage, Position, Record, Status, Viewport};
use mille_shared::{CloseCode, ConnectionId, NodeId, ProjectId, Timestamp, UserId};
use serde_json::Value;

use super::*;

mod documents;
mod pressure;
mod repairs;
mod world;

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
    let texts = |effect: &Effect| match effect {
        Effect::Send { to, frame } if mine(to) => vec![Arc::clone(frame)],
        Effect::Picture { seat: to, frames } if *to == SeatId(seat) => frames.clone(),
        Effect::Reply { seat: to, frame } if *to == SeatId(seat) => vec![Arc::clone(frame)],
        Effect::Cursors(batch) if mine(&To::Viewers(batch.document.clone())) => vec![Arc::clone(&batch.text)],
        _ => Vec::new(),
    };
    effects.iter().flat_map(texts).map(|text| serde_json::from_str(&text).unwrap()).collect()
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
    let mut effects = here.join(at(1), Join { document: Some(doc("plan")), ..join(2, "dos") });
    effects.extend(here.wake(at(1)));
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
    let mut effects = here.switch_document(at(2), SeatId(2), &doc("plan"), DocumentType::Canvas);
    effects.extend(here.wake(at(2)));
    assert_eq!(types(&frames(&here, 1, &effects)), ["user_presence", "document_activity"]);
    assert_eq!(here.switch_document(at(3), SeatId(2), &doc("plan"), DocumentType::Canvas), []);
    here.wake(at(60_003));
    assert_eq!(here.users()[0].status, Status::Idle);
    assert_eq!(here.switch_document(at(61_000), SeatId(2), &doc("plan"), DocumentType::Canvas), [], "also of the idle");
    assert_eq!(here.users()[0].last_active.unix_ms, START_MS + 2);
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
fn everyone_is_told_the_tick_when_the_room_grows_when_frames_are_late_and_with_a_refresh() {
    let told = |here: &Presence, seat, effects: &[Effect]| {
        let frames = frames(here, seat, effects);
        frames.iter().rfind(|frame| frame["type"] == "throttle").map(|frame| frame["data"]["cursorIntervalMs"].clone())
    };
    let mut here = node("a");
    for seat in 1..=201 {
        here.join(at(0), Join { document: Some(doc("plan")), ..join(seat, &format!("u{seat}")) });
    }
    let grown = here.wake(at(2_000));
    assert_eq!((told(&here, 1, &grown), told(&here, 201, &grown)), (Some(100.into()), Some(100.into())));
    let late = here.join(at(2_001), Join { is_welcomed: true, ..join(300, "late") });
    assert_eq!(told(&here, 300, &late), Some(100.into()), "a newcomer was told the tick of a small room");
    for tick in 1..=10 {
        here.move_cursor(at(2_000 + 200 * tick), SeatId(1), cursor("plan", 1.0));
        let effects = here.wake(at(2_000 + 200 * tick + 90));
        if let Some(interval) = told(&here, 2, &effects) {
            assert_eq!(interval, 150, "frames that come 90 ms late");
        }
    }
    let refreshed = here.refresh(SeatId(2));
    assert_eq!(told(&here, 2, &refreshed), Some(150.into()), "who missed it is told again");
}

#[test]
fn whoever_comes_back_idle_is_idle_still_and_nobody_is_told() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let joined = here.join(at(0), join(2, "dos"));
    let token = token(&here, 2, &joined);
    here.wake(at(60_000));
    here.lose(at(61_000), SeatId(2));
    let resumed = here.join(at(62_000), resume(3, "dos", &token));
    assert_eq!(frames(&here, 1, &resumed), Vec::<Value>::new());
    let dos = &here.users()[0];
    assert_eq!((dos.status, dos.last_active.unix_ms), (Status::Idle, START_MS));
    here.acted(at(63_000), &UserId::new("dos"));
    assert_eq!(here.users()[0].status, Status::Active);
    here.lose(at(64_000), SeatId(3));
    here.join(at(70_000), resume(4, "dos", &token));
    here.wake(at(122_999));
    assert_eq!(here.users()[0].status, Status::Active);
    here.wake(at(123_000));
    assert_eq!(here.users()[0].status, Status::Idle, "a minute after they did something, not after they came back");
}

#[test]
fn a_new_name_is_told() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), join(2, "dos"));
    let effects = here.join(at(1), Join { name: "Dosia".into(), ..join(2, "dos") });
    assert_eq!(frames(&here, 1, &effects)[0]["data"]["userName"], "Dosia");
}

#[test]
fn who_only_looks_around_can_be_followed() {
    let mut here = node("a");
    here.join(at(0), Join { document: Some(doc("plan")), ..join(1, "una") });
    here.join(at(0), Join { document: Some(doc("plan")), ..join(2, "dos") });
    here.wake(at(0));
    here.move_viewport(at(1), SeatId(2), &doc("plan"), Viewport { x: 5.0, y: 6.0, zoom: 2.0 });
    let effects = here.wake(at(1));
    let cursor = &frames(&here, 1, &effects)[0]["data"]["cursors"][0];
    assert_eq!((cursor["position"].is_null(), cursor["viewport"]["zoom"].as_f64()), (true, Some(2.0)));
    let place = &here.users()[0].documents[&doc("plan")];
    assert_eq!((place.viewport.map(|viewport| viewport.x), place.last_active_in_document), (Some(5.0), at(1).wall));
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
    let effects = here.acted(at(140_000), &UserId::new("dos"));
    assert_eq!(frames(&here, 1, &effects)[0]["data"]["status"], "active", "an edit is an activity too");
    here.acted(at(140_000), &UserId::new("una"));
    assert_eq!(status(&here, 1), Status::Away, "what they chose, they keep");
}

#[test]
fn whose_client_says_idle_or_away_by_a_timer_is_not_active_by_that() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    here.join(at(0), join(2, "dos"));
    here.wake(at(60_000));
    let idle = here.update_status(at(61_000), SeatId(2), Status::Idle);
    assert_eq!(frames(&here, 1, &idle), Vec::<Value>::new(), "they were idle before");
    let away = here.update_status(at(62_000), SeatId(2), Status::Away);
    let told: Vec<Value> =
        frames(&here, 1, &away).into_iter().map(|mut frame| frame["data"]["status"].take()).collect();
    assert_eq!(told, ["away"]);
    assert_eq!(here.users()[0].last_active, at(0).wall);
    let none = here.update_status(at(63_000), SeatId(9), Status::Away);
    assert_eq!(frames(&here, 9, &none)[0]["code"], "NOT_JOINED");
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
