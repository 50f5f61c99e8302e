//! `RecorderBuilder`: the settings of a recorder, and their defaults.

use std::time::Duration;

use super::{
    MetricsRecorder,
    names::{NameSettings, Names},
    registry::{RecorderSettings, Registry},
    series::{CounterMode, Quantile},
};
use crate::{
    metric::{IntoKey, InvalidKey},
    reporter::{Reporter, WallClock},
};

/// Builds a [`MetricsRecorder`].
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter, recorder::{CounterMode, MetricsRecorder}};
///
/// let client = MetricsClient::builder("metrics.internal:8888").connect_lazy()?;
/// let recorder = MetricsRecorder::builder(Reporter::new(client))
///     .prefix("shop")?
///     .global_label("host", "palm")
///     .interval(Duration::from_secs(60))?
///     .counter_mode(CounterMode::Rate)
///     .quantiles([0.5, 0.99])?
///     .install()?;
/// let _guard = recorder.flush_on_drop(Duration::from_secs(5));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it starts a recorder"]
pub struct RecorderBuilder {
    reporter: Reporter,
    names: NameSettings,
    settings: RecorderSettings,
    clock: WallClock,
}

/// A recorder is installed already. The facade takes one per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recorder for the metrics facade is already installed")]
pub struct InstallError;

/// A quantile outside `0.0..=1.0`.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("invalid quantile {given}: must be between 0 and 1")]
pub struct InvalidQuantile {
    given: f64,
}

/// An interval that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid interval {given:?}: must be at least 1s, since a server stores one value per second"
)]
pub struct InvalidInterval {
    given: Duration,
}

impl RecorderBuilder {
    pub(super) fn new(reporter: Reporter) -> Self {
        let settings = RecorderSettings {
            interval: Duration::from_secs(10),
            counter_mode: CounterMode::default(),
            idle_timeout: Some(Duration::from_secs(15 * 60)),
            gauge_idle_timeout: None,
            max_series: 10_000,
        };
        let quantiles = [0.0, 0.5, 0.9, 0.99, 1.0].into_iter().filter_map(Quantile::new).collect();
        let names = NameSettings { prefix: None, labels: Vec::new(), quantiles };
        Self { reporter, names, settings, clock: WallClock::default() }
    }

    /// Sets how often the series are reported. Default: 10 seconds.
    ///
    /// Reports are made at the beginning of a second of the wall clock.
    ///
    /// # Errors
    ///
    /// If it is less than a second, since a server stores one value per second.
    pub fn interval(mut self, interval: Duration) -> Result<Self, InvalidInterval> {
        if interval < Duration::from_secs(1) {
            return Err(InvalidInterval { given: interval });
        }
        self.settings.interval = interval.min(MAX_INTERVAL);
        Ok(self)
    }

    /// Sets a prefix of all keys, followed by a dot. Default: none.
    ///
    /// Labels of the prefix are [global labels](Self::global_label): with `shop;env=prod` the counter
    /// `hits` is reported as `shop.hits;env=prod`.
    ///
    /// # Errors
    ///
    /// If it is not valid as the beginning of a key.
    pub fn prefix(mut self, prefix: impl IntoKey) -> Result<Self, InvalidKey> {
        self.names.prefix = Some(prefix.into_key()?);
        Ok(self)
    }

    /// Adds a label to all series. A metric's own label of that name replaces it, and so does a global
    /// label that is
    /// added later. Default: none.
    ///
    /// Characters that are invalid in a key are percent-encoded, as by
    /// [`Key::with_labels`](crate::Key::with_labels).
    pub fn global_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.names.labels.push((name.into(), value.into()));
        self
    }

    /// Sets what is reported of counters. Default: [`CounterMode::Cumulative`].
    pub fn counter_mode(mut self, mode: CounterMode) -> Self {
        self.settings.counter_mode = mode;
        self
    }

    /// Sets which quantiles are reported of a histogram: 0.5 as `.p50`, 0.999 as `.p999`, 0 as `.min` and
    /// 1 as `.max`. Default: 0, 0.5, 0.9, 0.99 and 1.
    ///
    /// They are nearest-rank quantiles: `.p99` is the smallest value such that 99 % of all values are not
    /// greater, which is the greatest of less than 100 values. `.min` and `.max` are exact, the others have an
    /// error of at most 1 %.
    ///
    /// # Errors
    ///
    /// If one of them is outside `0.0..=1.0`.
    pub fn quantiles(
        mut self,
        quantiles: impl IntoIterator<Item = f64>,
    ) -> Result<Self, InvalidQuantile> {
        let checked = |given| Quantile::new(given).ok_or(InvalidQuantile { given });
        self.names.quantiles = quantiles.into_iter().map(checked).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Sets how long a series is reported after its last update. After that it is forgotten, unless a handle of
    /// it is kept. `None` means for ever. Default: 15 minutes.
    ///
    /// A gauge that is not 0 is reported for ever, because it would start again at 0: see
    /// [`gauge_idle_timeout`](Self::gauge_idle_timeout).
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// Sets the [idle timeout](Self::idle_timeout) of gauges that are not 0. Default: `None`, so that they are never forgotten.
    ///
    /// This is for programs that set their gauges, and do not count them up and down, and whose labels have ever
    /// new values: without a timeout such gauges accumulate until [the limit of series](Self::max_series) is
    /// reached.
    pub fn gauge_idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.gauge_idle_timeout = timeout.into();
        self
    }

    /// Limits the number of series, since labels can create ever new ones. Default: 10,000. Histograms take most of
    /// the memory, up to 64 KiB each.
    ///
    /// A handle beyond the limit reports nothing until another series is forgotten; its first update after that
    /// creates its series. Earlier updates of a counter or a gauge are kept until then, those of a histogram are
    /// not. The log says when the limit is reached, and when there is room again.
    pub fn max_series(mut self, series: usize) -> Self {
        self.settings.max_series = series as u64;
        self
    }

    #[cfg(test)]
    pub(super) fn clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// Starts a recorder that is not installed: for `metrics::with_local_recorder`, or to be wrapped. Spawns its
    /// task on the caller's runtime.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a recorder stops with its last handle"]
    pub fn start(self) -> MetricsRecorder {
        let Self { reporter, names, settings, clock } = self;
        MetricsRecorder::start(Registry::new(reporter, Names::new(names), settings, clock))
    }

    /// Starts a recorder as [`start`](Self::start), and installs it for the whole process.
    ///
    /// # Errors
    ///
    /// If one is installed already.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    pub fn install(self) -> Result<MetricsRecorder, InstallError> {
        let recorder = self.start();
        metrics::set_global_recorder(recorder.clone()).map_err(|_| InstallError)?;
        Ok(recorder)
    }
}

/// As good as never, and small enough to be added to any time: ten years.
const MAX_INTERVAL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
