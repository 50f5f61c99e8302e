//! Which puts are accepted: not too old, of no more keys than allowed, while the folder may grow.

use super::shared::Shared;
use crate::store::{PutBatch, StoreError, keep};

/// Returns an error if the folder has all the bytes that it may have.
///
/// # Errors
///
/// A transient error: retention and deletion make room.
pub(super) fn check_room(shared: &Shared) -> Result<(), StoreError> {
    let (counters, max) = (&shared.counters, shared.options.max_disk_bytes);
    let sizes = [&counters.log_bytes, &counters.block_bytes, &counters.damaged_bytes];
    let bytes = sizes.into_iter().fold(0u64, |bytes, size| bytes.saturating_add(size.get()));
    if bytes < max {
        return Ok(());
    }
    let message = format!("disk full: the folder has {bytes} of {max} bytes that it may have");
    Err(StoreError::transient(message))
}

/// Returns the puts of a batch that are rejected for good, by their index, and counts them.
pub(super) fn rejected(shared: &Shared, puts: &PutBatch) -> Vec<(usize, StoreError)> {
    let mut rejected = Vec::new();
    if let Some(keep) = shared.options.keep {
        rejected = keep::too_old(puts, shared.cutoff(), keep);
        shared.counters.too_old.add(rejected.len() as u64);
    }
    let max_keys = shared.options.max_keys;
    if shared.counters.keys.get() >= max_keys as u64 {
        let new = shared.unknown_keys(puts);
        let error = StoreError::new(format!("too many keys: at most {max_keys} are kept"));
        shared.counters.too_many_keys.add(new.len() as u64);
        let is_old = |index: &usize| rejected.binary_search_by_key(index, |(old, _)| *old).is_ok();
        let new: Vec<_> = new.into_iter().filter(|index| !is_old(index)).collect();
        rejected.extend(new.into_iter().map(|index| (index, error.clone())));
        rejected.sort_unstable_by_key(|(index, _)| *index);
    }
    rejected
}
