//! All series of a recorder.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram};
use metrics_util::registry::{Registry as Shards, Storage};
use tokio::time::Instant;

use super::{
    builder::Counters,
    series::{
        CounterSeries, GaugeSeries, HistogramKeys, HistogramSeries, Quantile, Report, Series,
    },
};
use crate::{
    metric::{InvalidKey, Key},
    reporter::{self, Reporter, Seconds},
};

/// What a recorder is told once.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) prefix: Option<Key>,
    pub(super) counters: Counters,
    pub(super) quantiles: Vec<Quantile>,
    pub(super) idle_timeout: Duration,
    pub(super) max_series: u64,
}

pub(super) struct Registry {
    shards: Shards<metrics::Key, Maker>,
    last: Mutex<Last>,
    /// Whether the log knows that there is no more room.
    is_full_told: AtomicBool,
}

/// The last report.
struct Last {
    at: Instant,
    seconds: Seconds,
}

/// Counts that are kept with the series.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) series: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unnamed: AtomicU64,
    pub(super) not_finite: Arc<AtomicU64>,
}

impl Registry {
    pub(super) fn new(reporter: Reporter, settings: Settings) -> Self {
        let maker = Maker { reporter, settings, tally: Tally::default() };
        Self {
            shards: Shards::new(maker),
            last: Mutex::new(Last { at: Instant::now(), seconds: Seconds::default() }),
            is_full_told: AtomicBool::new(false),
        }
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.shards.storage().reporter
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shards.storage().tally
    }

    pub(super) fn counter(&self, key: &metrics::Key) -> Counter {
        if self.has_room() {
            return self.shards.get_or_create_counter(key, |it| Counter::from_arc(Arc::clone(it)));
        }
        let known = self.shards.get_counter(key).map(Counter::from_arc);
        known.unwrap_or_else(|| self.refused(key, Counter::noop()))
    }

    pub(super) fn gauge(&self, key: &metrics::Key) -> Gauge {
        if self.has_room() {
            return self.shards.get_or_create_gauge(key, |it| Gauge::from_arc(Arc::clone(it)));
        }
        let known = self.shards.get_gauge(key).map(Gauge::from_arc);
        known.unwrap_or_else(|| self.refused(key, Gauge::noop()))
    }

    pub(super) fn histogram(&self, key: &metrics::Key) -> Histogram {
        if self.has_room() {
            let handle = |it: &Arc<_>| Histogram::from_arc(Arc::clone(it));
            return self.shards.get_or_create_histogram(key, handle);
        }
        let known = self.shards.get_histogram(key).map(Histogram::from_arc);
        known.unwrap_or_else(|| self.refused(key, Histogram::noop()))
    }

    /// Hands the values of all series to the reporter, and forgets those that are idle.
    pub(super) fn report(&self) {
        let Maker { settings, tally, .. } = self.shards.storage();
        // Held to the end: two reports at once would share what was counted between them.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let report = Report {
            now,
            second: last.seconds.next(),
            // Two reports may come in one moment of the clock.
            elapsed: (now - last.at).as_secs_f64().max(1e-3),
            counters: settings.counters,
            idle_since: now.checked_sub(settings.idle_timeout),
        };
        last.at = now;
        let mut any_idle = false;
        self.shards.visit_counters(|_, series| any_idle |= series.report(&report));
        self.shards.visit_gauges(|_, series| any_idle |= series.report(&report));
        self.shards.visit_histograms(|_, series| any_idle |= series.report(&report));
        if any_idle {
            self.shards.retain_counters(|_, series| tally.retains(series, &report));
            self.shards.retain_gauges(|_, series| tally.retains(series, &report));
            self.shards.retain_histograms(|_, series| tally.retains(series, &report));
        }
    }

    fn has_room(&self) -> bool {
        let Maker { settings, tally, .. } = self.shards.storage();
        tally.series.load(Ordering::Relaxed) < settings.max_series
    }

    fn refused<T>(&self, key: &metrics::Key, nothing: T) -> T {
        let Maker { settings, tally, .. } = self.shards.storage();
        tally.refused.fetch_add(1, Ordering::Relaxed);
        if !self.is_full_told.swap(true, Ordering::Relaxed) {
            let limit = settings.max_series;
            tracing::warn!(metric = ?key.name(), limit, "too many series: new ones are not recorded");
        }
        nothing
    }
}

impl Tally {
    /// Whether a series is kept. It is if it is in use or not idle: nobody can take a handle of it
    /// meanwhile, for that needs the lock that its shard is under.
    fn retains<S: Series>(&self, series: &Arc<S>, report: &Report) -> bool {
        if Arc::strong_count(series) > 1 {
            return true;
        }
        // What was done through handles that are gone is seen from here on.
        fence(Ordering::Acquire);
        let is_kept = series.is_updated() || !report.is_idle(series.used());
        if !is_kept {
            self.series.fetch_sub(1, Ordering::Relaxed);
        }
        is_kept
    }
}

/// Makes series, and the keys under which they are reported.
struct Maker {
    reporter: Reporter,
    settings: Settings,
    tally: Tally,
}

impl Maker {
    /// Counts a series, and what is reported of it if it can be named.
    fn name<T>(
        &self,
        key: &metrics::Key,
        name: impl FnOnce() -> Result<T, InvalidKey>,
    ) -> Option<T> {
        self.tally.series.fetch_add(1, Ordering::Relaxed);
        match name() {
            Ok(named) => Some(named),
            Err(error) => {
                if self.tally.unnamed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(metric = ?key.name(), %error, "a series cannot be reported");
                }
                None
            }
        }
    }

    fn gauge_of(
        &self,
        key: &metrics::Key,
        part: Option<&str>,
    ) -> Result<reporter::Gauge, InvalidKey> {
        let prefix = self.settings.prefix.as_deref();
        let parts = prefix.into_iter().chain([key.name()]).chain(part);
        let name = parts.collect::<Vec<_>>().join(".");
        let labels = key.labels().map(|label| (label.key(), label.value()));
        self.reporter.gauge(Key::with_labels(name, labels)?)
    }
}

impl Storage<metrics::Key> for Maker {
    type Counter = Arc<CounterSeries>;
    type Gauge = Arc<GaugeSeries>;
    type Histogram = Arc<HistogramSeries>;

    fn counter(&self, key: &metrics::Key) -> Arc<CounterSeries> {
        let gauge = self.name(key, || self.gauge_of(key, None));
        Arc::new(CounterSeries::new(gauge))
    }

    fn gauge(&self, key: &metrics::Key) -> Arc<GaugeSeries> {
        let gauge = self.name(key, || self.gauge_of(key, None));
        Arc::new(GaugeSeries::new(gauge))
    }

    fn histogram(&self, key: &metrics::Key) -> Arc<HistogramSeries> {
        let keys = self.name(key, || {
            let quantiles = self.settings.quantiles.iter();
            let quantiles = quantiles
                .map(|quantile| Ok((quantile.value, self.gauge_of(key, Some(&quantile.name))?)));
            Ok(HistogramKeys {
                count: self.gauge_of(key, Some("count"))?,
                sum: self.gauge_of(key, Some("sum"))?,
                quantiles: quantiles.collect::<Result<_, InvalidKey>>()?,
            })
        });
        Arc::new(HistogramSeries::new(keys, Arc::clone(&self.tally.not_finite)))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("tally", self.tally()).finish_non_exhaustive()
    }
}
