//! Statistics of a [`ClickHouseStore`](super::ClickHouseStore).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Statistics of a [`ClickHouseStore`](super::ClickHouseStore), counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClickHouseStats {
    /// Blocks that were stored.
    pub blocks: u64,
    /// The puts in these.
    pub rows: u64,
    /// How long storing them took, all together.
    pub insert_time: Duration,
    /// Attempts that failed and were repeated.
    pub retries: u64,
    /// Blocks that failed finally, so that clients had to send their puts again.
    pub failed_blocks: u64,
    /// Puts that were rejected because they are older than [`keep`](super::ClickHouseOptions::keep).
    pub too_old: u64,
    /// The memory of puts that wait, in bytes.
    pub queued_bytes: u64,
}

/// A number that grows.
#[derive(Debug, Default)]
pub(super) struct RunningTotal(AtomicU64);

impl RunningTotal {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct ClickHouseCounters {
    blocks: RunningTotal,
    rows: RunningTotal,
    insert_nanos: RunningTotal,
    pub(super) retries: RunningTotal,
    pub(super) failed_blocks: RunningTotal,
    pub(super) too_old: RunningTotal,
}

impl ClickHouseCounters {
    pub(super) fn on_block(&self, rows: usize, time: Duration) {
        self.blocks.add(1);
        self.rows.add(rows as u64);
        self.insert_nanos.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn stats(&self, queued_bytes: usize) -> ClickHouseStats {
        ClickHouseStats {
            blocks: self.blocks.get(),
            rows: self.rows.get(),
            insert_time: Duration::from_nanos(self.insert_nanos.get()),
            retries: self.retries.get(),
            failed_blocks: self.failed_blocks.get(),
            too_old: self.too_old.get(),
            queued_bytes: queued_bytes as u64,
        }
    }
}
