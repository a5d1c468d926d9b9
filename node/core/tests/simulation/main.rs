//! Whole clusters in one thread: replicas, a log, a network that loses, delays, doubles and reorders, and people who
//! repeat what was not answered.
//!
//! A seed is a whole run. A failing one is printed; `MILLE_TESTS_SEED=<n>` runs it alone, `MILLE_TESTS_SEEDS=<count>` runs more.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

#[path = "../kit/mod.rs"]
mod kit;

mod dice;
mod faults;
mod log;
mod people;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use faults::{Faults, Seen};
use mille_core::replica::Cause;
use world::World;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a scenario for many seeds, and tells the one that fails.
fn for_seeds(count: u64, faults: Faults) -> Seen {
    let seeds = match from_env("MILLE_TESTS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("MILLE_TESTS_SEEDS").unwrap_or(count),
    };
    let mut seen = Seen::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, faults).run())) {
            Ok(run) => seen.add(run),
            Err(panic) => {
                eprintln!("the run of MILLE_TESTS_SEED={seed} failed");
                resume_unwind(panic);
            }
        }
    }
    seen
}

/// Whether one fixed seed or an unusual number of them was asked for: then what was seen says nothing.
fn is_custom() -> bool {
    from_env("MILLE_TESTS_SEED").or(from_env("MILLE_TESTS_SEEDS")).is_some()
}

#[test]
fn without_faults_everyone_is_in_step_and_nothing_is_repaired_for_long() {
    let seen = for_seeds(40, Faults::NONE);
    assert_eq!(seen.resets, 0, "nobody had to begin anew");
    assert!(is_custom() || seen.accepted > 500, "{seen:?}");
}

#[test]
fn whatever_the_network_does_everyone_sees_the_log_once_and_in_order() {
    let seen = for_seeds(250, Faults::ROUGH);
    assert!(is_custom() || seen.is_thorough(), "some part was never visited: {seen:?}");
}

#[test]
fn a_store_that_restarts_and_keeps_everything_is_noticed_by_nobody() {
    let seen = for_seeds(150, Faults { unanswered: 10, restarts: true, ..Faults::NONE });
    assert_eq!((seen.resets, seen.epochs, seen.parted), (0, 0, 0), "{seen:?}");
    assert!(is_custom() || seen.rebirths > 100, "{seen:?}");
}

#[test]
fn a_log_that_loses_its_end_gets_it_back() {
    let seen = for_seeds(300, Faults::FAILOVERS);
    assert!(is_custom() || [seen.rollbacks, seen.restored, seen.rebirths].iter().all(|n| *n > 200), "{seen:?}");
    assert!(is_custom() || seen.parted < seen.rollbacks / 10, "those who wait their turn seldom part: {seen:?}");
}

#[test]
fn whatever_happens_nothing_is_lost_that_a_living_node_knows() {
    let seen = for_seeds(600, Faults::EVERYTHING);
    assert!(is_custom() || (seen.is_thorough() && seen.repairs.contains_key(&Cause::Vanished)), "{seen:?}");
    assert!(is_custom() || [seen.parted, seen.readmitted, seen.epochs].iter().all(|n| *n > 20), "{seen:?}");
}
