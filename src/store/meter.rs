//! How much memory a store and its snapshots keep.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::spares::Spares;

/// Counts the bytes of everything that reports to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    /// Not counted: they are kept in proportion to what is.
    spares: Spares,
}

impl Meter {
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that are kept as long as the store is.
    pub(super) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Room for points that nobody uses.
    pub(super) fn spares(&self) -> &Spares {
        &self.0.spares
    }
}

/// Bytes that are counted as long as this lives; those of a clone are counted once more.
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
        Self::new(&self.meter, self.bytes)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.set(0);
    }
}
