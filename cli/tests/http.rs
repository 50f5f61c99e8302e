//! `metrics serve --http`: the page and the API beside the protocol, and who may use them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use support::{Server, assert_status, metrics, stderr};

mod support;

fn start(args: &[&str]) -> Server {
    Server::start_with(&[&["--http", "127.0.0.1:0"], args].concat())
}

fn get(server: &Server, path: &str, header: &str) -> String {
    let mut peer = TcpStream::connect(server.address_of("http://")).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n");
    peer.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn points_of_the_protocol_are_shown_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = start(&["--data", data.to_str().unwrap()]);
    assert_status(&server.run(&["put", "palm.cpu", "23.7", "1150864247"]), 0);
    let answer = get(&server, "/api/v1/points?key=palm.cpu", "");
    assert!(answer.contains("[[1150864247,23.7]]"), "{answer}");
    assert!(get(&server, "/", "").contains("<title>metrics</title>"));
    let figures = get(&server, "/metrics", "");
    for figure in ["\nmetrics_puts_total 1\n", "\nmetrics_disk_keys 1\n"] {
        assert!(figures.contains(figure), "{figures}");
    }
}

#[test]
fn graphite_lines_are_rendered_over_http() {
    let server = start(&["--graphite", "127.0.0.1:0"]);
    let mut peer = TcpStream::connect(server.address_of("graphite://")).unwrap();
    peer.write_all(b"palm.cpu 23.7 1150864250\npalm.cpu 25 1150864260").unwrap();
    drop(peer);
    // No answer says when a line is stored.
    let path = "/render?target=scale(palm.cpu,2)&from=1150864240&until=1150864260";
    while !get(&server, path, "").contains("[[47.4, 1150864250], [50.0, 1150864260]]") {
        std::thread::yield_now();
    }
    assert!(get(&server, "/metrics", "").contains("\nmetrics_graphite_puts_total 2\n"));
}

#[test]
fn token_of_a_file_is_required() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "s3cret-token\n").unwrap();
    let server = start(&["--token-file", token.to_str().unwrap()]);
    assert!(get(&server, "/api/v1/keys", "").starts_with("HTTP/1.1 401"));
    let answer = get(&server, "/api/v1/keys", "authorization: Bearer s3cret-token\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn http_that_others_can_reach_needs_a_token() {
    for (args, reason) in [
        (&["--http", "0.0.0.0:0"][..], "set --token-file FILE, or --no-token"),
        (&["--token-file", "/nonexistent", "--http", "0.0.0.0:0"], "cannot read /nonexistent"),
        (&["--no-token"], "set --http ADDRESS:PORT"),
    ] {
        let checked = metrics().args(["serve", "--check-config"]).args(args).output().unwrap();
        assert_status(&checked, 2);
        assert!(stderr(&checked).contains(reason), "{args:?}: {}", stderr(&checked));
    }
    let args = ["serve", "--check-config", "--http", "0.0.0.0:0", "--no-token"];
    assert_status(&metrics().args(args).output().unwrap(), 0);
}
