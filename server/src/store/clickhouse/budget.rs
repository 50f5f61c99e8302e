//! The memory of puts that wait for the cluster.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts the bytes of the puts that wait, of all shards together.
#[derive(Clone, Debug)]
pub(super) struct QueueBudget {
    used: Arc<AtomicUsize>,
    max: usize,
}

impl QueueBudget {
    pub(super) fn new(max: usize) -> Self {
        Self { used: Arc::default(), max }
    }

    /// Reserves bytes; `None` if fewer are left.
    pub(super) fn reserve(&self, bytes: usize) -> Option<QueueReservation> {
        // The number is all that is shared.
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&used| used <= self.max)
        });
        reserved.ok()?;
        Some(QueueReservation { used: Arc::clone(&self.used), bytes })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Reserved bytes, released when it is dropped.
#[derive(Debug)]
pub(super) struct QueueReservation {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl QueueReservation {
    /// Adds the bytes of another reservation of the same budget.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for QueueReservation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_released_once() {
        let budget = QueueBudget::new(100);
        let mut first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        first.merge(budget.reserve(40).unwrap());
        assert_eq!(budget.used(), 100);
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
