//! Maps each key to the index of its series.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use metrics_client::Key;

/// A hash map from keys to indices, in many shards.
///
/// A hash table that is full is moved to a larger one at once: with millions of keys that takes a second,
/// in which the store could not be used. Each shard moves a small part only.
#[derive(Debug)]
pub(super) struct ShardedIndex {
    shards: Box<[HashTable<(Key, usize)>]>,
    /// Seeded with a secret, since peers choose the keys.
    hasher: RandomState,
}

impl ShardedIndex {
    /// Returns the index of `key`.
    pub(super) fn get(&self, key: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        let entry = self.shards[shard_of(hash)].find(hash, |(known, _)| known.as_str() == key);
        entry.map(|&(_, index)| index)
    }

    /// Returns the index of `key`; adds what `add` returns if the key is new.
    #[inline]
    pub(super) fn get_or_add(&mut self, key: &str, add: impl FnOnce() -> (Key, usize)) -> usize {
        let hash = self.hasher.hash_one(key);
        let shard = &mut self.shards[shard_of(hash)];
        if let Some(&(_, index)) = shard.find(hash, |(known, _)| known.as_str() == key) {
            return index;
        }
        let added = add();
        let index = added.1;
        shard.insert_unique(hash, added, |(key, _)| self.hasher.hash_one(key.as_str()));
        index
    }
}

impl Default for ShardedIndex {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashTable::new()).collect(), hasher: RandomState::new() }
    }
}

/// A table finds its entries by the lowest and the highest bits of a hash; these bits are between them.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

/// With six million keys, about the default limit of the store, a move has some 14,000 entries and takes
/// a few milliseconds.
const SHARDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_keeps_its_index() {
        let mut index = ShardedIndex::default();
        let key = |number: usize| Key::new(format!("key.{number}")).unwrap();
        for number in 0..10_000 {
            assert_eq!(index.get(key(number).as_str()), None);
            assert_eq!(index.get_or_add(key(number).as_str(), || (key(number), number)), number);
        }
        for number in 0..10_000 {
            assert_eq!(index.get(key(number).as_str()), Some(number));
            assert_eq!(index.get_or_add(key(number).as_str(), || unreachable!()), number);
        }
        // The average is 39 keys.
        let largest = index.shards.iter().map(HashTable::len).max().unwrap();
        assert!(largest < 100, "{largest}");
    }

    #[test]
    fn keys_are_hashed_with_a_secret() {
        let hash = || ShardedIndex::default().hasher.hash_one("a");
        assert_ne!(hash(), hash(), "a peer that knows the hashes can make all keys collide");
    }
}
