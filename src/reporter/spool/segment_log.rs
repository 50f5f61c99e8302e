//! A folder of segments: opened, locked, and what lies in it recovered.
//!
//! Beside the segments there is `lock`, which is locked while a process has the folder open, and
//! `position`, which says how far the samples have been settled. A segment is named by the number of
//! its first sample. Files of any other name are left alone.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    error::SpoolError,
    fs::{FileSystem, Identity, OsFileSystem},
    notices::{Health, Notice, SpoolLog},
    position::Position,
    reader::Reader,
    segment::MAX_BLOCK_LEN,
    stats::SpoolStats,
    usage::Usage,
};

/// How much a folder may hold, and how durably.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most bytes of segments, counted in disk blocks.
    pub(crate) max_bytes: u64,
    /// How long what was appended may go unsynced; zero: not at all.
    pub(crate) sync_every: Duration,
}

impl Limits {
    /// The least that a folder can do with: sixteen segments of two blocks.
    pub(crate) const MIN_BYTES: u64 = 16 * 2 * MAX_BLOCK_LEN as u64;

    /// How long a segment may become. When the folder is full one segment goes, so that this is what
    /// is dropped at once.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.max_bytes / 16).clamp(2 * MAX_BLOCK_LEN as u64, 8 * 1024 * 1024)
    }
}

/// An open folder: a log of samples, of which the oldest are read and settled, or dropped.
///
/// What was appended survives the end of this process, however it ends. A loss of power it survives if
/// it was synced: at most [`Limits::sync_every`] after it was appended, if [`SegmentLog::sync`] is called as
/// often.
#[derive(Debug)]
pub(crate) struct SegmentLog<D: FileSystem = OsFileSystem> {
    pub(super) fs: D,
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    /// Held, not used. None if the folder has turned out not to be ours any more.
    pub(super) lock: Option<D::File>,
    pub(super) lock_identity: Identity,
    pub(super) position: D::File,
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// The last segment's file, if it is to be appended to.
    pub(super) active: Option<D::File>,
    /// Files that are settled and could not be removed.
    pub(super) stale: Vec<Segment>,
    /// What `segments` and `stale` take.
    pub(super) usage: Usage,
    /// Whether an attempt that failed may have left something behind the active segment's end.
    pub(super) has_torn_end: bool,
    /// The number of the sample that is appended next.
    pub(super) next: u64,
    /// The number of the first sample that has had no outcome.
    pub(super) settled: u64,
    /// Whether `position` says so too.
    pub(super) position_saved: bool,
    /// The first segment, being read.
    pub(super) reader: Option<Reader<D::File>>,
    /// How often in a row reading it has failed.
    pub(super) read_failures: u32,
    pub(super) uncommitted_read: Option<Outstanding>,
    pub(super) unsynced_since: Option<Instant>,
    pub(super) block: Vec<u8>,
    /// What is to be logged, once no lock is held.
    pub(super) notices: Vec<Notice>,
    /// All but what is known from the above: see [`SegmentLog::stats`].
    pub(super) counters: SpoolStats,
}

/// One file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The number of the first sample, and that behind the last one's.
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) bytes: u64,
    /// The latest timestamp in it.
    pub(super) latest: i64,
    /// Whether the file is not there any more. Its samples are counted as lost.
    pub(super) gone: bool,
    /// Whether it holds samples that are not sent, and so is set aside when the others are settled.
    pub(super) aside: bool,
}

impl Segment {
    /// One in which no samples are known yet.
    pub(super) fn empty(path: PathBuf, first: u64, bytes: u64) -> Self {
        Self { path, first, end: first, bytes, latest: i64::MIN, gone: false, aside: false }
    }
}

/// Samples that were read and not settled yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) first: u64,
    pub(super) count: u64,
    /// The numbers of those among them that were too old to be handed out, in order.
    pub(super) expired: Vec<u64>,
    /// Those that the disk does not have any more, and why.
    pub(super) evicted: Vec<(Range<u64>, Loss)>,
}

/// Why samples are not on disk any more without having been settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The folder was full.
    Dropped,
    /// Their file is gone.
    Lost,
}

impl<D: FileSystem> SegmentLog<D> {
    /// Opens a folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] says what stands against it. Damaged segments do not: what can be read of them
    /// is.
    pub(crate) fn open(fs: D, path: &Path, limits: Limits) -> Result<Self, SpoolError> {
        let Claim { lock, lock_identity, mut position } = claim(&fs, path)?;
        let files = fs.list(path).map_err(|error| io_error("list", path, error))?;
        let Position { settled, removed } = Position::read(&fs, &mut position);
        let mut folder = Self {
            fs,
            path: path.to_owned(),
            limits,
            lock: Some(lock),
            lock_identity,
            position,
            segments: VecDeque::new(),
            active: None,
            stale: Vec::new(),
            usage: Usage::default(),
            has_torn_end: false,
            next: 0,
            settled,
            position_saved: true,
            reader: None,
            read_failures: 0,
            uncommitted_read: None,
            unsynced_since: None,
            block: Vec::new(),
            notices: Vec::new(),
            counters: SpoolStats::default(),
        };
        if let Err(error) = folder.recover(files, removed) {
            SpoolLog::default().write(path, folder.notices, Health::default());
            return Err(error);
        }
        // From now on it is written over in place, which a full disk does not prevent.
        folder.save_cursor();
        folder.fit();
        Ok(folder)
    }

    /// Makes the folder anew after it was removed under a running process.
    pub(super) fn reopen(&mut self) -> Result<(), SpoolError> {
        let claim = match claim(&self.fs, &self.path) {
            Err(SpoolError::InUse { .. }) => return Err(self.abandon()),
            claim => claim?,
        };
        self.lock = Some(claim.lock);
        self.lock_identity = claim.lock_identity;
        self.position = claim.position;
        self.position_saved = false;
        Ok(())
    }

    /// Counts an error that stops nothing, and has it logged.
    pub(super) fn report(&mut self, action: &'static str, path: &Path, error: io::Error) {
        self.counters.io_errors.count(&error);
        self.notices.push(Notice::Failed(io_error(action, path, error)));
    }

    /// Counts an error that stops what was asked.
    pub(super) fn failed(
        &mut self,
        action: &'static str,
        path: &Path,
        error: io::Error,
    ) -> SpoolError {
        self.counters.io_errors.count(&error);
        io_error(action, path, error)
    }
}

/// A folder that is locked.
struct Claim<F> {
    lock: F,
    lock_identity: Identity,
    position: F,
}

/// Makes the folder ours.
fn claim<D: FileSystem>(fs: &D, path: &Path) -> Result<Claim<D::File>, SpoolError> {
    fs.create_dir_all(path).map_err(|error| io_error("make the folder", path, error))?;
    let open = |name| {
        let path = path.join(name);
        fs.open(&path).map_err(|error| io_error("open", &path, error))
    };
    let lock = open(LOCK)?;
    match fs.lock(&lock) {
        Ok(true) => {}
        Ok(false) => return Err(SpoolError::InUse { folder: path.to_owned() }),
        Err(error) => return Err(io_error("lock", path, error)),
    }
    let lock_identity =
        fs.file_identity(&lock).map_err(|error| io_error("look at the lock of", path, error))?;
    Ok(Claim { lock, lock_identity, position: open(POSITION)? })
}

pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}{SEGMENT}")
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io { action, path: path.to_owned(), source }
}

pub(super) const POSITION: &str = "position";
pub(super) const LOCK: &str = "lock";
pub(super) const SEGMENT: &str = ".spool";
/// The end of the name of what replaces a segment, while it is written.
pub(super) const TEMPORARY: &str = ".tmp";
