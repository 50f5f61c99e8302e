//! The recorder: A1, A10, A11, A13 to A15, A22, A24, A26.

use std::{
    thread,
    time::{Duration, Instant},
};

use metrics::{counter, gauge, histogram, with_local_recorder};
use tokio::{runtime::Builder, time::sleep};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    util::SubscriberInitExt,
};

use super::{
    Outcome,
    support::{
        Failure, Lines, MetricsClient, MetricsRecorder, Reporter, SECOND, by_rate, lazy, memory,
        nowhere, recorder, runtime, short_interval, start,
    },
};

/// Counts log events as metrics.
struct CountEvents;

impl<S: Subscriber> Layer<S> for CountEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("metrics_client") {
            counter!("log.events", "level" => event.metadata().level().as_str()).increment(1);
        }
    }
}

pub(super) fn log_layer_that_counts() -> Outcome {
    const ROUNDS: usize = 16;
    tracing_subscriber::registry().with(CountEvents).init();
    let runtime = runtime()?;
    let rounds = (0..ROUNDS).map(|round| {
        let recorder = {
            let _on = runtime.enter();
            start(recorder(Reporter::new(lazy(nowhere())?))?)
        };
        Ok(thread::spawn(move || {
            with_local_recorder(&recorder, || {
                // A key has at most 1,024 bytes.
                counter!(format!("{}{round}", "x".repeat(1025))).increment(1);
            });
        }))
    });
    let rounds: Vec<_> = rounds.collect::<Result<_, Failure>>()?;
    thread::sleep(2 * SECOND);
    let hanging = rounds.iter().filter(|round| !round.is_finished()).count();
    println!("{hanging} of {ROUNDS} threads hang");
    // Those threads never end.
    std::process::exit(0)
}

pub(super) fn many_equal_values() -> Outcome {
    runtime()?.block_on(async {
        let recorder = start(recorder(Reporter::new(lazy(nowhere())?))?);
        let sizes = with_local_recorder(&recorder, || histogram!("size"));
        let begin = Instant::now();
        sizes.record_many(1.0, 100_000_000);
        Ok(format!("{:?}", begin.elapsed()))
    })
}

/// The latest value of a key, as text.
async fn latest(client: &MetricsClient, key: &str) -> Result<String, Failure> {
    let found = client.get_all().await?;
    let point = found.latest(key);
    Ok(point.map_or("nothing".into(), |point| format!("{}", point.value)))
}

pub(super) fn gauge_that_is_idle() -> Outcome {
    runtime()?.block_on(async {
        let client = lazy(memory()?)?;
        let builder = recorder(Reporter::new(client.clone()))?;
        let recorder = start(builder.idle_timeout(2 * SECOND));
        let open = |change| {
            with_local_recorder(&recorder, || gauge!("open").increment(change));
        };
        open(1.0);
        sleep(6 * SECOND).await;
        open(-1.0);
        let _ = recorder.flush(5 * SECOND).await;
        Ok(format!("reported as {} after +1, a pause and -1", latest(&client, "open").await?))
    })
}

pub(super) fn rates() -> Outcome {
    runtime()?.block_on(async {
        let client = lazy(memory()?)?;
        let recorder = start(by_rate(recorder(Reporter::new(client.clone()))?));
        with_local_recorder(&recorder, || counter!("bytes").absolute(5_000_000_000_000));
        recorder.flush(5 * SECOND).await?;
        let first = client.get("bytes").await?.points("bytes")[0].value;
        let events = with_local_recorder(&recorder, || counter!("events"));
        let mut highest = 0.0_f64;
        for _ in 0..3 {
            sleep(SECOND + SECOND / 10).await;
            recorder.flush(5 * SECOND).await?;
            sleep(Duration::from_millis(1)).await;
            events.increment(1);
            recorder.flush(5 * SECOND).await?;
            let values = client.get("events").await?;
            let values = values.points("events").iter().map(|point| point.value);
            highest = values.fold(highest, f64::max);
        }
        Ok(format!(
            "first value 5e12: {first:e} a second; an event 1 ms before the flush: {highest:.1} a second"
        ))
    })
}

pub(super) fn handle_beyond_max_series() -> Outcome {
    runtime()?.block_on(async {
        let client = lazy(memory()?)?;
        let builder = recorder(Reporter::new(client.clone()))?;
        let recorder = start(builder.max_series(1).idle_timeout(2 * SECOND));
        with_local_recorder(&recorder, || counter!("first").increment(1));
        let jobs = with_local_recorder(&recorder, || counter!("jobs"));
        jobs.increment(2);
        sleep(6 * SECOND).await;
        jobs.increment(3);
        let _ = recorder.flush(5 * SECOND).await;
        Ok(format!("5 counted, {} reported", latest(&client, "jobs").await?))
    })
}

pub(super) fn slowest_of_fifty() -> Outcome {
    runtime()?.block_on(async {
        let client = lazy(memory()?)?;
        let recorder = start(recorder(Reporter::new(client.clone()))?);
        let latency = with_local_recorder(&recorder, || histogram!("latency"));
        (1..50).for_each(|_| latency.record(1.0));
        latency.record(1000.0);
        recorder.flush(5 * SECOND).await?;
        let (p99, max) = (latest(&client, "latency.p99"), latest(&client, "latency.max"));
        Ok(format!("p99 {}, max {}", p99.await?, max.await?))
    })
}

pub(super) fn seconds_under_load() -> Outcome {
    const TIME: Duration = Duration::from_secs(75);
    let addr = memory()?;
    // One thread, busy for more than half of the time.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = lazy(addr)?;
        let recorder = start(recorder(Reporter::new(client.clone()))?);
        let jobs = with_local_recorder(&recorder, || counter!("jobs"));
        let begin = Instant::now();
        while begin.elapsed() < TIME {
            jobs.increment(1);
            let work = Instant::now();
            while work.elapsed() < Duration::from_millis(25) {}
            sleep(Duration::from_millis(10)).await;
        }
        sleep(2 * SECOND).await;
        let found = client.get("jobs").await?;
        let points = found.points("jobs");
        let seconds = points[points.len() - 1].timestamp - points[0].timestamp + 1;
        let missing = seconds - points.len() as i64;
        Ok(format!("{missing} of {seconds} seconds have no point"))
    })
}

pub(super) fn greatest_values() -> Outcome {
    runtime()?.block_on(async {
        let client = lazy(memory()?)?;
        let recorder = start(recorder(Reporter::new(client.clone()))?);
        let sizes = with_local_recorder(&recorder, || histogram!("size"));
        sizes.record(f64::MAX);
        sizes.record(f64::MAX);
        let _ = recorder.flush(5 * SECOND).await;
        let found = client.get_all().await?;
        let parts: Vec<_> = found
            .keys()
            .map(|key| {
                let value = found.latest(key.as_str()).map_or(f64::NAN, |point| point.value);
                format!("{key} {value:e}")
            })
            .collect();
        Ok(parts.join(", "))
    })
}

pub(super) fn settings() -> Outcome {
    let lines = Lines::start();
    let addr = memory()?;
    let runtime = runtime()?;
    let (key, recorder) = runtime.block_on(async {
        let client = lazy(addr)?;
        let builder = recorder(Reporter::new(client.clone()))?.prefix("shop;env=prod")?;
        let recorder: MetricsRecorder = start(builder);
        with_local_recorder(&recorder, || counter!("hits", "method" => "GET").increment(1));
        recorder.flush(5 * SECOND).await?;
        let found = client.get_all().await?;
        let key = found.keys().next().map(ToString::to_string);
        Ok::<_, Failure>((key.unwrap_or_default(), recorder))
    })?;
    let short = runtime.block_on(async { short_interval() })?;
    with_local_recorder(&recorder, || counter!("hits").increment(1));
    drop(runtime);
    let told = lines.with("recorder stopped with its runtime");
    Ok(format!(
        "prefix `shop;env=prod`: {key}; interval of 100 ms: {short}; runtime gone: {told} lines"
    ))
}
