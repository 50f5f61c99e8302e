//! What is reported over time: paused time, and a wall clock that the test sets.

use std::sync::Mutex;

use metrics::{counter, gauge, histogram, with_local_recorder};
use tokio::time::{Instant, advance};

use super::*;
use crate::reporter::{Sink, WallClock};

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(10);

/// With paused time it costs nothing.
const LONG: Duration = Duration::from_secs(60);

/// When these tests begin, in seconds since the Unix epoch.
const START: i64 = 1_000_000;

/// A wall clock that goes as Tokio's does, from what it was set to.
#[derive(Clone)]
struct Wall(Arc<Mutex<(Instant, Duration)>>);

impl Wall {
    fn starting() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), Duration::from_secs(START as u64)))))
    }

    fn now(&self) -> Duration {
        let (at, time) = *self.0.lock().unwrap();
        time + at.elapsed()
    }

    fn set(&self, time: Duration) {
        *self.0.lock().unwrap() = (Instant::now(), time);
    }
}

struct RecorderFixture {
    recorder: MetricsRecorder,
    sink: Sink,
    wall: Wall,
}

impl RecorderFixture {
    fn new(tell: impl FnOnce(RecorderBuilder) -> RecorderBuilder) -> Self {
        let (sink, client) = Sink::connected();
        let wall = Wall::starting();
        let clock = wall.clone();
        let builder = MetricsRecorder::builder(Reporter::new(client)).interval(INTERVAL).unwrap();
        let builder = builder.clock(WallClock::from_fn(move || clock.now()));
        Self { recorder: tell(builder).start(), sink, wall }
    }

    fn run<T>(&self, program: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.recorder, program)
    }

    async fn flush(&self) {
        self.recorder.flush(LONG).await.unwrap();
    }

    /// Advances the clocks by this many intervals.
    async fn pass(&self, intervals: u32) {
        time::sleep(INTERVAL * intervals).await;
        self.settle().await;
    }

    /// What has been reported arrives.
    async fn settle(&self) {
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// One report only for what the test flushes.
fn by_hand(builder: RecorderBuilder) -> RecorderBuilder {
    builder.interval(100_000 * SECOND).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_interval_is_reported_by_itself() {
    let world = RecorderFixture::new(|builder| builder);
    world.run(|| counter!("jobs").increment(2));
    world.pass(1).await;
    world.run(|| counter!("jobs").increment(3));
    world.pass(1).await;
    assert_eq!(world.sink.points("jobs"), [(START + 10, 2.0), (START + 20, 5.0)]);
}

// FAULTS A2
#[tokio::test(start_paused = true)]
async fn reports_of_one_second_are_merged() {
    for counters in [CounterMode::Cumulative, CounterMode::Rate] {
        let world = RecorderFixture::new(|builder| {
            builder.interval(SECOND).unwrap().counter_mode(counters).quantiles([0.0, 1.0]).unwrap()
        });
        for step in 1..=200 {
            world.run(|| {
                counter!("jobs").increment(1);
                gauge!("step").set(f64::from(step));
                histogram!("size").record(f64::from(step));
            });
            world.flush().await;
            let now = whole(world.wall.now());
            assert!(world.sink.seconds("jobs").iter().all(|&second| second <= now));
            advance(Duration::from_millis(17)).await;
        }
        world.flush().await;
        // 3.4 seconds, and the whole ones have a report by themselves.
        for key in ["jobs", "step", "size.count", "size.sum", "size.max"] {
            assert!(world.sink.seconds(key).is_sorted(), "{key}");
        }
        let jobs = world.sink.values("jobs");
        match counters {
            CounterMode::Cumulative => {
                assert!(jobs.is_sorted() && jobs.ends_with(&[200.0]), "{jobs:?}");
            }
            CounterMode::Rate => {
                assert!((jobs.iter().sum::<f64>() - 200.0).abs() < 0.1, "{jobs:?}");
            }
        }
        assert_eq!(world.sink.values("size.count").iter().sum::<f64>(), 200.0);
        assert_eq!(world.sink.values("size.sum").iter().sum::<f64>(), 20_100.0);
        assert_eq!(world.sink.values("size.min")[0], 1.0);
        assert_eq!(world.sink.values("size.max").last(), Some(&200.0));
        assert_eq!(world.sink.values("step").last(), Some(&200.0));
    }
}

// FAULTS A6
#[tokio::test(start_paused = true)]
async fn stamps_are_right_an_interval_after_clock_set_back() {
    let world = RecorderFixture::new(|builder| builder.interval(SECOND).unwrap());
    world.run(|| gauge!("load").set(1.0));
    time::sleep(3 * SECOND).await;
    world.settle().await;
    assert_eq!(world.sink.seconds("load"), [1, 2, 3].map(|at| START + at));

    world.wall.set(world.wall.now() - 30 * SECOND);
    time::sleep(4 * SECOND).await;
    world.settle().await;
    let seconds = world.sink.seconds("load");
    let after: Vec<_> = seconds[3..].to_vec();
    // The first of them may come at once, as the second of its report is not over yet.
    assert_eq!(after.last(), Some(&whole(world.wall.now())));
    assert!(after.is_sorted() && after[0] <= START - 26, "{seconds:?}");
    assert!(after.len() >= 4, "{seconds:?}");
}

// FAULTS A6
#[tokio::test(start_paused = true)]
async fn clock_that_is_set_forward_costs_nothing() {
    let world = RecorderFixture::new(|builder| builder);
    world.run(|| counter!("jobs").increment(1));
    world.pass(1).await;
    world.wall.set(world.wall.now() + 1000 * SECOND);
    world.run(|| histogram!("size").record(1.0));
    world.pass(2).await;
    assert_eq!(world.sink.values("size.count"), [1.0, 0.0]);
    assert_eq!(world.sink.seconds("jobs").last(), Some(&whole(world.wall.now())));
}

// FAULTS A22
#[tokio::test(start_paused = true)]
async fn each_second_has_its_point_also_under_load() {
    let world = RecorderFixture::new(|builder| builder.interval(SECOND).unwrap());
    advance(Duration::from_millis(300)).await;
    world.run(|| counter!("jobs").increment(1));
    // The runtime stands still for up to 0.9 seconds at a time, which are no parts of a second.
    for step in 0..1000 {
        advance(Duration::from_millis([70, 410, 230, 890, 130][step % 5])).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    world.settle().await;
    let seconds: Vec<_> = world.sink.points("jobs").into_iter().map(|(second, _)| second).collect();
    let whole_seconds = i64::try_from(seconds.len()).unwrap();
    assert!(whole_seconds >= 345, "{whole_seconds}");
    assert_eq!(seconds, (START + 1..=START + whole_seconds).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn counter_is_a_total_or_a_rate() {
    // Thirty, none, and ten, in ten seconds each.
    let reported =
        [(CounterMode::Cumulative, [30.0, 30.0, 40.0]), (CounterMode::Rate, [3.0, 0.0, 1.0])];
    for (counters, expected) in reported {
        let world = RecorderFixture::new(|builder| builder.counter_mode(counters));
        for count in [30, 0, 10] {
            world.run(|| counter!("jobs").increment(count));
            world.pass(1).await;
        }
        assert_eq!(world.sink.values("jobs"), expected);
    }
}

// FAULTS A13
#[tokio::test(start_paused = true)]
async fn rate_is_over_the_interval() {
    let world = RecorderFixture::new(|builder| builder.counter_mode(CounterMode::Rate));
    world.run(|| counter!("jobs").increment(0));
    world.pass(1).await;
    world.run(|| counter!("jobs").increment(20));
    time::sleep(5 * SECOND).await;
    world.flush().await;
    advance(Duration::from_millis(1)).await;
    world.run(|| counter!("jobs").increment(1));
    world.flush().await;
    world.pass(1).await;
    let rates = world.sink.values("jobs");
    // An event a millisecond before a flush is a tenth of one a second.
    assert_eq!(rates, [0.0, 2.1, 0.0]);
    // A report that comes after the runtime has stood still is over what has passed: 35.1 seconds.
    world.run(|| counter!("jobs").increment(351));
    advance(3 * INTERVAL).await;
    world.settle().await;
    let rate = *world.sink.values("jobs").last().unwrap();
    assert!((9.9..=10.1).contains(&rate), "{rate}");
}

// FAULTS A13
#[tokio::test(start_paused = true)]
async fn first_absolute_value_is_no_increase() {
    let world = RecorderFixture::new(|builder| builder.counter_mode(CounterMode::Rate));
    let bytes = world.run(|| counter!("bytes"));
    bytes.absolute(5_000_000_000_000);
    world.pass(1).await;
    bytes.absolute(5_000_000_000_030);
    world.pass(1).await;
    assert_eq!(world.sink.values("bytes"), [0.0, 3.0]);
    // One that was 0 when it was first seen has been counted up.
    let jobs = world.run(|| counter!("jobs"));
    jobs.absolute(0);
    jobs.absolute(50);
    world.pass(1).await;
    assert_eq!(world.sink.values("jobs"), [5.0]);

    // It is reported, however soon a series is idle.
    let world = RecorderFixture::new(|builder| builder.idle_timeout(SECOND));
    world.run(|| counter!("bytes").absolute(5_000_000_000_000));
    world.pass(1).await;
    assert_eq!(world.sink.values("bytes"), [5e12]);
}

#[tokio::test(start_paused = true)]
async fn gauge_is_reported_from_its_first_value_on() {
    let world = RecorderFixture::new(|builder| builder);
    let queue = world.run(|| gauge!("queue"));
    world.pass(1).await;
    assert!(world.sink.values("queue").is_empty());
    queue.set(4.0);
    queue.increment(3.0);
    queue.decrement(1.5);
    world.pass(2).await;
    assert_eq!(world.sink.values("queue"), [5.5, 5.5]);
}

#[tokio::test(start_paused = true)]
async fn histogram_covers_samples_since_the_last_report() {
    let world = RecorderFixture::new(|builder| builder);
    let latency = world.run(|| histogram!("latency"));
    (1..=1000).for_each(|value| latency.record(f64::from(value)));
    world.pass(1).await;
    latency.record_many(8.0, 5);
    world.pass(2).await;
    assert_eq!(world.sink.values("latency.count"), [1000.0, 5.0, 0.0]);
    assert_eq!(world.sink.values("latency.sum"), [500_500.0, 40.0, 0.0]);
    for (key, exact) in [("min", 1.0), ("p50", 500.0), ("p99", 990.0), ("max", 1000.0)] {
        let values = world.sink.values(&format!("latency.{key}"));
        assert_eq!(values.len(), 2, "an empty interval has no {key}");
        assert!((values[0] / exact - 1.0).abs() < 0.011, "{key}: {values:?}");
        assert_eq!(values[1], 8.0, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_series_is_forgotten_unless_a_handle_is_held() {
    let world = RecorderFixture::new(|builder| builder.idle_timeout(3 * INTERVAL));
    let held = world.run(|| counter!("held"));
    let also_held = world.run(|| (gauge!("held.gauge"), histogram!("held.histogram")));
    held.increment(1);
    also_held.0.set(0.0);
    also_held.1.record(1.0);
    world.run(|| {
        counter!("loose").increment(1);
        gauge!("loose.gauge").set(0.0);
        histogram!("loose.histogram").record(1.0);
    });
    assert_eq!(world.recorder.stats().series, 6);
    world.pass(8).await;
    assert_eq!(world.recorder.stats().series, 3);
    let reported = world.sink.values("held").len();
    world.pass(4).await;
    for idle in ["held", "held.gauge", "held.histogram.count", "loose"] {
        assert_eq!(world.sink.values(idle).len(), reported, "{idle} is reported, and idle");
    }

    held.increment(1);
    world.run(|| counter!("loose").increment(1));
    world.flush().await;
    assert_eq!(world.sink.values("held").last(), Some(&2.0));
    assert_eq!(world.sink.values("loose").last(), Some(&1.0));
}

#[tokio::test(start_paused = true)]
async fn gauge_that_is_set_to_the_same_value_is_not_idle() {
    let world = RecorderFixture::new(|builder| {
        builder.idle_timeout(3 * INTERVAL).gauge_idle_timeout(3 * INTERVAL)
    });
    for _ in 0..10 {
        world.run(|| gauge!("queue").set(1.0));
        world.pass(1).await;
    }
    assert_eq!(world.recorder.stats().series, 1);
    assert_eq!(world.sink.values("queue").len(), 10);
}

// FAULTS A11
#[tokio::test(start_paused = true)]
async fn gauge_that_is_not_zero_is_reported_for_ever() {
    let world = RecorderFixture::new(|builder| builder.idle_timeout(3 * INTERVAL));
    world.run(|| gauge!("open").increment(2.0));
    world.pass(20).await;
    assert_eq!(world.sink.values("open"), [2.0; 20]);
    world.run(|| gauge!("open").decrement(2.0));
    world.pass(10).await;
    assert_eq!(world.recorder.stats().series, 0);
    let values = world.sink.values("open");
    assert_eq!((values[20], values.len()), (0.0, 24));

    let world = RecorderFixture::new(|builder| builder.gauge_idle_timeout(3 * INTERVAL));
    world.run(|| gauge!("temperature").set(2.0));
    world.pass(8).await;
    assert_eq!(world.recorder.stats().series, 0);
}

// FAULTS A7
#[tokio::test(start_paused = true)]
async fn flush_of_a_report_that_is_dropped_says_so() {
    let world = RecorderFixture::new(by_hand);
    world.run(|| {
        counter!("jobs").increment(1);
        gauge!("queue").set(1.0);
    });
    world.recorder.registry.reporter().close(LONG).await.unwrap();
    let unsent = world.recorder.flush(LONG).await.unwrap_err();
    assert_eq!((unsent.dropped, unsent.waiting, unsent.rejected), (2, 0, 0));

    let (sink, client) = Sink::connected();
    let reporter = Reporter::builder(client).capacity(3).start();
    let recorder = MetricsRecorder::builder(reporter).start();
    with_local_recorder(&recorder, || {
        (0..10).for_each(|id| counter!("jobs", "id" => id.to_string()).increment(1));
    });
    let unsent = recorder.flush(LONG).await.unwrap_err();
    let stored = (0..10).filter(|id| !sink.values(&format!("jobs;id={id}")).is_empty()).count();
    assert_eq!((unsent.dropped, stored), (7, 3));
}

// FAULTS A26
#[tokio::test(start_paused = true)]
async fn interval_of_less_than_a_second_is_refused() {
    let (_, client) = Sink::connected();
    let error = MetricsRecorder::builder(Reporter::new(client)).interval(SECOND / 10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid interval 100ms: must be at least 1s, since a server stores one value per second"
    );
}

#[tokio::test(start_paused = true)]
async fn global_labels_give_way_to_those_of_a_metric() {
    let world = RecorderFixture::new(|builder| {
        let builder = builder.prefix("shop;env=test;zone=a").unwrap();
        by_hand(builder).global_label("env", "prod").global_label("host", "a b")
    });
    world.run(|| {
        counter!("hits").increment(1);
        counter!("hits", "host" => "mine", "method" => "GET").increment(2);
    });
    world.flush().await;
    assert_eq!(world.sink.values("shop.hits;env=prod;host=a%20b;zone=a"), [1.0]);
    assert_eq!(world.sink.values("shop.hits;env=prod;host=mine;method=GET;zone=a"), [2.0]);
}

fn whole(time: Duration) -> i64 {
    crate::reporter::whole_seconds(time)
}
