//! Opens a store: locks the folder, reads the database of blocks, and replays the log into the head.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use metrics_client::internal::log_limit::LogLimiter;
use metrics_wal::{DirLock, Event, FileSystem, Wal};
use tracing::{error, info, warn};

use super::{
    blocks::{Blocks, Contents, Database, Sealing, catch_panic},
    commit::{Committer, report},
    damaged::DamagedFolder,
    folder::Folder,
    head::{Head, Keys},
    options::Options,
    pace::Pace,
    record, repair,
    seal::DamagedBlock,
    sealer::{Sealer, view},
    shared::{Counters, Shared},
    snapshot::Parts,
};
use crate::store::accounting::MemoryAccount;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another store of this one, has the folder open.
    #[error("folder {} is in use{}", dir.display(), by_process(*pid))]
    #[non_exhaustive]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The id of the process, if it could be read.
        pid: Option<u32>,
    },
    /// The folder was written by a newer version.
    #[error("folder {} has format {format:?}, which this version cannot read", dir.display())]
    #[non_exhaustive]
    NewerVersion {
        /// The folder.
        dir: PathBuf,
        /// The content of its file `FORMAT`.
        format: String,
    },
    /// The folder has other content: the file `FORMAT` is missing or invalid.
    #[error("folder {} is not a store", dir.display())]
    #[non_exhaustive]
    NotAStore {
        /// The folder.
        dir: PathBuf,
    },
    /// The log is damaged, and the store is [strict](super::DiskStoreBuilder::strict).
    #[error("log is damaged: {points} points lost, {bytes} bytes unreadable")]
    #[non_exhaustive]
    Damaged {
        /// How many points of the log cannot be read.
        points: u64,
        /// How many bytes of it hold no valid record.
        bytes: u64,
    },
    /// The blocks are damaged, and the store is [strict](super::DiskStoreBuilder::strict).
    #[error("database {} is damaged", path.display())]
    #[non_exhaustive]
    DamagedBlocks {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log cannot be opened or read.
    #[error("cannot open the log")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The blocks cannot be opened or read.
    #[error("cannot open the blocks")]
    Blocks(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An operation on a file of the folder failed.
    #[error("cannot {action} {}", path.display())]
    #[non_exhaustive]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
}

fn by_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

// Not `From`: the errors of the log and of the database are no part of the API.
impl OpenError {
    fn log(error: metrics_wal::Error) -> Self {
        match error {
            metrics_wal::Error::InUse { dir, pid } => Self::InUse { dir, pid },
            error => Self::Log(Box::new(error)),
        }
    }

    /// Returns the error of locking the folder.
    pub(super) fn lock(error: metrics_wal::Error) -> Self {
        match error {
            metrics_wal::Error::Io { action, path, source } => Self::Io { action, path, source },
            error => Self::log(error),
        }
    }

    pub(super) fn blocks(error: redb::Error) -> Self {
        Self::Blocks(Box::new(error))
    }
}

/// Opens the store, and starts its threads.
///
/// The log is on `fs`, and the blocks are in `database`.
pub(super) fn open<F>(
    fs: F,
    dir: &Path,
    database: Database,
    options: Options,
) -> Result<Arc<Shared>, OpenError>
where
    F: FileSystem + Clone + Send + 'static,
    F::File: Send,
{
    Recovered::new(fs.clone(), dir, database, options)?.start(fs, dir)
}

/// A store whose folder is locked and read, without threads.
#[derive(Debug)]
pub(super) struct Recovered<F: FileSystem> {
    lock: DirLock<F>,
    pub(super) log: Wal<F>,
    pub(super) blocks: Blocks,
    pub(super) keys: Keys,
    pub(super) head: Head,
    head_bytes: u64,
    /// Points in blocks.
    points: u64,
    counters: Counters,
    accounting: MemoryAccount,
    options: Options,
}

impl<F> Recovered<F>
where
    F: FileSystem + Clone + Send + 'static,
    F::File: Send,
{
    /// Locks the folder, opens the blocks, and replays the log.
    pub(super) fn new(
        fs: F,
        dir: &Path,
        database: Database,
        options: Options,
    ) -> Result<Self, OpenError> {
        // Before the lock, which creates a folder.
        if !options.creates_missing && !has_format(&fs, dir)? {
            return Err(OpenError::NotAStore { dir: dir.into() });
        }
        let lock = DirLock::acquire(&fs, dir).map_err(OpenError::lock)?;
        check_format(&fs, dir)?;
        let damaged = DamagedFolder::new(fs.clone(), dir);
        let mut events = Vec::new();
        let log_options = metrics_wal::Options::new().max_fill_bytes(MAX_FILL_BYTES);
        let mut log = Wal::open(fs, dir.join(LOG), log_options)
            .map_err(|error| OpenError::log(error.error))?;
        events.extend(log.take_events());
        let counters = Counters::default();
        let (mut blocks, Contents { keys, mut sealed, points }) =
            open_blocks(database, &options, log.committed(), &counters)?;
        if log.next() < sealed {
            // New entries must not have numbers that count as sealed.
            warn!(next = log.next(), sealed, "the log is older than the blocks, or was removed");
            sealed = log.committed();
            blocks.set_sealed(sealed).map_err(OpenError::blocks)?;
        }

        let accounting = MemoryAccount::default();
        let (mut keys, mut head, mut head_bytes) = (Keys::new(keys), Head::new(&accounting), 0);
        log.scan(sealed, |entry| {
            let Some(puts) = record::decode(entry.payload) else { return false };
            puts.runs().for_each(|run| head.apply(&run, &mut keys));
            head_bytes += entry.payload.len() as u64;
            true
        })
        .map_err(OpenError::log)?;
        events.extend(log.take_events());
        events.iter().for_each(|event| report(event, &counters));
        if options.is_strict {
            check_damage(&events)?;
        }
        // After the check: a strict store changes nothing.
        for event in &events {
            match event {
                Event::Damaged { segment, .. } => damaged.copy(segment),
                Event::Quarantined { path, .. } => damaged.take(path),
                _ => {}
            }
        }
        if sealed < log.committed() {
            // What was there is lost, and said.
            sealed = log.committed();
            blocks.set_sealed(sealed).map_err(OpenError::blocks)?;
        }
        // What is sealed is removed.
        if let Err(error) = log.commit(sealed) {
            let error = &error as &dyn std::error::Error;
            warn!(error, "position of the log cannot be written");
        }
        let (recovered, key_count) = (head.puts(), keys.names().len());
        info!(dir = %dir.display(), points, keys = key_count, recovered, "store opened");
        Ok(Self {
            lock,
            log,
            blocks,
            keys,
            head,
            head_bytes,
            points,
            counters,
            accounting,
            options,
        })
    }

    /// Merges all points into blocks, and empties the log.
    pub(super) fn seal(&mut self, damaged: &DamagedFolder<F>) -> Result<(), OpenError> {
        if self.head.is_empty() {
            return Ok(());
        }
        let sealing = Sealing {
            head: std::mem::replace(&mut self.head, Head::new(&self.accounting)),
            names: self.keys.names().clone(),
            log_end: self.log.next(),
            since: None,
        };
        let keep = |blocks: &[DamagedBlock]| damaged.keep_blocks(blocks);
        catch_panic(|| self.blocks.seal(&sealing, i64::MIN, keep)).map_err(OpenError::blocks)?;
        self.log.commit(sealing.log_end).map_err(OpenError::log)
    }

    /// Returns what is stored.
    pub(super) fn parts(&self) -> Result<Parts, OpenError> {
        Ok(Parts {
            names: self.keys.names().clone(),
            head: self.head.clone(),
            sealing: None,
            seals: 0,
            blocks: view(&self.blocks).map_err(OpenError::blocks)?,
        })
    }

    /// Starts the threads of the store.
    fn start(self, fs: F, dir: &Path) -> Result<Arc<Shared>, OpenError> {
        let damaged = DamagedFolder::new(fs.clone(), dir);
        let Self { lock, log, blocks, keys, head, head_bytes, points, .. } = self;
        let head_since = (!head.is_empty()).then(std::time::Instant::now);
        let shown = view(&blocks).map_err(OpenError::blocks)?;
        let key_count = keys.names().len() as u64;
        let mut shared = Shared::new(self.options, self.accounting, keys, head, shown, points);
        shared.counters = self.counters;
        shared.counters.keys.set(key_count);
        shared.counters.block_bytes.set(blocks.bytes());
        shared.counters.damaged_bytes.set(damaged.bytes());
        let shared = Arc::new(shared);
        let committer = Committer {
            log,
            folder: Folder { fs, dir: dir.into(), lock },
            shared: Arc::clone(&shared),
            sync_at: None,
            head_bytes,
            head_since,
            is_failing: false,
            pace: Pace::default(),
            sync_failures: LogLimiter::new(),
            payload: Vec::new(),
        };
        let sealer = Sealer { blocks, shared: Arc::clone(&shared), damaged, is_damaged: false };
        let spawn_failed =
            |source| OpenError::Io { action: "start a thread for", path: dir.into(), source };
        let guard = shared.thread_guard();
        let sealing = thread::Builder::new().name("metrics-seal".into()).spawn(move || {
            let _guard = guard;
            sealer.run();
        });
        sealing.map_err(spawn_failed)?;
        let guard = shared.thread_guard();
        let committing = thread::Builder::new().name("metrics-commit".into()).spawn(move || {
            let _guard = guard;
            committer.run();
        });
        if let Err(error) = committing {
            drop(shared.close_on_drop());
            return Err(spawn_failed(error));
        }
        Ok(shared)
    }
}

/// Opens the blocks. A database that is damaged is set aside, and what is left of it is written to a new one.
///
/// Entries of the log before `committed` are known to be in blocks.
fn open_blocks(
    database: Database,
    options: &Options,
    committed: u64,
    counters: &Counters,
) -> Result<(Blocks, Contents), OpenError> {
    let cache_bytes = options.cache_bytes;
    let Some(path) = database.path().map(Path::to_owned) else {
        return Blocks::open(database, cache_bytes).map_err(OpenError::blocks);
    };
    // What a process was writing when it was killed.
    let _ = std::fs::remove_file(repair::new_path(&path));
    let damage = match repair::find_damage(&path, cache_bytes, committed) {
        Ok(None) => match catch_panic(|| Blocks::open(database, cache_bytes)) {
            Err(error) if repair::is_damage(&error) => error,
            opened => return opened.map_err(OpenError::blocks),
        },
        Ok(Some(damage)) => damage,
        Err(error) => return Err(OpenError::blocks(error)),
    };
    if repair::is_blank(&path).unwrap_or(false) {
        // If it was not new, the log says what is missing.
        warn!(path = %path.display(), "unfinished database created again");
        std::fs::remove_file(&path).map_err(|error| OpenError::blocks(error.into()))?;
        return Blocks::open(Database::File(path), cache_bytes).map_err(OpenError::blocks);
    }
    if options.is_strict {
        return Err(OpenError::DamagedBlocks { path, source: Box::new(damage) });
    }
    error!(path = %path.display(), error = &damage as &dyn std::error::Error, "blocks damaged");
    repair::rebuild(&path, cache_bytes, committed, None).map_err(OpenError::blocks)?;
    counters.rebuilt.add(1);
    Blocks::open(Database::File(path), cache_bytes).map_err(OpenError::blocks)
}

/// Checks the file `FORMAT`, and writes it in a new folder.
fn check_format<F: FileSystem>(fs: &F, dir: &Path) -> Result<(), OpenError> {
    if has_format(fs, dir)? {
        return Ok(());
    }
    let path = dir.join(FORMAT);
    let io = |action, source| OpenError::Io { action, path: path.clone(), source };
    let files = fs.list(dir).map_err(|error| io("list the folder of", error))?;
    let is_known = |name: &str| [FORMAT, LOCK].contains(&name);
    if !files.iter().all(|(name, _)| is_known(name)) {
        return Err(OpenError::NotAStore { dir: dir.into() });
    }
    let written = fs.open(&path).and_then(|mut file| {
        fs.write_at(&mut file, 0, CONTENT)?;
        fs.sync(&mut file)?;
        fs.sync_dir(dir)
    });
    written.map_err(|error| io("write", error))
}

/// Returns true if the file `FORMAT` says that the folder is a store of this version, and false if it is missing
/// or incomplete, as a process leaves it that was killed while it created the folder.
pub(super) fn has_format<F: FileSystem>(fs: &F, dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(FORMAT);
    let io = |action, source| OpenError::Io { action, path: path.clone(), source };
    let mut content = [0; 64];
    let read = match fs.open_read(&path) {
        Ok(mut file) => {
            fs.read_at(&mut file, 0, &mut content).map_err(|error| io("read", error))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io("open", error)),
    };
    let content = &content[..read];
    if CONTENT.starts_with(content) {
        return Ok(content == CONTENT);
    }
    let format = String::from_utf8_lossy(content).trim().to_owned();
    let version = format.strip_prefix("metrics ").and_then(|version| version.parse::<u32>().ok());
    Err(match version {
        Some(_) => OpenError::NewerVersion { dir: dir.into(), format },
        None => OpenError::NotAStore { dir: dir.into() },
    })
}

fn check_damage(events: &[Event]) -> Result<(), OpenError> {
    let (mut points, mut bytes) = (0, 0);
    for event in events {
        match event {
            Event::Lost { entries } => points += entries.end - entries.start,
            Event::Damaged { bytes: damaged, .. } => bytes += damaged,
            _ => {}
        }
    }
    if points == 0 && bytes == 0 { Ok(()) } else { Err(OpenError::Damaged { points, bytes }) }
}

pub(super) const FORMAT: &str = "FORMAT";
pub(super) const CONTENT: &[u8] = b"metrics 1\n";
pub(super) const LOG: &str = "log";
/// The lock file of a [`DirLock`].
const LOCK: &str = "lock";
/// The database of blocks.
pub(super) const DATABASE: &str = "blocks.redb";
/// How far the log is filled with zeros: a fill of this size takes some milliseconds.
const MAX_FILL_BYTES: u64 = 1024 * 1024;
