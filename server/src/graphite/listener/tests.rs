//! Tests of the listener: lines from peers, and a store that fails.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use metrics_client::{Metrics, Selector};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::store::{MemorySnapshot, Snapshot};

/// A store whose next batches fail with these errors.
#[derive(Default)]
struct Flaky {
    store: MemoryStore,
    failures: Mutex<VecDeque<StoreError>>,
    batches: std::sync::atomic::AtomicUsize,
}

impl Flaky {
    fn fail(&self, errors: impl IntoIterator<Item = StoreError>) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).extend(errors);
    }
}

impl Store for Flaky {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        self.batches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match failure {
            Some(error) => Err(error),
            None => self.store.apply(puts).await,
        }
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.store.get(selector).await
    }
}

struct Peer {
    io: DuplexStream,
    shared: Arc<ListenerShared<Flaky>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Peer {
    fn connect() -> Self {
        Self::with(GraphiteLimits::default())
    }

    fn with(limits: GraphiteLimits) -> Self {
        let (io, server) = duplex(1 << 20);
        let shared = Arc::new(ListenerShared {
            store: Flaky::default(),
            limits,
            counters: Arc::default(),
            log: GraphiteLog::default(),
        });
        let stop = CancellationToken::new();
        let (serving, stopping) = (Arc::clone(&shared), stop.clone());
        let serving = tokio::spawn(async move {
            serve_connection(server, ([127, 0, 0, 1], 1).into(), &serving, &stopping).await;
        });
        Self { io, shared, stop, serving }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Ends the connection, and returns what has been stored.
    async fn end(self) -> (String, GraphiteStats) {
        drop(self.io);
        self.serving.await.unwrap();
        let stats = GraphiteStatsHandle(Arc::clone(&self.shared.counters)).stats();
        (stored(&self.shared.store.store).await, stats)
    }
}

async fn stored(store: &MemoryStore) -> String {
    let metrics: Metrics = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
    let points = metrics.iter().flat_map(|(key, points)| {
        points.iter().map(move |point| format!("{key} {} {}", point.value, point.timestamp))
    });
    points.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn lines_are_stored_however_they_are_split() {
    let text = b"palm.cpu 23.7 5\r\n\npalm.mem;b=1;a=2 1 6.9\npalm.cpu 24 6";
    for split in 0..text.len() {
        let mut peer = Peer::connect();
        peer.send(&text[..split]).await;
        while peer.shared.store.batches.load(std::sync::atomic::Ordering::Relaxed) == 0
            && split > 20
        {
            tokio::task::yield_now().await;
        }
        peer.send(&text[split..]).await;
        let (stored, stats) = peer.end().await;
        assert_eq!(stored, "palm.cpu 23.7 5, palm.cpu 24 6, palm.mem;a=2;b=1 1 6");
        assert_eq!((stats.puts, stats.invalid_lines), (3, 0));
    }
}

#[tokio::test]
async fn one_read_is_one_batch() {
    let mut peer = Peer::connect();
    let lines: String = (0..1000).map(|second| format!("a 1 {second}\n")).collect();
    peer.send(lines.as_bytes()).await;
    let shared = Arc::clone(&peer.shared);
    let (_, stats) = peer.end().await;
    assert_eq!(stats.puts, 1000);
    assert!(shared.store.batches.load(std::sync::atomic::Ordering::Relaxed) < 10);
}

#[tokio::test]
async fn bad_lines_are_counted_and_skipped() {
    let mut peer = Peer::with(GraphiteLimits::default().max_line_bytes(20));
    peer.send(b"a 1 1\nnonsense\na nan 2\n").await;
    // Two lines that are too long: one is complete, the other one arrives in pieces.
    peer.send(format!("{} 1 3\n", "long".repeat(10)).as_bytes()).await;
    for _ in 0..5 {
        peer.send(&[b'x'; 30]).await;
        tokio::task::yield_now().await;
    }
    peer.send(b" 1 4\nb 2 5\n").await;
    let (stored, stats) = peer.end().await;
    assert_eq!(stored, "a 1 1, b 2 5");
    assert_eq!((stats.puts, stats.invalid_lines, stats.nan_values), (2, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn transient_failure_pauses_reading_and_loses_nothing() {
    let mut peer = Peer::connect();
    peer.shared.store.fail((0..20).map(|_| StoreError::transient("disk full")));
    let begin = tokio::time::Instant::now();
    peer.send(b"a 1 1\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    peer.send(b"a 2 2\na 3 3").await;
    let (stored, stats) = peer.end().await;
    assert_eq!(stored, "a 1 1, a 2 2, a 3 3");
    assert_eq!((stats.puts, stats.retries, stats.dropped), (3, 20, 0));
    // The pauses grow to five seconds.
    assert!(begin.elapsed() > Duration::from_secs(30) && begin.elapsed() < Duration::from_secs(90));
}

#[tokio::test(start_paused = true)]
async fn put_that_the_store_rejects_fails_alone() {
    let mut peer = Peer::connect();
    let of_puts = StoreError::of_puts([(1, StoreError::new("older than 30d"))]);
    let mixed = StoreError::of_puts([(0, StoreError::transient("disk full"))]);
    // The batch is retried as long as one of its puts may still be stored.
    peer.shared.store.fail([mixed, of_puts]);
    peer.send(b"a 1 1\na 2 2\na 3 3\n").await;
    let (_, stats) = peer.end().await;
    assert_eq!((stats.puts, stats.rejected_puts, stats.retries), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn silent_connection_is_closed() {
    let peer = Peer::with(GraphiteLimits::default().idle_timeout(Duration::from_secs(60)));
    let begin = tokio::time::Instant::now();
    peer.serving.await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(60));
}

#[tokio::test]
async fn stop_reads_what_has_arrived() {
    let mut peer = Peer::connect();
    peer.stop.cancel();
    // The last line may be incomplete: its peer has not closed the connection.
    peer.send(b"a 1 1\na 2 2\na 3 300").await;
    peer.serving.await.unwrap();
    assert_eq!(stored(&peer.shared.store.store).await, "a 1 1, a 2 2");
}

#[tokio::test(start_paused = true)]
async fn abort_while_the_store_fails_counts_the_points() {
    let mut peer = Peer::connect();
    peer.shared.store.fail((0..1000).map(|_| StoreError::transient("disk full")));
    peer.send(b"a 1 1\na 2 2\n").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    peer.serving.abort();
    assert!(peer.serving.await.unwrap_err().is_cancelled());
    assert_eq!(peer.shared.counters.dropped.get(), 2);
}

#[tokio::test]
async fn datagrams_are_stored_or_dropped() {
    let store = Arc::new(Flaky::default());
    let listener = GraphiteListener::bind("127.0.0.1:0").await.unwrap().store(Arc::clone(&store));
    let (addr, stats) = (listener.local_addr(), listener.stats_handle());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(listener.serve_until(stop.clone().cancelled_owned()));
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let wait = async |done: &dyn Fn(GraphiteStats) -> bool| {
        while !done(stats.stats()) {
            tokio::task::yield_now().await;
        }
    };
    peer.send_to(b"a 1 1\na 2 2", addr).await.unwrap();
    wait(&|stats| stats.puts == 2).await;
    store.fail([StoreError::transient("disk full")]);
    peer.send_to(b"a 3 3\nnonsense\n", addr).await.unwrap();
    wait(&|stats| stats.dropped == 1).await;
    peer.send_to(b"a 4 4\n", addr).await.unwrap();
    wait(&|stats| stats.puts == 3).await;
    stop.cancel();
    serving.await.unwrap();
    assert_eq!(stored(&store.store).await, "a 1 1, a 2 2, a 4 4");
    let stats = stats.stats();
    assert_eq!((stats.datagrams, stats.invalid_lines, stats.retries), (3, 1, 0));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let limits = GraphiteLimits::default().max_connections(1);
    let listener = GraphiteListener::bind("127.0.0.1:0").await.unwrap().limits(limits);
    let (addr, stats) = (listener.local_addr(), listener.stats_handle());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(listener.serve_until(stop.clone().cancelled_owned()));
    let mut first = tokio::net::TcpStream::connect(addr).await.unwrap();
    first.write_all(b"a 1 1\n").await.unwrap();
    while stats.stats().puts == 0 {
        tokio::task::yield_now().await;
    }
    let mut second = tokio::net::TcpStream::connect(addr).await.unwrap();
    assert_eq!(second.read(&mut [0; 8]).await.unwrap(), 0);
    first.write_all(b"a 2 2\n").await.unwrap();
    while stats.stats().puts == 1 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    serving.await.unwrap();
    let stats = stats.stats();
    assert_eq!((stats.accepted, stats.rejected_connections, stats.connections), (1, 1, 0));
}
