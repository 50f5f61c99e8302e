//! A snapshot: the heads over the blocks, at one moment.

use std::{
    ops::{Range, RangeInclusive},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    vec,
};

use imbl::Vector;
use metrics_client::{Key, Point};
use redb::StorageError;
use tokio::task::spawn_blocking;

use super::{
    blocks::{BlocksView, ReadError},
    head::Head,
    read_ahead::ReadAheadShare,
    seal::merge,
};
use crate::store::{Block, Snapshot, StoreError};

/// What a snapshot shows. All of it was taken at one moment.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) names: Vector<Key>,
    pub(super) head: Head,
    /// The head that is being merged into blocks. Its points may be in `blocks` already.
    pub(super) sealing: Option<Head>,
    /// How many heads are in `blocks`.
    pub(super) seals: u64,
    /// `None` if there is no block.
    pub(super) blocks: Option<Arc<BlocksView>>,
}

/// The parts of a snapshot; `None` once it is evicted.
#[derive(Debug)]
pub(super) struct SnapshotData(Mutex<Option<Parts>>);

impl SnapshotData {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Mutex::new(Some(parts)))
    }

    fn replace_blocks(&self, blocks: Arc<BlocksView>) {
        if let Some(parts) = &mut *self.parts() {
            parts.blocks = Some(blocks);
        }
    }

    pub(super) fn evict(&self) -> Option<Parts> {
        self.parts().take()
    }

    fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        // Readers change nothing, and eviction is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a snapshot gets its blocks again after the database was closed.
pub(super) trait Source: std::fmt::Debug + Send + Sync {
    /// Waits until the database is opened again after the blocks `closed` were closed. Returns the same blocks;
    /// `None` if it cannot be opened, if there were more than `seals` since, or if the store is closed.
    fn reopened(&self, seals: u64, closed: Option<Arc<BlocksView>>) -> Reopened<'_>;
}

pub(super) type Reopened<'a> = Pin<Box<dyn Future<Output = Option<Arc<BlocksView>>> + Send + 'a>>;

/// A snapshot of a [`DiskStore`](super::DiskStore).
///
/// It reads up to some 16,000 points at a time, and less if hundreds are open, on Tokio's blocking threads.
#[derive(Debug)]
pub struct DiskSnapshot {
    source: Arc<dyn Source>,
    read_ahead: ReadAheadShare,
    /// `None` while a blocking thread reads, and after an error.
    cursor: Option<Cursor>,
    is_finished: bool,
    read: vec::IntoIter<(Key, Vec<Point>)>,
    /// The last block, kept while it is borrowed.
    block: Option<(Key, Vec<Point>)>,
}

/// Where a snapshot reads on.
#[derive(Clone, Debug)]
struct Cursor {
    data: Arc<SnapshotData>,
    /// The ids that are left.
    ids: Range<u32>,
    seconds: RangeInclusive<i64>,
    /// The next second of the first key.
    from: i64,
}

impl DiskSnapshot {
    /// Creates a snapshot of the keys `ids` with the points of `seconds`.
    pub(super) fn new(
        source: Arc<dyn Source>,
        read_ahead: ReadAheadShare,
        data: Arc<SnapshotData>,
        ids: Range<u32>,
        seconds: RangeInclusive<i64>,
    ) -> Self {
        let from = *seconds.start();
        let is_finished = ids.is_empty() || seconds.is_empty();
        let cursor = Some(Cursor { data, ids, seconds, from });
        Self { source, read_ahead, cursor, is_finished, read: Vec::new().into_iter(), block: None }
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        let failed = || StoreError::new("the snapshot has failed");
        let cursor = self.cursor.take().ok_or_else(failed)?;
        loop {
            let parts = cursor.data.parts().clone().ok_or_else(|| {
                StoreError::transient(
                    "snapshot evicted: too much memory, and this one is the oldest",
                )
            })?;
            let (seals, blocks) = (parts.seals, parts.blocks.clone());
            let max = self.read_ahead.points();
            let (read, next) = if blocks.is_none() {
                cursor.read(&parts, max)
            } else {
                let cursor = cursor.clone();
                let read = spawn_blocking(move || cursor.read(&parts, max));
                read.await.map_err(|error| {
                    StoreError::transient("the snapshot was not read").with_source(error)
                })?
            };
            match read {
                Ok(read) => {
                    self.is_finished = next.ids.is_empty();
                    self.read = read.into_iter();
                    self.cursor = Some(next);
                    return Ok(());
                }
                // The sealer has opened the database again, which holds the same blocks.
                Err(ReadFailure { is_closed: true, error }) => {
                    let reopened = self.source.reopened(seals, blocks).await;
                    cursor.data.replace_blocks(reopened.ok_or(error)?);
                }
                Err(ReadFailure { error, .. }) => return Err(error),
            }
        }
    }
}

impl Snapshot for DiskSnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        self.block = self.read.next();
        while self.block.is_none() && !self.is_finished {
            self.read_more().await?;
            self.block = self.read.next();
        }
        Ok(self.block.as_ref().map(|(key, points)| Block { key, points }))
    }
}

/// A failed read.
struct ReadFailure {
    /// The database was closed, as it is before it is opened again.
    is_closed: bool,
    error: StoreError,
}

impl ReadFailure {
    fn new(key: &Key, error: ReadError) -> Self {
        match error {
            // The same bytes would be read again.
            ReadError::Damaged { first } => {
                let error = StoreError::new(format!("damaged block of {key} at second {first}"));
                Self { is_closed: false, error }
            }
            ReadError::Storage(error) => Self {
                is_closed: matches!(error, StorageError::DatabaseClosed),
                error: StoreError::transient("blocks cannot be read").with_source(error),
            },
        }
    }
}

type Read = Result<Vec<(Key, Vec<Point>)>, ReadFailure>;

impl Cursor {
    /// Reads about `max` points of the next one or more keys, none of them empty. Returns where to read on too.
    fn read(&self, parts: &Parts, max: usize) -> (Read, Self) {
        let mut next = self.clone();
        let read = next.advance(parts, max);
        (read, next)
    }

    fn advance(&mut self, parts: &Parts, max: usize) -> Read {
        let (mut read, mut count) = (Vec::new(), 0);
        while count < max && !self.ids.is_empty() {
            let id = self.ids.start;
            let Some(key) = parts.names.get(id as usize) else { break };
            let (points, next) = parts
                .read(id, (self.from, *self.seconds.end()), max - count)
                .map_err(|error| ReadFailure::new(key, error))?;
            count += points.len();
            if !points.is_empty() {
                read.push((key.clone(), points));
            }
            match next {
                Some(next) => self.from = next,
                None => {
                    self.ids.start += 1;
                    self.from = *self.seconds.start();
                }
            }
            // Keys without points are not counted, and cost a little too.
            count += 1;
        }
        Ok(read)
    }
}

impl Parts {
    /// Returns the point of a key with the latest second.
    pub(super) async fn last(self, key: &Key, id: u32) -> Result<Option<Point>, StoreError> {
        let heads = [self.sealing.as_ref(), Some(&self.head)];
        let in_heads = heads.map(|head| head.and_then(|head| head.last(id)));
        let in_blocks = match self.blocks {
            None => None,
            Some(blocks) => spawn_blocking(move || blocks.last(id))
                .await
                .map_err(|error| {
                    StoreError::transient("the last point was not read").with_source(error)
                })?
                .map_err(|error| ReadFailure::new(key, error).error)?,
        };
        // Of the same second, the newer one counts: it is the last.
        let points = [in_blocks].into_iter().chain(in_heads).flatten();
        Ok(points.max_by_key(|point| point.timestamp))
    }

    /// Reads about `max` points of a key. Returns the second to read on from, if there may be more.
    fn read(
        &self,
        id: u32,
        (from, until): (i64, i64),
        max: usize,
    ) -> Result<(Vec<Point>, Option<i64>), ReadError> {
        let mut end = until;
        let mut points = Vec::new();
        if let Some(blocks) = &self.blocks
            && !blocks.read(id, (from, until), max, &mut points)?
            && let Some(last) = points.last()
        {
            end = last.timestamp;
        }
        // From older to newer.
        for head in [self.sealing.as_ref(), Some(&self.head)].into_iter().flatten() {
            let mut newer: Vec<Point> = head
                .points(id, from)
                .take_while(|point| point.timestamp <= end)
                .take(max.saturating_add(1))
                .collect();
            if newer.len() > max.max(1) {
                newer.pop();
                end = newer.last().map_or(end, |last| last.timestamp);
            }
            if newer.is_empty() {
                continue;
            }
            if points.is_empty() {
                points = newer;
            } else {
                let mut merged = Vec::new();
                merge(&points, &newer, &mut merged);
                points = merged;
            }
        }
        points.truncate(points.partition_point(|point| point.timestamp <= end));
        let next = if end < until { end.checked_add(1) } else { None };
        Ok((points, next))
    }
}
