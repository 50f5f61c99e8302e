//! Many connections of one source, and another source, on a disk whose syncs the test lets pass one by one.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::session::{SessionShared, Usage, run};

/// A server on a disk with a gate.
struct Served {
    store: Arc<DiskStore>,
    shared: Arc<SessionShared<Arc<DiskStore>>>,
    gate: Gate,
}

impl Served {
    fn new(disk: &Disk) -> Self {
        let store = Arc::new(disk.open());
        let shared = SessionShared::new(Arc::clone(&store), Limits::default(), Arc::default());
        Self { store, shared: Arc::new(shared), gate: Gate::close(&disk.fs) }
    }

    /// Connects from the address 10.0.0.`source`.
    fn connect(&self, source: u8) -> DuplexStream {
        let (peer, io) = tokio::io::duplex(1024 * 1024);
        let from = SocketAddr::from((Ipv4Addr::new(10, 0, 0, source), 1));
        let (shared, stop) = (Arc::clone(&self.shared), CancellationToken::new());
        tokio::spawn(run(io, Some(from), shared, Usage::default(), stop));
        peer
    }

    /// Sends as many puts from each of as many connections as fill some groups, and waits for the first sync.
    async fn flood(&mut self, source: u8, connections: usize) -> Vec<DuplexStream> {
        let puts = format!("put a 1 {source}\n").repeat(20_000);
        let mut peers: Vec<_> = (0..connections).map(|_| self.connect(source)).collect();
        for peer in &mut peers {
            peer.write_all(puts.as_bytes()).await.unwrap();
        }
        self.gate.entered.recv().await.unwrap();
        settle().await;
        peers
    }
}

/// Lets the sessions do all that they can.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

fn answer(peer: &mut DuplexStream) -> Option<String> {
    use futures_util::FutureExt;
    let mut answer = [0; 4];
    let read = peer.read_exact(&mut answer).now_or_never()?;
    read.unwrap();
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn flood_of_one_source_does_not_delay_another() {
    let disk = Disk::new();
    let mut served = Served::new(&disk);
    let _flood = served.flood(1, 500).await;
    let mut peer = served.connect(2);
    for _ in 0..3 {
        peer.write_all(b"put honest 1 1\n").await.unwrap();
        settle().await;
        let before = served.store.stats().syncs;
        while answer(&mut peer).is_none() {
            // First come, first served, it would wait for all the others.
            assert!(served.store.stats().syncs - before < 3);
            served.gate.step().await;
            settle().await;
        }
    }
    served.gate.open();
}

#[tokio::test]
async fn large_batch_has_the_share_of_its_source() {
    let disk = Disk::new();
    let mut served = Served::new(&disk);
    let _flood = served.flood(1, 500).await;
    let mut puts = PutBatch::from_source([10, 0, 0, 2].into());
    let key = Key::new("large").unwrap();
    (0..6_000).for_each(|second| puts.push(&key, Point::new(0.5, second)));
    let store = Arc::clone(&served.store);
    let mut apply = Box::pin(store.apply(&puts));
    let before = store.stats().syncs;
    while futures_util::poll!(&mut apply).is_pending() {
        assert!(store.stats().syncs - before < 4);
        served.gate.step().await;
        settle().await;
    }
    served.gate.open();
}

#[tokio::test]
async fn source_that_is_alone_fills_each_group() {
    let disk = Disk::new();
    let mut served = Served::new(&disk);
    let _flood = served.flood(1, 500).await;
    let mut puts = Vec::new();
    for _ in 0..4 {
        let before = served.store.stats();
        while served.store.stats().syncs == before.syncs {
            served.gate.step().await;
            settle().await;
        }
        puts.push(served.store.stats().head_points - before.head_points);
    }
    // The first group is what had arrived when it was taken.
    let is_full = |&puts: &u64| puts * size_of::<Point>() as u64 >= pace::MIN_ROOM_BYTES as u64;
    assert!(puts[1..].iter().all(is_full), "{puts:?}");
    served.gate.open();
}

#[tokio::test]
async fn dropped_put_that_waits_leaves_nothing_behind() {
    let disk = Disk::new();
    let store = disk.open();
    let gate = Gate::close(&disk.fs);
    let mut large = PutBatch::from_source([10, 0, 0, 1].into());
    let key = Key::new("a").unwrap();
    (0..60_000).for_each(|second| large.push(&key, Point::new(0.5, second)));
    let mut applies: Vec<_> = (0..8).map(|_| Box::pin(store.apply(&large))).collect();
    for apply in &mut applies {
        assert!(futures_util::poll!(apply).is_pending());
    }
    assert!(!store.shared.queue.is_room_empty());
    // One that is written, one of a group, and some that wait.
    let last = applies.pop().unwrap();
    drop(applies);
    gate.open();
    last.await.unwrap();
    put(&store, &[("b", 1, 1.0)]).await;
    assert!(store.shared.queue.is_room_empty());
    kill(store).await;
}

#[tokio::test]
async fn put_that_waits_fails_when_the_store_is_closed() {
    let disk = Disk::new();
    let store = Arc::new(disk.open());
    let mut gate = Gate::close(&disk.fs);
    let key = Key::new("a").unwrap();
    let apply = |_| {
        let store = Arc::clone(&store);
        let mut large = PutBatch::new();
        (0..60_000).for_each(|second| large.push(&key, Point::new(0.5, second)));
        tokio::spawn(async move { store.apply(&large).await })
    };
    let applies: Vec<_> = (0..8).map(apply).collect();
    gate.entered.recv().await.unwrap();
    settle().await;
    let close = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.close().await }
    });
    settle().await;
    gate.open();
    close.await.unwrap();
    let mut outcomes = Vec::new();
    for apply in applies {
        outcomes.push(apply.await.unwrap());
    }
    assert!(outcomes.iter().any(Result::is_ok));
    let failed = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(failed.clone().count() > 0 && failed.into_iter().all(StoreError::is_transient));
}
