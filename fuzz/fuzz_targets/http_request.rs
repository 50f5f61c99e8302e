#![no_main]

#[path = "../../server/tests/it/http_requests.rs"]
mod http_requests;

libfuzzer_sys::fuzz_target!(|input: &[u8]| http_requests::http_request(input));
