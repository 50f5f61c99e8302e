//! The store behind the simulated servers: in memory, or on disk if `METRICS_TEST_STORE` is `disk`.
//!
//! The simulation's thread blocks on the disk while its clock is stopped, so a seed always gives the same run.

use std::{
    env,
    sync::{Arc, mpsc},
    vec,
};

use metrics_client::{Key, Metrics, Point, Selector};
use metrics_server::{
    MemoryStore, Store,
    store::{Block, DiskStore, Fsync, MemorySnapshot, PutBatch, Snapshot, StoreError},
};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

/// One store behind all servers.
#[derive(Debug)]
pub(super) enum SimStore {
    Memory(MemoryStore),
    Disk(BlockingDisk),
}

/// A store on disk whose calls block.
#[derive(Debug)]
pub(super) struct BlockingDisk {
    store: Arc<DiskStore>,
    runtime: Runtime,
    _dir: TempDir,
}

impl BlockingDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        // Small heads, so that blocks are written too.
        let store = DiskStore::builder().fsync(Fsync::Never).max_head_points(20);
        let store = Arc::new(runtime.block_on(store.open(dir.path())).unwrap());
        Self { store, runtime, _dir: dir }
    }

    /// Waits for `call`, whether or not this thread is in a runtime.
    fn wait_for<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.runtime.spawn(async move { sender.send(call.await) });
        receiver.recv().expect("the store does not panic")
    }
}

impl SimStore {
    pub(super) fn new() -> Self {
        if env::var("METRICS_TEST_STORE").is_ok_and(|store| store == "disk") {
            Self::Disk(BlockingDisk::new())
        } else {
            Self::Memory(MemoryStore::new())
        }
    }

    pub(super) async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.apply(puts).await,
            Self::Disk(disk) => {
                let (store, puts) = (Arc::clone(&disk.store), puts.clone());
                disk.wait_for(async move { store.apply(&puts).await })
            }
        }
    }

    pub(super) async fn get(&self, selector: &Selector) -> Result<SimSnapshot, StoreError> {
        Ok(match self {
            Self::Memory(store) => SimSnapshot::Memory(store.get(selector).await?),
            Self::Disk(disk) => {
                let (store, selector) = (Arc::clone(&disk.store), selector.clone());
                let read = disk.wait_for(async move {
                    let mut snapshot = store.get(&selector).await?;
                    let mut blocks = Vec::new();
                    while let Some(Block { key, points }) = snapshot.next_block().await? {
                        blocks.push((key.clone(), points.to_vec()));
                    }
                    Ok::<_, StoreError>(blocks)
                });
                SimSnapshot::Disk { blocks: read?.into_iter(), block: None }
            }
        })
    }

    /// Returns everything.
    pub(super) async fn everything(&self) -> Result<Metrics, StoreError> {
        self.get(&Selector::All).await?.into_metrics().await
    }
}

/// A snapshot of a [`SimStore`].
#[derive(Debug)]
pub(super) enum SimSnapshot {
    Memory(MemorySnapshot),
    Disk { blocks: vec::IntoIter<(Key, Vec<Point>)>, block: Option<(Key, Vec<Point>)> },
}

impl Snapshot for SimSnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        match self {
            Self::Memory(snapshot) => snapshot.next_block().await,
            Self::Disk { blocks, block } => {
                *block = blocks.next();
                Ok(block.as_ref().map(|(key, points)| Block { key, points }))
            }
        }
    }
}
