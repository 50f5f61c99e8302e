#![no_main]

#[path = "../../tests/it/fuzz/mod.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod fuzz;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::spool::spool_segment(input));
