//! SQLite: a write-ahead log, synced at each commit.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use metrics_client::{Key, Point};
use rusqlite::{Connection, params};

use super::Database;
use crate::{Outcome, allocated_bytes_of};

/// A database with a table of keys, and one of points whose primary key is all there is.
///
/// Writers that put at the same time send their batches to one thread, which commits all that wait as one
/// transaction: SQLite has one writer at a time, and this is the fastest way to use it.
pub(super) struct Sqlite {
    connection: Connection,
    dir: PathBuf,
}

impl Sqlite {
    pub(super) fn open(dir: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(dir)?;
        let connection = Connection::open(dir.join("points.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA cache_size = -65536;
             CREATE TABLE keys (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
             CREATE TABLE points (
                 key_id INTEGER NOT NULL, second INTEGER NOT NULL, value REAL NOT NULL,
                 PRIMARY KEY (key_id, second)
             ) WITHOUT ROWID;",
        )?;
        // Statements that are used again are not parsed again.
        connection.set_prepared_statement_cache_capacity(16);
        Ok(Self { connection, dir: dir.into() })
    }

    /// Commits batches as one transaction.
    fn commit<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a [(Key, Point)]>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut find = transaction.prepare_cached("SELECT id FROM keys WHERE name = ?1")?;
            let mut add = transaction.prepare_cached("INSERT INTO keys (name) VALUES (?1)")?;
            let mut put =
                transaction.prepare_cached("INSERT OR REPLACE INTO points VALUES (?1, ?2, ?3)")?;
            for (key, point) in batches.flatten() {
                let name = key.as_str();
                let id = match find.query_row([name], |row| row.get(0)) {
                    Err(rusqlite::Error::QueryReturnedNoRows) => add.insert([name])?,
                    id => id?,
                };
                put.execute(params![id, point.timestamp, point.value])?;
            }
        }
        transaction.commit()
    }
}

impl Database for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn put(&mut self, batch: &[(Key, Point)]) -> Outcome {
        Ok(self.commit([batch].into_iter())?)
    }

    fn put_by_many(&mut self, batches: Vec<Vec<Vec<(Key, Point)>>>) -> Outcome {
        let (sender, waiting) = mpsc::channel::<(Vec<(Key, Point)>, mpsc::Sender<()>)>();
        let writers: Vec<_> = batches
            .into_iter()
            .map(|batches| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for batch in batches {
                        let (done, committed) = mpsc::channel();
                        sender.send((batch, done)).expect("the writer runs");
                        committed.recv().expect("the batch is committed");
                    }
                })
            })
            .collect();
        drop(sender);
        while let Ok(first) = waiting.recv() {
            let batches: Vec<_> = [first].into_iter().chain(waiting.try_iter()).collect();
            self.commit(batches.iter().map(|(batch, _)| &batch[..]))?;
            for (_, done) in batches {
                done.send(())?;
            }
        }
        writers.into_iter().for_each(|writer| writer.join().expect("writers do not panic"));
        Ok(())
    }

    fn settle(&mut self) -> Outcome<u64> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(allocated_bytes_of(&self.dir)?)
    }

    fn scan(&mut self) -> Outcome<usize> {
        let mut points = self.connection.prepare_cached(
            "SELECT name, second, value FROM points JOIN keys ON id = key_id ORDER BY key_id, second",
        )?;
        count(points.query([])?)
    }

    fn get(&mut self, key: &Key) -> Outcome<usize> {
        let mut points = self.connection.prepare_cached(
            "SELECT name, second, value FROM points JOIN keys ON id = key_id WHERE name = ?1 ORDER BY second",
        )?;
        count(points.query([key.as_str()])?)
    }
}

/// Reads the timestamps and values of all rows, and counts them.
fn count(mut rows: rusqlite::Rows<'_>) -> Outcome<usize> {
    let mut points = 0;
    while let Some(row) = rows.next()? {
        std::hint::black_box((row.get_ref(0)?, row.get::<_, i64>(1)?, row.get::<_, f64>(2)?));
        points += 1;
    }
    Ok(points)
}
