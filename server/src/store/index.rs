//! Where the series of each key is.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use metrics_client::Key;

/// The place of each key.
///
/// A table that is full moves to a larger one, all of it at once: with millions of keys that takes a
/// second, in which nobody else could put or get. So there are many tables, of which each moves a small
/// part.
#[derive(Debug)]
pub(super) struct Index {
    tables: Box<[HashTable<(Key, usize)>]>,
    /// Keyed, since peers choose the keys.
    hasher: RandomState,
}

impl Index {
    pub(super) fn get(&self, key: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        let entry = self.tables[shard_of(hash)].find(hash, |(known, _)| &**known == key);
        entry.map(|&(_, place)| place)
    }

    /// The place of `key`, which is made now if there is none.
    #[inline]
    pub(super) fn get_or_add(&mut self, key: &str, add: impl FnOnce() -> (Key, usize)) -> usize {
        let hash = self.hasher.hash_one(key);
        let table = &mut self.tables[shard_of(hash)];
        if let Some(&(_, place)) = table.find(hash, |(known, _)| &**known == key) {
            return place;
        }
        let added = add();
        let place = added.1;
        table.insert_unique(hash, added, |(key, _)| self.hasher.hash_one(&**key));
        place
    }
}

impl Default for Index {
    fn default() -> Self {
        Self { tables: (0..SHARDS).map(|_| HashTable::new()).collect(), hasher: RandomState::new() }
    }
}

/// A table finds its entries by the lowest and the highest bits of a hash; these are between them.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

/// With six million keys, about as many as the store has room for by default, the largest move is of
/// some fourteen thousand: a few milliseconds.
const SHARDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_the_place_that_it_was_given() {
        let mut index = Index::default();
        let key = |number: usize| Key::new(format!("key.{number}")).unwrap();
        for number in 0..10_000 {
            assert_eq!(index.get(&key(number)), None);
            assert_eq!(index.get_or_add(&key(number), || (key(number), number)), number);
        }
        for number in 0..10_000 {
            assert_eq!(index.get(&key(number)), Some(number));
            assert_eq!(index.get_or_add(&key(number), || unreachable!()), number);
        }
        // No table has much more than its share: 39 keys.
        let largest = index.tables.iter().map(HashTable::len).max().unwrap();
        assert!(largest < 100, "{largest}");
    }

    #[test]
    fn keys_are_hashed_with_a_secret() {
        let hash = || Index::default().hasher.hash_one("a");
        assert_ne!(hash(), hash(), "who knows the hashes can make all keys collide");
    }
}
