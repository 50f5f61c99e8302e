//! The state that recording and sending share under one lock: the queue, the counters, and who is to be
//! woken. Pure state.

use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::{
    queue::{Lane, PushOutcome, Queue, QueueLimits},
    stats::{DropReason, FlushError, LossReason, ReporterStats},
};
use crate::{error::Error, metric::Sample};

#[cfg_attr(not(feature = "spool"), path = "outbox/no_spill.rs")]
mod spill;
#[cfg(test)]
mod tests;
#[cfg(feature = "spool")]
pub(super) use spill::Spill;

#[derive(Debug)]
pub(super) struct Outbox {
    queue: Queue,
    /// All counters but those of queued samples.
    counts: ReporterStats,
    /// Samples that were queued and then dropped.
    evicted: u64,
    phase: OutboxPhase,
    /// A guard sends in place of the worker.
    sender_paused: bool,
    /// The worker has ended.
    worker_gone: bool,
    /// The error of the last attempt to send, if it failed.
    last_error: Option<Error>,
    /// Samples before this position are to be sent without waiting for more.
    flush_before: u64,
    worker: Option<Waker>,
    /// The queue length at which the worker is woken.
    wake_threshold: usize,
    spool: spill::SpillState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutboxPhase {
    Open,
    /// Accepts no more samples. What is queued is sent, until an attempt fails after `until`.
    Closing {
        until: Instant,
    },
    Closed,
}

/// What a recorded sample makes due.
#[must_use]
#[derive(Debug, Default)]
pub(super) struct RecordOutcome {
    /// The worker, if it is to be woken.
    pub(super) worker: Option<Waker>,
    /// Why the sample was not accepted.
    pub(super) refused: Option<DropReason>,
    /// Why a sample was dropped, this one or another.
    pub(super) dropped: Option<LossReason>,
}

/// What a flush waits for: all samples before a position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    before: u64,
    /// By how much positions had been [shifted](Queue::shifted).
    shifted: u64,
    dropped: u64,
    rejected: u64,
    abandoned: u64,
}

/// How many samples of a batch have which outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settled {
    pub(super) acknowledged: u64,
    pub(super) rejected: u64,
    /// Samples at which the server closes the connection.
    pub(super) poison: u64,
    /// Samples that have had all their attempts.
    pub(super) exhausted: u64,
}

/// What the worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Send,
    /// The reporter is closed and the queue is empty.
    Stop,
}

impl Outbox {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self {
            queue: Queue::new(limits),
            counts: ReporterStats::default(),
            evicted: 0,
            phase: OutboxPhase::Open,
            sender_paused: false,
            worker_gone: false,
            last_error: None,
            flush_before: 0,
            worker: None,
            wake_threshold: usize::MAX,
            spool: spill::SpillState::default(),
        }
    }

    /// Adds a sample with a finite value to the queue.
    #[inline]
    pub(super) fn record(&mut self, sample: Sample) -> RecordOutcome {
        if self.phase != OutboxPhase::Open {
            return self.refuse(DropReason::Closed);
        }
        self.counts.recorded += 1;
        let mut recorded = RecordOutcome::default();
        match self.queue.push(sample) {
            PushOutcome::Added { dropped: 0 } => {}
            PushOutcome::Added { dropped } => {
                self.evicted += dropped;
                recorded.dropped = Some(self.drop_for(LossReason::QueueFull, dropped));
            }
            PushOutcome::Coalesced => self.counts.coalesced += 1,
            PushOutcome::Refused { dropped } => {
                self.evicted += dropped;
                recorded.refused = Some(DropReason::QueueFull);
                recorded.dropped = Some(self.drop_for(LossReason::QueueFull, dropped + 1));
            }
        }
        if self.queue.len() >= self.wake_threshold {
            recorded.worker = self.wake();
        }
        recorded
    }

    /// Counts a sample that cannot be sent.
    pub(super) fn refuse(&mut self, reason: DropReason) -> RecordOutcome {
        self.counts.recorded += 1;
        let dropped = self.drop_for(reason.into(), 1);
        RecordOutcome { worker: None, refused: Some(reason), dropped: Some(dropped) }
    }

    /// Returns what the worker is to do, once this many samples are queued or a flush has begun.
    pub(super) fn poll_work(&mut self, samples: usize, worker: &Waker) -> Poll<Work> {
        if !self.sender_paused {
            let first = self.queue.end() - self.queue.len() as u64;
            if self.queue.len() >= samples || (self.queue.len() > 0 && first < self.flush_before) {
                return Poll::Ready(Work::Send);
            }
            if self.queue.waiting() == 0 && self.phase != OutboxPhase::Open {
                self.phase = OutboxPhase::Closed;
                return Poll::Ready(Work::Stop);
            }
        }
        if !self.worker.as_ref().is_some_and(|known| known.will_wake(worker)) {
            self.worker = Some(worker.clone());
        }
        self.wake_threshold = samples;
        Poll::Pending
    }

    /// Appends up to `most` of the oldest samples to `batch`, which is the batch in flight, or empty.
    /// Returns false if none were left, or if it is not the caller's turn: `has_paused` says that the caller
    /// has [paused](Self::pause_sender) the sender.
    pub(super) fn take(&mut self, most: usize, has_paused: bool, batch: &mut Vec<Sample>) -> bool {
        let before = batch.len();
        if self.may_take(has_paused, before) {
            if self.spool.may_hold_back() {
                let passes = |sample: &Sample| !self.spool.holds_back(sample);
                self.queue.take_matching(Lane::Send, most, passes, batch);
                return batch.len() > before;
            }
            self.queue.take(most, batch);
        }
        batch.len() > before
    }

    /// As [`take`](Self::take), but only samples for which `is_wanted` is true.
    pub(super) fn take_matching(
        &mut self,
        most: usize,
        has_paused: bool,
        mut is_wanted: impl FnMut(&Sample) -> bool,
        batch: &mut Vec<Sample>,
    ) -> bool {
        let before = batch.len();
        if self.may_take(has_paused, before) {
            let is_wanted = |sample: &Sample| !self.spool.holds_back(sample) && is_wanted(sample);
            self.queue.take_matching(Lane::Send, most, is_wanted, batch);
        }
        batch.len() > before
    }

    /// Returns true if it is the caller's turn to send, and the batch in flight has `taken` samples.
    pub(super) fn may_take(&self, has_paused: bool, taken: usize) -> bool {
        if self.spool.is_spilling() || (self.spool.pauses_sender() && !has_paused) {
            return false;
        }
        let is_in_turn = self.sender_paused == has_paused && self.phase != OutboxPhase::Closed;
        is_in_turn && self.queue.taken(Lane::Send) == taken
    }

    /// Ends the batch in flight: counts its samples that have an outcome, and queues those without again, before
    /// all others. Returns how many of these had to be dropped.
    pub(super) fn settle(
        &mut self,
        settled: Settled,
        open: impl DoubleEndedIterator<Item = Sample>,
        last_error: Option<Error>,
    ) -> u64 {
        self.count(settled);
        self.counts.coalesced += self.queue.settle(Lane::Send, open);
        self.last_error = last_error;
        if self.phase == OutboxPhase::Closed { self.drop_waiting() } else { 0 }
    }

    fn count(&mut self, settled: Settled) {
        let Settled { acknowledged, rejected, poison, exhausted } = settled;
        self.counts.acknowledged += acknowledged;
        self.counts.rejected += rejected;
        self.evicted += poison + exhausted;
        self.drop_for(LossReason::Poison, poison);
        self.drop_for(LossReason::Attempts, exhausted);
    }

    /// Has a guard send in place of the worker. Returns false if one does already.
    pub(super) fn pause_sender(&mut self) -> bool {
        !std::mem::replace(&mut self.sender_paused, true)
    }

    /// Has the worker send again.
    pub(super) fn resume_sender(&mut self) -> Option<Waker> {
        self.sender_paused = false;
        self.wake()
    }

    /// Has all that has been recorded sent at once. Returns a mark behind it.
    pub(super) fn begin_flush(&mut self) -> (Mark, Option<Waker>) {
        let before = self.queue.end();
        self.flush_before = before;
        let mark = Mark {
            before,
            shifted: self.queue.shifted(),
            dropped: self.dropped(),
            rejected: self.counts.rejected,
            abandoned: self.stats().abandoned,
        };
        (mark, self.wake())
    }

    /// Returns the outcome of a flush, if it is over.
    pub(super) fn poll_flushed(&self, mark: &Mark) -> Poll<Result<(), FlushError>> {
        let unsent = self.unsent(mark);
        let waiting = unsent.waiting + unsent.spooled;
        let failed = unsent.dropped + unsent.rejected + unsent.abandoned;
        if waiting == 0 && failed == 0 {
            return Poll::Ready(Ok(()));
        }
        let is_over = waiting == 0 || (self.worker_gone && !self.is_sender_paused());
        if is_over { Poll::Ready(Err(unsent)) } else { Poll::Pending }
    }

    pub(super) fn unsent(&self, mark: &Mark) -> FlushError {
        let shifted = self.queue.shifted() - mark.shifted;
        let stats = self.stats();
        FlushError {
            waiting: self.queue.waiting_before(mark.before + shifted),
            dropped: self.dropped() - mark.dropped,
            rejected: self.counts.rejected - mark.rejected,
            spooled: stats.spooled,
            abandoned: stats.abandoned - mark.abandoned,
            cause: self.last_error.clone(),
        }
    }

    /// Accepts no more samples. Until `until`, what is queued is sent in spite of failures.
    pub(super) fn close(&mut self, until: Instant) -> Option<Waker> {
        if self.phase == OutboxPhase::Open {
            self.phase = OutboxPhase::Closing { until };
            self.flush_before = self.queue.end();
        }
        self.wake()
    }

    /// Accepts no more samples and drops what is queued. Returns how many samples were dropped.
    pub(super) fn discard_all(&mut self) -> (u64, Option<Waker>) {
        self.phase = OutboxPhase::Closed;
        (self.drop_waiting(), self.wake())
    }

    /// Returns true if a failure at this time is the last.
    pub(super) fn should_give_up(&self, now: Instant) -> bool {
        match self.phase {
            OutboxPhase::Open => false,
            OutboxPhase::Closing { until } => until <= now,
            OutboxPhase::Closed => true,
        }
    }

    /// Notes that the worker has ended.
    pub(super) fn worker_ended(&mut self) {
        self.worker_gone = true;
        self.worker = None;
    }

    pub(super) fn is_worker_gone(&self) -> bool {
        self.worker_gone
    }

    /// Returns true while a guard sends in place of the worker, or all samples are moved to the spool.
    pub(super) fn is_sender_paused(&self) -> bool {
        self.sender_paused || self.spool.is_spilling()
    }

    /// Returns true while there are samples that cannot be taken but may be queued again: samples that are
    /// being moved to the spool.
    pub(super) fn may_get_samples_back(&self) -> bool {
        self.spool.is_spilling() || (self.sender_paused && self.queue.waiting() > self.queue.len())
    }

    /// Returns true if the queue is at most half full.
    pub(super) fn is_half_empty(&self) -> bool {
        self.queue.is_half_empty()
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == OutboxPhase::Open
    }

    pub(super) fn stats(&self) -> ReporterStats {
        let stats = ReporterStats {
            waiting: self.queue.waiting() as u64,
            waiting_bytes: self.queue.waiting_bytes() as u64,
            ..self.counts
        };
        self.spool.add_to(stats)
    }

    /// Returns how many samples were dropped after they had been queued or spooled.
    fn dropped(&self) -> u64 {
        self.evicted + self.spool.dropped()
    }

    fn drop_waiting(&mut self) -> u64 {
        let dropped = self.queue.clear() + self.queue.forget(Lane::Spool);
        self.evicted += dropped;
        self.drop_for(LossReason::Closed, dropped);
        dropped
    }

    fn drop_for(&mut self, reason: LossReason, samples: u64) -> LossReason {
        *self.counts.counter_mut(reason) += samples;
        reason
    }

    fn wake(&mut self) -> Option<Waker> {
        self.wake_threshold = usize::MAX;
        self.worker.take()
    }
}
