//! Deletes points of a folder that is not in use.

use std::{fs, ops::RangeInclusive, path::Path};

use metrics_client::Key;
use metrics_wal::{FileSystem, OsFileSystem};

use super::{
    blocks::{Database, catch_panic},
    check::Progress,
    copy::{Copied, Exclusion, copy},
    damaged::DamagedFolder,
    open::{DATABASE, OpenError, Recovered},
    options::Options,
    repair,
    seal::DamagedBlock,
    writer::DatabaseWriter,
};
use crate::store::KeyPattern;

/// Which points are deleted from a folder that is not in use.
///
/// The points are removed from the files, not only hidden: a database without them is written, synced, and
/// then replaces the old one, so that a kill or a full disk leaves either all or nothing deleted. This needs
/// space for what is left. A key without points is gone. Copies in the folder `damaged` are not touched.
///
/// ```
/// # use metrics_server::store::{Deletion, DiskStore, KeyPattern};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// # DiskStore::open(dir).await?.close().await;
/// let deletion = Deletion::new(KeyPattern::new("palm.*")).seconds(0..=1150864247);
/// println!("{} points would go", deletion.preview(dir, |_| {})?.points);
/// deletion.run(dir, |_| {})?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Deletion {
    keys: KeyPattern,
    seconds: RangeInclusive<i64>,
}

/// What was, or would be, deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// Points.
    pub points: u64,
    /// Keys of these points.
    pub keys: u64,
    /// How many of these keys have no point left.
    pub empty_keys: u64,
    /// Damaged blocks, of any key: their keys and first seconds. They are moved to the folder `damaged`.
    pub damaged: Vec<(Key, i64)>,
}

impl Deletion {
    /// Selects all points of the keys that match a pattern.
    #[must_use]
    pub fn new(keys: KeyPattern) -> Self {
        Self { keys, seconds: i64::MIN..=i64::MAX }
    }

    /// Selects only points of these seconds.
    #[must_use]
    pub fn seconds(mut self, seconds: RangeInclusive<i64>) -> Self {
        self.seconds = seconds;
        self
    }

    /// Counts what [`run`](Self::run) would delete. Opens the folder as a store does, and merges its log into blocks.
    ///
    /// Blocks the thread, as `run` does: call it in [`spawn_blocking`](tokio::task::spawn_blocking).
    ///
    /// # Errors
    ///
    /// [`OpenError`] if the folder does not hold a store, is in use, or cannot be read.
    pub fn preview(
        &self,
        dir: impl AsRef<Path>,
        progress: impl FnMut(Progress),
    ) -> Result<Deleted, OpenError> {
        let dir = dir.as_ref();
        self.run_on(OsFileSystem, dir, &dir.join(DATABASE), true, progress)
    }

    /// Deletes the points. `progress` gets how many keys are done.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if the folder does not hold a store, is in use, or cannot be read or written. Nothing is deleted then.
    pub fn run(
        &self,
        dir: impl AsRef<Path>,
        progress: impl FnMut(Progress),
    ) -> Result<Deleted, OpenError> {
        let dir = dir.as_ref();
        self.run_on(OsFileSystem, dir, &dir.join(DATABASE), false, progress)
    }

    pub(super) fn run_on<F>(
        &self,
        fs: F,
        dir: &Path,
        path: &Path,
        is_preview: bool,
        mut progress: impl FnMut(Progress),
    ) -> Result<Deleted, OpenError>
    where
        F: FileSystem + Clone + Send + 'static,
        F::File: Send,
    {
        let options = Options { creates_missing: false, ..Options::default() };
        let cache_bytes = options.cache_bytes;
        let damaged = DamagedFolder::new(fs.clone(), dir);
        let mut store = Recovered::new(fs, dir, Database::File(path.into()), options)?;
        store.seal(&damaged)?;
        let parts = store.parts()?;
        let deleted = Some((self.keys.clone(), self.seconds.clone()));
        let excluded = Exclusion { cutoff: i64::MIN, deleted };
        let mut progress = |done| {
            progress(done);
            true
        };
        if is_preview {
            let copied = catch_panic(|| copy(&parts, &excluded, None, &mut progress));
            return Ok(copied.map_err(OpenError::blocks)?.into());
        }
        let new = repair::new_path(path);
        let written = catch_panic(|| {
            let generation = store.blocks.generation()?.saturating_add(1);
            let mut writer = DatabaseWriter::create(&new, cache_bytes, generation)?;
            let copied = copy(&parts, &excluded, Some(&mut writer), &mut progress)?;
            if copied.deleted_points > 0 {
                writer.finish(store.log.next())?;
            }
            Ok(copied)
        });
        let copied = match written {
            Ok(copied) if copied.deleted_points > 0 => copied,
            outcome => {
                // Removed at the next opening otherwise.
                let _ = fs::remove_file(&new);
                return Ok(outcome.map_err(OpenError::blocks)?.into());
            }
        };
        let blocks: Vec<DamagedBlock> =
            copied.damaged.iter().map(|(_, block)| block.clone()).collect();
        if !blocks.is_empty() {
            damaged.keep_blocks(&blocks);
        }
        // The folder stays locked.
        drop((parts, store.blocks));
        let replaced = fs::rename(&new, path)
            .and_then(|()| OsFileSystem.sync_dir(path.parent().unwrap_or(Path::new("."))));
        replaced.map_err(|source| OpenError::Io {
            action: "replace",
            path: path.into(),
            source,
        })?;
        Ok(copied.into())
    }
}

impl From<Copied> for Deleted {
    fn from(copied: Copied) -> Self {
        Self {
            points: copied.deleted_points,
            keys: copied.deleted_from,
            empty_keys: copied.deleted_keys,
            damaged: copied.damaged.into_iter().map(|(key, block)| (key, block.first)).collect(),
        }
    }
}
