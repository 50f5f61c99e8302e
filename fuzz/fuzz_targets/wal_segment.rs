#![no_main]

#[path = "../../wal/tests/it/segment.rs"]
mod segment;

libfuzzer_sys::fuzz_target!(|input: &[u8]| segment::wal_segment(input));
