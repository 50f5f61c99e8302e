//! Points in the order in which they are sent, in pieces that are sent, stored and read as a whole.

use std::collections::VecDeque;

use metrics_client::{Point, codec::KeyRef};

use super::queue::Millis;
use crate::store::PutBatch;

/// How many points, and about how many bytes, a batch has at most. Agents send batches of this size to
/// InfluxDB; and one record of the spool, which a flipped bit destroys, is not larger.
pub(super) const MAX_CHUNK_POINTS: usize = 4096;
pub(super) const MAX_CHUNK_BYTES: usize = 128 * 1024;

/// Points that are sent at once.
#[derive(Debug)]
pub(super) struct RelayBatch {
    pub(super) puts: PutBatch,
    /// When the oldest of them was applied.
    pub(super) received: Millis,
}

impl RelayBatch {
    pub(super) fn bytes(&self) -> usize {
        self.puts.bytes()
    }

    fn is_full(&self) -> bool {
        self.puts.len() >= MAX_CHUNK_POINTS || self.bytes() >= MAX_CHUNK_BYTES
    }
}

/// Batches that wait in memory, the oldest first.
#[derive(Debug, Default)]
pub(super) struct RelayBatches {
    chunks: VecDeque<RelayBatch>,
    bytes: usize,
}

impl RelayBatches {
    /// Adds a point behind the others.
    pub(super) fn push(&mut self, key: KeyRef<'_>, point: Point, received: Millis) {
        if self.chunks.back().is_none_or(RelayBatch::is_full) {
            self.chunks.push_back(RelayBatch { puts: PutBatch::new(), received });
        }
        if let Some(last) = self.chunks.back_mut() {
            let before = last.bytes();
            last.puts.push_ref(key, point);
            self.bytes += last.bytes() - before;
        }
    }

    /// Returns true if a chunk is waiting that gets no more points, or would get them too late.
    pub(super) fn has_full(&self) -> bool {
        self.chunks.front().is_some_and(RelayBatch::is_full)
    }

    pub(super) fn pop(&mut self) -> Option<RelayBatch> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes();
        Some(chunk)
    }

    /// Takes all chunks.
    pub(super) fn take(&mut self) -> VecDeque<RelayBatch> {
        self.bytes = 0;
        std::mem::take(&mut self.chunks)
    }

    /// Puts chunks back that were taken.
    pub(super) fn restore(&mut self, chunks: VecDeque<RelayBatch>) {
        self.bytes = chunks.iter().map(RelayBatch::bytes).sum();
        self.chunks = chunks;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns when the oldest point was applied.
    pub(super) fn oldest(&self) -> Option<Millis> {
        self.chunks.front().map(|chunk| chunk.received)
    }
}
