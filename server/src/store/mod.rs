//! Stores: where a server keeps its points.
//!
//! A [`Store`] applies batches of puts and returns snapshots. [`MemoryStore`] keeps its points in memory.
//! This module knows nothing about the protocol or sockets.

use std::{error::Error, fmt, future::Future, ops::RangeInclusive, sync::Arc};

use futures_util::{Stream, stream};

use metrics_client::{Key, Metrics, Point, Sample, Selector};

mod accounting;
mod batch;
mod chunk_pool;
#[cfg(feature = "clickhouse")]
mod clickhouse;
#[cfg(feature = "disk")]
mod disk;
mod index;
#[cfg(any(feature = "clickhouse", feature = "disk"))]
mod keep;
mod memory;
mod pattern;
mod points;
mod range;
mod tee;

pub use batch::{Iter, PutBatch};
#[cfg(feature = "clickhouse")]
#[cfg_attr(docsrs, doc(cfg(feature = "clickhouse")))]
pub use clickhouse::{
    ClickHouseError, ClickHouseOptions, ClickHouseSnapshot, ClickHouseStats, ClickHouseStore,
    InvalidClickHouseUrl,
};
#[cfg(feature = "disk")]
#[cfg_attr(docsrs, doc(cfg(feature = "disk")))]
pub use disk::{
    Backup, BackupError, BackupWriter, CheckReport, Damage, Deleted, Deletion, DiskSnapshot,
    DiskStats, DiskStore, DiskStoreBuilder, Fsync, OpenError, Progress, check,
};
#[cfg(feature = "disk")]
#[doc(hidden)]
pub use disk::{fuzz_block, fuzz_record};
pub use memory::{MemorySnapshot, MemoryStore};
pub use pattern::KeyPattern;
pub use range::RangeSnapshot;
pub use tee::{Applied, Subscription, Tee};

/// A store of points, one for each key and second.
///
/// A server calls it from many connections concurrently. To use the store while a server serves it, pass
/// the server an [`Arc`] of it, which is a store too.
///
/// # Blocking
///
/// The futures of a store and of its snapshots run on the server's runtime, so they must not block the
/// thread: a call that waits for a disk or a lock belongs in
/// [`spawn_blocking`](tokio::task::spawn_blocking) or in a thread of the store. A store that blocks delays
/// every connection on the same worker thread, and no timeout can end such a call; a server that shuts
/// down leaves it behind after [`shutdown_grace`](crate::Limits::shutdown_grace). A future that waits
/// without blocking is dropped after [`store_timeout`](crate::Limits::store_timeout).
pub trait Store: Send + Sync + 'static {
    /// The type of snapshots that reads return.
    type Snapshot: Snapshot;

    /// Applies `puts` in order: a later put of the same key and second replaces the value.
    ///
    /// When this returns `Ok`, each put is as durable as the store promises, and every
    /// [`get`](Self::get) that begins afterwards sees it. One peer wrote the puts of a batch without
    /// waiting, so a store may lock or sync once for all of them.
    ///
    /// # Errors
    ///
    /// If not every put can be stored. The kind of error decides what the server answers:
    ///
    /// - [`StoreError::transient`] is for a failure that may pass: a full disk, a database that cannot be
    ///   reached. The server does not answer the puts, and closes the connection; a client then retries
    ///   them until they are stored or their deadline passes.
    /// - [`StoreError::new`] is final: each put is answered with this error, and a client does not retry
    ///   it.
    /// - [`StoreError::of_puts`] has an outcome for each put, so that a rejected put does not fail the
    ///   others of its batch.
    ///
    /// The first two are the outcome of every put of the batch. Puts are idempotent, so some of them may
    /// have been applied nevertheless.
    ///
    /// # Cancel safety
    ///
    /// A server drops this future after [`store_timeout`](crate::Limits::store_timeout), and when it shuts
    /// down after [`shutdown_grace`](crate::Limits::shutdown_grace). Each put must then have been applied
    /// or not, and the store must stay consistent.
    fn apply(&self, puts: &PutBatch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns a snapshot of what `selector` selects, as of one moment between this call and its return.
    ///
    /// Later puts are not visible in it, however slowly it is read, and reading it blocks no other call.
    /// The snapshot of an unknown key is empty.
    ///
    /// # Errors
    ///
    /// If the store cannot be read. After a [`StoreError::transient`] the server closes the connection, and
    /// the client retries.
    fn get(
        &self,
        selector: &Selector,
    ) -> impl Future<Output = Result<Self::Snapshot, StoreError>> + Send;

    /// Returns a snapshot as [`get`](Self::get) does, restricted to the points of `seconds`.
    ///
    /// The default reads every point of the selected keys; a store that can seek should override it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    fn get_range(
        &self,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> impl Future<Output = Result<RangeSnapshot<Self::Snapshot>, StoreError>> + Send {
        async move { Ok(RangeSnapshot::new(self.get(selector).await?, seconds)) }
    }

    /// Returns the keys that match `pattern`, in the order of their first put.
    ///
    /// The default reads the entire store; a store with a list of its keys should override it. All keys
    /// that match are in memory at once.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    fn keys(
        &self,
        pattern: &KeyPattern,
    ) -> impl Future<Output = Result<Vec<Key>, StoreError>> + Send {
        async move {
            let mut snapshot = self.get(&Selector::All).await?;
            let mut keys = Vec::<Key>::new();
            while let Some(Block { key, .. }) = snapshot.next_block().await? {
                if keys.last() != Some(key) && pattern.matches(key.as_str()) {
                    keys.push(key.clone());
                }
            }
            Ok(keys)
        }
    }

    /// Returns the point of `key` with the latest second; `None` if there is no point.
    ///
    /// The default reads every point of the key; a store that can seek should override it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    fn last(&self, key: &Key) -> impl Future<Output = Result<Option<Point>, StoreError>> + Send {
        async move {
            let mut snapshot = self.get(&Selector::Key(key.clone())).await?;
            let mut last = None;
            while let Some(block) = snapshot.next_block().await? {
                last = block.points.last().copied().or(last);
            }
            Ok(last)
        }
    }
}

impl<S: Store> Store for Arc<S> {
    type Snapshot = S::Snapshot;

    fn apply(&self, puts: &PutBatch) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::apply(self, puts)
    }

    fn get(
        &self,
        selector: &Selector,
    ) -> impl Future<Output = Result<S::Snapshot, StoreError>> + Send {
        S::get(self, selector)
    }

    fn get_range(
        &self,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> impl Future<Output = Result<RangeSnapshot<S::Snapshot>, StoreError>> + Send {
        S::get_range(self, selector, seconds)
    }

    fn keys(
        &self,
        pattern: &KeyPattern,
    ) -> impl Future<Output = Result<Vec<Key>, StoreError>> + Send {
        S::keys(self, pattern)
    }

    fn last(&self, key: &Key) -> impl Future<Output = Result<Option<Point>, StoreError>> + Send {
        S::last(self, key)
    }
}

/// The state of a store at one moment, read block by block.
pub trait Snapshot: Send + 'static {
    /// Reads the next block. Returns `None` after the last one.
    ///
    /// Keys are in the order of their first put; the blocks of one key are consecutive, and its points
    /// ascend by timestamp, one for each second.
    ///
    /// # Errors
    ///
    /// If the store cannot be read. The snapshot cannot be used any more.
    fn next_block(&mut self) -> impl Future<Output = Result<Option<Block<'_>>, StoreError>> + Send;

    /// Reads the rest of the snapshot into memory.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    fn into_metrics(mut self) -> impl Future<Output = Result<Metrics, StoreError>> + Send
    where
        Self: Sized,
    {
        async move {
            let mut samples = Vec::new();
            while let Some(Block { key, points }) = self.next_block().await? {
                samples.extend(points.iter().map(|&point| Sample { key: key.clone(), point }));
            }
            Ok(samples.into_iter().collect())
        }
    }

    /// Returns the rest of the snapshot as a stream of samples. It ends after the first error.
    fn into_stream(self) -> impl Stream<Item = Result<Sample, StoreError>> + Send
    where
        Self: Sized,
    {
        stream::try_unfold((self, Vec::new().into_iter()), |(mut snapshot, mut samples)| async {
            loop {
                if let Some(sample) = samples.next() {
                    return Ok(Some((sample, (snapshot, samples))));
                }
                let Some(Block { key, points }) = snapshot.next_block().await? else {
                    return Ok(None);
                };
                let block = points.iter().map(|&point| Sample { key: key.clone(), point });
                samples = block.collect::<Vec<_>>().into_iter();
            }
        })
    }
}

/// Consecutive points of one key.
///
/// A reader holds one block in memory at a time; a store limits it to some thousands of points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block<'a> {
    /// The key of the points.
    pub key: &'a Key,
    /// The points, ascending by timestamp.
    pub points: &'a [Point],
}

/// An error of a store.
///
/// Its `Display` is the message that a server sends to the peer: one short line. Its source is written to
/// the server's log only.
///
/// ```
/// use metrics_server::store::StoreError;
///
/// let full = StoreError::transient("disk full");
/// assert!(full.is_transient());
/// // The second put of a batch is rejected, the others are stored.
/// let one = StoreError::of_puts([(1, StoreError::new("no such tenant"))]);
/// assert!(one.of_put(0).is_none());
/// assert_eq!(one.of_put(1).unwrap().to_string(), "no such tenant");
/// ```
#[derive(Clone, Debug)]
pub struct StoreError {
    message: Box<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    kind: StoreErrorKind,
}

#[derive(Clone, Debug)]
enum StoreErrorKind {
    Final,
    Transient,
    /// The failed puts of a batch, ascending by index.
    OfPuts(Box<[(usize, StoreError)]>),
}

impl StoreError {
    /// Creates a final error: `message` is the answer to the request, such as `no such tenant`, and clients
    /// do not retry the request.
    #[must_use]
    pub fn new(message: impl Into<Box<str>>) -> Self {
        Self { message: message.into(), source: None, kind: StoreErrorKind::Final }
    }

    /// Creates a transient error, such as `disk full`: the same request may succeed later.
    ///
    /// The server does not answer the request but closes the connection, because a client takes an `error`
    /// for final and would lose the data. It retries what was not answered. The message is written to the
    /// server's log.
    #[must_use]
    pub fn transient(message: impl Into<Box<str>>) -> Self {
        Self { message: message.into(), source: None, kind: StoreErrorKind::Transient }
    }

    /// Creates the outcome of a batch of which some puts failed: their indices in the [`PutBatch`], in any
    /// order, with their errors. All other puts of the batch were applied.
    ///
    /// An index beyond the batch is ignored. If one put has several errors, the first counts.
    #[must_use]
    pub fn of_puts(errors: impl IntoIterator<Item = (usize, Self)>) -> Self {
        let mut errors: Vec<_> = errors.into_iter().collect();
        errors.sort_by_key(|&(index, _)| index);
        errors.dedup_by_key(|&mut (index, _)| index);
        let message = match &errors[..] {
            [] => "no put failed".into(),
            [(_, first), ..] => format!("{} puts failed, the first with: {first}", errors.len()),
        };
        let kind = StoreErrorKind::OfPuts(errors.into());
        Self { message: message.into(), source: None, kind }
    }

    /// Sets the underlying error, which is logged and not sent to the peer.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into().into()), ..self }
    }

    /// Returns true if the error is transient, so that the request may be retried. The errors of
    /// [`of_puts`](Self::of_puts) are transient if all of them are.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &self.kind {
            StoreErrorKind::Final => false,
            StoreErrorKind::Transient => true,
            StoreErrorKind::OfPuts(errors) => {
                !errors.is_empty() && errors.iter().all(|(_, error)| error.is_transient())
            }
        }
    }

    /// Returns the error of the put with this index in its [`PutBatch`]; `None` if it was applied.
    ///
    /// An error that was not created by [`of_puts`](Self::of_puts) is the outcome of every put.
    #[must_use]
    pub fn of_put(&self, index: usize) -> Option<&Self> {
        let StoreErrorKind::OfPuts(errors) = &self.kind else { return Some(self) };
        let found = errors.binary_search_by_key(&index, |&(index, _)| index).ok()?;
        errors[found].1.of_put(index)
    }

    /// Returns true if it is the outcome of every put of its batch.
    pub(crate) fn is_of_all(&self) -> bool {
        !matches!(self.kind, StoreErrorKind::OfPuts(_))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS S5, S10
    #[test]
    fn store_error_has_one_outcome_for_each_put() {
        let no = |message: &str| StoreError::new(message);
        let some = StoreError::of_puts([(7, no("c")), (2, no("a")), (2, no("b"))]);
        let said = |index| some.of_put(index).map(ToString::to_string);
        assert_eq!([2, 3, 7, 8].map(said), [Some("a".into()), None, Some("c".into()), None]);
        assert_eq!(some.to_string(), "2 puts failed, the first with: a");
        assert!(!some.is_transient() && !some.is_of_all());

        let all = StoreError::transient("disk full").with_source("no space left");
        assert!(all.of_put(5).is_some_and(StoreError::is_transient) && all.is_of_all());
        assert!(StoreError::of_puts([(1, all)]).is_transient());
        assert!(!no("never").is_transient());
        assert!(StoreError::of_puts([]).of_put(0).is_none());
    }
}
