//! Throws whatever a fuzzer finds at `checks::node_messages`.

#![no_main]

#[path = "../checks/mod.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::node_messages::check(bytes));
