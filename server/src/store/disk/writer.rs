//! Writes a new database: for backups, deletions, and what is left of a damaged database.

use std::path::Path;

use metrics_client::{Key, Point};

use super::{
    block,
    blocks::{BLOCKS, GENERATION, META, POINTS, SEALED, commit, insert_keys},
    seal::BlockTable,
};

/// Writes a database that has no readers until it is finished.
#[derive(Debug)]
pub(super) struct DatabaseWriter {
    database: redb::Database,
    generation: u32,
    names: Vec<Key>,
    points: u64,
    pending: Vec<(u32, SeriesPart)>,
    /// How many points `pending` has.
    pending_points: usize,
}

#[derive(Debug)]
enum SeriesPart {
    Points(Vec<Point>),
    /// An intact block of some points, and its first second.
    Block(i64, Vec<u8>),
}

impl DatabaseWriter {
    /// Creates the database. A file that is there is replaced. Its blocks are of this generation.
    pub(super) fn create(
        path: &Path,
        cache_bytes: usize,
        generation: u32,
    ) -> Result<Self, redb::Error> {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(redb::Error::Io(error));
        }
        let database = redb::Database::builder().set_cache_size(cache_bytes).create(path)?;
        let (names, pending) = (Vec::new(), Vec::new());
        let mut writer =
            Self { database, generation, names, points: 0, pending, pending_points: 0 };
        // Creates the tables.
        writer.flush()?;
        Ok(writer)
    }

    /// Adds a key, and returns its id.
    pub(super) fn add_key(&mut self, name: &Key) -> u32 {
        self.names.push(name.clone());
        (self.names.len() - 1) as u32
    }

    pub(super) fn keys(&self) -> u64 {
        self.names.len() as u64
    }

    /// Merges points, ascending by second, into those of a key. They replace those of the same second.
    pub(super) fn merge(&mut self, id: u32, points: Vec<Point>) -> Result<(), redb::Error> {
        self.pending_points += points.len();
        self.pending.push((id, SeriesPart::Points(points)));
        self.flush_if_full()
    }

    /// Adds an intact block, which overlaps no other of its key.
    pub(super) fn add_block(
        &mut self,
        id: u32,
        (first, count): (i64, usize),
        bytes: &[u8],
    ) -> Result<(), redb::Error> {
        let bytes = block::with_key(bytes, id, first, self.generation);
        self.pending_points += count;
        self.points += count as u64;
        self.pending.push((id, SeriesPart::Block(first, bytes)));
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<(), redb::Error> {
        if self.pending_points >= FLUSH_POINTS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            insert_keys(&transaction, self.names.iter())?;
            let mut table = BlockTable::new(transaction.open_table(BLOCKS)?, self.generation);
            for (id, part) in self.pending.drain(..) {
                match part {
                    SeriesPart::Points(points) => table.merge(id, &points)?,
                    SeriesPart::Block(first, bytes) => {
                        table.blocks.insert((id, first), &*bytes)?;
                    }
                }
            }
            self.points = self.points.saturating_add_signed(table.points);
            self.pending_points = 0;
            let mut meta = transaction.open_table(META)?;
            meta.insert(POINTS, self.points)?;
            meta.insert(GENERATION, u64::from(self.generation))?;
        }
        commit(transaction)
    }

    /// Writes what is left, and syncs the file. Entries of the log before `sealed` are in it. Returns the
    /// number of points.
    pub(super) fn finish(mut self, sealed: u64) -> Result<u64, redb::Error> {
        self.flush()?;
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?.insert(SEALED, sealed)?;
        commit(transaction)?;
        // Without the space that merges have left free.
        self.database.compact()?;
        Ok(self.points)
    }
}

/// How many points are written in one transaction: some 16 MB of memory.
const FLUSH_POINTS: usize = 1_000_000;
