//! [`Relay`]: the handle of a running relay.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics_wal::FileSystem;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    RelayStats,
    events::RelayLog,
    queue::Queue,
    sink::Sink,
    spool::{Spool, SpoolHandle},
    worker::{Worker, WorkerSettings},
};
use crate::store::PutBatch;

/// A running relay. When it is dropped, it stores what is queued, and ends.
pub struct Relay {
    name: String,
    queue: Arc<Queue>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How long a relay that is being closed may go on sending what is in memory.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How much longer its disk may take.
const DISK_LIMIT: Duration = Duration::from_secs(5);

impl Relay {
    /// Starts a relay, in the context of a runtime.
    pub(super) fn start<K, F>(
        name: String,
        settings: WorkerSettings,
        max_queue_bytes: usize,
        sink: K,
        mut spool: Spool<F>,
    ) -> Self
    where
        K: Sink,
        F: FileSystem + Send + 'static,
        F::File: Send,
    {
        let queue = Arc::new(Queue::new(max_queue_bytes));
        let log = RelayLog::new(&name);
        let report = spool.take_report();
        let dropped: u64 = report.evicted.iter().map(|run| run.end - run.start).sum();
        for event in &report.events {
            log.spool_event(event);
        }
        let recovered = spool.recovered();
        queue.update(0, None, |stats| {
            stats.recovered = recovered;
            stats.spooled = recovered.saturating_sub(dropped);
            stats.dropped.spool_full = recovered - stats.spooled;
            stats.spool_bytes = report.disk_bytes;
            stats.spool_errors = report.io_errors;
        });
        let worker = Worker::new(settings, Arc::clone(&queue), log, sink, SpoolHandle::new(spool));
        let task = Mutex::new(Some(tokio::spawn(worker.run())));
        Self { name, queue, task }
    }

    /// Returns the name of the relay.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the function that a [`Tee`](crate::store::Tee::observer) calls with what was applied. It takes one lock and
    /// waits for nothing.
    pub fn observer(&self) -> impl Fn(&Arc<PutBatch>) + Send + Sync + use<> {
        let queue = Arc::clone(&self.queue);
        move |puts| queue.push(puts)
    }

    /// Returns the counters as of one moment.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        self.queue.stats()
    }

    /// Returns a function that returns the counters, for as long as it is wanted.
    pub fn stats_handle(&self) -> impl Fn() -> RelayStats + Send + Sync + use<> {
        let queue = Arc::clone(&self.queue);
        move || queue.stats()
    }

    /// Ends the relay: sends what is in memory, for at most 5 seconds and as long as no request fails, and stores the
    /// rest in the spool. What is in the spool is sent when the relay is opened again. What is applied from now on is
    /// counted as dropped, so the listeners should have ended before.
    ///
    /// A disk that hangs is left behind after 5 more seconds.
    ///
    /// # Cancel safety
    ///
    /// The relay ends all the same.
    pub async fn close(&self) {
        let by = Instant::now() + FLUSH_LIMIT;
        self.queue.close(by);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && timeout_at(by + DISK_LIMIT, task).await.is_err()
        {
            tracing::error!(relay = %self.name, "relay spool did not answer in time");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.queue.close(Instant::now());
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("name", &self.name).finish_non_exhaustive()
    }
}
