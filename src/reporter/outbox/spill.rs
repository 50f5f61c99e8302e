//! What the outbox knows of a spool: what waits there, and what must not overtake it.

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
    /// What is being written to the folder, which nothing of its keys and seconds may overtake.
    pending: Watermarks,
    /// The sender waits for a moment, so that what waits can be moved to the folder.
    is_paused_for_spill: bool,
    /// How many are moving all that waits to the spool. Then nobody sends, neither the sender nor
    /// whoever holds the outbox.
    spilling: u32,
    /// As they were when the folder was last used.
    stats: SpoolStats,
}

/// Which samples are moved to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reporter) enum Spill {
    All,
    /// Those that have to follow older ones of their key and second.
    OrderOnly,
}

impl SpillState {
    /// The counters with what has become of samples in the spool.
    pub(super) fn add_to(&self, mut stats: ReporterStats) -> ReporterStats {
        stats.recovered = self.stats.recovered;
        stats.spooled = self.stats.waiting;
        stats.dropped.spool_full = self.stats.dropped;
        stats.dropped.spool_lost = self.stats.lost;
        stats.dropped.spool_expired = self.stats.expired;
        stats.abandoned = self.stats.abandoned;
        stats
    }

    /// Returns true while all that waits is moved to the folder.
    pub(super) fn is_spilling(&self) -> bool {
        self.spilling > 0
    }

    /// Returns true while the sender waits, so that what waits can be moved to the folder.
    pub(super) fn pauses_sender(&self) -> bool {
        self.is_paused_for_spill
    }

    /// Whether an older sample of the same key and second may lie in the spool, or be on its way there.
    pub(super) fn holds_back(&self, sample: &Sample) -> bool {
        self.watermarks.blocks(sample) || self.pending.blocks(sample)
    }

    /// Whether any sample may have to go through the spool.
    pub(super) fn may_hold_back(&self) -> bool {
        !self.watermarks.is_empty() || !self.pending.is_empty()
    }

    /// How many samples have been in the spool and will never be sent.
    pub(super) fn dropped(&self) -> u64 {
        self.stats.dropped + self.stats.lost + self.stats.expired
    }
}

impl Outbox {
    /// There is a spool, with samples up to this second in it if there are any.
    pub(in crate::reporter) fn spool_opened(&mut self, stats: SpoolStats, latest: Option<i64>) {
        self.spool.stats = stats;
        if let Some(latest) = latest {
            self.spool.watermarks.advance_all(latest);
        }
    }

    /// The spool's own counters.
    pub(in crate::reporter) fn spool_stats(&self) -> SpoolStats {
        self.spool.stats
    }

    /// Nobody sends from now on: all that waits is moved to the spool.
    pub(in crate::reporter) fn begin_spill(&mut self) {
        self.spool.spilling += 1;
    }

    /// Whoever was to send does so again, unless another spill goes on.
    pub(in crate::reporter) fn end_spill(&mut self) -> Option<Waker> {
        self.spool.spilling -= 1;
        self.wake()
    }

    /// The sender waits from now on, until [`resume_after_spill`](Self::resume_after_spill), and what is not out can be
    /// moved to the spool.
    pub(in crate::reporter) fn pause_for_spill(&mut self) {
        self.spool.is_paused_for_spill = true;
    }

    pub(in crate::reporter) fn resume_after_spill(&mut self) -> Option<Waker> {
        self.spool.is_paused_for_spill = false;
        self.wake()
    }

    /// Moves some of the oldest samples to `batch`, to be [stored](Self::spooled), and says whether
    /// there were any; in a [rescue](Self::begin_spill), or else for the sender.
    pub(in crate::reporter) fn take_to_spool(
        &mut self,
        most: usize,
        spill: Spill,
        is_spilling: bool,
        batch: &mut Vec<Sample>,
    ) -> bool {
        let is_in_turn =
            if is_spilling { self.spool.spilling > 0 } else { !self.is_sender_paused() };
        // What is being sent is older, and goes first; but what is blocked is of other seconds.
        let is_first = spill == Spill::OrderOnly || self.queue.out(Lane::Send) == 0;
        if is_in_turn && is_first && self.phase != OutboxPhase::Closed {
            let watermarks = &self.spool.watermarks;
            let is_moved = |sample: &Sample| spill == Spill::All || watermarks.blocks(sample);
            self.queue.take_matching(Lane::Spool, most, is_moved, batch);
            self.spool.pending.advance(batch);
        }
        !batch.is_empty()
    }

    /// The first `stored` of the samples that were taken lie in the spool; the others wait again. If
    /// they were dropped because that came too late, those that lie there are not.
    pub(in crate::reporter) fn spooled(
        &mut self,
        batch: Vec<Sample>,
        stored: usize,
        stats: SpoolStats,
    ) {
        self.spool.watermarks.advance(&batch[..stored]);
        self.spool.pending.clear();
        self.spool.stats = stats;
        if self.queue.out(Lane::Spool) == batch.len() {
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

    /// What became of samples that were sent from the spool.
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

    /// Whether any of the oldest samples has to go through the spool.
    pub(in crate::reporter) fn has_held_back(&self, most: usize) -> bool {
        let watermarks = &self.spool.watermarks;
        !watermarks.is_empty() && self.queue.any_of_oldest(most, |sample| watermarks.blocks(sample))
    }

    /// Whether a batch is being sent.
    pub(in crate::reporter) fn is_sending(&self) -> bool {
        self.queue.out(Lane::Send) > 0
    }

    /// Whether the sender has something to send from the spool.
    pub(in crate::reporter) fn may_replay(&self) -> bool {
        self.spool.stats.waiting > 0
            && !self.is_sender_paused()
            && self.phase != OutboxPhase::Closed
    }

    /// Whether samples wait, those that are out included.
    pub(in crate::reporter) fn has_waiting(&self) -> bool {
        self.queue.waiting() > 0
    }

    /// How many samples wait to be sent from memory.
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

    /// Until when the reporter may take to close, if it does.
    pub(in crate::reporter) fn closing_until(&self) -> Option<Instant> {
        match self.phase {
            OutboxPhase::Closing { until } => Some(until),
            OutboxPhase::Open | OutboxPhase::Closed => None,
        }
    }

    /// Whether there is nothing left to do: the reporter takes no more, and has sent what it had; what
    /// lies in the spool too, as far as there is time for it.
    pub(in crate::reporter) fn is_over(&self, now: Instant) -> bool {
        let has_time = match self.phase {
            OutboxPhase::Open => return false,
            OutboxPhase::Closing { until } => now < until,
            OutboxPhase::Closed => return true,
        };
        let is_empty = self.queue.waiting() == 0 && !self.is_sender_paused();
        is_empty && !(has_time && self.may_replay())
    }

    /// Ready once the sender may send, and so many samples wait to be sent or it is urgent; or once the
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

    /// Ready once so many samples wait to be sent, or the end has come.
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
        // One task waits for several things.
        self.wake_threshold = samples.min(self.wake_threshold);
        Poll::Pending
    }
}
