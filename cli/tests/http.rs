//! `metrics serve --http`: the page and the API beside the protocol, and who may use them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

/// A server that is ended when it is dropped.
struct Server {
    child: Child,
    /// What it says that it serves.
    line: String,
    protocol: String,
    http: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metrics"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let addr = |scheme| {
            let rest = line.split(scheme).nth(1).unwrap();
            rest.split(' ').next().unwrap().to_owned()
        };
        let (protocol, http) = (addr("metrics://"), addr("http://"));
        Self { child, line, protocol, http }
    }

    fn get(&self, path: &str, header: &str) -> String {
        let mut peer = TcpStream::connect(&self.http).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n");
        peer.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn metrics(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_metrics")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn points_of_the_protocol_are_shown_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&["--data", data.to_str().unwrap()]);
    let (status, error) =
        metrics(&["put", "--server", &server.protocol, "palm.cpu", "23.7", "1150864247"]);
    assert_eq!(status, Some(0), "{error}");
    let answer = server.get("/api/v1/points?key=palm.cpu", "");
    assert!(answer.contains("[[1150864247,23.7]]"), "{answer}");
    assert!(server.get("/", "").contains("<title>metrics</title>"));
    let figures = server.get("/metrics", "");
    for figure in ["\nmetrics_puts_total 1\n", "\nmetrics_disk_keys 1\n"] {
        assert!(figures.contains(figure), "{figures}");
    }
}

#[test]
fn graphite_lines_are_rendered_over_http() {
    let server = Server::start(&["--graphite", "127.0.0.1:0"]);
    let graphite = server.line.split("graphite://").nth(1).and_then(|rest| rest.split(' ').next());
    let mut peer = TcpStream::connect(graphite.unwrap()).unwrap();
    peer.write_all(b"palm.cpu 23.7 1150864250\npalm.cpu 25 1150864260").unwrap();
    drop(peer);
    // No answer says when a line is stored.
    let path = "/render?target=scale(palm.cpu,2)&from=1150864240&until=1150864260";
    while !server.get(path, "").contains("[[47.4, 1150864250], [50.0, 1150864260]]") {
        std::thread::yield_now();
    }
    assert!(server.get("/metrics", "").contains("\nmetrics_graphite_puts_total 2\n"));
}

#[test]
fn token_of_a_file_is_required() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "s3cret-token\n").unwrap();
    let server = Server::start(&["--token-file", token.to_str().unwrap()]);
    assert!(server.get("/api/v1/keys", "").starts_with("HTTP/1.1 401"));
    let answer = server.get("/api/v1/keys", "authorization: Bearer s3cret-token\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn http_that_others_can_reach_needs_a_token() {
    for (args, reason) in [
        (&["--http", "0.0.0.0:0"][..], "set --token-file FILE, or --no-token"),
        (&["--token-file", "/nonexistent", "--http", "0.0.0.0:0"], "cannot read /nonexistent"),
        (&["--no-token"], "set --http ADDRESS:PORT"),
    ] {
        let (status, error) = metrics(&[&["serve", "--check-config"], args].concat());
        assert!(status == Some(2) && error.contains(reason), "{args:?}: {status:?} {error}");
    }
    let (status, error) =
        metrics(&["serve", "--check-config", "--http", "0.0.0.0:0", "--no-token"]);
    assert_eq!(status, Some(0), "{error}");
}
