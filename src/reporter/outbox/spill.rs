//! The outbox's state of a spool: what is stored there, and which samples must not overtake it.

use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::{Outbox, OutboxPhase, ReporterStats, Settled};
use crate::{
    metric::Sample,
    reporter::{
        queue::Lane,
        spool::{SpoolStats, Watermarks},
    },
};

#[derive(Debug, Default)]
pub(in crate::reporter) struct SpillState {
    watermarks: Watermarks,
    /// Samples that are being written, which no other of their keys and seconds may overtake.
    pending: Watermarks,
    /// The worker waits, so that queued samples can be moved to the directory.
    is_paused_for_spill: bool,
    /// How many threads and tasks are moving all samples to the spool. While there is one, neither the worker
    /// nor a guard sends.
    spilling: u32,
    /// The spool's counters when the directory was last used.
    stats: SpoolStats,
}

/// Which samples are moved to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reporter) enum Spill {
    All,
    /// Samples that have to follow older ones of their key and second.
    OrderOnly,
}

impl SpillState {
    /// Adds the spool's counters.
    pub(super) fn add_to(&self, mut stats: ReporterStats) -> ReporterStats {
        stats.recovered = self.stats.recovered;
        stats.spooled = self.stats.waiting;
        stats.dropped.spool_full = self.stats.dropped;
        stats.dropped.spool_lost = self.stats.lost;
        stats.dropped.spool_expired = self.stats.expired;
        stats.abandoned = self.stats.abandoned;
        stats
    }

    /// Returns true while all samples are moved to the directory.
    pub(super) fn is_spilling(&self) -> bool {
        self.spilling > 0
    }

    /// Returns true while the worker waits, so that queued samples can be moved to the directory.
    pub(super) fn pauses_sender(&self) -> bool {
        self.is_paused_for_spill
    }

    /// Returns true if an older sample of the same key and second may be stored in the spool, or is being
    /// written there.
    pub(super) fn holds_back(&self, sample: &Sample) -> bool {
        self.watermarks.blocks(sample) || self.pending.blocks(sample)
    }

    /// Returns true if any sample may have to go through the spool.
    pub(super) fn may_hold_back(&self) -> bool {
        !self.watermarks.is_empty() || !self.pending.is_empty()
    }

    /// Returns how many samples were stored in the spool and will never be sent.
    pub(super) fn dropped(&self) -> u64 {
        self.stats.dropped + self.stats.lost + self.stats.expired
    }
}

impl Outbox {
    /// Adds a spool. `latest` is the latest second of its samples, if there are any.
    pub(in crate::reporter) fn spool_opened(&mut self, stats: SpoolStats, latest: Option<i64>) {
        self.spool.stats = stats;
        if let Some(latest) = latest {
            self.spool.watermarks.advance_all(latest);
        }
    }

    /// Returns the spool's counters.
    pub(in crate::reporter) fn spool_stats(&self) -> SpoolStats {
        self.spool.stats
    }

    /// Stops all sending, so that all samples can be moved to the spool.
    pub(in crate::reporter) fn begin_spill(&mut self) {
        self.spool.spilling += 1;
    }

    /// Allows sending again, unless another spill is running.
    pub(in crate::reporter) fn end_spill(&mut self) -> Option<Waker> {
        self.spool.spilling -= 1;
        self.wake()
    }

    /// Has the worker wait until [`resume_after_spill`](Self::resume_after_spill), so that queued
    /// samples can be moved to the spool.
    pub(in crate::reporter) fn pause_for_spill(&mut self) {
        self.spool.is_paused_for_spill = true;
    }

    pub(in crate::reporter) fn resume_after_spill(&mut self) -> Option<Waker> {
        self.spool.is_paused_for_spill = false;
        self.wake()
    }

    /// Moves up to `most` of the oldest samples to `batch`, to be [stored](Self::spooled). Returns
    /// false if there were none, or if it is not the caller's turn: `is_spilling` says that the caller
    /// has [stopped all sending](Self::begin_spill).
    pub(in crate::reporter) fn take_to_spool(
        &mut self,
        most: usize,
        spill: Spill,
        is_spilling: bool,
        batch: &mut Vec<Sample>,
    ) -> bool {
        let is_in_turn =
            if is_spilling { self.spool.spilling > 0 } else { !self.is_sender_paused() };
        // The batch in flight is older and goes first, except that held back samples are of other seconds.
        let is_first = spill == Spill::OrderOnly || self.queue.taken(Lane::Send) == 0;
        if is_in_turn && is_first && self.phase != OutboxPhase::Closed {
            let watermarks = &self.spool.watermarks;
            let is_moved = |sample: &Sample| spill == Spill::All || watermarks.blocks(sample);
            self.queue.take_matching(Lane::Spool, most, is_moved, batch);
            self.spool.pending.advance(batch);
        }
        !batch.is_empty()
    }

    /// Ends a batch that was taken for the spool: its first `stored` samples are stored, and the others are
    /// queued again. If the batch was counted as dropped in the meantime, the stored ones are not any more.
    pub(in crate::reporter) fn spooled(
        &mut self,
        batch: Vec<Sample>,
        stored: usize,
        stats: SpoolStats,
    ) {
        self.spool.watermarks.advance(&batch[..stored]);
        self.spool.pending.clear();
        self.spool.stats = stats;
        if self.queue.taken(Lane::Spool) == batch.len() {
            let open = batch.into_iter().skip(stored);
            self.counts.coalesced += self.queue.settle(Lane::Spool, open);
        } else {
            self.evicted -= stored as u64;
            self.counts.dropped.closed -= stored as u64;
        }
        if self.phase == OutboxPhase::Closed {
            self.drop_waiting();
        }
    }

    /// Counts samples that were sent from the spool.
    pub(in crate::reporter) fn replayed(
        &mut self,
        settled: Settled,
        stats: SpoolStats,
        is_drained: bool,
    ) {
        self.count(settled);
        self.spool.stats = stats;
        if is_drained {
            self.spool.watermarks.clear();
        }
    }

    /// Returns true if any of the `most` oldest samples has to go through the spool.
    pub(in crate::reporter) fn has_held_back(&self, most: usize) -> bool {
        let watermarks = &self.spool.watermarks;
        !watermarks.is_empty() && self.queue.any_of_oldest(most, |sample| watermarks.blocks(sample))
    }

    /// Returns true while a batch from the queue is in flight.
    pub(in crate::reporter) fn is_sending(&self) -> bool {
        self.queue.taken(Lane::Send) > 0
    }

    /// Returns true if samples may be sent from the spool.
    pub(in crate::reporter) fn may_replay(&self) -> bool {
        self.spool.stats.waiting > 0
            && !self.is_sender_paused()
            && self.phase != OutboxPhase::Closed
    }

    /// Returns true if samples are queued, taken ones included.
    pub(in crate::reporter) fn has_waiting(&self) -> bool {
        self.queue.waiting() > 0
    }

    /// Returns how many samples are queued, without taken ones.
    pub(in crate::reporter) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(in crate::reporter) fn end(&self) -> u64 {
        self.queue.end()
    }

    pub(in crate::reporter) fn waiting_before(&self, position: u64) -> u64 {
        self.queue.waiting_before(position)
    }

    pub(in crate::reporter) fn is_closed(&self) -> bool {
        self.phase == OutboxPhase::Closed
    }

    /// Returns until when the reporter may take to close, if it is closing.
    pub(in crate::reporter) fn closing_until(&self) -> Option<Instant> {
        match self.phase {
            OutboxPhase::Closing { until } => Some(until),
            OutboxPhase::Open | OutboxPhase::Closed => None,
        }
    }

    /// Returns true if nothing is left to do: the reporter is closed and its queue is empty, and so is the
    /// spool, unless its time is over.
    pub(in crate::reporter) fn is_over(&self, now: Instant) -> bool {
        let has_time = match self.phase {
            OutboxPhase::Open => return false,
            OutboxPhase::Closing { until } => now < until,
            OutboxPhase::Closed => return true,
        };
        let is_empty = self.queue.waiting() == 0 && !self.is_sender_paused();
        is_empty && !(has_time && self.may_replay())
    }

    /// Ready once the worker may send and this many samples are queued or a flush has begun, or once the
    /// reporter is closed.
    pub(in crate::reporter) fn poll_sendable(
        &mut self,
        samples: usize,
        worker: &Waker,
    ) -> Poll<()> {
        let len = self.queue.len();
        let is_urgent = len > 0 && self.queue.end() - (len as u64) < self.flush_before;
        let is_free = !self.is_sender_paused() && !self.spool.is_paused_for_spill;
        let is_ready = is_free && (len >= samples || is_urgent);
        self.ready_or_wake(is_ready || self.is_closed(), samples, worker)
    }

    /// Ready once this many samples are queued, or [nothing is left to do](Self::is_over).
    pub(in crate::reporter) fn poll_queued(
        &mut self,
        samples: usize,
        now: Instant,
        worker: &Waker,
    ) -> Poll<()> {
        let is_ready = self.queue.len() >= samples || self.is_over(now);
        self.ready_or_wake(is_ready, samples, worker)
    }

    fn ready_or_wake(&mut self, is_ready: bool, samples: usize, worker: &Waker) -> Poll<()> {
        if is_ready {
            return Poll::Ready(());
        }
        if !self.worker.as_ref().is_some_and(|known| known.will_wake(worker)) {
            self.worker = Some(worker.clone());
        }
        // One task waits for several conditions.
        self.wake_threshold = samples.min(self.wake_threshold);
        Poll::Pending
    }
}
