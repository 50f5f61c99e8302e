//! Runs the `curl` lines of `docs/http-api.md` against a server, and compares what they print.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{process::Command, sync::Arc};

use metrics_server::{
    MemoryStore,
    graphite::RenderLimits,
    http::{Access, HttpServer},
    store::Tee,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_requests_are_answered_as_documented() {
    if let Err(error) = Command::new("curl").arg("--version").output() {
        eprintln!("SKIPPED: the lines of docs/http-api.md: cannot start curl: {error}");
        return;
    }
    let store = Tee::new(Arc::new(MemoryStore::new()), 16);
    let server = HttpServer::bind("127.0.0.1:0", store, Access::Loopback).await.unwrap();
    let server = server.influx().graphite(RenderLimits::default());
    let addr = server.local_addr().to_string();
    let serving = tokio::spawn(server.serve());
    let run = tokio::task::spawn_blocking(move || {
        let docs = include_str!("../../docs/http-api.md");
        let blocks =
            docs.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let mut count = 0;
        for block in blocks {
            for example in block.split("$ ").skip(1) {
                let (line, expected) = example.split_once('\n').unwrap();
                let command = line.replace("127.0.0.1:8080", &addr);
                let output = Command::new("bash").args(["-c", &command]).output().unwrap();
                let printed = String::from_utf8(output.stdout).unwrap().replace('\r', "");
                match expected.strip_suffix("...\n") {
                    Some(begin) => assert!(printed.starts_with(begin), "{line}\n{printed}"),
                    None => assert_eq!(printed.trim_end(), expected.trim_end(), "{line}"),
                }
                count += 1;
            }
        }
        count
    });
    assert!(run.await.unwrap() >= 10);
    serving.abort();
}
