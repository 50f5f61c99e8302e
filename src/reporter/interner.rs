//! Interns keys, so that recording a known key allocates nothing.

use std::{
    collections::HashSet,
    mem,
    sync::{PoisonError, RwLock},
};

use crate::metric::{InvalidKey, Key};

/// The most keys of a generation.
const MAX_KEYS: usize = 32 * 1024;
/// The most bytes of text of a generation's keys: two generations of long names take 8 MiB.
const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// Keys in two generations. When the young one is full, it becomes the old one, and old keys that were not
/// used since are forgotten. The hash is keyed, as in std, because names can come from untrusted input.
#[derive(Debug)]
pub(super) struct KeyInterner {
    generations: RwLock<Generations>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<Key>,
    text: usize,
    old: HashSet<Key>,
}

impl Default for KeyInterner {
    fn default() -> Self {
        Self { generations: RwLock::default(), limit: MAX_KEYS }
    }
}

impl KeyInterner {
    /// Returns the key of this name.
    #[inline]
    pub(super) fn get(&self, name: &str) -> Result<Key, InvalidKey> {
        {
            let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(key) = generations.young.get(name) {
                return Ok(key.clone());
            }
        }
        self.insert(name)
    }

    #[cold]
    fn insert(&self, name: &str) -> Result<Key, InvalidKey> {
        Key::validate(name)?;
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        let Generations { young, text, old } = &mut *generations;
        if let Some(key) = young.get(name) {
            return Ok(key.clone());
        }
        let key = old.take(name).unwrap_or_else(|| Key::from_valid(name));
        let mut forgotten = None;
        if young.len() >= self.limit || *text + name.len() > MAX_TEXT_BYTES {
            *text = 0;
            forgotten = Some(mem::replace(old, mem::take(young)));
        }
        *text += name.len();
        young.insert(key.clone());
        drop(generations);
        drop(forgotten);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(limit: usize) -> KeyInterner {
        KeyInterner { limit, ..KeyInterner::default() }
    }

    /// Returns true if both share their memory.
    fn is_same(one: &Key, other: &Key) -> bool {
        std::ptr::eq(one.as_str(), other.as_str())
    }

    #[test]
    fn known_key_is_shared() {
        let keys = keys(2);
        let first = keys.get("a").unwrap();
        assert!(is_same(&first, &keys.get("a").unwrap()));
    }

    #[test]
    fn keys_in_use_stay_and_others_are_forgotten() {
        let keys = keys(4);
        let used = keys.get("used").unwrap();
        let unused = keys.get("unused").unwrap();
        for passing in 0..100 {
            keys.get(&format!("passing{passing}")).unwrap();
            assert!(is_same(&used, &keys.get("used").unwrap()));
        }
        assert!(!is_same(&unused, &keys.get("unused").unwrap()));
    }

    #[test]
    fn number_of_keys_is_bounded() {
        let keys = keys(4);
        for passing in 0..1000 {
            keys.get(&format!("passing{passing}")).unwrap();
        }
        let generations = keys.generations.read().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 8);
    }

    #[test]
    fn bytes_of_text_are_bounded() {
        let keys = KeyInterner::default();
        let long = "k".repeat(1000);
        for passing in 0..10_000 {
            keys.get(&format!("{long}{passing}")).unwrap();
        }
        let generations = keys.generations.read().unwrap();
        let kept = [&generations.young, &generations.old];
        let text: usize = kept.into_iter().flatten().map(|key| key.as_str().len()).sum();
        assert!(text <= 2 * MAX_TEXT_BYTES, "{text}");
    }

    #[test]
    fn invalid_key_is_not_interned() {
        let keys = keys(4);
        assert!(keys.get("a b").is_err());
        assert!(keys.get("a b").is_err());
        assert!(keys.generations.read().unwrap().young.is_empty());
    }
}
