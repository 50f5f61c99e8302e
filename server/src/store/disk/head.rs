//! The points that are in the log and not yet in blocks.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use metrics_client::{Key, Point};

use super::super::{
    accounting::MemoryAccount,
    batch::KeyRun,
    index::ShardedIndex,
    points::{Chunk, Points},
};

/// All keys; the id of a key is its index, in the order of the first puts.
#[derive(Debug, Default)]
pub(super) struct Keys {
    names: Vector<Key>,
    index: ShardedIndex,
}

impl Keys {
    pub(super) fn new(names: Vec<Key>) -> Self {
        let mut keys = Self::default();
        for key in names {
            keys.id_of(key.as_str());
        }
        keys
    }

    pub(super) fn names(&self) -> &Vector<Key> {
        &self.names
    }

    pub(super) fn get(&self, key: &str) -> Option<u32> {
        self.index.get(key).map(|index| index as u32)
    }

    /// Returns the id of `key`, which is added if it is new.
    fn id_of(&mut self, key: &str) -> u32 {
        let names = &mut self.names;
        let index = self.index.get_or_add(key, || {
            let (key, index) = (Key::new(key).expect("a batch holds valid keys"), names.len());
            names.push_back(key.clone());
            (key, index)
        });
        index as u32
    }
}

/// Points by key id. A clone is a snapshot, which costs as much however many there are.
#[derive(Clone, Debug)]
pub(super) struct Head {
    series: OrdMap<u32, Points>,
    accounting: MemoryAccount,
    /// The number of puts, replaced points included.
    puts: usize,
}

impl Head {
    /// Creates an empty head whose memory is counted by `accounting`.
    pub(super) fn new(accounting: &MemoryAccount) -> Self {
        Self { series: OrdMap::new(), accounting: accounting.clone(), puts: 0 }
    }

    /// Applies puts of one key, which is added to `keys` if it is new.
    pub(super) fn apply(&mut self, run: &KeyRun<'_>, keys: &mut Keys) {
        let id = keys.id_of(run.key);
        let points = match self.series.get_mut(&id) {
            Some(points) => points,
            None => self.series.entry(id).or_insert(Points::new(&self.accounting)),
        };
        self.puts += run.points().len();
        run.points().for_each(|point| points.put(point));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.puts == 0
    }

    /// Returns the number of puts, replaced points included.
    pub(super) fn puts(&self) -> usize {
        self.puts
    }

    /// Iterates over the keys in the order of their ids, each with its points in order.
    pub(super) fn series(&self) -> impl Iterator<Item = (u32, impl Iterator<Item = Point>)> {
        self.series.iter().map(|(&id, points)| (id, iterate(points, i64::MIN)))
    }

    /// Returns the point of a key with the latest second.
    pub(super) fn last(&self, id: u32) -> Option<Point> {
        self.series.get(&id).and_then(Points::last)
    }

    /// Iterates over the points of a key from a second on.
    pub(super) fn points(&self, id: u32, from: i64) -> impl Iterator<Item = Point> {
        self.series.get(&id).into_iter().flat_map(move |points| iterate(points, from))
    }
}

fn iterate(points: &Points, from: i64) -> impl Iterator<Item = Point> {
    let mut next = points.chunk_from(from);
    std::iter::from_fn(move || {
        let chunk = next?;
        next = chunk.points().first().and_then(|first| points.chunk(Some(first.timestamp)));
        Some(chunk)
    })
    .flat_map(|chunk: &Arc<Chunk>| chunk.points().iter().copied())
    .skip_while(move |point| point.timestamp < from)
}
