//! Writes that would take much memory, or that come when the store takes none.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use metrics_client::Selector;
use metrics_server::{
    MemoryStore, Store,
    http::{Access, HttpLimits, HttpServer},
    store::{MemorySnapshot, PutBatch, StoreError, Tee},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A store that keeps nothing but how much it was given.
#[derive(Debug, Default)]
struct Sizes {
    points: AtomicUsize,
    largest: AtomicUsize,
    failure: Mutex<Option<StoreError>>,
}

impl Store for Sizes {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        if let Some(error) = self.failure.lock().unwrap().take() {
            return Err(error);
        }
        self.points.fetch_add(puts.len(), Ordering::Relaxed);
        self.largest.fetch_max(puts.len(), Ordering::Relaxed);
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        MemoryStore::new().get(selector).await
    }
}

struct RunningHttp {
    addr: std::net::SocketAddr,
    store: Arc<Sizes>,
}

impl RunningHttp {
    async fn start(limits: HttpLimits) -> Self {
        let store = Arc::new(Sizes::default());
        let tee = Tee::new(Arc::clone(&store), 16);
        let server = HttpServer::bind("127.0.0.1:0", tee, Access::Loopback).await.unwrap();
        let server = server.limits(limits).influx();
        let addr = server.local_addr();
        tokio::spawn(server.serve());
        Self { addr, store }
    }

    /// Sends a part of a write.
    async fn begin(&self, path: &str, header: &str, len: usize, body: &[u8]) -> TcpStream {
        let mut io = TcpStream::connect(self.addr).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {len}\r\n{header}\r\n",
            self.addr
        );
        io.write_all(head.as_bytes()).await.unwrap();
        io.write_all(body).await.unwrap();
        io
    }

    /// Writes, and returns the answer.
    async fn write(&self, path: &str, header: &str, body: &[u8]) -> String {
        answer(self.begin(path, header, body.len(), body).await).await
    }
}

async fn answer(mut io: TcpStream) -> String {
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer.to_ascii_lowercase()
}

#[tokio::test]
async fn line_of_many_fields_is_applied_in_batches() {
    let server = RunningHttp::start(HttpLimits::default()).await;
    // Each field becomes a key of 1,000 bytes.
    let mut line = "m".repeat(990);
    for field in 0..50_000 {
        line += if field == 0 { " " } else { "," };
        line += &format!("f{field}=1");
    }
    let answer = server.write("/write?db=m", "", line.as_bytes()).await;
    assert!(answer.starts_with("http/1.1 204"), "{answer}");
    assert_eq!(server.store.points.load(Ordering::Relaxed), 50_000);
    assert!(server.store.largest.load(Ordering::Relaxed) <= 8_192);
}

#[tokio::test]
async fn endless_line_fails_alone() {
    let server = RunningHttp::start(HttpLimits::default()).await;
    let body = format!("a value=1 5\nb {}=1\nc value=1 5\n", "x".repeat(2_000_000));
    let answer = server.write("/write?db=m", "", body.as_bytes()).await;
    assert!(answer.starts_with("http/1.1 400"), "{answer}");
    assert!(answer.contains("line is longer than 1048576 bytes dropped=0"), "{answer}");
    assert!(answer.len() < 2_000, "{answer}");
    assert_eq!(server.store.points.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn store_without_room_is_503_with_retry_after() {
    let server = RunningHttp::start(HttpLimits::default()).await;
    for path in ["/write?db=m", "/api/v2/write?org=o&bucket=b"] {
        *server.store.failure.lock().unwrap() = Some(StoreError::transient("disk full"));
        let answer = server.write(path, "", b"a value=1").await;
        assert!(answer.starts_with("http/1.1 503"), "{answer}");
        assert!(
            answer.contains("\r\nretry-after: 1\r\n") && answer.contains("disk full"),
            "{answer}"
        );
        let answer = server.write(path, "", b"a value=1").await;
        assert!(answer.starts_with("http/1.1 204"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_beyond_the_budget_are_503_until_there_is_room() {
    // Room for one body of the longest kind.
    let limits = HttpLimits::default().max_body_bytes(4_096).max_total_body_bytes(4_096);
    let server = RunningHttp::start(limits).await;
    let half = "# comment\n".repeat(300);
    let slow = server.begin("/write?db=m", "", half.len() + 9, half.as_bytes()).await;
    let refused = loop {
        // The server may not have read the first body yet.
        let answer = server.write("/write?db=m", "", "# comment\n".repeat(200).as_bytes()).await;
        if !answer.starts_with("http/1.1 204") {
            break answer;
        }
    };
    assert!(refused.starts_with("http/1.1 503"), "{refused}");
    assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    let mut slow = slow;
    slow.write_all(b"a value=1").await.unwrap();
    let stored = answer(slow).await;
    assert!(stored.starts_with("http/1.1 204"), "{stored}");
    let answer = server.write("/write?db=m", "", half.as_bytes()).await;
    assert!(answer.starts_with("http/1.1 204"), "{answer}");
}

#[tokio::test]
async fn body_beyond_the_limit_is_413_and_stores_nothing() {
    let server = RunningHttp::start(HttpLimits::default().max_body_bytes(4_096)).await;
    let body = "a value=1 5\n".repeat(400);
    for path in ["/write?db=m", "/api/v2/write?org=o&bucket=b"] {
        let answer = server.write(path, "", body.as_bytes()).await;
        // telegraf splits the batch, and sends the halves.
        assert!(answer.starts_with("http/1.1 413"), "{answer}");
    }
    assert_eq!(server.store.points.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn content_type_makes_no_difference() {
    let server = RunningHttp::start(HttpLimits::default()).await;
    for content_type in [
        "",
        "Content-Type: application/json\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: text/plain; charset=utf-8\r\n",
        "Content-Type: \r\n",
    ] {
        let answer = server.write("/write?db=m", content_type, b"a value=1").await;
        assert!(answer.starts_with("http/1.1 204"), "{content_type}: {answer}");
    }
    // What is not understood is not taken for lines.
    let answer = server.write("/write?db=m", "Content-Encoding: zstd\r\n", b"a value=1").await;
    assert!(answer.starts_with("http/1.1 415"), "{answer}");
    assert_eq!(server.store.points.load(Ordering::Relaxed), 5);
}
