//! A store on disk: a log with group commit, a head in memory, and compressed blocks.
//!
//! `queue` gathers batches, `commit` writes the log, `head` has the points that are only there, `sealer` merges heads into
//! `blocks`, `open` recovers, and `snapshot` reads.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use metrics_client::{Key, Point, Selector};
use metrics_wal::{FileSystem, OsFileSystem};
use tokio::task::spawn_blocking;

mod admission;
mod backup;
mod block;
mod blocks;
mod check;
mod commit;
mod copy;
mod damaged;
mod delete;
mod fair_queue;
mod folder;
mod group;
mod head;
mod open;
mod open_snapshots;
mod options;
mod overlay;
mod pace;
mod queue;
mod read_ahead;
mod record;
mod repair;
mod room;
mod salvage;
mod seal;
mod sealer;
mod shared;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

#[doc(hidden)]
pub use block::fuzz as fuzz_block;
#[doc(hidden)]
pub use record::fuzz as fuzz_record;

pub use backup::{Backup, BackupError, BackupWriter};
pub use check::{CheckReport, Damage, Progress, check};
pub use delete::{Deleted, Deletion};
pub use metrics_wal::Fsync;
pub use open::OpenError;
pub use snapshot::DiskSnapshot;

use self::{blocks::Database, options::Options, queue::Closing, shared::Shared};
use super::{KeyPattern, PutBatch, RangeSnapshot, Store, StoreError};

/// A store that keeps what it acknowledges.
///
/// A put is acknowledged once its record is in the log and synced: it survives `kill -9` and a loss of
/// power. One sync serves all connections that wait. The points of the log are in memory too, the *head*,
/// until they are merged into compressed *blocks* in the background: after a million points, 64 MiB of log,
/// or an hour, and when the store is [closed](Self::close).
///
/// Points may come in any order, at any time; a later put of the same key and second replaces the value.
///
/// # Full and failing disks
///
/// While the disk is full, puts fail with a [transient](StoreError::is_transient) error, which makes clients
/// retry, and reads work. Puts work again as soon as there is space. Blocks are retried each second.
///
/// # Damage
///
/// Opening truncates an incomplete record at the end of the log. A damaged record costs the points in it, and a damaged
/// block is an error for reads of its key; both are logged and counted.
///
/// # Threads
///
/// A store has two threads. Blocks are read on Tokio's blocking threads, so it needs a Tokio runtime. It
/// ends when it is dropped; what is not in blocks is then replayed from the log at the next opening. Call
/// [`close`](Self::close) to wait for the end.
///
/// ```
/// use metrics_client::{Key, Selector};
/// use metrics_server::{Server, Store, store::{DiskStore, Snapshot}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
///
/// let store = std::sync::Arc::new(DiskStore::open(dir).await?);
/// let server = Server::bind("127.0.0.1:0").await?.store(store.clone());
/// // server.serve_until(..).await;
/// # drop(server);
/// assert_eq!(store.get(&Selector::All).await?.into_metrics().await?.point_count(), 0);
/// store.close().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
}

impl DiskStore {
    /// Opens the store in a folder with the default options; creates the folder if it does not exist.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    ///
    /// The folder may stay in use for a moment.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::builder().open(dir).await
    }

    /// Returns a builder with the default options.
    #[must_use]
    pub fn builder() -> DiskStoreBuilder {
        DiskStoreBuilder { options: Options::default() }
    }

    /// Merges all points into blocks, and ends the threads of the store.
    ///
    /// From now on puts, reads, and snapshots that exist fail, and another store may open the folder. If
    /// blocks cannot be written, the points stay in the log. Does nothing if the store is closed.
    ///
    /// # Cancel safety
    ///
    /// The store is closed nevertheless.
    pub async fn close(&self) {
        self.end(Closing::WithSeal).await;
    }

    async fn end(&self, how: Closing) {
        self.shared.close(how);
        self.wait(|shared| (!shared.are_threads_running()).then_some(())).await;
    }

    /// Merges all points that are stored now into blocks.
    ///
    /// # Errors
    ///
    /// If blocks cannot be written, which is retried in the background, or if the store is closed.
    pub async fn seal(&self) -> Result<(), StoreError> {
        let target = self.shared.request_seal();
        let is_sealed = self.wait(|shared| match shared.has_sealed(target) {
            Some(false) => None,
            outcome => Some(outcome),
        });
        match is_sealed.await {
            Some(_) => Ok(()),
            None => Err(StoreError::transient("blocks cannot be written")),
        }
    }

    /// Writes everything that is stored now to a new folder, which is a store by itself.
    ///
    /// The backup is that of one moment during the call: it holds every put that was acknowledged before, and
    /// each later one with all before it. Puts and reads go on. It is written next to `dir` with the suffix
    /// `.partial`, synced, and renamed at the end. Damaged blocks are left out, and returned. The database can
    /// reuse no space before the end of the backup.
    ///
    /// To restore it, stop the server, and open the backup, or a copy of it.
    ///
    /// # Errors
    ///
    /// See [`BackupError`]. Nothing is left but, after a kill, the folder with the suffix `.partial`, which the next
    /// backup to the same `dir` replaces.
    ///
    /// # Cancel safety
    ///
    /// The backup ends soon, and is removed.
    pub async fn backup(&self, dir: impl Into<PathBuf>) -> Result<Backup, BackupError> {
        self.backup_with_progress(dir, |_| {}).await
    }

    /// Writes a [`backup`](Self::backup), and says how many keys are done. `progress` must not block.
    ///
    /// # Errors
    ///
    /// As [`backup`](Self::backup).
    ///
    /// # Cancel safety
    ///
    /// As [`backup`](Self::backup).
    pub async fn backup_with_progress(
        &self,
        dir: impl Into<PathBuf>,
        progress: impl FnMut(Progress) + Clone + Send + 'static,
    ) -> Result<Backup, BackupError> {
        backup::backup(&self.shared, dir.into(), progress).await
    }

    async fn wait<T>(&self, until: impl Fn(&Shared) -> Option<T>) -> T {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(outcome) = until(&self.shared) {
                return outcome;
            }
            changed.await;
        }
    }

    /// Returns the statistics of the store.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        let totals = self.shared.totals();
        let counters = &self.shared.counters;
        DiskStats {
            keys: totals.keys,
            head_points: totals.head_points,
            head_bytes: totals.head_bytes,
            block_points: totals.block_points,
            syncs: counters.syncs.get(),
            seals: counters.seals.get(),
            failed_seals: counters.failed_seals.get(),
            damaged_blocks: counters.damaged_blocks.get(),
            lost_points: counters.lost.get(),
            rebuilt_databases: counters.rebuilt.get(),
            too_old: counters.too_old.get(),
            too_many_keys: counters.too_many_keys.get(),
            log_bytes: counters.log_bytes.get(),
            block_bytes: counters.block_bytes.get(),
            damaged_bytes: counters.damaged_bytes.get(),
            oldest_unsealed: totals.oldest_unsealed,
            sync_time: Duration::from_nanos(counters.sync_nanos.get()),
            last_sync_time: Duration::from_nanos(counters.last_sync_nanos.get()),
            last_seal: totals.last_seal.map(|(at, _)| at),
            last_seal_time: totals.last_seal.map(|(_, time)| time).unwrap_or_default(),
        }
    }
}

/// How large a batch may be that is written as one, in bytes. Larger ones are split, so that a record of the
/// log stays small. A server's batches are smaller.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.shared.close(Closing::WithoutSeal);
    }
}

/// Statistics of a [`DiskStore`], counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskStats {
    /// Keys.
    pub keys: u64,
    /// Puts that are not in blocks yet.
    pub head_points: u64,
    /// The memory of these, in bytes.
    pub head_bytes: u64,
    /// Points in blocks.
    pub block_points: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Heads that were merged into blocks.
    pub seals: u64,
    /// Merges that failed, and were or will be retried.
    pub failed_seals: u64,
    /// Damaged blocks that a merge has set aside.
    pub damaged_blocks: u64,
    /// Points of the log that could not be read.
    pub lost_points: u64,
    /// Databases of blocks that were damaged, and rebuilt from the blocks that were found.
    pub rebuilt_databases: u64,
    /// Puts that were rejected because they are older than [`keep`](DiskStoreBuilder::keep).
    pub too_old: u64,
    /// Puts of new keys that were rejected because there are
    /// [as many](DiskStoreBuilder::max_keys) as there may be.
    pub too_many_keys: u64,
    /// The length of the files of the log, in bytes.
    pub log_bytes: u64,
    /// The length of the file of blocks, in bytes. It does not shrink; what was removed is used again.
    pub block_bytes: u64,
    /// The length of the files in the folder `damaged`, in bytes, at most 1 GiB or one file.
    pub damaged_bytes: u64,
    /// How long ago the oldest put was stored that is not in blocks; `None` if all are.
    pub oldest_unsealed: Option<Duration>,
    /// How long all syncs of the log took together.
    pub sync_time: Duration,
    /// How long the last sync of the log took.
    pub last_sync_time: Duration,
    /// When a head was last merged into blocks; `None` if none was since the store was opened.
    pub last_seal: Option<SystemTime>,
    /// How long that took.
    pub last_seal_time: Duration,
}

/// Options of a [`DiskStore`].
///
/// ```no_run
/// # async fn f() -> Result<(), metrics_server::store::OpenError> {
/// use std::time::Duration;
/// use metrics_server::store::DiskStore;
///
/// let year = Duration::from_secs(365 * 24 * 60 * 60);
/// let store = DiskStore::builder().keep(year).open("/var/lib/metrics").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DiskStoreBuilder {
    options: Options,
}

impl DiskStoreBuilder {
    /// Sets when the log is synced. Default: [`Fsync::Always`], before a put is acknowledged.
    ///
    /// With [`Fsync::Every`], an acknowledged put survives `kill -9`, and a loss of power can lose what was
    /// acknowledged in that time; with [`Fsync::Never`], what was acknowledged in the last half a minute or
    /// so.
    #[must_use]
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.options.fsync = fsync;
        self
    }

    /// Sets how long points are kept, by their timestamps, in whole seconds. Default: for ever.
    ///
    /// Older points are not shown, and removed when blocks are written; a put that is older fails with a
    /// final error, `older than` this time.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.options.keep = Some(keep);
        self
    }

    /// Sets after how many points the head is merged into blocks, at least 1. Default: 1,000,000, some
    /// 16 MB of memory, and 64 MB if each is of another key.
    ///
    /// With new keys the head is merged when it takes 64 bytes for each of these points, and at least 1 MiB. While one
    /// head is merged, puts are slowed down when the next has as many, and wait when it has twice as many.
    #[must_use]
    pub fn max_head_points(mut self, points: usize) -> Self {
        self.options.max_head_points = points.max(1);
        self
    }

    /// Sets how much memory the points in the head and in open snapshots may take, in bytes. Default: 512 MiB.
    ///
    /// When it is exceeded, the oldest snapshots are evicted, and their readers get a
    /// [transient](StoreError::is_transient) error.
    #[must_use]
    pub fn max_memory_bytes(mut self, bytes: usize) -> Self {
        self.options.max_memory_bytes = bytes;
        self
    }

    /// Sets how many keys there may be, at least 1. Default: 10,000,000. A key takes some 200 bytes of memory, also
    /// when it has no point any more.
    ///
    /// A put of another key then fails with a final error, `too many keys`. Puts that arrive at the same time may
    /// exceed the number by some thousands.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.options.max_keys = keys.max(1);
        self
    }

    /// Sets how many bytes the files of the folder may take. Default: as many as the disk has.
    ///
    /// Above it, puts fail with a [transient](StoreError::is_transient) error, as on a full disk, and reads work.
    /// Points that are already in the log are still merged into blocks, so the files may exceed it by some
    /// 100 MiB. A file of blocks does not shrink before the store is closed, but space that
    /// [retention](Self::keep) frees in it is used again.
    #[must_use]
    pub fn max_disk_bytes(mut self, bytes: u64) -> Self {
        self.options.max_disk_bytes = bytes;
        self
    }

    /// Sets how much memory is used to cache blocks, in bytes. Default: 64 MiB.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    /// Sets whether a damaged log is an error. Default: false, what can be read is used, and the rest is
    /// logged and counted.
    #[must_use]
    pub fn strict(mut self, is_strict: bool) -> Self {
        self.options.is_strict = is_strict;
        self
    }

    /// Sets whether a folder that is missing or empty becomes a store. Default: true; otherwise that is
    /// [`OpenError::NotAStore`].
    #[must_use]
    pub fn create_missing(mut self, create: bool) -> Self {
        self.options.creates_missing = create;
        self
    }

    /// Opens the store in a folder, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    ///
    /// The folder may stay in use for a moment.
    pub async fn open(self, dir: impl Into<PathBuf>) -> Result<DiskStore, OpenError> {
        let dir = dir.into();
        let opened = spawn_blocking(move || {
            let database = Database::File(dir.join(open::DATABASE));
            self.open_on(OsFileSystem, &dir, database)
        });
        opened.await.unwrap_or_else(|error| Err(OpenError::Log(Box::new(error))))
    }

    fn open_on<F>(self, fs: F, dir: &Path, database: Database) -> Result<DiskStore, OpenError>
    where
        F: FileSystem + Clone + Send + 'static,
        F::File: Send,
    {
        Ok(DiskStore { shared: open::open(fs, dir, database, self.options)? })
    }
}

impl Store for DiskStore {
    type Snapshot = DiskSnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        admission::check_room(&self.shared)?;
        let rejected = admission::rejected(&self.shared, puts);
        let is_kept = |put| rejected.binary_search_by_key(&put, |(index, _)| *index).is_err();
        let kept = (!rejected.is_empty()).then(|| puts.filtered(is_kept));
        let puts = kept.as_ref().unwrap_or(puts);
        if puts.is_empty() {
            // Nothing to write.
        } else if puts.bytes() <= MAX_BATCH_BYTES {
            self.shared.queue.submit(puts).await?.await?;
        } else {
            for puts in puts.split(MAX_BATCH_BYTES) {
                self.shared.queue.submit(&puts).await?.await?;
            }
        }
        if rejected.is_empty() { Ok(()) } else { Err(StoreError::of_puts(rejected)) }
    }

    async fn get(&self, selector: &Selector) -> Result<DiskSnapshot, StoreError> {
        self.shared.snapshot(selector, i64::MIN..=i64::MAX)
    }

    async fn get_range(
        &self,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> Result<RangeSnapshot<DiskSnapshot>, StoreError> {
        let snapshot = self.shared.snapshot(selector, seconds.clone())?;
        Ok(RangeSnapshot::new(snapshot, seconds))
    }

    async fn last(&self, key: &Key) -> Result<Option<Point>, StoreError> {
        let Some((parts, id)) = self.shared.parts_with(key)? else { return Ok(None) };
        let last = parts.last(key, id).await?;
        Ok(last.filter(|last| last.timestamp >= self.shared.cutoff()))
    }

    async fn keys(&self, pattern: &KeyPattern) -> Result<Vec<Key>, StoreError> {
        let names = self.shared.names();
        Ok(names.iter().filter(|key| pattern.matches(key.as_str())).cloned().collect())
    }
}
