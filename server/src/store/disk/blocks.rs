//! The blocks on disk: a redb database of keys, blocks and the position of the log.
//!
//! ```text
//! keys     id:u32 -> crc:u32 name                the id is the order of the first put
//! names    id:u32 -> crc:u32 name                the same, for a database that is damaged
//! blocks   (id:u32, first second:i64) -> block   see `block`
//! meta     "sealed"     -> the number of the first log entry that is not in blocks
//!          "points"     -> the number of points in blocks
//!          "generation" -> that of the last transaction
//! ```
//!
//! The CRC-32 of a name covers its id too, so that `salvage` can tell both from other bytes.

use std::{
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    time::Instant,
};

use imbl::Vector;
use metrics_client::{Key, Point};
use redb::{
    ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition,
};

use super::{
    block,
    head::Head,
    seal::{BlockTable, DamagedBlock},
};

pub(super) const KEYS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("keys");
pub(super) const NAMES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("names");
pub(super) const BLOCKS: TableDefinition<'_, (u32, i64), &[u8]> = TableDefinition::new("blocks");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const SEALED: &str = "sealed";
pub(super) const POINTS: &str = "points";
pub(super) const GENERATION: &str = "generation";

/// The database.
#[derive(Debug)]
pub(super) struct Blocks {
    place: Database,
    cache_bytes: usize,
    /// The number of the first log entry that is not in blocks.
    sealed: u64,
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

impl Database {
    /// Returns where the file is.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            #[cfg(test)]
            Self::Double(_) => None,
        }
    }
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
    /// When its first put was applied.
    pub(super) since: Option<Instant>,
}

impl Blocks {
    /// Opens or creates the database.
    pub(super) fn open(
        place: Database,
        cache_bytes: usize,
    ) -> Result<(Self, Contents), redb::Error> {
        let mut blocks = Self { place, cache_bytes, sealed: 0, database: None };
        blocks.reopen()?;
        let transaction = blocks.database()?.begin_write()?;
        let contents = {
            let keys = transaction.open_table(KEYS)?;
            let copies = transaction.open_table(NAMES)?;
            transaction.open_table(BLOCKS)?;
            let meta = transaction.open_table(META)?;
            let number = |name| -> Result<u64, StorageError> {
                Ok(meta.get(name)?.map_or(0, |number| number.value()))
            };
            let (sealed, points) = (number(SEALED)?, number(POINTS)?);
            let mut names = Vec::new();
            for (index, entry) in keys.iter()?.enumerate() {
                let (id, name) = entry?;
                let id = id.value();
                let mut name = decode_name(id, name.value()).filter(|_| id as usize == index);
                if name.is_none() {
                    let copy = copies.get(index as u32)?;
                    name = copy.and_then(|copy| decode_name(index as u32, copy.value()));
                }
                let name = name.ok_or_else(|| {
                    StorageError::Corrupted(format!("the table of keys has no key {index}"))
                })?;
                names.push(name);
            }
            Contents { keys: names, sealed, points }
        };
        commit(transaction)?;
        blocks.sealed = contents.sealed;
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

    /// Closes the database, and returns its file, the memory for its cache, and the number of the first log entry
    /// that is not in blocks.
    pub(super) fn close(&mut self) -> Option<(&Path, usize, u64)> {
        self.database = None;
        Some((self.place.path()?, self.cache_bytes, self.sealed))
    }

    /// Returns the length of the file.
    pub(super) fn bytes(&self) -> u64 {
        let metadata = self.place.path().and_then(|path| std::fs::metadata(path).ok());
        metadata.map_or(0, |metadata| metadata.len())
    }

    fn database(&self) -> Result<&redb::Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Frees the space in the file that is not used. Nothing may be reading, and nothing may be written
    /// afterwards: the next commit would double the file, since it finds no free page.
    pub(super) fn compact(&mut self) -> Result<(), redb::Error> {
        self.database.as_mut().ok_or(redb::Error::DatabaseClosed)?.compact()?;
        Ok(())
    }

    /// Sets the number of the first log entry that is not in blocks.
    pub(super) fn set_sealed(&mut self, sealed: u64) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        transaction.open_table(META)?.insert(SEALED, sealed)?;
        commit(transaction)?;
        self.sealed = sealed;
        Ok(())
    }

    /// Merges a head into the blocks, and removes blocks whose points are all older than `cutoff`, in one
    /// transaction. Returns the number of points in blocks. Damaged blocks that are in the way are removed,
    /// and passed to `set_aside` before.
    pub(super) fn seal(
        &mut self,
        sealing: &Sealing,
        cutoff: i64,
        set_aside: impl FnOnce(&[DamagedBlock]),
    ) -> Result<u64, redb::Error> {
        let transaction = self.database()?.begin_write()?;
        let points = {
            let mut meta = transaction.open_table(META)?;
            let number = |meta: &redb::Table<'_, &str, u64>, name| -> Result<u64, StorageError> {
                Ok(meta.get(name)?.map_or(0, |number| number.value()))
            };
            let generation = number(&meta, GENERATION)?.saturating_add(1);
            insert_keys(&transaction, sealing.names.iter())?;
            let mut table = BlockTable::new(transaction.open_table(BLOCKS)?, generation as u32);
            let mut buffer = Vec::new();
            for (id, points) in sealing.head.series() {
                buffer.clear();
                buffer.extend(points.skip_while(|point| point.timestamp < cutoff));
                table.merge(id, &buffer)?;
            }
            if cutoff > i64::MIN {
                for id in 0..sealing.names.len() as u32 {
                    table.expire(id, cutoff)?;
                }
            }
            if !table.damaged.is_empty() {
                set_aside(&table.damaged);
            }
            let points = number(&meta, POINTS)?.saturating_add_signed(table.points);
            meta.insert(POINTS, points)?;
            meta.insert(SEALED, sealing.log_end)?;
            meta.insert(GENERATION, generation)?;
            points
        };
        commit(transaction)?;
        self.sealed = sealing.log_end;
        Ok(points)
    }

    /// Returns the generation of the last transaction.
    pub(super) fn generation(&self) -> Result<u32, redb::Error> {
        let meta = self.database()?.begin_read()?.open_table(META)?;
        Ok(meta.get(GENERATION)?.map_or(0, |generation| generation.value()) as u32)
    }

    /// Returns a view of the blocks as they are now.
    pub(super) fn view(&self) -> Result<BlocksView, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        Ok(BlocksView { blocks: transaction.open_table(BLOCKS)? })
    }
}

/// Inserts the keys that are new: the ids of all are their indices in `names`.
pub(super) fn insert_keys<'a>(
    transaction: &redb::WriteTransaction,
    names: impl Iterator<Item = &'a Key>,
) -> Result<(), redb::Error> {
    let mut keys = transaction.open_table(KEYS)?;
    let mut copies = transaction.open_table(NAMES)?;
    let known = keys.len()? as usize;
    for (index, key) in names.enumerate().skip(known) {
        let (id, name) = (index as u32, encode_name(index as u32, key.as_str()));
        keys.insert(id, &*name)?;
        copies.insert(id, &*name)?;
    }
    Ok(())
}

fn encode_name(id: u32, name: &str) -> Vec<u8> {
    [&name_crc(id, name.as_bytes()).to_le_bytes(), name.as_bytes()].concat()
}

/// Returns a key, if its bytes are intact.
pub(super) fn decode_name(id: u32, bytes: &[u8]) -> Option<Key> {
    let (crc, name) = bytes.split_first_chunk::<4>()?;
    if name_crc(id, name) != u32::from_le_bytes(*crc) {
        return None;
    }
    Key::new(std::str::from_utf8(name).ok()?).ok()
}

fn name_crc(id: u32, name: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.to_le_bytes());
    crc.update(name);
    crc.finalize()
}

/// Calls redb, which may panic if its file is damaged.
pub(super) fn catch_panic<T>(
    call: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    // The database is opened again after an error, whatever state it is in.
    panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("the database panicked".into())))
}

pub(super) fn commit(mut transaction: redb::WriteTransaction) -> Result<(), redb::Error> {
    // Otherwise one flipped bit after a kill can keep the file from opening.
    transaction.set_quick_repair(true);
    Ok(transaction.commit()?)
}

/// The blocks at one moment.
pub(super) struct BlocksView {
    pub(super) blocks: ReadOnlyTable<(u32, i64), &'static [u8]>,
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

    /// Returns the point of a key with the latest second.
    pub(super) fn last(&self, id: u32) -> Result<Option<Point>, ReadError> {
        let last = self.blocks.range((id, i64::MIN)..=(id, i64::MAX))?.next_back().transpose()?;
        let Some((key, block)) = last else { return Ok(None) };
        let (first, mut points) = (key.value().1, Vec::new());
        block::decode(id, first, block.value(), &mut points)
            .map_err(|_| ReadError::Damaged { first })?;
        Ok(points.pop())
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
