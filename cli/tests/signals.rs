//! Signals that stop `metrics serve`, also as the first process of a container.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// A server and a connection to it.
struct Server {
    process: Child,
    peer: TcpStream,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(assert_cmd::cargo::cargo_bin!("metrics"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().nth(1).unwrap();
        let peer = TcpStream::connect(url.strip_prefix("metrics://").unwrap()).unwrap();
        Self { process, peer }
    }

    /// Sends requests, and reads this answer to them.
    fn ask(&mut self, requests: &str, answer: &str) {
        self.peer.write_all(requests.as_bytes()).unwrap();
        let mut got = vec![0; answer.len()];
        self.peer.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), answer);
    }

    fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn stops_gracefully(signal: Signal) {
    let mut server = Server::start();
    server.ask("put a 1 1\nget a\n", "ok\n\nok\na 1.0 1\n\n");
    server.signal(signal);
    // An end, and no reset.
    assert_eq!(server.peer.read(&mut [0]).unwrap(), 0);
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
    // It is the next child of this thread.
    let in_container = || match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => stops_gracefully(Signal::SIGTERM),
        Err(error) => eprintln!("skipped: cannot create a process namespace: {error}"),
    };
    thread::scope(|scope| scope.spawn(in_container).join().unwrap());
}
