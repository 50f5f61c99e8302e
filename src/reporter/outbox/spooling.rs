//! What the outbox knows of a spool: what waits there, and what must not overtake it.

use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::{Outbox, Phase, ReporterStats};
use crate::{
    metric::Sample,
    reporter::spool::{Fence, SpoolStats},
};

#[derive(Debug, Default)]
pub(in crate::reporter) struct Spooling {
    pub(super) fence: Fence,
    /// All that waits is being moved to the spool, and nobody sends, neither the sender nor whoever
    /// holds the outbox.
    pub(super) is_rescued: bool,
    /// As they were when the folder was last used.
    stats: SpoolStats,
}

/// Which samples are moved to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reporter) enum Moving {
    All,
    /// Those that have to follow older ones of their key and second.
    Blocked,
}

impl Spooling {
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
            self.spool.fence.raise_all(latest);
        }
    }

    /// The spool's own counters.
    pub(in crate::reporter) fn spool_stats(&self) -> SpoolStats {
        self.spool.stats
    }

    /// Nobody sends from now on: all that waits is moved to the spool.
    pub(in crate::reporter) fn begin_rescue(&mut self) {
        self.spool.is_rescued = true;
    }

    /// Whoever was to send does so again.
    pub(in crate::reporter) fn end_rescue(&mut self) -> Option<Waker> {
        self.spool.is_rescued = false;
        self.wake()
    }

    /// Moves some of the oldest samples to `batch`, to be [stored](Self::spooled), and says whether
    /// there were any; in a [rescue](Self::begin_rescue), or else for the sender.
    pub(in crate::reporter) fn take_to_spool(
        &mut self,
        most: usize,
        moving: Moving,
        is_rescue: bool,
        batch: &mut Vec<Sample>,
    ) -> bool {
        let is_in_turn = if is_rescue { self.spool.is_rescued } else { !self.is_held() };
        if is_in_turn && self.queue.waiting() == self.queue.len() {
            let fence = &self.spool.fence;
            let is_moved = |sample: &Sample| moving == Moving::All || fence.blocks(sample);
            self.queue.take_where(most, is_moved, batch);
        }
        !batch.is_empty()
    }

    /// The first `stored` of the samples that were taken lie in the spool; the others wait again.
    pub(in crate::reporter) fn spooled(
        &mut self,
        batch: Vec<Sample>,
        stored: usize,
        stats: SpoolStats,
    ) {
        self.spool.fence.raise(&batch[..stored]);
        self.spool.stats = stats;
        self.counts.coalesced += self.queue.settle(batch.into_iter().skip(stored));
        if self.phase == Phase::Closed {
            self.drop_waiting();
        }
    }

    /// What became of samples that were sent from the spool.
    pub(in crate::reporter) fn replayed(
        &mut self,
        acknowledged: u64,
        rejected: u64,
        stats: SpoolStats,
        is_drained: bool,
    ) {
        self.counts.acknowledged += acknowledged;
        self.counts.rejected += rejected;
        self.spool.stats = stats;
        if is_drained {
            self.spool.fence.clear();
        }
    }

    /// Whether any of the oldest samples has to go through the spool.
    pub(in crate::reporter) fn has_blocked(&self, most: usize) -> bool {
        let fence = &self.spool.fence;
        !fence.is_down() && self.queue.any(most, |sample| fence.blocks(sample))
    }

    /// Whether the sender has something to send from the spool.
    pub(in crate::reporter) fn may_replay(&self) -> bool {
        self.spool.stats.waiting > 0 && !self.is_held()
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
        self.phase == Phase::Closed
    }

    /// Until when the reporter may take to close, if it does.
    pub(in crate::reporter) fn closing_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closing { until } => Some(until),
            Phase::Open | Phase::Closed => None,
        }
    }

    /// Ready once so many samples wait to be sent, or it is urgent, or the end has come.
    pub(in crate::reporter) fn poll_gathered(
        &mut self,
        samples: usize,
        sender: &Waker,
    ) -> Poll<()> {
        let len = self.queue.len();
        let is_urgent = len > 0 && self.queue.end() - (len as u64) < self.urgent_before;
        let is_over = match self.phase {
            Phase::Open => false,
            Phase::Closing { .. } => len > 0 || self.spool.stats.waiting == 0,
            Phase::Closed => true,
        };
        let is_ready = !self.is_held() && (len >= samples || is_urgent || is_over);
        self.ready_or_wake(is_ready, samples, sender)
    }

    /// Ready once so many samples wait to be sent.
    pub(in crate::reporter) fn poll_pressed(&mut self, samples: usize, sender: &Waker) -> Poll<()> {
        self.ready_or_wake(self.queue.len() >= samples, samples, sender)
    }

    fn ready_or_wake(&mut self, is_ready: bool, samples: usize, sender: &Waker) -> Poll<()> {
        if is_ready {
            return Poll::Ready(());
        }
        if !self.sender.as_ref().is_some_and(|known| known.will_wake(sender)) {
            self.sender = Some(sender.clone());
        }
        self.wake_at = samples;
        Poll::Pending
    }
}
