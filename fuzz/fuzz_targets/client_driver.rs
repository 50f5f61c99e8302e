#![no_main]

#[path = "../../tests/it/client_driver/mod.rs"]
mod client_driver;
#[path = "../../tests/it/invariants.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| client_driver::client_driver(input));
