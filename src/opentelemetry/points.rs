//! The points of one export, by their keys.

use ::opentelemetry::{InstrumentationScope, KeyValue};
use indexmap::{IndexMap, map::Entry};
use opentelemetry_sdk::metrics::{
    Temporality,
    data::{
        AggregatedMetrics, ExponentialHistogram, Histogram, Metric, MetricData, ResourceMetrics,
    },
};

use crate::metric::{InvalidKey, Key};

pub(super) type Label = (String, String);

/// How keys are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Naming {
    /// Followed by a dot.
    pub(super) prefix: Option<String>,
    /// Labels of the prefix. Attributes replace them.
    pub(super) labels: Vec<Label>,
    pub(super) resource_attributes: Vec<String>,
    /// The scope's name and version become labels.
    pub(super) is_scope_label: bool,
}

/// The points of an export.
#[derive(Debug, Default)]
pub(super) struct Points {
    pub(super) values: IndexMap<Key, Value>,
    /// Pairs of instruments of which one has replaced a point of the other.
    pub(super) pairs: Vec<InstrumentConflict>,
    /// Points without a valid key.
    pub(super) invalid_names: Vec<InvalidName>,
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) value: f64,
    pub(super) merge: MergeRule,
    owner: InstrumentId,
}

/// How two exports of one second are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeRule {
    /// The later value counts: gauges, and cumulative values.
    Last,
    /// Deltas are added.
    Sum,
    Min,
    Max,
}

/// The instrument of a point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InstrumentId {
    pub(super) scope: String,
    pub(super) kind: &'static str,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct InstrumentConflict {
    pub(super) key: Key,
    pub(super) first: InstrumentId,
    pub(super) second: InstrumentId,
}

#[derive(Debug)]
pub(super) struct InvalidName {
    pub(super) metric: String,
    pub(super) error: InvalidKey,
}

impl MergeRule {
    fn of(temporality: Temporality, delta: Self) -> Self {
        if temporality == Temporality::Delta { delta } else { Self::Last }
    }

    pub(super) fn merge(self, earlier: f64, later: f64) -> f64 {
        match self {
            Self::Last => later,
            Self::Sum => finite(earlier + later),
            Self::Min => earlier.min(later),
            Self::Max => earlier.max(later),
        }
    }
}

impl Points {
    pub(super) fn of(metrics: &ResourceMetrics, naming: &Naming) -> Self {
        let mut points = Self::default();
        let is_wanted = |name: &str| naming.resource_attributes.iter().any(|it| it == name);
        let resource = metrics.resource().iter().filter(|(name, _)| is_wanted(name.as_str()));
        let resource = resource.map(|(name, value)| (name.to_string(), value.to_string()));
        let resource: Vec<_> = naming.labels.iter().cloned().chain(resource).collect();
        for scope in metrics.scope_metrics() {
            let mut common = resource.clone();
            if naming.is_scope_label {
                common.extend(scope_labels(scope.scope()));
            }
            for metric in scope.metrics() {
                let owner = InstrumentId {
                    scope: scope.scope().name().to_string(),
                    kind: "gauge",
                    name: metric.name().to_string(),
                };
                Instrument { points: &mut points, naming, common: &common, owner }.metric(metric);
            }
        }
        points
    }
}

/// Returns the name and the version of a scope, under OpenTelemetry's names.
fn scope_labels(scope: &InstrumentationScope) -> impl Iterator<Item = Label> {
    let version = scope.version().map(|version| ("otel.scope.version", version));
    [("otel.scope.name", scope.name())]
        .into_iter()
        .chain(version)
        .map(|(label, value)| (label.to_string(), value.to_string()))
}

/// Adds the points of one instrument.
struct Instrument<'a> {
    points: &'a mut Points,
    naming: &'a Naming,
    /// The labels of all points of its scope.
    common: &'a [Label],
    owner: InstrumentId,
}

/// The labels of one series: of several with one name, the last that was added.
type Labels = IndexMap<String, String>;

impl Instrument<'_> {
    fn metric(mut self, metric: &Metric) {
        match metric.data() {
            AggregatedMetrics::F64(data) => self.data(data),
            AggregatedMetrics::U64(data) => self.data(data),
            AggregatedMetrics::I64(data) => self.data(data),
        }
    }

    fn data<T: PointValue>(&mut self, data: &MetricData<T>) {
        match data {
            MetricData::Gauge(gauge) => {
                for point in gauge.data_points() {
                    let labels = self.labels(point.attributes());
                    self.emit(&labels, None, point.value().to_f64(), MergeRule::Last);
                }
            }
            MetricData::Sum(sum) => {
                self.owner.kind = "sum";
                let merge = MergeRule::of(sum.temporality(), MergeRule::Sum);
                for point in sum.data_points() {
                    let labels = self.labels(point.attributes());
                    self.emit(&labels, None, point.value().to_f64(), merge);
                }
            }
            MetricData::Histogram(histogram) => self.histogram(histogram),
            MetricData::ExponentialHistogram(histogram) => self.exponential_histogram(histogram),
        }
    }

    fn histogram<T: PointValue>(&mut self, histogram: &Histogram<T>) {
        self.owner.kind = "histogram";
        let temporality = histogram.temporality();
        for point in histogram.data_points() {
            let mut labels = self.labels(point.attributes());
            let (count, sum) = (point.count(), point.sum());
            self.summary(&labels, temporality, (count, sum, point.min(), point.max()));
            let bounds = point.bounds().map(|bound| bound.to_string()).chain(["+Inf".to_string()]);
            let mut count = 0;
            for (bound, bucket) in bounds.zip(point.bucket_counts()) {
                count += bucket;
                labels.insert("le".to_string(), bound);
                let merge = MergeRule::of(temporality, MergeRule::Sum);
                self.emit(&labels, Some("bucket"), count as f64, merge);
            }
        }
    }

    fn exponential_histogram<T: PointValue>(&mut self, histogram: &ExponentialHistogram<T>) {
        self.owner.kind = "histogram";
        for point in histogram.data_points() {
            let labels = self.labels(point.attributes());
            let summary = (point.count() as u64, point.sum(), point.min(), point.max());
            self.summary(&labels, histogram.temporality(), summary);
        }
    }

    fn summary<T: PointValue>(
        &mut self,
        labels: &Labels,
        temporality: Temporality,
        (count, sum, min, max): (u64, T, Option<T>, Option<T>),
    ) {
        let merge = MergeRule::of(temporality, MergeRule::Sum);
        self.emit(labels, Some("count"), count as f64, merge);
        // Finite values may have an infinite sum.
        self.emit(labels, Some("sum"), finite(sum.to_f64()), merge);
        for (part, value, delta) in [("min", min, MergeRule::Min), ("max", max, MergeRule::Max)] {
            if let Some(value) = value {
                self.emit(labels, Some(part), value.to_f64(), MergeRule::of(temporality, delta));
            }
        }
    }

    fn labels<'a>(&self, attributes: impl Iterator<Item = &'a KeyValue>) -> Labels {
        let own = attributes.map(|it| (it.key.to_string(), it.value.to_string()));
        self.common.iter().cloned().chain(own).collect()
    }

    fn emit(&mut self, labels: &Labels, part: Option<&str>, value: f64, merge: MergeRule) {
        let InstrumentId { name, .. } = &self.owner;
        let parts = self.naming.prefix.as_deref().into_iter().chain([name.as_str()]).chain(part);
        let full = parts.collect::<Vec<_>>().join(".");
        let key = match Key::with_labels(full, labels) {
            Ok(key) => key,
            Err(error) => {
                self.points.invalid_names.push(InvalidName { metric: name.clone(), error });
                return;
            }
        };
        let value = Value { value, merge, owner: self.owner.clone() };
        match self.points.values.entry(key) {
            Entry::Vacant(free) => {
                free.insert(value);
            }
            Entry::Occupied(mut taken) => {
                let second = value.owner.clone();
                let first = taken.insert(value).owner;
                self.points.pairs.push(InstrumentConflict {
                    key: taken.key().clone(),
                    first,
                    second,
                });
            }
        }
    }
}

/// The value of a point.
trait PointValue: Copy {
    fn to_f64(self) -> f64;
}

impl PointValue for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

/// Whole numbers beyond 2^53 lose their last digits: the protocol's values are floats.
impl PointValue for u64 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl PointValue for i64 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}

fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}
