//! The recorder for the `metrics` facade, on a server in the same process, with paused time.

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge, histogram, with_local_recorder};
use metrics_client::{
    MetricsClient, Pipelining, Reporter,
    recorder::{Counters, Recorder, RecorderBuilder},
};
use metrics_server::{Limits, MemoryStore, Server, serve_connection};
use tokio::time;

/// The interval at which these recorders report.
const INTERVAL: Duration = Duration::from_secs(10);

/// As long as no test should take; with paused time it costs nothing.
const LONG: Duration = Duration::from_secs(60);

/// A recorder, and a look at what the server knows.
struct World {
    recorder: Recorder,
    client: MetricsClient,
}

impl World {
    fn new(tell: impl FnOnce(RecorderBuilder) -> RecorderBuilder) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let store = Arc::new(MemoryStore::new());
        tokio::spawn(serve_connection(far, store, Limits::default()));
        let client = MetricsClient::builder("a pipe").pipelining(Pipelining::On).with_io(near);
        let builder = Recorder::builder(Reporter::new(client.clone())).interval(INTERVAL);
        Self { recorder: tell(builder).build(), client }
    }

    fn run<T>(&self, program: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.recorder, program)
    }

    /// Lets so many intervals pass.
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

async fn reports(world: &World, count: u32) {
    for _ in 0..count {
        world.recorder.flush(LONG).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_interval_is_reported_by_itself() {
    let world = World::new(|builder| builder);
    world.run(|| counter!("jobs").increment(2));
    world.pass(1).await;
    assert_eq!(world.values("jobs").await.first(), Some(&2.0));
    world.run(|| counter!("jobs").increment(3));
    world.pass(1).await;
    let values = world.values("jobs").await;
    assert_eq!(values.last(), Some(&5.0), "{values:?}");
    assert!(values.is_sorted(), "{values:?}");
}

#[tokio::test(start_paused = true)]
async fn reports_within_one_second_do_not_replace_each_other() {
    let world = World::new(|builder| builder);
    for _ in 0..5 {
        world.run(|| histogram!("size").record(7.0));
        reports(&world, 1).await;
    }
    assert_eq!(world.values("size.count").await, [1.0; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_counter_is_a_total_or_a_rate() {
    // Thirty in five seconds, none in five, ten in five.
    let reported = [(Counters::Totals, [30.0, 30.0, 40.0]), (Counters::Rates, [6.0, 0.0, 2.0])];
    for (counters, expected) in reported {
        // Nothing is reported but what the test flushes.
        let world = World::new(|builder| builder.counters(counters).interval(1000 * INTERVAL));
        for count in [30, 0, 10] {
            world.run(|| counter!("jobs").increment(count));
            time::sleep(INTERVAL / 2).await;
            reports(&world, 1).await;
        }
        let values = world.values("jobs").await;
        let is_near = |(value, expected): (&f64, &f64)| (value - expected).abs() < 0.1;
        assert!(values.iter().zip(&expected).all(is_near) && values.len() == 3, "{values:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_absolute_counter_never_goes_back() {
    let world = World::new(|builder| builder);
    world.run(|| counter!("jobs").absolute(7));
    world.run(|| counter!("jobs").absolute(5));
    reports(&world, 1).await;
    assert_eq!(world.values("jobs").await, [7.0]);
}

#[tokio::test(start_paused = true)]
async fn a_gauge_is_reported_from_its_first_value_on() {
    let world = World::new(|builder| builder);
    let queue = world.run(|| gauge!("queue"));
    reports(&world, 1).await;
    assert!(world.values("queue").await.is_empty());
    queue.set(4.0);
    queue.increment(3.0);
    queue.decrement(1.5);
    reports(&world, 2).await;
    assert_eq!(world.values("queue").await, [5.5, 5.5]);
}

#[tokio::test(start_paused = true)]
async fn a_histogram_is_what_was_recorded_since_the_last_report() {
    let world = World::new(|builder| builder.quantiles([0.0, 0.5, 0.99, 1.0]).unwrap());
    let latency = world.run(|| histogram!("latency"));
    (1..=1000).for_each(|value| latency.record(f64::from(value)));
    reports(&world, 1).await;
    latency.record_many(8.0, 5);
    reports(&world, 1).await;
    reports(&world, 1).await;
    assert_eq!(world.values("latency.count").await, [1000.0, 5.0, 0.0]);
    assert_eq!(world.values("latency.sum").await, [500_500.0, 40.0, 0.0]);
    for (key, exact) in [("min", 1.0), ("p50", 500.0), ("p99", 990.0), ("max", 1000.0)] {
        let values = world.values(&format!("latency.{key}")).await;
        assert_eq!(values.len(), 2, "an empty interval has no {key}");
        assert!((values[0] / exact - 1.0).abs() < 0.011, "{key}: {values:?}");
        assert!((values[1] / 8.0 - 1.0).abs() < 0.011, "{key}: {values:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn labels_and_prefix_are_in_the_key() {
    let world = World::new(|builder| builder.prefix("shop").unwrap().quantiles([]).unwrap());
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
async fn an_idle_series_is_forgotten_and_one_that_is_held_goes_on() {
    let world = World::new(|builder| builder.idle_timeout(3 * INTERVAL));
    let held = world.run(|| counter!("held"));
    let also_held = world.run(|| (gauge!("held.gauge"), histogram!("held.histogram")));
    held.increment(1);
    also_held.0.set(1.0);
    also_held.1.record(1.0);
    world.run(|| {
        counter!("loose").increment(1);
        gauge!("loose.gauge").set(1.0);
        histogram!("loose.histogram").record(1.0);
    });
    assert_eq!(world.recorder.stats().series, 6);
    world.pass(8).await;
    assert_eq!(world.recorder.stats().series, 3);
    let reported = world.values("held").await.len();
    world.pass(4).await;
    for idle in ["held", "held.gauge", "held.histogram.count", "loose"] {
        assert_eq!(world.values(idle).await.len(), reported, "{idle} is reported, and idle");
    }

    held.increment(1);
    world.run(|| counter!("loose").increment(1));
    reports(&world, 1).await;
    assert_eq!(world.values("held").await.last(), Some(&2.0));
    assert_eq!(world.values("loose").await.last(), Some(&1.0));
}

#[tokio::test(start_paused = true)]
async fn a_gauge_that_is_set_to_the_same_value_is_not_idle() {
    let world = World::new(|builder| builder.idle_timeout(3 * INTERVAL));
    for _ in 0..10 {
        world.run(|| gauge!("queue").set(1.0));
        world.pass(1).await;
    }
    assert_eq!(world.recorder.stats().series, 1);
    assert!(world.values("queue").await.len() >= 10);
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_series_than_may_be() {
    let world = World::new(|builder| builder.max_series(2));
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
async fn what_cannot_be_reported_is_counted() {
    let world = World::new(|builder| builder);
    world.run(|| {
        counter!("x".repeat(1025)).increment(1);
        histogram!("time").record(f64::NAN);
        histogram!("time").record_many(f64::INFINITY, 2);
        histogram!("time").record(1.0);
        counter!("good").increment(1);
    });
    reports(&world, 1).await;
    let stats = world.recorder.stats();
    assert_eq!((stats.series, stats.unnamed, stats.not_finite), (3, 1, 3));
    assert_eq!(world.values("time.count").await, [1.0]);
    assert_eq!(world.values("good").await, [1.0]);
}

#[tokio::test(start_paused = true)]
async fn quantiles_that_are_none_are_refused() {
    let (near, _far) = tokio::io::duplex(64);
    let builder = Recorder::builder(Reporter::new(MetricsClient::from_io(near)));
    let error = builder.quantiles([0.5, 99.0]).unwrap_err();
    assert_eq!(error.to_string(), "99 is no quantile: these lie between 0 and 1, such as 0.99");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_from_many_threads_are_all_counted_while_series_come_and_go() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve_until(std::future::pending::<()>()));
    let client = MetricsClient::connect(address).await.unwrap();
    // Whatever has no update between two reports is forgotten at once.
    let recorder = Recorder::builder(Reporter::new(client)).idle_timeout(Duration::ZERO).build();
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
fn a_guard_reports_when_it_is_dropped_also_on_the_thread_of_the_runtime() {
    // The server has a runtime of its own, for the drop holds the other one up.
    let servers = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = servers.block_on(Server::bind("127.0.0.1:0")).unwrap();
    let address = server.local_addr();
    servers.spawn(server.serve_until(std::future::pending::<()>()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = MetricsClient::connect(address).await.unwrap();
        let recorder = Recorder::builder(Reporter::new(client.clone())).build();
        let guard = recorder.guard(LONG);
        with_local_recorder(&recorder, || counter!("jobs").increment(3));
        drop(guard);
        let found = client.get("jobs").await.unwrap();
        assert_eq!(found.latest("jobs").unwrap().value, 3.0);
    });
    servers.shutdown_background();
}
