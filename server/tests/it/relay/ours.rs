//! A relay to another server of this protocol.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU8, Ordering},
};

use metrics_server::{
    relay::Destination,
    store::{MemorySnapshot, PutBatch, StoreError},
};
use tokio::task::JoinHandle;

use super::*;

/// A store that is slow or fails, as its mode says.
struct FaultyStore {
    points: MemoryStore,
    mode: AtomicU8,
}

const WORKS: u8 = 0;
const IS_SLOW: u8 = 1;
const IS_FULL: u8 = 2;
const REJECTS_EARDRUM: u8 = 3;

impl Store for FaultyStore {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        match self.mode.load(Ordering::Relaxed) {
            IS_SLOW => sleep(Duration::from_millis(200)).await,
            IS_FULL => return Err(StoreError::transient("disk full")),
            REJECTS_EARDRUM => {
                let mut kept = PutBatch::new();
                let mut errors = Vec::new();
                for (index, (key, point)) in puts.iter().enumerate() {
                    if key.starts_with("eardrum") {
                        errors.push((index, StoreError::new("no such tenant")));
                    } else {
                        kept.push(&metrics_client::Key::new(key).unwrap(), point);
                    }
                }
                self.points.apply(&kept).await?;
                return if errors.is_empty() { Ok(()) } else { Err(StoreError::of_puts(errors)) };
            }
            _ => {}
        }
        self.points.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.points.get(selector).await
    }
}

/// A destination that can be killed and started again.
struct Other {
    store: Arc<FaultyStore>,
    addr: SocketAddr,
    serving: JoinHandle<()>,
}

impl Other {
    async fn start() -> Self {
        let store = FaultyStore { points: MemoryStore::new(), mode: AtomicU8::new(WORKS) };
        let store = Arc::new(store);
        let server = Server::bind("127.0.0.1:0").await.unwrap().store(Arc::clone(&store));
        Self { store, addr: server.local_addr(), serving: tokio::spawn(server.serve()) }
    }

    fn set(&self, mode: u8) {
        self.store.mode.store(mode, Ordering::Relaxed);
    }

    async fn kill(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    async fn restart(&mut self) {
        let server = Server::bind(self.addr).await.unwrap().store(Arc::clone(&self.store));
        self.serving = tokio::spawn(server.serve());
    }

    fn relay(&self) -> RelayBuilder {
        let destination: Destination =
            format!("metrics://{}?request_timeout=500ms", self.addr).parse().unwrap();
        Relay::builder(destination)
    }

    async fn points(&self) -> Points {
        points_of(&*self.store).await
    }
}

#[tokio::test]
async fn server_gets_every_point() {
    let other = Other::start().await;
    let source = Source::start(other.relay()).await;
    for round in 0..10 {
        source.put(round * 1000..(round + 1) * 1000).await;
    }
    let stats = source.until_settled().await;
    assert_eq!((stats.applied, stats.delivered), (30_000, 30_000));
    assert_same(&other.points().await, &source.points().await);
}

#[tokio::test]
async fn later_values_of_a_second_win() {
    let other = Other::start().await;
    let source = Source::start(other.relay().spill_after(Duration::ZERO)).await;
    for version in 0..200 {
        source.client.put_at("palm.cpu", f64::from(version), FIRST).await.unwrap();
        if version == 100 {
            other.set(IS_FULL);
        }
    }
    other.set(WORKS);
    source.until_settled().await;
    assert_eq!(other.points().await[&("palm.cpu".to_owned(), FIRST)], 199.0);
}

#[tokio::test]
async fn killed_server_gets_what_it_missed() {
    let mut other = Other::start().await;
    let source = Source::start(other.relay()).await;
    for round in 0..5 {
        source.put(round * 2000..(round + 1) * 2000).await;
        other.kill().await;
        source.put((round + 10) * 2000..(round + 11) * 2000).await;
        source.until("spooled", |stats| stats.spooled > 0).await;
        other.restart().await;
    }
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.dropped.total()), (60_000, 0));
    assert!(stats.is_up);
    assert_same(&other.points().await, &source.points().await);
}

#[tokio::test]
async fn slow_server_delays_no_put() {
    let other = Other::start().await;
    other.set(IS_SLOW);
    let source = Source::start(other.relay().max_queue_bytes(256 * 1024)).await;
    for round in 0..20 {
        source.put(round * 1000..(round + 1) * 1000).await;
        // Half of the queue is in the spool before the other half is full.
        source.until("spooled", |stats| stats.queue_bytes < 128 * 1024).await;
    }
    let stats = source.stats();
    assert!(stats.spooled > 0 && stats.delivered < 30_000, "{stats:?}");
    other.set(WORKS);
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.dropped.total()), (60_000, 0));
    assert_same(&other.points().await, &source.points().await);
}

#[tokio::test]
async fn full_server_gets_points_once_it_has_room() {
    let other = Other::start().await;
    other.set(IS_FULL);
    let source = Source::start(other.relay()).await;
    source.put(0..1000).await;
    let stats = source.until("failed", |stats| stats.failures > 2).await;
    assert_eq!((stats.delivered, stats.rejected, stats.is_up), (0, 0, false));
    other.set(WORKS);
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.rejected), (3000, 0));
    assert_same(&other.points().await, &source.points().await);
}

#[tokio::test]
async fn refused_points_are_counted_and_not_repeated() {
    let other = Other::start().await;
    other.set(REJECTS_EARDRUM);
    let source = Source::start(other.relay()).await;
    source.put(0..1000).await;
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.rejected, stats.failures), (2000, 1000, 0));
    let mut expected = source.points().await;
    expected.retain(|(key, _), _| !key.starts_with("eardrum"));
    assert_same(&other.points().await, &expected);
}

#[tokio::test]
async fn restarted_relay_goes_on_with_its_spool() {
    let mut other = Other::start().await;
    let source = Source::start(other.relay()).await;
    source.put(0..100).await;
    source.until_settled().await;
    other.kill().await;
    source.put(100..5000).await;
    let (spool, store) = source.stop().await;
    let source = Source::with(other.relay(), spool, store).await;
    assert_eq!(source.stats().recovered, 14_700);
    source.put(5000..5100).await;
    other.restart().await;
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.applied), (15_000, 300));
    assert_same(&other.points().await, &source.points().await);
}
