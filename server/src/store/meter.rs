//! How much memory a store and its snapshots keep.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::spares::Spares;

/// Counts the bytes of everything that reports to it: what the store would take without snapshots, and
/// what it takes with what they keep.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stored: AtomicUsize,
    bytes: AtomicUsize,
    /// Not counted: they are kept in proportion to what is.
    spares: Spares,
}

impl Meter {
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
    pub(super) fn spares(&self) -> &Spares {
        &self.0.spares
    }
}

/// Bytes that are counted as long as this lives. Those of a clone are counted once more, but not as
/// stored: one of the two is a snapshot's.
#[derive(Debug)]
pub(super) struct Metered {
    meter: Meter,
    bytes: usize,
}

impl Metered {
    pub(super) fn new(meter: &Meter, bytes: usize) -> Self {
        meter.add(bytes);
        Self { meter: meter.clone(), bytes }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// There are so many now.
    #[inline]
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // Wraps where there are fewer than before, as the counter does.
            self.meter.add(bytes.wrapping_sub(self.bytes));
            self.bytes = bytes;
        }
    }
}

impl Clone for Metered {
    fn clone(&self) -> Self {
        self.meter.add_copy(self.bytes);
        Self { meter: self.meter.clone(), bytes: self.bytes }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        // Nothing that is stored is ever removed, so this was a snapshot's.
        self.meter.add_copy(0_usize.wrapping_sub(self.bytes));
    }
}
