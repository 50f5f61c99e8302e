//! The spool of a running reporter: its log, used on the disk's thread.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics_wal::FileSystem;
use tokio::time;

use super::{
    Spool,
    disk_thread::DiskThread,
    error::SpoolError,
    locked::{AnySampleLog, LockedLog, LogGuard},
    notices::{Notice, SpoolLogger},
    sample_log::SampleLog,
    stats::SpoolStats,
};
use crate::{
    metric::Sample,
    reporter::{
        dispatcher::Dispatcher,
        in_flight::Replayed,
        outbox::{Outbox, Settled, Spill},
        self_metrics::SelfMetrics,
        stats::ReporterStats,
    },
};

/// How many samples are moved at once. Recording blocks while they are taken from the queue.
pub(super) const SPILL_BATCH: usize = 512;

#[derive(Debug)]
pub(in crate::reporter) struct SpoolHandle {
    pub(in crate::reporter) settings: Spool,
    path: PathBuf,
    fs: DiskThread,
    /// Only the disk's thread locks it, before the outbox and the samples in flight.
    log: LockedLog,
}

/// A spool whose log is open, before its reporter starts.
#[derive(Debug)]
pub(in crate::reporter) struct OpenSpool {
    settings: Spool,
    path: PathBuf,
    log: Box<dyn AnySampleLog>,
}

impl OpenSpool {
    pub(in crate::reporter) fn open(settings: Spool) -> Result<Self, SpoolError> {
        let log = settings.open()?;
        Ok(Self::on(settings, log))
    }

    /// Returns a spool with a log that is open, in place of the one in its settings.
    pub(super) fn on<F>(settings: Spool, log: SampleLog<F>) -> Self
    where
        F: FileSystem + Send + 'static,
        F::File: Send,
    {
        let path = log.dir().to_owned();
        Self { settings, path, log: Box::new(log) }
    }

    pub(in crate::reporter) fn keep(self, outbox: &mut Outbox) -> Arc<SpoolHandle> {
        let Self { settings, path, log } = self;
        let stats = log.stats();
        outbox.spool_opened(stats, log.latest().filter(|_| stats.waiting > 0));
        let fs = DiskThread::default();
        // Later, the system may have no thread left.
        fs.start();
        let log = LockedLog::new(path.clone(), log, SpoolLogger::default());
        Arc::new(SpoolHandle { settings, path, fs, log })
    }
}

/// For the reporter's tasks: waits for the disk without blocking. If a future is dropped, the disk's thread
/// still finishes the job.
impl SpoolHandle {
    /// Syncs what was appended.
    pub(super) async fn sync(self: &Arc<Self>) {
        let handle = Arc::clone(self);
        let _ = self.fs.run(move || handle.sync_now()).await;
    }

    /// Moves samples from the queue to the log.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if they cannot be stored: they stay in the queue.
    pub(super) async fn store(
        self: &Arc<Self>,
        dispatcher: &Arc<Dispatcher>,
        spill: Spill,
    ) -> Result<(), SpoolError> {
        let (handle, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let stored = self.fs.run(move || handle.store_now(&dispatcher, spill, false)).await;
        stored.unwrap_or_else(|error| Err(self.no_thread(error)))
    }

    /// Returns the oldest samples in the log.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if they cannot be read now.
    pub(super) async fn read(
        self: &Arc<Self>,
        dispatcher: &Arc<Dispatcher>,
        most: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        let (handle, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let read = self.fs.run(move || handle.read_now(&dispatcher, most)).await;
        read.unwrap_or_else(|error| Err(self.no_thread(error)))
    }

    /// Settles the samples that were read last and have their outcome.
    pub(super) async fn settle(self: &Arc<Self>, dispatcher: &Arc<Dispatcher>) {
        let (handle, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let _ = self.fs.run(move || handle.settle_now(&dispatcher)).await;
    }

    /// Moves all waiting samples to the log, and closes it. Nothing is sent until this returns or is dropped.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the disk's thread stops moving samples, and then closes the log.
    pub(in crate::reporter) async fn close(self: &Arc<Self>, dispatcher: &Arc<Dispatcher>) {
        let _spilling = SpillGuard::begin(dispatcher);
        let (handle, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let closed = self.fs.run(move || handle.close_now(&dispatcher)).await;
        if let Err(error) = closed {
            self.log_not_spilled(&self.no_thread(error));
            if let Some(mut log) = self.log.try_lock() {
                *log = None;
            }
        }
    }

    /// Moves all waiting samples to the log, and closes it, until this time. Then drops the samples that the disk
    /// has not taken. Nothing is sent from then on.
    pub(in crate::reporter) async fn close_until(
        self: &Arc<Self>,
        dispatcher: &Arc<Dispatcher>,
        until: time::Instant,
    ) {
        let _spilling = SpillGuard::begin(dispatcher);
        let is_overdue = time::timeout_at(until, self.close(dispatcher)).await.is_err();
        let samples = dispatcher.discard_all();
        if is_overdue {
            tracing::error!(
                samples,
                "spool disk timed out: dropped the samples that it had not stored"
            );
        }
    }

    /// Moves all waiting samples to the log, and closes it, without a runtime. Waits at most `limit`.
    pub(in crate::reporter) fn close_blocking(
        self: &Arc<Self>,
        dispatcher: &Arc<Dispatcher>,
        limit: Duration,
    ) {
        let _spilling = SpillGuard::begin(dispatcher);
        let (handle, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let closed = self.fs.run_blocking(limit, move || handle.close_now(&dispatcher));
        if let Err(error) = closed {
            self.log_not_spilled(&self.no_thread(error));
        }
    }

    /// Moves all waiting samples to the log, and syncs it, because the process may end soon. Waits at most
    /// `limit`.
    pub(in crate::reporter) fn spill_all(
        self: &Arc<Self>,
        dispatcher: &Arc<Dispatcher>,
        limit: Duration,
    ) {
        let _spilling = SpillGuard::begin(dispatcher);
        let (handle, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let moved = self.fs.run_blocking(limit, move || handle.move_all(&dispatcher));
        if let Err(error) = moved {
            self.log_not_spilled(&self.no_thread(error));
        }
    }

    /// Returns the reporter's own counters that concern the spool.
    pub(in crate::reporter) fn own_samples(
        &self,
        self_metrics: &SelfMetrics,
        stats: &ReporterStats,
        outbox: &Outbox,
    ) -> Vec<Sample> {
        self_metrics.spool_samples(stats, &outbox.spool_stats())
    }

    fn log_not_spilled(&self, error: &SpoolError) {
        self.log.logger.not_spilled(error);
    }

    /// Returns whether the directory was found to be taken over by another process.
    pub(super) fn is_abandoned(&self) -> bool {
        self.log.is_abandoned()
    }

    fn no_thread(&self, source: io::Error) -> SpoolError {
        SpoolError::Io { action: "work in time on", path: self.path.clone(), source }
    }
}

/// Runs on the disk's thread.
impl SpoolHandle {
    fn log(&self) -> LogGuard<'_> {
        self.log.lock()
    }

    fn sync_now(&self) {
        if let Some(log) = self.log().as_mut() {
            log.sync();
        }
    }

    /// Returns whether all appended samples are synced.
    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        self.log().as_ref().is_none_or(|log| log.is_synced())
    }

    /// Moves samples from the queue to the log, in a [spill](Outbox::begin_spill) of everything or not.
    fn store_now(
        &self,
        dispatcher: &Dispatcher,
        spill: Spill,
        is_spilling: bool,
    ) -> Result<(), SpoolError> {
        let mut log = self.log();
        let Some(log) = log.as_mut() else { return Ok(()) };
        loop {
            let mut batch = SpillBatch::new(dispatcher);
            if !dispatcher.outbox().take_to_spool(
                SPILL_BATCH,
                spill,
                is_spilling,
                &mut batch.samples,
            ) {
                return Ok(());
            }
            let mut result = Ok(());
            while batch.stored < batch.samples.len() && result.is_ok() {
                result = log
                    .append(Instant::now(), &batch.samples[batch.stored..])
                    .map(|samples| batch.stored += samples);
            }
            batch.stats = Some(log.stats());
            drop(batch);
            if log.is_abandoned() {
                let is_drained = log.is_drained();
                dispatcher.outbox().replayed(Settled::default(), log.stats(), is_drained);
            }
            if spill == Spill::OrderOnly {
                return result;
            }
            result?;
        }
    }

    fn close_now(&self, dispatcher: &Dispatcher) {
        self.move_all(dispatcher);
        let log = self.log().take();
        drop(log);
    }

    fn move_all(&self, dispatcher: &Dispatcher) {
        self.settle_now(dispatcher);
        let stored = self.store_now(dispatcher, Spill::All, true);
        self.sync_now();
        if let Err(error) = stored {
            self.log_not_spilled(&error);
        }
    }

    fn read_now(
        &self,
        dispatcher: &Dispatcher,
        most: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        // What is settled must not be read again.
        self.settle_now(dispatcher);
        let mut guard = self.log();
        let Some(log) = guard.as_mut() else { return Ok(None) };
        let samples = log.read_since(self.settings.oldest(), most);
        dispatcher.outbox().replayed(Settled::default(), log.stats(), log.is_drained());
        drop(guard);
        // What a flush waits for may have been lost.
        dispatcher.note_settled();
        samples
    }

    fn settle_now(&self, dispatcher: &Dispatcher) {
        let mut guard = self.log();
        let Some(log) = guard.as_mut() else { return };
        let Some(replayed) = dispatcher.take_replayed() else { return };
        let Replayed { settled, rejected, poison } = replayed;
        let written = log.settle(settled);
        let acknowledged = settled as u64 - rejected - poison;
        let counts = Settled { acknowledged, rejected, poison, exhausted: 0 };
        dispatcher.outbox().replayed(counts, log.stats(), log.is_drained());
        if let Err(error) = written {
            log.note(Notice::PositionNotSaved(error));
        }
        drop(guard);
        dispatcher.note_settled();
    }
}

/// Stops all sending until it is dropped, so that all waiting samples can be moved to the log.
pub(in crate::reporter) struct SpillGuard<'a>(&'a Dispatcher);

impl<'a> SpillGuard<'a> {
    pub(in crate::reporter) fn begin(dispatcher: &'a Dispatcher) -> Self {
        dispatcher.begin_spill();
        Self(dispatcher)
    }
}

impl Drop for SpillGuard<'_> {
    fn drop(&mut self) {
        self.0.end_spill();
    }
}

/// Samples that were taken from the queue to be stored. Those that are not stored when this is dropped, also by
/// a panic, go back to the queue.
struct SpillBatch<'a> {
    dispatcher: &'a Dispatcher,
    samples: Vec<Sample>,
    stored: usize,
    stats: Option<SpoolStats>,
}

impl<'a> SpillBatch<'a> {
    fn new(dispatcher: &'a Dispatcher) -> Self {
        Self { dispatcher, samples: Vec::new(), stored: 0, stats: None }
    }
}

impl Drop for SpillBatch<'_> {
    fn drop(&mut self) {
        let samples = std::mem::take(&mut self.samples);
        if samples.is_empty() {
            return;
        }
        let mut outbox = self.dispatcher.outbox();
        let stats = self.stats.unwrap_or_else(|| outbox.spool_stats());
        // What is stored is known only with the log's counters.
        let stored = if self.stats.is_some() { self.stored } else { 0 };
        outbox.spooled(samples, stored, stats);
        drop(outbox);
        self.dispatcher.note_settled();
    }
}
