//! What is exported within one second, and over time, by a wall clock that the test sets.

use ::opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

use super::*;
use crate::reporter::Sink;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60 * 60);

/// When these tests begin, in seconds since the Unix epoch.
const START: u64 = 1_000_000;

/// A provider that exports on demand.
struct ExporterFixture {
    sink: Sink,
    reporter: Reporter,
    provider: SdkMeterProvider,
    /// The wall clock, in milliseconds.
    clock: Arc<AtomicU64>,
}

impl ExporterFixture {
    fn new(tell: impl FnOnce(MetricExporter) -> MetricExporter) -> Self {
        let (sink, client) = Sink::connected();
        let reporter = Reporter::new(client);
        let clock = Arc::new(AtomicU64::new(START * 1000));
        let now = Arc::clone(&clock);
        let mut exporter = tell(MetricExporter::new(reporter.clone()));
        exporter.clock =
            WallClock::from_fn(move || Duration::from_millis(now.load(Ordering::Relaxed)));
        let reader = PeriodicReader::builder(exporter).with_interval(LONG).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        Self { sink, reporter, provider, clock }
    }

    fn meter(&self) -> Meter {
        self.provider.meter("test")
    }

    async fn export(&self) {
        let provider = self.provider.clone();
        tokio::task::spawn_blocking(move || provider.force_flush()).await.unwrap().unwrap();
        self.reporter.flush(LONG).await.unwrap();
    }

    fn pass(&self, milliseconds: u64) {
        self.clock.fetch_add(milliseconds, Ordering::Relaxed);
    }
}

// FAULTS A2
#[tokio::test(flavor = "multi_thread")]
async fn exports_of_one_second_are_merged() {
    for temporality in [Temporality::Delta, Temporality::Cumulative] {
        let world = ExporterFixture::new(|exporter| exporter.temporality(temporality));
        let requests = world.meter().u64_counter("requests").build();
        let open = world.meter().i64_up_down_counter("open").build();
        let load = world.meter().f64_gauge("load").build();
        let sizes = world.meter().f64_histogram("size").with_boundaries(vec![10.5]).build();
        for step in 1..=40_u32 {
            requests.add(1, &[]);
            open.add(1, &[]);
            load.record(f64::from(step), &[]);
            sizes.record(f64::from(step), &[]);
            world.export().await;
            let now = world.clock.load(Ordering::Relaxed) / 1000;
            assert!(world.sink.seconds("requests").iter().all(|&second| second <= now as i64));
            world.pass(100);
        }
        let count = |values: Vec<f64>| match temporality {
            Temporality::Delta => values.iter().sum::<f64>(),
            _ => {
                assert!(values.is_sorted(), "{values:?}");
                *values.last().unwrap()
            }
        };
        for (key, expected) in [
            ("requests", 40.0),
            ("size.count", 40.0),
            ("size.sum", 820.0),
            ("size.bucket;le=10.5", 10.0),
            ("size.bucket;le=+Inf", 40.0),
        ] {
            assert_eq!(world.sink.points(key).len(), 4, "{key}");
            assert_eq!(count(world.sink.values(key)), expected, "{key} {temporality:?}");
        }
        // What goes up and down is never a delta.
        assert_eq!(world.sink.values("open"), [10.0, 20.0, 30.0, 40.0]);
        assert_eq!(world.sink.values("load"), [10.0, 20.0, 30.0, 40.0]);
        assert_eq!(world.sink.values("size.min")[0], 1.0);
        assert_eq!(world.sink.values("size.max"), [10.0, 20.0, 30.0, 40.0]);
    }
}

// FAULTS A2, A6
#[tokio::test(flavor = "multi_thread")]
async fn export_after_clock_set_back_has_the_right_second() {
    let world = ExporterFixture::new(|exporter| exporter);
    let requests = world.meter().u64_counter("requests").build();
    requests.add(1, &[]);
    world.export().await;
    world.clock.fetch_sub(30_000, Ordering::Relaxed);
    world.export().await;
    let start = START as i64;
    assert_eq!(world.sink.seconds("requests"), [start, start - 30]);
}

// FAULTS A9
#[test]
fn instruments_sharing_a_key_are_kept_apart_by_scope() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (is_on, expected) in [(false, 3), (true, 2)] {
            let mut kept = None;
            let world = ExporterFixture::new(|exporter| {
                let exporter = exporter.scope_labels(is_on);
                kept = Some(exporter.clone());
                exporter
            });
            let scope = InstrumentationScope::builder("other").with_version("1.0").build();
            let other = world.provider.meter_with_scope(scope);
            for _ in 0..3 {
                let meter = world.meter();
                // In two scopes.
                meter.u64_counter("jobs").build().add(1, &[KeyValue::new("id", 1)]);
                other.u64_counter("jobs").build().add(2, &[KeyValue::new("id", 1)]);
                // Of two kinds.
                meter.u64_counter("queue").build().add(1, &[]);
                meter.f64_gauge("queue").build().record(1.0, &[]);
                // A part of a histogram.
                meter.f64_histogram("time").build().record(1.0, &[]);
                meter.u64_counter("time.count").build().add(1, &[]);
                world.export().await;
            }
            let exporter = kept.unwrap();
            assert_eq!(locked(&exporter.shared.pairs).len(), expected, "{is_on}");
            if is_on {
                let key = "jobs;id=1;otel.scope.name=other;otel.scope.version=1.0";
                assert_eq!(world.sink.values(key), [6.0]);
                assert_eq!(world.sink.values("jobs;id=1;otel.scope.name=test"), [3.0]);
            }
        }
    });
}

// FAULTS A26
#[tokio::test(flavor = "multi_thread")]
async fn points_without_a_key_are_counted() {
    let mut kept = None;
    let world = ExporterFixture::new(|exporter| {
        kept = Some(exporter.clone());
        exporter
    });
    let long = KeyValue::new("long", "x".repeat(1025));
    world.meter().u64_counter("requests").build().add(1, &[long]);
    world.meter().u64_counter("good").build().add(1, &[]);
    world.export().await;
    world.export().await;
    assert_eq!(kept.unwrap().stats(), MetricExporterStats { exported: 2, invalid_names: 2 });
}
