//! Options of a store on disk.

use std::time::Duration;

use metrics_wal::Fsync;

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) fsync: Fsync,
    /// How long points are kept; `None` for ever.
    pub(super) keep: Option<Duration>,
    pub(super) max_head_points: usize,
    pub(super) max_head_log_bytes: u64,
    pub(super) max_head_age: Duration,
    pub(super) max_memory_bytes: usize,
    pub(super) max_keys: usize,
    pub(super) max_disk_bytes: u64,
    pub(super) cache_bytes: usize,
    pub(super) is_strict: bool,
    /// Whether a folder is created that is not there.
    pub(super) creates_missing: bool,
    /// How long the sealer waits after a failure.
    pub(super) retry_delay: Duration,
}

impl Options {
    /// Returns after how many bytes of memory the head is merged into blocks. One point of a new key takes three times
    /// as many as this allows for a point.
    pub(super) fn max_head_memory(&self) -> usize {
        const BYTES_PER_POINT: usize = 64;
        self.max_head_points.saturating_mul(BYTES_PER_POINT).max(1024 * 1024)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: Fsync::Always,
            keep: None,
            max_head_points: 1_000_000,
            max_head_log_bytes: 64 * 1024 * 1024,
            max_head_age: Duration::from_secs(60 * 60),
            max_memory_bytes: 512 * 1024 * 1024,
            max_keys: 10_000_000,
            max_disk_bytes: u64::MAX,
            cache_bytes: 64 * 1024 * 1024,
            is_strict: false,
            creates_missing: true,
            // A disk that has space again is used within a second.
            retry_delay: Duration::from_secs(1),
        }
    }
}
