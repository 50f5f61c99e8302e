//! How much the committer takes at once, and how soon again.

use std::time::{Duration, Instant};

/// Decides how many bytes of batches are admitted to the store before the committer takes them.
///
/// A put waits for the group that is being written and is then in the next, so a group should be short. A sync should
/// not cost much of the time. So a group has about as many bytes as are written during a sync.
///
/// While a head is large and the one before is not in blocks yet, groups are small, and follow each other at a
/// limited rate. So a store that cannot keep up delays each put by some milliseconds, and not all of them for the
/// seconds until the blocks are written.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How long the last syncs took.
    syncs: [Duration; OBSERVED_SYNCS],
    /// The index of the oldest of them.
    oldest: usize,
    next_take: Option<Instant>,
}

impl Pace {
    pub(super) fn on_sync(&mut self, time: Duration) {
        self.syncs[self.oldest] = time;
        self.oldest = (self.oldest + 1) % OBSERVED_SYNCS;
    }

    /// Returns how many bytes are admitted before groups are taken.
    pub(super) fn room_bytes(&self, is_head_late: bool) -> usize {
        if is_head_late {
            return LATE_ROOM_BYTES;
        }
        // The shortest: others include the time for which the thread had no processor.
        let sync = self.syncs.iter().min().copied().unwrap_or_default();
        let micros = usize::try_from(sync.as_micros()).unwrap_or(usize::MAX);
        micros.saturating_mul(BYTES_PER_MICROSECOND).clamp(MIN_ROOM_BYTES, MAX_ROOM_BYTES)
    }

    /// Notes the size of the groups that were taken.
    pub(super) fn on_taken(&mut self, bytes: usize, is_head_late: bool, now: Instant) {
        let pause = LATE_NANOS_PER_BYTE.saturating_mul(bytes as u64);
        self.next_take = is_head_late.then(|| now + Duration::from_nanos(pause));
    }

    /// Returns before when no groups are taken.
    pub(super) fn next_take(&self) -> Option<Instant> {
        self.next_take
    }
}

/// How many syncs are observed.
const OBSERVED_SYNCS: usize = 16;

/// How many bytes of puts are written in a microsecond, as the benches measured.
const BYTES_PER_MICROSECOND: usize = 200;

/// The room on a fast disk: some thousand puts, written in less than a millisecond.
pub(super) const MIN_ROOM_BYTES: usize = 128 * 1024;

/// The room on a slow disk. With the batches that are admitted beyond it, it is one group.
const MAX_ROOM_BYTES: usize = 768 * 1024;

/// The room while a head is late.
const LATE_ROOM_BYTES: usize = 4 * 1024;

/// How long the committer waits after a byte while a head is late: 5 ms for 8 KiB of puts. About a hundred thousand puts a
/// second are still stored; if that is too many, the head becomes full, and all wait.
const LATE_NANOS_PER_BYTE: u64 = 5_000_000 / 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_the_shortest_sync() {
        let mut pace = Pace::default();
        assert_eq!(pace.room_bytes(false), MIN_ROOM_BYTES);
        (0..OBSERVED_SYNCS).for_each(|_| pace.on_sync(Duration::from_millis(2)));
        assert_eq!(pace.room_bytes(false), 400_000);
        pace.on_sync(Duration::from_secs(2));
        assert_eq!(pace.room_bytes(false), 400_000);
        pace.on_sync(Duration::from_micros(100));
        assert_eq!(pace.room_bytes(false), MIN_ROOM_BYTES);
        (0..OBSERVED_SYNCS).for_each(|_| pace.on_sync(Duration::from_secs(2)));
        assert_eq!(pace.room_bytes(false), MAX_ROOM_BYTES);
        assert_eq!(pace.room_bytes(true), LATE_ROOM_BYTES);
    }

    #[test]
    fn late_head_slows_puts_down_by_their_bytes() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.on_taken(100_000, false, now);
        assert_eq!(pace.next_take(), None);
        for (bytes, micros) in [(16, 10), (8192, 5_000), (81_920, 50_000)] {
            pace.on_taken(bytes, true, now);
            let pause = pace.next_take().unwrap() - now;
            assert!(pause.as_micros().abs_diff(micros) <= micros / 10, "{pause:?}");
        }
        pace.on_taken(16, false, now);
        assert_eq!(pace.next_take(), None);
    }
}
