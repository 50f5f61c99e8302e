//! What the tests of the program share: the program itself, and a server of a test's own.

#![allow(dead_code, unreachable_pub, reason = "each binary of tests uses a part of it")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
};

/// A `metrics serve` of its own, which ends with the test.
pub struct Server {
    pub process: Child,
    pub address: String,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        let mut process = metrics()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.split_whitespace().nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        Self { process, address }
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
