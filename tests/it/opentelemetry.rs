//! The exporter for OpenTelemetry, on a server in the same process.

use std::time::Duration;

use metrics_client::{
    Metrics, MetricsClient, Reporter, client::Pipelining, opentelemetry::MetricExporter,
};
use metrics_server::Server;
use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider},
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{
        Aggregation, Instrument, PeriodicReader, SdkMeterProvider, Stream, Temporality,
        exporter::PushMetricExporter,
    },
};

use crate::peer::Peer;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60 * 60);

async fn client() -> MetricsClient {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve_until(std::future::pending::<()>()));
    MetricsClient::connect(address).await.unwrap()
}

/// A provider that exports only on demand.
struct ExporterFixture {
    client: MetricsClient,
    reporter: Reporter,
    provider: SdkMeterProvider,
}

async fn world(tell: impl FnOnce(MetricExporter) -> MetricExporter) -> ExporterFixture {
    let client = client().await;
    let reporter = Reporter::new(client.clone());
    let provider = provider(tell(MetricExporter::new(reporter.clone())));
    ExporterFixture { client, reporter, provider }
}

impl ExporterFixture {
    fn meter(&self) -> Meter {
        self.provider.meter("test")
    }

    /// Exports, and brings what is then stored.
    async fn exported(&self) -> Metrics {
        let provider = self.provider.clone();
        // It blocks, so it has a thread of its own.
        tokio::task::spawn_blocking(move || provider.force_flush()).await.unwrap().unwrap();
        self.reporter.flush(LONG).await.unwrap();
        self.client.get_all().await.unwrap()
    }
}

fn provider(exporter: MetricExporter) -> SdkMeterProvider {
    let reader = PeriodicReader::builder(exporter).with_interval(LONG).build();
    let exponential = |instrument: &Instrument| {
        let aggregation = Aggregation::Base2ExponentialHistogram {
            max_size: 160,
            max_scale: 20,
            record_min_max: true,
        };
        let is_meant = instrument.name() == "exponential";
        is_meant.then(|| Stream::builder().with_aggregation(aggregation).build().unwrap())
    };
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "a shop"),
            KeyValue::new("host.name", "palm"),
        ])
        .build();
    SdkMeterProvider::builder()
        .with_reader(reader)
        .with_resource(resource)
        .with_view(exponential)
        .build()
}

#[track_caller]
fn values(metrics: &Metrics, key: &str) -> Vec<f64> {
    metrics.points(key).iter().map(|point| point.value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_and_gauges_are_series_by_attributes() {
    let world = world(|exporter| exporter.prefix("shop").unwrap()).await;
    let meter = world.meter();
    let get = [KeyValue::new("method", "GET"), KeyValue::new("a", "b c;d")];
    meter.u64_counter("requests").build().add(3, &get);
    meter.i64_up_down_counter("open").build().add(-2, &[]);
    meter.f64_gauge("load").build().record(0.5, &[KeyValue::new("core", 1)]);

    let metrics = world.exported().await;
    assert_eq!(values(&metrics, "shop.requests;a=b%20c%3Bd;method=GET"), [3.0]);
    assert_eq!(values(&metrics, "shop.open"), [-2.0]);
    assert_eq!(values(&metrics, "shop.load;core=1"), [0.5]);
    assert_eq!(metrics.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn histogram_exports_its_parts_and_buckets() {
    let world = world(|exporter| exporter).await;
    let meter = world.meter();
    let latency = meter.f64_histogram("latency").with_boundaries(vec![0.5, 10.0]).build();
    [0.25, 0.5, 3.0, 100.0].into_iter().for_each(|value| latency.record(value, &[]));
    let sizes = meter.u64_histogram("exponential").build();
    [1, 1000].into_iter().for_each(|value| sizes.record(value, &[]));

    let metrics = world.exported().await;
    let parts = [("count", 4.0), ("sum", 103.75), ("min", 0.25), ("max", 100.0)];
    for (part, value) in parts {
        assert_eq!(values(&metrics, &format!("latency.{part}")), [value], "{part}");
    }
    for (bound, count) in [("0.5", 2.0), ("10", 3.0), ("+Inf", 4.0)] {
        assert_eq!(values(&metrics, &format!("latency.bucket;le={bound}")), [count], "{bound}");
    }
    let parts = [("count", 2.0), ("sum", 1001.0), ("min", 1.0), ("max", 1000.0)];
    for (part, value) in parts {
        assert_eq!(values(&metrics, &format!("exponential.{part}")), [value], "{part}");
    }
    assert_eq!(metrics.len(), 4 + 3 + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_is_not_replaced_by_the_next_export() {
    let world = world(|exporter| exporter.temporality(Temporality::Delta)).await;
    let requests = world.meter().u64_counter("requests").build();
    for count in [3, 4, 5] {
        requests.add(count, &[]);
        world.exported().await;
    }
    let metrics = world.client.get_all().await.unwrap();
    assert_eq!(values(&metrics, "requests").iter().sum::<f64>(), 12.0);
}

// FAULTS A7
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_after_reporter_close_counts_lost_points() {
    let client = client().await;
    let reporter = Reporter::new(client);
    let exporter = MetricExporter::new(reporter.clone());
    let provider = provider(exporter);
    let meter = provider.meter("test");
    meter.u64_counter("requests").build().add(1, &[]);
    meter.u64_counter("errors").build().add(1, &[]);
    reporter.close(LONG).await.unwrap();
    let (flushed, shut_down) =
        tokio::task::spawn_blocking(move || (provider.force_flush(), provider.shutdown()))
            .await
            .unwrap();
    assert!(flushed.is_err() && shut_down.is_err(), "{flushed:?} {shut_down:?}");
}

// FAULTS A7
#[tokio::test(flavor = "multi_thread")]
async fn flush_after_a_full_queue_counts_lost_points() {
    let (near, _far) = tokio::io::duplex(64);
    let reporter = Reporter::builder(MetricsClient::from_io(near)).capacity(4).start();
    let exporter = MetricExporter::new(reporter.clone()).flush_timeout(Duration::from_millis(10));
    (0..10).for_each(|second| reporter.record_at("a", 1.0, second));
    let lost = reporter.stats().dropped.queue_full;
    assert!(lost > 0);
    let flush = move || (exporter.force_flush(), exporter.force_flush(), exporter.shutdown());
    let (first, second, third) = tokio::task::spawn_blocking(flush).await.unwrap();
    let error = first.unwrap_err().to_string();
    assert!(error.contains(&format!("{lost} points lost")), "{error}");
    // The rest only waits, and has been told of.
    assert!(matches!(second, Err(OTelSdkError::Timeout(_))), "{second:?}");
    assert!(matches!(third, Err(OTelSdkError::Timeout(_))), "{third:?}");
}

// FAULTS A23
#[tokio::test(flavor = "multi_thread")]
async fn attribute_of_a_point_replaces_that_of_the_resource() {
    let world = world(|exporter| exporter.resource_attributes(["service.name"])).await;
    let meter = world.meter();
    let other = [KeyValue::new("service.name", "other")];
    meter.u64_counter("requests").build().add(1, &other);
    let latency = meter.f64_histogram("latency").with_boundaries(vec![0.5]).build();
    latency.record(0.25, &[KeyValue::new("le", "mine")]);
    let metrics = world.exported().await;
    assert_eq!(values(&metrics, "requests;service.name=other"), [1.0]);
    // A bucket's bound is its label `le`.
    assert_eq!(values(&metrics, "latency.bucket;le=0.5;service.name=a%20shop"), [1.0]);
    assert_eq!(values(&metrics, "latency.count;le=mine;service.name=a%20shop"), [1.0]);
    assert!(metrics.keys().all(|key| key.as_str().matches("le=").count() <= 1), "{metrics:?}");
}

// FAULTS A26
#[tokio::test(flavor = "multi_thread")]
async fn labels_of_a_prefix_are_labels_of_all_series() {
    let world = world(|exporter| exporter.prefix("shop;env=prod").unwrap()).await;
    world.meter().u64_counter("requests").build().add(1, &[KeyValue::new("z", "1")]);
    let metrics = world.exported().await;
    assert_eq!(values(&metrics, "shop.requests;env=prod;z=1"), [1.0]);
}

// FAULTS A24
#[tokio::test(flavor = "multi_thread")]
async fn sum_of_a_histogram_saturates() {
    let world = world(|exporter| exporter).await;
    let sizes = world.meter().f64_histogram("size").build();
    sizes.record(f64::MAX, &[]);
    sizes.record(f64::MAX, &[]);
    let metrics = world.exported().await;
    assert_eq!(values(&metrics, "size.sum"), [f64::MAX]);
    assert_eq!(values(&metrics, "size.count"), [2.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_attributes_are_labels_on_request() {
    let world = world(|exporter| exporter.resource_attributes(["service.name"])).await;
    world.meter().u64_counter("requests").build().add(1, &[KeyValue::new("z", "")]);
    let metrics = world.exported().await;
    assert_eq!(values(&metrics, "requests;service.name=a%20shop;z="), [1.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn export_after_shutdown_is_an_error() {
    let client = client().await;
    let exporter = MetricExporter::new(Reporter::new(client.clone()));
    assert!(exporter.force_flush().is_ok());
    assert!(exporter.shutdown().is_ok());
    assert!(matches!(exporter.shutdown(), Err(OTelSdkError::AlreadyShutdown)));
    assert!(matches!(exporter.force_flush(), Err(OTelSdkError::AlreadyShutdown)));
    let export = exporter.export(&Default::default()).await;
    assert!(matches!(export, Err(OTelSdkError::AlreadyShutdown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_without_a_server_times_out() {
    let (near, _far) = tokio::io::duplex(64);
    let client = MetricsClient::from_io(near);
    let limit = Duration::from_millis(50);
    let reporter = Reporter::new(client);
    let exporter = MetricExporter::new(reporter.clone()).flush_timeout(limit);
    reporter.record("a", 1.0);
    assert!(matches!(exporter.force_flush(), Err(OTelSdkError::Timeout(_))));
}

/// Returns what a flush comes to of an exporter whose reporter has a sample that is not sent before, and
/// is then answered so.
///
/// The runtime must be that of the current thread: then the sender, which has told the first flush that
/// it is over, is sure to be in its pause before the second sample is recorded. Beside it, that sample
/// could be sent, and `b` be recorded, before the exporter is flushed at all.
async fn flushed_with_one(answer: &'static str) -> OTelSdkResult {
    // The client cannot dial, so that the flush waits for the reporter's task, however long that takes.
    let (near, far) = tokio::io::duplex(1024);
    let client = MetricsClient::builder("a pipe").pipelining(Pipelining::On).with_io(near);
    let reporter = Reporter::builder(client).linger(LONG).start();
    let mut peer = Peer::on(far);
    // The first one does not wait for more.
    reporter.record_at("first", 1.0, 1);
    peer.answer("put first 1.0 1\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
    reporter.record_at("a", 1.0, 1);
    let other = reporter.clone();
    tokio::spawn(async move {
        peer.expect("put a 1.0 1\n").await;
        // Another reporter records what will never be answered.
        other.record_at("b", 1.0, 1);
        peer.send(answer).await;
        std::future::pending::<()>().await;
    });
    let exporter = MetricExporter::new(reporter).flush_timeout(LONG);
    let (done, flushed) = tokio::sync::oneshot::channel();
    // A thread outside of the runtime, as that of a `PeriodicReader`.
    std::thread::spawn(move || done.send(exporter.force_flush()));
    flushed.await.unwrap()
}

#[tokio::test]
async fn flush_ignores_what_is_recorded_meanwhile() {
    let flushed = flushed_with_one("ok\n\n").await;
    assert!(flushed.is_ok(), "{flushed:?}");
}

#[tokio::test]
async fn flush_reports_rejected_points() {
    let flushed = flushed_with_one("error\nno\n\n").await;
    assert_eq!(
        flushed.unwrap_err().to_string(),
        "Operation failed: 1 points lost: 0 dropped, 1 rejected; 0 queued, 0 spooled"
    );
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread")]
async fn flush_reports_points_left_in_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let (near, _far) = tokio::io::duplex(64);
    let reporter = Reporter::builder(MetricsClient::from_io(near));
    let reporter = reporter.spool(metrics_client::spool::Spool::dir(&folder)).unwrap().start();
    let exporter = MetricExporter::new(reporter.clone()).flush_timeout(Duration::from_millis(50));
    reporter.record_at("a", 1.0, 1);
    let flushed = tokio::task::spawn_blocking(move || exporter.force_flush()).await.unwrap();
    let error = flushed.unwrap_err().to_string();
    assert!(error.ends_with("1 spooled"), "{error}");
    assert_eq!(reporter.stats().spooled, 1);
}
