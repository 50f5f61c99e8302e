//! What the handles of a reporter, its sender and its guards share.

#[cfg(feature = "spool")]
use super::spool::{OpenSpool, Rescue, SpoolHandle};
use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::{self, Instant},
};

use super::{
    in_flight::InFlightSlot,
    interner::KeyInterner,
    log::ReporterLog,
    outbox::{Mark, Outbox, Recorded},
    poison::PoisonKeys,
    self_metrics::Own,
    settings::{Settings, after},
    stats::{DropReason, FlushError},
};
use crate::{
    client::MetricsClient,
    metric::{InvalidKey, Key, Point, Sample},
    protocol::NonFiniteValue,
    wake::survives,
};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: MetricsClient,
    outbox: Mutex<Outbox>,
    keys: KeyInterner,
    own: Option<Own>,
    /// The batch that is being sent. Locked before the outbox.
    pub(super) flights: Mutex<InFlightSlot>,
    /// Told whenever a batch has an outcome, or samples are found to have none, or a sender has ended.
    settled: Notify,
    pub(super) log: ReporterLog,
    pub(super) poison: PoisonKeys,
    #[cfg(feature = "spool")]
    pub(super) spool: Option<Arc<SpoolHandle>>,
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// How a limit in time is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Until when samples are sent.
    pub(super) send_until: Instant,
    /// Until when what is left may be moved to the spool. Without a spool, it is the same.
    #[cfg_attr(not(feature = "spool"), expect(dead_code, reason = "only a spool needs it"))]
    pub(super) until: Instant,
}

impl Times {
    pub(super) fn new(limit: Duration, has_spool: bool) -> Self {
        let until = after(limit);
        if !has_spool {
            return Self { send_until: until, until };
        }
        let now = Instant::now();
        let disk = (limit / 4).clamp(MIN_DISK_TIME, MAX_DISK_TIME);
        let until = until.max(now + disk);
        Self { send_until: until - disk, until }
    }
}

/// The disk gets this much of a limit at least, if need be beyond it: else a limit of zero would lose
/// what waits. A sync takes a hard disk some 20 milliseconds.
const MIN_DISK_TIME: Duration = Duration::from_millis(100);

/// The disk gets this much of a limit at most.
const MAX_DISK_TIME: Duration = Duration::from_secs(1);

/// How long the end of the last handle waits for the disk, where the runtime is gone.
#[cfg(feature = "spool")]
const END_TIME_LIMIT: Duration = Duration::from_secs(5);

impl Shared {
    pub(super) fn new(
        client: MetricsClient,
        settings: &Settings,
        #[cfg(feature = "spool")] spool: Option<OpenSpool>,
    ) -> Self {
        #[cfg_attr(not(feature = "spool"), expect(unused_mut, reason = "the spool is told of it"))]
        let mut outbox = Outbox::new(settings.limits);
        Self {
            client,
            #[cfg(feature = "spool")]
            spool: spool.map(|spool| spool.keep(&mut outbox)),
            outbox: Mutex::new(outbox),
            keys: KeyInterner::default(),
            own: settings.own.clone(),
            flights: Mutex::new(InFlightSlot::new(settings.max_attempts)),
            settled: Notify::new(),
            log: ReporterLog::default(),
            poison: PoisonKeys::default(),
        }
    }

    /// The outbox. Held for moments, and never while a task is woken.
    #[inline]
    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // Nothing foreign runs under the lock but the cloning of wakers.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no thread holds a lock of the reporter.
    #[cfg(test)]
    pub(super) fn is_unlocked(&self) -> bool {
        self.outbox.try_lock().is_ok() && self.flights.try_lock().is_ok()
    }

    #[inline]
    pub(super) fn record(&self, name: &str, point: Point) {
        match self.keys.get(name) {
            Ok(key) => self.record_key(key, point),
            Err(fault) => self.refuse(DropReason::InvalidKey, &fault),
        }
    }

    #[inline]
    pub(super) fn record_key(&self, key: Key, point: Point) {
        match NonFiniteValue::check(&key, point.value) {
            Ok(()) => {
                let recorded = self.outbox().record(Sample { key, point });
                self.after(recorded);
            }
            Err(fault) => self.refuse(DropReason::NonFiniteValue, &fault),
        }
    }

    pub(super) fn key(&self, name: &str) -> Result<Key, InvalidKey> {
        self.keys.get(name)
    }

    /// Records the reporter's own counters, if it was asked to and still takes samples.
    pub(super) fn record_self_metrics(&self) {
        let Some(own) = &self.own else {
            return;
        };
        let mut outbox = self.outbox();
        if !outbox.is_open() {
            return;
        }
        let stats = outbox.stats();
        #[cfg_attr(not(feature = "spool"), expect(unused_mut, reason = "a spool has more"))]
        let mut samples = own.samples(&stats);
        #[cfg(feature = "spool")]
        if self.spool.is_some() {
            samples.extend(own.spool_samples(&stats, &outbox.spool_stats()));
        }
        // Under the same lock, so that it is not closed in between.
        let recorded: Vec<_> = samples.into_iter().map(|sample| outbox.record(sample)).collect();
        drop(outbox);
        for recorded in recorded {
            self.after(recorded);
        }
    }

    /// Sees to it that what has been recorded is sent at once, and waits for it.
    pub(super) async fn flush(&self, deadline: Instant) -> Result<(), FlushError> {
        let (mark, worker) = self.outbox().begin_flush();
        if let Some(worker) = worker {
            worker.wake();
        }
        self.flushed(&mark, deadline).await
    }

    pub(super) async fn flushed(&self, mark: &Mark, deadline: Instant) -> Result<(), FlushError> {
        let flushed = async {
            loop {
                let settled = self.settled.notified();
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

    /// As [`flushed`](Self::flushed), without a runtime: this thread waits.
    pub(super) fn flushed_blocking(
        &self,
        mark: &Mark,
        deadline: Instant,
    ) -> Result<(), FlushError> {
        let unpark = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&unpark);
        loop {
            let mut settled = pin!(self.settled.notified());
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

    /// Tells those who wait for it that a batch has an outcome, or a sender has ended.
    pub(super) fn note_settled(&self) {
        survives(|| self.settled.notify_waiters());
    }

    /// Ready when they are told the next time from now on.
    pub(super) fn next_settled(&self) -> Notified<'_> {
        self.settled.notified()
    }

    /// Takes no more, sends what there is, and returns when that is done or the time is over, whatever
    /// the server and the disk do.
    pub(super) async fn close(self: &Arc<Self>, limit: Duration) -> Result<(), FlushError> {
        let times = Times::new(limit, self.has_spool());
        self.record_self_metrics();
        let (mark, worker) = {
            let mut outbox = self.outbox();
            let (mark, _) = outbox.begin_flush();
            (mark, outbox.close(times.send_until))
        };
        if let Some(worker) = worker {
            worker.wake();
        }
        let flushed = self.flushed(&mark, times.send_until).await;
        #[cfg(feature = "spool")]
        if let Some(handle) = self.spool.clone() {
            let _rescue = Rescue::begin(self);
            let is_overdue = time::timeout_at(times.until, handle.close(self)).await.is_err();
            let samples = self.give_up();
            if is_overdue {
                tracing::error!(
                    samples,
                    "the spool's disk did not answer in time: dropped what it had not taken"
                );
            }
        }
        self.give_up();
        match flushed {
            Ok(()) => Ok(()),
            Err(unsent) => {
                let cause = unsent.cause;
                Err(FlushError { cause, ..self.outbox().unsent(&mark) })
            }
        }
    }

    /// The last handle is gone.
    pub(super) fn end(self: &Arc<Self>) {
        if !self.outbox().is_open() {
            return;
        }
        self.record_self_metrics();
        let (worker, is_abandoned) = {
            let mut outbox = self.outbox();
            (outbox.close(Instant::now()), outbox.is_abandoned())
        };
        if let Some(worker) = worker {
            worker.wake();
        }
        if is_abandoned {
            #[cfg(feature = "spool")]
            if let Some(handle) = &self.spool {
                handle.close_blocking(self, END_TIME_LIMIT);
            }
            let dropped = self.give_up();
            if dropped > 0 {
                tracing::error!(samples = dropped, "dropped: the reporter's runtime is gone");
            }
        }
    }

    /// Moves what waits to the spool, if there is one, and says whether that was all that was amiss.
    #[cfg(feature = "spool")]
    pub(super) fn rescue(
        self: &Arc<Self>,
        mark: &Mark,
        unsent: FlushError,
        until: Instant,
    ) -> Result<(), FlushError> {
        let Some(handle) = &self.spool else { return Err(unsent) };
        handle.rescue(self, until.saturating_duration_since(Instant::now()));
        let cause = unsent.cause;
        let unsent = FlushError { cause, ..self.outbox().unsent(mark) };
        if unsent.waiting + unsent.dropped + unsent.rejected + unsent.abandoned > 0 {
            return Err(unsent);
        }
        self.log.guard_spooled(unsent.spooled);
        Ok(())
    }

    /// Notes in the log that samples are not dropped any more, if the queue has room again.
    pub(super) fn note_room(&self) {
        let has_room = self.outbox().is_half_empty();
        if has_room {
            self.log.has_room();
        }
    }

    pub(super) fn has_spool(&self) -> bool {
        #[cfg(feature = "spool")]
        let has_spool = self.spool.is_some();
        #[cfg(not(feature = "spool"))]
        let has_spool = false;
        has_spool
    }

    #[cold]
    pub(super) fn refuse(&self, reason: DropReason, fault: &dyn std::error::Error) {
        let _ = self.outbox().refuse(reason);
        self.log.refused(reason, fault);
    }

    #[inline]
    pub(super) fn after(&self, recorded: Recorded) {
        let Recorded { worker, dropped } = recorded;
        if let Some(worker) = worker {
            worker.wake();
        }
        if let Some(reason) = dropped {
            self.complain(reason);
        }
    }

    #[cold]
    fn complain(&self, reason: DropReason) {
        self.log.dropped(reason, || *self.outbox().stats().counter_mut(reason));
    }
}
