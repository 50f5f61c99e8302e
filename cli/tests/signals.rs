//! Signals that stop `metrics serve`, also as the first process of a container.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{self, Signal},
    unistd::Pid,
};

use self::support::Server;

fn stops_gracefully(signal: Signal) {
    let mut server = Server::start();
    let mut peer = TcpStream::connect(&server.address).unwrap();
    peer.write_all(b"put a 1 1\nget a\n").unwrap();
    let mut answers = [0; 16];
    peer.read_exact(&mut answers).unwrap();
    assert_eq!(String::from_utf8_lossy(&answers), "ok\n\nok\na 1.0 1\n\n");
    // A program `kill` would be in the namespace of the server, and would not know it by this number.
    signal::kill(Pid::from_raw(server.process.id().cast_signed()), signal).unwrap();
    // An end, and no reset.
    assert_eq!(peer.read(&mut answers).unwrap(), 0);
    drop(peer);
    let status = server.process.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn signal_closes_connections_without_a_reset() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        stops_gracefully(signal);
    }
}

#[test]
fn signal_stops_pid_1_gracefully() {
    // The server is the next child of this thread.
    let in_container = || match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => stops_gracefully(Signal::SIGTERM),
        Err(error) => eprintln!("skipped: cannot create a process namespace: {error}"),
    };
    thread::scope(|scope| scope.spawn(in_container).join().unwrap());
}
