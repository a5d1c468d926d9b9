//! Throws whatever a fuzzer finds at `checks::log_entries`.

#![no_main]

#[path = "../checks/mod.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::log_entries::check(bytes));
