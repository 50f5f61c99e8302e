//! A log: a directory of segments, to which records are appended, and from whose front they are read,
//! committed, and dropped.
//!
//! `names` are its files, `dir` opens those that are not segments, `recovery` reads the directory,
//! `append` writes and syncs, `read` reads, `commit` removes what is done with, `trim` makes room, and
//! `owner` notices when the directory was taken over.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use self::{dir::Directory, position::Position};
use crate::{
    error::Error,
    event::{Event, QuarantineReason},
    fs::{FileSystem, OsFileSystem},
    lock::DirLock,
    reader::SegmentReader,
    stats::WalStats,
    usage::Usage,
};

mod append;
mod commit;
mod dir;
mod names;
mod owner;
mod position;
mod read;
mod recovery;
#[cfg(test)]
mod tests;
mod trim;

/// The bounds of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    segment_bytes: u64,
    max_bytes: u64,
    max_fill_bytes: u64,
    keep_damaged: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024 * 1024,
            max_bytes: u64::MAX,
            max_fill_bytes: 0,
            keep_damaged: false,
        }
    }
}

impl Options {
    /// Returns the defaults: segments of 16 MiB, and no bound.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the length at which a new segment begins, in bytes. A record is never split, so a segment
    /// with a single record may be longer. Default: 16 MiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Sets how much space the segments may take on the device, in bytes, counted in blocks of 4,096.
    /// When the log is full, an append drops the oldest segment, whether it is committed or not. If this
    /// is smaller than when the log was written, the oldest entries are dropped at opening. Default: no
    /// bound.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how far the last segment may be filled with zeros behind its records, in bytes. Default: 0.
    ///
    /// Records then overwrite blocks that the file has already, so a sync need not write metadata: on ext4, 8
    /// KiB were appended and synced in 0.12 ms instead of 0.2 to 4 ms. A segment is filled in steps as
    /// large as itself, at least 64 KiB. The zeros are removed when it ends, or at the next opening;
    /// [`max_bytes`](Self::max_bytes) does not count them.
    #[must_use]
    pub fn max_fill_bytes(mut self, bytes: u64) -> Self {
        self.max_fill_bytes = bytes;
        self
    }

    /// Sets whether a segment in which [`Wal::scan`] has found damage is
    /// [quarantined](QuarantineReason::Damaged) instead of removed when it is committed. Default: false.
    #[must_use]
    pub fn keep_damaged(mut self, keep: bool) -> Self {
        self.keep_damaged = keep;
        self
    }
}

/// An open log.
///
/// Records are appended at the end. The front is what is [committed](Wal::commit): entries before it are
/// done with, and segments that hold no others are removed.
///
/// What was appended survives the end of this process, however it ends. It survives a loss of power
/// once [`sync`](Wal::sync) has returned. If the process is killed, or the power goes, during an append,
/// the next opening cuts off what was written of the record.
///
/// All calls block on the file system. Nothing is logged: see [`take_events`](Wal::take_events).
#[derive(Debug)]
pub struct Wal<F: FileSystem = OsFileSystem> {
    fs: F,
    dir: PathBuf,
    options: Options,
    /// `None` once the directory is known not to be this log's any more.
    lock: Option<DirLock<F>>,
    position: F::File,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment's file, if it is appended to.
    active: Option<F::File>,
    /// Segments that are committed and could not be removed.
    stale: Vec<Segment>,
    /// The space of `segments` and `stale`.
    usage: Usage,
    /// True if a failed write may have left bytes behind the end of the active segment.
    has_torn_end: bool,
    /// The length of the active segment's file, if it is filled with zeros behind its records.
    filled: u64,
    /// True if the active segment has records that are not synced.
    has_unsynced: bool,
    /// The first entry that was appended since the last successful sync.
    unsynced_from: Option<u64>,
    /// True if some of these cannot be synced any more.
    has_sync_failed: bool,
    /// How much of the last segment is synced.
    synced: SyncPoint,
    /// True if the names of the files are synced.
    is_dir_synced: bool,
    /// The number of the next entry.
    next: u64,
    /// The number of the first entry that is not committed.
    committed: u64,
    /// The number behind the last entry that was read and may still be committed.
    read_end: u64,
    /// True if `committed` is written to `position`.
    is_position_saved: bool,
    /// A reader of the first segment.
    reader: Option<SegmentReader<F::File>>,
    /// How often in a row reading the first segment has failed.
    read_failures: u32,
    buffer: Vec<u8>,
    events: Vec<Event>,
    /// The counters that are not derived from the other fields, see [`Wal::stats`].
    counters: WalStats,
}

/// One file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// The number of the first entry, and the one behind the last.
    first: u64,
    end: u64,
    bytes: u64,
    /// The latest timestamp of its records.
    latest: i64,
    /// True if the file is missing. Its entries are reported as lost.
    is_missing: bool,
    /// Why it is to be quarantined instead of removed.
    quarantine: Option<QuarantineReason>,
}

impl Segment {
    /// Returns a segment in which no record is known yet.
    fn empty(path: PathBuf, first: u64, bytes: u64) -> Self {
        let (is_missing, quarantine) = (false, None);
        Self { path, first, end: first, bytes, latest: i64::MIN, is_missing, quarantine }
    }
}

/// How much of a segment is durable.
#[derive(Clone, Copy, Debug, Default)]
struct SyncPoint {
    end: u64,
    bytes: u64,
}

/// A failed opening, and what happened before it failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct OpenError {
    /// The cause.
    pub error: Error,
    /// What happened before, in order.
    pub events: Vec<Event>,
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        error.error
    }
}

impl<F: FileSystem> Wal<F> {
    /// Opens the log in a directory, which is created if it does not exist.
    ///
    /// The torn end of the last segment is removed. Damage elsewhere is skipped when it is read.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`], [`Error::NewerVersion`], or [`Error::Io`] if the path is empty or the file system
    /// fails.
    pub fn open(fs: F, dir: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        let fail = |error| OpenError { error, events: Vec::new() };
        let Directory { lock, mut position } = Directory::open(&fs, dir).map_err(fail)?;
        let files = fs.list(dir).map_err(|error| fail(Error::io("list", dir, error)))?;
        let Position { committed, removed } = Position::read(&fs, &mut position);
        let mut log = Self {
            fs,
            dir: dir.to_owned(),
            options,
            lock: Some(lock),
            position,
            segments: VecDeque::new(),
            active: None,
            stale: Vec::new(),
            usage: Usage::default(),
            has_torn_end: false,
            filled: 0,
            has_unsynced: false,
            unsynced_from: None,
            has_sync_failed: false,
            synced: SyncPoint::default(),
            is_dir_synced: false,
            next: 0,
            committed,
            read_end: 0,
            is_position_saved: true,
            reader: None,
            read_failures: 0,
            buffer: Vec::new(),
            events: Vec::new(),
            counters: WalStats::default(),
        };
        if let Err(error) = log.recover(files, removed) {
            return Err(OpenError { error, events: log.events });
        }
        // From now on it is overwritten in place, which a full disk does not prevent.
        log.save_position_or_report();
        log.fit();
        Ok(log)
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the number of the next entry that is appended.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the number of the first entry that is not committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Returns the latest timestamp of the records in the log. It may be that of committed entries.
    #[must_use]
    pub fn latest(&self) -> Option<i64> {
        self.segments.iter().map(|segment| segment.latest).max()
    }

    /// Returns what the log holds, and its counters.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        WalStats {
            bytes: self.usage.bytes,
            disk_bytes: self.usage.disk_bytes,
            segments: self.segments.len() as u64,
            ..self.counters
        }
    }

    /// Returns what has happened since the last call, in order.
    #[must_use]
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Counts and reports an error that makes no call fail.
    fn report(&mut self, action: &'static str, path: &Path, error: io::Error) {
        let error = self.failed(action, path, error);
        self.events.push(Event::Failed(error));
    }

    /// Counts an error that makes a call fail.
    fn failed(&mut self, action: &'static str, path: &Path, error: io::Error) -> Error {
        self.counters.io_errors.count(&error);
        Error::io(action, path, error)
    }

    /// Reports entries that cannot be read any more, without those that are committed.
    fn report_lost(&mut self, first: u64, end: u64) {
        let entries = first.max(self.committed).min(end)..end;
        if !entries.is_empty() {
            self.events.push(Event::Lost { entries });
        }
    }
}
