//! Puts that are older than a store keeps points.

use std::time::Duration;

use super::{PutBatch, StoreError};

/// Returns the puts of a batch that are older than `cutoff`, the first second that is kept, by their index.
pub(super) fn too_old(puts: &PutBatch, cutoff: i64, keep: Duration) -> Vec<(usize, StoreError)> {
    let old = puts.iter().enumerate().filter(|(_, (_, point))| point.timestamp < cutoff);
    let error = StoreError::new(format!("older than {}", in_words(keep)));
    old.map(|(index, _)| (index, error.clone())).collect()
}

/// Returns a time in the largest unit that divides it: `30d`, `90s`.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    for (unit, name) in [(24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm')] {
        if seconds > 0 && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}
