//! A server whose store fails for some time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use metrics_client::{MetricsClient, Selector, client::connector_fn, spool::Spool};
use metrics_server::{
    Limits, MemoryStore, Store, serve_connection,
    store::{MemorySnapshot, PutBatch, Snapshot, StoreError},
};
use tempfile::TempDir;
use tokio::{io::duplex, time};

use super::spooling;
use crate::reporter::{LONG, SECOND, accounted};

/// Keeps nothing while it is away, and can be read all the time.
#[derive(Debug, Default)]
struct Disk {
    memory: MemoryStore,
    is_full: AtomicBool,
    failed: AtomicU64,
}

impl Store for Disk {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::transient("disk full"));
        }
        self.memory.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.memory.get(selector).await
    }
}

// FAULTS S5
#[tokio::test(start_paused = true)]
async fn samples_outlive_a_full_disk_of_the_server() {
    const PHASE: i64 = 2000;
    let store = Arc::new(Disk::default());
    let behind = Arc::clone(&store);
    let connect = connector_fn(move |_| {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(serve_connection(far, Arc::clone(&behind), Limits::default()));
        async move { Ok(near) }
    });
    let client = MetricsClient::builder("pipe").connector(connect).connect_lazy().unwrap();
    let folder = TempDir::new().unwrap();
    let reporter = spooling(client, Spool::dir(&folder));
    for phase in 0..3 {
        store.is_full.store(phase == 1, Ordering::Relaxed);
        // Five minutes and more: many a connection comes and goes.
        for at in 0..PHASE {
            reporter.record_at(format!("key.{}", at % 7), 0.5, phase * PHASE + at);
            time::sleep(SECOND / 6).await;
        }
    }
    reporter.flush(2 * LONG).await.unwrap();
    let stats = accounted(&reporter);
    assert!(store.failed.load(Ordering::Relaxed) > 10, "the store was asked while it was away");
    assert_eq!((stats.rejected, stats.dropped.total()), (0, 0), "{stats:?}");
    let stored = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
    assert_eq!(stored.point_count(), 3 * PHASE as usize);
}
