//! A server that is a process of its own, to be stopped, killed and starved.

use std::{
    env,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
};

use metrics_server::Server;
use nix::{
    sys::{
        prctl,
        signal::{self, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

use crate::child_test::child_test;

/// Where the process is to listen, how many files it may have open once it serves, and how many from the
/// beginning: the soft and the hard limit.
const ADDRESS: &str = "METRICS_TEST_CHILD_ADDRESS";
const FILES: &str = "METRICS_TEST_CHILD_FILES";
const LIMITS: &str = "METRICS_TEST_CHILD_LIMITS";

const READY: &str = "the server is ready";

/// This test binary as a server. It ends with the thread that started it.
pub(super) struct ServerProcess {
    child: Child,
}

impl ServerProcess {
    pub(super) fn start(address: SocketAddr) -> Self {
        Self::start_with(address, |_| {})
    }

    /// A server that may have this number of files open, from the time when it serves.
    pub(super) fn with_files(address: SocketAddr, files: u64) -> Self {
        Self::start_with(address, |command| {
            command.env(FILES, files.to_string());
        })
    }

    /// A server that begins with these limits of open files.
    pub(super) fn with_limits(address: SocketAddr, soft: u64, hard: u64) -> Self {
        Self::start_with(address, |command| {
            command.env(LIMITS, format!("{soft} {hard}"));
        })
    }

    fn start_with(address: SocketAddr, set: impl FnOnce(&mut Command)) -> Self {
        let mut command = child_test(module_path!(), "child_server");
        command.env(ADDRESS, address.to_string()).stdout(Stdio::piped());
        set(&mut command);
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = output.by_ref().map_while(Result::ok).any(|line| line.contains(READY));
        assert!(is_ready, "the server did not start");
        // Its output must be read, or it blocks.
        std::thread::spawn(move || output.for_each(drop));
        Self { child }
    }

    /// `SIGSTOP`; it has stopped when this returns.
    pub(super) fn stop(&self) {
        signal::kill(self.pid(), Signal::SIGSTOP).unwrap();
        let status = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
    }

    /// `SIGCONT`.
    pub(super) fn go_on(&self) {
        signal::kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// `kill -9`.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Fails if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process when the thread that has started it ends.
pub(super) fn end_with_parent() {
    prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
}

/// Not a test but the server of others, which start it by this name.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn child_server() {
    let Ok(address) = env::var(ADDRESS) else { return };
    end_with_parent();
    if let Ok(limits) = env::var(LIMITS) {
        let (soft, hard) = limits.split_once(' ').unwrap();
        let (soft, hard) = (soft.parse().unwrap(), hard.parse().unwrap());
        rlimit::setrlimit(rlimit::Resource::NOFILE, soft, hard).unwrap();
    }
    let server = Server::bind(address).await.unwrap();
    let serving = tokio::spawn(server.serve_until(std::future::pending()));
    // It begins, and looks at its limits.
    tokio::task::yield_now().await;
    if let Ok(files) = env::var(FILES) {
        let files = files.parse().unwrap();
        rlimit::setrlimit(rlimit::Resource::NOFILE, files, files).unwrap();
    }
    println!("\n{READY}");
    serving.await.unwrap();
}

/// A reserved port, for a server that restarts.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// Bound and not listening: a server may bind it too, and a dial is refused while none does.
    _reserved: Socket,
}

impl Port {
    pub(super) fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { address, _reserved: socket }
    }
}
