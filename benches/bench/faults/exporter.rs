//! The OpenTelemetry exporter: A2, A7, A9, A23.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use opentelemetry::{InstrumentationScope, KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider, Temporality},
};

use super::{
    Outcome,
    support::{
        Lines, MetricExporter, Reporter, SECOND, ended, lazy, memory, runtime, scope_labels,
    },
};

/// A provider that exports so often.
fn provider(exporter: MetricExporter, interval: Duration) -> SdkMeterProvider {
    let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
    let name = KeyValue::new("service.name", "shop");
    let resource = Resource::builder_empty().with_attributes([name]).build();
    SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build()
}

pub(super) fn exports_within_a_second() -> Outcome {
    const EVENTS: u32 = 1000;
    let runtime = runtime()?;
    let _on = runtime.enter();
    let client = lazy(memory()?)?;
    let exporter = MetricExporter::new(Reporter::new(client.clone()));
    let provider = provider(exporter.temporality(Temporality::Delta), SECOND / 10);
    let requests = provider.meter("test").u64_counter("requests").build();
    for _ in 0..EVENTS {
        requests.add(1, &[]);
        thread::sleep(Duration::from_millis(4));
    }
    provider.shutdown()?;
    let found = runtime.block_on(client.get("requests"))?;
    let points = found.points("requests");
    let stored: f64 = points.iter().map(|point| point.value).sum();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() as i64;
    let ahead = points.iter().map(|point| point.timestamp - now).max().unwrap_or(0).max(0);
    Ok(format!("{stored} of {EVENTS} increments stored, stamps up to {ahead} s ahead"))
}

pub(super) fn shutdown_after_the_reporter() -> Outcome {
    let runtime = runtime()?;
    let _on = runtime.enter();
    let reporter = Reporter::new(lazy(memory()?)?);
    let provider = provider(MetricExporter::new(reporter.clone()), 60 * SECOND);
    provider.meter("test").u64_counter("requests").build().add(1, &[]);
    runtime.block_on(reporter.close(SECOND))?;
    Ok(format!("shutdown: {}", ended(&provider.shutdown())))
}

pub(super) fn names_in_two_scopes() -> Outcome {
    let lines = Lines::start();
    let runtime = runtime()?;
    let _on = runtime.enter();
    let mut outcomes = Vec::new();
    for by_scope in [false, true] {
        let client = lazy(memory()?)?;
        let reporter = Reporter::new(client.clone());
        let exporter = MetricExporter::new(reporter.clone());
        let exporter = if by_scope { scope_labels(exporter) } else { exporter };
        let provider = provider(exporter, 60 * SECOND);
        for (scope, jobs) in [("one", 1), ("two", 2)] {
            let scope = InstrumentationScope::builder(scope).build();
            provider.meter_with_scope(scope).u64_counter("jobs").build().add(jobs, &[]);
        }
        provider.force_flush()?;
        runtime.block_on(reporter.flush(5 * SECOND))?;
        let found = runtime.block_on(client.get_all())?;
        let found = found
            .keys()
            .filter_map(|key| Some(format!("{key} {}", found.latest(key.as_str())?.value)));
        let option = if by_scope { "by scope" } else { "default" };
        outcomes.push(format!("{option}: {}", found.collect::<Vec<_>>().join(" and ")));
    }
    Ok(format!("{}; {} warnings", outcomes.join("; "), lines.with("WARN")))
}

pub(super) fn attributes_of_one_name() -> Outcome {
    let runtime = runtime()?;
    let _on = runtime.enter();
    let client = lazy(memory()?)?;
    let reporter = Reporter::new(client.clone());
    let exporter = MetricExporter::new(reporter.clone()).resource_attributes(["service.name"]);
    let provider = provider(exporter, 60 * SECOND);
    let meter = provider.meter("test");
    let other = [KeyValue::new("service.name", "other")];
    meter.u64_counter("requests").build().add(1, &other);
    provider.force_flush()?;
    runtime.block_on(reporter.flush(5 * SECOND))?;
    let found = runtime.block_on(client.get_all())?;
    Ok(found.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}
