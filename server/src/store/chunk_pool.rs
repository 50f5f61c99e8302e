//! A free list of chunks, shared by all threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics_client::Point;

/// Empty vectors with capacity for [`ChunkPool::CHUNK_POINTS`].
///
/// While snapshots are held, each put allocates and frees chunks, on any thread. Allocators with an arena
/// for each thread keep freed memory in the arena: 1 GiB of chunks was seen to take 2 GiB on two threads.
/// Chunks in this list can be used by every thread.
#[derive(Debug, Default)]
pub(super) struct ChunkPool(Mutex<Vec<Vec<Point>>>);

impl ChunkPool {
    /// The capacity of each vector: a full chunk.
    pub(super) const CHUNK_POINTS: usize = 512;

    /// Returns an empty vector with this capacity.
    pub(super) fn take(&self) -> Vec<Point> {
        // In two steps, so that the lock is not held while allocating.
        let free = self.lock().pop();
        free.unwrap_or_else(|| Vec::with_capacity(Self::CHUNK_POINTS))
    }

    /// Adds the memory of `points` to the list, if its capacity is right and the list is not full for a
    /// store of `bytes`.
    pub(super) fn recycle(&self, mut points: Vec<Point>, bytes: usize) {
        if points.capacity() != Self::CHUNK_POINTS {
            return;
        }
        points.clear();
        let max = bytes / MAX_FREE_DIVISOR / (Self::CHUNK_POINTS * size_of::<Point>());
        let mut chunk_pool = self.lock();
        chunk_pool.push(points);
        // There may be more than one too many, if the store has become smaller.
        let excess = [(); 2].map(|()| if chunk_pool.len() > max { chunk_pool.pop() } else { None });
        drop(chunk_pool);
        drop(excess);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Point>>> {
        // No panic can leave the list inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory in use is at least this many times the free list. An evicted snapshot frees all of its
/// chunks at once, usually a small part of the store.
const MAX_FREE_DIVISOR: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = ChunkPool::CHUNK_POINTS * size_of::<Point>();

    #[test]
    fn recycled_chunk_is_used_again() {
        let chunk_pool = ChunkPool::default();
        let mut points = chunk_pool.take();
        points.push(Point::new(1.0, 1));
        let memory = points.as_ptr();
        chunk_pool.recycle(points, MAX_FREE_DIVISOR * BYTES);
        let _elsewhere = Vec::<Point>::with_capacity(ChunkPool::CHUNK_POINTS);
        let again = chunk_pool.take();
        assert_eq!(
            (again.as_ptr(), again.len(), again.capacity()),
            (memory, 0, ChunkPool::CHUNK_POINTS)
        );
    }

    #[test]
    fn free_list_is_bounded_by_the_memory_in_use() {
        let chunk_pool = ChunkPool::default();
        let put = |bytes| {
            chunk_pool.recycle(Vec::with_capacity(ChunkPool::CHUNK_POINTS), bytes);
            chunk_pool.lock().len()
        };
        let counts: Vec<_> = (0..6).map(|_| put(4 * MAX_FREE_DIVISOR * BYTES)).collect();
        assert_eq!(counts, [1, 2, 3, 4, 4, 4]);
        let counts: Vec<_> = (0..5).map(|_| put(MAX_FREE_DIVISOR * BYTES)).collect();
        assert_eq!(counts, [3, 2, 1, 1, 1]);
        assert_eq!(put(0), 0);
    }

    #[test]
    fn only_full_chunks_are_recycled() {
        let chunk_pool = ChunkPool::default();
        for capacity in [0, 4, ChunkPool::CHUNK_POINTS / 2, ChunkPool::CHUNK_POINTS + 1] {
            chunk_pool.recycle(Vec::with_capacity(capacity), usize::MAX);
        }
        assert_eq!(chunk_pool.lock().len(), 0);
    }
}
