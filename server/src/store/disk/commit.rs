//! Group commit: one thread writes the batches of all connections to the log, with one append and one
//! sync for all that wait.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics_client::internal::log_limit::LogLimiter;
use metrics_wal::{Error, Event, FileSystem, Fsync, MAX_PAYLOAD_BYTES, Wal};
use tracing::{error, info, warn};

use super::{
    MAX_BATCH_BYTES,
    folder::Folder,
    group::Group,
    pace::Pace,
    queue::{Closing, MAX_GROUP_BYTES},
    record,
    shared::{Counters, HeadState, Sealing, Shared},
};
use crate::store::StoreError;

/// The thread that owns the log.
pub(super) struct Committer<F: FileSystem> {
    pub(super) log: Wal<F>,
    pub(super) folder: Folder<F>,
    pub(super) shared: Arc<Shared>,
    /// When records that are not synced have to be; `None` if all are.
    pub(super) sync_at: Option<Instant>,
    /// How many bytes of records the head has.
    pub(super) head_bytes: u64,
    /// When the first put of the head was applied.
    pub(super) head_since: Option<Instant>,
    pub(super) is_failing: bool,
    pub(super) pace: Pace,
    pub(super) sync_failures: LogLimiter,
    /// The payload of a record, whose memory is reused.
    pub(super) payload: Vec<u8>,
}

impl<F: FileSystem> Committer<F> {
    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        // Fails what waits, also if this panics.
        let _closed = self.shared.close_on_drop();
        self.report_events();
        loop {
            self.rotate_if_due();
            let deadline = [self.sync_at, self.rotate_at()].into_iter().flatten().min();
            let head =
                HeadState { is_late: self.has_head_exceeded(1), is_full: self.is_head_full() };
            let work = self.shared.next_work(deadline, &self.pace, head);
            let bytes = work.groups.iter().map(|group| group.puts.bytes()).sum();
            if bytes > 0 {
                self.pace.on_taken(bytes, head.is_late, Instant::now());
            }
            if let Some(sealed) = work.sealed {
                self.remove_sealed(sealed);
            }
            if self.is_head_full() {
                reject(work.groups);
            } else {
                self.commit(work.groups);
            }
            if self.sync_at.is_some_and(|at| at <= Instant::now()) || work.closing.is_some() {
                self.sync_late();
            }
            self.report_events();
            match work.closing {
                None => {}
                Some(Closing::WithoutSeal) => break,
                Some(Closing::WithSeal) => {
                    self.seal_all();
                    break;
                }
            }
        }
        self.report_events();
    }

    /// Writes groups, applies them to the head, and completes them.
    fn commit(&mut self, groups: VecDeque<Group>) {
        for group in groups {
            if group.is_abandoned() {
                continue;
            }
            let mut payload = std::mem::take(&mut self.payload);
            payload.clear();
            record::encode(&group.puts, &mut 0, &mut payload);
            let seconds = group.puts.iter().map(|(_, point)| point.timestamp);
            let latest = seconds.max().unwrap_or(i64::MIN);
            match self.write(group.puts.len() as u32, latest, &payload) {
                Ok(()) => {
                    self.head_bytes += payload.len() as u64;
                    self.head_since.get_or_insert_with(Instant::now);
                    self.shared.apply(&group.puts);
                    self.on_success();
                    self.shared.queue.recycle(group.complete(Ok(())));
                }
                Err(error) => drop(group.complete(Err(self.on_failure(error)))),
            }
            if payload.capacity() <= MAX_KEPT_BYTES {
                self.payload = payload;
            }
        }
    }

    /// Appends a record, and syncs it if that is wanted before the answer.
    fn write(&mut self, count: u32, latest: i64, payload: &[u8]) -> Result<(), Error> {
        self.folder.check()?;
        self.log.append(count, latest, payload)?;
        match self.shared.options.fsync {
            Fsync::Always => {
                let Err(error) = self.sync() else { return Ok(()) };
                if self.sync_failures.should_log() {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "log sync failed; writing to a new segment");
                }
                // A second sync of the same file would prove nothing.
                self.log.discard_unsynced();
                let again = self.log.append(count, latest, payload).and_then(|_| self.sync());
                if again.is_err() {
                    self.log.discard_unsynced();
                }
                again
            }
            Fsync::Every(interval) => {
                self.sync_at.get_or_insert_with(|| Instant::now() + interval);
                Ok(())
            }
            Fsync::Never => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        let counters = &self.shared.counters;
        counters.syncs.add(1);
        let begin = Instant::now();
        let synced = self.log.sync();
        let nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.pace.on_sync(Duration::from_nanos(nanos));
        counters.sync_nanos.add(nanos);
        counters.last_sync_nanos.set(nanos);
        synced
    }

    /// Syncs records that were acknowledged before.
    fn sync_late(&mut self) {
        self.sync_at = None;
        if let Err(error) = self.sync() {
            error!(
                error = &error as &dyn std::error::Error,
                "log sync failed; acknowledged points are lost if the power fails before the next seal"
            );
            // In blocks they are durable.
            self.rotate();
        }
    }

    fn on_success(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            info!("log can be written again");
        }
    }

    /// Returns what the batches of a failed record are answered with: it passes, so clients retry.
    fn on_failure(&mut self, error: Error) -> StoreError {
        self.is_failing = true;
        let message = match &error {
            Error::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                "disk full"
            }
            Error::NotOwned { .. } => "the folder of the store was moved, removed or replaced",
            _ => "log cannot be written",
        };
        StoreError::transient(message).with_source(error)
    }

    /// Removes the segments of the log whose entries are all in blocks.
    fn remove_sealed(&mut self, sealed: u64) {
        if let Err(error) = self.log.commit(sealed) {
            // The database knows the number too.
            warn!(
                error = &error as &dyn std::error::Error,
                "position of the log cannot be written"
            );
        }
    }

    /// Returns true if no more may be put into the head until the last one is in blocks.
    fn is_head_full(&self) -> bool {
        self.has_head_exceeded(2)
    }

    /// Returns true if the head is `times` as large as it may be before it is sealed.
    fn has_head_exceeded(&self, times: usize) -> bool {
        let options = &self.shared.options;
        let (puts, memory) = self.shared.head_size();
        self.head_bytes >= options.max_head_log_bytes.saturating_mul(times as u64)
            || puts >= options.max_head_points.saturating_mul(times)
            || memory >= options.max_head_memory().saturating_mul(times)
    }

    fn rotate_at(&self) -> Option<Instant> {
        let since = self.head_since.filter(|_| !self.shared.is_sealing())?;
        Some(since + self.shared.options.max_head_age)
    }

    /// Hands the head to the thread that seals if it is large or old enough.
    fn rotate_if_due(&mut self) {
        let is_due =
            self.has_head_exceeded(1) || self.rotate_at().is_some_and(|at| at <= Instant::now());
        if is_due || self.shared.take_seal_request() {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        if self.shared.rotate(|head, names| Sealing {
            head,
            names,
            log_end: self.log.next(),
            since: None,
        }) {
            (self.head_bytes, self.head_since) = (0, None);
        }
    }

    /// Seals the head, unless sealing fails: the log has everything then.
    fn seal_all(&mut self) {
        if self.shared.wait_for_seal() {
            self.rotate();
            self.shared.wait_for_seal();
        }
        if let Some(sealed) = self.shared.queue.take_sealed() {
            self.remove_sealed(sealed);
        }
    }

    fn report_events(&mut self) {
        self.shared.counters.log_bytes.set(self.log.stats().bytes);
        self.log.take_events().iter().for_each(|event| report(event, &self.shared.counters));
    }
}

/// Fails groups for which the head has no room, because sealing fails.
fn reject(groups: VecDeque<Group>) {
    for group in groups {
        let error = StoreError::transient("blocks cannot be written, and the head is full");
        drop(group.complete(Err(error)));
    }
}

/// Logs and counts an event of the log.
pub(super) fn report(event: &Event, counters: &Counters) {
    match event {
        Event::UnknownFile { name } => warn!(name, "unknown file in the log ignored"),
        Event::TornTail { segment, bytes } => {
            info!(segment = %segment.display(), bytes, "incomplete end of the log truncated");
        }
        Event::Damaged { segment, bytes } => {
            error!(segment = %segment.display(), bytes, "log damaged");
        }
        Event::Quarantined { path, reason } => {
            error!(path = %path.display(), ?reason, "segment of the log set aside");
        }
        Event::Lost { entries } => {
            let points = entries.end - entries.start;
            counters.lost.add(points);
            error!(points, first = entries.start, "points of the log lost");
        }
        Event::Failed(error) | Event::PositionNotSaved(error) => {
            warn!(error = error as &dyn std::error::Error, "log operation failed");
        }
        Event::SegmentMissing { segment } => {
            error!(segment = %segment.display(), "segment of the log is missing");
        }
        Event::Abandoned => error!("the folder of the log was replaced; no more is written"),
        event => info!(?event, "log event"),
    }
}

/// How much memory is kept for the payloads of records, in bytes.
const MAX_KEPT_BYTES: usize = 512 * 1024;

// A group exceeds its bound by less than a batch, and a put takes at most as much in a record as in memory.
const _: () = assert!(2 * (MAX_GROUP_BYTES + MAX_BATCH_BYTES) <= MAX_PAYLOAD_BYTES);
