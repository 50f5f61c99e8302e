//! [`MetricExporter`]: an exporter for OpenTelemetry's periodic reader, through a [`Reporter`].

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};

use self::points::{InstrumentConflict, InstrumentId, InvalidName, MergeRule, Naming, Points};
use crate::{
    log_limit::LogLimiter,
    metric::{IntoKey, InvalidKey, Key, Point, Sample},
    reporter::{Reporter, ReporterStats, Stamp, UniqueSeconds, WallClock, whole_seconds},
};

mod points;
#[cfg(test)]
mod tests;

/// Exports the metrics of an OpenTelemetry SDK.
///
/// A gauge or a sum becomes one series per set of attributes. A histogram becomes `.count`, `.sum`, `.min` and
/// `.max` (the last two if the SDK records them), and for each bound a `.bucket` with the label `le`, which counts
/// the values that are not greater, as in Prometheus. An exponential histogram has no such buckets: its bounds
/// move, so they make no series.
///
/// The key is the instrument's name with the attributes, as [`Key::with_labels`] writes them:
/// `http.requests;method=GET`. Resource attributes are left out, except for
/// [selected ones](Self::resource_attributes). Of several labels with one name the last of these counts: labels of
/// the [prefix](Self::prefix), of the resource, of the scope, of the point, and a bucket's `le`.
///
/// Two instruments have the same key if they have one name in two scopes, or are a gauge and a counter of one name,
/// or a histogram `x` and a counter `x.count`. The later one then replaces the other. Each such pair is logged
/// once; [`scope_labels`](Self::scope_labels) keeps scopes apart.
///
/// All points of an export are stored in the second of the export, because a server stores one value per key and
/// second. Exports of one second are merged: deltas are added, and gauges and cumulative values have their last
/// value. So a reader with an interval of less than a second loses nothing, but sends more than is stored. If the
/// wall clock is set back, the seconds that repeat replace their first exports.
///
/// An infinite sum of a histogram is exported as the greatest finite number. Other values that are NaN or infinite
/// are dropped, and counted by the [reporter](crate::reporter::ReporterStats::dropped).
///
/// `export` records the values with the reporter and does not wait for the server. It fails if the reporter is
/// closed, or had to drop samples. The exporter's `force_flush` and `shutdown` block until all points are stored,
/// also if they block the reporter's runtime. They fail if the reporter has lost points since the last flush, its
/// other users' included, with their number; if points are stored in the reporter's spool; and with
/// [`OTelSdkError::Timeout`] if points are still queued when the time is over. They log that as well, since a
/// provider's `shutdown` does not return the error. As of version 0.33 of the SDK, a provider's `force_flush` only
/// exports; to wait for the server, [flush](Reporter::flush) the reporter.
///
/// Cloning is cheap, and clones share their state: keep one to read its [`stats`](Self::stats).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter, opentelemetry::MetricExporter};
/// use opentelemetry::{KeyValue, metrics::MeterProvider};
/// use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
///
/// let client = MetricsClient::connect(address).await?;
/// let reporter = Reporter::new(client.clone());
/// let reader = PeriodicReader::builder(MetricExporter::new(reporter.clone()))
///     .with_interval(Duration::from_secs(10))
///     .build();
/// let provider = SdkMeterProvider::builder().with_reader(reader).build();
///
/// let requests = provider.meter("shop").u64_counter("http.requests").build();
/// requests.add(3, &[KeyValue::new("method", "GET")]);
///
/// // It blocks, so it has a thread of its own here.
/// tokio::task::spawn_blocking(move || provider.shutdown()).await??;
/// let found = client.get("http.requests;method=GET").await?;
/// assert_eq!(found.latest("http.requests;method=GET").unwrap().value, 3.0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MetricExporter {
    reporter: Reporter,
    naming: Naming,
    temporality: Temporality,
    flush_timeout: Duration,
    clock: WallClock,
    shared: Arc<ExporterState>,
}

/// The state that clones share.
#[derive(Default)]
struct ExporterState {
    in_second: Mutex<SecondTotals>,
    /// What the reporter had lost at the last flush.
    lost: Mutex<Lost>,
    is_shut_down: AtomicBool,
    exported: AtomicU64,
    invalid_names: AtomicU64,
    /// Pairs of instruments with the same key that have been logged.
    pairs: Mutex<HashSet<(InstrumentId, InstrumentId)>>,
    invalid_names_log: LogLimiter,
    pairs_log: LogLimiter,
}

/// The values in all exports of the last export's second.
#[derive(Default)]
struct SecondTotals {
    seconds: UniqueSeconds,
    /// Of series whose exports are merged by other rules than taking the last value.
    values: HashMap<Key, f64>,
}

/// Counters of an exporter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct MetricExporterStats {
    /// Points that were recorded with the reporter.
    pub exported: u64,
    /// Points that were left out because their name and attributes make no valid key. The first ones are
    /// logged.
    pub invalid_names: u64,
}

/// The most pairs of instruments that are remembered and logged. A program has a handful, unless it makes names of
/// instruments from data.
const MAX_PAIRS: usize = 1000;

impl MetricExporter {
    /// Returns an exporter with default settings that exports through `reporter`.
    #[must_use]
    pub fn new(reporter: Reporter) -> Self {
        let lost = Lost::of(&reporter.stats());
        Self {
            reporter,
            naming: Naming::default(),
            temporality: Temporality::Cumulative,
            flush_timeout: Duration::from_secs(5),
            clock: WallClock::default(),
            shared: Arc::new(ExporterState { lost: Mutex::new(lost), ..ExporterState::default() }),
        }
    }

    /// Sets a prefix of all keys, followed by a dot. Default: none.
    ///
    /// Labels of the prefix are labels of all series: with `shop;env=prod` the counter `hits` is exported
    /// as `shop.hits;env=prod`.
    ///
    /// # Errors
    ///
    /// If it is not valid as the beginning of a key.
    pub fn prefix(mut self, prefix: impl IntoKey) -> Result<Self, InvalidKey> {
        let prefix = prefix.into_key()?;
        let (name, labels) = prefix.labels().into_parts();
        self.naming.prefix = Some(name).filter(|name| !name.is_empty());
        self.naming.labels = labels;
        Ok(self)
    }

    /// Sets whether sums and histograms are exported since their start, or since the last export. Default:
    /// [`Temporality::Cumulative`], with which a lost export leaves a gap but no error.
    #[must_use]
    pub fn temporality(self, temporality: Temporality) -> Self {
        Self { temporality, ..self }
    }

    /// Sets which attributes of the resource become labels of every series, such as `service.name`.
    /// Default: none.
    #[must_use]
    pub fn resource_attributes<A: Into<String>>(
        mut self,
        names: impl IntoIterator<Item = A>,
    ) -> Self {
        self.naming.resource_attributes = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets whether the name of an instrument's scope, and its version if it has one, become labels of
    /// its series: `otel.scope.name` and `otel.scope.version`. Default: no.
    ///
    /// This keeps instruments of one name in two scopes apart.
    #[must_use]
    pub fn scope_labels(mut self, is_on: bool) -> Self {
        self.naming.is_scope_label = is_on;
        self
    }

    /// Sets how long `force_flush` may take. Default: 5 seconds, the SDK's default for a shutdown.
    #[must_use]
    pub fn flush_timeout(self, limit: Duration) -> Self {
        Self { flush_timeout: limit, ..self }
    }

    /// Returns the counters of the exporter and its clones.
    #[must_use]
    pub fn stats(&self) -> MetricExporterStats {
        MetricExporterStats {
            exported: self.shared.exported.load(Ordering::Relaxed),
            invalid_names: self.shared.invalid_names.load(Ordering::Relaxed),
        }
    }

    fn flush(&self, limit: Duration) -> OTelSdkResult {
        let flushed = self.reporter.flush_blocking(limit);
        let lost = {
            let now = Lost::of(&self.reporter.stats());
            let before = std::mem::replace(&mut *locked(&self.shared.lost), now);
            now.since(before)
        };
        let (waiting, spooled) = flushed.err().map_or((0, 0), |it| (it.waiting, it.spooled));
        if (lost, waiting, spooled) == (Lost::default(), 0, 0) {
            return Ok(());
        }
        let Lost { dropped, rejected } = lost;
        tracing::error!(dropped, rejected, waiting, spooled, "exported points are not stored");
        if lost == Lost::default() && waiting > 0 {
            return Err(OTelSdkError::Timeout(limit));
        }
        Err(OTelSdkError::InternalFailure(format!(
            "{} points lost: {dropped} dropped, {rejected} rejected; {waiting} queued, {spooled} spooled",
            dropped + rejected
        )))
    }

    fn check_open(&self) -> OTelSdkResult {
        match self.shared.is_shut_down.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(OTelSdkError::AlreadyShutdown),
        }
    }

    /// Logs invalid and conflicting instruments. No lock is held.
    fn complain(&self, invalid_names: Vec<InvalidName>, pairs: Vec<InstrumentConflict>) {
        let ExporterState { invalid_names_log, pairs_log, pairs: known, .. } = &*self.shared;
        for InvalidName { metric, error } in invalid_names {
            if invalid_names_log.should_log() {
                let suppressed = invalid_names_log.take_suppressed();
                tracing::warn!(?metric, %error, suppressed, "invalid key; series is not exported");
            }
        }
        for InstrumentConflict { key, first, second } in pairs {
            let is_due = {
                let mut known = locked(known);
                // A pair that the rate limit holds back is logged with a later export.
                let pair = (first.clone(), second.clone());
                known.len() < MAX_PAIRS
                    && !known.contains(&pair)
                    && pairs_log.should_log()
                    && known.insert(pair)
            };
            if is_due {
                tracing::warn!(
                    ?key, %first, %second,
                    "two instruments have the same key; the second replaces the first"
                );
            }
        }
    }
}

impl PushMetricExporter for MetricExporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.check_open()?;
        let Points { values, pairs, invalid_names } = Points::of(metrics, &self.naming);
        let points = values.len() as u64;
        let aftermath = {
            // Held until the samples are queued, so that an older export does not replace a newer one.
            let mut in_second = locked(&self.shared.in_second);
            let now = whole_seconds(self.clock.now());
            let Stamp { second, is_shared } = in_second.seconds.stamp(now, now);
            if !is_shared {
                in_second.values.clear();
            }
            let sample = |(key, it): (Key, points::Value)| {
                let value = in_second.merged(&key, it.value, it.merge);
                Sample { key, point: Point { timestamp: second, value } }
            };
            let samples: Vec<_> = values.into_iter().map(sample).collect();
            self.reporter.record_quietly(&samples)
        };
        let refused = aftermath.run();
        self.shared.exported.fetch_add(points - refused.closed, Ordering::Relaxed);
        self.shared.invalid_names.fetch_add(invalid_names.len() as u64, Ordering::Relaxed);
        self.complain(invalid_names, pairs);
        match (refused.closed, refused.queue_full) {
            (0, 0) => Ok(()),
            (0, full) => Err(OTelSdkError::InternalFailure(format!(
                "reporter's queue is full: {full} samples dropped"
            ))),
            (closed, _) => Err(OTelSdkError::InternalFailure(format!(
                "reporter is closed: {closed} of {points} points dropped"
            ))),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.check_open()?;
        self.flush(self.flush_timeout)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if self.shared.is_shut_down.swap(true, Ordering::AcqRel) {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        // The reporter stays open, because it may have other users.
        self.flush(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

impl SecondTotals {
    /// Merges a later export of a series in this second, and returns the value to record.
    fn merged(&mut self, key: &Key, value: f64, merge: MergeRule) -> f64 {
        // A value that is not finite is dropped later, and merged with nothing.
        if merge == MergeRule::Last || !value.is_finite() {
            return value;
        }
        let merged = match self.values.get(key) {
            Some(&earlier) => merge.merge(earlier, value),
            None => value,
        };
        self.values.insert(key.clone(), merged);
        merged
    }
}

/// Samples that a reporter has accepted and lost, those of its other users included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    dropped: u64,
    rejected: u64,
}

impl Lost {
    fn of(stats: &ReporterStats) -> Self {
        let never_accepted = stats.dropped.invalid_key + stats.dropped.not_finite;
        Self { dropped: stats.dropped.total() - never_accepted, rejected: stats.rejected }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_sub(earlier.dropped),
            rejected: self.rejected.saturating_sub(earlier.rejected),
        }
    }
}

impl fmt::Display for InstrumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of scope {:?}", self.kind, self.name, self.scope)
    }
}

impl fmt::Debug for MetricExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricExporter")
            .field("naming", &self.naming)
            .field("temporality", &self.temporality)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Also after a panic: each update is one insertion.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
