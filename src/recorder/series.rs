//! Counters and gauges: their updates, and what is reported of them.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{CounterFn, GaugeFn};
use tokio::time::Instant;

use crate::metric::{Key, Point, Sample};

/// What is reported of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CounterMode {
    /// The total since the counter was created. It never decreases until the program restarts, and a lost report
    /// leaves a gap but no error.
    #[default]
    Cumulative,
    /// The increase per second over the [interval](super::RecorderBuilder::interval), as in statsd. An extra
    /// report, by [`flush`](super::MetricsRecorder::flush) or a guard, also divides by the whole interval, so that
    /// the values of an interval add up to its rate. If an interval was missed because the runtime was blocked, the
    /// report divides by the time that has passed. The first `absolute` of a counter is its starting value, and no
    /// increase.
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SeriesKind {
    Counter,
    Gauge,
    Histogram,
}

/// One report of all series.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) now: Instant,
    pub(super) second: i64,
    /// The last report had the same second, and is merged into this one.
    pub(super) is_shared: bool,
    /// The time that rates are divided by.
    pub(super) rated: Duration,
    pub(super) counter_mode: CounterMode,
    /// Series without an update since then are idle.
    pub(super) idle_since: Option<Instant>,
    /// Gauges that are not 0 and have no update since then are idle.
    pub(super) gauge_idle_since: Option<Instant>,
    /// Whether a series was found to be idle.
    pub(super) any_idle: bool,
    /// What is reported. It is recorded once no series is locked.
    pub(super) samples: Vec<Sample>,
}

impl Report {
    pub(super) fn put(&mut self, key: &Key, value: f64) {
        let point = Point { timestamp: self.second, value };
        self.samples.push(Sample { key: key.clone(), point });
    }
}

/// What all kinds of series have in common.
pub(super) trait Series {
    const KIND: SeriesKind;

    /// Reports it, unless it is idle.
    fn report(&self, report: &mut Report);

    /// Returns true if it was updated since the last report.
    fn is_updated(&self) -> bool;

    /// Returns true if its creation, or the last report that found it updated, was too long ago.
    fn is_idle(&self, report: &Report) -> bool;

    /// Calls `call` with each key under which it is reported.
    fn each_key(&self, call: impl FnMut(&Key));
}

pub(super) struct CounterSeries {
    total: AtomicU64,
    key: Option<Key>,
    last: Mutex<LastTotal>,
}

struct LastTotal {
    total: u64,
    /// The increase in all reports of the last report's second.
    in_second: u64,
    /// An absolute value was set.
    is_based: bool,
    /// That value was the first of the counter, and has not been reported.
    is_new: bool,
    used: Instant,
}

impl CounterSeries {
    pub(super) fn new(key: Option<Key>) -> Self {
        let used = Instant::now();
        let last = LastTotal { total: 0, in_second: 0, is_based: false, is_new: false, used };
        Self { total: AtomicU64::new(0), key, last: Mutex::new(last) }
    }

    /// Sets a first absolute value as the starting value: it is no increase.
    #[cold]
    fn base(&self, value: u64) {
        let mut last = locked(&self.last);
        let before = self.total.fetch_max(value, Ordering::Relaxed);
        if before == 0 && !last.is_based {
            last.total = value;
            last.is_new = true;
        }
        last.is_based = true;
    }
}

impl CounterFn for CounterSeries {
    fn increment(&self, value: u64) {
        self.total.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        if self.total.load(Ordering::Relaxed) == 0 {
            self.base(value);
        } else {
            self.total.fetch_max(value, Ordering::Relaxed);
        }
    }
}

impl Series for CounterSeries {
    const KIND: SeriesKind = SeriesKind::Counter;

    fn report(&self, report: &mut Report) {
        let mut last = locked(&self.last);
        let total = self.total.load(Ordering::Relaxed);
        // A counter that overflows wraps around to 0, as users expect.
        let counted = total.wrapping_sub(last.total);
        last.in_second = if report.is_shared { last.in_second + counted } else { counted };
        if counted > 0 || last.is_new {
            last.total = total;
            last.is_new = false;
            last.used = report.now;
        }
        let (in_second, is_idle) = (last.in_second, is_before(last.used, report.idle_since));
        drop(last);
        report.any_idle |= is_idle;
        if let (Some(key), false) = (&self.key, is_idle) {
            let value = match report.counter_mode {
                CounterMode::Cumulative => total as f64,
                CounterMode::Rate => in_second as f64 / report.rated.as_secs_f64(),
            };
            report.put(key, value);
        }
    }

    fn is_updated(&self) -> bool {
        let last = locked(&self.last);
        last.is_new || self.total.load(Ordering::Relaxed) != last.total
    }

    fn is_idle(&self, report: &Report) -> bool {
        is_before(locked(&self.last).used, report.idle_since)
    }

    fn each_key(&self, call: impl FnMut(&Key)) {
        self.key.iter().for_each(call);
    }
}

pub(super) struct GaugeSeries {
    /// The bits of the value.
    value: AtomicU64,
    is_updated: AtomicBool,
    key: Option<Key>,
    /// Its last update, if there was one.
    used: Mutex<LastUpdate>,
}

#[derive(Clone, Copy)]
struct LastUpdate {
    at: Instant,
    ever: bool,
}

impl GaugeSeries {
    pub(super) fn new(key: Option<Key>) -> Self {
        Self {
            value: AtomicU64::new(0.0_f64.to_bits()),
            is_updated: AtomicBool::new(false),
            key,
            used: Mutex::new(LastUpdate { at: Instant::now(), ever: false }),
        }
    }

    fn change(&self, change: impl Fn(f64) -> f64) {
        let changed = |bits| Some(change(f64::from_bits(bits)).to_bits());
        let _ = self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        self.is_updated.store(true, Ordering::Release);
    }

    fn value(&self) -> f64 {
        f64::from_bits(self.value.load(Ordering::Relaxed))
    }

    /// Returns true if a gauge with its last update then is idle. A gauge that is not 0 states something that holds
    /// until it changes, such as the number of open connections. If it was forgotten, it would start again at 0.
    fn is_idle_since(&self, used: Instant, report: &Report) -> bool {
        let since = if self.value() == 0.0 { report.idle_since } else { report.gauge_idle_since };
        is_before(used, since)
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
    const KIND: SeriesKind = SeriesKind::Gauge;

    fn report(&self, report: &mut Report) {
        let LastUpdate { at, ever } = {
            let mut used = locked(&self.used);
            if self.is_updated.swap(false, Ordering::Acquire) {
                *used = LastUpdate { at: report.now, ever: true };
            }
            *used
        };
        let is_idle = self.is_idle_since(at, report);
        report.any_idle |= is_idle;
        if let (Some(key), false, true) = (&self.key, is_idle, ever) {
            report.put(key, self.value());
        }
    }

    fn is_updated(&self) -> bool {
        self.is_updated.load(Ordering::Acquire)
    }

    fn is_idle(&self, report: &Report) -> bool {
        self.is_idle_since(locked(&self.used).at, report)
    }

    fn each_key(&self, call: impl FnMut(&Key)) {
        self.key.iter().for_each(call);
    }
}

/// A quantile that is reported, with its name.
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

/// Returns true if a series that was used then is idle. Without a limit none is.
pub(super) fn is_before(used: Instant, idle_since: Option<Instant>) -> bool {
    idle_since.is_some_and(|since| used < since)
}

/// Locks, also after a panic: what runs under these locks changes one value at a time.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_have_their_usual_names() {
        let name = |value| Quantile::new(value).map(|quantile| quantile.name);
        let names = [0.0, 0.05, 0.5, 0.99, 0.999, 1.0].map(|value| name(value).unwrap());
        assert_eq!(names, ["min", "p05", "p50", "p99", "p999", "max"]);
        assert!([-0.1, 1.1, f64::NAN].into_iter().all(|value| name(value).is_none()));
    }
}
