//! The recorder for the `metrics` facade, on a server in the same process, with paused time.

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge, histogram, with_local_recorder};
use metrics_client::{
    MetricsClient, Reporter,
    client::Pipelining,
    recorder::{MetricsRecorder, RecorderBuilder},
    reporter::ReporterBuilder,
};
use metrics_server::{Limits, MemoryStore, Server, serve_connection};
use tokio::time;

use crate::counting;

/// The interval at which these recorders report.
const INTERVAL: Duration = Duration::from_secs(10);

/// As long as no test should take; with paused time it costs nothing.
const LONG: Duration = Duration::from_secs(60);

/// A recorder, and a look at what the server knows.
struct RecorderFixture {
    recorder: MetricsRecorder,
    client: MetricsClient,
}

impl RecorderFixture {
    fn new(tell: impl FnOnce(RecorderBuilder) -> RecorderBuilder) -> Self {
        Self::with(|reporter| reporter, tell)
    }

    fn with(
        reporter: impl FnOnce(ReporterBuilder) -> ReporterBuilder,
        tell: impl FnOnce(RecorderBuilder) -> RecorderBuilder,
    ) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let store = Arc::new(MemoryStore::new());
        tokio::spawn(serve_connection(far, store, Limits::default()));
        let client = MetricsClient::builder("a pipe").pipelining(Pipelining::On).with_io(near);
        let reporter = reporter(Reporter::builder(client.clone())).start();
        let builder = MetricsRecorder::builder(reporter).interval(INTERVAL).unwrap();
        Self { recorder: tell(builder).start(), client }
    }

    fn run<T>(&self, program: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.recorder, program)
    }

    /// Waits for `intervals` intervals.
    async fn pass(&self, intervals: u32) {
        time::sleep(INTERVAL * intervals).await;
        // What is reported at the end of the last one arrives.
        time::sleep(Duration::from_millis(100)).await;
    }

    async fn values(&self, key: &str) -> Vec<f64> {
        let metrics = self.client.get(key).await.unwrap();
        metrics.points(key).iter().map(|point| point.value).collect()
    }

    async fn keys(&self) -> Vec<String> {
        let metrics = self.client.get_all().await.unwrap();
        let mut keys: Vec<_> = metrics.keys().map(ToString::to_string).collect();
        keys.sort();
        keys
    }
}

async fn reports(world: &RecorderFixture, count: u32) {
    for _ in 0..count {
        world.recorder.flush(LONG).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn absolute_counter_never_goes_back() {
    let world = RecorderFixture::new(|builder| builder);
    world.run(|| counter!("jobs").absolute(7));
    world.run(|| counter!("jobs").absolute(5));
    reports(&world, 1).await;
    assert_eq!(world.values("jobs").await, [7.0]);
}

#[tokio::test(start_paused = true)]
async fn labels_and_prefix_are_in_the_key() {
    let world =
        RecorderFixture::new(|builder| builder.prefix("shop").unwrap().quantiles([]).unwrap());
    world.run(|| {
        counter!("hits", "route" => "/a b", "method" => "GET").increment(1);
        counter!("hits", "method" => "GET", "route" => "/a b").increment(1);
        histogram!("time", "n" => "1").record(1.0);
    });
    reports(&world, 1).await;
    let expected =
        ["shop.hits;method=GET;route=/a%20b", "shop.time.count;n=1", "shop.time.sum;n=1"];
    assert_eq!(world.keys().await, expected);
}

#[tokio::test(start_paused = true)]
async fn max_series_is_never_exceeded() {
    let world = RecorderFixture::new(|builder| builder.max_series(2));
    world.run(|| {
        (0..10).for_each(|id| counter!("jobs", "id" => id.to_string()).increment(1));
        gauge!("queue").set(1.0);
        histogram!("time").record(1.0);
        counter!("jobs", "id" => "1").increment(1);
    });
    reports(&world, 1).await;
    assert_eq!(world.keys().await, ["jobs;id=0", "jobs;id=1"]);
    assert_eq!(world.values("jobs;id=1").await, [2.0]);
    let stats = world.recorder.stats();
    assert_eq!((stats.series, stats.refused), (2, 10));
}

#[tokio::test(start_paused = true)]
async fn unreportable_values_are_counted() {
    let world = RecorderFixture::new(|builder| builder);
    world.run(|| {
        counter!("x".repeat(1025)).increment(1);
        histogram!("time").record(f64::NAN);
        histogram!("time").record_many(f64::INFINITY, 2);
        histogram!("time").record(1.0);
        counter!("good").increment(1);
    });
    reports(&world, 1).await;
    let stats = world.recorder.stats();
    assert_eq!((stats.series, stats.invalid_names, stats.not_finite), (3, 1, 3));
    assert_eq!(world.values("time.count").await, [1.0]);
    assert_eq!(world.values("good").await, [1.0]);
}

#[tokio::test(start_paused = true)]
async fn invalid_quantiles_are_rejected() {
    let (near, _far) = tokio::io::duplex(64);
    let builder = MetricsRecorder::builder(Reporter::new(MetricsClient::from_io(near)));
    let error = builder.quantiles([0.5, 99.0]).unwrap_err();
    assert_eq!(error.to_string(), "invalid quantile 99: must be between 0 and 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_updates_are_counted_as_series_change() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve_until(std::future::pending::<()>()));
    let client = MetricsClient::connect(address).await.unwrap();
    // Whatever has no update between two reports is forgotten at once.
    let recorder =
        MetricsRecorder::builder(Reporter::new(client)).idle_timeout(Duration::ZERO).start();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let recorder = recorder.clone();
            std::thread::spawn(move || {
                let count = |_| {
                    with_local_recorder(&recorder, || counter!("jobs").increment(1));
                };
                (0..20_000).for_each(count);
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        recorder.flush(LONG).await.unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    recorder.flush(LONG).await.unwrap();
    recorder.flush(LONG).await.unwrap();
    assert_eq!(recorder.stats().series, 0);
}

#[test]
fn guard_reports_on_drop_on_a_runtime_thread() {
    // The server has a runtime of its own, for the drop holds the other one up.
    let servers = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = servers.block_on(Server::bind("127.0.0.1:0")).unwrap();
    let address = server.local_addr();
    servers.spawn(server.serve_until(std::future::pending::<()>()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = MetricsClient::connect(address).await.unwrap();
        let recorder = MetricsRecorder::builder(Reporter::new(client.clone())).start();
        let guard = recorder.flush_on_drop(LONG);
        with_local_recorder(&recorder, || counter!("jobs").increment(3));
        drop(guard);
        let found = client.get("jobs").await.unwrap();
        assert_eq!(found.latest("jobs").unwrap().value, 3.0);
    });
    servers.shutdown_background();
}

// FAULTS A1
#[tokio::test(flavor = "multi_thread")]
async fn log_layer_may_record_a_series_without_a_key() {
    let world = RecorderFixture::new(|builder| builder);
    let recorder = world.recorder.clone();
    let lines = counting::counted(&world.recorder, move || {
        with_local_recorder(&recorder, || {
            for id in 0..32 {
                let long = format!("{}{id}", "x".repeat(1025));
                counter!(long.clone()).increment(1);
                gauge!(long.clone()).set(1.0);
                histogram!(long).record(1.0);
            }
        });
    });
    assert!(!lines.with("invalid key; series is not reported").is_empty());
    assert_eq!(world.recorder.stats().invalid_names, 96);
}

// FAULTS A1
#[tokio::test(flavor = "multi_thread")]
async fn log_layer_may_record_into_a_full_queue() {
    let world = RecorderFixture::with(|reporter| reporter.capacity(1), |builder| builder);
    let recorder = world.recorder.clone();
    let lines = counting::counted(&world.recorder, move || {
        with_local_recorder(&recorder, || {
            for id in 0..32 {
                counter!("jobs", "id" => id.to_string()).increment(1);
                gauge!("queue", "id" => id.to_string()).set(1.0);
                gauge!("infinite", "id" => id.to_string()).set(f64::INFINITY);
                histogram!("time", "id" => id.to_string()).record(1.0);
            }
        });
        // The first reports when it is dropped.
        drop(recorder.flush_on_drop(Duration::ZERO));
    });
    assert!(!lines.with("queue full, dropping samples").is_empty());
    assert!(!lines.with("invalid sample dropped").is_empty());
}

// FAULTS A1
#[tokio::test(flavor = "multi_thread")]
async fn log_layer_may_reach_max_series() {
    let world = RecorderFixture::new(|builder| builder.max_series(2));
    let recorder = world.recorder.clone();
    let lines = counting::counted(&world.recorder, move || {
        with_local_recorder(&recorder, || {
            (0..8).for_each(|id| counter!("jobs", "id" => id.to_string()).increment(1));
        });
    });
    assert_eq!(lines.with("limit of series").len(), 1);
}

// FAULTS A10
#[tokio::test(start_paused = true)]
async fn histogram_records_many_equal_values_at_once() {
    let world = RecorderFixture::new(|builder| builder);
    let sizes = world.run(|| histogram!("size"));
    // One by one, these would take years.
    sizes.record_many(1.0, 1 << 60);
    sizes.record_many(3.0, (1 << 60) + 5);
    sizes.record_many(4.0, 0);
    reports(&world, 1).await;
    let count = (1_u64 << 61) as f64;
    assert_eq!(world.values("size.count").await, [count]);
    assert_eq!(world.values("size.sum").await, [2.0 * count]);
    assert_eq!(world.values("size.min").await, [1.0]);
    assert_eq!(world.values("size.max").await, [3.0]);
    sizes.record_many(1.0, usize::MAX);
    sizes.record_many(1.0, usize::MAX);
}

// FAULTS A15
#[tokio::test(start_paused = true)]
async fn quantiles_are_nearest_rank() {
    let world = RecorderFixture::new(|builder| builder);
    let latency = world.run(|| histogram!("latency"));
    (1..=99).for_each(|_| latency.record(1.0));
    latency.record(1000.0);
    reports(&world, 1).await;
    assert_eq!(world.values("latency.min").await, [1.0]);
    assert_eq!(world.values("latency.max").await, [1000.0]);
    // The 99th of 100.
    assert!(world.values("latency.p99").await[0] < 1.02);

    let latency = world.run(|| histogram!("few"));
    (1..=49).for_each(|_| latency.record(1.0));
    latency.record(1000.0);
    reports(&world, 1).await;
    // The last of 50: the smallest value that 99 % are not greater than.
    assert_eq!(world.values("few.p99").await, [1000.0]);
    assert!(world.values("few.p50").await[0] < 1.02);
}

// FAULTS A24
#[tokio::test(start_paused = true)]
async fn histogram_of_the_greatest_values_saturates() {
    let world = RecorderFixture::new(|builder| builder);
    let sizes = world.run(|| histogram!("size"));
    sizes.record(f64::MAX);
    sizes.record_many(f64::MAX, 3);
    sizes.record(-1.0);
    let lowest = world.run(|| histogram!("lowest"));
    lowest.record_many(f64::MIN, 2);
    reports(&world, 1).await;
    for part in ["sum", "p50", "p99", "max"] {
        assert_eq!(world.values(&format!("size.{part}")).await, [f64::MAX], "{part}");
        assert_eq!(world.values(&format!("lowest.{part}")).await, [f64::MIN], "{part}");
    }
}

// FAULTS A14
#[tokio::test(start_paused = true)]
async fn handle_beyond_max_series_works_once_there_is_room() {
    let world = RecorderFixture::new(|builder| builder.max_series(1).idle_timeout(3 * INTERVAL));
    world.run(|| counter!("first").increment(1));
    let (jobs, queue, time) = world.run(|| (counter!("jobs"), gauge!("queue"), histogram!("time")));
    jobs.increment(2);
    queue.increment(7.0);
    queue.decrement(3.0);
    time.record(1.0);
    world.pass(2).await;
    assert_eq!(world.keys().await, ["first"]);
    assert_eq!(world.recorder.stats().refused, 3);

    // The first one is idle, and forgotten.
    world.pass(6).await;
    assert_eq!(world.recorder.stats().series, 0);
    jobs.increment(3);
    reports(&world, 1).await;
    assert_eq!(world.values("jobs").await.last(), Some(&5.0));
    drop(jobs);
    world.pass(8).await;
    queue.increment(1.0);
    reports(&world, 1).await;
    assert_eq!(world.values("queue").await.last(), Some(&5.0));
}

// FAULTS A11
#[tokio::test(start_paused = true)]
async fn nonzero_gauge_is_kept() {
    let world = RecorderFixture::new(|builder| builder.idle_timeout(3 * INTERVAL));
    world.run(|| gauge!("open").increment(1.0));
    world.run(|| gauge!("closed").increment(1.0));
    world.run(|| gauge!("closed").decrement(1.0));
    world.pass(10).await;
    assert_eq!(world.recorder.stats().series, 1);
    world.run(|| gauge!("open").decrement(1.0));
    reports(&world, 1).await;
    assert_eq!(world.values("open").await.last(), Some(&0.0));
}

// FAULTS A9
#[tokio::test(start_paused = true)]
async fn two_metrics_with_one_key_are_logged_once() {
    let world = RecorderFixture::new(|builder| builder);
    let ((), lines) = counting::logged(|| {
        world.run(|| {
            for id in 0..10 {
                counter!("jobs", "id" => id.to_string()).increment(1);
                gauge!("jobs", "id" => id.to_string()).set(1.0);
                counter!("time.count", "id" => id.to_string()).increment(1);
                histogram!("time", "id" => id.to_string()).record(1.0);
            }
        });
    });
    let lines = lines.with("two metrics have the same key");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("jobs") && lines[1].contains("time.count"), "{lines:?}");
}

// FAULTS A26
#[tokio::test(start_paused = true)]
async fn labels_of_a_prefix_are_labels_of_all_series() {
    let world = RecorderFixture::new(|builder| builder.prefix("shop;env=prod").unwrap());
    world.run(|| counter!("hits", "method" => "GET").increment(1));
    reports(&world, 1).await;
    assert_eq!(world.keys().await, ["shop.hits;env=prod;method=GET"]);
}

// FAULTS A26
#[test]
fn recorder_without_its_runtime_is_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let recorder = runtime.block_on(async {
        let (near, _far) = tokio::io::duplex(64);
        MetricsRecorder::builder(Reporter::new(MetricsClient::from_io(near))).start()
    });
    with_local_recorder(&recorder, || counter!("jobs").increment(1));
    let ((), lines) = counting::logged(|| drop(runtime));
    assert_eq!(lines.with("recorder stopped with its runtime").len(), 1);
}
