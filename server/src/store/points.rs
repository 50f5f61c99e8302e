//! The points of one key: sorted, cheap to append to, shared with snapshots.

use std::{ops::Bound, sync::Arc};

use imbl::OrdMap;

use super::{
    accounting::{Accounted, MemoryAccount},
    chunk_pool::ChunkPool,
};
use metrics_client::Point;

/// The points of one key, ascending by timestamp, one for each second. A clone is a snapshot: it
/// costs two reference counts, and whoever writes next copies only the chunks that it touches.
///
/// Points live in chunks of at most `CHUNK`. The last chunk stands apart, because that is where a
/// metric grows; appending leaves every chunk before it full. A point for an earlier second goes to
/// its place in its chunk, which splits when it is full. An append is therefore O(1), any other put
/// moves at most one chunk's points, and a snapshot that is held makes a put copy as much.
///
/// `imbl::Vector` would do the first of these as well, but insert by splitting and joining whole
/// vectors, and would begin with 1 KiB for a key of five points.
#[derive(Clone, Debug)]
pub(super) struct Points<const CHUNK: usize = { ChunkPool::POINTS }> {
    /// All chunks but the last, each under its first timestamp.
    sealed: OrdMap<i64, Arc<Chunk>>,
    /// The chunk with the highest timestamps; empty only if there is no point at all.
    tail: Arc<Chunk>,
    /// The timestamp of the last point: an append need not look at the points, which are seldom in
    /// the processor's cache where there are many keys.
    last: Option<i64>,
    /// What this takes besides its chunks; a snapshot that is held while one of its neighbours
    /// changes keeps it a second time.
    metered: Accounted,
}

impl<const CHUNK: usize> Points<CHUNK> {
    /// None yet; `accounting` counts what they will take.
    pub(super) fn new(accounting: &MemoryAccount) -> Self {
        Self {
            sealed: OrdMap::new(),
            tail: Arc::new(Chunk::new(accounting)),
            last: None,
            metered: Accounted::new(accounting, size_of::<Self>()),
        }
    }

    /// Adds a point, or replaces the value of its second.
    #[inline]
    pub(super) fn put(&mut self, point: Point) {
        if self.last.is_some_and(|last| point.timestamp <= last) {
            return self.put_before_end(point);
        }
        if self.tail.points.len() >= CHUNK {
            self.seal(Chunk::new(self.metered.accounting()));
        }
        Arc::make_mut(&mut self.tail).push(point);
        self.last = Some(point.timestamp);
    }

    /// The chunk that follows the one that begins at `after`, or the first one.
    pub(super) fn chunk(&self, after: Option<i64>) -> Option<&Arc<Chunk>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        if let Some((_, chunk)) = self.sealed.range((from, Bound::Unbounded)).next() {
            return Some(chunk);
        }
        let first = self.tail.first()?;
        after.is_none_or(|after| after < first).then_some(&self.tail)
    }

    /// Puts a point that is not later than the last one.
    fn put_before_end(&mut self, point: Point) {
        let at = point.timestamp;
        let in_tail = self.tail.first().is_some_and(|first| first <= at) || self.sealed.is_empty();
        if in_tail {
            match Arc::make_mut(&mut self.tail).put::<CHUNK>(point) {
                Overflow::None => {}
                Overflow::Before(chunk) => self.insert(chunk),
                Overflow::After(chunk) => self.seal(chunk),
            }
            return;
        }
        let place =
            self.sealed.get_prev(&at).or_else(|| self.sealed.get_min().map(|(k, c)| (k, c)));
        let Some(place) = place.map(|(&first, _)| first) else {
            unreachable!("a point that is not for the tail has a sealed chunk to go to");
        };
        if place > at
            && let Some(mut chunk) = self.sealed.remove(&place)
        {
            // The first chunk gets a new first timestamp, so it moves.
            let overflow = Arc::make_mut(&mut chunk).put::<CHUNK>(point);
            self.sealed.extend(chunk.first().map(|first| (first, chunk)));
            self.settle(overflow);
        } else if let Some(chunk) = self.sealed.get_mut(&place) {
            let overflow = Arc::make_mut(chunk).put::<CHUNK>(point);
            self.settle(overflow);
        }
    }

    fn settle(&mut self, overflow: Overflow) {
        match overflow {
            Overflow::None => {}
            Overflow::Before(chunk) | Overflow::After(chunk) => self.insert(chunk),
        }
    }

    /// Makes `next` the tail, and seals the one there was.
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
    metered: Accounted,
}

/// What a chunk had no more room for: points that all come before, or all after, those it kept.
enum Overflow {
    None,
    Before(Chunk),
    After(Chunk),
}

impl Chunk {
    fn new(accounting: &MemoryAccount) -> Self {
        Self::of(Vec::new(), accounting)
    }

    fn of(points: Vec<Point>, accounting: &MemoryAccount) -> Self {
        let mut chunk = Self { points, metered: Accounted::new(accounting, 0) };
        chunk.count();
        chunk
    }

    /// Never empty but where there is no point of this key at all.
    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Adds a point that comes after all others.
    #[inline]
    fn push(&mut self, point: Point) {
        self.points.push(point);
        self.count();
    }

    #[inline]
    fn count(&mut self) {
        self.metered.set(CHUNK_BYTES + self.points.capacity() * size_of::<Point>());
    }

    fn first(&self) -> Option<i64> {
        self.points.first().map(|point| point.timestamp)
    }

    /// Puts a point in its place, and splits if there is no room for it.
    fn put<const CHUNK: usize>(&mut self, point: Point) -> Overflow {
        let found = self.points.binary_search_by_key(&point.timestamp, |point| point.timestamp);
        let at = match found {
            Ok(at) => {
                self.points[at] = point;
                return Overflow::None;
            }
            Err(at) => at,
        };
        if self.points.len() < CHUNK {
            self.points.insert(at, point);
            self.count();
            return Overflow::None;
        }
        if at == 0 {
            // Who writes backwards leaves full chunks too.
            return Overflow::Before(Self::of(vec![point], self.metered.accounting()));
        }
        let half = self.points.len() / 2;
        let mut upper = self.points.split_off(half);
        self.points.shrink_to_fit();
        let (side, at) = if at <= half { (&mut self.points, at) } else { (&mut upper, at - half) };
        side.insert(at, point);
        self.count();
        Overflow::After(Self::of(upper, self.metered.accounting()))
    }
}

/// A copy has room for as many points as the original: it is made to be written to.
impl Clone for Chunk {
    fn clone(&self) -> Self {
        let accounting = self.metered.accounting();
        let mut points = match self.points.capacity() {
            ChunkPool::POINTS => accounting.chunk_pool().take(),
            room => Vec::with_capacity(room),
        };
        points.extend_from_slice(&self.points);
        Self { points, metered: self.metered.clone() }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let accounting = self.metered.accounting();
        accounting.chunk_pool().put(std::mem::take(&mut self.points), accounting.bytes());
    }
}

/// What a chunk takes besides its points, in bytes: itself, its reference counts, and a place in a
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
    fn chunks_are_left_full_by_who_writes_in_order_or_backwards() {
        let accounting = MemoryAccount::default();
        let mut ascending = Points::<8>::new(&accounting);
        let mut descending = Points::<8>::new(&accounting);
        for at in 0..32 {
            ascending.put(Point::new(at, 0.0));
            descending.put(Point::new(-at, 0.0));
        }
        assert_eq!(chunks(&ascending).len(), 4);
        assert_eq!(chunks(&descending).len(), 4);
    }

    #[test]
    fn a_chunk_has_no_more_room_than_it_may_need() {
        let mut points = Points::<512>::new(&MemoryAccount::default());
        let mut snapshots = Vec::new();
        for at in 0..2000 {
            points.put(Point::new(at, 0.0));
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
    fn what_a_snapshot_kept_is_room_for_the_next_copy() {
        let accounting = MemoryAccount::default();
        let mut points = Points::<512>::new(&accounting);
        (0..20 * 512).for_each(|at| points.put(Point::new(at, 0.0)));
        let snapshot = points.clone();
        points.put(Point::new(0, 1.0));
        let kept = snapshot.chunk(None).unwrap().points().as_ptr();
        drop(snapshot);
        // What an allocator has that was just freed goes here.
        let _elsewhere = Vec::<Point>::with_capacity(512);
        let _snapshot = points.clone();
        points.put(Point::new(0, 2.0));
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
                points.put(Point::new(timestamp, value));
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
