//! The settings of a reporter.

use std::time::Duration;

use tokio::time::Instant;

use super::{queue::QueueLimits, self_metrics::SelfMetrics, spool::OpenSpool};

/// The settings of a reporter.
#[derive(Debug)]
pub(super) struct ReporterSettings {
    pub(super) limits: QueueLimits,
    pub(super) linger: Duration,
    pub(super) self_metrics: Option<SelfMetrics>,
    pub(super) max_attempts: Option<u32>,
    pub(super) spool: Option<OpenSpool>,
}

/// Returns the time after `limit`, or one so late that it is never reached.
pub(super) fn deadline_after(limit: Duration) -> Instant {
    /// Tokio's timers go no further (`tokio::time::sleep`).
    const LONGEST: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 2);
    Instant::now() + limit.min(LONGEST)
}
