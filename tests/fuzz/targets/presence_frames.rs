//! Throws whatever a fuzzer finds at `checks::presence_frames`.

#![no_main]

#[path = "../checks/mod.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::presence_frames::check(bytes));
