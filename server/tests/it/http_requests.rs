//! Any path, query and body over HTTP: the body of the fuzz target `http_request`, and its corpus as a test.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, LazyLock, mpsc},
    thread,
    time::Duration,
};

use metrics_client::{Key, Point};
use metrics_server::{
    MemoryStore, Store,
    graphite::RenderLimits,
    http::{Access, HttpServer},
    store::{PutBatch, Tee},
};

/// The server, which serves until the process ends.
static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (sender, addr) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be built").block_on(async {
            let store = Tee::new(Arc::new(MemoryStore::new()), 16);
            let mut puts = PutBatch::new();
            for key in ["palm.cpu;core=0", "palm.cpu;core=1", "palm.load", "*a"] {
                let key = Key::new(key).expect("the key is valid");
                for second in 0..10 {
                    puts.push(
                        &key,
                        Point::new(f64::from(second), 1_150_864_247 + i64::from(second)),
                    );
                }
            }
            store.apply(&puts).await.expect("the store has room");
            let server = HttpServer::bind("127.0.0.1:0", store, Access::Loopback).await;
            let server = server.expect("a port is free").influx().graphite(RenderLimits::default());
            _ = sender.send(server.local_addr());
            server.serve().await;
        });
    });
    addr.recv().expect("the server has started")
});

/// Sends a request: the target up to the first line break, then the content type up to the next, then the body.
/// Without a body it is a `GET`.
///
/// # Panics
///
/// If the server does not answer, or answers with status 500.
pub(crate) fn http_request(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == b'\n');
    let mut target = String::from("/");
    for &byte in parts.next().unwrap_or_default().strip_prefix(b"/").unwrap_or_default() {
        // What no client can send in a target is escaped.
        match byte {
            b'!'..=b'~' => target.push(char::from(byte)),
            _ => target += &format!("%{byte:02X}"),
        }
    }
    if target.starts_with("/api/v1/live") {
        // The answer does not end.
        return;
    }
    let content_type =
        parts.next().map(|text| text.iter().filter(|byte| matches!(byte, b' '..=b'~')).copied());
    let content_type: Vec<u8> = content_type.into_iter().flatten().collect();
    let body = parts.next();
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", *SERVER)
            .into_bytes();
    // The encoding of the body is chosen by its type.
    if content_type.contains(&b'@') {
        request.extend_from_slice(b"Content-Encoding: gzip\r\n");
    }
    if !content_type.is_empty() {
        request.extend_from_slice(b"Content-Type: ");
        request.extend_from_slice(&content_type);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    let mut io = TcpStream::connect(*SERVER).expect("the server listens");
    io.set_read_timeout(Some(Duration::from_secs(60))).expect("the timeout is valid");
    // A server may answer, and close, before it has read everything.
    _ = io.write_all(&request);
    let mut answer = Vec::new();
    if let Err(error) = io.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        return;
    }
    let status =
        answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status");
    assert!(status != b"500" && status[0] != b'1', "{}", String::from_utf8_lossy(&answer));
}
