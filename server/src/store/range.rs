//! A snapshot that shows a range of seconds.

use std::ops::RangeInclusive;

use metrics_client::{Key, Point};

use super::{Block, Snapshot, StoreError};

/// The points of a [`Snapshot`] within a range of seconds; returned by
/// [`Store::get_range`](super::Store::get_range).
#[derive(Clone, Debug)]
pub struct RangeSnapshot<S> {
    snapshot: S,
    seconds: RangeInclusive<i64>,
    key: Option<Key>,
    points: Vec<Point>,
}

impl<S> RangeSnapshot<S> {
    /// Restricts `snapshot` to the points of `seconds`.
    #[must_use]
    pub fn new(snapshot: S, seconds: RangeInclusive<i64>) -> Self {
        Self { snapshot, seconds, key: None, points: Vec::new() }
    }
}

impl<S: Snapshot> Snapshot for RangeSnapshot<S> {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        self.points.clear();
        while let Some(Block { key, points }) = self.snapshot.next_block().await? {
            let begin = points.partition_point(|point| point.timestamp < *self.seconds.start());
            let end = points.partition_point(|point| point.timestamp <= *self.seconds.end());
            if let Some(points) = points.get(begin..end).filter(|points| !points.is_empty()) {
                self.points.extend_from_slice(points);
                self.key = Some(key.clone());
                break;
            }
        }
        let block = self.key.as_ref().map(|key| Block { key, points: &self.points });
        Ok(block.filter(|block| !block.points.is_empty()))
    }
}
