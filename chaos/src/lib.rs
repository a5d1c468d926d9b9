//! Breaks a cluster on purpose and proves that nobody lost anything.
//!
//! Five parts, each of which can be read alone: a `workload` edits, a `nemesis` breaks, a `history` writes
//! down what everyone was told, `checkers` judge the history without knowing how the cluster works, a
//! `report` says what came out, with the seed that repeats it. A `scenario` puts them together, or a cluster is
//! `given` and somebody else breaks it.
//!
//! The rule it keeps: a checker never uses code of the node, so the node's mistakes can't hide in it.

pub mod checkers;
pub mod fleet;
pub mod given;
pub mod guests;
pub mod history;
pub mod nemesis;
pub mod report;
pub mod scenario;
pub mod stage;
pub mod watchers;
pub mod workload;
