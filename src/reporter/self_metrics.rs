//! [`SelfMetrics`]: a reporter's own counters as samples.

use std::time::Duration;

#[cfg(feature = "spool")]
use super::spool::SpoolStats;
use super::stats::{DropCounts, ReporterStats};
use crate::metric::{InvalidKey, Key, Point, Sample, unix_now};

/// How often the counters are recorded.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The keys of the counters, in the order of their values.
#[derive(Clone, Debug)]
pub(super) struct SelfMetrics {
    counters: [Key; COUNTERS.len()],
    #[cfg(feature = "spool")]
    spool_counters: [Key; SPOOL_COUNTERS.len()],
}

const COUNTERS: [&str; 11] = [
    "recorded",
    "acknowledged",
    "coalesced",
    "rejected",
    "waiting",
    "dropped.invalid_key",
    "dropped.not_finite",
    "dropped.queue_full",
    "dropped.closed",
    "dropped.poison",
    "dropped.attempts",
];

fn values(stats: &ReporterStats) -> [u64; COUNTERS.len()] {
    let ReporterStats { recorded, acknowledged, coalesced, rejected, waiting, .. } = *stats;
    let DropCounts { invalid_key, not_finite, queue_full, closed, poison, attempts, .. } =
        stats.dropped;
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
        poison,
        attempts,
    ]
}

/// The counters of a reporter with a spool, besides.
#[cfg(feature = "spool")]
const SPOOL_COUNTERS: [&str; 8] = [
    "recovered",
    "spooled",
    "dropped.spool_full",
    "dropped.spool_lost",
    "dropped.spool_expired",
    "abandoned",
    "spool.bytes",
    "spool.io_errors",
];

#[cfg(feature = "spool")]
fn spool_values(stats: &ReporterStats, spool: &SpoolStats) -> [u64; SPOOL_COUNTERS.len()] {
    let ReporterStats { recovered, spooled, abandoned, .. } = *stats;
    let DropCounts { spool_full, spool_lost, spool_expired, .. } = stats.dropped;
    [
        recovered,
        spooled,
        spool_full,
        spool_lost,
        spool_expired,
        abandoned,
        spool.bytes,
        spool.io_errors.total(),
    ]
}

impl SelfMetrics {
    pub(super) fn new(prefix: &Key) -> Result<Self, InvalidKey> {
        Ok(Self {
            counters: keys(prefix, COUNTERS)?,
            #[cfg(feature = "spool")]
            spool_counters: keys(prefix, SPOOL_COUNTERS)?,
        })
    }

    pub(super) fn samples(&self, stats: &ReporterStats) -> Vec<Sample> {
        samples(&self.counters, &values(stats))
    }

    #[cfg(feature = "spool")]
    pub(super) fn spool_samples(&self, stats: &ReporterStats, spool: &SpoolStats) -> Vec<Sample> {
        samples(&self.spool_counters, &spool_values(stats, spool))
    }
}

fn keys<const COUNT: usize>(
    prefix: &Key,
    names: [&str; COUNT],
) -> Result<[Key; COUNT], InvalidKey> {
    let mut keys = names.map(|_| prefix.clone());
    for (key, name) in keys.iter_mut().zip(names) {
        *key = Key::new(format!("{prefix}.{name}"))?;
    }
    Ok(keys)
}

fn samples(keys: &[Key], values: &[u64]) -> Vec<Sample> {
    let timestamp = unix_now();
    keys.iter()
        .zip(values)
        .map(|(key, &value)| Sample {
            key: key.clone(),
            point: Point { timestamp, value: value as f64 },
        })
        .collect()
}
