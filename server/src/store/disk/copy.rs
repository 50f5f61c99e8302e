//! Copies a store at one moment to a new database: all of it, or without what is deleted.

use std::ops::RangeInclusive;

use metrics_client::{Key, Point};

use super::{
    block, check::Progress, head::Head, seal::DamagedBlock, snapshot::Parts, writer::DatabaseWriter,
};
use crate::store::KeyPattern;

/// What is not copied.
#[derive(Clone, Debug)]
pub(super) struct Exclusion {
    /// Points before this second.
    pub(super) cutoff: i64,
    /// The points of keys and seconds.
    pub(super) deleted: Option<(KeyPattern, RangeInclusive<i64>)>,
}

/// What was copied, and what was not.
#[derive(Clone, Debug, Default)]
pub(super) struct Copied {
    /// Keys of which points were left out because they are deleted, and how many of these have no point left.
    pub(super) deleted_from: u64,
    pub(super) deleted_keys: u64,
    pub(super) deleted_points: u64,
    /// Blocks that were left out because they are damaged, with their keys.
    pub(super) damaged: Vec<(Key, DamagedBlock)>,
}

/// Copies the points of all keys; to nowhere without a `writer`. `progress` says how many keys are done, and
/// returns false if the copy is not wanted any more.
pub(super) fn copy(
    parts: &Parts,
    excluded: &Exclusion,
    mut writer: Option<&mut DatabaseWriter>,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Copied, redb::Error> {
    let mut copied = Copied::default();
    let total = parts.names.len() as u64;
    for (id, name) in parts.names.iter().enumerate() {
        if !progress(Progress::new(id as u64, total)) {
            return Ok(copied);
        }
        let deleted = excluded.deleted.as_ref().filter(|(keys, _)| keys.matches(name.as_str()));
        let mut key = KeyCopy {
            id: id as u32,
            name,
            cutoff: excluded.cutoff,
            deleted: deleted.map(|(_, seconds)| seconds),
            target: None,
            kept: 0,
            deleted_points: 0,
        };
        key.copy(parts, &mut writer, &mut copied.damaged)?;
        if key.deleted_points > 0 {
            copied.deleted_from += 1;
            copied.deleted_keys += u64::from(key.kept == 0);
            copied.deleted_points += key.deleted_points;
        }
    }
    progress(Progress::new(total, total));
    Ok(copied)
}

/// The copy of one key.
struct KeyCopy<'a> {
    id: u32,
    name: &'a Key,
    cutoff: i64,
    deleted: Option<&'a RangeInclusive<i64>>,
    /// The id of the key in the copy. A key without points has none.
    target: Option<u32>,
    kept: u64,
    deleted_points: u64,
}

impl KeyCopy<'_> {
    fn copy(
        &mut self,
        parts: &Parts,
        writer: &mut Option<&mut DatabaseWriter>,
        damaged: &mut Vec<(Key, DamagedBlock)>,
    ) -> Result<(), redb::Error> {
        let id = self.id;
        if let Some(view) = &parts.blocks {
            let mut points = Vec::new();
            for entry in view.blocks.range((id, i64::MIN)..=(id, i64::MAX))? {
                let (key, block) = entry?;
                let (first, bytes) = (key.value().1, block.value());
                points.clear();
                if block::decode(id, first, bytes, &mut points).is_err() {
                    let block = DamagedBlock { id, first, bytes: bytes.to_vec() };
                    damaged.push((self.name.clone(), block));
                    continue;
                }
                let all = points.len();
                points.retain(|point| self.keeps(point));
                if points.len() < all {
                    self.merge(&points, writer)?;
                } else if let Some(writer) = writer {
                    let target = self.target(writer);
                    writer.add_block(target, (first, all), bytes)?;
                }
                self.kept += points.len() as u64;
            }
        }
        for head in [parts.sealing.as_ref(), Some(&parts.head)].into_iter().flatten() {
            let points = self.of_head(head);
            self.merge(&points, writer)?;
            self.kept += points.len() as u64;
        }
        Ok(())
    }

    fn of_head(&mut self, head: &Head) -> Vec<Point> {
        head.points(self.id, i64::MIN).filter(|point| self.keeps(point)).collect()
    }

    /// Returns false for a point that is left out.
    fn keeps(&mut self, point: &Point) -> bool {
        let is_deleted = self.deleted.is_some_and(|seconds| seconds.contains(&point.timestamp));
        self.deleted_points += u64::from(is_deleted);
        !is_deleted && point.timestamp >= self.cutoff
    }

    fn merge(
        &mut self,
        points: &[Point],
        writer: &mut Option<&mut DatabaseWriter>,
    ) -> Result<(), redb::Error> {
        if let Some(writer) = writer
            && !points.is_empty()
        {
            let target = self.target(writer);
            writer.merge(target, points.to_vec())?;
        }
        Ok(())
    }

    fn target(&mut self, writer: &mut DatabaseWriter) -> u32 {
        *self.target.get_or_insert_with(|| writer.add_key(self.name))
    }
}
