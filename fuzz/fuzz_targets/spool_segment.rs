#![no_main]

#[path = "../../tests/it/spool_segment.rs"]
mod spool_segment;

libfuzzer_sys::fuzz_target!(|input: &[u8]| spool_segment::spool_segment(input));
