//! Programs of other projects, which a test starts on loopback, stops and kills.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A program that ends with the test.
pub(super) struct Program(Child);

impl Program {
    /// Starts a program that listens on an address, and waits until it does. Its output goes to a file.
    pub(super) fn start(command: &mut Command, addr: SocketAddr, log: &Path) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let other = file.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(file).stderr(other);
        let mut program = Self(command.spawn().unwrap());
        let begin = Instant::now();
        while TcpStream::connect(addr).is_err() {
            let log = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(program.0.try_wait().unwrap().is_none(), "it has ended: {}", log());
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not listen: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        program
    }

    pub(super) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Sends a signal, `-STOP` for example.
    pub(super) fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns an address on which nothing listens.
pub(super) fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
