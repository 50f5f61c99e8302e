//! Versions of puts: a hybrid logical clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A hybrid logical clock: versions that ascend, follow the time of day, and differ between servers.
///
/// A version is `(microseconds since 1970 × 8 + n) × 512 + node`, with `n` below 8: so a server has eight versions a
/// microsecond, and runs ahead of the time only when it takes more puts than that. It never goes back, also when the
/// time of day does, and never behind a version that it has [observed](Self::observe).
pub(super) struct Clock {
    /// The last version that was given away, without the node.
    last: AtomicU64,
    node: u64,
    /// Returns the microseconds since 1970.
    now: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// The bits of a version that are the node.
const NODE_BITS: u32 = 9;

/// The difference of two versions of one server that follow each other.
pub(super) const STEP: u64 = 1 << NODE_BITS;

/// The largest number of a node.
pub(super) const MAX_NODE: u64 = STEP - 1;

const TICKS_PER_MICROSECOND: u64 = 8;

impl Clock {
    /// Creates a clock of a node, or of one that is chosen at random.
    pub(super) fn new(node: Option<u16>) -> Self {
        Self::with(node, system_micros)
    }

    fn with(node: Option<u16>, now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let node = node.map_or_else(|| fastrand::u64(0..=MAX_NODE), u64::from) & MAX_NODE;
        Self { last: AtomicU64::new(0), node, now: Box::new(now) }
    }

    /// Takes `count` versions, each a [`STEP`] behind the one before. Returns the first.
    pub(super) fn take(&self, count: usize) -> u64 {
        let now = (self.now)().saturating_mul(TICKS_PER_MICROSECOND);
        let count = count.max(1) as u64;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let first = now.max(last + 1);
            let taken = first + count - 1;
            // The versions themselves are all that is shared.
            match self.last.compare_exchange_weak(last, taken, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return first << NODE_BITS | self.node,
                Err(found) => last = found,
            }
        }
    }

    /// Notes a version of another server, or of this one before it was restarted.
    pub(super) fn observe(&self, version: u64) {
        self.last.fetch_max(version >> NODE_BITS, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("last", &self.last).field("node", &self.node).finish()
    }
}

fn system_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn clock(node: u16, micros: &Arc<AtomicU64>) -> Clock {
        let micros = Arc::clone(micros);
        Clock::with(Some(node), move || micros.load(Ordering::Relaxed))
    }

    #[test]
    fn versions_ascend_also_when_time_goes_back() {
        let micros = Arc::new(AtomicU64::new(1000));
        let clock = clock(3, &micros);
        let first = clock.take(10);
        assert_eq!(first, 8000 << 9 | 3);
        let second = clock.take(1);
        assert_eq!(second, first + 10 * STEP);
        micros.store(10, Ordering::Relaxed);
        assert_eq!(clock.take(1), second + STEP);
        micros.store(2000, Ordering::Relaxed);
        assert_eq!(clock.take(1), 16_000 << 9 | 3);
    }

    #[test]
    fn version_is_greater_than_those_observed() {
        let micros = Arc::new(AtomicU64::new(1000));
        let (behind, ahead) = (clock(1, &micros), clock(2, &Arc::new(AtomicU64::new(5000))));
        let seen = ahead.take(7);
        behind.observe(seen);
        assert!(behind.take(1) > seen);
    }

    #[test]
    fn servers_never_share_a_version() {
        let micros = Arc::new(AtomicU64::new(1000));
        let (one, two) = (clock(1, &micros), clock(2, &micros));
        let versions = |clock: &Clock| (0..100).map(|_| clock.take(1)).collect::<Vec<_>>();
        let (ones, twos) = (versions(&one), versions(&two));
        assert!(ones.iter().all(|version| !twos.contains(version)));
    }
}
