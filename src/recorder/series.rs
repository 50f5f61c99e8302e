//! One counter, gauge or histogram: how it is updated, and what is reported of it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use metrics::{CounterFn, GaugeFn, HistogramFn};
use metrics_util::storage::Summary;
use tokio::time::Instant;

use super::builder::Counters;
use crate::reporter::Gauge;

/// One moment in which all series are reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) now: Instant,
    pub(super) second: i64,
    /// Seconds since the last one.
    pub(super) elapsed: f64,
    pub(super) counters: Counters,
    /// Series without an update since then are idle.
    pub(super) idle_since: Option<Instant>,
}

impl Report {
    pub(super) fn is_idle(&self, used: Instant) -> bool {
        self.idle_since.is_some_and(|since| used < since)
    }
}

/// What all kinds of series do.
pub(super) trait Series {
    /// Reports it, unless it is idle, and says whether it is.
    fn report(&self, report: &Report) -> bool;

    /// Whether it has been updated since it was reported last.
    fn is_updated(&self) -> bool;

    /// The last report that found it updated, or when it began.
    fn used(&self) -> Instant;
}

pub(super) struct CounterSeries {
    total: AtomicU64,
    key: Option<Gauge>,
    last: Mutex<Counted>,
}

struct Counted {
    total: u64,
    used: Instant,
}

impl CounterSeries {
    pub(super) fn new(key: Option<Gauge>) -> Self {
        let last = Mutex::new(Counted { total: 0, used: Instant::now() });
        Self { total: AtomicU64::new(0), key, last }
    }
}

impl CounterFn for CounterSeries {
    fn increment(&self, value: u64) {
        self.total.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.total.fetch_max(value, Ordering::Relaxed);
    }
}

impl Series for CounterSeries {
    fn report(&self, report: &Report) -> bool {
        let mut last = locked(&self.last);
        let total = self.total.load(Ordering::Relaxed);
        // A counter that runs over goes on at 0, as its users expect.
        let counted = total.wrapping_sub(last.total);
        if counted > 0 {
            *last = Counted { total, used: report.now };
        }
        let is_idle = report.is_idle(last.used);
        if let (Some(key), false) = (&self.key, is_idle) {
            let value = match report.counters {
                Counters::Totals => total as f64,
                Counters::Rates => counted as f64 / report.elapsed,
            };
            key.set_at(value, report.second);
        }
        is_idle
    }

    fn is_updated(&self) -> bool {
        self.total.load(Ordering::Relaxed) != locked(&self.last).total
    }

    fn used(&self) -> Instant {
        locked(&self.last).used
    }
}

pub(super) struct GaugeSeries {
    /// The value's bits.
    value: AtomicU64,
    is_updated: AtomicBool,
    key: Option<Gauge>,
    /// When it was updated last, if it ever was.
    used: Mutex<Used>,
}

struct Used {
    at: Instant,
    ever: bool,
}

impl GaugeSeries {
    pub(super) fn new(key: Option<Gauge>) -> Self {
        Self {
            value: AtomicU64::new(0.0_f64.to_bits()),
            is_updated: AtomicBool::new(false),
            key,
            used: Mutex::new(Used { at: Instant::now(), ever: false }),
        }
    }

    fn change(&self, change: impl Fn(f64) -> f64) {
        let changed = |bits| Some(change(f64::from_bits(bits)).to_bits());
        let _ = self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        self.is_updated.store(true, Ordering::Release);
    }
}

impl GaugeFn for GaugeSeries {
    fn increment(&self, value: f64) {
        self.change(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.value.store(value.to_bits(), Ordering::Relaxed);
        self.is_updated.store(true, Ordering::Release);
    }
}

impl Series for GaugeSeries {
    fn report(&self, report: &Report) -> bool {
        let mut used = locked(&self.used);
        if self.is_updated.swap(false, Ordering::Acquire) {
            *used = Used { at: report.now, ever: true };
        }
        let is_idle = report.is_idle(used.at);
        if let (Some(key), false, true) = (&self.key, is_idle, used.ever) {
            key.set_at(f64::from_bits(self.value.load(Ordering::Relaxed)), report.second);
        }
        is_idle
    }

    fn is_updated(&self) -> bool {
        self.is_updated.load(Ordering::Acquire)
    }

    fn used(&self) -> Instant {
        locked(&self.used).at
    }
}

pub(super) struct HistogramSeries {
    interval: Mutex<Interval>,
    keys: Option<HistogramKeys>,
    not_finite: Arc<AtomicU64>,
}

struct Interval {
    recorded: Recorded,
    used: Instant,
}

/// What was recorded since the last report.
struct Recorded {
    sketch: Summary,
    sum: f64,
}

/// Where the parts of a histogram are reported.
pub(super) struct HistogramKeys {
    pub(super) count: Gauge,
    pub(super) sum: Gauge,
    pub(super) quantiles: Vec<(f64, Gauge)>,
}

impl HistogramSeries {
    pub(super) fn new(keys: Option<HistogramKeys>, not_finite: Arc<AtomicU64>) -> Self {
        let interval = Mutex::new(Interval { recorded: Recorded::default(), used: Instant::now() });
        Self { interval, keys, not_finite }
    }
}

impl HistogramFn for HistogramSeries {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        if value.is_finite() {
            let recorded = &mut locked(&self.interval).recorded;
            recorded.sum += value * count as f64;
            (0..count).for_each(|_| recorded.sketch.add(value));
        } else {
            self.not_finite.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

impl Series for HistogramSeries {
    fn report(&self, report: &Report) -> bool {
        let mut interval = locked(&self.interval);
        let is_updated = interval.recorded.sketch.count() > 0;
        if is_updated {
            interval.used = report.now;
        }
        let is_idle = report.is_idle(interval.used);
        let recorded = is_updated.then(|| std::mem::take(&mut interval.recorded));
        // Whoever records need not wait for the rest.
        drop(interval);
        let Some(keys) = self.keys.as_ref().filter(|_| !is_idle) else {
            return is_idle;
        };
        let (count, sum) = recorded.as_ref().map_or((0, 0.0), |it| (it.sketch.count(), it.sum));
        keys.count.set_at(count as f64, report.second);
        keys.sum.set_at(sum, report.second);
        for (quantile, key) in &keys.quantiles {
            // An interval in which nothing was recorded has none.
            if let Some(value) = recorded.as_ref().and_then(|it| it.sketch.quantile(*quantile)) {
                key.set_at(value, report.second);
            }
        }
        is_idle
    }

    fn is_updated(&self) -> bool {
        locked(&self.interval).recorded.sketch.count() > 0
    }

    fn used(&self) -> Instant {
        locked(&self.interval).used
    }
}

/// A quantile that is reported, and how it is called.
#[derive(Clone, Debug)]
pub(super) struct Quantile {
    pub(super) value: f64,
    pub(super) name: String,
}

impl Quantile {
    pub(super) fn new(value: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&value) {
            return None;
        }
        let name = match value.to_string().strip_prefix("0.") {
            Some(digits) => format!("p{digits:0<2}"),
            None if value == 0.0 => "min".to_string(),
            None => "max".to_string(),
        };
        Some(Self { value, name })
    }
}

/// A sketch that is off by at most 1 % of the value, in at most 2,048 bins of 8 bytes on each side of
/// zero; beyond that the lowest share one. That is room for values from a nanosecond to 10^8 seconds
/// (sections 2.2 and 4 of the paper).
impl Default for Recorded {
    fn default() -> Self {
        Self { sketch: Summary::new(0.01, 2048, 1e-9), sum: 0.0 }
    }
}

/// No panic can leave one half changed: what runs under the lock changes one thing at a time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_have_the_names_that_people_know() {
        let name = |value| Quantile::new(value).map(|quantile| quantile.name);
        let names = [0.0, 0.05, 0.5, 0.99, 0.999, 1.0].map(|value| name(value).unwrap());
        assert_eq!(names, ["min", "p05", "p50", "p99", "p999", "max"]);
        assert!([-0.1, 1.1, f64::NAN].into_iter().all(|value| name(value).is_none()));
    }

    #[test]
    fn the_sketch_is_as_exact_and_as_small_as_is_said() {
        let Recorded { mut sketch, .. } = Recorded::default();
        // A hundredth of a microsecond to a hundred days, and more than the sketch has bins for.
        let values = (0..200_000).map(|at| 1e-8 * 1e15_f64.powf(f64::from(at) / 200_000.0));
        values.clone().for_each(|value| sketch.add(value));
        for quantile in [0.1, 0.5, 0.9, 0.99] {
            let exact = values.clone().nth((quantile * 199_999.0) as usize).unwrap();
            let found = sketch.quantile(quantile).unwrap();
            assert!((found / exact - 1.0).abs() < 0.0101, "{quantile}: {found}, not {exact}");
        }
        assert!(sketch.estimated_size() <= 48 * 1024, "{}", sketch.estimated_size());
    }
}
