//! How many points the open snapshots read at a time, so that all together they hold a bounded number.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Divides the points that may be read ahead among the snapshots that are open.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    open: AtomicUsize,
}

impl ReadAhead {
    pub(super) fn open(self: &Arc<Self>) -> ReadAheadShare {
        self.open.fetch_add(1, Ordering::Relaxed);
        ReadAheadShare(Arc::clone(self))
    }
}

/// The share of an open snapshot.
#[derive(Debug)]
pub(super) struct ReadAheadShare(Arc<ReadAhead>);

impl ReadAheadShare {
    /// Returns how many points to read next.
    pub(super) fn points(&self) -> usize {
        let open = self.0.open.load(Ordering::Relaxed).max(1);
        (MAX_TOTAL_POINTS / open).clamp(MIN_POINTS, MAX_POINTS)
    }
}

impl Drop for ReadAheadShare {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many points all snapshots read ahead: 64 MiB, until each has the least.
const MAX_TOTAL_POINTS: usize = 4 * 1024 * 1024;

/// How many points are read at a time: 256 KiB, so that the cost of a blocking call does not show.
const MAX_POINTS: usize = 16 * 1024;

/// The fewest that are read at a time, about a block.
const MIN_POINTS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_snapshots_read_less_at_a_time() {
        let all = Arc::new(ReadAhead::default());
        let first = all.open();
        assert_eq!(first.points(), MAX_POINTS);
        let mut others: Vec<_> = (1..1024).map(|_| all.open()).collect();
        assert_eq!(first.points(), 4096);
        others.extend((0..100_000).map(|_| all.open()));
        assert_eq!(first.points(), MIN_POINTS);
        drop(others);
        assert_eq!(first.points(), MAX_POINTS);
    }
}
