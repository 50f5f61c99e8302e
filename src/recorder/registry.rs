//! All series of a recorder.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram};
use metrics_util::registry::{Registry as Shards, Storage};
use tokio::time::Instant;

use super::{
    histogram::HistogramSeries,
    late::{LateCounter, LateGauge, LateHistogram, SeriesSource},
    names::Names,
    series::{CounterMode, CounterSeries, GaugeSeries, Report, Series},
};
use crate::{
    log_limit::LogCondition,
    reporter::{ReportDrops, Reporter, Stamp, UniqueSeconds, WallClock, whole_seconds},
};

/// The settings of a recorder.
#[derive(Clone, Debug)]
pub(super) struct RecorderSettings {
    pub(super) interval: Duration,
    pub(super) counter_mode: CounterMode,
    /// Without it, series are never idle.
    pub(super) idle_timeout: Option<Duration>,
    /// The timeout of gauges that are not 0. Without it, they are never idle.
    pub(super) gauge_idle_timeout: Option<Duration>,
    pub(super) max_series: u64,
}

pub(super) struct Registry {
    shards: Shards<metrics::Key, SeriesFactory>,
    reporter: Reporter,
    settings: RecorderSettings,
    clock: WallClock,
    last: Mutex<LastReport>,
    /// The limit of series is reached.
    full: LogCondition,
}

/// The last report.
struct LastReport {
    at: Instant,
    /// When the last report of an earlier second was made.
    before: Instant,
    seconds: UniqueSeconds,
    /// How many samples it had.
    samples: usize,
}

/// Counters that are kept with the series.
#[derive(Debug, Default)]
pub(super) struct RecorderCounters {
    pub(super) series: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) invalid_names: AtomicU64,
    pub(super) not_finite: Arc<AtomicU64>,
}

impl Registry {
    pub(super) fn new(
        reporter: Reporter,
        names: Names,
        settings: RecorderSettings,
        clock: WallClock,
    ) -> Self {
        let now = Instant::now();
        let last =
            LastReport { at: now, before: now, seconds: UniqueSeconds::default(), samples: 0 };
        Self {
            shards: Shards::new(SeriesFactory { names, counters: RecorderCounters::default() }),
            reporter,
            settings,
            clock,
            last: Mutex::new(last),
            full: LogCondition::new(),
        }
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    pub(super) fn counters(&self) -> &RecorderCounters {
        &self.shards.storage().counters
    }

    pub(super) fn clock(&self) -> &WallClock {
        &self.clock
    }

    pub(super) fn interval(&self) -> Duration {
        self.settings.interval
    }

    pub(super) fn counter(self: &Arc<Self>, key: &metrics::Key) -> Counter {
        match self.find_counter(key) {
            Some(series) => Counter::from_arc(series),
            None => Counter::from_arc(Arc::new(LateCounter::new(self.refuse(key)))),
        }
    }

    pub(super) fn gauge(self: &Arc<Self>, key: &metrics::Key) -> Gauge {
        match self.find_gauge(key) {
            Some(series) => Gauge::from_arc(series),
            None => Gauge::from_arc(Arc::new(LateGauge::new(self.refuse(key)))),
        }
    }

    pub(super) fn histogram(self: &Arc<Self>, key: &metrics::Key) -> Histogram {
        match self.find_histogram(key) {
            Some(series) => Histogram::from_arc(series),
            None => Histogram::from_arc(Arc::new(LateHistogram::new(self.refuse(key)))),
        }
    }

    /// Records the values of all series, and forgets idle ones. `due` is when the report was due by the wall
    /// clock; without it, the report is due now.
    pub(super) fn report(&self, due: Option<Duration>) -> ReportDrops {
        let now = self.clock.now();
        let due = whole_seconds(due.unwrap_or(now));
        let aftermath = {
            // Held until the samples are queued: two concurrent reports would split the increments between
            // them, and the older one could replace the newer.
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let mut report = self.begin(&mut last, due, whole_seconds(now));
            self.shards.visit_counters(|_, series| series.report(&mut report));
            self.shards.visit_gauges(|_, series| series.report(&mut report));
            self.shards.visit_histograms(|_, series| series.report(&mut report));
            last.samples = report.samples.len();
            let aftermath = self.reporter.record_quietly(&report.samples);
            if report.any_idle {
                self.forget_idle(&report);
            }
            aftermath
        };
        let refused = aftermath.run();
        self.names().log_due();
        if self.has_room()
            && let Some(lasting) = self.full.is_over()
        {
            let (handles, seconds) = (lasting.times, lasting.since.as_secs());
            tracing::info!(handles, seconds, "room for new series again");
        }
        refused
    }

    /// Returns how many series have updates that have not been reported.
    pub(super) fn unreported(&self) -> u64 {
        let mut series = 0;
        self.shards.visit_counters(|_, it| series += u64::from(it.is_updated()));
        self.shards.visit_gauges(|_, it| series += u64::from(it.is_updated()));
        self.shards.visit_histograms(|_, it| series += u64::from(it.is_updated()));
        series
    }

    fn begin(&self, last: &mut LastReport, due: i64, wall: i64) -> Report {
        let RecorderSettings { interval, counter_mode, idle_timeout, gauge_idle_timeout, .. } =
            self.settings;
        let now = Instant::now();
        let Stamp { second, is_shared } = last.seconds.stamp(due, wall);
        if !is_shared {
            last.before = last.at;
        }
        last.at = now;
        Report {
            now,
            second,
            is_shared,
            rated: rated(now - last.before, interval),
            counter_mode,
            idle_since: idle_timeout.and_then(|timeout| now.checked_sub(timeout)),
            gauge_idle_since: gauge_idle_timeout.and_then(|timeout| now.checked_sub(timeout)),
            any_idle: false,
            samples: Vec::with_capacity(last.samples),
        }
    }

    fn forget_idle(&self, report: &Report) {
        let factory = self.shards.storage();
        self.shards.retain_counters(|_, series| factory.should_retain(series, report));
        self.shards.retain_gauges(|_, series| factory.should_retain(series, report));
        self.shards.retain_histograms(|_, series| factory.should_retain(series, report));
    }

    fn names(&self) -> &Names {
        &self.shards.storage().names
    }

    fn has_room(&self) -> bool {
        self.counters().series.load(Ordering::Relaxed) < self.settings.max_series
    }

    /// Counts a handle beyond the limit of series. Returns what such a handle needs.
    fn refuse(self: &Arc<Self>, key: &metrics::Key) -> (metrics::Key, Weak<dyn SeriesSource>) {
        self.counters().refused.fetch_add(1, Ordering::Relaxed);
        if let Some(lasting) = self.full.holds() {
            let (handles, limit) = (lasting.times, self.settings.max_series);
            tracing::warn!(
                metric = ?key.name(),
                handles,
                limit,
                "limit of series reached; new series are not reported"
            );
        }
        let source: Weak<Self> = Arc::downgrade(self);
        (key.clone(), source)
    }
}

/// Returns the time that the rates of a report are divided by: the interval, also for an extra or slightly late
/// report, unless an interval was missed.
fn rated(elapsed: Duration, interval: Duration) -> Duration {
    if elapsed < interval * 3 / 2 { interval } else { elapsed }
}

impl SeriesSource for Registry {
    fn find_counter(&self, key: &metrics::Key) -> Option<Arc<CounterSeries>> {
        let found = match self.has_room() {
            true => Some(self.shards.get_or_create_counter(key, Arc::clone)),
            false => self.shards.get_counter(key),
        };
        self.names().log_new();
        found
    }

    fn find_gauge(&self, key: &metrics::Key) -> Option<Arc<GaugeSeries>> {
        let found = match self.has_room() {
            true => Some(self.shards.get_or_create_gauge(key, Arc::clone)),
            false => self.shards.get_gauge(key),
        };
        self.names().log_new();
        found
    }

    fn find_histogram(&self, key: &metrics::Key) -> Option<Arc<HistogramSeries>> {
        let found = match self.has_room() {
            true => Some(self.shards.get_or_create_histogram(key, Arc::clone)),
            false => self.shards.get_histogram(key),
        };
        self.names().log_new();
        found
    }
}

/// Creates series and their keys. What is to be logged is kept until the caller of the shards has released their
/// locks.
struct SeriesFactory {
    names: Names,
    counters: RecorderCounters,
}

impl SeriesFactory {
    /// Returns true if a series is kept: a handle of it exists, or it is not idle. No handle can be taken at the
    /// same time, because that needs the lock of its shard.
    fn should_retain<S: Series>(&self, series: &Arc<S>, report: &Report) -> bool {
        if Arc::strong_count(series) > 1 {
            return true;
        }
        // Updates through handles that are gone are visible from here on.
        fence(Ordering::Acquire);
        let is_kept = series.is_updated() || !series.is_idle(report);
        if !is_kept {
            self.counters.series.fetch_sub(1, Ordering::Relaxed);
            series.each_key(|name| self.names.release(name));
        }
        is_kept
    }

    fn add<S: Series>(&self, key: &metrics::Key, series: S) -> Arc<S> {
        self.counters.series.fetch_add(1, Ordering::Relaxed);
        series.each_key(|name| self.names.claim(name, S::KIND, key));
        Arc::new(series)
    }

    fn named<T>(
        &self,
        key: &metrics::Key,
        named: Result<T, crate::metric::InvalidKey>,
    ) -> Option<T> {
        named
            .map_err(|error| {
                self.counters.invalid_names.fetch_add(1, Ordering::Relaxed);
                self.names.note_invalid_name(key, error);
            })
            .ok()
    }
}

impl Storage<metrics::Key> for SeriesFactory {
    type Counter = Arc<CounterSeries>;
    type Gauge = Arc<GaugeSeries>;
    type Histogram = Arc<HistogramSeries>;

    fn counter(&self, key: &metrics::Key) -> Arc<CounterSeries> {
        let name = self.named(key, self.names.key(key, None));
        self.add(key, CounterSeries::new(name))
    }

    fn gauge(&self, key: &metrics::Key) -> Arc<GaugeSeries> {
        let name = self.named(key, self.names.key(key, None));
        self.add(key, GaugeSeries::new(name))
    }

    fn histogram(&self, key: &metrics::Key) -> Arc<HistogramSeries> {
        let names = self.named(key, self.names.histogram_keys(key));
        self.add(key, HistogramSeries::new(names, Arc::clone(&self.counters.not_finite)))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("counters", self.counters()).finish_non_exhaustive()
    }
}
