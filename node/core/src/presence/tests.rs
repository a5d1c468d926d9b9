//! The machine's promises in single steps; [`world`] has those that hold whatever happens.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::presence::client::{CursorUpdate, Secret};
use mille_shared::presence::{Body, DocumentId, DocumentType, NodeMessage, Position, Record, Status, Viewport};
use mille_shared::{CloseCode, ConnectionId, NodeId, ProjectId, Timestamp, UserId};
use serde_json::Value;

use super::*;

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
    let mut effects = here.switch_document(at(4), SeatId(2), &doc("plan"), DocumentType::Canvas);
    effects.extend(here.wake(at(4)));
    assert_eq!(types(&frames(&here, 2, &effects)), ["user_presence", "document_activity"]);
}

#[test]
fn who_joined_with_a_name_alone_may_say_the_type_later() {
    let (mut here, mut there) = (node("a"), node("b"));
    let joined = here.join(at(0), Join { document: Some(doc("sheet")), ..join(1, "una") });
    pass(&joined, &mut there, at(1));
    pass(&there.join(at(1), Join { document: Some(doc("sheet")), ..join(11, "dos") }), &mut here, at(2));
    let said = here.switch_document(at(3), SeatId(1), &doc("sheet"), DocumentType::Spreadsheet);
    assert!(frames(&here, 1, &said).iter().all(|frame| frame["type"] != "error"));
    let heard = pass(&said, &mut there, at(4));
    assert!(frames(&there, 11, &heard).iter().all(|frame| frame["type"] != "error"), "they said nothing else");
    pass(&heard, &mut here, at(5));
    for node in [&here, &there] {
        assert!(node.users().iter().all(|u| u.documents[&doc("sheet")].document_type == DocumentType::Spreadsheet));
    }
    let other = there.switch_document(at(6), SeatId(11), &doc("sheet"), DocumentType::Canvas);
    assert_eq!(frames(&there, 11, &other)[0]["code"], "DOCUMENT_TYPE_MISMATCH");
    let repeated = here.switch_document(at(7), SeatId(1), &doc("sheet"), DocumentType::Spreadsheet);
    assert_eq!(repeated, []);
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
fn a_crowd_that_comes_at_once_costs_a_list_per_while_and_ends_with_the_whole() {
    let mut here = node("a");
    here.join(at(0), Join { document: Some(doc("plan")), ..join(1, "una") });
    here.wake(at(0));
    let mut lists = Vec::new();
    for seat in 2..=300 {
        let user = format!("u{seat}");
        let joined = here.join(at(seat), Join { document: Some(doc("plan")), ..join(seat, &user) });
        let told = [joined, here.wake(at(seat))].concat();
        let own = frames(&here, seat, &told).into_iter().filter(|frame| frame["type"] == "document_activity");
        let own: Vec<usize> = own.map(|frame| frame["data"]["activeUsers"].as_array().unwrap().len()).collect();
        assert_eq!(own, [usize::try_from(seat).unwrap()], "once, and whole");
        lists.extend(frames(&here, 1, &told).into_iter().filter(|frame| frame["type"] == "document_activity"));
    }
    let last = here.wake(at(2_300));
    lists.extend(frames(&here, 1, &last).into_iter().filter(|f| f["type"] == "document_activity"));
    assert!(lists.len() <= 6, "{} lists", lists.len());
    assert_eq!(lists.last().unwrap()["data"]["activeUsers"].as_array().unwrap().len(), 300);
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
    assert_eq!(here.users()[0].documents[&doc("plan")].viewport.map(|viewport| viewport.x), Some(5.0));
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
fn who_reloads_twice_keeps_the_place_though_a_node_missed_the_first_and_its_clock_is_late() {
    let (mut first, mut second) = (node("a"), node("z"));
    let joined = first.join(at(90_000), join(1, "una"));
    let token_of_join = token(&first, 1, &joined);
    pass(&joined, &mut second, at(90_000));
    let once = second.join(at(91_000), resume(11, "una", &token_of_join));
    let token_of_reload = token(&second, 11, &once);
    // The first node hears nothing of it, and thinks that it is a minute earlier.
    let twice = first.join(at(31_000), resume(2, "una", &token_of_reload));
    let heard = pass(&twice, &mut second, at(91_100));
    assert!(heard.contains(&Effect::Close { seat: SeatId(11), code: CloseCode::Normal, reason: "resumed elsewhere" }));
    let late = pass(&once, &mut first, at(31_200));
    assert_eq!(frames(&first, 2, &late), Vec::<Value>::new());
    assert!(!late.iter().any(|effect| matches!(effect, Effect::Close { .. })), "the newest page is closed");
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

#[test]
fn who_asks_right_after_an_answer_is_answered_too() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let ask = |stamp| NodeMessage { from: NodeId::of("b", "1"), stamp, body: Body::Ask { node: NodeId::of("a", "1") } };
    let answers =
        |effects: &[Effect]| published(effects).iter().filter(|m| matches!(m.body, Body::Everyone(_))).count();
    assert_eq!(answers(&here.heard(at(0), ask(1))), 1);
    assert_eq!(answers(&here.heard(at(1), ask(2))) + answers(&here.heard(at(2), ask(3))), 0, "not at once");
    assert_eq!(answers(&here.wake(at(200))), 1, "but once for both");
}

#[test]
fn a_user_whose_tabs_opened_a_document_as_two_types_is_shown_with_the_first() {
    let (mut here, mut there) = (node("a"), node("b"));
    for seat in [1, 2] {
        here.join(at(0), join(seat, ["una", "dos"][usize::try_from(seat).unwrap() - 1]));
    }
    there.join(at(0), join(11, "dos"));
    there.switch_document(at(10), SeatId(11), &doc("plan"), DocumentType::Timeline);
    let first = there.store_all();
    here.switch_document(at(20), SeatId(2), &doc("plan"), DocumentType::Canvas);
    let settled = here.loaded(at(21), Some(vec![(NodeId::of("b", "1"), stored(&first))]));
    let told = frames(&here, 1, &settled);
    let last = told.iter().rfind(|frame| frame["type"] == "user_presence").unwrap();
    assert_eq!(last["data"]["documents"]["plan"]["documentType"], "timeline");
}

#[test]
fn a_page_that_resumes_in_a_document_gets_its_list() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let joined = here.join(at(0), Join { document: Some(doc("plan")), ..join(2, "dos") });
    let token = token(&here, 2, &joined);
    for document in [None, Some(doc("plan"))] {
        let seat = if document.is_some() { 4 } else { 3 };
        let resumed = here.join(at(5), Join { document, ..resume(seat, "dos", &token) });
        assert_eq!(types(&frames(&here, seat, &resumed)), ["welcome", "bulk_presence", "document_activity"]);
        assert_eq!(frames(&here, 1, &resumed), Vec::<Value>::new());
    }
}

#[test]
fn a_machine_that_begins_anew_tells_nobody_anything_and_forgets_nobody() {
    let (mut old, mut there) = (node("a"), node("b"));
    old.join(at(0), Join { document: Some(doc("plan")), ..join(1, "una") });
    pass(&there.join(at(0), join(11, "dos")), &mut old, at(1));
    let lost = old.join(at(1), join(2, "tre"));
    let token = token(&old, 2, &lost);
    old.lose(at(2), SeatId(2));
    old.move_cursor(at(3), SeatId(1), cursor("plan", 7.0));

    let (project, id, settings) = (old.project, old.node.clone(), old.settings);
    let (mut anew, effects) = Presence::reopen(at(4), project, id, settings, old.keep());
    assert!(frames(&anew, 1, &effects).is_empty() && effects.contains(&Effect::Load));
    assert_eq!(stored(&effects).len(), 2, "what may not have been written is written again");
    assert_eq!(anew.users(), old.users());
    let told = anew.wake(at(100));
    assert!(
        published(&told).iter().any(|message| matches!(message.body, Body::Cursors { .. })),
        "an untold move is told"
    );
    let resumed = anew.join(at(5_000), resume(3, "tre", &token));
    assert_eq!(frames(&anew, 1, &resumed), Vec::<Value>::new(), "a place is kept over it");
    anew.lose(at(5_001), SeatId(3));
    let late = anew.wake(at(15_001));
    assert!(frames(&anew, 1, &late).iter().any(|frame| frame["data"]["isOnline"] == false), "and has its end");
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
