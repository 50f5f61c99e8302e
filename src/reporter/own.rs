//! A reporter's own counters as metrics.

use std::time::Duration;

use super::stats::{Dropped, ReporterStats};
use crate::metric::{InvalidKey, Key, Point, Sample, unix_seconds};

/// How often they are recorded.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// The keys of the counters, in the order of [`values`].
#[derive(Clone, Debug)]
pub(super) struct Own([Key; NAMES.len()]);

const NAMES: [&str; 9] = [
    "recorded",
    "acknowledged",
    "coalesced",
    "rejected",
    "waiting",
    "dropped.invalid_key",
    "dropped.not_finite",
    "dropped.queue_full",
    "dropped.closed",
];

fn values(stats: &ReporterStats) -> [u64; NAMES.len()] {
    let ReporterStats { recorded, acknowledged, coalesced, rejected, waiting, .. } = *stats;
    let Dropped { invalid_key, not_finite, queue_full, closed, .. } = stats.dropped;
    [
        recorded,
        acknowledged,
        coalesced,
        rejected,
        waiting,
        invalid_key,
        not_finite,
        queue_full,
        closed,
    ]
}

impl Own {
    pub(super) fn new(prefix: &Key) -> Result<Self, InvalidKey> {
        let mut keys = NAMES.map(|_| prefix.clone());
        for (key, name) in keys.iter_mut().zip(NAMES) {
            *key = Key::new(format!("{prefix}.{name}"))?;
        }
        Ok(Self(keys))
    }

    pub(super) fn samples(&self, stats: &ReporterStats) -> impl Iterator<Item = Sample> {
        let timestamp = unix_seconds();
        self.0.iter().zip(values(stats)).map(move |(key, value)| Sample {
            key: key.clone(),
            point: Point { timestamp, value: value as f64 },
        })
    }
}
