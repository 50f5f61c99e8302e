//! Handles beyond the limit of series. They work from their first update that finds room.

use std::sync::{
    Arc, Mutex, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use metrics::{CounterFn, GaugeFn, HistogramFn};

use super::{
    histogram::HistogramSeries,
    series::{CounterSeries, GaugeSeries, locked},
};

/// Finds series, and creates them if there is room.
pub(super) trait SeriesSource: Send + Sync {
    fn find_counter(&self, key: &metrics::Key) -> Option<Arc<CounterSeries>>;
    fn find_gauge(&self, key: &metrics::Key) -> Option<Arc<GaugeSeries>>;
    fn find_histogram(&self, key: &metrics::Key) -> Option<Arc<HistogramSeries>>;
}

/// A series that each update looks up again until it is found.
struct Late<S> {
    key: metrics::Key,
    source: Weak<dyn SeriesSource>,
    series: OnceLock<Arc<S>>,
}

impl<S> Late<S> {
    fn new((key, source): (metrics::Key, Weak<dyn SeriesSource>)) -> Self {
        Self { key, source, series: OnceLock::new() }
    }

    fn find(
        &self,
        find: impl FnOnce(&dyn SeriesSource, &metrics::Key) -> Option<Arc<S>>,
    ) -> Option<&Arc<S>> {
        if self.series.get().is_none()
            && let Some(series) = find(&*self.source.upgrade()?, &self.key)
        {
            // If another thread was faster, it has found the same series.
            let _ = self.series.set(series);
        }
        self.series.get()
    }
}

pub(super) struct LateCounter {
    late: Late<CounterSeries>,
    /// The increase while there was no series.
    kept: AtomicU64,
}

impl LateCounter {
    pub(super) fn new(wanted: (metrics::Key, Weak<dyn SeriesSource>)) -> Self {
        Self { late: Late::new(wanted), kept: AtomicU64::new(0) }
    }
}

impl CounterFn for LateCounter {
    fn increment(&self, value: u64) {
        self.kept.fetch_add(value, Ordering::Relaxed);
        if let Some(series) = self.late.find(|source, key| source.find_counter(key)) {
            series.increment(self.kept.swap(0, Ordering::Relaxed));
        }
    }

    fn absolute(&self, value: u64) {
        if let Some(series) = self.late.find(|source, key| source.find_counter(key)) {
            series.absolute(value);
        }
    }
}

pub(super) struct LateGauge {
    late: Late<GaugeSeries>,
    kept: Mutex<Kept>,
}

/// The updates of a gauge while there was no series.
#[derive(Clone, Copy, Default)]
struct Kept {
    set: Option<f64>,
    /// The change since then.
    change: f64,
}

impl LateGauge {
    pub(super) fn new(wanted: (metrics::Key, Weak<dyn SeriesSource>)) -> Self {
        Self { late: Late::new(wanted), kept: Mutex::default() }
    }

    fn update(&self, update: impl Fn(&mut Kept)) {
        let series = self.late.find(|source, key| source.find_gauge(key));
        let Kept { set, change } = {
            let mut kept = locked(&self.kept);
            update(&mut kept);
            if series.is_none() {
                return;
            }
            std::mem::take(&mut *kept)
        };
        if let Some(series) = series {
            match set {
                Some(value) => series.set(value + change),
                None => series.increment(change),
            }
        }
    }
}

impl GaugeFn for LateGauge {
    fn increment(&self, value: f64) {
        self.update(|kept| kept.change += value);
    }

    fn decrement(&self, value: f64) {
        self.update(|kept| kept.change -= value);
    }

    fn set(&self, value: f64) {
        self.update(|kept| *kept = Kept { set: Some(value), change: 0.0 });
    }
}

pub(super) struct LateHistogram {
    late: Late<HistogramSeries>,
}

impl LateHistogram {
    pub(super) fn new(wanted: (metrics::Key, Weak<dyn SeriesSource>)) -> Self {
        Self { late: Late::new(wanted) }
    }
}

impl HistogramFn for LateHistogram {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        if let Some(series) = self.late.find(|source, key| source.find_histogram(key)) {
            series.record_many(value, count);
        }
    }
}
