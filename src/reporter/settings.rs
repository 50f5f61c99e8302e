//! What a reporter is configured with, and limits that its parts share.

use std::time::Duration;

use tokio::time::Instant;

use super::{queue::QueueLimits, self_metrics::SelfMetrics, spool::OpenSpool};

/// What a reporter is configured with once.
#[derive(Debug)]
pub(super) struct ReporterSettings {
    pub(super) limits: QueueLimits,
    pub(super) linger: Duration,
    pub(super) self_metrics: Option<SelfMetrics>,
    pub(super) max_attempts: Option<u32>,
    pub(super) spool: Option<OpenSpool>,
}

/// The moment after `limit`, or one that never comes.
pub(super) fn deadline_after(limit: Duration) -> Instant {
    /// Tokio's timers go no further (`tokio::time::sleep`).
    const LONGEST: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 2);
    Instant::now() + limit.min(LONGEST)
}
