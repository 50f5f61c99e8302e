//! The cost of a counter's increment through the `metrics` facade.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use metrics_client::{MetricsClient, Reporter, recorder::MetricsRecorder};

use super::{Candidate, Comparison, Comparisons};

/// How many increments one iteration is.
const INCREMENTS: u64 = 1024;

/// With a handle that is kept, and with the macro, which asks for one each time.
pub(super) fn comparisons() -> Comparisons {
    let runtime = super::runtime(0)?;
    let recorder = {
        let _context = runtime.enter();
        // Nothing is sent: the runtime does not run while the clock does.
        let client =
            MetricsClient::builder("127.0.0.1:1").connect_lazy().expect("the address is valid");
        MetricsRecorder::builder(Reporter::new(client)).start()
    };
    let ours = metrics::with_local_recorder(&recorder, || metrics::counter!("held"));
    let bare = Bare(Arc::default());
    let through = Counter::from_arc(Arc::clone(&bare.0));
    let atomic = AtomicU64::new(0);
    let held = vec![
        Candidate::new("MetricsRecorder", move |iterations| {
            timed(iterations, || ours.increment(1))
        }),
        // At most twice its time: what an increment is, with the facade's own call.
        Candidate::new("facade on an AtomicU64", move |iterations| {
            timed(iterations, || through.increment(1))
        })
        .min_ratio(0.5),
        Candidate::new("AtomicU64::fetch_add", move |iterations| {
            timed(iterations, || _ = atomic.fetch_add(1, Ordering::Relaxed))
        }),
    ];
    let asked = vec![
        Candidate::new("MetricsRecorder", move |iterations| {
            // Kept, for its task and its recorder end with it.
            let _runtime = &runtime;
            metrics::with_local_recorder(&recorder, || {
                timed(iterations, || metrics::counter!("asked").increment(1))
            })
        }),
        // It finds nothing out: there is one counter.
        Candidate::new("facade on an AtomicU64", move |iterations| {
            metrics::with_local_recorder(&bare, || {
                timed(iterations, || metrics::counter!("asked").increment(1))
            })
        }),
    ];
    Ok(vec![
        Comparison { name: "count, handle kept".into(), elements: INCREMENTS, candidates: held },
        Comparison { name: "count, by macro".into(), elements: INCREMENTS, candidates: asked },
    ])
}

fn timed(iterations: u64, increment: impl Fn()) -> Duration {
    let start = Instant::now();
    (0..INCREMENTS * iterations).for_each(|_| increment());
    start.elapsed()
}

/// A recorder that has one counter.
struct Bare(Arc<AtomicU64>);

impl metrics::Recorder for Bare {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(&self.0))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
