//! The queue of one relay in memory, and its counters: what the put path and the relay's task share.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Notify, time::Instant};

use super::stats::RelayStats;
use crate::store::PutBatch;

/// A batch as the store has applied it.
#[derive(Debug)]
pub(super) struct QueuedBatch {
    pub(super) puts: Arc<PutBatch>,
    /// When it was applied.
    pub(super) received: Millis,
}

/// Milliseconds since 1970.
pub(super) type Millis = i64;

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    wake: Notify,
    max_bytes: usize,
    /// A moment on both clocks.
    epoch: (Instant, Millis),
}

#[derive(Debug)]
struct QueueState {
    batches: VecDeque<QueuedBatch>,
    /// The memory of `batches`.
    queued_bytes: usize,
    /// The memory of what the task has taken and not sent or stored.
    taken_bytes: usize,
    /// At how many queued bytes the task is woken.
    wake_at: usize,
    /// When the oldest point was applied that the task has taken and not delivered.
    oldest_taken: Option<Millis>,
    /// By when the task has to end.
    closing: Option<Instant>,
    stats: RelayStats,
}

/// What a batch takes besides its puts.
const BATCH_OVERHEAD_BYTES: usize = 256;

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            state: Mutex::new(QueueState {
                batches: VecDeque::new(),
                queued_bytes: 0,
                taken_bytes: 0,
                wake_at: 1,
                oldest_taken: None,
                closing: None,
                stats: RelayStats { is_up: true, ..RelayStats::default() },
            }),
            wake: Notify::new(),
            max_bytes,
            epoch: (Instant::now(), i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Every change is made at once.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current time. It never goes back, whatever the system's clock does.
    pub(super) fn now(&self) -> Millis {
        let (begin, millis) = self.epoch;
        millis.saturating_add(i64::try_from(begin.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// Adds a batch, or counts its points as dropped if the queue is full or closed. Never waits for the
    /// task, the disk or the destination.
    pub(super) fn push(&self, puts: &Arc<PutBatch>) {
        let points = puts.len() as u64;
        let bytes = puts.bytes() + BATCH_OVERHEAD_BYTES;
        let received = self.now();
        let is_due = {
            let mut state = self.lock();
            state.stats.applied += points;
            // A batch larger than the bound fits into an empty queue.
            let used = state.queued_bytes + state.taken_bytes;
            if state.closing.is_some() {
                state.stats.dropped.closed += points;
                false
            } else if used > 0 && used + bytes > self.max_bytes {
                state.stats.dropped.queue_full += points;
                false
            } else {
                state.stats.waiting += points;
                state.queued_bytes += bytes;
                state.batches.push_back(QueuedBatch { puts: Arc::clone(puts), received });
                let is_due = state.queued_bytes >= state.wake_at;
                if is_due {
                    state.wake_at = usize::MAX;
                }
                is_due
            }
        };
        if is_due {
            self.wake.notify_one();
        }
    }

    /// Takes all batches. Their memory stays counted until [`update`](Self::update).
    pub(super) fn take(&self) -> VecDeque<QueuedBatch> {
        let mut state = self.lock();
        state.taken_bytes += std::mem::take(&mut state.queued_bytes);
        std::mem::take(&mut state.batches)
    }

    /// Changes the counters, and sets what the task holds in memory.
    pub(super) fn update(
        &self,
        taken_bytes: usize,
        oldest_taken: Option<Millis>,
        change: impl FnOnce(&mut RelayStats),
    ) {
        let mut state = self.lock();
        state.taken_bytes = taken_bytes;
        state.oldest_taken = oldest_taken;
        change(&mut state.stats);
        debug_assert!(state.stats.is_balanced(), "{:?}", state.stats);
    }

    /// Returns the memory of all points that wait.
    pub(super) fn bytes(&self) -> usize {
        let state = self.lock();
        state.queued_bytes + state.taken_bytes
    }

    /// Waits until the queue has this many bytes, or is being closed and was not when this was called.
    ///
    /// # Cancel safety
    ///
    /// No wake-up is lost.
    pub(super) fn filled(&self, bytes: usize) -> impl Future<Output = ()> {
        let is_due = {
            let mut state = self.lock();
            let is_due = state.queued_bytes >= bytes;
            state.wake_at = if is_due { usize::MAX } else { bytes };
            is_due
        };
        async move {
            if !is_due {
                self.wake.notified().await;
            }
        }
    }

    /// Takes no more batches, and asks the task to end by a time.
    pub(super) fn close(&self, by: Instant) {
        self.lock().closing.get_or_insert(by);
        self.wake.notify_one();
    }

    /// Returns by when the task has to end.
    pub(super) fn closing(&self) -> Option<Instant> {
        self.lock().closing
    }

    pub(super) fn stats(&self) -> RelayStats {
        let now = self.now();
        let state = self.lock();
        let oldest = state.oldest_taken.or(state.batches.front().map(|batch| batch.received));
        let lag = oldest.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
        RelayStats {
            queue_bytes: (state.queued_bytes + state.taken_bytes) as u64,
            lag: Duration::from_millis(lag.unsigned_abs()),
            ..state.stats
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_client::{Key, Point};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn batch(points: usize) -> Arc<PutBatch> {
        let mut puts = PutBatch::new();
        for second in 0..points {
            puts.push(&Key::new("palm.cpu").unwrap(), Point::new(0.5, second as i64));
        }
        Arc::new(puts)
    }

    #[tokio::test(start_paused = true)]
    async fn full_queue_drops_new_points() {
        let queue = Queue::new(2000);
        for _ in 0..10 {
            queue.push(&batch(10));
            assert!(queue.stats().is_balanced());
        }
        let stats = queue.stats();
        assert_eq!((stats.applied, stats.waiting, stats.dropped.queue_full), (100, 40, 60));
        let taken = queue.take();
        assert_eq!(taken.len(), 4);
        queue.push(&batch(10));
        assert_eq!(queue.stats().dropped.queue_full, 70);
        queue.update(0, None, |stats| {
            stats.waiting -= 40;
            stats.delivered += 40;
        });
        queue.push(&batch(10));
        assert_eq!(queue.stats().waiting, 10);
        queue.close(Instant::now());
        queue.push(&batch(1));
        assert_eq!(queue.stats().dropped.closed, 1);
        assert!(queue.stats().is_balanced());
    }

    #[tokio::test(start_paused = true)]
    async fn batch_above_the_bound_fits_into_an_empty_queue() {
        let queue = Queue::new(1);
        queue.push(&batch(10));
        queue.push(&batch(10));
        assert_eq!((queue.stats().waiting, queue.stats().dropped.queue_full), (10, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn task_is_woken_at_the_bytes_it_waits_for() {
        let queue = Queue::new(usize::MAX);
        let mut filled = task::spawn(queue.filled(1000));
        assert_pending!(filled.poll());
        queue.push(&batch(1));
        assert!(!filled.is_woken());
        queue.push(&batch(100));
        assert!(filled.is_woken());
        assert_ready!(filled.poll());
        drop(filled);
        assert_ready!(task::spawn(queue.filled(1000)).poll());
        let _ = queue.take();
        let mut filled = task::spawn(queue.filled(1));
        assert_pending!(filled.poll());
        queue.close(Instant::now());
        assert_ready!(filled.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn lag_is_the_age_of_the_oldest_point() {
        let queue = Queue::new(usize::MAX);
        assert_eq!(queue.stats().lag, Duration::ZERO);
        queue.push(&batch(1));
        tokio::time::advance(Duration::from_secs(5)).await;
        queue.push(&batch(1));
        assert_eq!(queue.stats().lag, Duration::from_secs(5));
        let mut taken = queue.take();
        queue.update(1, taken.pop_back().map(|batch| batch.received), |_| ());
        assert_eq!(queue.stats().lag, Duration::ZERO);
    }
}
