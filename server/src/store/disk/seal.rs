//! Merges the points of a head into blocks.

use metrics_client::Point;
use redb::{ReadableTable, StorageError, Table};

use super::block::{self, Header, MAX_POINTS};

/// A table of blocks that is written.
pub(super) struct BlockTable<'txn> {
    /// The blocks by key id and first second. Those of one key do not overlap.
    pub(super) blocks: Table<'txn, (u32, i64), &'static [u8]>,
    /// That of the blocks that are written.
    pub(super) generation: u32,
    /// Points in blocks that are new, minus those in blocks that were removed.
    pub(super) points: i64,
    /// Damaged blocks that were in the way, and were removed.
    pub(super) damaged: Vec<DamagedBlock>,
}

/// A damaged block, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DamagedBlock {
    pub(super) id: u32,
    pub(super) first: i64,
    pub(super) bytes: Vec<u8>,
}

/// A block and where the next one of its key begins.
struct Slot {
    /// The first second of the block, if there is one, and its content.
    block: Option<(i64, Vec<u8>)>,
    /// The first second of the next block.
    next: Option<i64>,
}

impl<'txn> BlockTable<'txn> {
    /// Creates one for the transaction that writes blocks of this generation.
    pub(super) fn new(blocks: Table<'txn, (u32, i64), &'static [u8]>, generation: u32) -> Self {
        Self { blocks, generation, points: 0, damaged: Vec::new() }
    }

    /// Merges points, ascending by second, into the blocks of a key. They replace those of the same second.
    pub(super) fn merge(&mut self, id: u32, mut points: &[Point]) -> Result<(), StorageError> {
        while let Some(first) = points.first() {
            let slot = self.slot(id, first.timestamp)?;
            let len = match slot.next {
                Some(next) => points.partition_point(|point| point.timestamp < next),
                None => points.len(),
            };
            let (new, rest) = points.split_at(len);
            self.merge_slot(id, slot, new)?;
            points = rest;
        }
        Ok(())
    }

    /// Removes the blocks of a key whose points are all older than `cutoff`.
    pub(super) fn expire(&mut self, id: u32, cutoff: i64) -> Result<(), StorageError> {
        loop {
            let oldest = self.blocks.range((id, i64::MIN)..(id, cutoff))?.next().transpose()?;
            let oldest = oldest.map(|(key, block)| (key.value().1, Header::decode(block.value())));
            let Some((first, header)) = oldest else { return Ok(()) };
            match header {
                Some(Header { last, .. }) if last >= cutoff => return Ok(()),
                Some(Header { count, .. }) => {
                    self.blocks.remove((id, first))?;
                    self.points -= count as i64;
                }
                None => self.set_aside(id, first)?,
            }
        }
    }

    /// Returns the block that a point belongs to: the last one that begins at or before it, or else the
    /// first one.
    fn slot(&self, id: u32, second: i64) -> Result<Slot, StorageError> {
        let before = self.blocks.range((id, i64::MIN)..=(id, second))?.next_back().transpose()?;
        let block = match before {
            Some(block) => Some(block),
            None => self.blocks.range((id, second)..=(id, i64::MAX))?.next().transpose()?,
        };
        let block = block.map(|(key, block)| (key.value().1, block.value().to_vec()));
        let next = match block.as_ref().and_then(|&(first, _)| first.checked_add(1)) {
            Some(after) => self.blocks.range((id, after)..=(id, i64::MAX))?.next().transpose()?,
            None => None,
        };
        let next = next.map(|(key, _)| key.value().1);
        Ok(Slot { block, next })
    }

    fn merge_slot(&mut self, id: u32, slot: Slot, new: &[Point]) -> Result<(), StorageError> {
        let Some(begin) = new.first() else { return Ok(()) };
        let mut merged = Vec::new();
        let mut points = new;
        if let Some((first, block)) = slot.block {
            let mut old = Vec::new();
            let header = Header::decode(&block);
            let is_full_before = header
                .is_some_and(|header| header.count >= MAX_POINTS && header.last < begin.timestamp);
            if is_full_before {
                // It stays as it is.
            } else if block::decode(id, first, &block, &mut old).is_err() {
                self.set_aside(id, first)?;
            } else {
                self.blocks.remove((id, first))?;
                self.points -= old.len() as i64;
                merge(&old, new, &mut merged);
                points = &merged;
            }
        }
        // The last block of a key is filled by later points. In the middle, equal parts leave room for more.
        let size = match slot.next {
            None => MAX_POINTS,
            Some(_) => points.len().div_ceil(points.len().div_ceil(MAX_POINTS)),
        };
        for points in points.chunks(size) {
            let Some(first) = points.first() else { continue };
            let block = block::encode(id, self.generation, points);
            self.blocks.insert((id, first.timestamp), &*block)?;
            self.points += points.len() as i64;
        }
        Ok(())
    }

    /// Removes a damaged block.
    fn set_aside(&mut self, id: u32, first: i64) -> Result<(), StorageError> {
        if let Some(block) = self.blocks.remove((id, first))? {
            let count = Header::decode(block.value()).map_or(0, |header| header.count);
            self.points -= count as i64;
            self.damaged.push(DamagedBlock { id, first, bytes: block.value().to_vec() });
        }
        Ok(())
    }
}

/// Merges two ascending lists of points; those of `new` replace those of `old`.
pub(super) fn merge(old: &[Point], new: &[Point], merged: &mut Vec<Point>) {
    merged.reserve(old.len() + new.len());
    let mut old = old;
    for point in new {
        let before = old.partition_point(|other| other.timestamp < point.timestamp);
        merged.extend_from_slice(&old[..before]);
        let is_replaced = |other: &Point| other.timestamp == point.timestamp;
        old = &old[before + usize::from(old.get(before).is_some_and(is_replaced))..];
        merged.push(*point);
    }
    merged.extend_from_slice(old);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use redb::{Database, TableDefinition, backends::InMemoryBackend};

    use super::*;

    const BLOCKS: TableDefinition<'_, (u32, i64), &[u8]> = TableDefinition::new("blocks");

    fn with_tables<T>(test: impl FnOnce(&mut BlockTable<'_>) -> T) -> T {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut tables = BlockTable::new(transaction.open_table(BLOCKS).unwrap(), 1);
        let outcome = test(&mut tables);
        drop(tables);
        transaction.abort().unwrap();
        outcome
    }

    /// Returns the points of a key, and how many each of its blocks has. Checks that they do not overlap.
    fn stored(tables: &BlockTable<'_>, id: u32) -> (Vec<Point>, Vec<usize>) {
        let (mut points, mut lens) = (Vec::<Point>::new(), Vec::new());
        for entry in tables.blocks.range((id, i64::MIN)..=(id, i64::MAX)).unwrap() {
            let (key, block) = entry.unwrap();
            let before = points.len();
            assert!(points.last().is_none_or(|last| last.timestamp < key.value().1));
            block::decode(id, key.value().1, block.value(), &mut points).unwrap();
            lens.push(points.len() - before);
        }
        (points, lens)
    }

    fn points(seconds: impl Iterator<Item = i64>, value: f64) -> Vec<Point> {
        seconds.map(|timestamp| Point { timestamp, value }).collect()
    }

    #[test]
    fn appended_points_fill_the_last_block() {
        with_tables(|tables| {
            for begin in (0..1200).step_by(100) {
                tables.merge(1, &points(begin..begin + 100, 0.5)).unwrap();
            }
            assert_eq!(stored(tables, 1).1, [500, 500, 200]);
        });
    }

    #[test]
    fn points_in_the_middle_split_blocks_evenly() {
        with_tables(|tables| {
            tables.merge(1, &points((0..1500).map(|index| index * 10), 0.5)).unwrap();
            for second in 0..20 {
                tables.merge(1, &points([15 + 10 * second].into_iter(), 1.5)).unwrap();
            }
            let lens = stored(tables, 1).1;
            assert_eq!(lens, [270, 250, 500, 500], "one split for twenty points");
        });
    }

    #[test]
    fn points_written_backwards_do_not_fragment() {
        with_tables(|tables| {
            for second in (0..3000).rev() {
                tables.merge(1, &points([second].into_iter(), 0.5)).unwrap();
            }
            let lens = stored(tables, 1).1;
            assert!(lens.len() <= 13, "{lens:?}");
        });
    }

    #[test]
    fn expired_blocks_are_removed() {
        with_tables(|tables| {
            tables.merge(1, &points(0..1600, 0.5)).unwrap();
            tables.merge(2, &points(0..10, 0.5)).unwrap();
            for id in [1, 2, 3] {
                tables.expire(id, 1100).unwrap();
            }
            assert_eq!((stored(tables, 1).1, stored(tables, 2).1), (vec![500, 100], vec![]));
            assert_eq!((tables.points, tables.damaged.len()), (600, 0));
        });
    }

    #[test]
    fn damaged_block_is_set_aside() {
        with_tables(|tables| {
            tables.merge(1, &points(0..600, 0.5)).unwrap();
            let mut block = tables.blocks.get((1, 500)).unwrap().unwrap().value().to_vec();
            *block.last_mut().unwrap() ^= 1;
            tables.blocks.insert((1, 500), &*block).unwrap();
            tables.merge(1, &points(550..560, 1.5)).unwrap();
            assert_eq!(stored(tables, 1).1, [500, 10]);
            let damaged = DamagedBlock { id: 1, first: 500, bytes: block };
            assert_eq!((tables.points, &*tables.damaged), (510, &[damaged][..]));
            // It is in the way no more, whatever its header says.
            tables.blocks.insert((1, 100_000), &[1, 2, 3][..]).unwrap();
            tables.expire(1, 200_000).unwrap();
            assert_eq!(stored(tables, 1).1, [0usize; 0]);
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn merges_match_a_sorted_map(
            merges in prop::collection::vec(
                (-2000i64..2000, prop_oneof![1..5i64, 1..1500i64], 1i64..20, 0..3u32),
                1..20,
            ),
        ) {
            with_tables(|tables| {
                let mut model = BTreeMap::<(u32, i64), f64>::new();
                for (value, (from, count, step, id)) in merges.into_iter().enumerate() {
                    let new = points((0..count).map(|index| from + index * step), value as f64);
                    model.extend(new.iter().map(|point| ((id, point.timestamp), point.value)));
                    tables.merge(id, &new).unwrap();
                }
                for id in 0..3 {
                    let (points, lens) = stored(tables, id);
                    let expected = model.range((id, i64::MIN)..=(id, i64::MAX));
                    let expected: Vec<_> = expected.map(|(&(_, at), &value)| (at, value)).collect();
                    let points: Vec<_> = points.iter().map(|p| (p.timestamp, p.value)).collect();
                    assert_eq!(points, expected);
                    assert!(lens.iter().all(|len| (1..=MAX_POINTS).contains(len)));
                }
                assert_eq!(tables.points, model.len() as i64);
            });
        }
    }
}
