#![no_main]

#[path = "../../server/tests/it/influx/model.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|input: &[u8]| model::check(input));
