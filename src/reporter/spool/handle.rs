//! The spool of a running reporter: its folder, and what the reporter has in it.
//!
//! What blocks on the disk runs on a thread of its own, one thing after the other.

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
    notices::{Notice, SpoolLog},
    sample_log::SampleLog,
    stats::SpoolStats,
};
use crate::{
    metric::Sample,
    reporter::{
        delivery::Delivery,
        in_flight::Replayed,
        outbox::{Outbox, Settled, Spill},
        self_metrics::SelfMetrics,
        stats::ReporterStats,
    },
};

/// How many samples are moved at once: nobody can record while they are taken.
pub(super) const SPILL_BATCH: usize = 512;

#[derive(Debug)]
pub(in crate::reporter) struct SpoolHandle {
    pub(in crate::reporter) settings: Spool,
    path: PathBuf,
    fs: DiskThread,
    /// Locked by the disk's thread alone, before the outbox and the flights.
    folder: LockedLog,
}

/// A spool whose folder is open, and which no reporter keeps yet.
#[derive(Debug)]
pub(in crate::reporter) struct OpenSpool {
    settings: Spool,
    path: PathBuf,
    folder: Box<dyn AnySampleLog>,
}

impl OpenSpool {
    pub(in crate::reporter) fn open(settings: Spool) -> Result<Self, SpoolError> {
        let folder = settings.open()?;
        Ok(Self::on(settings, folder))
    }

    /// The spool, with a folder that is open, whatever its settings say of it.
    pub(super) fn on<F>(settings: Spool, folder: SampleLog<F>) -> Self
    where
        F: FileSystem + Send + 'static,
        F::File: Send,
    {
        let path = folder.dir().to_owned();
        Self { settings, path, folder: Box::new(folder) }
    }

    pub(in crate::reporter) fn keep(self, outbox: &mut Outbox) -> Arc<SpoolHandle> {
        let Self { settings, path, folder } = self;
        let stats = folder.stats();
        outbox.spool_opened(stats, folder.latest().filter(|_| stats.waiting > 0));
        let fs = DiskThread::default();
        // Later there may be no thread to be had.
        fs.start();
        let folder = LockedLog::new(path.clone(), folder, SpoolLog::default());
        Arc::new(SpoolHandle { settings, path, fs, folder })
    }
}

/// What the reporter's tasks ask for. It waits for the disk without blocking; however often it is
/// dropped, the disk does what it was asked.
impl SpoolHandle {
    /// Syncs what was appended.
    pub(super) async fn sync(self: &Arc<Self>) {
        let handle = Arc::clone(self);
        let _ = self.fs.run(move || handle.sync_now()).await;
    }

    /// Moves samples from the queue to the folder, for the sender.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if the folder does not take them: they wait in the queue, as they did.
    pub(super) async fn store(
        self: &Arc<Self>,
        delivery: &Arc<Delivery>,
        spill: Spill,
    ) -> Result<(), SpoolError> {
        let (handle, delivery) = (Arc::clone(self), Arc::clone(delivery));
        let stored = self.fs.run(move || handle.store_now(&delivery, spill, false)).await;
        stored.unwrap_or_else(|error| Err(self.no_thread(error)))
    }

    /// The oldest samples in the folder.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if they cannot be read now.
    pub(super) async fn read(
        self: &Arc<Self>,
        delivery: &Arc<Delivery>,
        most: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        let (handle, delivery) = (Arc::clone(self), Arc::clone(delivery));
        let read = self.fs.run(move || handle.read_now(&delivery, most)).await;
        read.unwrap_or_else(|error| Err(self.no_thread(error)))
    }

    /// Tells the folder what became of the samples that were read last.
    pub(super) async fn settle(self: &Arc<Self>, delivery: &Arc<Delivery>) {
        let (handle, delivery) = (Arc::clone(self), Arc::clone(delivery));
        let _ = self.fs.run(move || handle.settle_now(&delivery)).await;
    }

    /// Moves all samples that wait to the folder, and gives it up. Nobody sends from now on, until
    /// this returns or is dropped.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, the disk's thread stops moving samples, and gives the folder up when it gets
    /// there.
    pub(in crate::reporter) async fn close(self: &Arc<Self>, delivery: &Arc<Delivery>) {
        let _spilling = SpillGuard::begin(delivery);
        let (handle, delivery) = (Arc::clone(self), Arc::clone(delivery));
        let closed = self.fs.run(move || handle.close_now(&delivery)).await;
        if let Err(error) = closed {
            self.say_lost(&self.no_thread(error));
            if let Some(mut folder) = self.folder.try_lock() {
                *folder = None;
            }
        }
    }

    /// As [`close`](Self::close), until this time, and then drops what the disk has not taken. Nobody
    /// sends any more from then on.
    pub(in crate::reporter) async fn close_until(
        self: &Arc<Self>,
        delivery: &Arc<Delivery>,
        until: time::Instant,
    ) {
        let _spilling = SpillGuard::begin(delivery);
        let is_overdue = time::timeout_at(until, self.close(delivery)).await.is_err();
        let samples = delivery.discard_all();
        if is_overdue {
            tracing::error!(
                samples,
                "the spool's disk did not answer in time: dropped what it had not taken"
            );
        }
    }

    /// As [`close`](Self::close), where there is no runtime, for at most so long.
    pub(in crate::reporter) fn close_blocking(
        self: &Arc<Self>,
        delivery: &Arc<Delivery>,
        limit: Duration,
    ) {
        let _spilling = SpillGuard::begin(delivery);
        let (handle, delivery) = (Arc::clone(self), Arc::clone(delivery));
        let closed = self.fs.run_blocking(limit, move || handle.close_now(&delivery));
        if let Err(error) = closed {
            self.say_lost(&self.no_thread(error));
        }
    }

    /// Moves all samples that wait to the folder, and syncs it, for the end may be near; for at most so
    /// long.
    pub(in crate::reporter) fn spill_all(
        self: &Arc<Self>,
        delivery: &Arc<Delivery>,
        limit: Duration,
    ) {
        let _spilling = SpillGuard::begin(delivery);
        let (handle, delivery) = (Arc::clone(self), Arc::clone(delivery));
        let moved = self.fs.run_blocking(limit, move || handle.move_all(&delivery));
        if let Err(error) = moved {
            self.say_lost(&self.no_thread(error));
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

    fn say_lost(&self, error: &SpoolError) {
        self.folder.log.not_rescued(error);
    }

    /// Whether the folder has turned out not to be ours any more: the reporter goes on without.
    pub(super) fn is_abandoned(&self) -> bool {
        self.folder.is_abandoned()
    }

    fn no_thread(&self, source: io::Error) -> SpoolError {
        SpoolError::Io { action: "work in time on", path: self.path.clone(), source }
    }
}

/// What the disk's thread does.
impl SpoolHandle {
    fn folder(&self) -> LogGuard<'_> {
        self.folder.lock()
    }

    fn sync_now(&self) {
        if let Some(folder) = self.folder().as_mut() {
            folder.sync();
        }
    }

    /// Whether a loss of power would cost nothing of what was appended.
    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        self.folder().as_ref().is_none_or(|folder| folder.is_synced())
    }

    /// Moves samples from the queue to the folder, in a [spill](Outbox::begin_spill) or else for the
    /// sender.
    fn store_now(
        &self,
        delivery: &Delivery,
        spill: Spill,
        is_spilling: bool,
    ) -> Result<(), SpoolError> {
        let mut folder = self.folder();
        let Some(folder) = folder.as_mut() else { return Ok(()) };
        loop {
            let mut batch = SpillBatch::new(delivery);
            if !delivery.outbox().take_to_spool(SPILL_BATCH, spill, is_spilling, &mut batch.samples)
            {
                return Ok(());
            }
            let mut result = Ok(());
            while batch.stored < batch.samples.len() && result.is_ok() {
                result = folder
                    .append(Instant::now(), &batch.samples[batch.stored..])
                    .map(|samples| batch.stored += samples);
            }
            batch.stats = Some(folder.stats());
            drop(batch);
            if folder.is_abandoned() {
                let is_drained = folder.is_drained();
                delivery.outbox().replayed(Settled::default(), folder.stats(), is_drained);
            }
            if spill == Spill::OrderOnly {
                return result;
            }
            result?;
        }
    }

    fn close_now(&self, delivery: &Delivery) {
        self.move_all(delivery);
        let folder = self.folder().take();
        drop(folder);
    }

    fn move_all(&self, delivery: &Delivery) {
        self.settle_now(delivery);
        let stored = self.store_now(delivery, Spill::All, true);
        self.sync_now();
        if let Err(error) = stored {
            self.say_lost(&error);
        }
    }

    fn read_now(
        &self,
        delivery: &Delivery,
        most: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        // What is settled must not be read again.
        self.settle_now(delivery);
        let mut guard = self.folder();
        let Some(folder) = guard.as_mut() else { return Ok(None) };
        let samples = folder.read_since(self.settings.oldest(), most);
        delivery.outbox().replayed(Settled::default(), folder.stats(), folder.is_drained());
        drop(guard);
        // What a flush waits for may have been lost.
        delivery.note_settled();
        samples
    }

    fn settle_now(&self, delivery: &Delivery) {
        let mut guard = self.folder();
        let Some(folder) = guard.as_mut() else { return };
        let Some(replayed) = delivery.take_replayed() else { return };
        let Replayed { settled, rejected, poison } = replayed;
        let written = folder.settle(settled);
        let acknowledged = settled as u64 - rejected - poison;
        let counts = Settled { acknowledged, rejected, poison, exhausted: 0 };
        delivery.outbox().replayed(counts, folder.stats(), folder.is_drained());
        if let Err(error) = written {
            folder.note(Notice::PositionNotSaved(error));
        }
        drop(guard);
        delivery.note_settled();
    }
}

/// Keeps everybody from sending, so that all that waits can be moved to the folder.
pub(in crate::reporter) struct SpillGuard<'a>(&'a Delivery);

impl<'a> SpillGuard<'a> {
    pub(in crate::reporter) fn begin(delivery: &'a Delivery) -> Self {
        delivery.begin_spill();
        Self(delivery)
    }
}

impl Drop for SpillGuard<'_> {
    fn drop(&mut self) {
        self.0.end_spill();
    }
}

/// Samples that were taken from the queue to be stored. Those that are not stored when it is dropped,
/// if only by a panic, wait again.
struct SpillBatch<'a> {
    delivery: &'a Delivery,
    samples: Vec<Sample>,
    stored: usize,
    stats: Option<SpoolStats>,
}

impl<'a> SpillBatch<'a> {
    fn new(delivery: &'a Delivery) -> Self {
        Self { delivery, samples: Vec::new(), stored: 0, stats: None }
    }
}

impl Drop for SpillBatch<'_> {
    fn drop(&mut self) {
        let samples = std::mem::take(&mut self.samples);
        if samples.is_empty() {
            return;
        }
        let mut outbox = self.delivery.outbox();
        let stats = self.stats.unwrap_or_else(|| outbox.spool_stats());
        // What is known to be stored is so with the folder's counters alone.
        let stored = if self.stats.is_some() { self.stored } else { 0 };
        outbox.spooled(samples, stored, stats);
        drop(outbox);
        self.delivery.note_settled();
    }
}
