//! The keys at whose samples the server closes the connection.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::metric::Key;

/// Remembers keys, so that each is logged once.
#[derive(Debug, Default)]
pub(super) struct PoisonKeys(Mutex<HashSet<Key>>);

/// So many keys are logged in the life of a reporter: enough to find the fault, and few enough that
/// names which strangers choose fill neither the log nor the memory.
const MAX_KEYS: usize = 100;

impl PoisonKeys {
    /// Remembers the key, and says whether it is to be logged.
    pub(super) fn is_new(&self, key: &Key) -> bool {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.len() < MAX_KEYS && keys.insert(key.clone())
    }
}
