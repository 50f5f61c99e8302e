//! The blocks on disk: a redb database of keys, blocks and the position of the log.
//!
//! ```text
//! keys     id:u32 -> name                        the id is the order of the first put
//! blocks   (id:u32, first second:i64) -> block   see `block`
//! damaged  (id:u32, first second:i64) -> block   damaged blocks that a merge has moved here
//! meta     "sealed" -> the number of the first log entry that is not in blocks
//!          "points" -> the number of points in blocks
//! ```

use std::path::PathBuf;

use imbl::Vector;
use metrics_client::{Key, Point};
use redb::{
    ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition,
};

use super::{
    block,
    head::Head,
    seal::{BlockTables, SealOutcome},
};

const KEYS: TableDefinition<'_, u32, &str> = TableDefinition::new("keys");
const BLOCKS: TableDefinition<'_, (u32, i64), &[u8]> = TableDefinition::new("blocks");
const DAMAGED: TableDefinition<'_, (u32, i64), &[u8]> = TableDefinition::new("damaged");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SEALED: &str = "sealed";
const POINTS: &str = "points";

/// The database.
#[derive(Debug)]
pub(super) struct Blocks {
    place: Database,
    cache_bytes: usize,
    /// `None` while it cannot be opened.
    database: Option<redb::Database>,
}

/// Where the database is.
#[derive(Debug)]
pub(super) enum Database {
    File(PathBuf),
    /// A file that fails when a test says so.
    #[cfg(test)]
    Double(super::tests::FaultyFile),
}

/// What the database holds when it is opened.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) keys: Vec<Key>,
    /// The number of the first log entry that is not in blocks.
    pub(super) sealed: u64,
    pub(super) points: u64,
}

/// A head that is merged into blocks.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    pub(super) head: Head,
    /// All keys at the time when the head ended.
    pub(super) names: Vector<Key>,
    /// The number of the first log entry behind the head.
    pub(super) log_end: u64,
}

impl Blocks {
    /// Opens or creates the database.
    pub(super) fn open(
        place: Database,
        cache_bytes: usize,
    ) -> Result<(Self, Contents), redb::Error> {
        let mut blocks = Self { place, cache_bytes, database: None };
        blocks.reopen()?;
        let transaction = blocks.database()?.begin_write()?;
        let contents = {
            let keys = transaction.open_table(KEYS)?;
            transaction.open_table(BLOCKS)?;
            transaction.open_table(DAMAGED)?;
            let meta = transaction.open_table(META)?;
            let number = |name| -> Result<u64, StorageError> {
                Ok(meta.get(name)?.map_or(0, |number| number.value()))
            };
            let (sealed, points) = (number(SEALED)?, number(POINTS)?);
            let mut names = Vec::new();
            for (index, entry) in keys.iter()?.enumerate() {
                let (id, name) = entry?;
                let name = Key::new(name.value()).ok().filter(|_| id.value() as usize == index);
                let name = name.ok_or_else(|| {
                    StorageError::Corrupted(format!("the table of keys has no key {index}"))
                })?;
                names.push(name);
            }
            Contents { keys: names, sealed, points }
        };
        commit(transaction)?;
        Ok((blocks, contents))
    }

    /// Opens the database again. redb refuses to work after an error of the disk until this is done.
    pub(super) fn reopen(&mut self) -> Result<(), redb::Error> {
        // The file is locked by the old one.
        self.database = None;
        let mut builder = redb::Database::builder();
        builder.set_cache_size(self.cache_bytes);
        self.database = Some(match &self.place {
            Database::File(path) => builder.create(path)?,
            #[cfg(test)]
            Database::Double(file) => builder.create_with_backend(file.clone())?,
        });
        Ok(())
    }

    fn database(&self) -> Result<&redb::Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Sets the number of the first log entry that is not in blocks.
    pub(super) fn set_sealed(&self, sealed: u64) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        transaction.open_table(META)?.insert(SEALED, sealed)?;
        commit(transaction)
    }

    /// Merges a head into the blocks, and removes blocks whose points are all older than `cutoff`, in one
    /// transaction. Returns the number of points in blocks too.
    pub(super) fn seal(
        &self,
        sealing: &Sealing,
        cutoff: i64,
    ) -> Result<(SealOutcome, u64), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        let (outcome, points) = {
            let mut keys = transaction.open_table(KEYS)?;
            let known = keys.len()? as usize;
            for (index, key) in sealing.names.iter().enumerate().skip(known) {
                keys.insert(index as u32, key.as_str())?;
            }
            let mut tables = BlockTables {
                blocks: transaction.open_table(BLOCKS)?,
                damaged: transaction.open_table(DAMAGED)?,
                outcome: SealOutcome::default(),
            };
            let mut buffer = Vec::new();
            for (id, points) in sealing.head.series() {
                buffer.clear();
                buffer.extend(points.skip_while(|point| point.timestamp < cutoff));
                tables.merge(id, &buffer)?;
            }
            if cutoff > i64::MIN {
                for id in 0..sealing.names.len() as u32 {
                    tables.expire(id, cutoff)?;
                }
            }
            let outcome = tables.outcome;
            let mut meta = transaction.open_table(META)?;
            let before = meta.get(POINTS)?.map_or(0, |points| points.value());
            let points = before.saturating_add_signed(outcome.points);
            meta.insert(POINTS, points)?;
            meta.insert(SEALED, sealing.log_end)?;
            (outcome, points)
        };
        commit(transaction)?;
        Ok((outcome, points))
    }

    /// Returns a view of the blocks as they are now.
    pub(super) fn view(&self) -> Result<BlocksView, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        Ok(BlocksView { blocks: transaction.open_table(BLOCKS)? })
    }
}

fn commit(mut transaction: redb::WriteTransaction) -> Result<(), redb::Error> {
    // Otherwise one flipped bit after a kill can keep the file from opening.
    transaction.set_quick_repair(true);
    Ok(transaction.commit()?)
}

/// The blocks at one moment.
pub(super) struct BlocksView {
    blocks: ReadOnlyTable<(u32, i64), &'static [u8]>,
}

/// An error of reading blocks.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("damaged block at second {first}")]
    Damaged { first: i64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl BlocksView {
    /// Returns true if there is no block.
    pub(super) fn is_empty(&self) -> Result<bool, StorageError> {
        self.blocks.is_empty()
    }

    /// Appends the points of a key from `from` to `until` to `points`, block by block, until there are at
    /// least `max`. Returns true if all were read.
    pub(super) fn read(
        &self,
        id: u32,
        (from, until): (i64, i64),
        max: usize,
        points: &mut Vec<Point>,
    ) -> Result<bool, ReadError> {
        let before = self.blocks.range((id, i64::MIN)..=(id, from))?.next_back().transpose()?;
        let first = before.map_or(from, |(key, _)| key.value().1);
        for entry in self.blocks.range((id, first)..=(id, until))? {
            if points.len() >= max {
                return Ok(false);
            }
            let (key, block) = entry?;
            let first = key.value().1;
            let header = block::Header::decode(block.value());
            if header.is_some_and(|header| header.last < from) {
                continue;
            }
            let begin = points.len();
            block::decode(id, first, block.value(), points)
                .map_err(|_| ReadError::Damaged { first })?;
            if first < from || header.is_some_and(|header| header.last > until) {
                let block = points.split_off(begin);
                points
                    .extend(block.iter().filter(|point| (from..=until).contains(&point.timestamp)));
            }
        }
        Ok(true)
    }
}

impl std::fmt::Debug for BlocksView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlocksView").finish_non_exhaustive()
    }
}
