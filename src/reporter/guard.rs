//! The last flush of a program.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{self, Handle, RuntimeFlavor},
    time::{self, Instant},
};

use super::{
    Reporter, after,
    flight::{BATCH, Landed},
    outbox::Mark,
    sender::PAUSE,
    shared::Shared,
    stats::Unsent,
};
use crate::client::MetricsClient;

/// Sends what waits when it is dropped: see [`Reporter::guard`].
#[derive(Debug)]
#[must_use = "a guard that is dropped at once has nothing to wait for"]
pub struct ReporterGuard {
    reporter: Reporter,
    limit: Duration,
}

/// How long the sender may make no progress before the guard sends in its place.
const PATIENCE: Duration = Duration::from_millis(500);

impl ReporterGuard {
    pub(super) fn new(reporter: Reporter, limit: Duration) -> Self {
        Self { reporter, limit }
    }
}

impl Drop for ReporterGuard {
    fn drop(&mut self) {
        let shared = self.reporter.shared();
        shared.record_own();
        let (mark, sender) = shared.outbox().begin_flush();
        if let Some(sender) = sender {
            sender.wake();
        }
        if shared.outbox().unsent(&mark).waiting == 0 {
            return;
        }
        let shared = Arc::clone(shared);
        let last =
            LastFlush { is_stuck: is_on_current_thread(), deadline: after(self.limit), mark };
        // On a thread of its own, because this one may be what the sender's runtime lives on.
        let flushing =
            thread::Builder::new().name("reporter-guard".into()).spawn(move || last.run(&shared));
        let flushed = flushing.and_then(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        });
        if let Err(error) = flushed {
            self.reporter.shared().log.guard_failed(&error);
        }
    }
}

/// A flush that has a thread.
struct LastFlush {
    mark: Mark,
    deadline: Instant,
    /// Whether the sender's runtime stands still meanwhile.
    is_stuck: bool,
}

impl LastFlush {
    fn run(&self, shared: &Shared) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let flushed = runtime.block_on(self.flush(shared));
        // A name may still be being resolved.
        runtime.shutdown_background();
        #[cfg(feature = "spool")]
        let flushed = flushed.or_else(|unsent| shared.rescue(&self.mark, unsent));
        flushed.map_err(io::Error::other)
    }

    async fn flush(&self, shared: &Shared) -> Result<(), Unsent> {
        if !self.is_stuck && !self.waits_in_vain(shared).await {
            return shared.flushed(&self.mark, self.deadline).await;
        }
        match shared.client.another() {
            Some(client) if shared.hold() => {
                // However slow it is: it is the end.
                let _ = time::timeout_at(self.deadline, self.send(shared, &client)).await;
                shared.release();
                shared.flushed(&self.mark, Instant::now()).await
            }
            None if self.is_stuck => Err(shared.outbox().unsent(&self.mark)),
            _ => shared.flushed(&self.mark, self.deadline).await,
        }
    }

    /// Whether the sender comes to a standstill before everything is sent. While it does not, its way is
    /// the better one: nothing is sent twice.
    async fn waits_in_vain(&self, shared: &Shared) -> bool {
        loop {
            let answered = shared.client.stats().acknowledged;
            let until = self.deadline.min(Instant::now() + PATIENCE);
            match shared.flushed(&self.mark, until).await {
                Err(unsent) if unsent.waiting > 0 => {
                    if shared.client.stats().acknowledged == answered {
                        return true;
                    }
                }
                _ => return false,
            }
        }
    }

    async fn send(&self, shared: &Shared, client: &MetricsClient) {
        loop {
            let settled = shared.next_settled();
            let (waiting, was_moving) = {
                let outbox = shared.outbox();
                (outbox.unsent(&self.mark).waiting, outbox.is_moving())
            };
            if waiting == 0 {
                return;
            }
            match shared.send(client, true, BATCH).await {
                Some(Landed::Broken(_)) => time::sleep(PAUSE).await,
                Some(Landed::Whole | Landed::CalledBack) => {}
                // What is being moved may come back.
                None if was_moving || shared.outbox().is_moving() => settled.await,
                None => return,
            }
        }
    }
}

/// Whether nothing else runs on this thread's runtime while this thread is held up.
fn is_on_current_thread() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
}
