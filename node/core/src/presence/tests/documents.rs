//! Documents: their lists, and their types.

use super::*;

fn list_of(effects: &[Effect], presence: &Presence, seat: u64) -> Option<usize> {
    let frames = frames(presence, seat, effects);
    let list = frames.iter().rfind(|frame| frame["type"] == "document_activity")?;
    list["data"]["activeUsers"].as_array().map(Vec::len)
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
        lists.extend(list_of(&told, &here, 1));
    }
    let last = here.wake(at(2_300));
    lists.extend(list_of(&last, &here, 1));
    assert!(lists.len() <= 6, "{} lists", lists.len());
    assert_eq!(lists.last(), Some(&300));
}

#[test]
fn a_list_is_a_reason_to_wake_at_once_or_when_its_while_is_over() {
    let mut here = node("a");
    here.join(at(0), Join { document: Some(doc("plan")), ..join(1, "una") });
    here.wake(at(0));
    here.wake(at(10_000));
    here.join(at(10_100), Join { document: Some(doc("plan")), ..join(2, "dos") });
    assert!(here.deadline() <= Some(Duration::from_millis(10_100)), "the first does not wait");
    here.wake(at(10_100));
    here.join(at(10_110), Join { document: Some(doc("plan")), ..join(3, "tre") });
    assert!(here.deadline() <= Some(Duration::from_millis(10_150)), "the next waits for a tick");
    let told = here.wake(at(10_150));
    assert_eq!(list_of(&told, &here, 1), Some(3));
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
fn a_type_that_somebody_said_holds_while_anyone_is_in_the_document() {
    let mut here = node("a");
    for (seat, user) in [(2, "dos"), (3, "tre")] {
        here.join(at(0), join(seat, user));
    }
    here.join(at(1), Join { document: Some(doc("plan")), ..join(1, "una") });
    here.switch_document(at(2), SeatId(2), &doc("plan"), DocumentType::Canvas);
    here.leave(at(3), SeatId(2));
    let effects = here.switch_document(at(4), SeatId(3), &doc("plan"), DocumentType::Timeline);
    let refused = frames(&here, 3, &effects).iter().any(|frame| frame["code"] == "DOCUMENT_TYPE_MISMATCH");
    assert!(refused, "una has been in it all the time, and it was said to be a canvas: {:?}", here.users());
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
fn the_first_who_says_a_type_says_it_however_word_travels() {
    let (mut a, mut b, mut c) = (node("a"), node("b"), node("c"));
    let una = a.join(at(1), Join { document: Some(doc("plan")), ..join(1, "una") });
    b.join(at(1), join(11, "dos"));
    c.join(at(1), join(21, "tre"));
    c.switch_document(at(10), SeatId(21), &doc("plan"), DocumentType::Canvas);
    let second = b.switch_document(at(20), SeatId(11), &doc("plan"), DocumentType::Timeline);
    // The later word reaches una's node first.
    let una_later = pass(&second, &mut a, at(21));
    pass(&una, &mut c, at(22));
    let told = pass(&una_later, &mut c, at(23));
    assert!(frames(&c, 21, &told).iter().all(|frame| frame["code"] != "DOCUMENT_TYPE_MISMATCH"), "tre was first");
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
fn a_user_whose_tabs_opened_a_document_as_two_types_is_shown_with_the_first() {
    let (mut here, mut there) = (node("a"), node("b"));
    for (seat, user) in [(1, "una"), (2, "dos")] {
        here.join(at(0), join(seat, user));
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
fn a_project_has_so_many_documents_at_once_and_no_more() {
    let mut here = node("a");
    let max = u64::try_from(mille_shared::limits::DOCUMENTS_PER_PROJECT_MAX).unwrap();
    for seat in 1..=max + 1 {
        here.join(at(0), join(seat, &format!("u{seat}")));
        let effects = here.switch_document(at(1), SeatId(seat), &doc(&format!("d{seat}")), DocumentType::Canvas);
        let refused = frames(&here, seat, &effects).into_iter().find(|frame| frame["type"] == "error");
        assert_eq!(refused.is_some(), seat > max, "{seat}");
        if let Some(error) = refused {
            assert_eq!((&error["code"], &error["limit"]), (&"LIMIT_EXCEEDED".into(), &max.into()), "{error}");
        }
    }
    assert_eq!(here.census().total.documents, usize::try_from(max).unwrap());
    let open = here.switch_document(at(2), SeatId(max + 1), &doc("d1"), DocumentType::Canvas);
    assert!(frames(&here, max + 1, &open).iter().all(|frame| frame["type"] != "error"), "one that is open has room");
    here.switch_document(at(3), SeatId(2), &doc("d1"), DocumentType::Canvas);
    let freed = here.switch_document(at(4), SeatId(max + 1), &doc("new"), DocumentType::Canvas);
    assert!(frames(&here, max + 1, &freed).iter().all(|frame| frame["type"] != "error"), "what is left makes room");
}
