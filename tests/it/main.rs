//! All integration tests, as one binary.

// `unwrap` is how a test says that something must hold.
#![allow(clippy::unwrap_used, missing_docs)]

mod client;
mod client_driver;
mod codec;
mod corpus;
#[cfg(feature = "recorder")]
mod counting;
mod exchanges;
mod faults;
mod invariants;
mod models;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
mod peer;
mod python_repr;
#[cfg(feature = "recorder")]
mod recorder;
#[cfg(feature = "reporter")]
mod reporter;
#[cfg(feature = "tls")]
mod running;
mod server_session;
#[cfg(feature = "tower")]
mod service;
mod simulation;
#[cfg(target_os = "linux")]
mod sockets;
#[cfg(feature = "spool")]
mod spool_segment;
#[cfg(feature = "tls")]
mod tls;
mod truth;

#[cfg(not(target_os = "linux"))]
#[test]
fn faults_of_real_sockets() {
    skipped("faults of real sockets", "they take Linux");
}

/// Says, past the capture of the test harness, that something was not tested.
#[expect(clippy::explicit_write, reason = "the harness captures what `eprintln` prints")]
fn skipped(what: &str, reason: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "\nSKIPPED: {what}: {reason}\n").unwrap();
}
