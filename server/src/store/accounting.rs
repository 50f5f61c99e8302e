//! Counts the memory of a store and its snapshots.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::chunk_pool::ChunkPool;

/// Counts the bytes of a store: without its snapshots, and with the memory that only they reference.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryAccount(Arc<MemoryCounters>);

#[derive(Debug, Default)]
struct MemoryCounters {
    stored: AtomicUsize,
    bytes: AtomicUsize,
    /// Not counted: bounded in proportion to what is.
    chunk_pool: ChunkPool,
}

impl MemoryAccount {
    /// Returns the bytes without what only snapshots reference.
    pub(super) fn stored(&self) -> usize {
        self.0.stored.load(Ordering::Relaxed)
    }

    /// Returns all bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Adds bytes that are kept as long as the store.
    pub(super) fn add(&self, bytes: usize) {
        self.0.stored.fetch_add(bytes, Ordering::Relaxed);
        self.add_copy(bytes);
    }

    /// Adds the bytes of a copy, made where a snapshot references the original; or subtracts, by wrapping.
    fn add_copy(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the free list of chunks.
    pub(super) fn chunk_pool(&self) -> &ChunkPool {
        &self.0.chunk_pool
    }
}

/// Bytes that are counted until this is dropped. A clone is counted again, but not as stored: one of
/// the two belongs to a snapshot.
#[derive(Debug)]
pub(super) struct Accounted {
    accounting: MemoryAccount,
    bytes: usize,
}

impl Accounted {
    pub(super) fn new(accounting: &MemoryAccount, bytes: usize) -> Self {
        accounting.add(bytes);
        Self { accounting: accounting.clone(), bytes }
    }

    pub(super) fn accounting(&self) -> &MemoryAccount {
        &self.accounting
    }

    /// Sets the number of bytes.
    #[inline]
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // Wraps if there are fewer than before, as the counter does.
            self.accounting.add(bytes.wrapping_sub(self.bytes));
            self.bytes = bytes;
        }
    }
}

impl Clone for Accounted {
    fn clone(&self) -> Self {
        self.accounting.add_copy(self.bytes);
        Self { accounting: self.accounting.clone(), bytes: self.bytes }
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        // Stored points are never removed, so this belonged to a snapshot.
        self.accounting.add_copy(0_usize.wrapping_sub(self.bytes));
    }
}
