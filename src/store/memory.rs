//! The store that forgets everything when its process ends.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use imbl::Vector;

use super::{Block, PutBatch, Snapshot, Store, StoreError, points::Points};
use crate::metric::{Key, Selector};

/// Keeps everything in memory, in a structure that readers and the writer share.
///
/// A snapshot costs the same however much is stored, and holds up nobody; while one is held, the
/// first put to each part of the store copies that part, some 12 KiB at most. A point takes little
/// more than its 16 bytes if each key is written in ascending order, up to twice that if not; a key
/// takes a few hundred bytes besides.
///
/// ```
/// use metrics_client::{Key, Point, Selector, store::{MemoryStore, PutBatch, Snapshot, Store}};
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
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// A store without a point.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
        self.state().apply(puts);
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        Ok(MemorySnapshot { series: self.state().get(selector), place: 0, after: None })
    }
}

/// What a [`MemoryStore`] held at one moment.
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    series: Vector<Series>,
    /// The series that is being read.
    place: usize,
    /// Where the last block of that series began.
    after: Option<i64>,
}

impl Snapshot for MemorySnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        while let Some(Series { key, points }) = self.series.get(self.place) {
            if let Some(chunk) = points.chunk(self.after) {
                self.after = chunk.first().map(|point| point.timestamp);
                return Ok(Some(Block { key, points: chunk }));
            }
            self.place += 1;
            self.after = None;
        }
        Ok(None)
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
    /// The place of each key. Hashed with a secret, since peers choose the keys.
    index: HashMap<Key, usize>,
    /// The places of the keys of a batch, while it is applied.
    places: Vec<usize>,
}

impl State {
    fn apply(&mut self, puts: &PutBatch) {
        let mut places = std::mem::take(&mut self.places);
        places.extend(puts.runs().map(|run| self.place(run.key)));
        let mut series = self.series.focus_mut();
        for (place, run) in places.drain(..).zip(puts.runs()) {
            let points = &mut series.index_mut(place).points;
            run.points().for_each(|point| points.put(point));
        }
        self.places = places;
    }

    fn get(&self, selector: &Selector) -> Vector<Series> {
        match selector {
            Selector::All => self.series.clone(),
            Selector::Key(key) => {
                let place = self.index.get(key);
                place.and_then(|&place| self.series.get(place)).cloned().into_iter().collect()
            }
        }
    }

    /// The place of `key`, which has one from now on.
    fn place(&mut self, key: &str) -> usize {
        match self.index.get(key) {
            Some(&place) => place,
            None => self.add(Key::from_checked(key)),
        }
    }

    fn add(&mut self, key: Key) -> usize {
        let place = self.series.len();
        self.series.push_back(Series { key: key.clone(), points: Points::default() });
        self.index.insert(key, place);
        place
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn keys_are_hashed_with_a_secret() {
        let hash = || MemoryStore::new().state().index.hasher().hash_one("a");
        assert_ne!(hash(), hash(), "who knows the hashes can make all keys collide");
    }
}
