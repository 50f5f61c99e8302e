//! Keys that are known to be in the table of keys.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// The keys whose first put this server has stored, as hashes.
///
/// A key that is not known is inserted once more, which changes nothing. Two keys with the same hash, one pair in some
/// ten million stores of a million keys, lose no point: the second one is listed last, and not among the keys alone.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    hashes: RwLock<HashSet<u64, PassThrough>>,
    /// With a secret, so that no peer can choose keys that collide.
    hasher: RandomState,
}

impl KnownKeys {
    /// Locks the keys for a batch of look-ups.
    pub(super) fn read(&self) -> KnownKeysReader<'_> {
        // Each insertion is one step.
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        KnownKeysReader { hashes, hasher: &self.hasher }
    }

    /// Notes that keys are stored.
    pub(super) fn insert<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        let mut hashes: RwLockWriteGuard<'_, _> =
            self.hashes.write().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if hashes.len() >= MAX_KNOWN {
                // All are inserted once more.
                hashes.clear();
            }
            hashes.insert(self.hasher.hash_one(key));
        }
    }
}

/// Looks keys up.
pub(super) struct KnownKeysReader<'a> {
    hashes: RwLockReadGuard<'a, HashSet<u64, PassThrough>>,
    hasher: &'a RandomState,
}

impl KnownKeysReader<'_> {
    pub(super) fn contains(&self, key: &str) -> bool {
        self.hashes.contains(&self.hasher.hash_one(key))
    }
}

/// How many keys are remembered, in some 18 MiB.
const MAX_KNOWN: usize = 1_000_000;

/// The hasher of hashes.
#[derive(Clone, Debug, Default)]
struct PassThrough;

impl BuildHasher for PassThrough {
    type Hasher = PassedThrough;

    fn build_hasher(&self) -> PassedThrough {
        PassedThrough(0)
    }
}

struct PassedThrough(u64);

impl Hasher for PassedThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stored_keys_are_known() {
        let keys = KnownKeys::default();
        keys.insert(["a", "b"]);
        let read = keys.read();
        assert_eq!(["a", "b", "c"].map(|key| read.contains(key)), [true, true, false]);
    }
}
