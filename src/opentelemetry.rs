//! Where OpenTelemetry's periodic reader exports to: through a [`Reporter`].

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{
        Temporality,
        data::{
            AggregatedMetrics, ExponentialHistogram, Histogram, Metric, MetricData, ResourceMetrics,
        },
        exporter::PushMetricExporter,
    },
};

use crate::{
    metric::{InvalidKey, Key},
    reporter::{Reporter, Seconds},
};

/// Exports the metrics of an OpenTelemetry SDK.
///
/// A gauge and a sum become one series for each set of attributes; a histogram becomes `.count`, `.sum`,
/// `.min` and `.max` (the latter two where the SDK keeps them) and, for each of its bounds, a `.bucket` with the
/// label `le`, which holds how many values were not greater, as in Prometheus. An exponential histogram
/// has no such buckets: its bounds move, so that they make no series.
///
/// The key is the instrument's name with the attributes as [`Key::with_labels`] writes them:
/// `http.requests;method=GET`. Resource attributes are left out but for those that one
/// [asks for](Self::resource_attributes). All points of one export stand at the second in which it
/// happens, or at the next where that has been used.
///
/// `export` hands the values to the reporter and does not wait; that they arrive is the reporter's
/// business. The exporter's `force_flush` and `shutdown` block until they have, and work also where the
/// reporter's runtime is held up by them; what was refused or dropped meanwhile, lies in the reporter's
/// spool or still waits when the time is over is an error. A provider's `shutdown` calls the latter; its
/// `force_flush`, as of version 0.33 of the SDK, only exports, so whoever wants to wait then
/// [flushes](Reporter::flush) the reporter.
///
/// ```
/// # #[cfg(feature = "server")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_client::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter, opentelemetry::Exporter};
/// use opentelemetry::{KeyValue, metrics::MeterProvider};
/// use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
///
/// let client = MetricsClient::connect(address).await?;
/// let reporter = Reporter::new(client.clone());
/// let reader = PeriodicReader::builder(Exporter::new(reporter.clone()))
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
/// # #[cfg(not(feature = "server"))] fn main() {}
/// ```
pub struct Exporter {
    reporter: Reporter,
    prefix: Option<Key>,
    temporality: Temporality,
    resource_attributes: Vec<String>,
    flush_timeout: Duration,
    seconds: Mutex<Seconds>,
    is_shut_down: AtomicBool,
    /// Whether the log knows that there are attributes which make no key.
    is_unnamed_told: AtomicBool,
}

impl Exporter {
    /// An exporter that exports through `reporter`, with everything at its default.
    #[must_use]
    pub fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            prefix: None,
            temporality: Temporality::Cumulative,
            resource_attributes: Vec::new(),
            flush_timeout: Duration::from_secs(5),
            seconds: Mutex::default(),
            is_shut_down: AtomicBool::new(false),
            is_unnamed_told: AtomicBool::new(false),
        }
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
        self.prefix = Some(prefix.try_into()?);
        Ok(self)
    }

    /// Whether sums and histograms are exported as what there was since they began, or since the last
    /// export. Default: [`Temporality::Cumulative`], with which an export that is lost leaves a gap and
    /// no error.
    #[must_use]
    pub fn temporality(self, temporality: Temporality) -> Self {
        Self { temporality, ..self }
    }

    /// Which attributes of the resource become labels of every series, such as `service.name`. Default:
    /// none.
    #[must_use]
    pub fn resource_attributes<A: Into<String>>(self, names: impl IntoIterator<Item = A>) -> Self {
        let resource_attributes = names.into_iter().map(Into::into).collect();
        Self { resource_attributes, ..self }
    }

    /// How long `force_flush` may take. Default: 5 seconds, as the SDK has it for a shutdown.
    #[must_use]
    pub fn flush_timeout(self, limit: Duration) -> Self {
        Self { flush_timeout: limit, ..self }
    }

    fn flush(&self, limit: Duration) -> OTelSdkResult {
        self.reporter.flush_blocking(limit).map_err(|unsent| match unsent.waiting {
            0 => OTelSdkError::InternalFailure(unsent.to_string()),
            _ => OTelSdkError::Timeout(limit),
        })
    }

    fn check_open(&self) -> OTelSdkResult {
        match self.is_shut_down.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(OTelSdkError::AlreadyShutdown),
        }
    }
}

impl PushMetricExporter for Exporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.check_open()?;
        let now = crate::reporter::whole_seconds(crate::reporter::WallClock::default().now());
        let second =
            self.seconds.lock().unwrap_or_else(PoisonError::into_inner).stamp(now, now).second;
        let export =
            Export { exporter: self, resource: self.labels_of(metrics.resource()), second };
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            export.metric(metric);
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.check_open()?;
        self.flush(self.flush_timeout)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if self.is_shut_down.swap(true, Ordering::AcqRel) {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        // The reporter stays open: it may have other users.
        self.flush(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

impl Exporter {
    fn labels_of(&self, resource: &Resource) -> Vec<Label> {
        let wanted = |name: &str| self.resource_attributes.iter().any(|wanted| wanted == name);
        let attributes = resource.iter().filter(|(name, _)| wanted(name.as_str()));
        attributes.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter")
            .field("prefix", &self.prefix)
            .field("temporality", &self.temporality)
            .field("resource_attributes", &self.resource_attributes)
            .finish_non_exhaustive()
    }
}

type Label = (String, String);

/// One export.
struct Export<'a> {
    exporter: &'a Exporter,
    resource: Vec<Label>,
    second: i64,
}

/// The labels of one series.
struct Series<'a> {
    export: &'a Export<'a>,
    name: &'a str,
    labels: Vec<Label>,
}

impl Export<'_> {
    fn metric(&self, metric: &Metric) {
        match metric.data() {
            AggregatedMetrics::F64(data) => self.data(metric.name(), data),
            AggregatedMetrics::U64(data) => self.data(metric.name(), data),
            AggregatedMetrics::I64(data) => self.data(metric.name(), data),
        }
    }

    fn data<T: Number>(&self, name: &str, data: &MetricData<T>) {
        match data {
            MetricData::Gauge(gauge) => {
                for point in gauge.data_points() {
                    self.series(name, point.attributes()).put(None, point.value().to_f64());
                }
            }
            MetricData::Sum(sum) => {
                for point in sum.data_points() {
                    self.series(name, point.attributes()).put(None, point.value().to_f64());
                }
            }
            MetricData::Histogram(histogram) => self.histogram(name, histogram),
            MetricData::ExponentialHistogram(histogram) => self.exponential(name, histogram),
        }
    }

    fn histogram<T: Number>(&self, name: &str, histogram: &Histogram<T>) {
        for point in histogram.data_points() {
            let mut series = self.series(name, point.attributes());
            series.summary(point.count(), point.sum(), point.min(), point.max());
            series.labels.push(("le".to_string(), String::new()));
            let bounds = point.bounds().map(|bound| bound.to_string()).chain(["+Inf".to_string()]);
            let mut count = 0;
            for (bound, bucket) in bounds.zip(point.bucket_counts()) {
                count += bucket;
                if let Some((_, le)) = series.labels.last_mut() {
                    *le = bound;
                }
                series.put(Some("bucket"), count as f64);
            }
        }
    }

    fn exponential<T: Number>(&self, name: &str, histogram: &ExponentialHistogram<T>) {
        for point in histogram.data_points() {
            let series = self.series(name, point.attributes());
            series.summary(point.count() as u64, point.sum(), point.min(), point.max());
        }
    }

    fn series<'a>(
        &'a self,
        name: &'a str,
        attributes: impl Iterator<Item = &'a KeyValue>,
    ) -> Series<'a> {
        let attributes = attributes.map(|it| (it.key.to_string(), it.value.to_string()));
        Series {
            export: self,
            name,
            labels: self.resource.iter().cloned().chain(attributes).collect(),
        }
    }
}

impl Series<'_> {
    fn summary<T: Number>(&self, count: u64, sum: T, min: Option<T>, max: Option<T>) {
        self.put(Some("count"), count as f64);
        self.put(Some("sum"), sum.to_f64());
        for (part, value) in [("min", min), ("max", max)] {
            if let Some(value) = value {
                self.put(Some(part), value.to_f64());
            }
        }
    }

    fn put(&self, part: Option<&str>, value: f64) {
        let Exporter { reporter, prefix, is_unnamed_told, .. } = self.export.exporter;
        let parts = prefix.as_deref().into_iter().chain([self.name]).chain(part);
        let name = parts.collect::<Vec<_>>().join(".");
        let labels = self.labels.iter().map(|(label, value)| (label, value));
        match Key::with_labels(name, labels) {
            Ok(key) => reporter.record_at(key, value, self.export.second),
            Err(error) => {
                if !is_unnamed_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(metric = ?self.name, %error, "a series cannot be exported");
                }
            }
        }
    }
}

/// What a point may hold.
trait Number: Copy {
    fn to_f64(self) -> f64;
}

impl Number for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

/// Whole numbers beyond 2^53 lose their last digits: the protocol's values are floats.
impl Number for u64 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl Number for i64 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}
