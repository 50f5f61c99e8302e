//! What the tests of the program share: the program itself, and a server of a test's own.

#![allow(dead_code, unreachable_pub, reason = "each binary of tests uses a part of it")]

#[cfg(unix)]
pub mod terminal;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use tempfile::TempDir;

/// A `metrics serve` of its own, which ends with the test.
pub struct Server {
    pub process: Child,
    /// What it says that it serves.
    pub line: String,
    pub address: String,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args)
    }

    /// Starts it where another has been.
    pub fn start_at(address: &str, args: &[&str]) -> Self {
        let mut process = metrics()
            .args(["serve", "--listen", address])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.split_whitespace().nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        Self { process, line, address }
    }

    /// Returns the address that it says behind a scheme, such as `http://`.
    pub fn address_of(&self, scheme: &str) -> &str {
        self.line.split(scheme).nth(1).unwrap().split_whitespace().next().unwrap()
    }

    /// Runs a command against this server.
    pub fn run(&self, args: &[&str]) -> Output {
        metrics().args(args).env("METRICS_SERVER", &self.address).output().unwrap()
    }

    /// Runs a command that reads this from standard input.
    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut process = metrics()
            .args(args)
            .env("METRICS_SERVER", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(input).unwrap();
        process.wait_with_output().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let kill =
            Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }
}

/// A file of [`LINES`] points to import, and a server that acknowledges half of them and then none.
pub struct HalfImport {
    pub dir: TempDir,
    /// The file.
    pub path: String,
    pub address: String,
    peer: JoinHandle<usize>,
}

pub const LINES: usize = 200_000;

impl HalfImport {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("points");
        let lines = (0..LINES).map(|n| format!("put a {n} {n}\n")).collect::<String>();
        fs::write(&file, &lines).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = thread::spawn(move || {
            let (io, _) = listener.accept().unwrap();
            let (mut out, mut input) = (io.try_clone().unwrap(), BufReader::new(io));
            // The client may go before that.
            let lines = input.by_ref().lines().take(LINES / 2).map_while(Result::ok);
            let acknowledged = lines.take_while(|_| out.write_all(b"ok\n\n").is_ok()).count();
            // Until the client has gone.
            let _ = input.read_to_end(&mut Vec::new());
            acknowledged
        });
        Self { dir, path: file.to_str().unwrap().into(), address, peer }
    }

    /// Returns how many lines were acknowledged, once the client has gone.
    pub fn acknowledged(self) -> (TempDir, usize) {
        (self.dir, self.peer.join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn metrics() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("metrics"));
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("METRICS_"))
    {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").env_remove("NO_COLOR").env_remove("NOTIFY_SOCKET");
    command
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[track_caller]
pub fn assert_status(output: &Output, status: i32) {
    assert_eq!(
        output.status.code(),
        Some(status),
        "stdout: {}\nstderr: {}",
        stdout(output),
        stderr(output)
    );
}

/// The folder of what is packaged with the program.
pub const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist");

/// Checks that a systemd unit has these lines, and that systemd accepts it.
#[track_caller]
pub fn assert_unit(name: &str, lines: &[&str]) {
    let unit = fs::read_to_string(Path::new(DIST).join(name)).unwrap();
    for line in ["Type=notify", "DynamicUser=yes"].iter().chain(lines) {
        assert!(unit.lines().any(|found| found == *line), "{line}");
    }
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed, the unit was not verified");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let program = assert_cmd::cargo::cargo_bin!("metrics").display().to_string();
    let unit = unit
        .replace("/usr/bin/metrics", &program)
        // The manual page is not installed.
        .replace("Documentation=man:metrics(1)\n", "");
    fs::write(&path, unit).unwrap();
    let verify = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    assert_status(&verify, 0);
    // Warnings about this unit alone: others may be installed here.
    assert!(!stderr(&verify).contains(name), "{}", stderr(&verify));
}
