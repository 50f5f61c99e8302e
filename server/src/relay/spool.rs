//! The spool of a relay: a log of points on disk. Each point is one entry of the log.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use metrics_wal::{Event, FileSystem, OpenError, Options, Wal};
use tokio::task;

use super::{chunk::RelayBatch, queue::Millis, records};
use crate::store::PutBatch;

/// An open spool. Its calls block on the disk.
#[derive(Debug)]
pub(super) struct Spool<F: FileSystem> {
    log: Wal<F>,
    payload: Vec<u8>,
}

/// Points as they were read, and their numbers in the log.
#[derive(Debug)]
pub(super) struct StoredBatch {
    pub(super) puts: PutBatch,
    pub(super) received: Millis,
    pub(super) entries: Range<u64>,
}

/// What has happened to points in the log besides what was asked for.
#[derive(Debug, Default)]
pub(super) struct SpoolReport {
    /// The oldest points were dropped to keep the log within its bound: the numbers of each run.
    pub(super) evicted: Vec<Range<u64>>,
    /// Points cannot be read any more.
    pub(super) lost: Vec<Range<u64>>,
    /// The directory belongs to another process now.
    pub(super) is_abandoned: bool,
    /// The space on the device, in bytes.
    pub(super) disk_bytes: u64,
    /// Operations that have failed since the log was opened.
    pub(super) io_errors: u64,
    /// What else has happened.
    pub(super) events: Vec<Event>,
}

impl<F: FileSystem> Spool<F> {
    /// Opens the spool in a directory, which is created if it does not exist.
    pub(super) fn open(fs: F, dir: &Path, max_bytes: u64) -> Result<Self, OpenError> {
        let segment_bytes = (max_bytes / 8).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let options = Options::new().segment_bytes(segment_bytes).max_bytes(max_bytes);
        let log = Wal::open(fs, dir, options)?;
        Ok(Self { log, payload: Vec::new() })
    }

    /// Returns the number of points that were in the log when it was opened.
    pub(super) fn recovered(&self) -> u64 {
        self.log.stats().recovered
    }

    /// Appends the points of a chunk as one record: all of them or none.
    pub(super) fn append(&mut self, chunk: &RelayBatch) -> Result<Range<u64>, metrics_wal::Error> {
        records::encode(&chunk.puts, &mut self.payload);
        let count = u32::try_from(chunk.puts.len()).unwrap_or(u32::MAX);
        self.log.append(count, chunk.received, &self.payload)
    }

    /// Syncs what was appended.
    pub(super) fn sync(&mut self) -> Result<(), metrics_wal::Error> {
        if self.log.is_synced() { Ok(()) } else { self.log.sync() }
    }

    /// Reads the oldest points, at most `max`. Returns `None` if it is empty.
    pub(super) fn read(&mut self, max: usize) -> Result<Option<StoredBatch>, metrics_wal::Error> {
        let (mut puts, mut received) = (PutBatch::new(), None);
        let entries = self.log.read(max, |record| {
            let is_valid = records::decode(&record, &mut puts);
            if is_valid {
                received.get_or_insert(record.latest);
            }
            is_valid
        })?;
        Ok(received.map(|received| StoredBatch { puts, received, entries }))
    }

    /// Notes that the points before this number are done with.
    pub(super) fn commit(&mut self, number: u64) -> Result<(), metrics_wal::Error> {
        self.log.commit(number)
    }

    /// Makes what was committed survive a loss of power.
    pub(super) fn sync_position(&mut self) {
        self.log.sync_position();
    }

    /// Returns what has happened since the last call.
    pub(super) fn take_report(&mut self) -> SpoolReport {
        let stats = self.log.stats();
        let mut report = SpoolReport {
            disk_bytes: stats.disk_bytes,
            io_errors: stats.io_errors.total(),
            ..SpoolReport::default()
        };
        for event in self.log.take_events() {
            match event {
                Event::Evicted { entries, .. } => report.evicted.push(entries),
                Event::Lost { entries } => report.lost.push(entries),
                Event::Abandoned => report.is_abandoned = true,
                event => report.events.push(event),
            }
        }
        report
    }
}

/// Segments are an eighth of the spool, within these bounds: so much is dropped at once when it is full.
const MIN_SEGMENT_BYTES: u64 = 64 * 1024;
const MAX_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// A spool that a task uses without blocking its thread.
#[derive(Debug)]
pub(super) struct SpoolHandle<F: FileSystem>(Arc<Mutex<Spool<F>>>);

impl<F> SpoolHandle<F>
where
    F: FileSystem + Send + 'static,
    F::File: Send,
{
    pub(super) fn new(spool: Spool<F>) -> Self {
        Self(Arc::new(Mutex::new(spool)))
    }

    /// Runs a job on a thread that may block. Returns `None` if the runtime is shutting down.
    ///
    /// # Cancel safety
    ///
    /// The job runs to its end.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Spool<F>) -> T + Send + 'static,
    ) -> Option<(T, SpoolReport)> {
        let spool = Arc::clone(&self.0);
        let job = task::spawn_blocking(move || {
            // A job that panics leaves a log that is in order: every call of it is.
            let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
            let done = job(&mut spool);
            (done, spool.take_report())
        });
        job.await.ok()
    }
}
