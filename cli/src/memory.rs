//! How the memory of `metrics serve --max-memory` is divided.

use metrics_server::{
    Limits,
    store::{ClickHouseOptions, DiskStoreBuilder, MemoryStore},
};

use crate::size::Size;

/// The memory of a server, divided between the store and the connections.
///
/// Half is for the store, an eighth for answers that peers do not read, an eighth for the buffers of
/// connections. The last quarter is left to what is not counted: the allocator, the merge of a head, names of
/// keys, the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryBudget {
    /// Points in memory, and what only snapshots reference; without the cache.
    store_bytes: usize,
    /// redb's cache.
    cache_bytes: usize,
    /// How many points the head may have.
    head_points: usize,
    /// How many keys there may be on disk; they are in the last quarter.
    max_keys: usize,
    unsent_bytes: usize,
    max_connections: usize,
    /// What the queues of all relays may take; they are in the last quarter.
    relay_bytes: usize,
}

/// Less than this is no budget for a server.
pub(crate) const MIN_MEMORY: Size = Size(32 << 20);

/// What a busy connection takes: `cargo bench --bench bench -- overload` measures 52 KiB with 10,000 peers.
const CONNECTION_BYTES: usize = 64 * 1024;

/// What the name of a key takes.
const KEY_BYTES: usize = 200;

/// What a point takes in a head whose keys have several points.
const POINT_BYTES: usize = 16;

/// One head is merged into blocks while the next may have twice as many points.
const HEADS: usize = 3;

impl MemoryBudget {
    /// Divides `memory`.
    ///
    /// # Errors
    ///
    /// Returns an error if that is less than [`MIN_MEMORY`].
    pub(crate) fn new(memory: Size) -> Result<Self, String> {
        if memory < MIN_MEMORY {
            return Err(format!("{memory} is too little: a server needs at least {MIN_MEMORY}"));
        }
        let bytes = usize::try_from(memory.0).unwrap_or(usize::MAX);
        let cache_bytes = (bytes / 16).min(64 << 20);
        let store_bytes = bytes / 2 - cache_bytes;
        Ok(Self {
            store_bytes,
            cache_bytes,
            // The other half is for snapshots.
            head_points: (store_bytes / 2 / HEADS / POINT_BYTES).min(1_000_000),
            max_keys: (bytes / 8 / KEY_BYTES).min(10_000_000),
            unsent_bytes: (bytes / 8).min(256 << 20),
            max_connections: (bytes / 8 / CONNECTION_BYTES).min(10_000),
            relay_bytes: bytes / 16,
        })
    }

    /// Returns what the queues of all relays may take together, unless the file says otherwise.
    pub(crate) fn relay_bytes(self) -> usize {
        self.relay_bytes
    }

    pub(crate) fn limits(self, limits: Limits) -> Limits {
        limits.max_connections(self.max_connections).max_total_unsent_bytes(self.unsent_bytes)
    }

    /// Bounds the head, the snapshots, the cache and the keys of a store on disk.
    pub(crate) fn disk(self, store: DiskStoreBuilder) -> DiskStoreBuilder {
        store
            .max_memory_bytes(self.store_bytes)
            .cache_bytes(self.cache_bytes)
            .max_head_points(self.head_points)
            .max_keys(self.max_keys)
    }

    /// Bounds the puts that wait for ClickHouse; a block that grows takes up to twice as much.
    pub(crate) fn clickhouse(self, options: ClickHouseOptions) -> ClickHouseOptions {
        options.max_queue_bytes(self.store_bytes / 2)
    }

    /// Bounds all points of a store in memory. It keeps up to a sixteenth more in a free list, and has no
    /// cache.
    pub(crate) fn memory(self, store: MemoryStore) -> MemoryStore {
        store.max_bytes(self.store_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_into_three_quarters() {
        for memory in [32_u64 << 20, 100 << 20, 1 << 30, 64 << 30] {
            let budget = MemoryBudget::new(Size(memory)).unwrap();
            let parts = budget.store_bytes
                + budget.cache_bytes
                + budget.unsent_bytes
                + budget.max_connections * CONNECTION_BYTES;
            assert!(parts as u64 <= memory / 4 * 3, "{memory}: {budget:?}");
            assert!(budget.head_points * POINT_BYTES * HEADS <= budget.store_bytes, "{memory}");
        }
    }

    #[test]
    fn much_memory_changes_no_other_default() {
        let budget = MemoryBudget::new(Size(1 << 40)).unwrap();
        assert_eq!(budget.limits(Limits::default()), Limits::default());
        assert_eq!(budget.head_points, 1_000_000);
    }

    #[test]
    fn too_little_memory_is_an_error() {
        assert!(MemoryBudget::new(Size((32 << 20) - 1)).unwrap_err().contains("32MiB"));
    }
}
