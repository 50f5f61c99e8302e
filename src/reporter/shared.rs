//! What the handles of a reporter, the task that sends and the guards share.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    dispatcher::Dispatcher,
    flush::TimeLimits,
    interner::KeyInterner,
    outbox::{Mark, Outbox},
    self_metrics::SelfMetrics,
    settings::ReporterSettings,
    spool::{OpenSpool, SpoolHandle},
    stats::{DropReason, FlushError},
};
use crate::{
    client::MetricsClient,
    metric::{InvalidKey, Key, KeyText, Point, Sample},
    protocol::NonFiniteValue,
};

#[derive(Debug)]
pub(super) struct ReporterShared {
    pub(super) client: MetricsClient,
    pub(super) dispatcher: Arc<Dispatcher>,
    keys: KeyInterner,
    self_metrics: Option<SelfMetrics>,
    pub(super) spool: Option<Arc<SpoolHandle>>,
}

/// How long the end of the last handle waits for the disk, where the runtime is gone.
const END_TIME_LIMIT: Duration = Duration::from_secs(5);

impl ReporterShared {
    pub(super) fn new(
        client: MetricsClient,
        settings: &ReporterSettings,
        spool: Option<OpenSpool>,
    ) -> Self {
        let mut outbox = Outbox::new(settings.limits);
        let spool = spool.map(|spool| spool.keep(&mut outbox));
        Self {
            client,
            dispatcher: Arc::new(Dispatcher::new(outbox, settings.max_attempts)),
            keys: KeyInterner::default(),
            self_metrics: settings.self_metrics.clone(),
            spool,
        }
    }

    #[inline]
    pub(super) fn record(&self, key: impl KeyText, point: Point) {
        match self.key(key) {
            Ok(key) => self.record_key(key, point),
            Err(error) => self.dispatcher.refuse(DropReason::InvalidKey, &error),
        }
    }

    /// As [`record`](Self::record), but logs nothing about this sample.
    pub(super) fn try_record(&self, key: impl KeyText, point: Point) -> Result<(), DropReason> {
        match self.key(key) {
            Ok(key) => self.try_record_key(key, point),
            Err(_) => self.refuse(DropReason::InvalidKey),
        }
    }

    /// As [`record_key`](Self::record_key), but logs nothing about this sample.
    pub(super) fn try_record_key(&self, key: Key, point: Point) -> Result<(), DropReason> {
        if !point.value.is_finite() {
            return self.refuse(DropReason::NonFiniteValue);
        }
        let recorded = self.dispatcher.outbox().record(Sample { key, point });
        let Some(reason) = recorded.refused else {
            self.dispatcher.follow_up(recorded);
            return Ok(());
        };
        if let Some(worker) = recorded.worker {
            worker.wake();
        }
        Err(reason)
    }

    fn refuse(&self, reason: DropReason) -> Result<(), DropReason> {
        let _ = self.dispatcher.outbox().refuse(reason);
        Err(reason)
    }

    #[inline]
    pub(super) fn record_key(&self, key: Key, point: Point) {
        match NonFiniteValue::ensure_finite(&key, point.value) {
            Ok(()) => {
                let recorded = self.dispatcher.outbox().record(Sample { key, point });
                self.dispatcher.follow_up(recorded);
            }
            Err(error) => self.dispatcher.refuse(DropReason::NonFiniteValue, &error),
        }
    }

    /// Returns the key of this text: the same one each time, so that its text is stored once.
    #[inline]
    pub(super) fn key(&self, key: impl KeyText) -> Result<Key, InvalidKey> {
        match key.as_key() {
            Some(key) => Ok(key.clone()),
            None => self.keys.get(key.as_str()),
        }
    }

    /// Records the reporter's own counters, if it was asked to and still accepts samples.
    pub(super) fn record_self_metrics(&self) {
        let Some(self_metrics) = &self.self_metrics else {
            return;
        };
        let mut outbox = self.dispatcher.outbox();
        if !outbox.is_open() {
            return;
        }
        let stats = outbox.stats();
        let mut samples = self_metrics.samples(&stats);
        if let Some(handle) = &self.spool {
            samples.extend(handle.own_samples(self_metrics, &stats, &outbox));
        }
        // Under the same lock, so that it is not closed in between.
        let recorded: Vec<_> = samples.into_iter().map(|sample| outbox.record(sample)).collect();
        drop(outbox);
        for recorded in recorded {
            self.dispatcher.follow_up(recorded);
        }
    }

    /// Has what has been recorded sent at once, and waits for it.
    pub(super) async fn flush(&self, deadline: Instant) -> Result<(), FlushError> {
        let mark = self.dispatcher.begin_flush();
        self.dispatcher.flushed(&mark, deadline).await
    }

    /// Accepts no more samples, sends what waits, and returns when that is done or the limit has passed,
    /// whatever the server and the disk do.
    pub(super) async fn close(self: &Arc<Self>, limit: Duration) -> Result<(), FlushError> {
        let limits = TimeLimits::new(limit, self.has_spool());
        self.record_self_metrics();
        let dispatcher = &self.dispatcher;
        let (mark, worker) = {
            let mut outbox = dispatcher.outbox();
            let (mark, _) = outbox.begin_flush();
            (mark, outbox.close(limits.send_until))
        };
        if let Some(worker) = worker {
            worker.wake();
        }
        let flushed = dispatcher.flushed(&mark, limits.send_until).await;
        if let Some(handle) = &self.spool {
            handle.close_until(dispatcher, limits.until).await;
        }
        dispatcher.discard_all();
        match flushed {
            Ok(()) => Ok(()),
            Err(unsent) => {
                let cause = unsent.cause;
                Err(FlushError { cause, ..dispatcher.outbox().unsent(&mark) })
            }
        }
    }

    /// Closes the reporter, as its last handle is gone.
    pub(super) fn end(self: &Arc<Self>) {
        let dispatcher = &self.dispatcher;
        if !dispatcher.outbox().is_open() {
            return;
        }
        self.record_self_metrics();
        let (worker, is_worker_gone) = {
            let mut outbox = dispatcher.outbox();
            (outbox.close(Instant::now()), outbox.is_worker_gone())
        };
        if let Some(worker) = worker {
            worker.wake();
        }
        if is_worker_gone {
            if let Some(handle) = &self.spool {
                handle.close_blocking(dispatcher, END_TIME_LIMIT);
            }
            let dropped = dispatcher.discard_all();
            if dropped > 0 {
                tracing::error!(samples = dropped, "dropped: the reporter's runtime is gone");
            }
        }
    }

    /// Moves what waits to the spool, if there is one. Returns the error with what is still unsent then,
    /// unless all of it is in the spool and nothing else was lost.
    pub(super) fn spill_all(
        &self,
        mark: &Mark,
        unsent: FlushError,
        until: Instant,
    ) -> Result<(), FlushError> {
        let Some(handle) = &self.spool else { return Err(unsent) };
        handle.spill_all(&self.dispatcher, until.saturating_duration_since(Instant::now()));
        let cause = unsent.cause;
        let unsent = FlushError { cause, ..self.dispatcher.outbox().unsent(mark) };
        if unsent.waiting + unsent.dropped + unsent.rejected + unsent.abandoned > 0 {
            return Err(unsent);
        }
        self.dispatcher.log.guard_spooled(unsent.spooled);
        Ok(())
    }

    pub(super) fn has_spool(&self) -> bool {
        self.spool.is_some()
    }
}
