//! Waiting for what was recorded before a mark.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use tokio::time::{self, Instant};

use super::{dispatcher::Dispatcher, outbox::Mark, settings::deadline_after, stats::FlushError};

/// How a time limit is divided between the network and the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    /// Until when samples are sent.
    pub(super) send_until: Instant,
    /// Until when what is left may be moved to the spool. Without a spool, it is the same.
    pub(super) until: Instant,
}

/// The disk gets at least this much of a limit, beyond it if necessary: otherwise a limit of zero would
/// lose what waits. A sync takes a hard disk some 20 milliseconds.
const MIN_DISK_TIME: Duration = Duration::from_millis(100);

/// The disk gets at most this much of a limit.
const MAX_DISK_TIME: Duration = Duration::from_secs(1);

impl TimeLimits {
    pub(super) fn new(limit: Duration, has_spool: bool) -> Self {
        let until = deadline_after(limit);
        if !has_spool {
            return Self { send_until: until, until };
        }
        let now = Instant::now();
        let disk = (limit / 4).clamp(MIN_DISK_TIME, MAX_DISK_TIME);
        let until = until.max(now + disk);
        Self { send_until: until - disk, until }
    }
}

impl Dispatcher {
    /// Marks what has been recorded until now, and has it sent at once.
    pub(super) fn begin_flush(&self) -> Mark {
        let (mark, worker) = self.outbox().begin_flush();
        if let Some(worker) = worker {
            worker.wake();
        }
        mark
    }

    /// Waits until everything before the mark has an outcome.
    ///
    /// # Errors
    ///
    /// If some of it is not stored, or `deadline` has passed.
    pub(super) async fn flushed(&self, mark: &Mark, deadline: Instant) -> Result<(), FlushError> {
        let flushed = async {
            loop {
                let settled = self.next_settled();
                if let Poll::Ready(flushed) = self.outbox().poll_flushed(mark) {
                    return flushed;
                }
                settled.await;
            }
        };
        match time::timeout_at(deadline, flushed).await {
            Ok(flushed) => flushed,
            Err(_) => Err(self.outbox().unsent(mark)),
        }
    }

    /// As [`flushed`](Self::flushed), without a runtime: blocks this thread.
    pub(super) fn flushed_blocking(
        &self,
        mark: &Mark,
        deadline: Instant,
    ) -> Result<(), FlushError> {
        let unpark = Waker::from(Arc::new(UnparkWaker(thread::current())));
        let mut cx = Context::from_waker(&unpark);
        loop {
            let mut settled = pin!(self.next_settled());
            let is_noted = settled.as_mut().poll(&mut cx).is_ready();
            if let Poll::Ready(flushed) = self.outbox().poll_flushed(mark) {
                return flushed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.outbox().unsent(mark));
            }
            if !is_noted {
                thread::park_timeout(left);
            }
        }
    }
}

/// Unparks a thread that waits.
struct UnparkWaker(Thread);

impl Wake for UnparkWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
