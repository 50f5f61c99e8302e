//! The points of one key: a sorted, persistent list with cheap appends.

use std::{ops::Bound, sync::Arc};

use imbl::OrdMap;

use super::{
    accounting::{Accounted, MemoryAccount},
    chunk_pool::ChunkPool,
};
use metrics_client::Point;

/// The points of one key, ascending by timestamp, one for each second.
///
/// A clone is a snapshot: it costs two reference counts, and the next write copies only the chunks that it
/// touches.
///
/// Points are stored in chunks of at most `CHUNK`. The last chunk is kept apart, because a metric grows
/// there; appending leaves every chunk before it full. A point for an earlier second is inserted into its
/// chunk, which is split if it is full. So an append is O(1), and any other put moves, or with a snapshot
/// copies, the points of at most one chunk.
///
/// `imbl::Vector` inserts by splitting and joining whole vectors, and starts with 1 KiB for a key of five
/// points.
#[derive(Clone, Debug)]
pub(super) struct Points<const CHUNK: usize = { ChunkPool::CHUNK_POINTS }> {
    /// All chunks but the last, each under its first timestamp.
    sealed: OrdMap<i64, Arc<Chunk>>,
    /// The chunk with the highest timestamps; empty only if there is no point at all.
    tail: Arc<Chunk>,
    /// The timestamp of the last point. An append need not read the points, which are seldom in the
    /// processor's cache if there are many keys.
    last: Option<i64>,
    /// The memory of this struct. A snapshot keeps a copy of it while a neighbour in the list changes.
    accounted: Accounted,
}

impl<const CHUNK: usize> Points<CHUNK> {
    /// Creates an empty list whose memory is counted by `accounting`.
    pub(super) fn new(accounting: &MemoryAccount) -> Self {
        Self {
            sealed: OrdMap::new(),
            tail: Arc::new(Chunk::new(accounting)),
            last: None,
            accounted: Accounted::new(accounting, size_of::<Self>()),
        }
    }

    /// Adds a point, or replaces the value of its second.
    #[inline]
    pub(super) fn put(&mut self, point: Point) {
        if self.last.is_some_and(|last| point.timestamp <= last) {
            return self.put_before_end(point);
        }
        if self.tail.points.len() >= CHUNK {
            self.seal(Chunk::new(self.accounted.accounting()));
        }
        Arc::make_mut(&mut self.tail).push(point);
        self.last = Some(point.timestamp);
    }

    /// Returns the chunk after the one that begins at `after`, or the first chunk.
    pub(super) fn chunk(&self, after: Option<i64>) -> Option<&Arc<Chunk>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        if let Some((_, chunk)) = self.sealed.range((from, Bound::Unbounded)).next() {
            return Some(chunk);
        }
        let first = self.tail.first()?;
        after.is_none_or(|after| after < first).then_some(&self.tail)
    }

    /// Returns the chunk that contains `second`, or else the next one.
    pub(super) fn chunk_from(&self, second: i64) -> Option<&Arc<Chunk>> {
        if self.tail.first().is_some_and(|first| first <= second) {
            return Some(&self.tail);
        }
        match self.sealed.get_prev(&second) {
            Some((_, chunk)) => Some(chunk),
            None => self.chunk(None),
        }
    }

    /// Returns the point with the latest second.
    pub(super) fn last(&self) -> Option<Point> {
        self.tail.points.last().copied()
    }

    /// Puts a point that is not after the last one.
    fn put_before_end(&mut self, point: Point) {
        let at = point.timestamp;
        let in_tail = self.tail.first().is_some_and(|first| first <= at) || self.sealed.is_empty();
        if in_tail {
            match Arc::make_mut(&mut self.tail).put::<CHUNK>(point) {
                Split::None => {}
                Split::Before(chunk) => self.insert(chunk),
                Split::After(chunk) => self.seal(chunk),
            }
            return;
        }
        let first =
            self.sealed.get_prev(&at).or_else(|| self.sealed.get_min().map(|(k, c)| (k, c)));
        let Some(first) = first.map(|(&first, _)| first) else {
            unreachable!("a point that is not for the tail has a sealed chunk to go to");
        };
        if first > at
            && let Some(mut chunk) = self.sealed.remove(&first)
        {
            // The first chunk gets a new first timestamp, so its key changes.
            let split = Arc::make_mut(&mut chunk).put::<CHUNK>(point);
            self.sealed.extend(chunk.first().map(|first| (first, chunk)));
            self.insert_split(split);
        } else if let Some(chunk) = self.sealed.get_mut(&first) {
            let split = Arc::make_mut(chunk).put::<CHUNK>(point);
            self.insert_split(split);
        }
    }

    fn insert_split(&mut self, split: Split) {
        match split {
            Split::None => {}
            Split::Before(chunk) | Split::After(chunk) => self.insert(chunk),
        }
    }

    /// Seals the tail, and replaces it by `next`.
    fn seal(&mut self, next: Chunk) {
        let full = std::mem::replace(&mut self.tail, Arc::new(next));
        self.sealed.extend(full.first().map(|first| (first, full)));
    }

    fn insert(&mut self, chunk: Chunk) {
        self.sealed.extend(chunk.first().map(|first| (first, Arc::new(chunk))));
    }
}

/// Sorted points.
#[derive(Debug)]
pub(super) struct Chunk {
    points: Vec<Point>,
    accounted: Accounted,
}

/// Points that did not fit into a chunk: all before, or all after, those that it kept.
enum Split {
    None,
    Before(Chunk),
    After(Chunk),
}

impl Chunk {
    fn new(accounting: &MemoryAccount) -> Self {
        Self::of(Vec::new(), accounting)
    }

    fn of(points: Vec<Point>, accounting: &MemoryAccount) -> Self {
        let mut chunk = Self { points, accounted: Accounted::new(accounting, 0) };
        chunk.count();
        chunk
    }

    /// Returns the points; empty only if the key has none at all.
    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Appends a point that is after all others.
    #[inline]
    fn push(&mut self, point: Point) {
        self.points.push(point);
        self.count();
    }

    #[inline]
    fn count(&mut self) {
        self.accounted.set(CHUNK_BYTES + self.points.capacity() * size_of::<Point>());
    }

    fn first(&self) -> Option<i64> {
        self.points.first().map(|point| point.timestamp)
    }

    /// Inserts or replaces a point, and splits the chunk if it is full.
    fn put<const CHUNK: usize>(&mut self, point: Point) -> Split {
        let found = self.points.binary_search_by_key(&point.timestamp, |point| point.timestamp);
        let at = match found {
            Ok(at) => {
                self.points[at] = point;
                return Split::None;
            }
            Err(at) => at,
        };
        if self.points.len() < CHUNK {
            self.points.insert(at, point);
            self.count();
            return Split::None;
        }
        if at == 0 {
            // Writing backwards leaves full chunks too.
            return Split::Before(Self::of(vec![point], self.accounted.accounting()));
        }
        let half = self.points.len() / 2;
        let mut upper = self.points.split_off(half);
        self.points.shrink_to_fit();
        let (side, at) = if at <= half { (&mut self.points, at) } else { (&mut upper, at - half) };
        side.insert(at, point);
        self.count();
        Split::After(Self::of(upper, self.accounted.accounting()))
    }
}

/// A copy has the capacity of the original, since it is made to be written to.
impl Clone for Chunk {
    fn clone(&self) -> Self {
        let accounting = self.accounted.accounting();
        let mut points = match self.points.capacity() {
            ChunkPool::CHUNK_POINTS => accounting.chunk_pool().take(),
            capacity => Vec::with_capacity(capacity),
        };
        points.extend_from_slice(&self.points);
        Self { points, accounted: self.accounted.clone() }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let accounting = self.accounted.accounting();
        accounting.chunk_pool().recycle(std::mem::take(&mut self.points), accounting.bytes());
    }
}

/// The memory of a chunk without its points, in bytes: itself, its reference counts, and an entry in a
/// node of the map, which may be half empty.
const CHUNK_BYTES: usize = size_of::<Chunk>() + 16 + 2 * size_of::<(i64, Arc<Chunk>)>();

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn all<const CHUNK: usize>(points: &Points<CHUNK>) -> Vec<(i64, f64)> {
        chunks(points).into_iter().flatten().map(|point| (point.timestamp, point.value)).collect()
    }

    fn chunks<const CHUNK: usize>(points: &Points<CHUNK>) -> Vec<&[Point]> {
        let mut chunks: Vec<&[Point]> = Vec::new();
        let mut after = None;
        while let Some(chunk) = points.chunk(after) {
            after = Some(chunk.points[0].timestamp);
            chunks.push(&chunk.points);
        }
        chunks
    }

    #[test]
    fn chunks_are_full_in_either_write_order() {
        let accounting = MemoryAccount::default();
        let mut ascending = Points::<8>::new(&accounting);
        let mut descending = Points::<8>::new(&accounting);
        for at in 0..32 {
            ascending.put(Point::new(0.0, at));
            descending.put(Point::new(0.0, -at));
        }
        assert_eq!(chunks(&ascending).len(), 4);
        assert_eq!(chunks(&descending).len(), 4);
    }

    #[test]
    fn chunk_capacity_is_bounded() {
        let mut points = Points::<512>::new(&MemoryAccount::default());
        let mut snapshots = Vec::new();
        for at in 0..2000 {
            points.put(Point::new(0.0, at));
            if at % 100 == 0 {
                snapshots.push(points.clone());
            }
        }
        for (_, chunk) in &points.sealed {
            assert_eq!((chunk.points.len(), chunk.points.capacity()), (512, 512));
        }
        assert!(points.tail.points.capacity() <= 512);
    }

    #[test]
    fn chunk_of_a_dropped_snapshot_is_reused() {
        let accounting = MemoryAccount::default();
        let mut points = Points::<512>::new(&accounting);
        (0..20 * 512).for_each(|at| points.put(Point::new(0.0, at)));
        let snapshot = points.clone();
        points.put(Point::new(1.0, 0));
        let kept = snapshot.chunk(None).unwrap().points().as_ptr();
        drop(snapshot);
        // Takes what the allocator has just freed.
        let _elsewhere = Vec::<Point>::with_capacity(512);
        let _snapshot = points.clone();
        points.put(Point::new(2.0, 0));
        assert_eq!(points.chunk(None).unwrap().points().as_ptr(), kept);
        assert_eq!(all(&points).len(), 20 * 512);
    }

    proptest! {
        #[test]
        fn puts_in_any_order_match_a_sorted_map(
            puts in prop::collection::vec((-40i64..40, -1e3f64..1e3), 0..200),
            snapshot_at in 0usize..200,
        ) {
            let accounting = MemoryAccount::default();
            let mut points = Points::<4>::new(&accounting);
            let mut model = BTreeMap::new();
            let mut snapshot = None;
            for (at, (timestamp, value)) in puts.into_iter().enumerate() {
                if at == snapshot_at {
                    snapshot = Some((points.clone(), all(&points)));
                }
                points.put(Point::new(value, timestamp));
                model.insert(timestamp, value);
                prop_assert!(chunks(&points).iter().all(|chunk| (1..=4).contains(&chunk.len())));
            }
            prop_assert_eq!(all(&points), model.into_iter().collect::<Vec<_>>());
            if let Some((snapshot, then)) = snapshot {
                prop_assert_eq!(all(&snapshot), then);
            }
            let chunks = points.sealed.values().chain([&points.tail]);
            let bytes: usize = chunks.map(|c| CHUNK_BYTES + c.points.capacity() * 16).sum();
            prop_assert_eq!(accounting.bytes(), bytes + size_of::<Points<4>>(), "with no snapshot left");
            drop(points);
            prop_assert_eq!(accounting.bytes(), 0);
        }
    }
}
