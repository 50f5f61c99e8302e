//! [`FlushGuard`]: the last flush of a program.

#[cfg(feature = "opentelemetry")]
use std::task::Poll;
use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{self, Handle, RuntimeFlavor},
    time::{self, Instant},
};

use super::{
    attempts::MAX_BATCH, flush::TimeLimits, handle::Reporter, in_flight::SendOutcome, outbox::Mark,
    shared::ReporterShared, stats::FlushError, worker::PAUSE,
};
use crate::client::MetricsClient;

impl Reporter {
    /// Returns a guard that flushes when it is dropped: it sends what has been recorded until then, and blocks
    /// its thread until all of it is acknowledged or `limit` has passed. For the end of `main`, also by a
    /// panic:
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use metrics_client::{MetricsClient, Reporter};
    /// #[tokio::main(flavor = "current_thread")]
    /// async fn main() -> Result<(), metrics_client::Error> {
    ///     let client = MetricsClient::builder("metrics.internal:8888").connect_lazy()?;
    ///     let reporter = Reporter::new(client);
    ///     let _guard = reporter.flush_on_drop(Duration::from_secs(5));
    ///     reporter.record("palm.starts", 1.0);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The guard does not need the runtime. If the runtime is gone, or blocked by the drop itself, as a
    /// current-thread runtime is, the guard recalls the batch in flight and sends from a thread of its own, over
    /// its own connection, made in the way of the client. Requests that were in flight are then sent twice, which
    /// changes nothing on a server that follows the protocol. A client that was made
    /// [from a stream](MetricsClient::from_io) cannot connect again; then the guard works only while the runtime
    /// runs.
    ///
    /// Samples that could not be sent stay queued, and the failure is logged as an error; with a spool, they are
    /// moved there. The limit is divided as that of [`close`](Self::close), and holds whatever the disk does:
    /// samples that the disk has not taken by then stay queued in memory. If no thread can be started, the guard
    /// waits for the runtime to send.
    pub fn flush_on_drop(&self, limit: Duration) -> FlushGuard {
        FlushGuard::new(self.clone(), limit)
    }

    /// As [`flush`](Self::flush), but blocks the thread as a [guard](Self::flush_on_drop) does, and
    /// does not wait for samples in the spool.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn flush_blocking(&self, limit: Duration) -> Result<(), FlushError> {
        self.shared().record_self_metrics();
        let (mark, worker) = self.shared().dispatcher.outbox().begin_flush();
        if let Some(worker) = worker {
            worker.wake();
        }
        flush_marked(self.shared(), mark, limit);
        let outbox = self.shared().dispatcher.outbox();
        match outbox.poll_flushed(&mark) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Err(outbox.unsent(&mark)),
        }
    }
}

/// Flushes a reporter when it is dropped: see [`Reporter::flush_on_drop`].
#[derive(Debug)]
#[must_use = "a guard that is dropped at once flushes at once"]
pub struct FlushGuard {
    reporter: Reporter,
    limit: Duration,
}

/// How long the task that sends may make no progress before the guard sends in its place.
const STALL_TIMEOUT: Duration = Duration::from_millis(500);

impl FlushGuard {
    pub(super) fn new(reporter: Reporter, limit: Duration) -> Self {
        Self { reporter, limit }
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let shared = self.reporter.shared();
        shared.record_self_metrics();
        let (mark, worker) = shared.dispatcher.outbox().begin_flush();
        if let Some(worker) = worker {
            worker.wake();
        }
        flush_marked(shared, mark, self.limit);
    }
}

/// Flushes what was recorded before the mark, as a guard does. Later samples are not waited for.
pub(super) fn flush_marked(shared: &Arc<ReporterShared>, mark: Mark, limit: Duration) {
    if shared.dispatcher.outbox().unsent(&mark).waiting == 0 {
        return;
    }
    let last = FinalFlush {
        runtime_blocked: is_on_current_thread(),
        limits: TimeLimits::new(limit, shared.has_spool()),
        mark,
    };
    if let Err(unsent) = last.run(shared, spawn_thread) {
        shared.dispatcher.log.guard_failed(&unsent);
    }
}

type FlushJob = Box<dyn FnOnce() -> io::Result<Result<(), FlushError>> + Send>;

fn spawn_thread(work: FlushJob) -> io::Result<JoinHandle<io::Result<Result<(), FlushError>>>> {
    thread::Builder::new().name("reporter-guard".into()).spawn(work)
}

/// A flush that does not depend on the reporter's runtime.
#[derive(Clone, Copy)]
struct FinalFlush {
    mark: Mark,
    limits: TimeLimits,
    /// The runtime of the task that sends is blocked while the guard is dropped.
    runtime_blocked: bool,
}

impl FinalFlush {
    /// Flushes on a separate thread, because this one may belong to the reporter's runtime. If no thread can
    /// be started, waits here for the task that sends.
    fn run(
        self,
        shared: &Arc<ReporterShared>,
        spawn: impl FnOnce(FlushJob) -> io::Result<JoinHandle<io::Result<Result<(), FlushError>>>>,
    ) -> Result<(), FlushError> {
        let flushing = {
            let shared = Arc::clone(shared);
            spawn(Box::new(move || self.on_thread(&shared)))
        };
        let flushed = flushing.and_then(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        });
        let flushed = flushed.unwrap_or_else(|error| {
            tracing::warn!(%error, "flush guard has no thread; waiting for the runtime");
            // If the task that sends cannot run, waiting is useless.
            let until = if self.runtime_blocked { Instant::now() } else { self.limits.send_until };
            shared.dispatcher.flushed_blocking(&self.mark, until)
        });
        flushed.or_else(|unsent| shared.spill_all(&self.mark, unsent, self.limits.until))
    }

    fn on_thread(&self, shared: &ReporterShared) -> io::Result<Result<(), FlushError>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let flushed = runtime.block_on(self.flush(shared));
        // A name lookup may still be running.
        runtime.shutdown_background();
        Ok(flushed)
    }

    async fn flush(&self, shared: &ReporterShared) -> Result<(), FlushError> {
        if !self.runtime_blocked && !self.worker_stalled(shared).await {
            return shared.dispatcher.flushed(&self.mark, self.limits.send_until).await;
        }
        match shared.client.detached_clone() {
            Some(client) if shared.dispatcher.pause_sender() => {
                // However slow it is: the program ends.
                let _ = time::timeout_at(self.limits.send_until, self.send(shared, &client)).await;
                shared.dispatcher.resume_sender();
                shared.dispatcher.flushed(&self.mark, Instant::now()).await
            }
            None if self.runtime_blocked => Err(shared.dispatcher.outbox().unsent(&self.mark)),
            _ => shared.dispatcher.flushed(&self.mark, self.limits.send_until).await,
        }
    }

    /// Returns true if the task that sends stalls before everything is sent. As long as it does not, it is the
    /// better way: nothing is sent twice.
    async fn worker_stalled(&self, shared: &ReporterShared) -> bool {
        loop {
            let answered = shared.client.stats().acknowledged;
            let until = self.limits.send_until.min(Instant::now() + STALL_TIMEOUT);
            match shared.dispatcher.flushed(&self.mark, until).await {
                Err(unsent) if unsent.waiting > 0 => {
                    if shared.client.stats().acknowledged == answered {
                        return true;
                    }
                }
                _ => return false,
            }
        }
    }

    async fn send(&self, shared: &ReporterShared, client: &MetricsClient) {
        loop {
            let settled = shared.dispatcher.next_settled();
            let (waiting, may_get_samples_back) = {
                let outbox = shared.dispatcher.outbox();
                (outbox.unsent(&self.mark).waiting, outbox.may_get_samples_back())
            };
            if waiting == 0 {
                return;
            }
            match shared.dispatcher.send(client, true, MAX_BATCH).await {
                Some(SendOutcome::Interrupted(_)) => time::sleep(PAUSE).await,
                Some(SendOutcome::Complete | SendOutcome::Recalled) => {}
                // Samples that are being moved may be queued again.
                None if may_get_samples_back
                    || shared.dispatcher.outbox().may_get_samples_back() =>
                {
                    settled.await;
                }
                None => return,
            }
        }
    }
}

/// Returns true if no task of this thread's runtime runs while this thread is blocked.
fn is_on_current_thread() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::reporter::test_server::TestServer;

    fn no_thread(_: FlushJob) -> io::Result<JoinHandle<io::Result<Result<(), FlushError>>>> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Flushes as a guard that cannot start a thread, and calls `without` when it has found out.
    fn flush(
        reporter: &Reporter,
        limit: Duration,
        without: impl FnOnce(),
    ) -> Result<(), FlushError> {
        let (mark, worker) = reporter.shared().dispatcher.outbox().begin_flush();
        if let Some(worker) = worker {
            worker.wake();
        }
        let limits = TimeLimits::new(limit, reporter.shared().has_spool());
        let last = FinalFlush { mark, limits, runtime_blocked: is_on_current_thread() };
        last.run(reporter.shared(), |work| {
            without();
            no_thread(work)
        })
    }

    // FAULTS A21
    #[test]
    fn guard_without_a_thread_waits_for_the_runtime() {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let server = TestServer::default();
        server.set_silent(true);
        let reporter = runtime.block_on(async { Reporter::new(server.client()) });
        reporter.record_at("a", 0.5, 1);
        thread::scope(|scope| {
            let (without, is_without) = mpsc::channel();
            let flushing = scope.spawn(|| {
                flush(&reporter, Duration::from_secs(60), move || without.send(()).unwrap())
            });
            is_without.recv().unwrap();
            // A guard that does not wait has the time to end.
            for _ in 0..100 {
                if flushing.is_finished() {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            server.set_silent(false);
            flushing.join().unwrap().unwrap();
        });
        assert_eq!(reporter.stats().acknowledged, 1);
    }

    // FAULTS A21
    #[test]
    fn guard_without_a_thread_skips_its_own_runtime() {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let reporter = Reporter::new(TestServer::default().client());
            reporter.record_at("a", 0.5, 1);
            assert_eq!(flush(&reporter, Duration::MAX, || ()).unwrap_err().waiting, 1);
        });
    }
}
