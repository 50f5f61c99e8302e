//! Which samples must not overtake those in the spool.

use std::collections::HashMap;

use crate::metric::{Key, Sample};

/// For so many keys it is known exactly what lies in the spool.
const MAX_KEYS: usize = 64 * 1024;

/// Keeps the values of a key and second in their order: a sample that goes to the server directly
/// while an older one of the same second waits in the spool would be replaced by it later. Such a
/// sample has to follow it through the spool.
///
/// It knows, for each key, the latest second that the spool can hold, and holds back whatever is not
/// later. So it takes memory for keys, not for samples, and samples of later seconds pass.
#[derive(Debug, Default)]
pub(in crate::reporter) struct Watermarks {
    latest: HashMap<Key, i64>,
    /// Of all keys that are not in `latest`, and of what an earlier process has left.
    others: Option<i64>,
}

impl Watermarks {
    /// Whether an older sample of the same key and second may lie in the spool.
    pub(in crate::reporter) fn blocks(&self, sample: &Sample) -> bool {
        let timestamp = sample.point.timestamp;
        self.others.is_some_and(|latest| timestamp <= latest)
            || self.latest.get(&sample.key).is_some_and(|&latest| timestamp <= latest)
    }

    /// These lie in the spool from now on.
    pub(in crate::reporter) fn advance(&mut self, samples: &[Sample]) {
        for Sample { key, point } in samples {
            if let Some(latest) = self.latest.get_mut(key) {
                *latest = point.timestamp.max(*latest);
            } else if self.latest.len() < MAX_KEYS {
                self.latest.insert(key.clone(), point.timestamp);
            } else {
                self.advance_all(point.timestamp);
            }
        }
    }

    /// Samples of any key and up to this second lie in the spool.
    pub(in crate::reporter) fn advance_all(&mut self, timestamp: i64) {
        self.others = self.others.max(Some(timestamp));
    }

    /// Nothing lies in the spool.
    pub(in crate::reporter) fn clear(&mut self) {
        self.latest.clear();
        self.others = None;
    }

    /// Whether every sample passes.
    pub(in crate::reporter) fn is_empty(&self) -> bool {
        self.latest.is_empty() && self.others.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(key: &str, timestamp: i64) -> Sample {
        Sample::new(key, 1.0, timestamp).unwrap()
    }

    #[test]
    fn a_second_that_lies_in_the_spool_is_held_back_and_a_later_one_passes() {
        let mut watermarks = Watermarks::default();
        watermarks.advance(&[sample("a", 5), sample("a", 3)]);
        assert!(watermarks.blocks(&sample("a", 5)) && watermarks.blocks(&sample("a", 4)));
        assert!(!watermarks.blocks(&sample("a", 6)) && !watermarks.blocks(&sample("b", 5)));
        watermarks.clear();
        assert!(watermarks.is_empty() && !watermarks.blocks(&sample("a", 5)));
    }

    #[test]
    fn what_an_earlier_process_has_left_holds_back_every_key() {
        let mut watermarks = Watermarks::default();
        watermarks.advance_all(7);
        assert!(watermarks.blocks(&sample("b", 7)) && !watermarks.blocks(&sample("b", 8)));
    }

    #[test]
    fn beyond_a_bound_keys_are_held_back_together() {
        let mut watermarks = Watermarks::default();
        let keys: Vec<Sample> = (0..=MAX_KEYS).map(|n| sample(&format!("k{n}"), 9)).collect();
        watermarks.advance(&keys);
        assert!(keys.iter().all(|sample| watermarks.blocks(sample)));
        assert_eq!(watermarks.latest.len(), MAX_KEYS);
        assert!(!watermarks.blocks(&sample("k0", 10)));
    }
}
