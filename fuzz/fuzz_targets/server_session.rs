#![no_main]

#[path = "../../tests/it/invariants.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod invariants;
#[path = "../../tests/it/server_session.rs"]
mod server_session;

libfuzzer_sys::fuzz_target!(|input: &[u8]| server_session::server_session(input));
