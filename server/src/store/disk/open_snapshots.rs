//! The open snapshots of a store, of which the oldest are evicted when memory is short.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use super::snapshot::{Parts, SnapshotData};

/// The open snapshots, the oldest first.
#[derive(Debug, Default)]
pub(super) struct OpenSnapshots {
    snapshots: VecDeque<Weak<SnapshotData>>,
    /// How many entries there may be before dropped ones are removed.
    sweep_threshold: usize,
}

impl OpenSnapshots {
    pub(super) fn add(&mut self, data: &Arc<SnapshotData>) {
        if self.snapshots.len() >= self.sweep_threshold {
            self.snapshots.retain(|data| data.strong_count() > 0);
            // Amortized: each snapshot pays for checking two entries.
            self.sweep_threshold = 64 + 2 * self.snapshots.len();
        }
        self.snapshots.push_back(Arc::downgrade(data));
    }

    /// Takes the parts of the oldest one, which are to be dropped without a lock.
    pub(super) fn evict_oldest(&mut self) -> Option<Parts> {
        while let Some(data) = self.snapshots.pop_front() {
            if let Some(parts) = data.upgrade().and_then(|data| data.evict()) {
                return Some(parts);
            }
        }
        None
    }
}
