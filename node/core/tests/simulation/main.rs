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
fn a_log_that_loses_its_end_is_noticed_by_everyone() {
    let seen = for_seeds(150, Faults::ROLLBACK);
    assert!(is_custom() || (seen.rollbacks > 50 && seen.resets > 50), "{seen:?}");
}
