//! The reporter's task, which sends from the queue.

use std::{future::poll_fn, sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::{
    attempts::MAX_BATCH, in_flight::SendOutcome, outbox::Work, poison::is_hangup, self_metrics,
    settings::ReporterSettings, shared::ReporterShared,
};
use crate::error::Error;

/// How long the task waits after a failure. Without a connection, an attempt takes as long as the request
/// timeout, so this only matters where an attempt fails at once.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Worker {
    pub(super) shared: Arc<ReporterShared>,
    pub(super) linger: Duration,
    /// From this queue length on, the next batch is sent without waiting for `linger`.
    pub(super) flush_threshold: usize,
    /// The size of the next batch, in samples.
    pub(super) batch: usize,
    /// When the reporter's own counters are due.
    pub(super) self_metrics_due: Option<Instant>,
}

impl Worker {
    pub(super) fn new(shared: Arc<ReporterShared>, settings: &ReporterSettings) -> Self {
        Self {
            shared,
            linger: settings.linger,
            flush_threshold: (settings.limits.samples / 2).max(1),
            batch: MAX_BATCH,
            self_metrics_due: settings
                .self_metrics
                .as_ref()
                .map(|_| Instant::now() + self_metrics::INTERVAL),
        }
    }

    pub(super) async fn run(mut self) {
        if let Some(handle) = self.shared.spool.clone()
            && !self.run_with_spool(handle).await
        {
            return;
        }
        while let Work::Send = self.next_work().await {
            if !self.send_all().await {
                return;
            }
            // Whether the time has passed or not, the queue is checked next.
            let _ = time::timeout(self.linger, self.wait_for(self.flush_threshold)).await;
        }
    }

    /// Waits for work. Records the reporter's own counters when they are due.
    async fn next_work(&mut self) -> Work {
        loop {
            self.record_self_metrics();
            let next_work = self.wait_for(1);
            match self.self_metrics_due {
                None => return next_work.await,
                Some(due) => {
                    if let Ok(next_work) = time::timeout_at(due, next_work).await {
                        return next_work;
                    }
                }
            }
        }
    }

    /// Waits until this many samples are queued, or the reporter is closed.
    async fn wait_for(&self, samples: usize) -> Work {
        poll_fn(|cx| self.shared.dispatcher.outbox().poll_work(samples, cx.waker())).await
    }

    /// Sends until the queue is empty. Returns false if the task has to end.
    async fn send_all(&mut self) -> bool {
        while let Some(batch_outcome) =
            self.shared.dispatcher.send(&self.shared.client, false, self.batch).await
        {
            self.batch = next_batch(self.batch, &batch_outcome);
            if let SendOutcome::Interrupted(error) = batch_outcome {
                if is_closed(&error) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "client closed; reporter stopped"
                    );
                    return false;
                }
                if self.shared.dispatcher.outbox().should_give_up(Instant::now()) {
                    let samples = self.shared.dispatcher.discard_all();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        samples,
                        "reporter closed; unsent samples dropped"
                    );
                    return false;
                }
                time::sleep(PAUSE).await;
            }
            self.record_self_metrics();
        }
        true
    }

    pub(super) fn record_self_metrics(&mut self) {
        if let Some(due) = self.self_metrics_due
            && due <= Instant::now()
        {
            self.self_metrics_due = Some(Instant::now() + self_metrics::INTERVAL);
            self.shared.record_self_metrics();
        }
    }
}

/// Wakes the flushes that wait for the task, however it ends: also by a panic, or with its runtime.
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.dispatcher.outbox().worker_ended();
        self.shared.dispatcher.note_settled();
    }
}

/// Returns the size of the batch after this outcome. If the server has closed the connection, the oldest
/// sample is sent alone, to find out whether it is the reason.
pub(super) fn next_batch(batch: usize, batch_outcome: &SendOutcome) -> usize {
    match batch_outcome {
        SendOutcome::Complete => (2 * batch).min(MAX_BATCH),
        SendOutcome::Interrupted(error) if is_hangup(error) => 1,
        SendOutcome::Interrupted(_) | SendOutcome::Recalled => batch,
    }
}

pub(super) fn is_closed(error: &Error) -> bool {
    match error {
        Error::Batch(batch) => is_closed(batch.first_error().1),
        error => matches!(error, Error::Closed { .. } | Error::RuntimeGone { .. }),
    }
}
