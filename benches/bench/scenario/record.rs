//! The cost of `Reporter::record` for its caller.

use std::{
    error::Error,
    rc::Rc,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use metrics_client::{Reporter, reporter::SeriesHandle};
use tokio::runtime::Runtime;

use super::{Candidate, Comparison, Comparisons};
use crate::{
    baseline::cadence::Cadence,
    support::{
        server_process::{Behavior, ServerProcess},
        values,
    },
};

/// How often each thread records in one iteration.
const RECORDS_BY_THREAD: u64 = 1024;

/// The number of records that are sent before the clock continues: no queue comes near its bound, and
/// no candidate leaves work behind for the round of another.
const RECORDS_AT_ONCE: u64 = 256 * 1024;

/// One thread alone, and eight at once, each with a key of its own.
pub(super) fn comparisons() -> Comparisons {
    // A record may take at most 1.5 times as long as cadence's.
    [(1, 1.0 / 1.5), (8, 1.0)]
        .into_iter()
        .map(|(threads, min_ratio)| comparison(threads, min_ratio))
        .collect()
}

fn comparison(threads: usize, min_ratio: f64) -> Result<Comparison, Box<dyn Error>> {
    let keys: Rc<[_]> = (0..threads).map(|thread| format!("palm{thread}.cpu")).collect();
    let sending = Rc::new(Sending::new()?);
    let handles: Vec<SeriesHandle> =
        keys.iter().map(|key| sending.reporter.series(key)).collect::<Result<_, _>>()?;
    let cadence = Cadence::new()?;
    let candidates = vec![
        Candidate::new("Reporter::record", {
            let (keys, sending) = (Rc::clone(&keys), Rc::clone(&sending));
            move |iterations| {
                let (keys, reporter) = (&*keys, &sending.reporter);
                let record = |thread: usize, value| reporter.record(&keys[thread], value);
                timed(threads, iterations, &record, || sending.drain())
            }
        }),
        Candidate::new("cadence", move |iterations| {
            let keys = &*keys;
            let record = |thread: usize, value| cadence.record(&keys[thread], value);
            timed(threads, iterations, &record, || cadence.drain())
        })
        .min_ratio(min_ratio),
        Candidate::new("SeriesHandle::record", move |iterations| {
            let record = |thread: usize, value| handles[thread].record(value);
            timed(threads, iterations, &record, || sending.drain())
        }),
    ];
    let name = format!("record by {threads} {}", if threads == 1 { "thread" } else { "threads" });
    Ok(Comparison { name, elements: RECORDS_BY_THREAD * threads as u64, candidates })
}

/// Measures how long `threads` threads take for `iterations` iterations each.
fn timed(
    threads: usize,
    iterations: u64,
    record: &(impl Fn(usize, f64) + Sync),
    drain: impl Fn(),
) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = iterations * RECORDS_BY_THREAD;
    while left > 0 {
        let records = left.min(RECORDS_AT_ONCE / threads as u64);
        left -= records;
        time += if threads == 1 {
            let start = Instant::now();
            record_often(records, |value| record(0, value));
            start.elapsed()
        } else {
            together(threads, |thread| record_often(records, |value| record(thread, value)))
        };
        drain();
    }
    time
}

fn record_often(records: u64, record: impl Fn(f64)) {
    for number in 0..records {
        record(values::reading(number));
    }
}

/// Measures how long all threads take for `work`: from the first one's beginning to the last one's
/// end, by their own clocks, for this thread may be kept waiting by them.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let (ready, work) = (&Barrier::new(threads), &work);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    ready.wait();
                    let start = Instant::now();
                    work(thread);
                    (start, Instant::now())
                })
            })
            .collect();
        let times: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().expect("recording does not panic"))
            .collect();
        let first = times.iter().map(|&(start, _)| start).min();
        let last = times.iter().map(|&(_, end)| end).max();
        first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
    })
}

/// A reporter whose task has a thread of its own, as cadence's has.
struct Sending {
    reporter: Reporter,
    runtime: Rc<Runtime>,
    _peer: ServerProcess,
}

impl Sending {
    fn new() -> Result<Self, Box<dyn Error>> {
        let (runtime, peer) = (super::runtime(1)?, ServerProcess::start(Behavior::Acknowledge)?);
        let reporter = runtime.block_on(async {
            let client = super::connect(peer.addr()).await?;
            let reporter = Reporter::builder(client)
                .capacity(2 * RECORDS_AT_ONCE as usize)
                .max_bytes(1024 * 1024 * 1024);
            Ok::<_, metrics_client::Error>(reporter.start())
        })?;
        Ok(Self { reporter, runtime, _peer: peer })
    }

    /// Waits until everything is sent.
    fn drain(&self) {
        let flushed = self.runtime.block_on(self.reporter.flush(Duration::from_secs(60)));
        flushed.expect("the peer acknowledges");
        assert_eq!(self.reporter.stats().dropped.total(), 0);
    }
}
