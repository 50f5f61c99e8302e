//! All integration tests, as one binary.

// `unwrap` is how a test says that something must hold.
#![allow(clippy::unwrap_used, missing_docs)]

mod chaos;
mod child_test;
mod client;
mod codec;
mod counting;
mod fuzz;
mod mock_server;
#[cfg(target_os = "linux")]
mod net_faults;
mod opentelemetry;
mod oracle;
mod peer;
mod recorder;
mod reporter;
mod running_server;
mod server_quirks;
mod service;
mod simulation;
mod tls;
mod values;
mod workload;

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
