//! Counts failed attempts to send a sample, where their number is limited.

use std::collections::HashMap;

use crate::metric::{Key, Sample};

/// Counts the failed attempts of each sample. Without a limit it counts nothing.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    max: Option<u32>,
    failed: HashMap<(Key, i64), u32>,
}

/// How many samples leave at once: what a connection has in flight, so that it is kept busy, and few
/// enough that what is sent again after a failure does not count.
pub(super) const MAX_BATCH: usize = 4096;

/// The most samples that are counted. Failed samples come first in the next batch, so the samples of one
/// batch are all that have failed, except a few that were skipped or dropped. Beyond this, those are forgotten.
const MAX_FAILED: usize = 2 * MAX_BATCH;

impl Attempts {
    pub(super) fn new(max: Option<u32>) -> Self {
        Self { max, failed: HashMap::new() }
    }

    /// Counts an attempt for samples that were sent and have no outcome. Removes and returns those that have
    /// had all their attempts.
    pub(super) fn failed(&mut self, open: &mut Vec<Sample>) -> Vec<Sample> {
        let Some(max) = self.max else { return Vec::new() };
        let mut before = HashMap::new();
        if open.is_empty() || self.failed.len() > MAX_FAILED {
            before = std::mem::take(&mut self.failed);
        }
        let is_exhausted = |sample: &mut Sample| {
            let place = (sample.key.clone(), sample.point.timestamp);
            let known = self.failed.get(&place).or_else(|| before.get(&place));
            let failed = known.unwrap_or(&0) + 1;
            if failed < max {
                self.failed.insert(place, failed);
            } else {
                self.failed.remove(&place);
            }
            failed >= max
        };
        open.extract_if(.., is_exhausted).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time;

    use super::*;
    use crate::{
        Reporter,
        reporter::test_server::{TestServer, accounted},
    };

    #[test]
    fn samples_are_exhausted_after_max_attempts() {
        let sample = |second| Sample::new("a", 0.5, second).unwrap();
        let mut attempts = Attempts::new(Some(2));
        let mut open = vec![sample(1), sample(2)];
        assert_eq!(attempts.failed(&mut open), []);
        let mut open = vec![sample(2), sample(3)];
        assert_eq!(attempts.failed(&mut open), [sample(2)]);
        assert_eq!(open, [sample(3)]);
        // All are acknowledged.
        assert_eq!(attempts.failed(&mut Vec::new()), []);
        let mut open = vec![sample(3)];
        assert_eq!(attempts.failed(&mut open), []);
    }

    #[tokio::test(start_paused = true)]
    async fn samples_are_dropped_after_max_attempts() {
        let server = TestServer::default();
        server.set_away(true);
        let client =
            server.builder().request_timeout(Duration::from_secs(1)).connect_lazy().unwrap();
        let reporter = Reporter::builder(client).max_attempts(3).start();
        reporter.record_at("a", 0.5, 1);
        time::sleep(Duration::from_millis(2500)).await;
        reporter.record_at("a", 0.5, 2);
        assert_eq!(accounted(&reporter).waiting, 2);
        time::sleep(Duration::from_secs(2)).await;
        let stats = accounted(&reporter);
        assert_eq!((stats.waiting, stats.dropped.attempts), (1, 1));
        server.set_away(false);
        reporter.flush(Duration::from_secs(60)).await.unwrap();
        assert_eq!(server.puts(), ["a 0.5 2"]);
        let stats = accounted(&reporter);
        assert_eq!((stats.acknowledged, stats.dropped.total()), (1, 1));
    }
}
