//! [`RenderLimits`]: what one request of the render API may cost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::RenderError;

/// Limits on what one request may cost.
///
/// ```
/// use metrics_server::graphite::RenderLimits;
///
/// let limits = RenderLimits::default().max_series(1_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderLimits {
    pub(super) max_series: usize,
    pub(super) max_points: usize,
    pub(super) max_total_points: usize,
    pub(super) max_concurrent: usize,
    pub(super) max_work: usize,
    pub(super) max_target_bytes: usize,
    pub(super) max_targets: usize,
    pub(super) max_depth: usize,
    pub(super) timeout: Duration,
}

impl RenderLimits {
    /// Sets how many series all targets of a request may select. Default: 10,000.
    #[must_use]
    pub fn max_series(self, max_series: usize) -> Self {
        Self { max_series, ..self }
    }

    /// Sets how many points a request may read and make, missing ones included. Default: 20 million, which take
    /// 160 MB.
    #[must_use]
    pub fn max_points(self, max_points: usize) -> Self {
        Self { max_points, ..self }
    }

    /// Sets how many points all requests of a server together may hold until they are answered. Default: 60 million,
    /// which take 480 MB. Above it a request is answered with 503.
    #[must_use]
    pub fn max_total_points(self, max_total_points: usize) -> Self {
        Self { max_total_points, ..self }
    }

    /// Sets how many requests of a server are evaluated concurrently, at least 1. Default: 4. Others wait. They are evaluated
    /// on threads for blocking work, since a function can take seconds.
    #[must_use]
    pub fn max_concurrent(self, max_concurrent: usize) -> Self {
        Self { max_concurrent: max_concurrent.clamp(1, 1_000), ..self }
    }

    /// Sets how many values the functions of a request may look at: a moving median looks at all values of its
    /// window for each point. Default: 2 thousand million, some seconds of one core.
    #[must_use]
    pub fn max_work(self, max_work: usize) -> Self {
        Self { max_work, ..self }
    }

    /// Sets the maximum length of a target in bytes. Default: 16 KiB.
    #[must_use]
    pub fn max_target_bytes(self, max_target_bytes: usize) -> Self {
        Self { max_target_bytes, ..self }
    }

    /// Sets the maximum number of targets. Default: 1,000.
    #[must_use]
    pub fn max_targets(self, max_targets: usize) -> Self {
        Self { max_targets, ..self }
    }

    /// Sets how deep calls may be nested, at most 200. Default: 32.
    #[must_use]
    pub fn max_depth(self, max_depth: usize) -> Self {
        Self { max_depth: max_depth.min(200), ..self }
    }

    /// Sets how long an answer may take. Default: 30 s. It is checked between functions.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

impl Default for RenderLimits {
    fn default() -> Self {
        Self {
            max_series: 10_000,
            max_points: 20_000_000,
            max_total_points: 60_000_000,
            max_concurrent: 4,
            max_work: 2_000_000_000,
            max_target_bytes: 16 * 1024,
            max_targets: 1_000,
            max_depth: 32,
            timeout: Duration::from_secs(30),
        }
    }
}

/// What one request has used of its limits.
#[derive(Debug)]
pub(super) struct Budget {
    limits: RenderLimits,
    series: AtomicUsize,
    points: AtomicUsize,
    work: AtomicUsize,
    /// The points of all requests of a server.
    total: Arc<AtomicUsize>,
}

impl Budget {
    pub(super) fn new(limits: RenderLimits) -> Self {
        Self::within(limits, Arc::default())
    }

    /// Creates the budget of a request among others, whose points are counted in `total`.
    pub(super) fn within(limits: RenderLimits, total: Arc<AtomicUsize>) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { limits, series: zero(), points: zero(), work: zero(), total }
    }

    pub(super) fn charge_series(&self, count: usize) -> Result<(), RenderError> {
        charge(&self.series, count, "max_series", self.limits.max_series)
    }

    pub(super) fn charge_points(&self, count: usize) -> Result<(), RenderError> {
        charge(&self.points, count, "max_points", self.limits.max_points)?;
        let max = self.limits.max_total_points;
        if self.total.fetch_add(count, Ordering::Relaxed).saturating_add(count) > max {
            // What was added is taken back with the rest.
            return Err(RenderError::Busy { limit: "max_total_points", max });
        }
        Ok(())
    }

    pub(super) fn charge_work(&self, count: usize) -> Result<(), RenderError> {
        charge(&self.work, count, "max_work", self.limits.max_work)
    }

    /// Ends the evaluation, and keeps the points charged until the answer is written.
    #[cfg(feature = "http")]
    pub(super) fn into_charge(mut self) -> PointsCharge {
        let points = std::mem::take(self.points.get_mut());
        PointsCharge { points, total: Arc::clone(&self.total) }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        drop(PointsCharge { points: *self.points.get_mut(), total: Arc::clone(&self.total) });
    }
}

/// Points of a request that has been evaluated; they count until it is dropped.
#[derive(Debug)]
pub(super) struct PointsCharge {
    points: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for PointsCharge {
    fn drop(&mut self) {
        self.total.fetch_sub(self.points, Ordering::Relaxed);
    }
}

fn charge(
    used: &AtomicUsize,
    count: usize,
    limit: &'static str,
    max: usize,
) -> Result<(), RenderError> {
    // An update that fails leaves it as it was.
    let within = |used: usize| used.checked_add(count).filter(|&used| used <= max);
    match used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
        Ok(_) => Ok(()),
        Err(_) => Err(RenderError::Limit { limit, max }),
    }
}
