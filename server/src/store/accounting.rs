//! How much memory a store and its snapshots keep.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::chunk_pool::ChunkPool;

/// Counts the bytes of everything that reports to it: what the store would take without snapshots, and
/// what it takes with what they keep.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryAccount(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stored: AtomicUsize,
    bytes: AtomicUsize,
    /// Not counted: they are kept in proportion to what is.
    chunk_pool: ChunkPool,
}

impl MemoryAccount {
    /// Without what only snapshots keep.
    pub(super) fn stored(&self) -> usize {
        self.0.stored.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that are kept as long as the store is.
    pub(super) fn add(&self, bytes: usize) {
        self.0.stored.fetch_add(bytes, Ordering::Relaxed);
        self.add_copy(bytes);
    }

    /// Counts a copy, which is made where a snapshot keeps the original, or what is gone.
    fn add_copy(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Room for points that nobody uses.
    pub(super) fn chunk_pool(&self) -> &ChunkPool {
        &self.0.chunk_pool
    }
}

/// Bytes that are counted as long as this lives. Those of a clone are counted once more, but not as
/// stored: one of the two is a snapshot's.
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

    /// There are so many now.
    #[inline]
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // Wraps where there are fewer than before, as the counter does.
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
        // Nothing that is stored is ever removed, so this was a snapshot's.
        self.accounting.add_copy(0_usize.wrapping_sub(self.bytes));
    }
}
