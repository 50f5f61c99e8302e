//! Backups: new folders that are stores by themselves.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics_client::{Key, Point};
use metrics_wal::{DirLock, FileSystem, OsFileSystem};
use tokio::task::spawn_blocking;

use super::{
    check::Progress,
    copy::{Copied, Exclusion, copy},
    open::{CONTENT, DATABASE, FORMAT},
    shared::Shared,
    snapshot::Parts,
    writer::DatabaseWriter,
};
use crate::store::StoreError;

/// Why a backup failed. No folder is left that looks complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The destination exists, and is not an empty folder.
    #[error("{} exists, and is not an empty folder", dir.display())]
    #[non_exhaustive]
    Exists {
        /// The destination.
        dir: PathBuf,
    },
    /// Another process writes a backup to the same destination.
    #[error("folder {} is in use by another backup", dir.display())]
    #[non_exhaustive]
    InUse {
        /// The folder that is written, until it is complete.
        dir: PathBuf,
    },
    /// The store cannot be read.
    #[error("cannot read the store")]
    Store(#[source] StoreError),
    /// The database of the backup cannot be written, as on a full disk.
    #[error("cannot write the backup")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An operation on a file of the backup failed.
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

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Keys.
    pub keys: u64,
    /// Points.
    pub points: u64,
    /// Damaged blocks of the store, which the backup does not have: their keys and first seconds.
    pub damaged: Vec<(Key, i64)>,
}

/// Writes a backup of a store that is open.
pub(super) async fn backup(
    store: &Shared,
    dir: PathBuf,
    progress: impl FnMut(Progress) + Clone + Send + 'static,
) -> Result<Backup, BackupError> {
    let wanted = CancelOnDrop(Arc::new(AtomicBool::new(true)));
    let mut tries = 0;
    loop {
        let parts = store.parts().map_err(BackupError::Store)?;
        let excluded = Exclusion { cutoff: store.cutoff(), deleted: None };
        let (dir, is_wanted) = (dir.clone(), Arc::clone(&wanted.0));
        let mut progress = progress.clone();
        let written = spawn_blocking(move || {
            write(dir, &parts, &excluded, |done| {
                progress(done);
                is_wanted.load(Ordering::Relaxed)
            })
        });
        match written.await {
            // After an error of the disk the database is opened again, and holds the same.
            Ok(Err(BackupError::Store(_))) if tries < MAX_RETRIES => {
                tries += 1;
                tokio::time::sleep(store.options.retry_delay).await;
            }
            Ok(outcome) => return outcome,
            // It panicked: the database is damaged.
            Err(error) => {
                let error = StoreError::transient("blocks cannot be read").with_source(error);
                return Err(BackupError::Store(error));
            }
        }
    }
}

/// Cancels a copy when the future that waits for it is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn write(
    dir: PathBuf,
    parts: &Parts,
    excluded: &Exclusion,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Backup, BackupError> {
    let mut backup = BackupWriter::create(dir)?;
    let mut is_wanted = true;
    let copied = copy(parts, excluded, Some(&mut backup.database), |done| {
        is_wanted = progress(done);
        is_wanted
    });
    let Copied { damaged, .. } = copied.map_err(|error| match error {
        redb::Error::DatabaseClosed | redb::Error::PreviousIo => {
            BackupError::Store(StoreError::transient("blocks cannot be read").with_source(error))
        }
        error => BackupError::Write(Box::new(error)),
    })?;
    if !is_wanted {
        return Err(BackupError::Store(StoreError::new("the backup is not wanted any more")));
    }
    let mut outcome = backup.finish()?;
    outcome.damaged = damaged.into_iter().map(|(key, block)| (key, block.first)).collect();
    Ok(outcome)
}

/// Writes a folder that is a store once it is [finished](Self::finish): a backup of what is read from
/// elsewhere, such as a server on another machine.
///
/// All calls block on the disk. If it is dropped before it is finished, what was written is removed.
///
/// ```
/// # use metrics_server::store::{BackupWriter, DiskStore, Store};
/// # use metrics_client::{Key, Point, Selector};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("backup");
/// let mut backup = BackupWriter::create(&dir)?;
/// backup.push(&Key::new("palm.cpu")?, &[Point::new(23.7, 1150864247)])?;
/// assert_eq!(backup.finish()?.points, 1);
/// let store = DiskStore::open(dir).await?;
/// # assert_eq!(store.stats().block_points, 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BackupWriter {
    dir: PathBuf,
    database: DatabaseWriter,
    ids: HashMap<Key, u32>,
    /// The last points, ascending, and the id of their key.
    run: (u32, Vec<Point>),
    folder: PartialFolder,
}

impl BackupWriter {
    /// Begins to write a folder, with its missing parents.
    ///
    /// # Errors
    ///
    /// [`BackupError::Exists`] if it exists and is not an empty folder, or another [`BackupError`].
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self, BackupError> {
        let dir = dir.into();
        let is_free = match fs::read_dir(&dir) {
            Ok(mut files) => files.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_free {
            return Err(BackupError::Exists { dir });
        }
        let folder = PartialFolder::create(&dir)?;
        let database = folder.path.join(DATABASE);
        let database = DatabaseWriter::create(&database, CACHE_BYTES, 1);
        let database = database.map_err(|error| BackupError::Write(Box::new(error)))?;
        Ok(Self { dir, database, ids: HashMap::new(), run: (0, Vec::new()), folder })
    }

    /// Adds points. Later ones replace those of the same key and second; keys are in the order in which they
    /// first come.
    ///
    /// # Errors
    ///
    /// [`BackupError::Write`], and then the backup cannot be finished.
    pub fn push(&mut self, key: &Key, points: &[Point]) -> Result<(), BackupError> {
        for point in points {
            let id = match self.ids.get(key) {
                Some(&id) => id,
                None => {
                    let id = self.database.add_key(key);
                    self.ids.insert(key.clone(), id);
                    id
                }
            };
            let (run_id, run) = &self.run;
            let is_ascending = run.last().is_none_or(|last| last.timestamp < point.timestamp);
            if *run_id != id || !is_ascending || run.len() >= MAX_RUN_POINTS {
                self.end_run()?;
            }
            self.run.0 = id;
            self.run.1.push(*point);
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), BackupError> {
        let points = std::mem::take(&mut self.run.1);
        if points.is_empty() {
            return Ok(());
        }
        let merged = self.database.merge(self.run.0, points);
        merged.map_err(|error| BackupError::Write(Box::new(error)))
    }

    /// Syncs what was written, and gives the folder its name.
    ///
    /// # Errors
    ///
    /// See [`BackupError`]. What was written is removed.
    pub fn finish(mut self) -> Result<Backup, BackupError> {
        self.end_run()?;
        let Self { dir, database, folder, .. } = self;
        let keys = database.keys();
        let points = database.finish(0).map_err(|error| BackupError::Write(Box::new(error)))?;
        folder.finish(&dir)?;
        Ok(Backup { keys, points, damaged: Vec::new() })
    }
}

/// A folder that is removed, unless it is finished.
#[derive(Debug)]
struct PartialFolder {
    path: PathBuf,
    /// Released before the folder is renamed.
    lock: Option<DirLock<OsFileSystem>>,
    is_finished: bool,
}

impl PartialFolder {
    /// Creates it next to `dir`. What a killed process has left there is removed.
    fn create(dir: &Path) -> Result<Self, BackupError> {
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(BackupError::Exists { dir: dir.into() });
        }
        name.push(".partial");
        let path = dir.with_file_name(name);
        let lock = DirLock::acquire(&OsFileSystem, &path).map_err(|error| match error {
            metrics_wal::Error::InUse { dir, .. } => BackupError::InUse { dir },
            error => BackupError::Write(Box::new(error)),
        })?;
        let folder = Self { path, lock: Some(lock), is_finished: false };
        for name in [FORMAT, DATABASE] {
            let path = folder.path.join(name);
            if let Err(source) = fs::remove_file(&path)
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(BackupError::Io { action: "remove", path, source });
            }
        }
        Ok(folder)
    }

    fn finish(mut self, dir: &Path) -> Result<(), BackupError> {
        let path = self.path.join(FORMAT);
        let write = || {
            let mut file = OsFileSystem.open(&path)?;
            OsFileSystem.write_at(&mut file, 0, CONTENT)?;
            OsFileSystem.sync(&mut file)?;
            OsFileSystem.sync_dir(&self.path)
        };
        write().map_err(|source| BackupError::Io {
            action: "write",
            path: path.clone(),
            source,
        })?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let rename = || {
            // An empty folder, which not every system replaces.
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(&self.path, dir)?;
            OsFileSystem.sync_dir(parent.unwrap_or(Path::new(".")))
        };
        rename().map_err(|source| BackupError::Io {
            action: "create",
            path: dir.into(),
            source,
        })?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.is_finished {
            // Should this fail, the folder is not a store: it has no file `FORMAT`.
            let _ = fs::remove_dir_all(&self.path);
        }
        self.lock = None;
    }
}

/// How much memory the database of a backup may use, in bytes.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// How many points are merged at once: 256 KiB.
const MAX_RUN_POINTS: usize = 16 * 1024;

/// How often a backup begins again because the database was opened again.
const MAX_RETRIES: u32 = 3;
