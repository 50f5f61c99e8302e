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
#[must_use = "a builder does nothing until it makes a recorder"]
pub struct RecorderBuilder {
    reporter: Reporter,
    names: NameSettings,
    settings: RecorderSettings,
    clock: WallClock,
}

/// There is a recorder already, and the facade takes one for each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recorder for the metrics facade is installed already, and a process has one")]
pub struct InstallError;

/// A quantile that is none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{given} is no quantile: these lie between 0 and 1, such as 0.99")]
pub struct InvalidQuantile {
    given: f64,
}

/// An interval that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid interval {given:?}: a server keeps one value for each second, so it is at least 1s"
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
    /// If it is less than a second: a server keeps one value for each.
    pub fn interval(mut self, interval: Duration) -> Result<Self, InvalidInterval> {
        if interval < Duration::from_secs(1) {
            return Err(InvalidInterval { given: interval });
        }
        self.settings.interval = interval.min(LONGEST);
        Ok(self)
    }

    /// Sets what all keys begin with, before a dot. Default: nothing.
    ///
    /// Labels of the prefix are [global labels](Self::global_label): with `shop;env=prod` the counter
    /// `hits` is reported as `shop.hits;env=prod`.
    ///
    /// # Errors
    ///
    /// If a key cannot begin with it.
    pub fn prefix(mut self, prefix: impl IntoKey) -> Result<Self, InvalidKey> {
        self.names.prefix = Some(prefix.into_key()?);
        Ok(self)
    }

    /// Adds a label to all series. A label of that name which a metric has itself replaces it, and so
    /// does one that is added later. Default: none.
    ///
    /// What a key cannot hold is percent-encoded, as [`Key::with_labels`](crate::Key::with_labels) does it.
    pub fn global_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.names.labels.push((name.into(), value.into()));
        self
    }

    /// What is reported of a counter. Default: [`CounterMode::Cumulative`].
    pub fn counter_mode(mut self, mode: CounterMode) -> Self {
        self.settings.counter_mode = mode;
        self
    }

    /// Sets which quantiles are reported of a histogram: 0.5 as `.p50`, 0.999 as `.p999`, 0 as `.min` and
    /// 1 as `.max`. Default: 0, 0.5, 0.9, 0.99 and 1.
    ///
    /// They are those of the nearest rank: `.p99` is the smallest value such that 99 % of all are not
    /// greater. Of less than 100 values that is the greatest. `.min` and `.max` are exact, the others off
    /// by at most 1 %.
    ///
    /// # Errors
    ///
    /// If one of them does not lie between 0 and 1.
    pub fn quantiles(
        mut self,
        quantiles: impl IntoIterator<Item = f64>,
    ) -> Result<Self, InvalidQuantile> {
        let checked = |given| Quantile::new(given).ok_or(InvalidQuantile { given });
        self.names.quantiles = quantiles.into_iter().map(checked).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Sets how long a series is reported after its last update; where no handle of it is kept it is then
    /// forgotten. Default: 15 minutes. With `None`, that is never.
    ///
    /// A gauge that is not 0 is reported and kept for ever, for it would go on from 0: see
    /// [`gauge_idle_timeout`](Self::gauge_idle_timeout).
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// Sets the [idle timeout](Self::idle_timeout) of gauges that are not 0. Default: `None`, so that they are never forgotten.
    ///
    /// This is for programs whose gauges are set and not counted up and down, and have labels of which
    /// there are ever new ones: without it, these stay until
    /// [the limit of series](Self::max_series) is reached.
    pub fn gauge_idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.gauge_idle_timeout = timeout.into();
        self
    }

    /// Sets how many series there may be, for labels can make ever new ones. Default: 10,000. The memory
    /// of histograms counts most, with up to 64 KiB each.
    ///
    /// A handle that is taken of one more reports nothing until a series has been forgotten: the first
    /// update after that makes its series. What a counter or a gauge was told before then counts; what a
    /// histogram was told does not. The log says when the limit is reached, and when there is room again.
    pub fn max_series(mut self, series: usize) -> Self {
        self.settings.max_series = series as u64;
        self
    }

    #[cfg(test)]
    pub(super) fn clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// Makes a recorder that is not installed: for `metrics::with_local_recorder`, or to be wrapped.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a recorder ends with its last handle"]
    pub fn start(self) -> MetricsRecorder {
        let Self { reporter, names, settings, clock } = self;
        MetricsRecorder::start(Registry::new(reporter, Names::new(names), settings, clock))
    }

    /// Makes a recorder and has the whole process report to it.
    ///
    /// # Errors
    ///
    /// If there is one already.
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
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
