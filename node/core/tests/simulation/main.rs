//! Whole clusters in one thread: replicas, a log, a network that loses, delays, doubles and reorders, and people who
//! repeat what was not answered.
//!
//! A seed is a whole run. A failing one is printed; `MILLE_SEED=<n>` runs it alone, `MILLE_SEEDS=<count>` runs more.

#[path = "../kit/mod.rs"]
mod kit;

mod dice;
mod log;
mod people;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::{Faults, Seen, World};

/// Runs a scenario for many seeds, and tells the one that fails.
fn for_seeds(count: u64, faults: Faults) -> Seen {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match from_env("MILLE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("MILLE_SEEDS").unwrap_or(count),
    };
    let mut seen = Seen::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, faults).run())) {
            Ok(run) => seen.add(run),
            Err(panic) => {
                eprintln!("the run of MILLE_SEED={seed} failed");
                resume_unwind(panic);
            }
        }
    }
    seen
}

/// Whether one fixed seed or an unusual number of them was asked for: then what was seen says nothing.
fn is_custom() -> bool {
    std::env::var_os("MILLE_SEED").is_some() || std::env::var_os("MILLE_SEEDS").is_some()
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
