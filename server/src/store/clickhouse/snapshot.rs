//! Reads: the statements, and the answers block by block.

use std::{fmt::Write, ops::RangeInclusive};

use metrics_client::{Key, Point};

use super::{
    cluster::RowStream,
    error::ClickHouseError,
    row_binary::{point, take_row},
    schema::Schema,
};
use crate::store::{Block, Snapshot, StoreError};

/// A snapshot of a [`ClickHouseStore`](super::ClickHouseStore): the answer to one query, which is read as it arrives.
///
/// ClickHouse waits while it is not read, and ends the query after a time of its own (`http_send_timeout`); the snapshot then
/// fails.
#[derive(Debug)]
pub struct ClickHouseSnapshot {
    rows: RowStream,
    /// What has arrived, and how much of it has been read.
    buffer: Vec<u8>,
    read: usize,
    /// The key of all rows, if they do not name one.
    only: Option<Key>,
    key: Option<Key>,
    points: Vec<Point>,
    /// The last row has been read.
    has_ended: bool,
}

impl ClickHouseSnapshot {
    /// Reads the rows of [`select_all`], or if a key is given, of [`select_key`] or [`select_last`].
    pub(super) fn new(rows: RowStream, only: Option<Key>) -> Self {
        Self {
            rows,
            buffer: Vec::new(),
            read: 0,
            only,
            key: None,
            points: Vec::new(),
            has_ended: false,
        }
    }

    /// Reads rows from the buffer. Returns true if a block is complete.
    fn take_rows(&mut self) -> Result<bool, &'static str> {
        let mut rest = &self.buffer[self.read..];
        let mut is_complete = false;
        while self.points.len() < MAX_BLOCK_POINTS {
            let mut behind = rest;
            let row = take_row(&mut behind, POINT_BYTES).map_err(|_| "a key is too long")?;
            let Some((key, fixed)) = row else { break };
            if self.has_ended {
                return Err("there are rows behind the last one");
            }
            if key.is_empty() {
                self.has_ended = true;
                rest = behind;
                continue;
            }
            let is_same = match &self.key {
                Some(current) => self.only.is_some() || current.as_str().as_bytes() == key,
                None => false,
            };
            if !is_same {
                if !self.points.is_empty() {
                    is_complete = true;
                    break;
                }
                self.key = Some(match &self.only {
                    Some(only) => only.clone(),
                    None => {
                        let name = std::str::from_utf8(key).ok().map(Key::new);
                        name.and_then(Result::ok).ok_or("a key is invalid")?
                    }
                });
            }
            self.points.push(point(fixed));
            rest = behind;
        }
        self.read = self.buffer.len() - rest.len();
        Ok(is_complete || self.points.len() >= MAX_BLOCK_POINTS)
    }

    fn invalid(&self, what: &'static str) -> StoreError {
        ClickHouseError::invalid_answer(self.rows.host(), what).into()
    }

    async fn fill(&mut self) -> Result<bool, ClickHouseError> {
        let Some(bytes) = self.rows.next().await? else { return Ok(false) };
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(&bytes);
        Ok(true)
    }
}

impl Snapshot for ClickHouseSnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        self.points.clear();
        loop {
            match self.take_rows() {
                Ok(true) => break,
                Ok(false) => {}
                Err(what) => return Err(self.invalid(what)),
            }
            if !self.fill().await? {
                if !self.has_ended || self.read < self.buffer.len() {
                    // ClickHouse ends the body of an answer that failed as it ends any other.
                    return Err(self.invalid("it is incomplete"));
                }
                break;
            }
        }
        let block = self.key.as_ref().map(|key| Block { key, points: &self.points });
        Ok(block.filter(|block| !block.points.is_empty()))
    }
}

/// How many points a block has at most.
const MAX_BLOCK_POINTS: usize = 4096;

/// A second and a value.
const POINT_BYTES: usize = 16;

/// The statement that reads all points of `seconds`, keys in the order of their first put.
///
/// The last row has an empty key, which no point has: without it the answer is incomplete. ClickHouse writes an
/// exception behind the rows that it has sent, and then ends the body.
pub(super) fn select_all(schema: &Schema, seconds: &RangeInclusive<i64>) -> String {
    let (points, keys) = (schema.points(), schema.keys());
    let within = condition(None, seconds);
    format!(
        "SELECT k, ts, v FROM (\
         SELECT inv, k, ts, v FROM (SELECT k, ts, v FROM {points} FINAL{within}) AS p \
         ANY LEFT JOIN (SELECT k, max(inv) AS inv FROM {keys} GROUP BY k) AS f USING k \
         UNION ALL SELECT toUInt64(0) AS inv, '' AS k, toInt64(0) AS ts, toFloat64(0) AS v\
         ) ORDER BY k = '', inv DESC, k, ts"
    )
}

/// The statement that reads the points of a key; each row but the last has a `k` in place of the key.
pub(super) fn select_key(schema: &Schema, key: &Key, seconds: &RangeInclusive<i64>) -> String {
    let within = condition(Some(key), seconds);
    format!(
        "SELECT k, ts, v FROM (SELECT 'k' AS k, ts, v FROM (SELECT ts, v FROM {} FINAL{within}) \
         UNION ALL SELECT '' AS k, toInt64(0) AS ts, toFloat64(0) AS v) ORDER BY k = '', ts",
        schema.points()
    )
}

/// The statement that reads the last point of a key; `from` is the first second that counts.
pub(super) fn select_last(schema: &Schema, key: &Key, from: i64) -> String {
    let within = condition(Some(key), &(from..=i64::MAX));
    format!(
        "SELECT k, ts, v FROM (SELECT 'k' AS k, ts, v FROM \
         (SELECT ts, v FROM {}{within} ORDER BY ts DESC, ver DESC LIMIT 1) \
         UNION ALL SELECT '' AS k, toInt64(0) AS ts, toFloat64(0) AS v) ORDER BY k = ''",
        schema.points()
    )
}

/// The statement that reads the keys that begin with `prefix`, in the order of their first put.
pub(super) fn select_keys(schema: &Schema, prefix: &str) -> String {
    let within = if prefix.is_empty() {
        String::new()
    } else {
        format!(" WHERE startsWith(k, {})", literal(prefix))
    };
    format!(
        "SELECT k FROM (SELECT k, max(inv) AS inv FROM {}{within} GROUP BY k \
         UNION ALL SELECT '' AS k, toUInt64(0) AS inv) ORDER BY k = '', inv DESC, k",
        schema.keys()
    )
}

/// The statement that counts the rows of a point that are `version` or newer.
pub(super) fn select_written(schema: &Schema, key: &str, second: i64, version: u64) -> String {
    format!(
        "SELECT count() FROM {} WHERE k = {} AND ts = {second} AND ver >= {version}",
        schema.points(),
        literal(key)
    )
}

fn condition(key: Option<&Key>, seconds: &RangeInclusive<i64>) -> String {
    let mut conditions = Vec::new();
    conditions.extend(key.map(|key| format!("k = {}", literal(key.as_str()))));
    if *seconds.start() > i64::MIN {
        conditions.push(format!("ts >= {}", seconds.start()));
    }
    if *seconds.end() < i64::MAX {
        conditions.push(format!("ts <= {}", seconds.end()));
    }
    if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    }
}

/// A text as a constant of a statement, whatever is in it.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(9 + 2 * text.len());
    literal.push_str("unhex('");
    for byte in text.bytes() {
        // Writing to memory does not fail.
        let _ = write!(literal, "{byte:02x}");
    }
    literal.push_str("')");
    literal
}

/// Reads the keys of [`select_keys`].
pub(super) async fn read_keys(
    mut rows: RowStream,
    mut keep: impl FnMut(&str) -> bool,
) -> Result<Vec<Key>, ClickHouseError> {
    let (mut buffer, mut keys, mut has_ended) = (Vec::new(), Vec::new(), false);
    while let Some(bytes) = rows.next().await? {
        buffer.extend_from_slice(&bytes);
        let mut rest = &buffer[..];
        loop {
            let invalid = |what| ClickHouseError::invalid_answer(rows.host(), what);
            let row = take_row(&mut rest, 0).map_err(|_| invalid("a key is too long"))?;
            let Some((key, _)) = row else { break };
            if has_ended {
                return Err(invalid("there are rows behind the last one"));
            }
            if key.is_empty() {
                has_ended = true;
                continue;
            }
            let name = std::str::from_utf8(key).map_err(|_| invalid("a key is invalid"))?;
            if keep(name) {
                keys.push(Key::new(name).map_err(|_| invalid("a key is invalid"))?);
            }
        }
        let read = buffer.len() - rest.len();
        buffer.drain(..read);
    }
    if has_ended && buffer.is_empty() {
        return Ok(keys);
    }
    Err(ClickHouseError::invalid_answer(rows.host(), "it is incomplete"))
}
