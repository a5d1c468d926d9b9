//! What is lost, late or done over between nodes, and how it is made good.

use super::*;

fn ask(of: &str, stamp: u64) -> NodeMessage {
    NodeMessage { from: NodeId::of("z", "1"), stamp, body: Body::Ask { node: NodeId::of(of, "1") } }
}

fn answers(effects: &[Effect]) -> usize {
    published(effects).iter().filter(|message| matches!(message.body, Body::Everyone(_))).count()
}

#[test]
fn who_asks_right_after_an_answer_is_answered_too() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    assert_eq!(answers(&here.heard(at(0), ask("a", 1))), 1);
    assert_eq!(answers(&here.heard(at(1), ask("a", 2))) + answers(&here.heard(at(2), ask("a", 3))), 0, "not at once");
    assert_eq!(answers(&here.wake(at(200))), 1, "but once for both");
}

#[test]
fn who_does_not_know_its_own_table_yet_does_not_say_that_it_has_nobody() {
    let (mut anew, _) = Presence::open(at(100), ProjectId(1), NodeId::of("c", "1"), Settings::default());
    assert_eq!(answers(&anew.heard(at(101), ask("c", 1))), 0);
    assert_eq!(answers(&anew.loaded(at(102), Some(Vec::new()))), 1, "once it knows, it says so");
}

#[test]
fn the_first_roster_waits_for_those_who_know_better_than_the_store_but_not_for_long() {
    let mut there = node("b");
    let joined = there.join(at(0), Join { document: Some(doc("plan")), ..join(11, "dos") });
    let table = || Some(vec![(NodeId::of("b", "1"), stored(&joined))]);
    there.move_cursor(at(5_000), SeatId(11), cursor("plan", 7.0));
    for answers in [true, false] {
        let (mut here, _) = Presence::open(at(6_000), ProjectId(1), NodeId::of("a", "1"), Settings::default());
        let asked = here.loaded(at(6_010), table());
        assert!(!here.is_ready());
        if answers {
            let answer = pass(&asked, &mut there, at(6_011));
            pass(&answer, &mut here, at(6_012));
            let dos = &here.users()[0];
            assert!(dos.documents[&doc("plan")].position.is_some());
            assert_eq!(dos.last_active.unix_ms, START_MS + 5_000);
        } else {
            let due = here.deadline().unwrap();
            assert!(due <= Duration::from_millis(6_500));
            here.wake(at(u64::try_from(due.as_millis()).unwrap()));
        }
        assert!(here.is_ready());
    }
}

#[test]
fn a_node_that_was_only_stopped_is_believed_once_it_is_back() {
    let (mut here, mut there) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    let joined = there.join(at(0), join(11, "dos"));
    pass(&joined, &mut here, at(0));
    here.nodes_gone(at(10_000), &[NodeId::of("b", "1")]);
    assert_eq!(here.users().len(), 1);
    here.nodes_back(&[NodeId::of("b", "1")]);
    let asked = pass(&there.digest_now(at(11_000)), &mut here, at(11_000));
    pass(&pass(&asked, &mut there, at(11_001)), &mut here, at(11_002));
    assert_eq!(here.users().len(), 2);
}

#[test]
fn after_an_outage_of_the_store_tables_that_ended_get_the_time_to_be_renewed() {
    let (mut here, mut there) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    pass(&there.join(at(0), join(11, "dos")), &mut here, at(0));
    here.interrupted(at(20_000));
    let loaded = here.loaded(at(20_010), Some(Vec::new()));
    assert_eq!(frames(&here, 1, &loaded), Vec::<Value>::new());
    assert_eq!(here.users().len(), 2, "nobody left");
    here.wake(at(22_000));
    here.wake(at(26_000));
    here.loaded(at(26_500), Some(Vec::new()));
    assert_eq!(here.users().len(), 1, "whoever says nothing for so long is gone");
}

#[test]
fn a_store_that_is_back_before_its_outage_is_heard_of_makes_nobody_gone() {
    let (mut here, mut there) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    pass(&there.join(at(0), join(11, "dos")), &mut here, at(0));
    here.wake(at(8_000));
    here.loaded(at(10_000), None);
    assert!(here.wake(at(12_000)).contains(&Effect::Load));
    here.loaded(at(12_010), Some(Vec::new()));
    assert_eq!(here.users().len(), 2, "their node gets the time to renew its table");
    here.interrupted(at(12_020));
    here.loaded(at(12_030), Some(Vec::new()));
    assert_eq!(here.users().len(), 2);
    here.wake(at(18_000));
    here.loaded(at(18_100), Some(Vec::new()));
    assert_eq!(here.users().len(), 1, "and no more than that");
}

#[test]
fn whoever_the_store_lost_is_put_there_again_and_nobody_else() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let second = here.join(at(0), join(2, "dos"));
    here.interrupted(at(20_000));
    let table = || Some(vec![(NodeId::of("a", "1"), stored(&second))]);
    let again: Vec<_> = stored(&here.loaded(at(20_010), table())).into_iter().map(|record| record.user).collect();
    assert_eq!(again, [UserId::new("una")], "a table that began anew with one lacks the others");
    here.depart();
    assert_eq!(stored(&here.loaded(at(20_020), table())), [], "what the node leaves behind is to end");
}

#[test]
fn who_left_elsewhere_is_taken_out_of_the_table_here() {
    let (mut here, mut there) = (node("a"), node("b"));
    let joined = here.join(at(0), join(1, "una"));
    let token = token(&here, 1, &joined);
    pass(&joined, &mut there, at(0));
    // The page comes back at the other node, and this one hears nothing of it.
    there.join(at(59_000), resume(11, "una", &token));
    // What it thinks it has becomes idle, and is stored (after the other node took it out).
    assert_eq!(stored(&here.wake(at(60_000))).len(), 1);
    let left = there.leave(at(60_001), SeatId(11));
    let effects = pass(&left, &mut here, at(60_001));
    assert_eq!(here.users(), []);
    let forgets = |effect: &Effect| matches!(effect, Effect::Forget { node, .. } if *node == here.node);
    assert!(effects.iter().any(forgets), "else it is a ghost after the next load");
}

#[test]
fn a_farewell_that_comes_late_takes_nobody_who_is_back() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let mut former = node("c");
    let joined = former.join(at(0), join(21, "tre"));
    let token = token(&former, 21, &joined);
    let record = stored(&joined);
    pass(&joined, &mut here, at(0));
    let farewell = former.depart();
    // The project's next actor on that node, which has the table.
    let (mut anew, _) = Presence::open(at(100), ProjectId(1), NodeId::of("c", "1"), Settings::default());
    anew.loaded(at(100), Some(vec![(NodeId::of("c", "1"), record)]));
    pass(&anew.join(at(150), resume(22, "tre", &token)), &mut here, at(151));
    pass(&farewell, &mut here, at(152));
    for tenth in 2..400_u64 {
        let now = at(tenth * 100);
        pass(&anew.wake(now), &mut here, now);
        let asked = here.wake(now);
        let answer = pass(&asked, &mut anew, now);
        pass(&answer, &mut here, now);
        assert_eq!(here.users().len(), 2, "tre has been on the other node all the time");
    }
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
fn who_was_on_the_way_out_when_its_lease_ended_has_said_goodbye_though_nobody_heard_it() {
    let (mut here, mut leaving) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    let joined = leaving.join(at(0), join(11, "dos"));
    let token = token(&leaving, 11, &joined);
    pass(&joined, &mut here, at(1));
    leaving.depart();
    let gone = here.nodes_departed(at(1_000), &[NodeId::of("b", "1")]);
    assert_eq!(frames(&here, 1, &gone), Vec::<Value>::new());
    let early = here.wake(at(10_999));
    assert_eq!(frames(&here, 1, &early), Vec::<Value>::new());
    let resumed = here.join(at(10_999), resume(2, "dos", &token));
    assert_eq!(frames(&here, 1, &resumed), Vec::<Value>::new());
    here.wake(at(30_000));
    assert_eq!(here.users().len(), 2);
}

#[test]
fn a_machine_that_begins_anew_tells_nobody_anything_and_forgets_nobody() {
    let (mut old, mut there) = (node("a"), node("b"));
    old.join(at(0), Join { document: Some(doc("plan")), ..join(1, "una") });
    pass(&there.join(at(0), join(11, "dos")), &mut old, at(1));
    let lost = old.join(at(1), join(2, "tre"));
    let token = token(&old, 2, &lost);
    old.wake(at(1));
    old.lose(at(2), SeatId(2));
    let quiet = Presence::reopen(at(2), old.project, old.node.clone(), old.settings, old.keep()).0;
    assert!(quiet.deadline() > Some(Duration::from_millis(1_000)), "without a reason nobody is told anything");
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

#[test]
fn whoever_moves_elsewhere_keeps_no_machine_busy_where_nobody_is() {
    let (mut here, mut there) = (node("a"), node("b"));
    let joined = there.join(at(0), Join { document: Some(doc("plan")), ..join(11, "dos") });
    pass(&joined, &mut here, at(0));
    here.set_watching(at(0), true);
    pass(&here.digest_now(at(0)), &mut there, at(0));
    here.wake(at(0));
    here.set_watching(at(1), false);
    there.move_cursor(at(1), SeatId(11), cursor("plan", 1.0));
    let told = there.wake(at(1));
    assert!(!published(&told).is_empty());
    pass(&told, &mut here, at(1));
    assert!(here.is_idle(), "neither connections nor listeners");
    assert!(here.deadline() > Some(Duration::from_millis(1_000)));
}

#[test]
fn who_looks_again_where_nobody_is_sees_what_happened_since() {
    let (mut here, mut there) = (node("a"), node("b"));
    let joined = there.join(at(0), Join { document: Some(doc("plan")), ..join(11, "dos") });
    pass(&joined, &mut here, at(0));
    for second in [10, 20_u16] {
        let ms = 1_000 * u64::from(second);
        there.move_cursor(at(ms), SeatId(11), cursor("plan", second.into()));
        assert_eq!(published(&there.wake(at(ms))).len(), 1, "a digest: nobody elsewhere is told of moves");
        there.acted(at(ms + 1), &UserId::new("dos"));
        let asked = here.look(at(ms + 2));
        assert!(!here.is_ready(), "whoever looks waits");
        let answer = pass(&asked, &mut there, at(ms + 2));
        pass(&answer, &mut here, at(ms + 3));
        assert!(here.is_ready());
        assert_eq!(here.users(), there.users());
    }
    here.look(at(30_000));
    assert!(here.deadline() <= Some(Duration::from_millis(30_400)));
    here.wake(at(30_400));
    assert!(here.is_ready(), "who does not answer is not waited for");
    here.join(at(31_000), join(1, "una"));
    assert_eq!(here.look(at(31_001)), [], "with somebody here it is told anyway");
}

#[test]
fn a_change_that_comes_late_takes_no_newer_time_back() {
    let (mut here, mut there) = (node("a"), node("b"));
    here.join(at(0), join(1, "una"));
    pass(&there.join(at(0), Join { document: Some(doc("plan")), ..join(11, "dos") }), &mut here, at(0));
    here.set_watching(at(0), true);
    pass(&here.digest_now(at(0)), &mut there, at(0));
    let change = there.update_status(at(1_000), SeatId(11), Status::Away);
    there.move_cursor(at(1_500), SeatId(11), cursor("plan", 1.0));
    pass(&there.wake(at(1_500)), &mut here, at(1_500));
    pass(&change, &mut here, at(1_600));
    let dos = |node: &Presence| node.users().into_iter().find(|user| user.user_id.as_str() == "dos");
    assert_eq!(dos(&here), dos(&there));
}

#[test]
fn an_activity_that_is_no_move_is_told_with_the_next_digest_and_again_if_that_is_lost() {
    let (mut here, mut there) = (node("a"), node("b"));
    let joined = here.join(at(0), join(1, "una"));
    pass(&joined, &mut there, at(0));
    pass(&there.join(at(0), join(11, "dos")), &mut here, at(0));
    let active = |node: &Presence| node.users()[0].last_active.unix_ms - START_MS;
    there.acted(at(1_000), &UserId::new("dos"));
    assert_eq!(pass(&there.wake(at(2_000)), &mut here, at(2_000)), [], "nothing is to be asked");
    assert_eq!(active(&here), 1_000);
    there.acted(at(3_000), &UserId::new("dos"));
    assert!(!published(&there.wake(at(4_000))).is_empty(), "and lost");
    let asked = pass(&there.wake(at(6_000)), &mut here, at(6_000));
    pass(&pass(&asked, &mut there, at(6_001)), &mut here, at(6_002));
    assert_eq!(active(&here), 3_000);
}

#[test]
fn when_a_user_was_active_last_is_known_longer_than_the_tab_they_were_active_in() {
    let (mut here, mut there) = (node("a"), node("b"));
    pass(&here.join(at(0), join(1, "una")), &mut there, at(0));
    pass(&there.join(at(0), join(11, "una")), &mut here, at(0));
    pass(&here.join(at(0), join(2, "dos")), &mut there, at(0));
    pass(&here.switch_document(at(5_000), SeatId(1), &doc("plan"), DocumentType::Canvas), &mut there, at(5_000));
    let una = |node: &Presence| {
        let una = node.users().into_iter().find(|user| user.user_id.as_str() == "una").expect("she has another tab");
        (una.connections, una.last_active.unix_ms - START_MS)
    };
    assert_eq!((una(&here), una(&there)), ((2, 5_000), (2, 5_000)));
    pass(&here.lose(at(6_000), SeatId(1)), &mut there, at(6_000));
    pass(&here.wake(at(16_000)), &mut there, at(16_000));
    assert_eq!(una(&there), (1, 5_000));
    pass(&there.wake(at(18_000)), &mut here, at(18_000));
    assert_eq!(una(&here), (1, 5_000));
}
