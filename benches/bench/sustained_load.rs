//! Shows whether a reporter keeps up: a million samples a second, to a server in the same process.
//!
//! One thread records at that rate, in steps of a millisecond; a second one runs the reporter's task and
//! the client, a third one the server. It fails if a sample is dropped, or not acknowledged in the end.

use std::{
    error::Error,
    future::pending,
    thread,
    time::{Duration, Instant},
};

use metrics_client::{MetricsClient, Reporter, client::Pipelining, reporter::SeriesHandle};
use metrics_server::Server;
use tokio::runtime::{self, Runtime};

use crate::support::mode::Mode;

const KEYS: usize = 1_000;
const STEP: Duration = Duration::from_millis(1);

/// Records for the seconds and at the rate that are given: 10 seconds and a million samples a second by
/// default.
pub(crate) fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let numbers = args.iter().map(|arg| arg.parse()).collect::<Result<Vec<u64>, _>>()?;
    let (seconds, rate) = match (Mode::current(), &numbers[..]) {
        (Mode::Test, _) => (1, 10_000),
        (Mode::Quick, []) => (1, 1_000_000),
        (Mode::Full, []) => (10, 1_000_000),
        (_, [seconds]) => (*seconds, 1_000_000),
        (_, [seconds, rate]) => (*seconds, *rate),
        _ => return Err("usage: sustained-load [SECONDS [RATE]]".into()),
    };

    let serving = runtime(1)?;
    let server = serving.block_on(Server::bind("127.0.0.1:0"))?;
    let address = server.local_addr();
    serving.spawn(server.serve_until(pending::<()>()));

    let sending = runtime(1)?;
    let reporter = sending.block_on(async {
        let client = MetricsClient::builder(address).pipelining(Pipelining::On);
        Ok::<_, metrics_client::Error>(Reporter::new(client.connect().await?))
    })?;
    let handles: Vec<SeriesHandle> = (0..KEYS)
        .map(|host| reporter.series(format!("rack{host:03}.cpu.user")))
        .collect::<Result<_, _>>()?;

    let (most, took) = record(&reporter, &handles, Duration::from_secs(seconds), rate);
    sending.block_on(reporter.close(Duration::from_secs(30)))?;
    let stats = reporter.stats();
    println!(
        "{} samples in {took:.2?}, {:.0} a second: {} acknowledged, {} dropped; at most {most} waited",
        stats.recorded,
        stats.recorded as f64 / took.as_secs_f64(),
        stats.acknowledged,
        stats.dropped.total(),
    );
    if stats.acknowledged == stats.recorded { Ok(()) } else { Err("samples were lost".into()) }
}

/// Records at a rate, however late a step begins; the most that waited after a step, and how long it
/// took in all.
fn record(
    reporter: &Reporter,
    handles: &[SeriesHandle],
    time: Duration,
    rate: u64,
) -> (u64, Duration) {
    let start = Instant::now();
    let (mut recorded, mut most) = (0, 0);
    while start.elapsed() < time {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        while recorded < due {
            let handle = &handles[recorded as usize % handles.len()];
            handle.record((recorded % 900) as f64 / 100.0);
            recorded += 1;
        }
        most = most.max(reporter.stats().waiting);
        thread::sleep(STEP);
    }
    (most, start.elapsed())
}

fn runtime(workers: usize) -> std::io::Result<Runtime> {
    runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}
