//! Room for points that is free, kept for the next who needs some.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics_client::Point;

/// Empty vectors, each with room for [`ChunkPool::POINTS`].
///
/// While snapshots are held, a store that changes takes and frees memory all the time, in whatever
/// thread a put is applied. Allocators keep what is free for the thread that had it: with one
/// arena for each thread, a gigabyte of chunks was seen to take two on two threads. What is freed here
/// is there for all of them.
#[derive(Debug, Default)]
pub(super) struct ChunkPool(Mutex<Vec<Vec<Point>>>);

impl ChunkPool {
    /// How many points each has room for: those of a full chunk.
    pub(super) const POINTS: usize = 512;

    /// An empty vector with this much room.
    pub(super) fn take(&self) -> Vec<Point> {
        // In two steps, so that nobody waits for the allocator.
        let spare = self.lock().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(Self::POINTS))
    }

    /// Keeps `points` for another use, where they have the right room and there are not enough spares
    /// for a store of `bytes`.
    pub(super) fn put(&self, mut points: Vec<Point>, bytes: usize) {
        if points.capacity() != Self::POINTS {
            return;
        }
        points.clear();
        let most = bytes / SHARE / (Self::POINTS * size_of::<Point>());
        let mut chunk_pool = self.lock();
        chunk_pool.push(points);
        // There may be more than one too many, if the store has become smaller since.
        let excess =
            [(); 2].map(|()| if chunk_pool.len() > most { chunk_pool.pop() } else { None });
        drop(chunk_pool);
        drop(excess);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Point>>> {
        // A list of free memory is sound at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spares take so much less than what is in use. A snapshot that is given up frees all of its own at
/// once, usually a smaller part of what is there.
const SHARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = ChunkPool::POINTS * size_of::<Point>();

    #[test]
    fn what_was_given_back_is_used_again() {
        let chunk_pool = ChunkPool::default();
        let mut points = chunk_pool.take();
        points.push(Point::new(1, 1.0));
        let room = points.as_ptr();
        chunk_pool.put(points, SHARE * BYTES);
        let _elsewhere = Vec::<Point>::with_capacity(ChunkPool::POINTS);
        let again = chunk_pool.take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (room, 0, ChunkPool::POINTS));
    }

    #[test]
    fn there_are_few_beside_what_is_in_use_and_fewer_when_that_is_less() {
        let chunk_pool = ChunkPool::default();
        let put = |bytes| {
            chunk_pool.put(Vec::with_capacity(ChunkPool::POINTS), bytes);
            chunk_pool.lock().len()
        };
        let counts: Vec<_> = (0..6).map(|_| put(4 * SHARE * BYTES)).collect();
        assert_eq!(counts, [1, 2, 3, 4, 4, 4]);
        let counts: Vec<_> = (0..5).map(|_| put(SHARE * BYTES)).collect();
        assert_eq!(counts, [3, 2, 1, 1, 1]);
        assert_eq!(put(0), 0);
    }

    #[test]
    fn only_the_room_of_a_full_chunk_is_kept() {
        let chunk_pool = ChunkPool::default();
        for room in [0, 4, ChunkPool::POINTS / 2, ChunkPool::POINTS + 1] {
            chunk_pool.put(Vec::with_capacity(room), usize::MAX);
        }
        assert_eq!(chunk_pool.lock().len(), 0);
    }
}
