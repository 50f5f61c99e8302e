//! Holds back samples that must not overtake stored ones.

use std::collections::HashMap;

use crate::metric::{Key, Sample};

/// The number of keys with a watermark of their own.
const MAX_KEYS: usize = 64 * 1024;

/// Keeps the values of a key and second in order. If a sample were sent directly while an older one of the same
/// key and second waits in the spool, the older value would replace it later. Such a sample has to go through
/// the spool too.
///
/// For each key, the watermark is the latest second that the spool can hold. Samples up to it are held back,
/// later ones pass. So this takes memory for each key, not for each sample.
#[derive(Debug, Default)]
pub(in crate::reporter) struct Watermarks {
    latest: HashMap<Key, i64>,
    /// The watermark of all keys that are not in `latest`, and of the samples of earlier processes.
    others: Option<i64>,
}

impl Watermarks {
    /// Returns whether the spool may hold an older sample of the same key and second.
    pub(in crate::reporter) fn blocks(&self, sample: &Sample) -> bool {
        let timestamp = sample.point.timestamp;
        self.others.is_some_and(|latest| timestamp <= latest)
            || self.latest.get(&sample.key).is_some_and(|&latest| timestamp <= latest)
    }

    /// Notes that these samples are in the spool.
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

    /// Notes that the spool holds samples of any key up to this second.
    pub(in crate::reporter) fn advance_all(&mut self, timestamp: i64) {
        self.others = self.others.max(Some(timestamp));
    }

    /// Notes that the spool is empty.
    pub(in crate::reporter) fn clear(&mut self) {
        self.latest.clear();
        self.others = None;
    }

    /// Returns whether every sample passes.
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
    fn stored_second_is_held_back_and_a_later_one_passes() {
        let mut watermarks = Watermarks::default();
        watermarks.advance(&[sample("a", 5), sample("a", 3)]);
        assert!(watermarks.blocks(&sample("a", 5)) && watermarks.blocks(&sample("a", 4)));
        assert!(!watermarks.blocks(&sample("a", 6)) && !watermarks.blocks(&sample("b", 5)));
        watermarks.clear();
        assert!(watermarks.is_empty() && !watermarks.blocks(&sample("a", 5)));
    }

    #[test]
    fn samples_of_an_earlier_process_hold_back_every_key() {
        let mut watermarks = Watermarks::default();
        watermarks.advance_all(7);
        assert!(watermarks.blocks(&sample("b", 7)) && !watermarks.blocks(&sample("b", 8)));
    }

    #[test]
    fn keys_beyond_the_maximum_share_a_watermark() {
        let mut watermarks = Watermarks::default();
        let keys: Vec<Sample> = (0..=MAX_KEYS).map(|n| sample(&format!("k{n}"), 9)).collect();
        watermarks.advance(&keys);
        assert!(keys.iter().all(|sample| watermarks.blocks(sample)));
        assert_eq!(watermarks.latest.len(), MAX_KEYS);
        assert!(!watermarks.blocks(&sample("k0", 10)));
    }
}
