//! Keys that are known, so that recording one again allocates nothing.

use std::{
    collections::HashSet,
    mem,
    sync::{PoisonError, RwLock},
};

use crate::metric::{InvalidKey, Key};

/// How many keys a generation has, and how many bytes of text: so a million hosts' names passing
/// through leave 8 MiB behind.
const KEYS: usize = 32 * 1024;
const TEXT: usize = 4 * 1024 * 1024;

/// Keys in two generations. When the younger one is full, it becomes the older one, and what was
/// older and has not been asked for meanwhile is forgotten. Hashing is keyed, as std's is: names can
/// come from strangers.
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
        Self { generations: RwLock::default(), limit: KEYS }
    }
}

impl KeyInterner {
    /// The key of this name.
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
        if young.len() >= self.limit || *text + name.len() > TEXT {
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

    /// Whether both are one piece of memory.
    fn is_same(one: &Key, other: &Key) -> bool {
        std::ptr::eq(one.as_str(), other.as_str())
    }

    #[test]
    fn a_known_key_is_shared() {
        let keys = keys(2);
        let first = keys.get("a").unwrap();
        assert!(is_same(&first, &keys.get("a").unwrap()));
    }

    #[test]
    fn keys_in_use_stay_known_and_others_are_forgotten() {
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
    fn no_more_keys_are_kept_than_may_be() {
        let keys = keys(4);
        for passing in 0..1000 {
            keys.get(&format!("passing{passing}")).unwrap();
        }
        let generations = keys.generations.read().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 8);
    }

    #[test]
    fn no_more_text_is_kept_than_may_be() {
        let keys = KeyInterner::default();
        let long = "k".repeat(1000);
        for passing in 0..10_000 {
            keys.get(&format!("{long}{passing}")).unwrap();
        }
        let generations = keys.generations.read().unwrap();
        let kept = [&generations.young, &generations.old];
        let text: usize = kept.into_iter().flatten().map(|key| key.as_str().len()).sum();
        assert!(text <= 2 * TEXT, "{text}");
    }

    #[test]
    fn what_is_no_key_is_not_kept() {
        let keys = keys(4);
        assert!(keys.get("a b").is_err());
        assert!(keys.get("a b").is_err());
        assert!(keys.generations.read().unwrap().young.is_empty());
    }
}
