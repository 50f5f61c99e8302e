//! Reads everything that a folder holds, and reports what is damaged.

use std::{
    fmt,
    io::ErrorKind,
    ops::Range,
    path::{Path, PathBuf},
};

use metrics_client::Key;
use metrics_wal::{DirLock, FileSystem, OsFileSystem, damaged_ranges};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError};

use super::{
    block::{self, Header},
    blocks::{BLOCKS, KEYS, META, NAMES, POINTS, SEALED, catch_panic, decode_name},
    damaged::DamagedFolder,
    open::{DATABASE, LOG, OpenError, has_format},
    overlay::Overlay,
    record, repair,
};

/// What [`check`] has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Keys of blocks.
    pub keys: u64,
    /// Points in intact blocks.
    pub block_points: u64,
    /// Intact blocks.
    pub blocks: u64,
    /// Intact records of the log.
    pub records: u64,
    /// Puts in these that are not in blocks yet.
    pub log_points: u64,
    /// The length of the files of the log, in bytes.
    pub log_bytes: u64,
    /// The length of the file of blocks, in bytes.
    pub block_bytes: u64,
    /// The length of the files in the folder `damaged`, in bytes. Earlier damage is no damage now.
    pub damaged_bytes: u64,
    /// Bytes of an incomplete record at the end of the log. That is no damage: its puts were not acknowledged.
    pub torn_bytes: u64,
    /// What is damaged: the first 1,000 of [`damage_count`](Self::damage_count).
    pub damage: Vec<Damage>,
    /// How many pieces of damage there are.
    pub damage_count: u64,
}

impl CheckReport {
    /// Returns true if nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damage_count == 0
    }

    fn add(&mut self, file: impl Into<PathBuf>, what: impl Into<String>) -> &mut Damage {
        self.damage_count += 1;
        // The last one is overwritten.
        self.damage.truncate(MAX_DAMAGE - 1);
        self.damage.push(Damage {
            file: file.into(),
            offset: None,
            key: None,
            second: None,
            what: what.into(),
        });
        let last = self.damage.len() - 1;
        &mut self.damage[last]
    }
}

/// A piece of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file, relative to the folder.
    pub file: PathBuf,
    /// Where it is in the file, in bytes, if that is known.
    pub offset: Option<u64>,
    /// The key of which points are damaged, if that is known.
    pub key: Option<Key>,
    /// The first second of the damaged block.
    pub second: Option<i64>,
    /// What is damaged.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", key {key}")?;
        }
        if let Some(second) = self.second {
            write!(f, ", second {second}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done: bytes of files for [`check`], keys for a backup or a deletion.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

impl Progress {
    pub(super) fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// Reads everything in the folder of a store that is not in use, and reports what is damaged. Changes nothing.
///
/// Every record of the log is decoded, every page of the blocks' database is compared with its checksum, every
/// block is decoded, blocks of a key must not overlap, and the number of points must be the recorded one.
/// Damage in the log or the database costs no more than what is reported: a
/// [`DiskStore`](super::DiskStore) that opens the folder keeps a copy in the folder `damaged`, and uses the rest.
///
/// Blocks the thread: call it in [`spawn_blocking`](tokio::task::spawn_blocking).
///
/// ```
/// # use metrics_server::store::{self, DiskStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// # DiskStore::open(dir).await?.close().await;
/// let report = store::check(dir, |progress| eprintln!("{}/{}", progress.done, progress.total))?;
/// report.damage.iter().for_each(|damage| println!("{damage}"));
/// assert!(report.is_clean());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`OpenError`] if the folder does not hold a store, is in use, or cannot be read.
pub fn check(
    dir: impl AsRef<Path>,
    progress: impl FnMut(Progress),
) -> Result<CheckReport, OpenError> {
    let dir = dir.as_ref();
    check_on(OsFileSystem, dir, &dir.join(DATABASE), progress)
}

/// Checks a store whose log is on `fs`.
pub(super) fn check_on<F: FileSystem + Clone>(
    fs: F,
    dir: &Path,
    database: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<CheckReport, OpenError> {
    // Before the lock, which creates a folder.
    if !has_format(&fs, dir)? {
        return Err(OpenError::NotAStore { dir: dir.into() });
    }
    let _lock = DirLock::acquire(&fs, dir).map_err(OpenError::lock)?;
    let segments = segments(&fs, dir)?;
    let mut report = CheckReport {
        log_bytes: segments.iter().map(|(_, _, bytes)| bytes).sum(),
        block_bytes: std::fs::metadata(database).map_or(0, |metadata| metadata.len()),
        damaged_bytes: DamagedFolder::new(fs.clone(), dir).bytes(),
        ..CheckReport::default()
    };
    let total = report.log_bytes + report.block_bytes;
    let mut done = 0;
    let mut advance = |bytes| {
        done += bytes;
        progress(Progress::new(done, total));
    };
    advance(0);
    let mut blocks = BlockCheck { report: &mut report, sealed: None, names: Vec::new() };
    blocks.check(database, &mut advance)?;
    let sealed = blocks.sealed;
    check_log(&fs, dir, &segments, sealed, &mut report, &mut advance)?;
    Ok(report)
}

/// Returns the segments of the log by the number of their first entry: their names and lengths.
fn segments<F: FileSystem>(fs: &F, dir: &Path) -> Result<Vec<(u64, String, u64)>, OpenError> {
    let path = dir.join(LOG);
    let files = match fs.list(&path) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(OpenError::Io { action: "list", path, source }),
    };
    let segment = |(name, bytes): (String, u64)| {
        let first = name.strip_suffix(".log")?.parse().ok()?;
        Some((first, name, bytes))
    };
    let mut segments: Vec<_> = files.into_iter().filter_map(segment).collect();
    segments.sort();
    Ok(segments)
}

/// Checks the log. Entries before `sealed` are in blocks.
fn check_log<F: FileSystem>(
    fs: &F,
    dir: &Path,
    segments: &[(u64, String, u64)],
    sealed: Option<u64>,
    report: &mut CheckReport,
    advance: &mut impl FnMut(u64),
) -> Result<(), OpenError> {
    let mut expected = sealed.or(segments.first().map(|&(first, ..)| first)).unwrap_or(0);
    let first_needed = expected;
    for (index, (_, name, bytes)) in segments.iter().enumerate() {
        let file = Path::new(LOG).join(name);
        let path = dir.join(&file);
        let mut content = vec![0; usize::try_from(*bytes).unwrap_or(usize::MAX)];
        let read = fs.open_read(&path).and_then(|mut open| fs.read_at(&mut open, 0, &mut content));
        content.truncate(read.map_err(|source| OpenError::Io { action: "read", path, source })?);
        let mut missing = Vec::<Range<u64>>::new();
        let mut damaged = damaged_ranges(&content, |found| {
            if record::decode(found.payload).is_none() {
                return false;
            }
            let end = found.first + u64::from(found.count);
            if expected < found.first {
                missing.push(expected..found.first);
            }
            report.records += 1;
            report.log_points += end.saturating_sub(found.first.max(expected));
            expected = expected.max(end);
            true
        });
        // What is preallocated, or was being written.
        let is_tail = |tail: &&Range<usize>| {
            let is_last = index + 1 == segments.len();
            tail.end == content.len()
                && (is_last || content[(*tail).clone()].iter().all(|&b| b == 0))
        };
        if let Some(tail) = damaged.last().filter(is_tail).cloned() {
            damaged.pop();
            if content[tail.clone()].iter().any(|&byte| byte != 0) {
                report.torn_bytes += tail.len() as u64;
            }
        }
        for range in damaged {
            let what = format!("{} bytes hold no valid record", range.len());
            report.add(&file, what).offset = Some(range.start as u64);
        }
        for range in missing {
            let what = format!(
                "{} puts from number {} on are missing",
                range.end - range.start,
                range.start
            );
            report.add(&file, what);
        }
        advance(*bytes);
    }
    if expected < first_needed {
        report.add(LOG, "the log ends before the blocks");
    }
    Ok(())
}

/// The check of the database.
struct BlockCheck<'a> {
    report: &'a mut CheckReport,
    /// The number of the first log entry that is not in blocks, if the database says it.
    sealed: Option<u64>,
    names: Vec<Option<Key>>,
}

impl BlockCheck<'_> {
    fn check(&mut self, path: &Path, advance: &mut impl FnMut(u64)) -> Result<(), OpenError> {
        if self.report.block_bytes == 0 {
            self.report.add(DATABASE, "the file is missing or empty");
            return Ok(());
        }
        let bytes = self.report.block_bytes;
        let mut done = 0;
        let checked = catch_panic(|| {
            let mut database =
                redb::Database::builder().create_with_backend(Overlay::open(path)?)?;
            if !database.check_integrity()? {
                self.report.add(DATABASE, "pages do not match their checksums");
            }
            done = bytes / 2;
            advance(done);
            self.read(&database, |read, all| {
                let now = bytes / 2 + (u128::from(bytes - bytes / 2) * read / all.max(1)) as u64;
                advance(now - done);
                done = now;
            })
        });
        advance(bytes - done);
        match checked {
            Ok(()) => Ok(()),
            Err(error) if repair::is_damage(&error) => {
                self.report.add(DATABASE, error.to_string());
                Ok(())
            }
            Err(error) => Err(OpenError::blocks(error)),
        }
    }

    fn read(
        &mut self,
        database: &redb::Database,
        mut advance: impl FnMut(u128, u128),
    ) -> Result<(), redb::Error> {
        let transaction = database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            // It was created, and nothing was committed.
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.sealed = Some(meta.get(SEALED)?.map_or(0, |sealed| sealed.value()));
        let (keys, copies) = (transaction.open_table(KEYS)?, transaction.open_table(NAMES)?);
        for entry in keys.iter()? {
            let (id, name) = entry?;
            let (id, mut name) = (id.value(), decode_name(id.value(), name.value()));
            let copy = copies.get(id)?;
            let copy = copy.and_then(|copy| decode_name(id, copy.value()));
            if name.is_none() || name != copy {
                self.report.add(DATABASE, format!("name of key {id} is damaged")).key =
                    copy.clone();
                name = name.or(copy);
            }
            self.names.resize(self.names.len().max(id as usize + 1), None);
            self.names[id as usize] = name;
        }
        self.report.keys = self.names.iter().flatten().count() as u64;
        let blocks = transaction.open_table(BLOCKS)?;
        let all = u128::from(blocks.len()?);
        let (mut points, mut last, mut recorded) = (Vec::new(), None, 0);
        for (index, entry) in blocks.iter()?.enumerate() {
            let (key, block) = entry?;
            let (id, first) = key.value();
            points.clear();
            let name = self.names.get(id as usize).cloned().flatten();
            let damage = if block::decode(id, first, block.value(), &mut points).is_err() {
                Some("damaged block")
            } else if last.is_some_and(|(other, last)| other == id && last >= first) {
                Some("block overlaps the one before it")
            } else if name.is_none() {
                Some("block of an unknown key")
            } else {
                None
            };
            recorded += Header::decode(block.value()).map_or(0, |header| header.count as u64);
            match damage {
                None => {
                    self.report.blocks += 1;
                    self.report.block_points += points.len() as u64;
                }
                Some(what) => {
                    let damage = self.report.add(DATABASE, what);
                    (damage.key, damage.second) = (name, Some(first));
                }
            }
            last = points.last().map(|point| (id, point.timestamp)).or(last);
            if index % 1024 == 0 {
                advance(index as u128, all);
            }
        }
        let said = meta.get(POINTS)?.map_or(0, |points| points.value());
        if said != recorded {
            self.report.add(DATABASE, format!("{said} points are recorded, {recorded} are there"));
        }
        Ok(())
    }
}

/// How many pieces of damage a report has.
const MAX_DAMAGE: usize = 1000;
