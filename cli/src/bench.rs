//! `metrics bench`: how many puts a server acknowledges, and how long each takes.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use metrics_client::MetricsClient;
use serde::Serialize;
use tokio::{task::JoinSet, time};

use crate::{
    connect::{ServerArgs, TimeoutArgs},
    embedded::EmbeddedServer,
    failure::Failure,
    output::{Format, OutputArgs},
    progress, times,
};

/// Measures how many puts a second a server acknowledges. Stores keys that begin with metrics-bench
///
/// Without --server and `METRICS_SERVER` it measures a server of its own, which keeps points in a temporary folder
/// (TMPDIR) and syncs each batch.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Sets how many connections the client has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Sets how many callers put at the same time, each the next when the last is acknowledged
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: u32,
    /// Sets for how many seconds it measures
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    output: OutputArgs,
    /// Sets the server that is measured
    #[arg(long, env = "METRICS_SERVER", value_name = "ADDRESS")]
    server: Option<String>,
    #[command(flatten)]
    timeout: TimeoutArgs,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let report = match &args.server {
            Some(server) => measure(args, server, server.clone()).await?,
            None => {
                let measured = EmbeddedServer::run(async |server| {
                    let name = format!("in this process, in {}", server.dir().display());
                    measure(args, &server.address(), name).await
                });
                measured.await?.0
            }
        };
        report.print(args.output.format())
    })
}

async fn measure(args: &BenchArgs, address: &str, name: String) -> Result<Report, Failure> {
    let server = ServerArgs { server: address.into(), timeout: args.timeout };
    let builder = server.builder()?.max_connections(args.connections.into());
    let client = builder.connect().await.map_err(|error| server.failure(error))?;
    let latencies = Arc::new(Latencies::new());
    let progress = progress::seconds(args.seconds, "measuring");
    let (start, end) = (Instant::now(), Instant::now() + Duration::from_secs(args.seconds));
    let mut callers = JoinSet::new();
    for caller in 0..args.callers {
        callers.spawn(put_until(client.clone(), Arc::clone(&latencies), caller, end));
    }
    let mut ticks = time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            ended = callers.join_next() => match ended {
                Some(ended) => ended
                    .map_err(|error| Failure::usage(format!("a caller has panicked: {error}")))?
                    .map_err(|error| server.failure(error))?,
                None => break,
            },
            _ = ticks.tick() => progress.set_position(start.elapsed().as_secs()),
        }
    }
    let elapsed = start.elapsed();
    progress.finish_and_clear();
    client.close().await.map_err(|error| server.failure(error))?;
    Ok(Report::new(args, name, elapsed, &latencies.merged()))
}

/// Puts one value after the other, and records how long each took.
async fn put_until(
    client: MetricsClient,
    latencies: Arc<Latencies>,
    caller: u32,
    end: Instant,
) -> Result<(), metrics_client::Error> {
    let key = format!("metrics-bench.{caller}");
    let (mut puts, mut timestamp) = (0_u32, times::now());
    let mut start = Instant::now();
    while start < end {
        client.put_at(&key, f64::from(puts), timestamp).await?;
        (puts, timestamp) = (puts.wrapping_add(1), timestamp + 1);
        let now = Instant::now();
        latencies.record(caller, now - start);
        start = now;
    }
    Ok(())
}

/// How long puts took, in microseconds: in as much memory however many they are.
struct Latencies(Vec<Mutex<Histogram<u64>>>);

impl Latencies {
    /// More than there are threads, so that few callers wait for one another.
    const SHARDS: u32 = 16;

    fn new() -> Self {
        Self((0..Self::SHARDS).map(|_| Mutex::new(histogram())).collect())
    }

    fn record(&self, caller: u32, latency: Duration) {
        let micros = latency.as_micros().try_into().unwrap_or(u64::MAX);
        let shard = &self.0[(caller % Self::SHARDS) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    fn merged(&self) -> Histogram<u64> {
        let mut merged = histogram();
        for shard in &self.0 {
            merged += &*shard.lock().unwrap_or_else(PoisonError::into_inner);
        }
        merged
    }
}

/// Returns a histogram of up to an hour in microseconds, to a thousandth.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid")
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    server: String,
    connections: u16,
    callers: u32,
    seconds: f64,
    puts: u64,
    puts_per_second: f64,
    mean_us: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

impl Report {
    fn new(
        args: &BenchArgs,
        server: String,
        elapsed: Duration,
        latencies: &Histogram<u64>,
    ) -> Self {
        let (seconds, puts) = (elapsed.as_secs_f64(), latencies.len());
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        Self {
            server,
            connections: args.connections,
            callers: args.callers,
            seconds: rounded(seconds),
            puts,
            puts_per_second: rounded(puts as f64 / seconds),
            mean_us: rounded(latencies.mean()),
            p50_us: latencies.value_at_quantile(0.5),
            p90_us: latencies.value_at_quantile(0.9),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
        }
    }

    fn print(&self, format: Format) -> Result<(), Failure> {
        let mut out = io::stdout();
        match format {
            Format::Table => self.print_table(&mut out)?,
            Format::Json => {
                serde_json::to_writer(&mut out, self)?;
                writeln!(out)?;
            }
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(&mut out);
                csv.serialize(self)?;
                csv.flush()?;
            }
            Format::Line => {
                let now = times::now();
                for (name, value) in self.numbers() {
                    writeln!(out, "put metrics-bench.{name} {value:?} {now}")?;
                }
            }
        }
        Ok(())
    }

    fn print_table(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { server, connections, callers, .. } = self;
        writeln!(out, "server   {server}")?;
        writeln!(
            out,
            "load     {} on {}",
            counted(*callers, "caller"),
            counted(*connections, "connection")
        )?;
        writeln!(
            out,
            "puts     {} in {:.2} s, {} a second",
            HumanCount(self.puts),
            self.seconds,
            HumanCount(self.puts_per_second as u64)
        )?;
        writeln!(out, "\n{:<8} {:>10}", "latency", "ms")?;
        for (name, micros) in [
            ("mean", self.mean_us),
            ("p50", self.p50_us as f64),
            ("p90", self.p90_us as f64),
            ("p99", self.p99_us as f64),
            ("p99.9", self.p999_us as f64),
            ("max", self.max_us as f64),
        ] {
            writeln!(out, "{name:<8} {:>10.3}", micros / 1000.0)?;
        }
        Ok(())
    }

    fn numbers(&self) -> [(&'static str, f64); 7] {
        [
            ("puts_per_second", self.puts_per_second),
            ("mean_us", self.mean_us),
            ("p50_us", self.p50_us as f64),
            ("p90_us", self.p90_us as f64),
            ("p99_us", self.p99_us as f64),
            ("p999_us", self.p999_us as f64),
            ("max_us", self.max_us as f64),
        ]
    }
}

fn counted(count: impl Into<u64>, what: &str) -> String {
    let count = count.into();
    format!("{} {what}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}
