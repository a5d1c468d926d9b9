//! What random steps once found, cut down to what it takes.

use super::*;

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

#[test]
fn who_begins_anew_hears_nothing_of_who_was_dead_before() {
    let steps = vec![
        Step::Join { node: 2, user: 0 },
        Step::Interrupt { node: 1 },
        Step::Resume { node: 1, which: 0 },
        Step::Leave { which: 1 },
        Step::Depart { node: 1 },
        Step::Wait { tenths: 10 },
        Step::Kill { node: 0 },
    ];
    rosters_agree(steps).unwrap();
}
