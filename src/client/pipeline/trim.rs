//! Gives back the memory of a burst once the client is quiet.

use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;

/// When memory is given back next.
#[derive(Debug)]
pub(super) struct Trim {
    due: Instant,
    /// How many requests had an outcome when this was scheduled: the others, and those that came
    /// since, are all that can have needed memory at once.
    settled: u64,
}

/// How long a client must have had little to do.
pub(in crate::client) const QUIET_TIME: Duration = Duration::from_secs(10);

/// The capacity in calls that is always kept: with 400 bytes for each it is about as much as the buffers of one
/// connection.
pub(super) const KEPT_CALLS: usize = 256;

impl Pipeline {
    /// Schedules a [`trim`](Self::trim) if much memory is held.
    #[inline]
    pub(super) fn note_memory(&mut self, now: Instant) {
        if self.trim.is_none() && self.holds_much() {
            self.trim_later(now);
        }
    }

    /// Schedules a [`trim`](Self::trim) after the quiet time: the connection holds much memory.
    pub(in crate::client) fn trim_later(&mut self, now: Instant) {
        let settled = self.counters.accepted - self.counters.outstanding();
        self.trim.get_or_insert(Trim { due: now + QUIET_TIME, settled });
    }

    pub(super) fn trim_due(&self) -> Option<Instant> {
        self.trim.as_ref().map(|trim| trim.due)
    }

    /// Gives back the memory that the calls of the last quiet time have not needed, once that is due.
    /// Returns true if there were few.
    pub(in crate::client) fn trim(&mut self, now: Instant) -> bool {
        let Some(Trim { settled, .. }) = self.trim.take_if(|trim| trim.due <= now) else {
            return false;
        };
        let recent = usize::try_from(self.counters.accepted - settled).unwrap_or(usize::MAX);
        let calls = recent.max(KEPT_CALLS);
        self.waiters.shrink_to(calls);
        self.queue.shrink_to(calls);
        self.wait_queue.shrink_to(calls);
        self.reservation_queue.shrink_to(calls);
        self.reserved.shrink_to(calls);
        self.own_deadlines.shrink_to(calls);
        self.note_memory(now);
        recent <= KEPT_CALLS
    }

    fn holds_much(&self) -> bool {
        let calls = [
            self.waiters.capacity(),
            self.queue.capacity(),
            self.wait_queue.capacity(),
            self.reservation_queue.capacity(),
            self.reserved.capacity(),
            self.own_deadlines.capacity(),
        ];
        calls.into_iter().any(|capacity| capacity / 4 > KEPT_CALLS) || self.queue.holds_many_bytes()
    }
}
