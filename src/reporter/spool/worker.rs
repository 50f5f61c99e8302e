//! The reporter's worker with a spool: samples that wait too long in memory are moved to the spool, and stored
//! samples are sent behind new ones.
//!
//! Sending new samples and using the spool are two futures of one task, so that new samples never wait for the
//! disk.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::{self, Instant};

use super::{
    disk_retry::{DiskRetry, IO_RETRY_DELAY},
    handle::{self, SpillGuard, SpoolHandle},
    pacer::Pacer,
    suspect::{SuspectSample, Trial},
};
use crate::{
    error::Error,
    reporter::{
        in_flight::SendOutcome,
        outbox::Spill,
        poison::is_hangup,
        shared::ReporterShared,
        worker::{PAUSE, Worker, is_closed, next_batch},
    },
};

/// How long the batch in flight may take before waiting samples are moved to the spool. The disk may then take
/// as long before new samples are sent again.
const RECALL_GRACE: Duration = Duration::from_millis(100);
/// How often new samples are looked for behind those that have to go through the spool.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The smallest batch to a slow server, in samples.
const MIN_BATCH: usize = 16;

/// Uses the spool, concurrently with sending new samples.
struct SpoolWorker {
    shared: Arc<ReporterShared>,
    handle: Arc<SpoolHandle>,
    /// If this many samples wait in memory, they are moved at once.
    spill_threshold: usize,
    /// True if the last batch of new samples failed, or was recalled to be moved to the spool.
    has_failed: Arc<AtomicBool>,
    pacer: Pacer,
    suspect: SuspectSample,
    /// A position in the queue, and a time by which everything before it had been recorded.
    oldest_seen: (u64, Instant),
    writes: DiskRetry,
    reads: DiskRetry,
}

/// Why the worker stops.
#[derive(Debug)]
enum Stop {
    /// The reporter was closed.
    Closed,
    /// Everything is sent.
    Sent,
    /// The spool was taken over by another process: the worker continues without it.
    Abandoned,
    /// Nothing more can be sent, or the time for it is over.
    Failed(Error),
}

impl Worker {
    /// Runs until the reporter ends, or until the spool is taken over by another process: then it returns
    /// true, and the worker continues without a spool.
    pub(in crate::reporter) async fn run_with_spool(&mut self, handle: Arc<SpoolHandle>) -> bool {
        let syncing = Arc::downgrade(&handle);
        if let Some(every) = handle.settings.sync_interval() {
            tokio::spawn(async move {
                loop {
                    time::sleep(every).await;
                    let Some(handle) = syncing.upgrade() else { return };
                    handle.sync().await;
                }
            });
        }
        let shared = Arc::clone(&self.shared);
        let has_failed = Arc::new(AtomicBool::new(false));
        let mut spool = SpoolWorker::new(self, Arc::clone(&handle), Arc::clone(&has_failed));
        let stop = select_first(self.send_live(&has_failed), spool.run()).await;
        match stop {
            Stop::Closed => return false,
            Stop::Abandoned => return true,
            Stop::Sent | Stop::Failed(_) => {}
        }
        let _spilling = SpillGuard::begin(&shared.dispatcher);
        handle.close(&shared.dispatcher).await;
        shared.dispatcher.discard_all();
        if let Stop::Failed(error) = stop {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "reporter stopped: unsent samples stay in its spool");
        }
        false
    }

    /// Sends the samples in memory, and never waits for the disk.
    async fn send_live(&mut self, has_failed: &AtomicBool) -> Stop {
        let shared = Arc::clone(&self.shared);
        loop {
            self.record_self_metrics();
            let sendable = self.sendable(1);
            match self.self_metrics_due {
                None => sendable.await,
                Some(due) => {
                    if time::timeout_at(due, sendable).await.is_err() {
                        continue;
                    }
                }
            }
            if shared.dispatcher.outbox().is_closed() {
                return Stop::Closed;
            }
            let batch_outcome = shared.dispatcher.send(&shared.client, false, self.batch).await;
            if let Some(batch_outcome) = &batch_outcome {
                self.batch = next_batch(self.batch, batch_outcome);
            }
            match batch_outcome {
                // The waiting samples have to go through the spool.
                None => {
                    let more = shared.dispatcher.outbox().queued() + 1;
                    let _ = time::timeout(PAUSE, self.queued(more)).await;
                    time::sleep(POLL_INTERVAL).await;
                }
                Some(SendOutcome::Complete) => {
                    let _ = time::timeout(self.linger, self.sendable(self.flush_threshold)).await;
                }
                Some(SendOutcome::Recalled) => {
                    self.batch = (self.batch / 2).max(MIN_BATCH);
                }
                Some(SendOutcome::Interrupted(error)) => {
                    has_failed.store(true, Ordering::Relaxed);
                    if is_closed(&error)
                        || shared.dispatcher.outbox().should_give_up(Instant::now())
                    {
                        return Stop::Failed(error);
                    }
                    time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until sending is allowed, and `samples` wait or sending is urgent.
    async fn sendable(&self, samples: usize) {
        poll_fn(|cx| self.shared.dispatcher.outbox().poll_sendable(samples, cx.waker())).await;
    }

    /// Waits until `samples` wait.
    async fn queued(&self, samples: usize) {
        poll_fn(|cx| {
            self.shared.dispatcher.outbox().poll_queued(samples, Instant::now(), cx.waker())
        })
        .await;
    }
}

impl SpoolWorker {
    fn new(worker: &Worker, handle: Arc<SpoolHandle>, has_failed: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        Self {
            shared: Arc::clone(&worker.shared),
            spill_threshold: worker.flush_threshold,
            has_failed,
            pacer: Pacer::new(handle.settings.replay_rate, now),
            suspect: SuspectSample::default(),
            oldest_seen: (0, now),
            writes: DiskRetry::new(now),
            reads: DiskRetry::new(now),
            handle,
        }
    }

    async fn run(&mut self) -> Stop {
        loop {
            self.spill_if_needed().await;
            if let Some(error) = self.replay().await {
                return Stop::Failed(error);
            }
            {
                let outbox = self.shared.dispatcher.outbox();
                if outbox.is_closed() {
                    return Stop::Closed;
                }
                if outbox.is_over(Instant::now()) {
                    return Stop::Sent;
                }
            }
            if self.handle.is_abandoned() {
                return Stop::Abandoned;
            }
            self.wait().await;
        }
    }

    /// Moves samples to the spool: those that have to go through it, and all if they have waited too long or
    /// are too many.
    async fn spill_if_needed(&mut self) {
        if Instant::now() < self.writes.due() || self.shared.dispatcher.outbox().is_sender_paused()
        {
            return;
        }
        if self.shared.dispatcher.outbox().has_held_back(handle::SPILL_BATCH) {
            self.store(Spill::OrderOnly).await;
        }
        if !self.is_overdue(Instant::now()) && !self.is_over_threshold() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let pause = SpillPause::begin(&shared);
        // The batch in flight is the oldest, and has to be moved first.
        let _ = time::timeout(RECALL_GRACE, batch_outcome(&shared)).await;
        if shared.dispatcher.recall() {
            // Noted here, because `send_live` may learn of it later: what is moved to the spool now must not be
            // sent again at once.
            self.has_failed.store(true, Ordering::Relaxed);
        }
        let end = shared.dispatcher.outbox().end();
        let is_stored = {
            let mut storing = pin!(self.store(Spill::All));
            match time::timeout(RECALL_GRACE, storing.as_mut()).await {
                Ok(is_stored) => is_stored,
                // The server may be faster than the disk.
                Err(_) => {
                    drop(pause);
                    storing.await
                }
            }
        };
        if is_stored {
            self.oldest_seen = (end, Instant::now());
        }
    }

    async fn store(&mut self, spill: Spill) -> bool {
        let stored = self.handle.store(&self.shared.dispatcher, spill).await;
        self.shared.dispatcher.note_room();
        self.writes.value(stored).is_some()
    }

    /// Returns whether samples have waited for [`Spool::spill_after`](super::Spool::spill_after).
    fn is_overdue(&mut self, now: Instant) -> bool {
        let outbox = self.shared.dispatcher.outbox();
        if outbox.waiting_before(self.oldest_seen.0) == 0 {
            self.oldest_seen = (outbox.end(), now);
        }
        now.saturating_duration_since(self.oldest_seen.1) >= self.handle.settings.spill_after
    }

    fn is_over_threshold(&self) -> bool {
        self.shared.dispatcher.outbox().queued() >= self.spill_threshold
    }

    /// Sends stored samples, if they are due. Returns an error if nothing more can be sent.
    async fn replay(&mut self) -> Option<Error> {
        let now = Instant::now();
        if self.has_failed.swap(false, Ordering::Relaxed) {
            self.pacer.on_failure(PAUSE, now);
        }
        let is_due = self.pacer.next_send_at() <= now && self.reads.due() <= now;
        if !is_due || !self.shared.dispatcher.outbox().may_replay() || self.is_over_threshold() {
            return None;
        }
        let max = self.suspect.batch(self.pacer.batch());
        let read = self.handle.read(&self.shared.dispatcher, max).await;
        let samples = self.reads.value(read).flatten()?;
        let shared = Arc::clone(&self.shared);
        let Trial { samples, is_proof, is_accused } = self.suspect.prepare(&shared, samples).await;
        let (total, sent) = (samples.len(), Instant::now());
        let mut replay = pin!(shared.dispatcher.replay(&shared.client, samples, is_accused));
        let batch_outcome = loop {
            match time::timeout(RECALL_GRACE, replay.as_mut()).await {
                Ok(batch_outcome) => break batch_outcome,
                Err(_) => self.spill_if_needed().await,
            }
        };
        let now = Instant::now();
        match &batch_outcome {
            SendOutcome::Complete => {
                self.suspect = SuspectSample::default();
                self.pacer.on_success(total, sent, now);
            }
            SendOutcome::Interrupted(error) if is_hangup(error) => {
                self.suspect.on_hangup(&shared, total == 1, is_proof);
                self.pacer.on_failure(PAUSE, now);
            }
            SendOutcome::Interrupted(_) | SendOutcome::Recalled => {
                self.pacer.on_failure(PAUSE, now);
            }
        }
        self.handle.settle(&shared.dispatcher).await;
        match batch_outcome {
            SendOutcome::Interrupted(error)
                if is_closed(&error) || shared.dispatcher.outbox().should_give_up(now) =>
            {
                Some(error)
            }
            _ => None,
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&self) {
        let now = Instant::now();
        let after = self.handle.settings.spill_after;
        let (is_idle, may_replay, until, is_over_threshold) = {
            let outbox = self.shared.dispatcher.outbox();
            let is_over_threshold = outbox.queued() >= self.spill_threshold;
            (!outbox.has_waiting(), outbox.may_replay(), outbox.closing_until(), is_over_threshold)
        };
        let mut due = now + if is_idle { IO_RETRY_DELAY } else { RECALL_GRACE.min(after) };
        if may_replay {
            due = due.min(self.pacer.next_send_at().max(self.reads.due()));
        }
        if let Some(until) = until {
            due = due.min(until);
        }
        let samples = match (is_idle, is_over_threshold) {
            (true, _) => 1,
            (false, false) => self.spill_threshold,
            (false, true) => usize::MAX,
        };
        let queued = poll_fn(|cx| {
            self.shared.dispatcher.outbox().poll_queued(samples, Instant::now(), cx.waker())
        });
        let _ = time::timeout_at(due, queued).await;
    }
}

/// Pauses sending new samples until it is dropped.
struct SpillPause<'a>(&'a ReporterShared);

impl<'a> SpillPause<'a> {
    fn begin(shared: &'a ReporterShared) -> Self {
        shared.dispatcher.outbox().pause_for_spill();
        Self(shared)
    }
}

impl Drop for SpillPause<'_> {
    fn drop(&mut self) {
        let worker = self.0.dispatcher.outbox().resume_after_spill();
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}

/// Waits until no batch of new samples is in flight.
async fn batch_outcome(shared: &ReporterShared) {
    loop {
        let settled = shared.dispatcher.next_settled();
        if !shared.dispatcher.outbox().is_sending() {
            return;
        }
        settled.await;
    }
}

/// Returns the output of the future that is ready first.
async fn select_first<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io};

    use tokio::io::DuplexStream;

    use super::*;
    use crate::{
        MetricsClient, Reporter,
        client::{Address, Connector},
        spool::{Fsync, Spool},
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// Never connects.
    struct Nowhere;

    impl Connector for Nowhere {
        type Io = DuplexStream;

        async fn connect(&self, _: &Address) -> io::Result<DuplexStream> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn periodic_sync_includes_new_samples() {
        let folder = tempfile::tempdir().unwrap();
        let client = MetricsClient::builder("peer").connector(Nowhere).connect_lazy().unwrap();
        let spool = Spool::dir(folder.path()).fsync(Fsync::Every(3600 * SECOND));
        let reporter = Reporter::builder(client).spool(spool).unwrap().start();
        let handle = Arc::clone(reporter.shared().spool.as_ref().unwrap());
        reporter.record_at("a", 1.0, 1);
        time::sleep(600 * SECOND).await;
        assert_eq!((reporter.stats().spooled, handle.is_synced()), (1, false));
        // The clock that the log is given has not advanced.
        time::sleep(3600 * SECOND).await;
        assert!(handle.is_synced());
    }
}
