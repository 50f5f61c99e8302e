//! A folder of segments: opened, locked, and what lies in it recovered.
//!
//! Beside the segments there is `lock`, which is locked while a process has the folder open, and
//! `position`, which says how far the samples have been settled. A segment is named by the number of
//! its first sample. Files of any other name are left alone.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    disk::{Disk, OsDisk},
    error::SpoolError,
    reader::Reader,
    segment::{HEADER_LEN, Header, MAX_BLOCK_LEN},
    stats::SpoolStats,
};

/// How much a folder may hold, and how durably.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most bytes of segments.
    pub(crate) max_bytes: u64,
    /// How long what was appended may go unsynced; zero: not at all.
    pub(crate) sync_every: Duration,
}

impl Limits {
    /// The least that a folder can do with: sixteen segments of two blocks.
    pub(crate) const LEAST_BYTES: u64 = 16 * 2 * MAX_BLOCK_LEN as u64;

    /// How long a segment may become. When the folder is full one segment goes, so that this is what
    /// is dropped at once.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.max_bytes / 16).clamp(2 * MAX_BLOCK_LEN as u64, 8 * 1024 * 1024)
    }
}

/// An open folder: a log of samples, of which the oldest are read and settled, or dropped.
///
/// What was appended survives the end of this process, however it ends. A loss of power it survives if
/// it was synced: at most [`Limits::sync_every`] after it was appended, if [`Folder::sync`] is called as
/// often.
#[derive(Debug)]
pub(crate) struct Folder<D: Disk = OsDisk> {
    pub(super) disk: D,
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    /// Held, not used.
    pub(super) lock: D::File,
    pub(super) position: D::File,
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// The last segment's file, if it is to be appended to.
    pub(super) active: Option<D::File>,
    /// Files that are settled and could not be removed.
    pub(super) stale: Vec<Segment>,
    /// What `segments` and `stale` have.
    pub(super) bytes: u64,
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
    pub(super) outstanding: Option<Outstanding>,
    pub(super) unsynced_since: Option<Instant>,
    pub(super) block: Vec<u8>,
    /// All but what is known from the above: see [`Folder::stats`].
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
}

impl Segment {
    /// One in which no samples are known yet.
    pub(super) fn empty(path: PathBuf, first: u64, bytes: u64) -> Self {
        Self { path, first, end: first, bytes, latest: i64::MIN, gone: false }
    }
}

/// Samples that were read, all from the first segment, and not settled yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    pub(super) first: u64,
    pub(super) count: u64,
    /// Whether the disk does not have them any more.
    pub(super) orphaned: bool,
}

impl<D: Disk> Folder<D> {
    /// Opens a folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] says what stands against it. Damaged segments do not: what can be read of them
    /// is.
    pub(crate) fn open(disk: D, path: &Path, limits: Limits) -> Result<Self, SpoolError> {
        let (lock, mut position) = claim(&disk, path)?;
        let files = disk.list(path).map_err(|error| io_error("list", path, error))?;
        let settled = read_position(&disk, &mut position).unwrap_or(0);
        let mut folder = Self {
            disk,
            path: path.to_owned(),
            limits,
            lock,
            position,
            segments: VecDeque::new(),
            active: None,
            stale: Vec::new(),
            bytes: 0,
            next: 0,
            settled,
            position_saved: true,
            reader: None,
            read_failures: 0,
            outstanding: None,
            unsynced_since: None,
            block: Vec::new(),
            counters: SpoolStats::default(),
        };
        folder.recover(files)?;
        // From now on it is written over in place, which a full disk does not prevent.
        folder.save_position();
        Ok(folder)
    }

    /// Makes the folder anew after it was removed under a running process.
    pub(super) fn reopen(&mut self) -> Result<(), SpoolError> {
        (self.lock, self.position) = claim(&self.disk, &self.path)?;
        self.position_saved = false;
        Ok(())
    }

    fn recover(&mut self, files: Vec<(String, u64)>) -> Result<(), SpoolError> {
        let mut found: Vec<Segment> = Vec::new();
        for (name, bytes) in files {
            match segment_number(&name) {
                Some(first) => {
                    let path = self.path.join(name);
                    found.push(Segment::empty(path, first, bytes));
                }
                None if [LOCK, POSITION].contains(&name.as_str()) || name.ends_with(SET_ASIDE) => {}
                None => {
                    warn!(folder = ?self.path, file = name, "no segment of the spool: left alone");
                }
            }
        }
        found.sort_by_key(|segment| segment.first);
        while let Some(mut segment) = found.pop() {
            // Only what was written last can be torn, and only there is it worth reading everything.
            let is_last = self.segments.is_empty();
            let file = match self.disk.open_to_read(&segment.path) {
                Ok(file) => Reader::new(file),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.report("open", &segment.path, error);
                    continue;
                }
                // It says nothing of the segment: there may be no file descriptor left.
                Err(error) => return Err(io_error("open", &segment.path, error)),
            };
            match self.survey(&mut segment, file, is_last) {
                Ok(Contents::Blocks) => {
                    self.bytes += segment.bytes;
                    self.segments.push_front(segment);
                }
                Ok(Contents::Nothing) => {
                    self.counters.torn_bytes += segment.bytes;
                    if let Err(error) = self.disk.remove(&segment.path) {
                        self.report("remove", &segment.path, error);
                    }
                }
                Ok(Contents::Foreign) => self.set_aside(&segment),
                Ok(Contents::Newer { version }) => {
                    return Err(SpoolError::Newer { path: segment.path, version });
                }
                Err(error) => {
                    self.report("read", &segment.path, error);
                    self.set_aside(&segment);
                }
            }
        }
        let end = self.segments.back().map_or(0, |last| last.end);
        self.next = end.max(self.settled);
        let first = self.segments.front().map_or(self.next, |first| first.first);
        self.settled = self.settled.max(first);
        self.counters.recovered = self.next - self.settled;
        self.trim();
        Ok(())
    }

    /// Finds out what a segment holds; cuts what is torn, if it was written last.
    fn survey(
        &mut self,
        segment: &mut Segment,
        mut file: Reader<D::File>,
        is_last: bool,
    ) -> io::Result<Contents> {
        let header = Header::read(&file.header(&self.disk)?);
        if let Header::Unknown { version } = header {
            return Ok(Contents::Newer { version });
        }
        let mut tail = HEADER_LEN as u64;
        let mut from = tail;
        while let Some(found) = file.find(&self.disk, from, segment.bytes)? {
            if is_last && file.samples(&self.disk, &found)?.is_none() {
                from = found.payload_at();
                continue;
            }
            (tail, from) = (found.end(), found.end());
            segment.end = segment.end.max(found.header.end());
            segment.latest = segment.latest.max(found.header.latest);
        }
        let is_torn = segment.bytes < HEADER_LEN as u64;
        if segment.end == segment.first {
            let is_empty =
                tail == HEADER_LEN as u64 && (is_torn || matches!(header, Header::Valid { .. }));
            return Ok(if is_empty { Contents::Nothing } else { Contents::Foreign });
        }
        if is_last && tail < segment.bytes {
            let cut = segment.bytes - tail;
            warn!(segment = ?segment.path, bytes = cut, "the spool's last segment is torn: cut");
            self.counters.torn_bytes += cut;
            let file = self.disk.open(&segment.path);
            match file.and_then(|mut file| self.disk.truncate(&mut file, tail)) {
                Ok(()) => segment.bytes = tail,
                // Nothing is read from behind the last block anyway.
                Err(error) => self.report("cut", &segment.path, error),
            }
        }
        Ok(Contents::Blocks)
    }

    /// Gives a file that cannot be read a name by which it is no segment any more.
    pub(super) fn set_aside(&mut self, segment: &Segment) {
        let mut aside = segment.path.clone().into_os_string();
        aside.push(SET_ASIDE);
        self.counters.set_aside += 1;
        match self.disk.rename(&segment.path, Path::new(&aside)) {
            Ok(()) => {
                warn!(segment = ?segment.path, "nothing in this segment can be read: set aside");
            }
            Err(error) => self.report("rename", &segment.path, error),
        }
    }

    /// Counts and logs an error that stops nothing.
    pub(super) fn report(&mut self, action: &'static str, path: &Path, error: io::Error) {
        self.counters.io_errors.count(&error);
        let error = io_error(action, path, error);
        warn!(error = &error as &dyn std::error::Error, "the spool goes on without");
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

/// What was found in a file that is named like a segment.
enum Contents {
    Blocks,
    /// It is a segment, of which not even one block was written.
    Nothing,
    Foreign,
    Newer {
        version: u8,
    },
}

/// Makes the folder ours.
fn claim<D: Disk>(disk: &D, path: &Path) -> Result<(D::File, D::File), SpoolError> {
    disk.create_folder(path).map_err(|error| io_error("make the folder", path, error))?;
    let open = |name| {
        let path = path.join(name);
        disk.open(&path).map_err(|error| io_error("open", &path, error))
    };
    let lock = open(LOCK)?;
    match disk.lock(&lock) {
        Ok(true) => Ok((lock, open(POSITION)?)),
        Ok(false) => Err(SpoolError::InUse { folder: path.to_owned() }),
        Err(error) => Err(io_error("lock", path, error)),
    }
}

/// How far the samples were settled, if the file says so.
fn read_position<D: Disk>(disk: &D, file: &mut D::File) -> Option<u64> {
    let mut bytes = [0; POSITION_LEN];
    disk.read_at(file, 0, &mut bytes).ok()?;
    let (number, check) = bytes.split_first_chunk::<8>()?;
    (check == crc32fast::hash(number).to_le_bytes()).then(|| u64::from_le_bytes(*number))
}

/// What the position's file says.
pub(super) fn position_bytes(settled: u64) -> [u8; POSITION_LEN] {
    let mut bytes = [0; POSITION_LEN];
    bytes[..8].copy_from_slice(&settled.to_le_bytes());
    bytes[8..].copy_from_slice(&crc32fast::hash(&settled.to_le_bytes()).to_le_bytes());
    bytes
}

pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}{SEGMENT}")
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io { action, path: path.to_owned(), source }
}

pub(super) const POSITION: &str = "position";
const LOCK: &str = "lock";
const SEGMENT: &str = ".spool";
const SET_ASIDE: &str = ".unreadable";
const POSITION_LEN: usize = 12;
