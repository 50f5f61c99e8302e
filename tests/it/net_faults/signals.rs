//! Signals that stop a server program.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, ExitStatus, Stdio},
    thread,
};

use metrics_server::Server;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{self, Signal},
    unistd::Pid,
};

use super::server_process::end_with_parent;
use crate::child_test::child_test;

/// What the example `server` does with signals.
#[path = "../../../examples/signals/mod.rs"]
mod stopping;

/// What the process is to do, if it is one that a test has started.
const ROLE: &str = "METRICS_TEST_CHILD_ROLE";

/// A line that says where the process listens, or that it stops.
const READY: &str = "the server is at ";
const STOPPING: &str = "the program is stopping";

/// Not a test but the program of others, which start it by this name.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn child_program() {
    let Ok(role) = env::var(ROLE) else { return };
    end_with_parent();
    let stop = stopping::stop().unwrap();
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    println!("\n{READY}{}", server.local_addr());
    if role == "serves" {
        server.serve_until(stop).await;
    } else {
        stop.await;
        println!("{STOPPING}");
        // The only thread of the runtime stands still.
        loop {
            thread::park();
        }
    }
}

struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(role: &str) -> Self {
        let mut command = child_test(module_path!(), "child_program");
        let mut child = command.env(ROLE, role).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The rest of the line that begins with this.
    fn line(&mut self, begin: &str) -> String {
        let mut lines = self.output.by_ref().lines().map_while(Result::ok);
        lines.find_map(|line| Some(line.strip_prefix(begin)?.to_string())).expect("no such line")
    }

    fn peer(&mut self) -> TcpStream {
        let address = self.line(READY).parse::<SocketAddr>().unwrap();
        TcpStream::connect(address).unwrap()
    }

    fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end, and lets it say what it has to say.
    fn end(mut self) -> ExitStatus {
        self.output.read_to_end(&mut Vec::new()).unwrap();
        self.child.wait().unwrap()
    }
}

fn stops_gracefully(signal: Signal) {
    let mut program = Program::start("serves");
    let mut peer = program.peer();
    peer.write_all(b"put a 1 1\nget a\n").unwrap();
    let mut answers = [0; 16];
    peer.read_exact(&mut answers).unwrap();
    program.signal(signal);
    // An end, and no reset.
    assert_eq!(peer.read(&mut answers).unwrap(), 0);
    drop(peer);
    let status = program.end();
    assert!(status.success(), "{status}");
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn signal_stops_a_server_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        stops_gracefully(signal);
    }
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn second_signal_ends_a_blocked_program() {
    for (second, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut program = Program::start("stands still");
        program.line(READY);
        program.signal(Signal::SIGTERM);
        program.line(STOPPING);
        program.signal(second);
        assert_eq!(program.end().code(), Some(code));
    }
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn signal_stops_pid_1_gracefully() {
    // It is the next child of this thread.
    let in_container = || match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => stops_gracefully(Signal::SIGTERM),
        Err(error) => {
            eprintln!("skipped: a process namespace takes the right to make one: {error}");
        }
    };
    thread::scope(|scope| scope.spawn(in_container).join().unwrap());
}
