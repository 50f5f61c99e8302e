//! The store that forgets everything when its process ends.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use imbl::Vector;

use super::{
    Block, PutBatch, Snapshot, Store, StoreError,
    accounting::MemoryAccount,
    index::Index,
    points::{Chunk, Points},
};
use metrics_client::{Key, Selector};

/// Keeps everything in memory, in a structure that readers and the writer share.
///
/// A snapshot costs the same however much is stored, and holds up nobody; while one is held, the
/// first put to each part of the store copies that part, some 12 KiB at most. A point takes little
/// more than its 16 bytes if each key is written in ascending order, up to twice that if not; a key
/// takes a few hundred bytes besides.
///
/// All of it together, with what snapshots keep of what has changed since, is bounded by
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
/// puts.push(&Key::new("palm.cpu")?, Point::new(1150864247, 23.7));
/// store.apply(&puts).await?;
///
/// let metrics = store.get(&Selector::All).await?.into_metrics().await?;
/// assert_eq!(metrics.points("palm.cpu"), [Point::new(1150864247, 23.7)]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    accounting: MemoryAccount,
    max_bytes: usize,
}

impl MemoryStore {
    /// A store without a point.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How much memory the points may take, in bytes: 1 GiB, some sixty million points.
    ///
    /// Snapshots count with what they keep of what has changed since, as a slow reader makes them:
    /// where there is no more room, the oldest of them are given up first, and whoever reads one of
    /// these is told so by an error. When that does not help either, the store is full, and takes no
    /// put any more: nothing that was stored is ever removed for another. A full store does not
    /// become less full by itself, so a put then fails with a final error, `store full`, and no client
    /// sends it again; that a snapshot was dropped is [transient](StoreError::is_transient), since a
    /// new one can be read. The process
    /// needs somewhat more than what is counted: up to a sixteenth is kept for snapshots to come,
    /// and allocators have their own expenses.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Says whether the points take no more than they may, and sees to it that they do not with what
    /// snapshots keep.
    fn make_room(&self) -> bool {
        // Where they do, no snapshot's end would make room.
        let has_room = self.accounting.stored() <= self.max_bytes;
        while has_room && self.accounting.bytes() > self.max_bytes {
            // Nobody needs to wait while it is freed, and whoever looks meanwhile finds none.
            let Some(oldest) = self.state().evict_oldest() else { break };
            drop(oldest);
        }
        has_room
    }

    /// Held for one batch at most, never across an `await`.
    fn state(&self) -> MutexGuard<'_, State> {
        // Each put leaves the state sound, so a panic between two of them has broken nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        if !self.make_room() {
            let remedy = format!(
                "it holds the {} bytes that it may; MemoryStore::max_bytes can allow more",
                self.max_bytes
            );
            return Err(StoreError::new("store full").with_source(remedy));
        }
        self.state().apply(puts, &self.accounting);
        // What was too much is not kept until somebody puts again.
        self.make_room();
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        let view = self.state().view(selector);
        Ok(MemorySnapshot { view, place: 0, after: None, block: None })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        let accounting = MemoryAccount::default();
        Self { state: Mutex::default(), accounting, max_bytes: 1 << 30 }
    }
}

/// What a [`MemoryStore`] held at one moment.
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    view: Arc<SnapshotData>,
    /// The series that is being read.
    place: usize,
    /// Where the last block of that series began.
    after: Option<i64>,
    /// That block, which stays while it is read.
    block: Option<(Key, Arc<Chunk>)>,
}

/// The series of a snapshot, until it is given up.
#[derive(Debug)]
struct SnapshotData(Mutex<Option<Vector<Series>>>);

impl SnapshotData {
    fn series(&self) -> MutexGuard<'_, Option<Vector<Series>>> {
        // Readers change nothing, and who gives it up does so in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot for MemorySnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        self.block = None;
        let view = self.view.series();
        let Some(series) = &*view else {
            let message = "the store is full, and this answer took longest to read";
            return Err(StoreError::transient(message));
        };
        while let Some(Series { key, points }) = series.get(self.place) {
            if let Some(chunk) = points.chunk(self.after) {
                self.after = chunk.points().first().map(|point| point.timestamp);
                self.block = Some((key.clone(), Arc::clone(chunk)));
                break;
            }
            self.place += 1;
            self.after = None;
        }
        Ok(self.block.as_ref().map(|(key, chunk)| Block { key, points: chunk.points() }))
    }
}

#[derive(Clone, Debug)]
struct Series {
    key: Key,
    points: Points,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their first put; never removed, so a place stays valid.
    series: Vector<Series>,
    index: Index,
    /// The places of the keys of a batch, while it is applied.
    places: Vec<usize>,
    /// The snapshots that may still be read, the oldest first.
    snapshots: VecDeque<Weak<SnapshotData>>,
    /// How many snapshots there may be before those that nobody reads any more are forgotten.
    sweep_threshold: usize,
}

impl State {
    fn apply(&mut self, puts: &PutBatch, accounting: &MemoryAccount) {
        let mut places = std::mem::take(&mut self.places);
        places.extend(puts.runs().map(|run| self.place(run.key, accounting)));
        let mut series = self.series.focus_mut();
        for (place, run) in places.drain(..).zip(puts.runs()) {
            let points = &mut series.index_mut(place).points;
            run.points().for_each(|point| points.put(point));
        }
        self.places = places;
    }

    fn view(&mut self, selector: &Selector) -> Arc<SnapshotData> {
        if self.snapshots.len() >= self.sweep_threshold {
            self.snapshots.retain(|view| view.strong_count() > 0);
            // So that each snapshot pays for looking at two.
            self.sweep_threshold = 64 + 2 * self.snapshots.len();
        }
        let view = Arc::new(SnapshotData(Mutex::new(Some(self.get(selector)))));
        self.snapshots.push_back(Arc::downgrade(&view));
        view
    }

    fn evict_oldest(&mut self) -> Option<Vector<Series>> {
        while let Some(view) = self.snapshots.pop_front() {
            if let Some(series) = view.upgrade().and_then(|view| view.series().take()) {
                return Some(series);
            }
        }
        None
    }

    fn get(&self, selector: &Selector) -> Vector<Series> {
        match selector {
            Selector::All => self.series.clone(),
            Selector::Key(key) => {
                let place = self.index.get(key);
                place.and_then(|place| self.series.get(place)).cloned().into_iter().collect()
            }
        }
    }

    /// The place of `key`, which has one from now on.
    fn place(&mut self, key: &str, accounting: &MemoryAccount) -> usize {
        let series = &mut self.series;
        self.index.get_or_add(key, || {
            let (key, place) = (Key::new(key).expect("a batch holds valid keys"), series.len());
            accounting.add(KEY_BYTES + key.len());
            series.push_back(Series { key: key.clone(), points: Points::new(accounting) });
            (key, place)
        })
    }
}

/// What a key takes besides its text and its points, in bytes: its name in the list and its entry in
/// the index, which is half empty after it has grown, both with their allocator's share.
const KEY_BYTES: usize = 32 + size_of::<Key>() + 2 * size_of::<(Key, usize)>();

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_client::Point;

    /// Puts so many points of so many keys.
    async fn put(
        store: &MemoryStore,
        keys: usize,
        points: i64,
        value: f64,
    ) -> Result<(), StoreError> {
        let mut puts = PutBatch::new();
        for key in 0..keys {
            (0..points).for_each(|at| {
                puts.push(&Key::new(format!("key.{key}")).unwrap(), Point::new(at, value));
            });
        }
        store.apply(&puts).await
    }

    #[tokio::test]
    async fn a_full_store_takes_no_more_and_can_be_read() {
        let store = MemoryStore::new().max_bytes(1 << 20);
        let mut keys = 0;
        let error = loop {
            keys += 10;
            if let Err(error) = put(&store, keys, 100, 0.5).await {
                break error;
            }
        };
        assert_eq!(error.to_string(), "store full");
        // 1 MiB is room for 65,536 bare points; what one batch is too much, it is too much.
        assert!((350..=500).contains(&keys), "{keys}");
        let metrics = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
        assert_eq!(metrics.point_count(), (keys - 10) * 100);
    }

    #[tokio::test]
    async fn snapshots_are_given_up_the_oldest_first_before_a_put_is_refused() {
        let store = MemoryStore::new().max_bytes(1 << 20);
        // Some 160 KiB, and as much for each snapshot that is held while all of it changes.
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
                    assert_eq!(kept, 0, "an older one is still there");
                    assert!(error.to_string().contains("took longest"));
                }
            }
        }
        assert!((3..=6).contains(&kept), "{kept}");
        put(&store, 10, 1000, 0.5).await.unwrap();
    }

    #[tokio::test]
    async fn a_put_that_is_refused_gives_up_no_snapshot() {
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

    /// What a snapshot kept is freed without the lock; who comes meanwhile finds none to give up.
    #[tokio::test]
    async fn a_put_is_not_refused_for_what_another_thread_is_about_to_free() {
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
    async fn snapshots_that_were_read_leave_nothing_behind() {
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
