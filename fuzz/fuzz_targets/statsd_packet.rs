#![no_main]

libfuzzer_sys::fuzz_target!(|packet: &[u8]| metrics_agent::fuzz_packet(packet));
