//! A store in memory.

use std::{
    collections::VecDeque,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use imbl::Vector;

use super::{
    Block, KeyPattern, PutBatch, RangeSnapshot, Snapshot, Store, StoreError,
    accounting::MemoryAccount,
    index::ShardedIndex,
    points::{Chunk, Points},
};
use metrics_client::{Key, Point, Selector};

/// A store in memory; its points are lost when the process ends.
///
/// Readers and the writer share a persistent data structure. A snapshot has the same cost however much is
/// stored, and blocks no put; while one is held, the first put to each part of the store copies that part,
/// at most some 12 KiB. A point takes little more than 16 bytes if each key is written in ascending order,
/// and up to twice as much otherwise; a key takes a few hundred bytes more.
///
/// The memory of the points, and of what only snapshots reference, is limited by
/// [`max_bytes`](Self::max_bytes).
///
/// ```
/// use metrics_client::{Key, Point, Selector};
/// use metrics_server::store::{MemoryStore, PutBatch, Snapshot, Store};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let store = MemoryStore::new();
/// let mut puts = PutBatch::new();
/// puts.push(&Key::new("palm.cpu")?, Point::new(23.7, 1150864247));
/// store.apply(&puts).await?;
///
/// let metrics = store.get(&Selector::All).await?.into_metrics().await?;
/// assert_eq!(metrics.points("palm.cpu"), [Point::new(23.7, 1150864247)]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<MemoryState>,
    accounting: MemoryAccount,
    max_bytes: usize,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum memory in bytes. Default: 1 GiB, some 60 million points.
    ///
    /// The limit includes memory that only open snapshots still reference, as of a slow reader. When it is
    /// exceeded, the oldest snapshots are evicted, and their readers get a
    /// [transient](StoreError::is_transient) error, since they can read a new one. If that is not enough,
    /// puts fail with the final error `store full`: stored points are never evicted, so the put would fail
    /// again.
    ///
    /// The process needs somewhat more memory than is counted: up to a sixteenth for a free list of
    /// chunks, and the overhead of the allocator.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Evicts snapshots until the memory limit is kept. Returns false if the points alone exceed it.
    fn enforce_limit(&self) -> bool {
        // If they do, evicting snapshots would not help.
        let has_capacity = self.accounting.stored() <= self.max_bytes;
        while has_capacity && self.accounting.bytes() > self.max_bytes {
            // It is freed without the lock. Another thread may find no snapshot to evict.
            let Some(oldest) = self.state().evict_oldest() else { break };
            drop(oldest);
        }
        has_capacity
    }

    /// Locks the state, for one batch at most and never across an `await`.
    fn state(&self) -> MutexGuard<'_, MemoryState> {
        // Each put leaves the state consistent, so a panic between two of them breaks nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        if !self.enforce_limit() {
            let hint =
                format!("limit of {} bytes reached; raise MemoryStore::max_bytes", self.max_bytes);
            return Err(StoreError::new("store full").with_source(hint));
        }
        self.state().apply(puts, &self.accounting);
        // The excess is not kept until the next put.
        self.enforce_limit();
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        let data = self.state().snapshot(selector);
        Ok(MemorySnapshot { data, from: i64::MIN, series: 0, after: None, block: None })
    }

    async fn get_range(
        &self,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> Result<RangeSnapshot<MemorySnapshot>, StoreError> {
        let snapshot = MemorySnapshot { from: *seconds.start(), ..self.get(selector).await? };
        Ok(RangeSnapshot::new(snapshot, seconds))
    }

    async fn keys(&self, pattern: &KeyPattern) -> Result<Vec<Key>, StoreError> {
        let series = self.state().series.clone();
        let keys = series.iter().map(|series| &series.key);
        Ok(keys.filter(|key| pattern.matches(key.as_str())).cloned().collect())
    }

    async fn last(&self, key: &Key) -> Result<Option<Point>, StoreError> {
        let state = self.state();
        let index = state.index.get(key.as_str());
        Ok(index.and_then(|index| state.series.get(index)).and_then(|series| series.points.last()))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        let accounting = MemoryAccount::default();
        Self { state: Mutex::default(), accounting, max_bytes: 1 << 30 }
    }
}

/// A snapshot of a [`MemoryStore`].
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    data: Arc<MemorySnapshotData>,
    /// Blocks that end before this second are skipped.
    from: i64,
    /// The index of the series that is being read.
    series: usize,
    /// The first timestamp of the last block of that series.
    after: Option<i64>,
    /// The last block, kept while it is borrowed.
    block: Option<(Key, Arc<Chunk>)>,
}

/// The series of a snapshot; `None` once it is evicted.
#[derive(Debug)]
struct MemorySnapshotData(Mutex<Option<Vector<StoredSeries>>>);

impl MemorySnapshotData {
    fn series(&self) -> MutexGuard<'_, Option<Vector<StoredSeries>>> {
        // Readers change nothing, and eviction is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot for MemorySnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        self.block = None;
        let data = self.data.series();
        let Some(series) = &*data else {
            let message = "snapshot evicted: store full, and this one is the oldest";
            return Err(StoreError::transient(message));
        };
        while let Some(StoredSeries { key, points }) = series.get(self.series) {
            let chunk = match self.after {
                None => points.chunk_from(self.from),
                after => points.chunk(after),
            };
            if let Some(chunk) = chunk {
                self.after = chunk.points().first().map(|point| point.timestamp);
                self.block = Some((key.clone(), Arc::clone(chunk)));
                break;
            }
            self.series += 1;
            self.after = None;
        }
        Ok(self.block.as_ref().map(|(key, chunk)| Block { key, points: chunk.points() }))
    }
}

#[derive(Clone, Debug)]
struct StoredSeries {
    key: Key,
    points: Points,
}

#[derive(Debug, Default)]
struct MemoryState {
    /// In the order of their first put; never removed, so an index stays valid.
    series: Vector<StoredSeries>,
    index: ShardedIndex,
    /// Scratch space: the indices of the keys of a batch.
    indices: Vec<usize>,
    /// The open snapshots, the oldest first.
    snapshots: VecDeque<Weak<MemorySnapshotData>>,
    /// How many entries `snapshots` may have before dropped ones are removed.
    sweep_threshold: usize,
}

impl MemoryState {
    fn apply(&mut self, puts: &PutBatch, accounting: &MemoryAccount) {
        let mut indices = std::mem::take(&mut self.indices);
        indices.extend(puts.runs().map(|run| self.index_of(run.key, accounting)));
        let mut series = self.series.focus_mut();
        for (index, run) in indices.drain(..).zip(puts.runs()) {
            let points = &mut series.index_mut(index).points;
            run.points().for_each(|point| points.put(point));
        }
        self.indices = indices;
    }

    fn snapshot(&mut self, selector: &Selector) -> Arc<MemorySnapshotData> {
        if self.snapshots.len() >= self.sweep_threshold {
            self.snapshots.retain(|data| data.strong_count() > 0);
            // Amortized: each snapshot pays for checking two entries.
            self.sweep_threshold = 64 + 2 * self.snapshots.len();
        }
        let data = Arc::new(MemorySnapshotData(Mutex::new(Some(self.get(selector)))));
        self.snapshots.push_back(Arc::downgrade(&data));
        data
    }

    fn evict_oldest(&mut self) -> Option<Vector<StoredSeries>> {
        while let Some(data) = self.snapshots.pop_front() {
            if let Some(series) = data.upgrade().and_then(|data| data.series().take()) {
                return Some(series);
            }
        }
        None
    }

    fn get(&self, selector: &Selector) -> Vector<StoredSeries> {
        match selector {
            Selector::All => self.series.clone(),
            Selector::Key(key) => {
                let index = self.index.get(key.as_str());
                index.and_then(|index| self.series.get(index)).cloned().into_iter().collect()
            }
            // The protocol has no other selector, so no session asks for one.
            _ => Vector::new(),
        }
    }

    /// Returns the index of `key`, which is added if it is new.
    fn index_of(&mut self, key: &str, accounting: &MemoryAccount) -> usize {
        let series = &mut self.series;
        self.index.get_or_add(key, || {
            let (key, index) = (Key::new(key).expect("a batch holds valid keys"), series.len());
            accounting.add(KEY_BYTES + key.as_str().len());
            series.push_back(StoredSeries { key: key.clone(), points: Points::new(accounting) });
            (key, index)
        })
    }
}

/// The memory of a key without its text and points, in bytes: its entry in the list and in the index,
/// which is half empty after it has grown, with the overhead of the allocator.
const KEY_BYTES: usize = 32 + size_of::<Key>() + 2 * size_of::<(Key, usize)>();

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts `points` points for each of `keys` keys.
    async fn put(
        store: &MemoryStore,
        keys: usize,
        points: i64,
        value: f64,
    ) -> Result<(), StoreError> {
        let mut puts = PutBatch::new();
        for key in 0..keys {
            (0..points).for_each(|at| {
                puts.push(&Key::new(format!("key.{key}")).unwrap(), Point::new(value, at));
            });
        }
        store.apply(&puts).await
    }

    #[tokio::test]
    async fn full_store_rejects_puts_and_can_be_read() {
        let store = MemoryStore::new().max_bytes(1 << 20);
        let mut keys = 0;
        let error = loop {
            keys += 10;
            if let Err(error) = put(&store, keys, 100, 0.5).await {
                break error;
            }
        };
        assert_eq!(error.to_string(), "store full");
        // 1 MiB is 65,536 points without overhead; the last batch may exceed it.
        assert!((350..=500).contains(&keys), "{keys}");
        let metrics = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
        assert_eq!(metrics.point_count(), (keys - 10) * 100);
    }

    #[tokio::test]
    async fn oldest_snapshots_are_evicted_before_puts_fail() {
        let store = MemoryStore::new().max_bytes(1 << 20);
        // Some 160 KiB, and as much for each snapshot, since all of it changes.
        let mut snapshots = Vec::new();
        for version in 0..20 {
            put(&store, 10, 1000, f64::from(version)).await.unwrap();
            snapshots.push(store.get(&Selector::All).await.unwrap());
        }
        assert!(store.accounting.bytes() <= 1 << 20);
        let mut kept = 0;
        for (version, snapshot) in (0..).zip(snapshots) {
            match snapshot.into_metrics().await {
                Ok(metrics) => {
                    kept += 1;
                    assert_eq!(metrics.point_count(), 10_000);
                    assert!(metrics.points("key.9").iter().all(|p| p.value == f64::from(version)));
                }
                Err(error) => {
                    assert_eq!(kept, 0, "an older one was kept");
                    assert!(error.to_string().contains("snapshot evicted"));
                }
            }
        }
        assert!((3..=6).contains(&kept), "{kept}");
        put(&store, 10, 1000, 0.5).await.unwrap();
    }

    #[tokio::test]
    async fn rejected_put_evicts_no_snapshot() {
        let store = MemoryStore::new().max_bytes(1 << 20);
        let mut keys = 10;
        let mut reader = store.get(&Selector::All).await.unwrap();
        while put(&store, keys, 100, 0.5).await.is_ok() {
            reader = store.get(&Selector::All).await.unwrap();
            keys += 10;
        }
        for _ in 0..10 {
            assert!(put(&store, keys, 100, 1.5).await.is_err());
        }
        assert_eq!(reader.into_metrics().await.unwrap().point_count(), (keys - 10) * 100);
    }

    /// An evicted snapshot is freed without the lock, so another thread may find none to evict.
    #[tokio::test]
    async fn put_succeeds_while_another_thread_frees() {
        let store = MemoryStore::new();
        put(&store, 100, 100, 0.5).await.unwrap();
        let bytes = store.accounting.bytes();
        let store = store.max_bytes(bytes * 3 / 2);
        let snapshot = store.get(&Selector::All).await.unwrap();
        put(&store, 40, 100, 1.5).await.unwrap();
        let kept = store.state().evict_oldest();
        put(&store, 100, 100, 2.5).await.unwrap();
        assert!(store.accounting.bytes() > store.max_bytes);
        put(&store, 100, 100, 3.5).await.unwrap();
        drop((snapshot, kept));
        assert_eq!(store.accounting.bytes(), store.accounting.stored());
    }

    #[tokio::test]
    async fn dropped_snapshots_leave_nothing_behind() {
        let store = MemoryStore::new();
        put(&store, 10, 1000, 0.5).await.unwrap();
        let bytes = store.accounting.bytes();
        let held = store.get(&Selector::All).await.unwrap();
        for version in 0..1000 {
            let snapshot = store.get(&Selector::All).await.unwrap();
            put(&store, 1, 1, f64::from(version)).await.unwrap();
            drop(snapshot);
            assert!(store.state().snapshots.len() <= 64 + 2);
        }
        drop(held);
        put(&store, 1, 1, 0.5).await.unwrap();
        assert_eq!(store.accounting.bytes(), bytes);
    }
}
