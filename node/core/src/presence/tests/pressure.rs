//! What is told later, when there is too much to tell or the node is under pressure.

use super::*;
use crate::pressure::Level;

fn presences(here: &Presence, seat: u64, effects: &[Effect]) -> Vec<Value> {
    let presences = frames(here, seat, effects).into_iter().filter(|frame| frame["type"] == "user_presence");
    presences.map(|mut frame| frame["data"].take()).collect()
}

fn lists(here: &Presence, seat: u64, effects: &[Effect]) -> usize {
    frames(here, seat, effects).iter().filter(|frame| frame["type"] == "document_activity").count()
}

/// Wakes the machine whenever it asks, until `until_ms`. Brings what it did, by time.
fn run(here: &mut Presence, until_ms: u64) -> Vec<(u64, Vec<Effect>)> {
    let mut done = Vec::new();
    while let Some(due) = here.deadline().filter(|due| *due <= Duration::from_millis(until_ms)) {
        let ms = u64::try_from(due.as_millis()).unwrap();
        done.push((ms, here.wake(at(ms))));
    }
    done
}

#[test]
fn a_thousand_who_become_idle_together_are_told_of_over_a_while_and_all_of_them() {
    const PEOPLE: u64 = 1_000;
    let mut here = node("a");
    for seat in 1..=PEOPLE {
        here.join(at(0), join(seat, &format!("u{seat}")));
    }
    let told: Vec<(u64, usize)> =
        run(&mut here, 140_000).iter().map(|(ms, effects)| (*ms, presences(&here, 1, effects).len())).collect();
    let within = |from: u64, to: u64| -> usize {
        told.iter().filter(|(ms, _)| (from..to).contains(ms)).map(|(_, count)| count).sum()
    };
    assert!(within(60_000, 61_000) <= 50, "{} idle people in the first second", within(60_000, 61_000));
    assert!(within(70_000, 71_000) <= 25, "{} of them in a later one", within(70_000, 71_000));
    assert_eq!(within(60_000, 140_000), PEOPLE as usize);
}

#[test]
fn in_a_small_room_nothing_waits() {
    let mut here = node("a");
    (1..=20).for_each(|seat| drop(here.join(at(0), join(seat, &format!("u{seat}")))));
    for _ in 0..10 {
        for (ms, status) in [(1, Status::Away), (2, Status::Active)] {
            let effects = here.update_status(at(ms), SeatId(2), status);
            assert_eq!(presences(&here, 1, &effects).len(), 1);
        }
    }
    assert_eq!(here.take_put_off(), 0);
}

#[test]
fn thinned_presence_tells_comings_and_goings_at_once_and_the_rest_in_batches() {
    let mut here = node("a");
    (1..=3).for_each(|seat| drop(here.join(at(0), join(seat, &format!("u{seat}")))));
    here.press(at(10), Level::ThinPresence);
    let first = here.update_status(at(20), SeatId(2), Status::Away);
    assert_eq!(presences(&here, 1, &first), Vec::<Value>::new());
    let woken = here.wake(at(20));
    assert_eq!(presences(&here, 1, &woken).len(), 1, "after a silence it does not wait for long");
    for ms in 0..10 {
        here.update_status(at(100 + ms), SeatId(2), if ms % 2 == 0 { Status::Active } else { Status::Away });
        here.switch_document(at(100 + ms), SeatId(3), &doc(&format!("d{ms}")), DocumentType::Canvas);
    }
    let joined = here.join(at(200), join(4, "u4"));
    assert_eq!(presences(&here, 1, &joined)[0]["userId"], "u4");
    let left = here.leave(at(210), SeatId(4));
    assert_eq!(presences(&here, 1, &left)[0]["isOnline"], false);
    let early: usize = run(&mut here, 3_019).iter().map(|(_, effects)| presences(&here, 1, effects).len()).sum();
    assert_eq!(early, 0);
    let batch = here.wake(at(3_020));
    let told = presences(&here, 1, &batch);
    assert_eq!(told.len(), 2, "one frame for each, however often they changed: {told:?}");
    assert_eq!((&told[0]["status"], &told[1]["documents"]["d9"]["documentType"]), (&"away".into(), &"canvas".into()));
}

#[test]
fn under_pressure_a_list_is_told_every_few_seconds_and_whoever_enters_has_it_at_once() {
    let mut here = node("a");
    (1..=5).for_each(|seat| drop(here.join(at(0), join(seat, &format!("u{seat}")))));
    here.press(at(0), Level::ThinPresence);
    here.switch_document(at(1), SeatId(1), &doc("plan"), DocumentType::Canvas);
    here.wake(at(1));
    for seat in 2..=5 {
        let entered = here.switch_document(at(100 * seat), SeatId(seat), &doc("plan"), DocumentType::Canvas);
        assert_eq!(lists(&here, seat, &entered), 1);
        assert_eq!(lists(&here, 1, &entered), 0);
    }
    let told: Vec<u64> =
        run(&mut here, 6_000).iter().filter(|(_, effects)| lists(&here, 1, effects) > 0).map(|(ms, _)| *ms).collect();
    assert_eq!(told, [3_001]);
}

#[test]
fn when_the_pressure_eases_what_waits_is_told_and_who_left_meanwhile_is_not_told_again() {
    let mut here = node("a");
    (1..=3).for_each(|seat| drop(here.join(at(0), join(seat, &format!("u{seat}")))));
    here.press(at(0), Level::ThinPresence);
    here.update_status(at(1), SeatId(2), Status::Away);
    here.wake(at(1));
    here.update_status(at(2), SeatId(2), Status::Active);
    here.update_status(at(2), SeatId(3), Status::Away);
    here.leave(at(3), SeatId(3));
    here.press(at(100), Level::WidenCursors);
    let told = here.wake(at(100));
    let told: Vec<Value> = presences(&here, 1, &told).into_iter().map(|mut user| user["userId"].take()).collect();
    assert_eq!(told, ["u2"]);
}

#[test]
fn the_tick_is_told_when_pressure_comes_and_when_it_goes() {
    let mut here = node("a");
    here.join(at(0), join(1, "una"));
    let mut told = |ms, level| -> Vec<Value> {
        let effects = here.press(at(ms), level);
        frames(&here, 1, &effects).into_iter().map(|frame| frame["data"]["cursorIntervalMs"].clone()).collect()
    };
    assert_eq!(told(1, Level::WidenCursors), [200]);
    assert_eq!(told(2, Level::RefuseOperations), Vec::<Value>::new());
    assert_eq!(told(3, Level::Calm), [50]);
}
