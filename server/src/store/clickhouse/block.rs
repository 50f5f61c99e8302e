//! Blocks of puts, each one insert.

use bytes::Bytes;
use metrics_client::Point;
use tokio::{
    sync::oneshot::{Receiver, Sender, channel},
    time::Instant,
};

use super::{
    budget::{QueueBudget, QueueReservation},
    row_binary::{put_key, put_point, take_row},
};
use crate::store::StoreError;

/// Rows of one batch for one shard, at most as many as a block has.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) points: Vec<u8>,
    pub(super) len: usize,
    /// Keys that may be new, with the version of their put.
    pub(super) new_keys: Vec<(Box<str>, u64)>,
}

impl Rows {
    pub(super) fn push(&mut self, key: &str, point: Point, version: u64) {
        put_point(&mut self.points, key, point, version);
        self.len += 1;
    }

    /// The memory of the rows in bytes.
    fn bytes(&self) -> usize {
        let key = |(key, _): &(Box<str>, u64)| key.len() + size_of::<(Box<str>, u64)>();
        self.points.len() + self.new_keys.iter().map(key).sum::<usize>()
    }
}

/// Rows of batches that wait for one insert.
///
/// When it is dropped before it is complete, the batches fail.
#[derive(Debug)]
pub(super) struct InsertBlock {
    rows: Rows,
    pub(super) opened: Instant,
    waiting: Vec<Sender<Result<(), StoreError>>>,
    reserved: QueueReservation,
}

impl InsertBlock {
    /// Reserves the memory of `rows`, and creates a block or adds them to `open`, which must have room for them.
    ///
    /// # Errors
    ///
    /// If too much waits already.
    pub(super) fn add(
        open: &mut Option<Self>,
        rows: Rows,
        budget: &QueueBudget,
    ) -> Result<Receiver<Result<(), StoreError>>, StoreError> {
        let full = || StoreError::transient("too many puts wait for ClickHouse");
        let reserved = budget.reserve(rows.bytes()).ok_or_else(full)?;
        let (sender, receiver) = channel();
        match open {
            None => {
                let (opened, waiting) = (Instant::now(), vec![sender]);
                *open = Some(Self { rows, opened, waiting, reserved });
            }
            Some(block) => {
                block.rows.points.extend_from_slice(&rows.points);
                block.rows.len += rows.len;
                block.rows.new_keys.extend(rows.new_keys);
                block.waiting.push(sender);
                block.reserved.merge(reserved);
            }
        }
        Ok(receiver)
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows.len
    }

    /// Returns true if a batch still waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.iter().any(|sender| !sender.is_closed())
    }

    /// Takes what is sent: the same bytes however often it is.
    pub(super) fn encode(&mut self) -> Encoded {
        let mut new_keys = std::mem::take(&mut self.rows.new_keys);
        // The first put of each.
        new_keys.sort_unstable();
        new_keys.dedup_by(|(later, _), (first, _)| later == first);
        let mut keys = Vec::new();
        for (key, version) in &new_keys {
            put_key(&mut keys, key, *version);
        }
        Encoded {
            points: std::mem::take(&mut self.rows.points).into(),
            keys: keys.into(),
            new_keys: new_keys.into_iter().map(|(key, _)| key).collect(),
        }
    }

    /// Ends the wait of all batches.
    pub(super) fn complete(self, outcome: &Result<(), StoreError>) {
        for sender in self.waiting {
            // The batch may wait no longer.
            let _ = sender.send(outcome.clone());
        }
    }
}

/// The bytes of a block.
pub(super) struct Encoded {
    pub(super) points: Bytes,
    /// Rows of the table of keys.
    pub(super) keys: Bytes,
    pub(super) new_keys: Vec<Box<str>>,
}

impl Encoded {
    /// Returns the key, second and version of the first point.
    pub(super) fn first_point(&self) -> Option<(&str, i64, u64)> {
        let (key, fixed) = take_row(&mut &self.points[..], 24).ok()??;
        let number = |at: usize| fixed[at..at + 8].try_into().ok();
        let second = i64::from_le_bytes(number(0)?);
        Some((std::str::from_utf8(key).ok()?, second, u64::from_le_bytes(number(16)?)))
    }
}
