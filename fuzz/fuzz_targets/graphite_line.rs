#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| metrics_server::graphite::fuzz_line(input));
