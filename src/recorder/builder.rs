//! What a recorder can be told, and what it does when it is told nothing.

use std::time::Duration;

use super::{
    Recorder,
    registry::{Registry, Settings},
    series::Quantile,
};
use crate::{
    metric::{InvalidKey, Key},
    reporter::Reporter,
};

/// Builds a [`Recorder`].
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter, recorder::{Counters, Recorder}};
///
/// let client = MetricsClient::builder("metrics.internal:8888").connect_lazy()?;
/// let recorder = Recorder::builder(Reporter::new(client))
///     .prefix("myhost.shop")?
///     .interval(Duration::from_secs(60))
///     .counters(Counters::Rates)
///     .quantiles([0.5, 0.99])?
///     .install()?;
/// let _guard = recorder.guard(Duration::from_secs(5));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it makes a recorder"]
pub struct RecorderBuilder {
    reporter: Reporter,
    interval: Duration,
    settings: Settings,
}

/// What is reported of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Counters {
    /// How much has been counted since the counter began: never less than before, until the program
    /// starts anew. A report that is lost leaves a gap and no error.
    #[default]
    Totals,
    /// How much has been counted each second since the last report, as statsd does.
    Rates,
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

impl RecorderBuilder {
    pub(super) fn new(reporter: Reporter) -> Self {
        let settings = Settings {
            prefix: None,
            counters: Counters::default(),
            quantiles: [0.5, 0.9, 0.99].into_iter().filter_map(Quantile::new).collect(),
            idle_timeout: Duration::from_secs(15 * 60),
            max_series: 10_000,
        };
        Self { reporter, interval: Duration::from_secs(10), settings }
    }

    /// How often the series are reported, at least a second: the protocol keeps one value for each.
    /// Default: 10 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(Duration::from_secs(1), LONGEST);
        self
    }

    /// What all keys begin with, before a dot. Default: nothing.
    ///
    /// # Errors
    ///
    /// If a key cannot begin with it.
    pub fn prefix<K>(mut self, prefix: K) -> Result<Self, InvalidKey>
    where
        K: TryInto<Key>,
        InvalidKey: From<K::Error>,
    {
        self.settings.prefix = Some(prefix.try_into()?);
        Ok(self)
    }

    /// What is reported of a counter. Default: [`Counters::Totals`].
    pub fn counters(mut self, counters: Counters) -> Self {
        self.settings.counters = counters;
        self
    }

    /// Which quantiles are reported of a histogram: 0.5 as `.p50`, 0.999 as `.p999`, 0 as `.min` and 1
    /// as `.max`. Default: 0.5, 0.9 and 0.99.
    ///
    /// # Errors
    ///
    /// If one of them does not lie between 0 and 1.
    pub fn quantiles(
        mut self,
        quantiles: impl IntoIterator<Item = f64>,
    ) -> Result<Self, InvalidQuantile> {
        let checked = |given| Quantile::new(given).ok_or(InvalidQuantile { given });
        self.settings.quantiles = quantiles.into_iter().map(checked).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// How long a series is reported after its last update; where no handle of it is kept it is then
    /// forgotten. Default: 15 minutes.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How many series there may be, for labels can make ever new ones. What would be one more counts
    /// for nothing, and the log tells of the first. Default: 10,000; the memory of histograms counts
    /// most, with up to 32 KiB each.
    pub fn max_series(mut self, series: usize) -> Self {
        self.settings.max_series = series as u64;
        self
    }

    /// Makes a recorder that is not installed: for `metrics::with_local_recorder`, or to be wrapped.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a recorder ends with its last handle"]
    pub fn build(self) -> Recorder {
        Recorder::start(Registry::new(self.reporter, self.settings), self.interval)
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
    pub fn install(self) -> Result<Recorder, InstallError> {
        let recorder = self.build();
        metrics::set_global_recorder(recorder.clone()).map_err(|_| InstallError)?;
        Ok(recorder)
    }
}

/// As good as never, and small enough to be added to any time: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
