#![no_main]

#[allow(dead_code, reason = "a target is one of several functions")]
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::request(input));
