//! All integration tests, as one binary.

// `unwrap` is how a test says that something must hold.
#![allow(clippy::unwrap_used, missing_docs)]
mod client;
mod faults;
mod models;
mod peer;
#[cfg(feature = "server")]
mod server;

mod codec;
mod corpus;
mod exchanges;
mod invariants;
mod python_repr;
mod truth;

/// Says, past the capture of the test harness, that something was not tested.
#[expect(clippy::explicit_write, reason = "the harness captures what `eprintln` prints")]
fn skipped(what: &str, reason: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "\nSKIPPED: {what}: {reason}\n").unwrap();
}
