//! Opens a store: locks the folder, reads the database of blocks, and replays the log into the head.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use metrics_client::internal::log_limit::LogLimiter;
use metrics_wal::{DirLock, Event, FileSystem, Wal};
use tracing::{info, warn};

use super::{
    blocks::{Blocks, Contents, Database},
    commit::{Committer, report},
    head::{Head, Keys},
    options::Options,
    record,
    sealer::{Sealer, view},
    shared::Shared,
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

    fn blocks(error: redb::Error) -> Self {
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
    let lock = DirLock::acquire(&fs, dir).map_err(OpenError::log)?;
    check_format(&fs, dir)?;
    let (blocks, Contents { keys, mut sealed, points }) =
        Blocks::open(database, options.cache_bytes).map_err(OpenError::blocks)?;
    let log_options = metrics_wal::Options::new().keep_damaged(true).max_fill_bytes(MAX_FILL_BYTES);
    let mut events = Vec::new();
    let mut log =
        Wal::open(fs, dir.join(LOG), log_options).map_err(|error| OpenError::log(error.error))?;
    events.extend(log.take_events());
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
        head.apply(&puts, &mut keys);
        head_bytes += entry.payload.len() as u64;
        true
    })
    .map_err(OpenError::log)?;
    events.extend(log.take_events());

    let is_strict = options.is_strict;
    let head_since = (!head.is_empty()).then(std::time::Instant::now);
    let (recovered, key_count) = (head.puts(), keys.names().len());
    let shown = view(&blocks).map_err(OpenError::blocks)?;
    let shared = Shared::new(options, accounting, keys, head, shown, points);
    let shared = Arc::new(shared);
    events.iter().for_each(|event| report(event, &shared));
    if is_strict {
        check_damage(&events)?;
    }
    // After the check: a strict store changes nothing. What is sealed is removed.
    if let Err(error) = log.commit(sealed) {
        warn!(error = &error as &dyn std::error::Error, "position of the log cannot be written");
    }

    info!(dir = %dir.display(), points, keys = key_count, recovered, "store opened");
    let committer = Committer {
        log,
        shared: Arc::clone(&shared),
        sync_at: None,
        head_bytes,
        head_since,
        is_failing: false,
        sync_failures: LogLimiter::new(),
    };
    let sealer = Sealer { blocks, shared: Arc::clone(&shared) };
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
        let _lock = lock;
        committer.run();
    });
    if let Err(error) = committing {
        drop(shared.close_on_drop());
        return Err(spawn_failed(error));
    }
    Ok(shared)
}

/// Checks the file `FORMAT`, and writes it in a new folder.
fn check_format<F: FileSystem>(fs: &F, dir: &Path) -> Result<(), OpenError> {
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
    if content == CONTENT {
        return Ok(());
    }
    // A process that was killed while it created the folder leaves a part of it.
    if CONTENT.starts_with(content) {
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
        return written.map_err(|error| io("write", error));
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

const FORMAT: &str = "FORMAT";
const CONTENT: &[u8] = b"metrics 1\n";
const LOG: &str = "log";
/// How far the log is filled with zeros: a fill of this size takes some milliseconds.
const MAX_FILL_BYTES: u64 = 1024 * 1024;
/// The lock file of a [`DirLock`].
const LOCK: &str = "lock";
/// The database of blocks.
pub(super) const DATABASE: &str = "blocks.redb";
